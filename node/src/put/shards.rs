//! Rows → shards: consecutive blocks, or by the hash of key columns.
//!
//! Nothing here touches a disk: what is decided goes to a [`Sink`].

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::SchemaRef;
use volley_common::ipc::MESSAGE_BYTES;
use volley_common::ipc::compact::compact;
use volley_common::ipc::cut::{cut, data_bytes};
use volley_common::partition::Partitioner;
use volley_common::wire::catalog::TableSpec;
use volley_common::{Error, Result};

/// Bytes of rows that may wait in all shards together to become messages of a good size.
const MAX_PENDING: usize = 32 << 20;

/// Where the shards' rows go.
pub trait Sink {
    /// Rows for a shard, as one message; in order for each shard.
    fn write(&mut self, shard: u32, batch: &RecordBatch) -> Result<()>;
    /// The shard's part ends here.
    fn end_part(&mut self, shard: u32) -> Result<()>;
}

/// Cuts one stream of rows into its shards.
pub enum Shards {
    /// Without keys: block k goes to shard (first + k) mod N.
    Blocks(Blocks),
    /// By the hash of key columns.
    Keys(Keys),
}

impl Shards {
    /// For a table as `spec` says; blocks of `block_bytes`, the first of which goes to the shard `first`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a key column that does not exist or cannot be hashed.
    pub fn new(spec: &TableSpec, schema: &SchemaRef, block_bytes: u64, first: u32) -> Result<Self> {
        let shards = spec.shards.max(1);
        if spec.shard_by.is_empty() {
            return Ok(Shards::Blocks(Blocks {
                shards,
                block_bytes,
                block: u64::from(first),
                filled: 0,
                pending: Pending::default(),
            }));
        }
        Ok(Shards::Keys(Keys {
            partitioner: Partitioner::new(schema, &spec.shard_by, shards)?,
            shards: (0..shards).map(|_| Pending::default()).collect(),
            total: 0,
        }))
    }

    /// Takes the stream's next rows.
    pub fn push(&mut self, batch: &RecordBatch, sink: &mut impl Sink) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        match self {
            Shards::Blocks(blocks) => blocks.push(batch, sink),
            Shards::Keys(keys) => keys.push(batch, sink),
        }
    }

    /// Writes out what waits: before a dictionary changes, and at the end.
    pub fn flush(&mut self, sink: &mut impl Sink) -> Result<()> {
        match self {
            Shards::Blocks(blocks) => blocks.flush(sink),
            Shards::Keys(keys) => (0..keys.shards.len()).try_for_each(|shard| keys.flush(shard, sink)),
        }
    }
}

/// Consecutive blocks of about `block_bytes`.
pub struct Blocks {
    shards: u32,
    block_bytes: u64,
    block: u64,
    filled: u64,
    pending: Pending,
}

impl Blocks {
    fn push(&mut self, batch: &RecordBatch, sink: &mut impl Sink) -> Result<()> {
        for piece in cut(batch, MESSAGE_BYTES) {
            let bytes = data_bytes(&piece);
            if self.pending.bytes + bytes > MESSAGE_BYTES {
                self.flush(sink)?;
            }
            self.pending.push(piece, bytes);
            if self.filled + self.pending.bytes as u64 >= self.block_bytes {
                self.flush(sink)?;
            }
        }
        Ok(())
    }

    /// Writes what waits, and ends the block when it is full.
    fn flush(&mut self, sink: &mut impl Sink) -> Result<()> {
        let shard = (self.block % u64::from(self.shards)) as u32;
        self.filled += self.pending.bytes as u64;
        self.pending.write(shard, sink)?;
        if self.filled >= self.block_bytes {
            sink.end_part(shard)?;
            self.block += 1;
            self.filled = 0;
        }
        Ok(())
    }
}

/// Rows by the hash of their key columns.
pub struct Keys {
    partitioner: Partitioner,
    shards: Vec<Pending>,
    total: usize,
}

impl Keys {
    fn push(&mut self, batch: &RecordBatch, sink: &mut impl Sink) -> Result<()> {
        for piece in cut(batch, MESSAGE_BYTES) {
            let shards = self.partitioner.shards_of(&piece)?;
            for (shard, rows) in group(&shards, self.shards.len()).into_iter().enumerate() {
                if !rows.is_empty() {
                    self.add(shard, &piece, rows, sink)?;
                }
            }
            while self.total > MAX_PENDING {
                self.flush(self.largest(), sink)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, shard: usize, piece: &RecordBatch, rows: Vec<u32>, sink: &mut impl Sink) -> Result<()> {
        let taken = take_record_batch(piece, &UInt32Array::from(rows))
            .map_err(|e| Error::internal(format!("rows cannot be sorted into shards: {e}")))?;
        let taken = compact(&taken);
        let bytes = data_bytes(&taken);
        if self.shards[shard].bytes + bytes > MESSAGE_BYTES {
            self.flush(shard, sink)?;
        }
        self.total += bytes;
        self.shards[shard].push(taken, bytes);
        Ok(())
    }

    fn largest(&self) -> usize {
        let sizes = self.shards.iter().map(|p| p.bytes).enumerate();
        sizes.max_by_key(|(_, bytes)| *bytes).map_or(0, |(shard, _)| shard)
    }

    fn flush(&mut self, shard: usize, sink: &mut impl Sink) -> Result<()> {
        self.total -= self.shards[shard].bytes;
        self.shards[shard].write(shard as u32, sink)
    }
}

/// The rows of each shard, in their order.
fn group(shard_of: &[u32], shards: usize) -> Vec<Vec<u32>> {
    let mut rows = vec![Vec::new(); shards];
    for (row, shard) in shard_of.iter().enumerate() {
        rows[*shard as usize].push(row as u32);
    }
    rows
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

    /// One message of all that waits; of several if arrow cannot join them.
    fn write(&mut self, shard: u32, sink: &mut impl Sink) -> Result<()> {
        let batches = std::mem::take(&mut self.batches);
        self.bytes = 0;
        match batches.as_slice() {
            [] => Ok(()),
            [one] => sink.write(shard, one),
            many => match concat_batches(&many[0].schema(), many) {
                Ok(joined) => sink.write(shard, &joined),
                Err(_) => many.iter().try_for_each(|batch| sink.write(shard, batch)),
            },
        }
    }
}

#[cfg(test)]
#[path = "shards_tests.rs"]
mod tests;
