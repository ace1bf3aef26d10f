//! Splits record batches into batches of about 1 MiB.

use std::collections::VecDeque;

use arrow::array::RecordBatch;

use super::MAX_SPLIT_BYTES;
use super::shrink::shrink_to_fit;
use super::size::data_bytes;
use crate::{Error, Result};

/// Ranges begin at a multiple of this many rows, so that bitmaps and values are sliced without being shifted.
const ROW_STEP: usize = 64;
/// Halves that have this many eighths of the bytes of their batch share values with each other ...
const SHARED_EIGHTHS: usize = 10;
/// ... if that is not the padding of small buffers, bytes.
const MIN_SHARED_BYTES: usize = 256 << 10;
/// Maximum bytes of all batches together, as a multiple of the batch that is split ...
const MAX_GROWTH: usize = 8;
/// ... plus this many bytes.
const MAX_GROWTH_BYTES: usize = 64 << 20;

/// Splits a batch into consecutive ones of about `target_bytes` of Arrow data each (see [`super::MESSAGE_BYTES`]).
///
/// `batch` must own no more than its rows (see [`super::shrink`]), and so do the results: only what is sliced here is
/// compacted here. A batch without rows is returned unchanged.
///
/// A batch is over [`super::MAX_SPLIT_BYTES`] only if it has one row, or if its rows share values of which one is as large.
/// Rows that share values stay together if a split would multiply the values and is not needed for that limit.
///
/// # Errors
/// RESOURCE_EXHAUSTED: the batches need far more memory than `batch`, because its rows share values.
pub fn split(batch: &RecordBatch, target_bytes: usize) -> impl Iterator<Item = Result<RecordBatch>> + Send + use<> {
    let (rows, bytes) = (batch.num_rows(), data_bytes(batch));
    let step = rows.div_ceil(bytes.div_ceil(target_bytes.max(1)).max(1)).max(1);
    let step = if step > ROW_STEP { step.next_multiple_of(ROW_STEP) } else { step };
    BatchSplitter {
        batch: batch.clone(),
        step,
        next_row: 0,
        max_bytes: MAX_SPLIT_BYTES.min(target_bytes.saturating_mul(2)).max(1),
        remaining_bytes: bytes.saturating_mul(MAX_GROWTH).saturating_add(MAX_GROWTH_BYTES),
        halves: VecDeque::new(),
    }
}

struct BatchSplitter {
    batch: RecordBatch,
    /// Rows of a range before its size is known.
    step: usize,
    /// First row after all ranges taken so far.
    next_row: usize,
    /// A larger range is halved.
    max_bytes: usize,
    /// Bytes that the next batches may have.
    remaining_bytes: usize,
    /// Batches that come before `next_row`, the next one first. Each is halved while it is too large.
    halves: VecDeque<RecordBatch>,
}

impl Iterator for BatchSplitter {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Result<RecordBatch>> {
        loop {
            let batch = match self.halves.pop_front() {
                Some(batch) => batch,
                None => match self.next_range()? {
                    range if range.num_rows() <= 1 || data_bytes(&range) <= self.max_bytes => range,
                    // What follows is of the same kind: large rows, or rows that share values. Halving all of it finds
                    // those that belong together.
                    range => self.take_rest(range),
                },
            };
            let bytes = data_bytes(&batch);
            let halves = (batch.num_rows() > 1 && bytes > self.max_bytes).then(|| halve(&batch));
            match halves {
                Some((left, right)) if !stays_whole(&batch, bytes, &left, &right) => {
                    self.halves.push_front(right);
                    self.halves.push_front(left);
                }
                _ => return Some(self.checked(batch, bytes)),
            }
        }
    }
}

impl BatchSplitter {
    /// The rows to try next.
    fn next_range(&mut self) -> Option<RecordBatch> {
        let all = self.batch.num_rows();
        // A batch without rows is one range.
        if self.next_row >= all.max(1) {
            return None;
        }
        let (first, rows) = (self.next_row, self.step.min(all - self.next_row));
        self.next_row = first + self.step;
        Some(if rows == all { self.batch.clone() } else { shrink_to_fit(&self.batch.slice(first, rows)) })
    }

    /// All rows from those of `range` on, which was taken last.
    fn take_rest(&mut self, range: RecordBatch) -> RecordBatch {
        let all = self.batch.num_rows();
        if self.next_row >= all {
            return range;
        }
        let first = self.next_row - self.step;
        self.next_row = all;
        if first == 0 { self.batch.clone() } else { shrink_to_fit(&self.batch.slice(first, all - first)) }
    }

    fn checked(&mut self, batch: RecordBatch, bytes: usize) -> Result<RecordBatch> {
        match self.remaining_bytes.checked_sub(bytes) {
            Some(remaining) => {
                self.remaining_bytes = remaining;
                Ok(batch)
            }
            None => {
                self.next_row = self.batch.num_rows().max(1);
                self.halves.clear();
                Err(Error::exhausted(format!(
                    "{} rows of {} bytes share values, and would need more than {} times as many bytes in messages of at most 4 MiB: \
                     send smaller batches, or the shared values as a dictionary",
                    self.batch.num_rows(),
                    data_bytes(&self.batch),
                    MAX_GROWTH
                )))
            }
        }
    }
}

/// Both halves of the rows.
fn halve(batch: &RecordBatch) -> (RecordBatch, RecordBatch) {
    let rows = batch.num_rows();
    let half = if rows > 2 * ROW_STEP { (rows / 2).next_multiple_of(ROW_STEP) } else { rows / 2 };
    (shrink_to_fit(&batch.slice(0, half)), shrink_to_fit(&batch.slice(half, rows - half)))
}

/// Whether a batch is better left whole, because its halves would both need values that they share.
fn stays_whole(batch: &RecordBatch, bytes: usize, left: &RecordBatch, right: &RecordBatch) -> bool {
    let is_shared = bytes > MIN_SHARED_BYTES && data_bytes(left) + data_bytes(right) > bytes / 8 * SHARED_EIGHTHS;
    // A split that leaves a row over the limit does not help a client.
    is_shared && (bytes <= MAX_SPLIT_BYTES || large_row_bytes(batch) > MAX_SPLIT_BYTES)
}

/// Bytes of one row, searched in the larger halves.
fn large_row_bytes(batch: &RecordBatch) -> usize {
    let mut largest = batch.clone();
    while largest.num_rows() > 1 {
        let (left, right) = halve(&largest);
        largest = if data_bytes(&left) >= data_bytes(&right) { left } else { right };
    }
    data_bytes(&largest)
}

#[cfg(test)]
mod tests;
