//! What the router changes in the headers of forwarded calls.
#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn option_headers_are_removed_from_a_planned_ticket() {
    let mut headers = HeaderMap::new();
    headers.insert("x-volley-limit", HeaderValue::from_static("1"));
    headers.insert("x-other", HeaderValue::from_static("1"));
    headers.insert("content-length", HeaderValue::from_static("9"));
    remove_option_headers(&mut headers);
    assert_eq!(headers.keys().map(|k| k.as_str()).collect::<Vec<_>>(), ["x-other"]);
}
