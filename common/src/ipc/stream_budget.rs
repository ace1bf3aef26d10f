//! Bounds what a stream costs by what it sent: how much it decompresses to, and how much is copied to extend dictionaries.

use crate::{Error, Result};

/// Maximum bytes that a stream decompresses to, as a multiple of what it sent ...
const MAX_RATIO: u64 = 1000;
/// ... plus this many: a column of one value compresses to almost nothing.
const MAX_RATIO_BYTES: u64 = 1 << 30;
/// Maximum bytes that are copied to join deltas to their dictionaries, as a multiple of what the stream sent ...
const MAX_COPIES: u64 = 64;
/// ... plus this many.
const MAX_COPIED_BYTES: u64 = 1 << 30;

/// Maximum bytes of the values of a stream's views, counted for each row, as a multiple of what it decompresses to ...
const MAX_VIEWED: u64 = 64;
/// ... plus this many.
const MAX_VIEWED_BYTES: u64 = 1 << 30;

/// What one stream has sent and used.
#[derive(Default)]
pub(super) struct StreamBudget {
    /// Whether anything is refused: what was stored before can always be read.
    pub is_limited: bool,
    sent: u64,
    decompressed: u64,
    copied: u64,
    viewed: u64,
}

impl StreamBudget {
    /// Counts a message as it was received.
    pub(super) fn receive(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// Counts a message of this many bytes before it is decompressed.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: the stream decompresses to far more than it sent.
    pub(super) fn decompress(&mut self, bytes: usize) -> Result<()> {
        self.decompressed += bytes as u64;
        if !self.is_limited || self.decompressed <= self.sent * MAX_RATIO + MAX_RATIO_BYTES {
            return Ok(());
        }
        Err(Error::exhausted(format!(
            "the stream sent {} bytes, which decompress to {}: the limit is {MAX_RATIO} times as many and {MAX_RATIO_BYTES} \
             more; send it with LZ4 or without compression",
            self.sent, self.decompressed
        )))
    }

    /// Counts views of values of so many bytes before these are checked.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: rows share values so long that reading them for each row would take far longer than sending them.
    pub(super) fn view(&mut self, bytes: u64) -> Result<()> {
        self.viewed = self.viewed.saturating_add(bytes);
        let limit = self.decompressed.saturating_mul(MAX_VIEWED).saturating_add(MAX_VIEWED_BYTES);
        if !self.is_limited || self.viewed <= limit {
            return Ok(());
        }
        Err(Error::exhausted(format!(
            "rows share values: the views of the stream have {} bytes for {} that were sent, the limit is {MAX_VIEWED} times as \
             many and {MAX_VIEWED_BYTES} more; send shared values as a dictionary",
            self.viewed, self.decompressed
        )))
    }

    /// Counts a dictionary of this many bytes before it is copied for its deltas.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: far more is copied than was sent.
    pub(super) fn copy(&mut self, id: i64, bytes: usize) -> Result<()> {
        self.copied += bytes as u64;
        if !self.is_limited || self.copied <= self.sent * MAX_COPIES + MAX_COPIED_BYTES {
            return Ok(());
        }
        Err(Error::exhausted(format!(
            "dictionary {id} of {bytes} bytes has too many deltas: {} bytes were copied for {} that were sent; send larger \
             batches, or the dictionary whole",
            self.copied, self.sent
        )))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Code;

    #[test]
    fn stream_that_decompresses_to_far_more_is_refused() {
        let (message, zeros) = (100 << 10, (2 << 30) - 1);
        let mut unlimited = StreamBudget::default();
        let mut budget = StreamBudget { is_limited: true, ..StreamBudget::default() };
        let push = |budget: &mut StreamBudget| {
            budget.receive(message);
            budget.decompress(zeros)
        };
        let refused = (0..100).map(|_| push(&mut budget)).find_map(Result::err).unwrap();
        assert_eq!(refused.code, Code::ResourceExhausted);
        assert!(budget.decompressed < 3 << 30 && refused.message.contains("LZ4"), "{refused}");
        (0..100).for_each(|_| push(&mut unlimited).unwrap());
        let mut lz4 = StreamBudget { is_limited: true, ..StreamBudget::default() };
        for _ in 0..100 {
            lz4.receive(10 << 20);
            lz4.decompress(255 * (10 << 20)).unwrap();
        }
    }

    #[test]
    fn tiny_deltas_of_a_large_dictionary_are_refused() {
        let mut budget = StreamBudget { is_limited: true, ..StreamBudget::default() };
        let mut push = |bytes: usize| {
            budget.receive(300);
            budget.copy(0, bytes)
        };
        assert!((0..100_000).map(|_| push(300)).all(|copied| copied.is_ok()));
        let refused = (0..1000).map(|_| push(16 << 20)).find_map(Result::err).unwrap();
        assert!(refused.message.contains("deltas"), "{refused}");
    }
}
