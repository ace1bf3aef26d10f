//! What every call passes, on every port: no error is empty or longer than clients accept, a panic ends only its call, and
//! what is not gRPC is refused. A call of a client has a name, with which its error ends, and a context ([`crate::telemetry::trace`]).

use std::any::Any;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use opentelemetry::trace::FutureExt as _;
use opentelemetry::{Context, ContextGuard};
use tonic::{Code, Status};

use super::reply_body::{ReplyBody, grpc_error};
use super::status::{MAX_MESSAGE, shorten};
use crate::Error;
use crate::ids::new_request_id;
use crate::telemetry::calls::{CallPort, CallTimer};
use crate::telemetry::trace::{REQUEST_ID_HEADER, begin_call, request_name};

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
    /// Health, metrics, and tables by HTTP.
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
                "this is a Flight port, for clients (--listen); members call a peer port (--peer-listen), and health, metrics and tables by HTTP have the HTTP port (--http-listen)"
            }
            PortKind::Peer => {
                "this is a peer port, for other members (--peer-listen); clients call a Flight port (--listen)"
            }
            PortKind::Http => {
                "this is an HTTP port, for health, metrics and tables by HTTP (--http-listen); clients call a Flight port (--listen), and members a peer port (--peer-listen)"
            }
        }
    }
}

/// A call that is being served.
#[derive(Clone, Debug)]
pub(crate) struct ServedCall {
    uri: http::Uri,
    port: PortKind,
    /// With what its errors end, if they name the call.
    suffix: Option<Box<str>>,
    context: Context,
}

impl ServedCall {
    /// A call at a port. If the port names its calls, one that has no name gets one, which the request then has.
    pub fn new<B>(request: &mut Request<B>, port: PortKind, names_calls: bool) -> Self {
        let mut suffix = None;
        if names_calls {
            let headers = request.headers_mut();
            if !headers.contains_key(REQUEST_ID_HEADER)
                && let Ok(name) = HeaderValue::from_str(&new_request_id())
            {
                headers.insert(REQUEST_ID_HEADER, name);
            }
            suffix = request_name(headers).map(|name| Error::request_suffix(name).into());
        }
        let context = begin_call(call_port(port), request.uri().path(), request.headers());
        ServedCall { uri: request.uri().clone(), port, suffix, context }
    }

    /// Measures the call from now on.
    pub fn timer(&self) -> CallTimer {
        CallTimer::start(call_port(self.port), self.uri.path(), self.context.clone())
    }

    /// Makes the context of the call the current one of this thread, until the guard is dropped.
    pub fn enter(&self) -> ContextGuard {
        self.context.clone().attach()
    }

    /// The call's response; INTERNAL after a panic.
    pub async fn run(
        &self,
        call: impl Future<Output = Result<Response<ReplyBody>, Infallible>>,
    ) -> Result<Response<ReplyBody>, Infallible> {
        match AssertUnwindSafe(call.with_context(self.context.clone())).catch_unwind().await {
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
        self.name_call(map);
        if map.get("grpc-status-details-bin").is_some_and(|details| details.len() > MAX_DETAILS) {
            map.remove("grpc-status-details-bin");
        }
    }

    /// Ends the message with the name of the call, unless another member did so. Of what it adds only `%` must be encoded.
    fn name_call(&self, map: &mut HeaderMap) {
        let (Some(suffix), Some(message)) = (&self.suffix, map.get("grpc-message")) else { return };
        let suffix = suffix.replace('%', "%25");
        if ends_with_suffix(message.as_bytes(), &suffix) {
            return;
        }
        let named = [message.as_bytes(), suffix.as_bytes()].concat();
        if let Ok(named) = HeaderValue::from_bytes(&named) {
            map.insert("grpc-message", named);
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

fn call_port(port: PortKind) -> CallPort {
    match port {
        PortKind::Peer => CallPort::Peer,
        // No call of the HTTP port is served in this way.
        PortKind::Flight | PortKind::Http => CallPort::Flight,
    }
}

/// Whether a message ends with this text, also with blanks as tonic encodes them.
fn ends_with_suffix(message: &[u8], suffix: &str) -> bool {
    message.ends_with(suffix.as_bytes()) || message.ends_with(suffix.replace(' ', "%20").as_bytes())
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
