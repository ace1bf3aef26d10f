//! A stream that may be handed on more than once.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tonic::Status;

use super::ReqBody;
use crate::serve::Whole;

/// A client's stream that is lent to one attempt after another while nothing of it was read.
pub struct Loan(Arc<Mutex<Lent>>);

struct Lent {
    /// A reset is no end.
    body: Whole<Incoming>,
    read: bool,
}

impl Loan {
    /// Nothing of `body` was read yet.
    pub fn new(body: Incoming) -> Self {
        Loan(Arc::new(Mutex::new(Lent { body: Whole(body), read: false })))
    }

    /// The stream, if nothing of it was read.
    pub fn unread(&self) -> Option<ReqBody> {
        let borrowed = (!self.0.lock().read).then(|| Borrowed(self.0.clone()))?;
        Some(ReqBody::from(tonic::body::Body::new(borrowed)))
    }
}

struct Borrowed(Arc<Mutex<Lent>>);

impl Body for Borrowed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut lent = self.0.lock();
        let polled = Pin::new(&mut lent.body).poll_frame(cx);
        lent.read |= polled.is_ready();
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().body.size_hint()
    }
}
