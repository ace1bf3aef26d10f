//! What all puts of a node share, and its limits: memory, threads, and how many puts run at once.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use volley_common::fairness::CallerKey;
use volley_common::ipc::buffer_pool::BufferPool;
use volley_common::telemetry::GaugeGuard;
use volley_common::{Error, Result};

use crate::config::NodeConfig;
use crate::put_memory::{MemoryShares, PutMemory};

/// The least and the most threads that write the rows of puts at the same time.
const WRITERS: (usize, usize) = (4, 16);
/// Parts of all puts that are made durable at the same time.
const MAX_SEALS: usize = 64;
/// Contents of small parts of all puts, at most 128 KiB each, that wait for their copies.
const MAX_CONTENTS: usize = 256;
/// Copies of open parts that other nodes make of this node's at the same time, each of which takes some 4 MiB.
const MAX_FOLLOWERS: usize = 32;

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
    /// One permit for each small part whose content is in memory.
    pub contents: Arc<Semaphore>,
    /// One permit for each node that copies a part while it is written.
    pub followers: Arc<Semaphore>,
    slots: Arc<Semaphore>,
    max_puts: usize,
    max_puts_per_principal: usize,
    by_principal: Arc<Mutex<PutCounts>>,
}

/// How many puts each principal runs; one that runs none is forgotten.
type PutCounts = HashMap<Arc<str>, usize>;

/// The place of one put among `max_concurrent_puts`.
pub struct PutSlot {
    _permit: OwnedSemaphorePermit,
    _of_principal: Option<PrincipalSlot>,
    _running: GaugeGuard,
}

/// The place of one put among those of its principal.
struct PrincipalSlot {
    name: Arc<str>,
    counts: Arc<Mutex<PutCounts>>,
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
            contents: Arc::new(Semaphore::new(MAX_CONTENTS)),
            followers: Arc::new(Semaphore::new(MAX_FOLLOWERS)),
            slots: Arc::new(Semaphore::new(config.max_concurrent_puts)),
            max_puts: config.max_concurrent_puts,
            max_puts_per_principal: config.max_puts_of_principal(),
            by_principal: Arc::default(),
        }
    }

    /// Admits one more put, of nobody in particular.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: `max_concurrent_puts` puts run.
    #[cfg(test)]
    pub fn admit(&self) -> Result<PutSlot> {
        self.admit_for(&CallerKey::Cluster)
    }

    /// Admits one more put. Only puts of principals are counted for their caller: in an open cluster all may be of one client.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: `max_concurrent_puts` puts run, or `max_concurrent_puts_per_principal` of this principal.
    pub fn admit_for(&self, caller: &CallerKey) -> Result<PutSlot> {
        let of_principal = match caller {
            CallerKey::Principal(name) => Some(self.count_in(name)?),
            CallerKey::Network(_) | CallerKey::Cluster => None,
        };
        let Ok(permit) = self.slots.clone().try_acquire_owned() else {
            metrics::counter!("volley_puts_refused_total", "scope" => "all").increment(1);
            return Err(Error::exhausted(format!(
                "this node runs {} puts already (`max_concurrent_puts`): try again, or put at another node",
                self.max_puts
            )));
        };
        let running = GaugeGuard::count(metrics::gauge!("volley_puts"));
        Ok(PutSlot { _permit: permit, _of_principal: of_principal, _running: running })
    }

    fn count_in(&self, name: &Arc<str>) -> Result<PrincipalSlot> {
        let mut counts = self.by_principal.lock();
        let own = counts.get(name).copied().unwrap_or(0);
        if own >= self.max_puts_per_principal {
            metrics::counter!("volley_puts_refused_total", "scope" => "principal").increment(1);
            return Err(Error::exhausted(format!(
                "{name:?} runs {own} puts at this node already (`max_concurrent_puts_per_principal`): wait for some of them, or put at another node"
            )));
        }
        counts.insert(name.clone(), own + 1);
        Ok(PrincipalSlot { name: name.clone(), counts: self.by_principal.clone() })
    }
}

impl Drop for PrincipalSlot {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        if let Some(own) = counts.get_mut(&self.name) {
            *own -= 1;
            if *own == 0 {
                counts.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::Code;

    use super::*;

    #[test]
    fn one_principal_leaves_puts_for_the_others() {
        let resources = PutResources::new(&NodeConfig { max_concurrent_puts: 6, ..NodeConfig::default() });
        let admit = |name: &str| resources.admit_for(&CallerKey::Principal(name.into()));
        let busy: Vec<PutSlot> = (0..6).map_while(|_| admit("busy").ok()).collect();
        assert_eq!(busy.len(), 3);
        let error = admit("busy").err().unwrap();
        assert_eq!(error.code, Code::ResourceExhausted);
        assert!(error.message.contains("max_concurrent_puts_per_principal"), "{error}");
        let other: Vec<PutSlot> = (0..2).map(|_| admit("other").unwrap()).collect();
        let last = resources.admit().unwrap();
        let error = admit("other").err().unwrap();
        assert!(error.message.contains("`max_concurrent_puts`"), "{error}");
        assert_eq!(resources.by_principal.lock().len(), 2, "a refused put is not counted");
        drop((busy, other, last));
        assert!(resources.by_principal.lock().is_empty());
        assert!(admit("busy").is_ok());
    }
}
