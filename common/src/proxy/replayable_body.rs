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
    /// How many attempts there were.
    attempts: u64,
}

impl ReplayableBody {
    /// Nothing of `body` was read yet.
    pub fn new(body: Incoming) -> Self {
        ReplayableBody(Arc::new(Mutex::new(ReplayState { body: CompleteBody(body), was_read: false, attempts: 0 })))
    }

    /// The stream, if nothing of it was read. The attempts before read nothing from now on: a connection may hold the body of
    /// a call for a while after the call was given up.
    pub fn unread(&self) -> Option<ProxyRequestBody> {
        let number = {
            let mut state = self.0.lock();
            if state.was_read {
                return None;
            }
            state.attempts += 1;
            state.attempts
        };
        // Not within the lock: tonic asks the attempt whether it is at its end.
        let attempt = ReplayAttempt { state: self.0.clone(), number };
        Some(ProxyRequestBody::from(tonic::body::Body::new(attempt)))
    }
}

/// The stream as one attempt sends it.
struct ReplayAttempt {
    state: Arc<Mutex<ReplayState>>,
    number: u64,
}

impl Body for ReplayAttempt {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut state = self.state.lock();
        if state.attempts != self.number {
            return Poll::Ready(Some(Err(Status::cancelled("the stream goes to another member"))));
        }
        let polled = Pin::new(&mut state.body).poll_frame(cx);
        state.was_read |= polled.is_ready();
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.state.lock().body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.state.lock().body.size_hint()
    }
}
