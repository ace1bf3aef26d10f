//! How much of a reply was passed on to HTTP/2 and is not sent yet: a client that does not read its connection must not make
//! this process hold what a member sends.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;

/// The bytes of one stream that are not sent yet.
#[derive(Clone, Debug, Default)]
pub struct UnsentBytes(Arc<UnsentState>);

#[derive(Debug, Default)]
struct UnsentState {
    bytes: AtomicUsize,
    /// Of the one task that waits.
    waker: AtomicWaker,
}

/// Some of the bytes, until they are sent and this is dropped with them.
#[derive(Debug)]
pub struct UnsentPart {
    of: UnsentBytes,
    bytes: usize,
}

impl UnsentBytes {
    /// Counts `bytes` as unsent until the returned value is dropped.
    pub fn hold(&self, bytes: usize) -> UnsentPart {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        UnsentPart { of: self.clone(), bytes }
    }

    /// As [`UnsentBytes::poll_below`].
    pub async fn wait_below(&self, limit: usize) {
        poll_fn(|cx| self.poll_below(limit, cx)).await;
    }

    /// Waits until fewer than `limit` bytes are unsent. One task may wait.
    pub fn poll_below(&self, limit: usize, cx: &mut Context<'_>) -> Poll<()> {
        let is_below = || self.0.bytes.load(Ordering::Acquire) < limit;
        if is_below() {
            return Poll::Ready(());
        }
        self.0.waker.register(cx.waker());
        // They may have been sent before the waker was there.
        if is_below() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Clone for UnsentPart {
    fn clone(&self) -> Self {
        self.of.hold(self.bytes)
    }
}

impl Drop for UnsentPart {
    fn drop(&mut self) {
        self.of.0.bytes.fetch_sub(self.bytes, Ordering::Release);
        self.of.0.waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn waiter_wakes_when_enough_is_sent() {
        let unsent = UnsentBytes::default();
        let (first, second) = (unsent.hold(10), unsent.hold(5));
        assert!(unsent.wait_below(15).now_or_never().is_none());
        assert!(unsent.wait_below(16).now_or_never().is_some());
        let waiter = tokio::spawn({
            let unsent = unsent.clone();
            async move { unsent.wait_below(1).await }
        });
        tokio::task::yield_now().await;
        drop(first);
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        drop(second);
        assert!(waiter.await.is_ok());
    }
}
