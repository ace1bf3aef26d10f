//! Splits batches into shards: by consecutive blocks of rows, or by the hash of key columns.
//!
//! Pure: there is no I/O. The results go to a [`ShardSink`].

use arrow::array::{RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use volley_common::ipc::MAX_SPLIT_BYTES;
use volley_common::ipc::shrink::{detach, shrink_to_fit};
use volley_common::ipc::size::data_bytes;
use volley_common::ipc::split::split;
use volley_common::ipc::take::take_values;
use volley_common::ipc::unshared::repeated_bytes;
use volley_common::partition::Partitioner;
use volley_common::wire::catalog::TableSpec;
use volley_common::{Error, Result};

use super::blocks::{BlockCursor, ShardSink, TargetSizes, WholeBatches};

/// Maximum bytes of rows that are buffered, in all shards together, to become messages of the target size.
const MAX_PENDING: usize = 32 << 20;
/// Maximum bytes of rows that are sorted into shards together. They are read once for each shard, and stay in the
/// processor's cache during that time.
const MAX_WINDOW: usize = 16 << 20;
/// The least number of bytes that a row counts in a window. The indexes of a row (its shard, its position in the shard,
/// its position in the sorted window) take four times as much, so this bounds the memory for rows of very few bytes.
const MIN_ROW_BYTES: usize = 3;

/// Maximum bytes by which a batch may grow, because its rows share values, when it is sorted into shards.
const MAX_REPEATED: usize = 64 << 20;

/// The same for batches that are joined to one message, which must not become too large.
const MAX_JOIN_REPEATED: usize = 32 << 10;

/// Splits one stream of batches into shards.
///
/// Batches must already conform to the table's schema. [`BatchPartitioner::push`] detaches and compacts each of them;
/// rows that are sliced or sorted afterwards are compacted where that is done.
pub enum BatchPartitioner {
    /// Without keys: consecutive blocks of rows go to the shards in turn.
    RoundRobin(BlockPartitioner),
    /// By the hash of key columns.
    Hash(HashPartitioner),
    /// Without keys, and batches are kept as they are put: consecutive blocks of whole batches.
    Whole(WholeBatches),
}

impl BatchPartitioner {
    /// For a table of this spec. The first block goes to the shard `first`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a key column that does not exist or cannot be hashed.
    pub fn new(spec: &TableSpec, schema: &SchemaRef, sizes: TargetSizes, first: u32) -> Result<Self> {
        let shards = spec.shards.max(1);
        let blocks = |sizes, first_shard| BlockPartitioner {
            blocks: BlockCursor::new(shards, sizes, first_shard),
            pending: PendingRows::default(),
        };
        match (spec.shard_by.is_empty(), spec.preserve_batches) {
            (true, true) => {
                let blocks = BlockCursor::new(shards, sizes, u64::from(first));
                return Ok(BatchPartitioner::Whole(WholeBatches::new(blocks)));
            }
            (true, false) => return Ok(BatchPartitioner::RoundRobin(blocks(sizes, u64::from(first)))),
            (false, true) => return Err(Error::internal("a table with shard_by cannot preserve batches")),
            (false, false) => {}
        }
        let partitioner = Partitioner::new(schema, &spec.shard_by, shards)?;
        Ok(match shards {
            // All rows go to the only shard, in the order in which they arrive.
            1 => {
                BatchPartitioner::RoundRobin(blocks(TargetSizes { block: u64::MAX, first_block: u64::MAX, ..sizes }, 0))
            }
            _ => BatchPartitioner::Hash(HashPartitioner::new(partitioner, shards, sizes.message)),
        })
    }

    /// Adds the stream's next batch. Its `app_metadata` is stored, and a batch without rows is, if the table preserves
    /// batches.
    pub fn push(&mut self, batch: &RecordBatch, app_metadata: &[u8], sink: &mut impl ShardSink) -> Result<()> {
        match self {
            BatchPartitioner::Whole(whole) => whole.push(batch, app_metadata, sink),
            _ if batch.num_rows() == 0 => Ok(()),
            BatchPartitioner::RoundRobin(blocks) => blocks.push(&detach(batch), sink),
            BatchPartitioner::Hash(keys) => keys.push(&detach(batch), sink),
        }
    }

    /// Sorts at most this many bytes of rows together.
    pub fn limit_window(&mut self, bytes: usize) {
        if let BatchPartitioner::Hash(keys) = self {
            keys.max_window = keys.max_window.min(bytes.max(1));
        }
    }

    /// Bytes of all buffered rows.
    pub fn buffered(&self) -> usize {
        match self {
            BatchPartitioner::RoundRobin(blocks) => blocks.pending.bytes,
            BatchPartitioner::Hash(keys) => keys.window_weight + keys.pending_bytes,
            BatchPartitioner::Whole(_) => 0,
        }
    }

    /// Writes all buffered rows: before a dictionary changes, and at the end.
    pub fn flush(&mut self, sink: &mut impl ShardSink) -> Result<()> {
        match self {
            BatchPartitioner::RoundRobin(blocks) => blocks.flush(sink),
            BatchPartitioner::Hash(keys) => keys.flush(sink),
            BatchPartitioner::Whole(_) => Ok(()),
        }
    }
}

/// Assigns consecutive blocks of rows to the shards, round robin.
pub struct BlockPartitioner {
    blocks: BlockCursor,
    pending: PendingRows,
}

impl BlockPartitioner {
    fn push(&mut self, batch: &RecordBatch, sink: &mut impl ShardSink) -> Result<()> {
        let bytes = data_bytes(batch);
        if bytes <= self.blocks.message_bytes() {
            return self.add(batch.clone(), bytes, sink);
        }
        split(batch, self.blocks.message_bytes()).try_for_each(|piece| {
            let piece = piece?;
            let bytes = data_bytes(&piece);
            self.add(piece, bytes, sink)
        })
    }

    /// Adds rows of at most about one message.
    fn add(&mut self, rows: RecordBatch, bytes: usize, sink: &mut impl ShardSink) -> Result<()> {
        if self.pending.bytes + bytes > self.blocks.message_bytes() {
            self.flush(sink)?;
        }
        self.pending.push(rows, bytes);
        if self.blocks.is_full_with(self.pending.bytes) {
            self.flush(sink)?;
        }
        Ok(())
    }

    /// Writes the buffered rows, and ends the block if it is full.
    fn flush(&mut self, sink: &mut impl ShardSink) -> Result<()> {
        let (shard, bytes) = (self.blocks.shard(), self.pending.bytes);
        self.pending.take().iter().try_for_each(|message| sink.write(shard, message))?;
        self.blocks.advance(bytes, sink)
    }
}

/// Assigns rows to shards by the hash of their key columns.
///
/// Batches are gathered in a window of about one message for each shard. The window is then sorted by shard in one pass
/// over each column, and a shard's message is a slice of the result. Only rows of a shard that do not fill a message
/// yet are copied a second time, when there are enough of them.
pub struct HashPartitioner {
    partitioner: Partitioner,
    message_bytes: usize,
    /// Batches that will be sorted together, their [`weight`], and its limit.
    window: Vec<RecordBatch>,
    window_weight: usize,
    max_window: usize,
    shards: Vec<PendingRows>,
    /// Bytes that are buffered in all shards.
    pending_bytes: usize,
}

impl HashPartitioner {
    fn new(partitioner: Partitioner, shards: u32, message_bytes: usize) -> Self {
        HashPartitioner {
            partitioner,
            message_bytes,
            window: Vec::new(),
            window_weight: 0,
            max_window: message_bytes.saturating_mul(shards as usize).min(MAX_WINDOW.max(message_bytes)),
            shards: (0..shards).map(|_| PendingRows::default()).collect(),
            pending_bytes: 0,
        }
    }

    fn push(&mut self, batch: &RecordBatch, sink: &mut impl ShardSink) -> Result<()> {
        check_repeated(batch)?;
        let windows = weight(batch).div_ceil(self.max_window).max(1);
        let step = batch.num_rows().div_ceil(windows).max(1);
        for at in (0..batch.num_rows()).step_by(step) {
            let piece = batch.slice(at, step.min(batch.num_rows() - at));
            let weight = weight(&piece);
            if self.window_weight + weight > self.max_window {
                self.sort(sink)?;
            }
            self.window_weight += weight;
            self.window.push(piece);
        }
        Ok(())
    }

    /// Writes all buffered rows.
    fn flush(&mut self, sink: &mut impl ShardSink) -> Result<()> {
        self.sort(sink)?;
        (0..self.shards.len()).try_for_each(|shard| self.write(shard, sink))
    }

    /// Sorts the window into the shards.
    fn sort(&mut self, sink: &mut impl ShardSink) -> Result<()> {
        self.window_weight = 0;
        for batch in join(std::mem::take(&mut self.window)) {
            self.scatter(&batch, sink)?;
        }
        Ok(())
    }

    /// Sorts one batch of the window. Shards that have enough rows for a message are written, the others keep theirs.
    fn scatter(&mut self, batch: &RecordBatch, sink: &mut impl ShardSink) -> Result<()> {
        let mut rows_by_shard = group(&self.partitioner.shards_of(batch)?, self.shards.len());
        let row_bytes = data_bytes(batch) as f64 / batch.num_rows().max(1) as f64;
        let fills_message = |(shard, rows): (usize, &Vec<u32>)| {
            self.shards[shard].bytes + (rows.len() as f64 * row_bytes) as usize >= self.message_bytes / 4 * 3
        };
        let is_full: Vec<bool> = rows_by_shard.iter().enumerate().map(fills_message).collect();
        let full_shards = rows_by_shard.iter().zip(&is_full).filter(|(_, full)| **full);
        // The rows of all full shards, one shard after the other.
        let sorted = pick(batch, full_shards.flat_map(|(rows, _)| rows).copied().collect())?;
        let mut next_sorted = 0;
        for (shard, rows) in rows_by_shard.iter_mut().enumerate().filter(|(_, rows)| !rows.is_empty()) {
            if is_full[shard] {
                self.add(shard, sorted.slice(next_sorted, rows.len()));
                next_sorted += rows.len();
                self.write(shard, sink)?;
            } else {
                // Copied, so that a few rows that are buffered for a long time do not keep the whole window in memory.
                self.add(shard, pick(batch, std::mem::take(rows))?);
            }
        }
        while self.pending_bytes > MAX_PENDING {
            self.write(self.largest(), sink)?;
        }
        Ok(())
    }

    fn add(&mut self, shard: usize, rows: RecordBatch) {
        let rows = shrink_to_fit(&rows);
        let bytes = data_bytes(&rows);
        self.pending_bytes += bytes;
        self.shards[shard].push(rows, bytes);
    }

    fn largest(&self) -> usize {
        let sizes = self.shards.iter().map(|p| p.bytes).enumerate();
        sizes.max_by_key(|(_, bytes)| *bytes).map_or(0, |(shard, _)| shard)
    }

    fn write(&mut self, shard: usize, sink: &mut impl ShardSink) -> Result<()> {
        self.pending_bytes -= self.shards[shard].bytes;
        for rows in self.shards[shard].take() {
            // Split if it is nearer to two messages than to one.
            if data_bytes(&rows) <= (self.message_bytes / 2 * 3).min(MAX_SPLIT_BYTES) {
                sink.write(shard as u32, &rows)?;
            } else {
                split(&rows, self.message_bytes).try_for_each(|message| sink.write(shard as u32, &message?))?;
            }
        }
        Ok(())
    }
}

/// Refuses rows that share values which would be repeated without bound when the rows are sorted.
fn check_repeated(batch: &RecordBatch) -> Result<()> {
    let (column, bytes) = repeated_bytes(batch);
    if bytes <= MAX_REPEATED {
        return Ok(());
    }
    Err(Error::exhausted(format!(
        "rows of column {:?} share values, and sorting them into shards would need {bytes} bytes more: put the table without \
         shard_by, or the values as a dictionary",
        batch.schema_ref().field(column).name()
    )))
}

/// The weight of a batch in a window, bytes.
fn weight(batch: &RecordBatch) -> usize {
    data_bytes(batch).max(batch.num_rows() * MIN_ROW_BYTES)
}

/// The row numbers of each shard, ascending.
fn group(shard_of: &[u32], shards: usize) -> Vec<Vec<u32>> {
    let mut rows = vec![Vec::new(); shards];
    for (row, shard) in shard_of.iter().enumerate() {
        rows[*shard as usize].push(row as u32);
    }
    rows
}

/// The rows of these numbers, in this order.
fn pick(batch: &RecordBatch, rows: Vec<u32>) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    let rows = UInt32Array::from(rows);
    let columns: std::result::Result<_, _> = batch.columns().iter().map(|column| take_values(column, &rows)).collect();
    columns
        .and_then(|columns| RecordBatch::try_new_with_options(batch.schema(), columns, &options))
        .map_err(|e| Error::internal(format!("rows cannot be sorted into shards: {e}")))
}

/// Rows of one shard that are buffered to become one message.
#[derive(Default)]
struct PendingRows {
    batches: Vec<RecordBatch>,
    bytes: usize,
}

impl PendingRows {
    fn push(&mut self, batch: RecordBatch, bytes: usize) {
        self.batches.push(batch);
        self.bytes += bytes;
    }

    /// Removes all rows: in one batch, or in several if arrow cannot join them.
    fn take(&mut self) -> Vec<RecordBatch> {
        self.bytes = 0;
        join(std::mem::take(&mut self.batches))
    }
}

/// Joins batches into one, if arrow can without repeating values that rows share.
fn join(batches: Vec<RecordBatch>) -> Vec<RecordBatch> {
    match batches.as_slice() {
        [] | [_] => batches,
        many if many.iter().map(|batch| repeated_bytes(batch).1).fold(0, usize::saturating_add) > MAX_JOIN_REPEATED => {
            batches
        }
        many => match concat_batches(&many[0].schema(), many) {
            Ok(joined) => vec![joined],
            Err(_) => batches,
        },
    }
}

#[cfg(test)]
mod tests;
