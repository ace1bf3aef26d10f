//! Errors as problem documents (RFC 9457), with the codes that Flight has.

use axum::body::Body;
use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use volley_common::error::code_name;
use volley_common::server::http::identity::{CHALLENGE, http_status};
use volley_common::{Code, Error};

/// The media type of problem documents.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// When a client should ask again that a member cannot serve now, milliseconds.
const RETRY_UNAVAILABLE_MS: u64 = 1000;

/// The reply to a request that failed. Its document is written by the layer that knows the request's id.
#[derive(Clone, Debug)]
pub struct Problem {
    error: Error,
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem whose status is not that of its code: HTTP has one of its own.
    pub fn with_status(status: StatusCode, error: Error) -> Self {
        Problem { error, status, headers: Vec::new() }
    }

    /// The same, with a header more.
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// A method that the path does not have. `allowed`: those that it has.
    pub fn method_not_allowed(allowed: &str) -> Self {
        let text = format!("this path has no such method: it has {allowed}");
        let problem = Problem::with_status(StatusCode::METHOD_NOT_ALLOWED, Error::invalid(text));
        match HeaderValue::from_str(allowed) {
            Ok(allowed) => problem.with_header(ALLOW, allowed),
            Err(_) => problem,
        }
    }

    /// The response of the request with this id.
    pub(crate) fn into_document(self, request_id: &str) -> Response {
        let Problem { error, status, headers } = self;
        let mut document = json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or("Error"),
            "status": status.as_u16(),
            "detail": error.message,
            "code": code_name(error.code),
            "request_id": request_id,
        });
        if let Some(ms) = error.retry_after_ms {
            document["retry_after_ms"] = ms.into();
        }
        let mut response = Response::new(Body::from(format!("{document}\n")));
        *response.status_mut() = status;
        let map = response.headers_mut();
        map.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        map.extend(headers);
        // Also if the member that does not answer says no time.
        let unavailable = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_UNAVAILABLE_MS);
        if let Some(ms) = error.retry_after_ms.or(unavailable) {
            map.insert(RETRY_AFTER, ms.div_ceil(1000).max(1).into());
        }
        if status == StatusCode::UNAUTHORIZED {
            map.insert(WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
        }
        response
    }

    /// The status of the response.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// What failed.
    pub fn error(&self) -> &Error {
        &self.error
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let status = match error.code {
            // A refusal that waiting does not help with is no "too many requests".
            Code::ResourceExhausted if error.retry_after_ms.is_none() => StatusCode::INSUFFICIENT_STORAGE,
            code => http_status(code),
        };
        Problem::with_status(status, error)
    }
}

impl From<tonic::Status> for Problem {
    fn from(status: tonic::Status) -> Self {
        Error::from(status).into()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::Value;

    use super::*;

    async fn document(problem: Problem) -> (StatusCode, axum::http::HeaderMap, Value) {
        let (head, body) = problem.into_document("r-1").into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (head.status, head.headers, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn document_has_code_detail_and_request_id() {
        let (status, headers, document) = document(Error::not_found("no table \"a\"").into()).await;
        assert_eq!((status, &headers[CONTENT_TYPE]), (StatusCode::NOT_FOUND, &HeaderValue::from_static(PROBLEM_JSON)));
        let expected = json!({
            "type": "about:blank", "title": "Not Found", "status": 404,
            "detail": "no table \"a\"", "code": "NOT_FOUND", "request_id": "r-1",
        });
        assert_eq!(document, expected);
    }

    #[tokio::test]
    async fn busy_member_says_when_to_come_back() {
        let (status, headers, busy) = document(Error::exhausted("busy").retry_after(200).into()).await;
        assert_eq!((status, headers[RETRY_AFTER].to_str().unwrap()), (StatusCode::TOO_MANY_REQUESTS, "1"));
        assert_eq!(busy["retry_after_ms"], 200);
        let (status, headers, _) = document(Error::exhausted("quota").into()).await;
        assert_eq!((status, headers.get(RETRY_AFTER)), (StatusCode::INSUFFICIENT_STORAGE, None));
        let (status, headers, _) = document(Error::unavailable("no leader").into()).await;
        assert_eq!((status, headers[RETRY_AFTER].to_str().unwrap()), (StatusCode::SERVICE_UNAVAILABLE, "1"));
    }

    #[tokio::test]
    async fn caller_without_identity_is_challenged() {
        let (status, headers, _) = document(Error::unauthenticated("who are you?").into()).await;
        assert_eq!((status, headers[WWW_AUTHENTICATE].to_str().unwrap()), (StatusCode::UNAUTHORIZED, CHALLENGE));
        let (status, headers, _) = document(Problem::method_not_allowed("GET, HEAD")).await;
        assert_eq!((status, headers[ALLOW].to_str().unwrap()), (StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD"));
    }
}
