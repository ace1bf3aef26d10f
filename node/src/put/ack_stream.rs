//! The results of a put: one for each message with rows, then the outcome.
//!
//! A client may read them while it writes, or never. They are queued here without blocking the put: a client that reads
//! nothing could otherwise never send its last message. Results without metadata are only counted. Metadata is copied, so
//! that it keeps nothing of its message, and is reserved from what [`PutMemory`] has for that.

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

use crate::put_memory::{MemoryReservation, PutMemory};

/// Metadata that may wait for a client that does not read its results, bytes.
const MAX_QUEUED: usize = 2 << 20;
/// Bytes of these for which nothing is reserved; the step of reservations.
const RESERVED_STEP: usize = 4 << 10;
/// Memory of a queued result in addition to its metadata, bytes.
const OVERHEAD: usize = 64;

/// The put's end of [`channel`].
pub struct AckSender(Arc<AckQueue>);

/// The client's end of [`channel`]. It is dropped when the client disconnects.
pub struct AckStream(Arc<AckQueue>);

struct AckQueue {
    memory: Arc<PutMemory>,
    state: Mutex<AckQueueState>,
    disconnected: CancellationToken,
}

#[derive(Default)]
struct AckQueueState {
    /// The metadata, and the number of results with it.
    queued: VecDeque<(Bytes, u64)>,
    bytes: usize,
    /// A message had metadata.
    has_metadata: bool,
    reserved: Vec<MemoryReservation>,
    outcome: Option<Result<Bytes>>,
    ended: bool,
    waker: Option<Waker>,
}

/// A new queue of results.
pub fn channel(memory: Arc<PutMemory>) -> (AckSender, AckStream) {
    let queue = Arc::new(AckQueue { memory, state: Mutex::default(), disconnected: CancellationToken::new() });
    (AckSender(queue.clone()), AckStream(queue))
}

impl AckSender {
    /// Acknowledges one message by its own metadata.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: the client, or all clients together, leave too much metadata unread. Then the put fails.
    pub fn acknowledge(&self, metadata: Bytes) -> Result<()> {
        let mut state = self.0.state.lock();
        state.has_metadata |= !metadata.is_empty();
        match state.queued.back_mut() {
            Some((last, times)) if *last == metadata => *times += 1,
            _ => {
                state.bytes += metadata.len() + OVERHEAD;
                state.reserve(&self.0.memory)?;
                state.queued.push_back((Bytes::copy_from_slice(&metadata), 1));
            }
        }
        state.wake();
        Ok(())
    }

    /// Whether any message had metadata.
    pub fn has_metadata(&self) -> bool {
        self.0.state.lock().has_metadata
    }

    /// Ends the results with the outcome's JSON, or the error; `None`: without a further result.
    pub fn end(self, outcome: Result<Option<Bytes>>) {
        self.0.state.lock().end(outcome.transpose());
    }

    /// Waits until the client disconnects.
    pub async fn disconnected(&self) {
        self.0.disconnected.cancelled().await;
    }
}

impl Drop for AckSender {
    /// A put that panicked must not leave its client waiting.
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        if !state.ended {
            state.end(Some(Err(Error::internal("the put panicked; see the node's log"))));
        }
    }
}

impl AckQueueState {
    fn end(&mut self, outcome: Option<Result<Bytes>>) {
        self.outcome = outcome;
        self.ended = true;
        self.wake();
    }

    /// Reserves memory for what is queued.
    fn reserve(&mut self, memory: &PutMemory) -> Result<()> {
        if self.bytes > MAX_QUEUED {
            return Err(Error::exhausted(
                "more than 2 MiB of app_metadata wait to be read: read the put's results while writing",
            ));
        }
        while self.bytes > RESERVED_STEP * (1 + self.reserved.len()) {
            let Some(step) = memory.try_reserve_lasting(RESERVED_STEP) else {
                return Err(Error::exhausted(format!(
                    "{} bytes of app_metadata wait to be read, and this node has no memory for more (`put_memory_bytes`): \
                     read the put's results while writing",
                    self.bytes
                )));
            };
            self.reserved.push(step);
        }
        Ok(())
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn next(&mut self) -> Option<Bytes> {
        let (metadata, times) = self.queued.front_mut()?;
        if *times > 1 {
            *times -= 1;
            return Some(metadata.clone());
        }
        let (metadata, _) = self.queued.pop_front()?;
        self.bytes -= metadata.len() + OVERHEAD;
        self.reserved.truncate(self.bytes / RESERVED_STEP);
        Some(metadata)
    }
}

impl Stream for AckStream {
    type Item = Result<PutResult>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.0.state.lock();
        if let Some(app_metadata) = state.next() {
            return Poll::Ready(Some(Ok(PutResult { app_metadata })));
        }
        match state.outcome.take() {
            Some(outcome) => Poll::Ready(Some(outcome.map(|app_metadata| PutResult { app_metadata }))),
            None if state.ended => Poll::Ready(None),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for AckStream {
    fn drop(&mut self) {
        self.0.disconnected.cancel();
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    fn channel() -> (AckSender, AckStream) {
        super::channel(PutMemory::new(0, 4 << 20))
    }

    #[tokio::test]
    async fn unread_metadata_is_reserved_and_copied() {
        let memory = PutMemory::new(0, 64 << 10);
        let (acks, mut stream) = super::channel(memory.clone());
        let (other, other_stream) = super::channel(memory.clone());
        let message = Bytes::from(vec![7; 40 << 10]);
        acks.acknowledge(message.clone()).unwrap();
        assert!(message.try_into_mut().is_ok(), "it was copied");
        assert!(memory.try_reserve_lasting(40 << 10).is_none());
        let refused = other.acknowledge(Bytes::from(vec![8; 40 << 10])).unwrap_err();
        assert!(refused.message.contains("put_memory_bytes"), "{refused}");
        let (small, _small_stream) = super::channel(memory.clone());
        small.acknowledge(Bytes::from_static(b"a few bytes need no reservation")).unwrap();
        drop((other, other_stream));
        stream.next().await.unwrap().unwrap();
        assert!(memory.try_reserve_lasting(64 << 10).is_some(), "it is given back");
    }

    #[tokio::test]
    async fn acks_come_in_order_and_the_outcome_last() {
        let (acks, stream) = channel();
        for metadata in ["", "", "a", ""] {
            acks.acknowledge(Bytes::from_static(metadata.as_bytes())).unwrap();
        }
        acks.end(Ok(Some(Bytes::from_static(b"{}"))));
        let got: Vec<Bytes> = stream.map(|r| r.unwrap().app_metadata).collect().await;
        assert_eq!(got, ["", "", "a", "", "{}"]);
    }

    #[tokio::test]
    async fn results_without_an_outcome_end_after_the_acks() {
        let (acks, stream) = channel();
        acks.acknowledge(Bytes::new()).unwrap();
        assert!(!acks.has_metadata());
        acks.acknowledge(Bytes::from_static(b"a")).unwrap();
        assert!(acks.has_metadata());
        acks.end(Ok(None));
        let got: Vec<Bytes> = stream.map(|r| r.unwrap().app_metadata).collect().await;
        assert_eq!(got, ["", "a"]);
    }

    #[tokio::test]
    async fn unread_empty_acks_do_not_block_the_put() {
        let (acks, stream) = channel();
        for _ in 0..1_000_000 {
            acks.acknowledge(Bytes::new()).unwrap();
        }
        acks.end(Ok(Some(Bytes::new())));
        assert_eq!(stream.count().await, 1_000_001);
    }

    #[test]
    fn unread_metadata_is_bounded() {
        let (acks, _stream) = channel();
        let mut refused = None;
        for i in 0..100u32 {
            refused = acks.acknowledge(Bytes::from(vec![i as u8; 64 << 10])).err();
            if refused.is_some() {
                break;
            }
        }
        assert!(refused.unwrap().message.contains("app_metadata"));
    }

    #[tokio::test]
    async fn dropped_end_is_noticed_by_the_other() {
        let (acks, stream) = channel();
        drop(stream);
        acks.disconnected().await;
        let (acks, mut stream) = channel();
        drop(acks);
        assert!(stream.next().await.unwrap().is_err());
        assert!(stream.next().await.is_none());
    }
}
