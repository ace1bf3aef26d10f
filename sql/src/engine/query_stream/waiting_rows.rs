//! The memory of rows that are computed and wait for the reader of their query.
//!
//! They wait as batches, as messages, and in the buffers of a connection, and count in the memory of queries until they are dropped.
//! A query without memory for more rows waits until its reader takes some; one of which no rows wait fails, as an operator does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use tokio::sync::Notify;
use volley_common::Result;

use crate::fault::from_datafusion;

/// How errors name it.
const NAME: &str = "QueryResult";

/// Counts the rows of one query that wait.
pub(super) struct WaitingRows {
    memory: MemoryReservation,
    /// How many shares there are. One that is dropped first gives back its memory.
    shares: AtomicUsize,
    /// A share was dropped.
    freed: Notify,
}

/// Memory of rows that wait, until this is dropped.
pub struct RowsShare {
    of: Arc<WaitingRows>,
    bytes: usize,
}

impl WaitingRows {
    /// Those of a query whose memory is in this pool; there are none yet.
    pub(super) fn new(pool: &Arc<dyn MemoryPool>) -> Arc<Self> {
        let memory = MemoryConsumer::new(NAME).register(pool);
        Arc::new(WaitingRows { memory, shares: AtomicUsize::new(0), freed: Notify::new() })
    }

    /// The share of rows of so many bytes, as soon as there is memory for them.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: there is too little, and no other rows wait.
    pub(super) async fn count(self: &Arc<Self>, bytes: usize) -> Result<RowsShare> {
        loop {
            // In this order a share that is dropped meanwhile is not missed.
            let freed = self.freed.notified();
            let others = self.shares.load(Ordering::Acquire);
            match self.memory.try_grow(bytes) {
                Ok(()) => return Ok(self.share(bytes)),
                Err(error) if others == 0 => return Err(from_datafusion(error)),
                Err(_) => freed.await,
            }
        }
    }

    /// A share of bytes that are counted already.
    fn share(self: &Arc<Self>, bytes: usize) -> RowsShare {
        self.shares.fetch_add(1, Ordering::AcqRel);
        RowsShare { of: self.clone(), bytes }
    }
}

impl RowsShare {
    /// Moves so many bytes into a share of their own. More than there are count beyond the limit: what is made of rows that wait exists
    /// already.
    pub fn split_off(&mut self, bytes: usize) -> RowsShare {
        let missing = bytes.saturating_sub(self.bytes);
        self.of.memory.grow(missing);
        self.bytes -= bytes - missing;
        self.of.share(bytes)
    }
}

impl Drop for RowsShare {
    fn drop(&mut self) {
        self.of.memory.shrink(self.bytes);
        self.of.shares.fetch_sub(1, Ordering::AcqRel);
        self.of.freed.notify_waiters();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::task::Poll;

    use futures::{FutureExt, poll};
    use volley_common::Code;

    use super::*;
    use crate::engine::memory_shares::QueryMemoryPool;

    fn pool(bytes: usize) -> Arc<dyn MemoryPool> {
        Arc::new(QueryMemoryPool::new(bytes, 1))
    }

    #[tokio::test]
    async fn rows_without_memory_wait_for_those_before_them() {
        let pool = pool(100);
        let waiting = WaitingRows::new(&pool);
        let first = waiting.count(60).await.unwrap();
        let mut second = Box::pin(waiting.count(60));
        assert!(poll!(second.as_mut()).is_pending());
        drop(first);
        let Poll::Ready(Ok(second)) = poll!(second) else { panic!("it waits") };
        assert_eq!(pool.reserved(), 60);
        drop(second);
        assert_eq!(pool.reserved(), 0);
    }

    #[tokio::test]
    async fn rows_that_wait_for_none_are_refused() {
        let pool = pool(100);
        let (waiting, others) = (WaitingRows::new(&pool), WaitingRows::new(&pool));
        let first = waiting.count(60).await.unwrap();
        for error in [others.count(60).await.err().unwrap(), others.count(101).await.err().unwrap()] {
            assert_eq!(error.code, Code::ResourceExhausted, "{error}");
            assert!(error.message.contains("sql_memory_bytes"), "{error}");
        }
        // Too many for the pool, which is known once none wait.
        let mut large = Box::pin(waiting.count(101));
        assert!(poll!(large.as_mut()).is_pending());
        drop(first);
        assert!(large.now_or_never().unwrap().is_err());
    }

    #[tokio::test]
    async fn what_is_made_of_rows_takes_their_memory() {
        let pool = pool(100);
        let mut batch = WaitingRows::new(&pool).count(60).await.unwrap();
        let first = batch.split_off(40);
        assert_eq!(pool.reserved(), 60);
        let second = batch.split_off(90);
        assert_eq!(pool.reserved(), 130, "it exists, whatever the limit");
        drop((batch, first));
        assert_eq!(pool.reserved(), 90);
        drop(second);
        assert_eq!(pool.reserved(), 0);
    }
}
