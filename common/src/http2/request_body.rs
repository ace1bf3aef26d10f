//! The body of a request that is forwarded to another member.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::complete_body::CompleteBody;

/// The body of a request that is forwarded to another member.
#[derive(Debug)]
pub enum ProxyRequestBody {
    /// The client's stream, as it arrives.
    Incoming(CompleteBody<Incoming>),
    /// Bytes in memory; `None` once they are sent.
    Full(Option<Bytes>),
    /// Any other body.
    Tonic(tonic::body::Body),
}

impl From<Incoming> for ProxyRequestBody {
    fn from(body: Incoming) -> Self {
        ProxyRequestBody::Incoming(CompleteBody(body))
    }
}

impl From<Bytes> for ProxyRequestBody {
    fn from(body: Bytes) -> Self {
        ProxyRequestBody::Full(Some(body))
    }
}

impl From<tonic::body::Body> for ProxyRequestBody {
    fn from(body: tonic::body::Body) -> Self {
        ProxyRequestBody::Tonic(body)
    }
}

impl Body for ProxyRequestBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            ProxyRequestBody::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            ProxyRequestBody::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            ProxyRequestBody::Tonic(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ProxyRequestBody::Incoming(body) => body.is_end_stream(),
            ProxyRequestBody::Full(bytes) => bytes.is_none(),
            ProxyRequestBody::Tonic(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ProxyRequestBody::Incoming(body) => body.size_hint(),
            ProxyRequestBody::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            ProxyRequestBody::Tonic(body) => body.size_hint(),
        }
    }
}
