//! What every call passes, on every port: no error is empty or longer than clients accept, a panic ends only its call, and
//! what is not gRPC is refused.

use std::any::Any;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use tonic::{Code, Status};

use super::reply_body::{ReplyBody, grpc_error};
use super::status::{MAX_MESSAGE, shorten};
use crate::telemetry::calls::{CallPort, CallTimer};

/// The encodings that messages of requests may have; a header of every reply.
const ACCEPTED_ENCODINGS: &str = "identity,gzip";
/// Larger details of a status are left out.
const MAX_DETAILS: usize = 4 << 10;

/// Whom a port serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PortKind {
    /// Flight clients.
    #[default]
    Flight,
    /// Other members.
    Peer,
    /// Health and metrics.
    Http,
}

impl PortKind {
    /// Its name in metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            PortKind::Flight => "flight",
            PortKind::Peer => "peer",
            PortKind::Http => "http",
        }
    }

    /// What the port is, which setting it has, and which port a call of another kind wants.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            PortKind::Flight => {
                "this is a Flight port, for clients (--listen); members call a peer port (--peer-listen), and health and metrics have the HTTP port (--http-listen)"
            }
            PortKind::Peer => {
                "this is a peer port, for other members (--peer-listen); clients call a Flight port (--listen)"
            }
            PortKind::Http => {
                "this is an HTTP port, for health and metrics (--http-listen); clients call a Flight port (--listen), and members a peer port (--peer-listen)"
            }
        }
    }
}

/// A call that is being served.
#[derive(Clone, Debug)]
pub(crate) struct ServedCall {
    uri: http::Uri,
    port: PortKind,
}

impl ServedCall {
    pub fn new<B>(request: &Request<B>, port: PortKind) -> Self {
        ServedCall { uri: request.uri().clone(), port }
    }

    /// Measures the call from now on.
    pub fn timer(&self) -> CallTimer {
        let port = match self.port {
            PortKind::Peer => CallPort::Peer,
            // No call of the HTTP port is served in this way.
            PortKind::Flight | PortKind::Http => CallPort::Flight,
        };
        CallTimer::start(port, self.uri.path())
    }

    /// The call's response; INTERNAL after a panic.
    pub async fn run(
        &self,
        call: impl Future<Output = Result<Response<ReplyBody>, Infallible>>,
    ) -> Result<Response<ReplyBody>, Infallible> {
        match AssertUnwindSafe(call).catch_unwind().await {
            Ok(reply) => reply,
            Err(panic) => Ok(grpc_error(self.panicked(&*panic))),
        }
    }

    /// Logs a panic in this call, and returns its status.
    pub fn panicked(&self, panic: &(dyn Any + Send)) -> Status {
        let text = panic_text(panic);
        tracing::error!(method = self.uri.path(), panic = text, "a call panicked");
        Status::internal(format!("{} failed by a bug in Volley: {text}", self.uri.path()))
    }

    /// Completes the headers of a response.
    pub fn finish_headers(&self, headers: &mut HeaderMap) {
        headers.insert("grpc-accept-encoding", HeaderValue::from_static(ACCEPTED_ENCODINGS));
        self.finish_status(headers);
    }

    /// Cuts the message of the status in headers or trailers, and gives one to an error that has none.
    pub fn finish_status(&self, map: &mut HeaderMap) {
        if map.get("grpc-status").is_none_or(|status| status == "0") {
            return;
        }
        let length = map.get("grpc-message").map_or(0, HeaderValue::len);
        if length > MAX_MESSAGE || length == 0 {
            self.replace_message(map);
        }
        if map.get("grpc-status-details-bin").is_some_and(|details| details.len() > MAX_DETAILS) {
            map.remove("grpc-status-details-bin");
        }
    }

    fn replace_message(&self, map: &mut HeaderMap) {
        let Some(status) = Status::from_header_map(map) else { return };
        let text = match (status.message(), status.code()) {
            ("", Code::Unimplemented) => {
                format!("{} is not served on this port: {}", self.uri.path(), self.port.describe())
            }
            ("", code) => format!("{} failed with {code:?}, and no reason was given", self.uri.path()),
            (text, _) => text.to_string(),
        };
        let mut replaced = HeaderMap::new();
        let message = match Status::new(status.code(), shorten(&text)).add_header(&mut replaced) {
            Ok(()) => replaced.remove("grpc-message"),
            Err(_) => None,
        };
        let message = message.unwrap_or(HeaderValue::from_static("the reason cannot be sent in a header"));
        map.insert("grpc-message", message);
    }
}

/// What a panic says.
fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message")
}

/// HTTP 415 for a request that is not gRPC.
pub(crate) fn unless_grpc<B>(request: &Request<B>, port: PortKind) -> Option<Response<ReplyBody>> {
    let content_type = request.headers().get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    if let Some(b"" | [b'+' | b';', ..]) = content_type.strip_prefix(b"application/grpc") {
        return None;
    }
    let text = format!(
        "the content-type {:?} is not application/grpc: {}\n",
        shorten(&String::from_utf8_lossy(content_type)),
        port.describe()
    );
    let mut reply = Response::new(ReplyBody::Tonic(tonic::body::Body::new(Full::from(text))));
    *reply.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Some(reply)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
