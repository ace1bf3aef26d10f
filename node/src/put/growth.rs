//! Bounds what a put stores by what it sent. Rows that share values (of a dictionary, a run, a view) need them in every
//! part and message that they are distributed to.

use arrow::array::RecordBatch;
use volley_common::ipc::dictionary_keys::dictionary_bytes;
use volley_common::ipc::size::data_bytes;
use volley_common::{Error, Result};

/// Maximum bytes that are stored, as a multiple of those that were sent ...
const MAX_GROWTH: u64 = 16;
/// ... plus this many bytes ...
const MAX_GROWTH_BYTES: u64 = 64 << 20;
/// ... plus this many for the schema, footer and headers of each part, and for each of its columns.
const PART_BYTES: u64 = 64 << 10;
const COLUMN_BYTES: u64 = 1 << 10;

/// What a put sent and stored. Without anything received there is no limit: a compaction writes what was stored before.
#[derive(Debug, Default)]
pub struct GrowthLimit {
    /// Bytes of batches, and of what counts with them.
    received: u64,
    /// The dictionaries are those of the last batch.
    dictionaries_counted: bool,
    /// Of parts that have ended.
    written: u64,
}

impl GrowthLimit {
    /// Counts a batch, and dictionaries that came before it.
    pub fn receive(&mut self, batch: &RecordBatch) -> Result<()> {
        self.received += data_bytes(batch) as u64;
        if !self.dictionaries_counted {
            self.dictionaries_counted = true;
            let bytes = dictionary_bytes(batch).map_err(|e| Error::internal(format!("a dictionary: {e}")))?;
            self.received += bytes as u64;
        }
        Ok(())
    }

    /// Counts what was sent around a batch, bytes.
    pub fn receive_header(&mut self, bytes: usize) {
        self.received += bytes as u64;
    }

    /// The next batch has another dictionary.
    pub fn receive_dictionary(&mut self) {
        self.dictionaries_counted = false;
    }

    /// Counts a part that has ended.
    pub fn end_part(&mut self, bytes: u64) {
        self.written += bytes;
    }

    /// `open`: bytes of the open parts; `parts`: how many were created.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: the put stores far more than it sent.
    pub fn check(&self, open: u64, parts: u64, columns: usize) -> Result<()> {
        let overhead = MAX_GROWTH_BYTES + parts * (PART_BYTES + COLUMN_BYTES * columns as u64);
        let written = self.written + open;
        if self.received == 0 || written <= self.received * MAX_GROWTH + overhead {
            return Ok(());
        }
        Err(Error::exhausted(format!(
            "the put sent {} bytes of rows, and {written} bytes were written: its rows share values (of dictionaries, runs or \
             views) that each shard needs; use fewer shards, or smaller values",
            self.received
        )))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::{ArrayRef, DictionaryArray, Int8Array, StringArray};
    use arrow::datatypes::Int8Type;

    use super::*;

    #[test]
    fn put_that_stores_far_more_than_it_sent_is_refused() {
        let values = Arc::new(StringArray::from(vec!["x".repeat(10 << 20)]));
        let column = DictionaryArray::<Int8Type>::new(Int8Array::from(vec![0; 8]), values);
        let batch = RecordBatch::try_from_iter([("d", Arc::new(column) as ArrayRef)]).unwrap();
        let mut growth = GrowthLimit::default();
        growth.check(1 << 40, 1, 1).unwrap();
        growth.receive(&batch).unwrap();
        growth.receive(&batch).unwrap();
        growth.end_part(100 << 20);
        growth.check(100 << 20, 2, 1).unwrap();
        let error = growth.check(200 << 20, 2, 1).unwrap_err();
        assert!(error.message.contains("fewer shards"), "{error}");
        growth.receive_dictionary();
        growth.receive(&batch).unwrap();
        growth.check(200 << 20, 2, 1).unwrap();
    }
}
