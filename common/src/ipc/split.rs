//! Splits record batches into batches of about 1 MiB.

use arrow::array::RecordBatch;

use super::MAX_SPLIT_BYTES;
use super::shrink::shrink_to_fit;
use super::size::data_bytes;

/// Ranges begin at a multiple of this many rows, so that bitmaps and values are sliced without being shifted.
const ROW_STEP: usize = 64;

/// Splits a batch into consecutive ones of about `target_bytes` of Arrow data each (see [`super::MESSAGE_BYTES`]).
///
/// `batch` must own no more than its rows (see [`super::shrink`]), and so do the results: only what is sliced here is
/// compacted here. A batch is over [`super::MAX_SPLIT_BYTES`] only if it has one row. A batch without rows is returned
/// unchanged.
pub fn split(batch: &RecordBatch, target_bytes: usize) -> impl Iterator<Item = RecordBatch> + Send + use<> {
    let batch = batch.clone();
    let rows = batch.num_rows();
    let count = data_bytes(&batch).div_ceil(target_bytes.max(1)).max(1);
    let step = rows.div_ceil(count).max(1);
    let step = if step > ROW_STEP { step.next_multiple_of(ROW_STEP) } else { step };
    let max_bytes = MAX_SPLIT_BYTES.min(target_bytes.saturating_mul(2)).max(1);
    BatchSplitter { batch, step, next_row: 0, max_bytes, pending: Vec::new() }
}

struct BatchSplitter {
    batch: RecordBatch,
    /// Rows of a range before its size is known.
    step: usize,
    /// First row after all ranges taken so far.
    next_row: usize,
    /// A larger range is halved.
    max_bytes: usize,
    /// Halves that come before `next_row`, as first row and number of rows, the next one last.
    pending: Vec<(usize, usize)>,
}

impl Iterator for BatchSplitter {
    type Item = RecordBatch;

    fn next(&mut self) -> Option<RecordBatch> {
        loop {
            let (at, rows) = self.next_range()?;
            let batch = match rows == self.batch.num_rows() {
                true => self.batch.clone(),
                false => shrink_to_fit(&self.batch.slice(at, rows)),
            };
            if rows <= 1 || data_bytes(&batch) <= self.max_bytes {
                return Some(batch);
            }
            let half = rows / 2;
            self.pending.push((at + half, rows - half));
            self.pending.push((at, half));
        }
    }
}

impl BatchSplitter {
    /// The rows to try next: the first and how many.
    fn next_range(&mut self) -> Option<(usize, usize)> {
        let all = self.batch.num_rows();
        if let Some(range) = self.pending.pop() {
            return Some(range);
        }
        // A batch without rows is one range.
        if self.next_row >= all.max(1) {
            return None;
        }
        let at = self.next_row;
        self.next_row = at + self.step;
        Some((at, self.step.min(all - at)))
    }
}

#[cfg(test)]
mod tests;
