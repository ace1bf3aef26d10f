//! Bodies on their way through: the client's to the member, the member's to the client.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tonic::Status;

use super::Lease;
use super::pool::chain;
use crate::serve::{Whole, trailers};

/// The body of a request that is handed on.
#[derive(Debug)]
pub enum ReqBody {
    /// As it comes from the client.
    Incoming(Whole<Incoming>),
    /// Bytes at hand; `None` once they are sent.
    Full(Option<Bytes>),
    /// Anything else.
    Tonic(tonic::body::Body),
}

impl From<Incoming> for ReqBody {
    fn from(body: Incoming) -> Self {
        ReqBody::Incoming(Whole(body))
    }
}

impl From<Bytes> for ReqBody {
    fn from(body: Bytes) -> Self {
        ReqBody::Full(Some(body))
    }
}

impl From<tonic::body::Body> for ReqBody {
    fn from(body: tonic::body::Body) -> Self {
        ReqBody::Tonic(body)
    }
}

impl Body for ReqBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            ReqBody::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            ReqBody::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            ReqBody::Tonic(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ReqBody::Incoming(body) => body.is_end_stream(),
            ReqBody::Full(bytes) => bytes.is_none(),
            ReqBody::Tonic(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ReqBody::Incoming(body) => body.size_hint(),
            ReqBody::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            ReqBody::Tonic(body) => body.size_hint(),
        }
    }
}

/// A member's answer as it comes. It always ends as gRPC ends: if the member breaks off, with
/// trailers UNAVAILABLE that name it, so that the client knows to try elsewhere.
#[derive(Debug)]
pub struct Relayed {
    /// `None` once it has ended.
    body: Option<Incoming>,
    member: String,
    /// Whether a gRPC status has been seen, in the headers or in trailers.
    answered: bool,
    _lease: Lease,
}

impl Relayed {
    /// `answered`: the headers already have the status.
    pub(super) fn new(body: Incoming, member: String, answered: bool, lease: Lease) -> Self {
        Relayed { body: Some(body), member, answered, _lease: lease }
    }

    /// The next piece; never an error.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let why = match ready!(Pin::new(body).poll_frame(cx)) {
            Some(Ok(frame)) => {
                if frame.is_trailers() {
                    self.answered = true;
                }
                return Poll::Ready(Some(frame));
            }
            Some(Err(e)) => chain(&e),
            None => "it ended without a status".into(),
        };
        self.body = None;
        if self.answered {
            return Poll::Ready(None);
        }
        let status = Status::unavailable(format!("the answer of the member at {} broke off: {why}", self.member));
        Poll::Ready(Some(Frame::trailers(trailers(&status))))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        match &self.body {
            // A body may end without a status: then trailers are still to come.
            Some(body) => self.answered && body.is_end_stream(),
            None => true,
        }
    }
}
