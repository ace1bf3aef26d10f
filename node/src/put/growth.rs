//! Bounds what a put stores by what it sent. Rows that share values (of a dictionary, a run, a view) need them in every
//! part and message that they are distributed to.

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use volley_common::ipc::dictionary_keys::dictionary_fields;
use volley_common::ipc::size::data_bytes;
use volley_common::{Error, Result};

use crate::storage::MAX_WHOLE_BYTES;

/// Maximum bytes that are stored, as a multiple of those that were sent ...
const MAX_GROWTH: u64 = 16;
/// ... plus this many bytes ...
const MAX_GROWTH_BYTES: u64 = 64 << 20;
/// ... plus this many for the schema, footer and headers of each part, and for each of its columns. Each of its
/// dictionaries may have [`MAX_WHOLE_BYTES`].
const PART_BYTES: u64 = 64 << 10;
const COLUMN_BYTES: u64 = 1 << 10;

/// What a put sent and stored. Without anything received there is no limit: a compaction writes what was stored before.
#[derive(Debug)]
pub struct GrowthLimit {
    /// Bytes of batches, and of what counts with them.
    received: u64,
    /// Of parts that have ended.
    written: u64,
    /// What each part may have besides.
    part_overhead: u64,
}

impl GrowthLimit {
    /// For parts of this schema.
    pub fn new(schema: &Schema) -> Self {
        let dictionaries = (dictionary_fields(schema).len() * MAX_WHOLE_BYTES) as u64;
        let part_overhead = PART_BYTES + COLUMN_BYTES * schema.fields().len() as u64 + dictionaries;
        GrowthLimit { received: 0, written: 0, part_overhead }
    }

    /// Counts what was sent around a batch, bytes.
    pub fn receive_header(&mut self, bytes: usize) {
        self.received += bytes as u64;
    }

    /// Counts a batch without its dictionaries.
    pub fn receive(&mut self, batch: &RecordBatch) {
        self.received += data_bytes(batch) as u64;
    }

    /// Counts a dictionary, or a delta, of this many bytes.
    pub fn receive_dictionary(&mut self, bytes: usize) {
        self.received += bytes as u64;
    }

    /// Counts a part that has ended.
    pub fn end_part(&mut self, bytes: u64) {
        self.written += bytes;
    }

    /// `open`: bytes of the open parts; `parts`: how many were created.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: the put stores far more than it sent.
    pub fn check(&self, open: u64, parts: u64) -> Result<()> {
        let overhead = MAX_GROWTH_BYTES + parts * self.part_overhead;
        let written = self.written + open;
        if self.received == 0 || written <= self.received * MAX_GROWTH + overhead {
            return Ok(());
        }
        Err(Error::exhausted(format!(
            "the put sent {} bytes of rows, and {written} bytes were written: its rows share values (of dictionaries, runs or \
             views) that each shard needs, and a part has the whole of an ordered dictionary; use fewer shards, or smaller values",
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

    fn batch() -> RecordBatch {
        let column =
            DictionaryArray::<Int8Type>::new(Int8Array::from(vec![0; 8]), Arc::new(StringArray::from(vec!["x"])));
        RecordBatch::try_from_iter([("d", Arc::new(column) as ArrayRef)]).unwrap()
    }

    #[test]
    fn put_that_stores_far_more_than_it_sent_is_refused() {
        let batch = batch();
        let mut growth = GrowthLimit::new(&batch.schema());
        growth.check(1 << 40, 1).unwrap();
        growth.receive_dictionary(10 << 20);
        growth.receive(&batch);
        growth.receive(&batch);
        growth.end_part(100 << 20);
        growth.check(100 << 20, 2).unwrap();
        let error = growth.check(200 << 20, 2).unwrap_err();
        assert!(error.message.contains("fewer shards"), "{error}");
        growth.receive_dictionary(10 << 20);
        growth.check(200 << 20, 2).unwrap();
    }

    #[test]
    fn dictionary_that_is_sent_again_counts_alone() {
        let batch = batch();
        let mut growth = GrowthLimit::new(&batch.schema());
        growth.receive_dictionary(10 << 20);
        for _ in 0..100 {
            growth.receive_dictionary(100);
            growth.receive(&batch);
        }
        assert!(growth.check(300 << 20, 1).is_err(), "the large one was received once");
    }

    #[test]
    fn small_dictionaries_of_every_part_are_allowed() {
        let batch = batch();
        let mut growth = GrowthLimit::new(&batch.schema());
        growth.receive_dictionary(MAX_WHOLE_BYTES);
        growth.receive(&batch);
        growth.check(10_000 * MAX_WHOLE_BYTES as u64, 10_000).unwrap();
    }
}
