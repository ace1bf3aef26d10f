//! Joins the few rows that a filter selects of each batch, and splits batches that are too large for one message.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use volley_common::ipc::encode::IpcMessage;
use volley_common::ipc::shrink::shrink_to_fit;
use volley_common::ipc::size::data_bytes;
use volley_common::ipc::split::split;
use volley_common::ipc::{MAX_SPLIT_BYTES, MESSAGE_BYTES};
use volley_common::{Error, Result};

use super::scan_output::ScanOutput;
use crate::storage::Part;

/// Batches are joined up to this many rows, and up to [`MESSAGE_BYTES`].
const JOINED_ROWS: usize = 8192;

/// The output of one step of a scan.
pub struct RowCollector<T> {
    part: Arc<Part>,
    outputs: Vec<T>,
    /// Batches that are not in `outputs` yet, their rows and their bytes.
    joined: Vec<RecordBatch>,
    joined_rows: usize,
    joined_bytes: usize,
    /// Of everything.
    bytes: usize,
}

impl<T: ScanOutput> RowCollector<T> {
    /// Without rows. The rows will be of this part.
    pub fn new(part: Arc<Part>) -> Self {
        RowCollector { part, outputs: Vec::new(), joined: Vec::new(), joined_rows: 0, joined_bytes: 0, bytes: 0 }
    }

    /// Bytes of all outputs.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a dictionary of rows that follow. It is not in the part's memory.
    ///
    /// # Errors
    /// DATA_LOSS: it is malformed.
    pub fn push_dictionary(&mut self, dictionary: &IpcMessage) -> Result<()> {
        let Some(dictionary) = T::of_dictionary(dictionary)? else { return Ok(()) };
        self.bytes += dictionary.size();
        self.outputs.push(dictionary);
        Ok(())
    }

    /// Adds rows. They may be in the part's memory.
    ///
    /// # Errors
    /// Those of [`RowCollector::finish`].
    pub fn push(&mut self, rows: RecordBatch) -> Result<()> {
        let rows = shrink_to_fit(&T::prepare(rows)?);
        let (count, bytes) = (rows.num_rows(), data_bytes(&rows));
        if self.joined_rows + count > JOINED_ROWS || self.joined_bytes + bytes > MESSAGE_BYTES {
            self.join()?;
        }
        self.bytes += bytes;
        self.joined.push(rows);
        self.joined_rows += count;
        self.joined_bytes += bytes;
        Ok(())
    }

    /// All outputs. None is in the part's memory.
    ///
    /// # Errors
    /// INTERNAL: rows cannot be joined or encoded. RESOURCE_EXHAUSTED: rows that share values become too large.
    pub fn finish(mut self) -> Result<Vec<T>> {
        self.join()?;
        Ok(self.outputs)
    }

    fn join(&mut self) -> Result<()> {
        let (joined, bytes) = (std::mem::take(&mut self.joined), std::mem::take(&mut self.joined_bytes));
        self.joined_rows = 0;
        let rows = match joined.as_slice() {
            [] => return Ok(()),
            [rows] => rows.clone(),
            several => concat_batches(&several[0].schema(), several)
                .map_err(|e| Error::internal(format!("the rows of a scan cannot be joined: {e}")))?,
        };
        if bytes <= MAX_SPLIT_BYTES {
            self.outputs.push(T::of_rows(&rows, &self.part)?);
            return Ok(());
        }
        for rows in split(&rows, MESSAGE_BYTES) {
            self.outputs.push(T::of_rows(&rows?, &self.part)?);
        }
        Ok(())
    }
}
