//! What all gets of a node share, and their limits: how many of them decompress or filter at once, and how many threads scan. All
//! other gets send slices of mapped files, and need no memory of their own.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use volley_common::{Error, Result};

/// The places of gets that decompress. A get that decompresses holds up to three windows of about 1 MiB while its
/// client does not read: one that waits to be sent, and two that follow.
#[derive(Clone)]
pub struct DecompressionSlots {
    slots: Arc<Semaphore>,
    max_gets: usize,
}

/// The place of one get.
pub struct DecompressionSlot {
    _permit: OwnedSemaphorePermit,
}

impl DecompressionSlots {
    /// Places for this many gets.
    pub fn new(max_gets: usize) -> Self {
        DecompressionSlots { slots: Arc::new(Semaphore::new(max_gets)), max_gets }
    }

    /// Admits one more get. None ever waits for another, because a client may read its streams one after the other.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: all places are taken.
    pub fn admit(&self) -> Result<DecompressionSlot> {
        let Ok(permit) = self.slots.clone().try_acquire_owned() else {
            metrics::counter!("volley_decompressing_gets_refused_total").increment(1);
            return Err(Error::exhausted(format!(
                "this node decompresses for {} gets already (`max_decompressing_gets`): open fewer streams at a time, read at \
                 another node, or leave out the option \"decompress\"",
                self.max_gets
            )));
        };
        Ok(DecompressionSlot { _permit: permit })
    }
}

/// The places of gets with a filter, and of threads that scan parts. A get with a filter holds up to three batches of about 1 MiB
/// while its client does not read: one that waits to be sent, and two that follow.
#[derive(Clone)]
pub struct ScanSlots {
    gets: Arc<Semaphore>,
    max_gets: usize,
    jobs: Arc<Semaphore>,
}

/// The place of one get with a filter.
pub struct ScanSlot {
    _permit: OwnedSemaphorePermit,
}

impl ScanSlots {
    /// Places for this many gets, of whose scans this many use a thread at the same time.
    pub fn new(max_gets: usize, max_jobs: usize) -> Self {
        ScanSlots {
            gets: Arc::new(Semaphore::new(max_gets)),
            max_gets,
            jobs: Arc::new(Semaphore::new(max_jobs.max(1))),
        }
    }

    /// Admits one more get. None ever waits for another, because a client may read its streams one after the other.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: all places are taken.
    pub fn admit(&self) -> Result<ScanSlot> {
        let Ok(permit) = self.gets.clone().try_acquire_owned() else {
            return Err(Error::exhausted(format!(
                "this node filters for {} gets already (`max_filtered_gets`): open fewer streams at a time, or read at another \
                 node",
                self.max_gets
            )));
        };
        Ok(ScanSlot { _permit: permit })
    }

    /// Waits for the place of a thread, in turn. It is held while a step of a scan runs, never while a client is waited for.
    pub async fn job(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        self.jobs.clone().acquire_owned().await.ok()
    }

    /// Waits until no step of a scan runs; none begins before the result is dropped.
    #[cfg(test)]
    pub async fn pause(&self) -> OwnedSemaphorePermit {
        self.jobs.clone().acquire_many_owned(max_scan_jobs() as u32).await.expect("the semaphore is never closed")
    }
}

/// How many threads scan at once: twice the cores, because some of them wait for the disk.
pub fn max_scan_jobs() -> usize {
    2 * std::thread::available_parallelism().map_or(2, usize::from)
}
