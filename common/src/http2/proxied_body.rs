//! The response body of another member, passed on to a client.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tonic::{Code, Status};

use super::silence_watch::SilenceWatch;
use super::status::{error_chain, trailers};
use crate::error::is_protocol_violation;

/// One stream's use of a pooled connection: both the connection and the process count it as open until all clones of this
/// are dropped.
#[derive(Clone, Debug)]
pub struct StreamPermit {
    _streams: Arc<()>,
    _open: Arc<OpenStream>,
}

impl StreamPermit {
    /// `streams`: the connection's counter, one clone for each stream in use.
    pub(crate) fn new(streams: &Arc<()>, open: Arc<OpenStream>) -> Self {
        StreamPermit { _streams: streams.clone(), _open: open }
    }
}

/// How many streams to members are open.
#[derive(Clone, Debug, Default)]
pub(crate) struct OpenStreams(Arc<AtomicUsize>);

/// One of them, while it exists.
#[derive(Debug)]
pub(crate) struct OpenStream(OpenStreams);

impl OpenStreams {
    /// Counts a further stream. Returns how many others there were.
    pub fn open(&self) -> (usize, Arc<OpenStream>) {
        (self.0.fetch_add(1, Ordering::Relaxed), Arc::new(OpenStream(self.clone())))
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Another member's response body, passed on as it arrives. It always ends with a gRPC status: if the member's stream
/// breaks, with trailers UNAVAILABLE that name the member, so that the client fails over; INTERNAL if the reply itself was
/// the reason.
#[derive(Debug)]
pub struct ProxiedBody {
    /// `None` once it has ended.
    body: Option<Incoming>,
    /// `HOST:PORT`.
    member: String,
    /// Whether a gRPC status has been seen, in the headers or in trailers.
    has_status: bool,
    /// Polled while the body is waited for.
    silence: SilenceWatch,
    _lease: StreamPermit,
}

impl ProxiedBody {
    /// `has_status`: the response headers hold the gRPC status.
    /// `silence`: completes when the member hangs.
    pub(crate) fn new(
        body: Incoming,
        member: String,
        has_status: bool,
        lease: StreamPermit,
        silence: SilenceWatch,
    ) -> Self {
        ProxiedBody { body: Some(body), member, has_status, silence, _lease: lease }
    }

    /// The next frame; never an error.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let (code, why) = match Pin::new(body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if frame.is_trailers() {
                    self.has_status = true;
                }
                return Poll::Ready(Some(frame));
            }
            // No other member would send a better reply.
            Poll::Ready(Some(Err(e))) if is_protocol_violation(&e) => (Code::Internal, error_chain(&e)),
            Poll::Ready(Some(Err(e))) => (Code::Unavailable, error_chain(&e)),
            Poll::Ready(None) => (Code::Unavailable, "it ended without a status".into()),
            Poll::Pending => (Code::Unavailable, ready!(Pin::new(&mut self.silence).poll(cx)).message),
        };
        self.body = None;
        if self.has_status {
            return Poll::Ready(None);
        }
        let status = Status::new(code, format!("the response of the member at {} was interrupted: {why}", self.member));
        Poll::Ready(Some(Frame::trailers(trailers(&status))))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match &self.body {
            // A body that ended without a status is still followed by trailers.
            Some(body) => self.has_status && body.is_end_stream(),
            None => true,
        }
    }
}
