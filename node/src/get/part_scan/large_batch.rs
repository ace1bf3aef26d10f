//! A record batch that is larger than a message usually is, as tables with `preserve_batches` have them: its rows are read in
//! pieces, so that the memory of a scan is bounded by what it selects.

use arrow::array::RecordBatch;
use bytes::Bytes;
use volley_common::Result;
use volley_common::ipc::MESSAGE_BYTES;

use super::column_reader::ColumnReader;
use super::scan_plan::Selection;
use crate::storage::PartMessage;

/// A message of more bytes is read in pieces.
const LARGE_BYTES: u64 = 4 << 20;

/// Whether a message is read in pieces.
pub fn is_large(message: &PartMessage) -> bool {
    message.body.end - message.body.start > LARGE_BYTES
}

/// A large batch and the position in it. It holds decoded columns: of a compressed message these are in memory, of any other in
/// the mapped file.
pub struct LargeBatch {
    message: PartMessage,
    header: Bytes,
    filtered: Option<RecordBatch>,
    /// The other columns, once a row is selected.
    rest: Option<RecordBatch>,
    is_rest_read: bool,
    next_row: usize,
    /// Rows of a piece.
    step: usize,
}

impl LargeBatch {
    /// Before its first row. `header`: a copy of its bare flatbuffer.
    pub fn new(message: PartMessage, header: Bytes) -> Self {
        let pieces = (message.body.end - message.body.start).div_ceil(MESSAGE_BYTES as u64).max(1);
        let step = message.rows.div_ceil(pieces).max(1) as usize;
        LargeBatch { message, header, filtered: None, rest: None, is_rest_read: false, next_row: 0, step }
    }

    /// Bytes of the message.
    pub fn bytes(&self) -> u64 {
        self.message.body.end - self.message.header.start
    }

    /// Whether all rows were read.
    pub fn is_read(&self) -> bool {
        self.next_row as u64 >= self.message.rows
    }

    /// Faults in what was read before: it may have been evicted from memory since.
    pub fn reload(&self, reader: &mut ColumnReader) -> Result<()> {
        let plan = reader.plan.clone();
        if let Some(filter) = plan.filter() {
            reader.load(&filter.columns, [(&self.message, &self.header)].into_iter())?;
        }
        match self.is_rest_read {
            true => reader.load(plan.rest(), [(&self.message, &self.header)].into_iter()),
            false => Ok(()),
        }
    }

    /// The selected rows of the next piece of which any are selected; `None` after the last. [`LargeBatch::reload`] must come
    /// before.
    ///
    /// # Errors
    /// DATA_LOSS: the message cannot be read. Those of the filter.
    pub fn next_rows(&mut self, reader: &mut ColumnReader) -> Result<Option<RecordBatch>> {
        let plan = reader.plan.clone();
        while !self.is_read() {
            let first = self.next_row;
            let rows = self.step.min(self.message.rows as usize - first);
            self.next_row += rows;
            let (filtered, selection) = match plan.filter() {
                None => (None, Selection::All),
                Some(filter) => {
                    if self.filtered.is_none() {
                        self.filtered = Some(reader.columns(&filter.columns, &self.message, &self.header)?);
                    }
                    let filtered = self.filtered.as_ref().map(|batch| batch.slice(first, rows));
                    let selection = filtered.as_ref().map_or(Ok(Selection::All), |batch| filter.select(batch))?;
                    (filtered, selection)
                }
            };
            if matches!(selection, Selection::None) {
                continue;
            }
            self.read_rest(reader)?;
            let rest = self.rest.as_ref().map(|batch| batch.slice(first, rows));
            return plan.output(filtered.as_ref(), rest.as_ref(), rows, &selection).map(Some);
        }
        Ok(None)
    }

    fn read_rest(&mut self, reader: &mut ColumnReader) -> Result<()> {
        if self.is_rest_read {
            return Ok(());
        }
        let plan = reader.plan.clone();
        reader.load(plan.rest(), [(&self.message, &self.header)].into_iter())?;
        self.rest = reader.rest_of(&self.message, &self.header)?;
        self.is_rest_read = true;
        Ok(())
    }
}
