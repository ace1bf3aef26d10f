//! One step of the scan of a local part, on a thread that may wait for the disk.
//!
//! A step reads groups of messages. Of each group it faults in the columns of the filter, evaluates it, and then faults in the
//! other columns of those messages of which rows are selected. Arrays use the memory of the mapped file while the step lasts; what
//! it returns has memory of its own, and is correct if the file is unchanged afterwards.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::RecordBatch;
use volley_common::Result;
use volley_common::ipc::MESSAGE_BYTES;

use super::column_reader::{ColumnReader, SelectedMessage};
use super::large_batch::{LargeBatch, is_large};
use super::row_collector::RowCollector;
use super::scan_output::ScanOutput;
use super::scan_plan::ScanPlan;
use crate::storage::Part;

/// A step ends when it has this many bytes of rows ...
const OUTPUT_BYTES: usize = MESSAGE_BYTES;
/// ... or has read this many bytes of messages: an aborted scan ends soon.
const STEP_BYTES: u64 = 64 << 20;
/// Bytes of the messages of the first group, and the least of any.
const FIRST_GROUP_BYTES: u64 = 1 << 20;
/// Bytes of the messages of the largest group.
const GROUP_BYTES: u64 = 32 << 20;
/// The same of compressed messages, whose columns are decompressed to memory.
const COMPRESSED_GROUP_BYTES: u64 = 4 << 20;
/// The most compressed messages of a group: each becomes about 1 MiB, however few bytes it is stored in.
const COMPRESSED_GROUP: usize = 8;

/// A part and the position in it.
pub struct ScanWorker<T> {
    reader: ColumnReader,
    output: PhantomData<fn() -> T>,
    next_batch: usize,
    /// Of a batch before `next_batch` some rows were read.
    large: Option<LargeBatch>,
    /// Rows that may still be selected, if there is a limit.
    remaining_rows: Option<u64>,
    /// The share of the messages' bytes that the last group selected; 1 before the first.
    selected_share: f64,
    /// Bytes of the messages of the largest group so far: the next one has twice as many at most.
    group_bytes: u64,
    is_stopped: Arc<AtomicBool>,
}

impl<T: ScanOutput> ScanWorker<T> {
    /// Begins with the first row. Ends soon after `is_stopped` is set.
    pub fn new(part: Arc<Part>, plan: Arc<ScanPlan>, remaining_rows: Option<u64>, is_stopped: Arc<AtomicBool>) -> Self {
        ScanWorker {
            reader: ColumnReader::new(part, plan),
            output: PhantomData,
            next_batch: 0,
            large: None,
            remaining_rows,
            selected_share: 1.0,
            group_bytes: FIRST_GROUP_BYTES,
            is_stopped,
        }
    }

    /// Whether all rows were read, or as many as the limit permits.
    pub fn is_done(&self) -> bool {
        let is_read = self.large.is_none() && self.next_batch >= self.reader.part.batches().len();
        is_read || self.is_limit_reached()
    }

    fn is_limit_reached(&self) -> bool {
        self.remaining_rows == Some(0)
    }

    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }

    /// The next rows, of about 1 MiB; none does not mean the end. Blocks.
    ///
    /// # Errors
    /// DATA_LOSS: the file was changed or cannot be read. Those of the filter, and of [`RowCollector::finish`]. What was returned
    /// before is correct.
    pub fn run(&mut self) -> Result<Vec<T>> {
        let part = self.reader.part.clone();
        part.check_unchanged()?;
        let outputs = self.read();
        // If the file was changed, that is the cause of every error, and rows may be wrong.
        part.check_unchanged()?;
        outputs
    }

    fn read(&mut self) -> Result<Vec<T>> {
        let mut output = RowCollector::new(self.reader.part.clone());
        let mut read = 0;
        while output.bytes() < OUTPUT_BYTES && read < STEP_BYTES && !self.is_done() && !self.is_stopped() {
            read += match self.large.take() {
                Some(large) => self.read_large(large, &mut output)?,
                None => self.read_group(&mut output)?,
            };
        }
        output.finish()
    }

    /// Reads the next messages; returns their bytes.
    fn read_group(&mut self, output: &mut RowCollector<T>) -> Result<u64> {
        let part = self.reader.part.clone();
        let group = self.next_group(OUTPUT_BYTES.saturating_sub(output.bytes()));
        let messages = &part.batches()[group.clone()];
        let headers = self.reader.headers(messages)?;
        if let ([message], [header]) = (messages, headers.as_slice())
            && is_large(message)
        {
            self.next_batch = group.end;
            return self.read_large(LargeBatch::new(message.clone(), header.clone()), output);
        }
        let before = output.bytes();
        let selected = self.reader.select(messages, headers)?;
        let mut read = 0;
        let wanted: Vec<&SelectedMessage<'_>> = selected.iter().filter(|message| message.has_rows()).collect();
        self.reader.load_rest(&wanted)?;
        for message in &selected {
            // A group that selects much more than the one before it is left; the rest is read again.
            if self.is_limit_reached() || output.bytes() >= 2 * OUTPUT_BYTES {
                break;
            }
            self.next_batch += 1;
            read += message.message.body.end - message.message.header.start;
            if message.has_rows() {
                let rows = self.reader.rows_of(message)?;
                self.push(rows, output)?;
            }
        }
        self.selected_share = (output.bytes() - before) as f64 / read.max(1) as f64;
        Ok(read)
    }

    /// The messages of the next group, one at least: so many that it selects about `output_bytes`, if it is like the last one. A
    /// large message is a group of its own.
    fn next_group(&mut self, output_bytes: usize) -> Range<usize> {
        let batches = self.reader.part.batches();
        let is_compressed = batches.get(self.next_batch).is_some_and(|message| message.compressed);
        let (most, most_messages) =
            if is_compressed { (COMPRESSED_GROUP_BYTES, COMPRESSED_GROUP) } else { (GROUP_BYTES, usize::MAX) };
        let wanted = (output_bytes as f64 / self.selected_share) as u64;
        let limit = wanted.min(2 * self.group_bytes).clamp(FIRST_GROUP_BYTES, most);
        self.group_bytes = self.group_bytes.max(limit);
        let (mut end, mut bytes) = (self.next_batch, 0);
        while let Some(message) = batches.get(end) {
            let is_full = bytes >= limit || end - self.next_batch >= most_messages;
            if end > self.next_batch && (is_full || is_large(message)) {
                break;
            }
            bytes += message.body.end - message.header.start;
            end += 1;
            if is_large(message) {
                break;
            }
        }
        self.next_batch..end
    }

    /// Reads rows of a large message, until there are enough; returns the bytes of the message.
    fn read_large(&mut self, mut large: LargeBatch, output: &mut RowCollector<T>) -> Result<u64> {
        let bytes = large.bytes();
        large.reload(&mut self.reader)?;
        while output.bytes() < OUTPUT_BYTES && !self.is_limit_reached() && !self.is_stopped() {
            let Some(rows) = large.next_rows(&mut self.reader)? else { return Ok(bytes) };
            self.push(rows, output)?;
        }
        self.large = (!large.is_read()).then_some(large);
        Ok(bytes)
    }

    /// Adds rows to the output, as far as the limit permits.
    fn push(&mut self, rows: RecordBatch, output: &mut RowCollector<T>) -> Result<()> {
        let rows = match self.remaining_rows {
            Some(remaining) if remaining < rows.num_rows() as u64 => rows.slice(0, remaining as usize),
            _ => rows,
        };
        if rows.num_rows() == 0 {
            return Ok(());
        }
        self.remaining_rows = self.remaining_rows.map(|remaining| remaining - rows.num_rows() as u64);
        for dictionary in self.reader.take_new_dictionaries() {
            output.push_dictionary(&dictionary)?;
        }
        output.push(rows)
    }
}
