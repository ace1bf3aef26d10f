//! Batches of a number of rows.

use std::collections::VecDeque;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use volley_common::{Error, Result};

/// Cuts and joins batches. Without a number of rows they stay as they are.
pub struct BatchSizer {
    schema: SchemaRef,
    rows: Option<usize>,
    waiting: VecDeque<RecordBatch>,
    waiting_rows: usize,
}

impl BatchSizer {
    /// `rows`: how many a batch has, except for the last one.
    pub fn new(schema: SchemaRef, rows: Option<usize>) -> Self {
        BatchSizer { schema, rows: rows.map(|rows| rows.max(1)), waiting: VecDeque::new(), waiting_rows: 0 }
    }

    /// Adds a batch; those without rows are left out.
    pub fn push(&mut self, batch: RecordBatch) {
        if batch.num_rows() > 0 {
            self.waiting_rows += batch.num_rows();
            self.waiting.push_back(batch);
        }
    }

    /// The next batch, if there are enough rows; with `is_end` also if there are fewer.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: batches that cannot be joined, such as of dictionaries with too many values.
    pub fn pop(&mut self, is_end: bool) -> Result<Option<RecordBatch>> {
        let wanted = match self.rows {
            None => self.waiting.front().map_or(0, RecordBatch::num_rows),
            Some(rows) if self.waiting_rows >= rows => rows,
            Some(_) if is_end => self.waiting_rows,
            Some(_) => 0,
        };
        if wanted == 0 { Ok(None) } else { self.take(wanted).map(Some) }
    }

    /// So many of the rows that wait.
    fn take(&mut self, wanted: usize) -> Result<RecordBatch> {
        let mut taken = Vec::new();
        let mut left = wanted;
        while left > 0
            && let Some(batch) = self.waiting.pop_front()
        {
            if batch.num_rows() > left {
                self.waiting.push_front(batch.slice(left, batch.num_rows() - left));
                taken.push(batch.slice(0, left));
                left = 0;
            } else {
                left -= batch.num_rows();
                taken.push(batch);
            }
        }
        self.waiting_rows -= wanted - left;
        match &taken[..] {
            [only] => Ok(only.clone()),
            several => concat_batches(&self.schema, several)
                .map_err(|e| Error::invalid(format!("batches cannot be joined: {e}; leave out batch_rows"))),
        }
    }
}
