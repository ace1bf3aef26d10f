//! What every request passes: it gets an id, its response the headers of security, and an error its document.

use axum::extract::Request;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use volley_common::ids::new_request_id;
use volley_common::server::audit::{REQUEST_ID_HEADER, request_id};

use crate::problem::Problem;

/// The longest id that a client may give its request.
const MAX_REQUEST_ID: usize = 128;
/// Headers of each response that has none of its own: nothing of it is run, framed, guessed at or kept by caches without asking.
fn defaults() -> [(HeaderName, &'static str); 5] {
    [
        (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "private, no-cache"),
    ]
}

/// The id of a request: an extension of it.
#[derive(Clone, Debug)]
pub(crate) struct HttpRequestId(pub HeaderValue);

impl HttpRequestId {
    /// The client's, if it can be logged, else a new one.
    fn of(headers: &HeaderMap) -> Self {
        let is_good =
            |id: &&str| (1..=MAX_REQUEST_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
        let given = request_id(headers).filter(is_good).and_then(|id| HeaderValue::from_str(id).ok());
        let new = || HeaderValue::from_str(&new_request_id()).unwrap_or(HeaderValue::from_static("none"));
        HttpRequestId(given.unwrap_or_else(new))
    }

    /// As text.
    pub fn text(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

/// The outermost layer.
pub(crate) async fn complete(mut request: Request, next: Next) -> Response {
    let id = HttpRequestId::of(request.headers());
    request.headers_mut().insert(REQUEST_ID_HEADER, id.0.clone());
    request.extensions_mut().insert(id.clone());
    let path = request.uri().path().to_string();
    let mut response = next.run(request).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let error = problem.error();
        tracing::debug!(path, code = ?error.code, request_id = id.text(), %error, "an HTTP request failed");
        let mut headers = std::mem::take(response.headers_mut());
        headers.remove(CONTENT_LENGTH);
        response = problem.into_document(id.text());
        // Those that other layers added.
        response.headers_mut().extend(headers);
    }
    let headers = response.headers_mut();
    for (name, value) in defaults() {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    headers.insert(HeaderName::from_static(REQUEST_ID_HEADER), id.0);
    response
}
