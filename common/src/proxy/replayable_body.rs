//! A client's stream that may be forwarded again until its first byte was read.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tonic::Status;

use crate::http2::{CompleteBody, ProxyRequestBody};

/// A client's stream that successive attempts may send, until its first byte was read.
pub struct ReplayableBody(Arc<Mutex<ReplayState>>);

struct ReplayState {
    /// A reset is an error, not the end.
    body: CompleteBody<Incoming>,
    was_read: bool,
}

impl ReplayableBody {
    /// Nothing of `body` was read yet.
    pub fn new(body: Incoming) -> Self {
        ReplayableBody(Arc::new(Mutex::new(ReplayState { body: CompleteBody(body), was_read: false })))
    }

    /// The stream, if nothing of it was read.
    pub fn unread(&self) -> Option<ProxyRequestBody> {
        let attempt = (!self.0.lock().was_read).then(|| ReplayAttempt(self.0.clone()))?;
        Some(ProxyRequestBody::from(tonic::body::Body::new(attempt)))
    }
}

/// The stream as one attempt sends it.
struct ReplayAttempt(Arc<Mutex<ReplayState>>);

impl Body for ReplayAttempt {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut state = self.0.lock();
        let polled = Pin::new(&mut state.body).poll_frame(cx);
        state.was_read |= polled.is_ready();
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().body.size_hint()
    }
}
