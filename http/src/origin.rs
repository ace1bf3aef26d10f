//! Which pages of other sites may call, and which calls a browser must not make for a page that may not.
//!
//! Where callers have no credentials to send, in an open cluster, every page that a user of this machine visits could call it. So a
//! change with the `Origin` of another site is refused, unless `http_cors_origins` lists that; and so is a call from this machine
//! that names another host and has no credentials, which a page can make whose host name resolves to this machine ("DNS rebinding").

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, HOST, ORIGIN,
    VARY,
};
use axum::http::uri::Authority;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use volley_common::Error;
use volley_common::options::fields::cut;
use volley_common::server::serve::PeerAddress;
use volley_common::tls::Caller;

use crate::problem::Problem;
use crate::state::HttpState;

/// Methods that scripts of other sites may use.
const METHODS: &str = "GET, HEAD, POST, PUT, OPTIONS";
/// Headers that they may send.
const REQUEST_HEADERS: &str = "accept, authorization, content-type, idempotency-key, if-none-match, if-range, range, traceparent, tracestate, x-request-id";
/// Headers of responses that they may read.
const RESPONSE_HEADERS: &str = "accept-ranges, content-encoding, content-range, etag, link, location, retry-after, x-request-id, x-volley-rows, x-volley-version";
/// How long a browser may remember the answer, seconds.
const MAX_AGE: &str = "600";

/// Answers preflights, refuses what a browser must not do, and adds the headers of CORS.
pub(crate) async fn check(State(state): State<HttpState>, request: Request, next: Next) -> Response {
    let allowed = &state.settings().http_cors_origins;
    let origin = request.headers().get(ORIGIN).cloned();
    let permitted = origin.clone().filter(|origin| is_allowed(allowed, origin));
    let is_preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let refused = refusal(&request, origin.as_ref(), permitted.is_some(), allowed);
    let mut response = match refused {
        _ if is_preflight => preflight(permitted.is_some()),
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    };
    let headers = response.headers_mut();
    if let Some(origin) = permitted {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(RESPONSE_HEADERS));
    }
    if !allowed.is_empty() {
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
    response
}

fn preflight(permitted: bool) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    if permitted {
        for (name, value) in [
            (ACCESS_CONTROL_ALLOW_METHODS, METHODS),
            (ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS),
            (ACCESS_CONTROL_MAX_AGE, MAX_AGE),
        ] {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
    }
    response
}

fn is_allowed(allowed: &[String], origin: &HeaderValue) -> bool {
    allowed.iter().any(|one| one == "*" || one.as_bytes() == origin.as_bytes())
}

/// Why the request is not served.
fn refusal(request: &Request, origin: Option<&HeaderValue>, permitted: bool, allowed: &[String]) -> Option<Problem> {
    let host = host(request);
    let is_change = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if let Some(origin) = origin
        && is_change
        && !permitted
        && !is_same_origin(origin, host)
    {
        let origin = String::from_utf8_lossy(origin.as_bytes());
        return Some(forbidden(format!(
            "a page of {:?} may not change anything here: add its origin to `http_cors_origins`",
            cut(&origin)
        )));
    }
    let is_local = PeerAddress::of(request.extensions()).is_some_and(|peer| peer.ip().is_loopback());
    // TLS has verified the name by which the bearer of a certificate calls.
    let has_certificate = matches!(Caller::of(request.extensions()), Caller::Client(_) | Caller::Member(_));
    let has_credentials = has_certificate || request.headers().contains_key(AUTHORIZATION);
    if is_local && !has_credentials && !host.is_some_and(|host| is_local_host(host) || is_named(allowed, host)) {
        return Some(forbidden(format!(
            "a call from this machine without credentials must name this machine, as 127.0.0.1 or localhost, and this one names {:?}: use one of these, send credentials, or add the origin to `http_cors_origins`",
            cut(host.unwrap_or_default())
        )));
    }
    None
}

fn forbidden(text: String) -> Problem {
    Error::denied(text).into()
}

/// The host, and the port if it is given, that the request names.
fn host(request: &Request) -> Option<&str> {
    match (request.headers().get(HOST), request.uri().authority()) {
        (Some(host), _) => host.to_str().ok(),
        (None, authority) => authority.map(Authority::as_str),
    }
}

fn is_same_origin(origin: &HeaderValue, host: Option<&str>) -> bool {
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    origin.is_some_and(|(_, authority)| host.is_some_and(|host| host.eq_ignore_ascii_case(authority)))
}

fn is_local_host(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost")
}

/// Whether one of the origins has this host.
fn is_named(allowed: &[String], host: &str) -> bool {
    let of_origin = |origin: &String| origin.split_once("://").is_some_and(|(_, of)| of.eq_ignore_ascii_case(host));
    allowed.iter().any(|origin| origin == "*" || of_origin(origin))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use axum::body::Body;
    use volley_common::tls::ClientIdentity;

    use super::*;

    /// Whether a request is refused, of a client on this machine.
    fn refused(method: &str, headers: &[(&str, &str)], allowed: &[&str]) -> bool {
        refused_of(Caller::Anonymous, method, headers, allowed)
    }

    fn refused_of(caller: Caller, method: &str, headers: &[(&str, &str)], allowed: &[&str]) -> bool {
        let mut request = Request::builder().method(method).uri("/api/v1/tables");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::empty()).unwrap();
        request.extensions_mut().insert(PeerAddress("127.0.0.1:5".parse().unwrap()));
        request.extensions_mut().insert(caller);
        let allowed: Vec<String> = allowed.iter().map(|one| one.to_string()).collect();
        let origin = request.headers().get(ORIGIN).cloned();
        let permitted = origin.as_ref().is_some_and(|origin| is_allowed(&allowed, origin));
        refusal(&request, origin.as_ref(), permitted, &allowed).is_some()
    }

    #[test]
    fn page_of_another_site_changes_nothing() {
        let local = ("host", "localhost:8835");
        for (origin, allowed, is_refused) in [
            ("https://evil.example", &[][..], true),
            ("null", &[], true),
            ("https://good.example", &["https://good.example"], false),
            ("https://good.example", &["*"], false),
            ("https://good.example:444", &["https://good.example"], true),
            ("http://localhost:8835", &[], false),
        ] {
            assert_eq!(refused("POST", &[local, ("origin", origin)], allowed), is_refused, "{origin} {allowed:?}");
            assert!(!refused("GET", &[local, ("origin", origin)], allowed));
        }
        assert!(!refused("PUT", &[local], &[]), "curl sends no origin");
    }

    #[test]
    fn local_call_by_another_name_needs_credentials() {
        for (host, is_refused) in [
            ("127.0.0.1:8835", false),
            ("[::1]:8835", false),
            ("LOCALHOST", false),
            ("evil.example:8835", true),
            ("", true),
        ] {
            assert_eq!(refused("GET", &[("host", host)], &[]), is_refused, "{host}");
            assert!(!refused("GET", &[("host", host), ("authorization", "Bearer t")], &[]));
        }
        assert!(!refused("GET", &[("host", "volley.example")], &["https://volley.example"]));
        let client = Arc::new(ClientIdentity { name: "ana".into(), fingerprint: "00".into() });
        assert!(!refused_of(Caller::Client(client), "GET", &[("host", "volley.example:8835")], &[]));
    }
}
