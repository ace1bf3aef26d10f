//! The queue between async tasks and the store's writer: a bounded channel that is read in batches.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::catalog::Change;

/// Called when a write is durable, or has failed.
pub type Completion = Box<dyn FnOnce(io::Result<()>) + Send>;

/// One change of the database.
pub enum StoreWrite {
    /// Adds log records by index.
    AppendLog(Vec<(u64, Vec<u8>)>),
    /// Stores the encoded vote.
    SaveVote(Vec<u8>),
    /// Deletes the log records from this index on.
    TruncateLog(u64),
    /// Deletes the log records up to this index, and stores its encoded id.
    PurgeLog(u64, Vec<u8>),
    /// Stores the rows that applied entries changed.
    ApplyRows(AppliedRows),
    /// Replaces all rows by those of a snapshot file.
    InstallSnapshot(PathBuf, AppliedRows),
    /// Changes nothing: completes when every earlier write is durable.
    Flush,
}

impl StoreWrite {
    /// Whether the write may wait for the commit of another one, because the log already contains its information.
    fn is_lazy(&self) -> bool {
        matches!(self, StoreWrite::ApplyRows(_))
    }
}

/// The state machine's part of a transaction.
pub struct AppliedRows {
    /// Rows that changed.
    pub changes: Vec<Change>,
    /// The encoded id of the last entry applied.
    pub last_log_id: Vec<u8>,
    /// The encoded membership, if it changed.
    pub membership: Option<Vec<u8>>,
}

/// A write in the queue.
pub struct QueuedWrite {
    pub(super) write: StoreWrite,
    pub(super) completion: Completion,
    queued_at: Instant,
}

/// Maximum number of writes that wait.
const CAPACITY: usize = 512;
/// A batch of lazy writes waits this long for one that needs a commit anyway.
const LAZY_DELAY: Duration = Duration::from_millis(50);
/// A batch of this many writes waits no longer.
const FULL_BATCH: usize = CAPACITY / 4;

/// The sending side.
pub struct WriteQueue {
    sender: Mutex<Option<mpsc::Sender<QueuedWrite>>>,
}

/// The writer's side.
pub struct WriteQueueReceiver {
    receiver: mpsc::Receiver<QueuedWrite>,
}

/// An empty queue.
pub fn write_queue() -> (WriteQueue, WriteQueueReceiver) {
    let (sender, receiver) = mpsc::channel(CAPACITY);
    (WriteQueue { sender: Mutex::new(Some(sender)) }, WriteQueueReceiver { receiver })
}

impl WriteQueue {
    /// Adds a write at the end; waits while the queue is full.
    ///
    /// # Errors
    /// The queue is closed. `completion` is not called then.
    pub async fn push(&self, write: StoreWrite, completion: Completion) -> io::Result<()> {
        let closed =
            || io::Error::other("the catalog's store accepts no writes: it was closed, or an earlier write failed");
        let sender = self.sender.lock().clone().ok_or_else(closed)?;
        let permit = sender.reserve().await.map_err(|_| closed())?;
        permit.send(QueuedWrite { write, completion, queued_at: Instant::now() });
        Ok(())
    }

    /// Closes the queue for new writes. The writer still gets those that are queued.
    pub fn close(&self) {
        self.sender.lock().take();
    }
}

impl WriteQueueReceiver {
    /// Returns every queued write, in order, once a commit is worthwhile; none when the queue is closed and empty.
    ///
    /// A batch of only lazy writes is held back up to `LAZY_DELAY`: each commit costs a sync of the disk.
    pub async fn next_batch(&mut self) -> Option<Vec<QueuedWrite>> {
        let mut batch = Vec::new();
        self.receiver.recv_many(&mut batch, CAPACITY).await;
        let due = batch.first()?.queued_at + LAZY_DELAY;
        while batch.len() < FULL_BATCH && batch.iter().all(|queued| queued.write.is_lazy()) {
            let room = CAPACITY - batch.len();
            match timeout_at(due, self.receiver.recv_many(&mut batch, room)).await {
                // The delay is over, or the queue is closed.
                Err(_) | Ok(0) => break,
                Ok(_) => {}
            }
        }
        Some(batch)
    }

    /// Makes every later push fail.
    pub fn close(&mut self) {
        self.receiver.close();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn lazy() -> StoreWrite {
        StoreWrite::ApplyRows(AppliedRows { changes: Vec::new(), last_log_id: Vec::new(), membership: None })
    }

    async fn push(queue: &WriteQueue, write: StoreWrite) -> io::Result<()> {
        queue.push(write, Box::new(|_| ())).await
    }

    #[tokio::test(start_paused = true)]
    async fn lazy_writes_wait_for_their_delay_or_for_an_urgent_one() {
        let (queue, mut receiver) = write_queue();
        let start = Instant::now();
        push(&queue, lazy()).await.unwrap();
        push(&queue, lazy()).await.unwrap();
        assert_eq!(receiver.next_batch().await.unwrap().len(), 2);
        assert!(start.elapsed() >= LAZY_DELAY);

        let start = Instant::now();
        push(&queue, lazy()).await.unwrap();
        let urgent = async {
            tokio::time::sleep(LAZY_DELAY / 5).await;
            push(&queue, StoreWrite::Flush).await.unwrap();
        };
        let (batch, ()) = tokio::join!(receiver.next_batch(), urgent);
        assert_eq!(batch.unwrap().len(), 2);
        assert!(start.elapsed() < LAZY_DELAY);
    }

    #[tokio::test(start_paused = true)]
    async fn urgent_write_and_full_batch_do_not_wait() {
        let (queue, mut receiver) = write_queue();
        let start = Instant::now();
        push(&queue, StoreWrite::Flush).await.unwrap();
        assert_eq!(receiver.next_batch().await.unwrap().len(), 1);
        for _ in 0..FULL_BATCH {
            push(&queue, lazy()).await.unwrap();
        }
        assert_eq!(receiver.next_batch().await.unwrap().len(), FULL_BATCH);
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn closed_queue_refuses_pushes_and_hands_out_the_rest() {
        let (queue, mut receiver) = write_queue();
        let start = Instant::now();
        push(&queue, lazy()).await.unwrap();
        queue.close();
        push(&queue, lazy()).await.unwrap_err();
        assert_eq!(receiver.next_batch().await.unwrap().len(), 1);
        assert!(receiver.next_batch().await.is_none());
        assert_eq!(start.elapsed(), Duration::ZERO, "nothing else can come");

        let (queue, mut receiver) = write_queue();
        push(&queue, StoreWrite::Flush).await.unwrap();
        receiver.close();
        push(&queue, StoreWrite::Flush).await.unwrap_err();
        assert_eq!(receiver.next_batch().await.unwrap().len(), 1);
        assert!(receiver.next_batch().await.is_none());
    }
}
