//! The answers of a put: one for every message with rows, in lockstep, and the outcome last.
//!
//! A client may read them as it writes, or never: so they are queued here, and a client that never reads
//! must not be blocked by them (it would never get to its end). Answers without metadata are merely counted.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use arrow_flight::PutResult;
use bytes::Bytes;
use futures::Stream;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use volley_common::{Error, Result};

/// Metadata that may wait for a client that does not read its answers, bytes.
const MAX_WAITING: usize = 2 << 20;
/// What a queued answer costs beside its metadata, bytes.
const OVERHEAD: usize = 64;

/// A queue of answers: made by [`channel`].
pub struct Results(Arc<Queue>);

/// The client's end of [`Results`]; dropped when the client is gone.
pub struct ResultStream(Arc<Queue>);

struct Queue {
    inner: Mutex<Inner>,
    gone: CancellationToken,
}

#[derive(Default)]
struct Inner {
    /// Metadata, and how often it is to be sent.
    waiting: VecDeque<(Bytes, u64)>,
    bytes: usize,
    end: Option<Result<Bytes>>,
    ended: bool,
    waker: Option<Waker>,
}

/// A new queue: for the put, and for the client.
pub fn channel() -> (Results, ResultStream) {
    let queue = Arc::new(Queue { inner: Mutex::default(), gone: CancellationToken::new() });
    (Results(queue.clone()), ResultStream(queue))
}

impl Results {
    /// Answers one message by its own metadata.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if the client leaves too much metadata unread.
    pub fn acknowledge(&self, metadata: Bytes) -> Result<()> {
        let mut inner = self.0.inner.lock();
        match inner.waiting.back_mut() {
            Some((last, times)) if *last == metadata => *times += 1,
            _ => {
                inner.bytes += metadata.len() + OVERHEAD;
                inner.waiting.push_back((metadata, 1));
            }
        }
        if inner.bytes > MAX_WAITING {
            return Err(Error::exhausted(
                "more than 2 MiB of app_metadata wait to be read: read the put's results while writing",
            ));
        }
        inner.wake();
        Ok(())
    }

    /// Ends the answers: with the outcome's JSON, or the error.
    pub fn end(self, outcome: Result<Bytes>) {
        let mut inner = self.0.inner.lock();
        inner.end = Some(outcome);
        inner.ended = true;
        inner.wake();
    }

    /// Waits until the client no longer takes answers: it went away.
    pub async fn gone(&self) {
        self.0.gone.cancelled().await;
    }
}

impl Drop for Results {
    /// A put that broke down without an outcome must not leave its client waiting.
    fn drop(&mut self) {
        let mut inner = self.0.inner.lock();
        if !inner.ended {
            inner.ended = true;
            inner.end = Some(Err(Error::internal("the put broke down; see the node's log")));
            inner.wake();
        }
    }
}

impl Inner {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn next(&mut self) -> Option<Bytes> {
        let (metadata, times) = self.waiting.front_mut()?;
        if *times > 1 {
            *times -= 1;
            return Some(metadata.clone());
        }
        let (metadata, _) = self.waiting.pop_front()?;
        self.bytes -= metadata.len() + OVERHEAD;
        Some(metadata)
    }
}

impl Stream for ResultStream {
    type Item = Result<PutResult>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut inner = self.0.inner.lock();
        if let Some(app_metadata) = inner.next() {
            return Poll::Ready(Some(Ok(PutResult { app_metadata })));
        }
        match inner.end.take() {
            Some(Ok(app_metadata)) => Poll::Ready(Some(Ok(PutResult { app_metadata }))),
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None if inner.ended => Poll::Ready(None),
            None => {
                inner.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for ResultStream {
    fn drop(&mut self) {
        self.0.gone.cancel();
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    #[tokio::test]
    async fn answers_come_in_order_and_the_outcome_last() {
        let (results, stream) = channel();
        for metadata in ["", "", "a", ""] {
            results.acknowledge(Bytes::from_static(metadata.as_bytes())).unwrap();
        }
        results.end(Ok(Bytes::from_static(b"{}")));
        let got: Vec<Bytes> = stream.map(|r| r.unwrap().app_metadata).collect().await;
        assert_eq!(got, ["", "", "a", "", "{}"]);
    }

    #[tokio::test]
    async fn a_client_that_reads_nothing_is_not_blocked_by_empty_answers() {
        let (results, stream) = channel();
        for _ in 0..1_000_000 {
            results.acknowledge(Bytes::new()).unwrap();
        }
        results.end(Ok(Bytes::new()));
        assert_eq!(stream.count().await, 1_000_001);
    }

    #[test]
    fn unread_metadata_is_bounded() {
        let (results, _stream) = channel();
        let mut refused = None;
        for i in 0..100u32 {
            refused = results.acknowledge(Bytes::from(vec![i as u8; 64 << 10])).err();
            if refused.is_some() {
                break;
            }
        }
        assert!(refused.unwrap().message.contains("app_metadata"));
    }

    #[tokio::test]
    async fn each_end_learns_that_the_other_is_gone() {
        let (results, stream) = channel();
        drop(stream);
        results.gone().await;
        let (results, mut stream) = channel();
        drop(results);
        assert!(stream.next().await.unwrap().is_err());
        assert!(stream.next().await.is_none());
    }
}
