//! Waiting for the silence of a member beside one of its replies.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use crate::Error;

/// Completes with UNAVAILABLE once a member does not answer probes. Nothing is sent before it is polled, and then only
/// after a while.
///
/// The mutex makes it shareable; it is never locked.
pub struct SilenceWatch(Mutex<BoxFuture<'static, Error>>);

impl SilenceWatch {
    /// `silent` completes with the error once the member does not answer probes.
    pub(crate) fn new(silent: BoxFuture<'static, Error>) -> Self {
        SilenceWatch(Mutex::new(silent))
    }
}

impl Future for SilenceWatch {
    type Output = Error;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Error> {
        self.0.get_mut().poll_unpin(cx)
    }
}

impl fmt::Debug for SilenceWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SilenceWatch")
    }
}
