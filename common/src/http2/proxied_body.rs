//! The response body of another member, passed on to a client.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use metrics::Counter;
use tonic::{Code, Status};

use super::relay_budget::RelayShare;
use super::silence_watch::SilenceWatch;
use super::status::{error_chain, trailers};
use crate::error::is_protocol_violation;
use crate::unsent_bytes::{UnsentBytes, UnsentPart};

/// One stream's use of a pooled connection: the connection counts it as open, and it takes its share of the process's relay
/// memory, until all clones of this are dropped.
#[derive(Clone, Debug)]
pub struct StreamPermit {
    _streams: Arc<()>,
    share: Arc<RelayShare>,
}

impl StreamPermit {
    /// `streams`: the connection's counter, one clone for each stream in use.
    pub(crate) fn new(streams: &Arc<()>, share: Arc<RelayShare>) -> Self {
        StreamPermit { _streams: streams.clone(), share }
    }

    /// No more of the reply should be passed on while this many bytes of it are not sent.
    pub fn max_unsent(&self) -> usize {
        self.share.max_unsent()
    }

    /// Whether there is memory for whole messages of the reply; if not, it should be passed on as it arrives.
    pub fn has_whole_messages(&self) -> bool {
        self.share.has_whole_messages()
    }
}

/// Received bytes that are passed on.
#[derive(Debug)]
pub struct RelayedBytes {
    /// What is left to send.
    pub(super) bytes: Bytes,
    /// Dropped after them.
    _unsent: UnsentPart,
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
    /// What was returned and is not sent.
    unsent: UnsentBytes,
    permit: StreamPermit,
    /// All bytes that this process passes on.
    relayed: Counter,
}

impl ProxiedBody {
    /// `has_status`: the response headers hold the gRPC status.
    /// `silence`: completes when the member hangs.
    pub(crate) fn new(
        body: Incoming,
        member: String,
        has_status: bool,
        permit: StreamPermit,
        silence: SilenceWatch,
    ) -> Self {
        let (unsent, relayed) = (UnsentBytes::default(), metrics::counter!("volley_relayed_bytes_total"));
        ProxiedBody { body: Some(body), member, has_status, silence, unsent, permit, relayed }
    }

    /// The next frame, once enough of the previous ones is sent; never an error.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<RelayedBytes>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        ready!(self.unsent.poll_below(self.permit.max_unsent(), cx));
        let (code, why) = match Pin::new(body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) if !self.has_status && is_without_status(&frame) => {
                (Code::Unavailable, "its trailers have no status".into())
            }
            Poll::Ready(Some(Ok(frame))) => {
                if frame.is_trailers() {
                    self.has_status = true;
                }
                self.relayed.increment(frame.data_ref().map_or(0, Bytes::len) as u64);
                let unsent = &self.unsent;
                return Poll::Ready(Some(
                    frame.map_data(|bytes| RelayedBytes { _unsent: unsent.hold(bytes.len()), bytes }),
                ));
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

fn is_without_status(frame: &Frame<Bytes>) -> bool {
    frame.trailers_ref().is_some_and(|trailers| !trailers.contains_key("grpc-status"))
}
