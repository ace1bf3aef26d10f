//! Rows → shards: consecutive blocks, or by the hash of key columns.
//!
//! Nothing here touches a disk: what is decided goes to a [`Sink`].

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::SchemaRef;
use volley_common::ipc::MAX_SPLIT_BYTES;
use volley_common::ipc::shrink::{detach, shrink_to_fit};
use volley_common::ipc::size::data_bytes;
use volley_common::ipc::split::split;
use volley_common::partition::Partitioner;
use volley_common::wire::catalog::TableSpec;
use volley_common::{Error, Result};

/// Bytes of rows that may wait in all shards together to become messages of a good size.
const MAX_PENDING: usize = 32 << 20;
/// Bytes of rows that are sorted into shards together, at most: what is read once for each shard is to stay in the
/// processor's cache meanwhile.
const MAX_WINDOW: usize = 16 << 20;
/// Bytes that a row counts in a window at least: its indexes (which shard, which row of it, which place in their order)
/// take four times as much, so that those of rows of hardly any bytes are bounded too.
const LEAST_ROW: usize = 3;

/// Where the shards' rows go.
pub trait Sink {
    /// Rows for a shard, as one message; in order for each shard.
    fn write(&mut self, shard: u32, batch: &RecordBatch) -> Result<()>;
    /// The shard's part ends here.
    fn end_part(&mut self, shard: u32) -> Result<()>;
}

/// How large things are to become, bytes.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// A message, about.
    pub message: usize,
    /// A block of consecutive rows, at least.
    pub block: u64,
}

/// Cuts one stream of rows into its shards.
pub enum Shards {
    /// Without keys: block k goes to shard (first + k) mod N.
    Blocks(Blocks),
    /// By the hash of key columns.
    Keys(Keys),
}

impl Shards {
    /// For a table as `spec` says; the first block goes to the shard `first`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a key column that does not exist or cannot be hashed.
    pub fn new(spec: &TableSpec, schema: &SchemaRef, sizes: Sizes, first: u32) -> Result<Self> {
        let shards = spec.shards.max(1);
        let blocks = |sizes, first| Blocks { shards, sizes, block: first, filled: 0, pending: Pending::default() };
        if spec.shard_by.is_empty() {
            return Ok(Shards::Blocks(blocks(sizes, u64::from(first))));
        }
        let partitioner = Partitioner::new(schema, &spec.shard_by, shards)?;
        Ok(match shards {
            // All rows go there, as they come.
            1 => Shards::Blocks(blocks(Sizes { block: u64::MAX, ..sizes }, 0)),
            _ => Shards::Keys(Keys::new(partitioner, shards, sizes.message)),
        })
    }

    /// Takes the stream's next rows.
    pub fn push(&mut self, batch: &RecordBatch, sink: &mut impl Sink) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let batch = detach(batch);
        match self {
            Shards::Blocks(blocks) => blocks.push(&batch, sink),
            Shards::Keys(keys) => keys.push(&batch, sink),
        }
    }

    /// Writes out what waits: before a dictionary changes, and at the end.
    pub fn flush(&mut self, sink: &mut impl Sink) -> Result<()> {
        match self {
            Shards::Blocks(blocks) => blocks.flush(sink),
            Shards::Keys(keys) => keys.flush(sink),
        }
    }
}

/// Consecutive blocks.
pub struct Blocks {
    shards: u32,
    sizes: Sizes,
    block: u64,
    filled: u64,
    pending: Pending,
}

impl Blocks {
    fn push(&mut self, batch: &RecordBatch, sink: &mut impl Sink) -> Result<()> {
        for piece in split(batch, self.sizes.message) {
            let bytes = data_bytes(&piece);
            if self.pending.bytes + bytes > self.sizes.message {
                self.flush(sink)?;
            }
            self.pending.push(piece, bytes);
            if self.filled + self.pending.bytes as u64 >= self.sizes.block {
                self.flush(sink)?;
            }
        }
        Ok(())
    }

    /// Writes what waits, and ends the block when it is full.
    fn flush(&mut self, sink: &mut impl Sink) -> Result<()> {
        let shard = (self.block % u64::from(self.shards)) as u32;
        self.filled += self.pending.bytes as u64;
        self.pending.take().iter().try_for_each(|message| sink.write(shard, message))?;
        if self.filled >= self.sizes.block {
            sink.end_part(shard)?;
            self.block += 1;
            self.filled = 0;
        }
        Ok(())
    }
}

/// Rows by the hash of their key columns.
///
/// They are gathered until there is about a message for each shard, then brought into the order of the shards by one pass
/// over each column: a shard's message is a slice of what comes out. Only rows that do not make a message yet are copied
/// once more, when there are enough of them.
pub struct Keys {
    partitioner: Partitioner,
    message_bytes: usize,
    /// Rows that are sorted together, and their [`weight`].
    window: Vec<RecordBatch>,
    waiting: usize,
    window_bytes: usize,
    shards: Vec<Pending>,
    /// Bytes that wait in all shards.
    total: usize,
}

impl Keys {
    fn new(partitioner: Partitioner, shards: u32, message_bytes: usize) -> Self {
        Keys {
            partitioner,
            message_bytes,
            window: Vec::new(),
            waiting: 0,
            window_bytes: message_bytes.saturating_mul(shards as usize).min(MAX_WINDOW.max(message_bytes)),
            shards: (0..shards).map(|_| Pending::default()).collect(),
            total: 0,
        }
    }

    fn push(&mut self, batch: &RecordBatch, sink: &mut impl Sink) -> Result<()> {
        let windows = weight(batch).div_ceil(self.window_bytes).max(1);
        let step = batch.num_rows().div_ceil(windows).max(1);
        for at in (0..batch.num_rows()).step_by(step) {
            let piece = batch.slice(at, step.min(batch.num_rows() - at));
            let weight = weight(&piece);
            if self.waiting + weight > self.window_bytes {
                self.sort(sink)?;
            }
            self.waiting += weight;
            self.window.push(piece);
        }
        Ok(())
    }

    /// Writes out all that waits.
    fn flush(&mut self, sink: &mut impl Sink) -> Result<()> {
        self.sort(sink)?;
        (0..self.shards.len()).try_for_each(|shard| self.write(shard, sink))
    }

    fn sort(&mut self, sink: &mut impl Sink) -> Result<()> {
        self.waiting = 0;
        for batch in join(std::mem::take(&mut self.window)) {
            self.scatter(&batch, sink)?;
        }
        Ok(())
    }

    fn scatter(&mut self, batch: &RecordBatch, sink: &mut impl Sink) -> Result<()> {
        let mut rows_of = group(&self.partitioner.shards_of(batch)?, self.shards.len());
        let row_bytes = data_bytes(batch) as f64 / batch.num_rows().max(1) as f64;
        let enough = |shard: usize, rows: usize| {
            self.shards[shard].bytes + (rows as f64 * row_bytes) as usize >= self.message_bytes / 4 * 3
        };
        let now: Vec<bool> = rows_of.iter().enumerate().map(|(shard, rows)| enough(shard, rows.len())).collect();
        let order: Vec<u32> =
            rows_of.iter().zip(&now).filter(|(_, now)| **now).flat_map(|(rows, _)| rows).copied().collect();
        let sorted = pick(batch, order)?;
        let mut at = 0;
        for (shard, rows) in rows_of.iter_mut().enumerate().filter(|(_, rows)| !rows.is_empty()) {
            if now[shard] {
                self.add(shard, sorted.slice(at, rows.len()));
                at += rows.len();
                self.write(shard, sink)?;
            } else {
                // In memory of its own: it may wait for long.
                self.add(shard, pick(batch, std::mem::take(rows))?);
            }
        }
        while self.total > MAX_PENDING {
            self.write(self.largest(), sink)?;
        }
        Ok(())
    }

    fn add(&mut self, shard: usize, rows: RecordBatch) {
        let rows = shrink_to_fit(&rows);
        let bytes = data_bytes(&rows);
        self.total += bytes;
        self.shards[shard].push(rows, bytes);
    }

    fn largest(&self) -> usize {
        let sizes = self.shards.iter().map(|p| p.bytes).enumerate();
        sizes.max_by_key(|(_, bytes)| *bytes).map_or(0, |(shard, _)| shard)
    }

    fn write(&mut self, shard: usize, sink: &mut impl Sink) -> Result<()> {
        self.total -= self.shards[shard].bytes;
        for rows in self.shards[shard].take() {
            // Cut where it is nearer to two messages than to one.
            if data_bytes(&rows) <= (self.message_bytes / 2 * 3).min(MAX_SPLIT_BYTES) {
                sink.write(shard as u32, &rows)?;
            } else {
                split(&rows, self.message_bytes).try_for_each(|message| sink.write(shard as u32, &message))?;
            }
        }
        Ok(())
    }
}

/// What rows count in a window.
fn weight(batch: &RecordBatch) -> usize {
    data_bytes(batch).max(batch.num_rows() * LEAST_ROW)
}

/// The rows of each shard, in their order.
fn group(shard_of: &[u32], shards: usize) -> Vec<Vec<u32>> {
    let mut rows = vec![Vec::new(); shards];
    for (row, shard) in shard_of.iter().enumerate() {
        rows[*shard as usize].push(row as u32);
    }
    rows
}

/// These rows, in this order.
fn pick(batch: &RecordBatch, rows: Vec<u32>) -> Result<RecordBatch> {
    take_record_batch(batch, &UInt32Array::from(rows))
        .map_err(|e| Error::internal(format!("rows cannot be sorted into shards: {e}")))
}

/// Rows of one shard that wait to become one message.
#[derive(Default)]
struct Pending {
    batches: Vec<RecordBatch>,
    bytes: usize,
}

impl Pending {
    fn push(&mut self, batch: RecordBatch, bytes: usize) {
        self.batches.push(batch);
        self.bytes += bytes;
    }

    /// All that waits, in one batch; in several if arrow cannot join them.
    fn take(&mut self) -> Vec<RecordBatch> {
        self.bytes = 0;
        join(std::mem::take(&mut self.batches))
    }
}

/// One batch of all, if arrow can join them.
fn join(batches: Vec<RecordBatch>) -> Vec<RecordBatch> {
    match batches.as_slice() {
        [] | [_] => batches,
        many => match concat_batches(&many[0].schema(), many) {
            Ok(joined) => vec![joined],
            Err(_) => batches,
        },
    }
}

#[cfg(test)]
#[path = "shards_tests.rs"]
mod tests;
