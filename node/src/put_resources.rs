//! What all puts of a node share, and its limits: memory, threads, and how many puts run at once.

use std::sync::Arc;

use metrics::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use volley_common::ipc::buffer_pool::BufferPool;
use volley_common::{Error, Result};

use crate::config::NodeConfig;
use crate::put_memory::{MemoryShares, PutMemory};

/// The least and the most threads that write the rows of puts at the same time.
const WRITERS: (usize, usize) = (4, 16);
/// Parts of all puts that are made durable at the same time.
const MAX_SEALS: usize = 64;

/// The shared resources of a node's puts.
pub struct PutResources {
    /// The budget of memory.
    pub memory: Arc<PutMemory>,
    /// How the whole budget is divided.
    pub shares: MemoryShares,
    /// Blocks for the bodies of all puts.
    pub buffers: BufferPool,
    /// One permit for each thread that writes rows.
    pub writers: Arc<Semaphore>,
    /// One permit for each part that is being sealed.
    pub seals: Arc<Semaphore>,
    slots: Arc<Semaphore>,
    max_puts: usize,
}

/// The place of one put among `max_concurrent_puts`.
pub struct PutSlot {
    _permit: OwnedSemaphorePermit,
    running: Gauge,
}

impl PutResources {
    /// The resources that the configuration allows.
    pub fn new(config: &NodeConfig) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let writers = processors.clamp(WRITERS.0, WRITERS.1);
        let shares = MemoryShares::new(config.put_memory_bytes, writers);
        PutResources {
            memory: PutMemory::new(shares.reserved, shares.lasting),
            shares,
            buffers: BufferPool::for_many_streams(shares.idle),
            writers: Arc::new(Semaphore::new(writers)),
            seals: Arc::new(Semaphore::new(MAX_SEALS)),
            slots: Arc::new(Semaphore::new(config.max_concurrent_puts)),
            max_puts: config.max_concurrent_puts,
        }
    }

    /// Admits one more put.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: `max_concurrent_puts` puts run.
    pub fn admit(&self) -> Result<PutSlot> {
        let Ok(permit) = self.slots.clone().try_acquire_owned() else {
            metrics::counter!("volley_puts_refused_total").increment(1);
            return Err(Error::exhausted(format!(
                "this node runs {} puts already (`max_concurrent_puts`): try again, or put at another node",
                self.max_puts
            )));
        };
        let running = metrics::gauge!("volley_puts");
        running.increment(1.0);
        Ok(PutSlot { _permit: permit, running })
    }
}

impl Drop for PutSlot {
    fn drop(&mut self) {
        self.running.decrement(1.0);
    }
}
