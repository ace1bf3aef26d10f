//! The queue between the task of an endpoint and the reader of the fetch, bounded by bytes.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use volley_common::Result;
use volley_common::ipc::size::data_bytes;

use super::FetchedBatch;

/// Bytes are counted in units of this many: a batch of few rows counts as one, so that their number is bounded, too.
const UNIT: usize = 1 << 10;
/// Events that may wait in a queue, whatever their size.
const MAX_EVENTS: usize = 256;

/// A message of an endpoint's task: a batch, or `None` at the end of the endpoint.
pub(super) type EndpointEvent = Result<Option<FetchedBatch>>;

/// The task's end of [`window`].
pub(super) struct WindowSender {
    events: mpsc::Sender<WindowEvent>,
    permits: Arc<Semaphore>,
    /// All permits.
    units: u32,
}

/// The reader's end of [`window`].
pub(super) struct WindowReceiver(mpsc::Receiver<WindowEvent>);

struct WindowEvent {
    event: EndpointEvent,
    /// Given back when the reader takes the event.
    _permit: Option<OwnedSemaphorePermit>,
}

/// The reader was dropped.
pub(super) struct ReaderDropped;

/// A queue in which at most `bytes` of batches wait, but always one batch.
pub(super) fn window(bytes: usize) -> (WindowSender, WindowReceiver) {
    let units = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX >> 4).clamp(1, u32::MAX >> 4);
    let (sender, receiver) = mpsc::channel(MAX_EVENTS);
    let permits = Arc::new(Semaphore::new(units as usize));
    (WindowSender { events: sender, permits, units }, WindowReceiver(receiver))
}

impl WindowSender {
    /// Queues a batch once there is room for it.
    pub(super) async fn send(&self, fetched: FetchedBatch) -> Result<(), ReaderDropped> {
        let bytes = data_bytes(&fetched.batch);
        self.send_counted(fetched, bytes).await
    }

    /// The same with a batch that takes so many bytes of memory: those of its rows may be a file's.
    pub(super) async fn send_counted(&self, fetched: FetchedBatch, bytes: usize) -> Result<(), ReaderDropped> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, self.units);
        let permit = self.permits.clone().acquire_many_owned(units).await.map_err(|_| ReaderDropped)?;
        let event = WindowEvent { event: Ok(Some(fetched)), _permit: Some(permit) };
        self.events.send(event).await.map_err(|_| ReaderDropped)
    }

    /// Queues the end of the endpoint, or its error.
    pub(super) async fn end(self, outcome: Result<()>) {
        // Nobody waits for the outcome of a fetch that was dropped.
        let _ = self.events.send(WindowEvent { event: outcome.map(|()| None), _permit: None }).await;
    }
}

impl WindowReceiver {
    /// The next event; none if the task ended without saying so.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<EndpointEvent>> {
        Poll::Ready(ready!(self.0.poll_recv(cx)).map(|queued| queued.event))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::future::poll_fn;

    use futures::FutureExt;

    use super::*;
    use crate::fake::numbers;

    fn fetched(rows: i64) -> FetchedBatch {
        FetchedBatch { endpoint: 0, batch: numbers(0..rows), from: "m:1".into() }
    }

    #[tokio::test]
    async fn bytes_bound_what_waits_and_one_batch_always_fits() {
        let (sender, mut receiver) = window(20 << 10);
        // 8 KiB of values each.
        for _ in 0..2 {
            assert!(sender.send(fetched(1000)).now_or_never().is_some());
        }
        assert!(sender.send(fetched(1000)).now_or_never().is_none());
        poll_fn(|cx| receiver.poll_next(cx)).await.unwrap().unwrap().unwrap();
        assert!(sender.send(fetched(1000)).now_or_never().is_some());

        let (sender, mut receiver) = window(1);
        assert!(sender.send(fetched(100_000)).now_or_never().is_some());
        assert!(sender.send(fetched(1)).now_or_never().is_none());
        poll_fn(|cx| receiver.poll_next(cx)).await.unwrap().unwrap().unwrap();
        sender.end(Ok(())).await;
        assert!(poll_fn(|cx| receiver.poll_next(cx)).await.unwrap().unwrap().is_none());
        assert!(poll_fn(|cx| receiver.poll_next(cx)).await.is_none());
    }

    #[tokio::test]
    async fn sender_learns_that_the_reader_was_dropped() {
        let (sender, receiver) = window(1 << 20);
        drop(receiver);
        assert!(sender.send(fetched(1)).await.is_err());
    }
}
