//! What all gets of a node share, and its limit: how many of them decompress at once. All other gets send slices of mapped
//! files, and need no memory of their own.

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
