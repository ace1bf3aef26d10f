//! Bounds the time of the processor that compressed messages take, in proportion to what was sent.
//!
//! gzip makes zeros a thousand times smaller, so a client that sends little could keep a processor busy.

use crate::{Error, Result};

/// The messages of a call may decompress to this many times what was sent, which few real tables reach ...
pub(super) const MAX_CALL_RATIO: usize = 250;
/// ... and to this many bytes besides.
pub(super) const FREE_CALL_BYTES: usize = 256 << 20;

/// What the compressed messages of a call have, and what they decompressed to, bytes.
#[derive(Debug, Default)]
pub(super) struct GunzipEffort {
    sent: usize,
    decompressed: usize,
}

impl GunzipEffort {
    /// Counts a compressed message that was sent.
    pub(super) fn add_sent(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(bytes);
    }

    /// Counts bytes that were decompressed. A message that is decompressed twice counts once.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: they are too many for what was sent.
    pub(super) fn add_decompressed(&mut self, bytes: usize) -> Result<()> {
        self.decompressed = self.decompressed.saturating_add(bytes);
        if self.decompressed <= self.sent.saturating_mul(MAX_CALL_RATIO).saturating_add(FREE_CALL_BYTES) {
            return Ok(());
        }
        Err(Error::exhausted(format!(
            "the call sent {} bytes compressed by gzip, which decompress to more than {MAX_CALL_RATIO} times as many and {FREE_CALL_BYTES} besides: switch off the compression of the channel",
            self.sent
        )))
    }
}
