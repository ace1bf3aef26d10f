//! Consecutive blocks of a stream, which go to the shards in turn: by rows, or by whole batches. Pure.

use arrow::array::RecordBatch;
use volley_common::Result;
use volley_common::ipc::shrink::shrink_to_fit;
use volley_common::ipc::size::data_bytes;

/// Receives the rows of each shard.
pub trait ShardSink {
    /// Rows of a shard as one message, in order for each shard.
    fn write(&mut self, shard: u32, batch: &RecordBatch) -> Result<()>;
    /// A batch as it was put, of any size, as one message, with its `app_metadata`.
    fn write_whole(&mut self, shard: u32, batch: &RecordBatch, app_metadata: &[u8]) -> Result<()>;
    /// The shard's part ends here.
    fn end_part(&mut self, shard: u32) -> Result<()>;
}

/// Sizes to aim for, bytes.
#[derive(Clone, Copy, Debug)]
pub struct TargetSizes {
    /// A message, about.
    pub message: usize,
    /// A block of consecutive rows, at least.
    pub block: u64,
    /// The first block of each shard, at least. Every further one is twice as large, up to `block`.
    pub first_block: u64,
}

impl TargetSizes {
    /// Of the `count`-th block of the stream, from 0.
    fn block_of(&self, count: u64, shards: u32) -> u64 {
        let round = u32::try_from(count / u64::from(shards)).unwrap_or(u32::MAX);
        self.first_block.saturating_mul(2u64.saturating_pow(round)).min(self.block)
    }
}

/// The block that is being filled: block k goes to shard (first + k) mod N.
pub struct BlockCursor {
    shards: u32,
    sizes: TargetSizes,
    /// The shard of block 0.
    first_shard: u64,
    /// The number of the current block, and how many of its bytes were written.
    block: u64,
    filled: u64,
}

impl BlockCursor {
    /// At the begin of a stream.
    pub fn new(shards: u32, sizes: TargetSizes, first_shard: u64) -> Self {
        BlockCursor { shards, sizes, first_shard, block: 0, filled: 0 }
    }

    /// The shard of the current block.
    pub fn shard(&self) -> u32 {
        ((self.first_shard + self.block) % u64::from(self.shards)) as u32
    }

    /// Bytes of a message, about.
    pub fn message_bytes(&self) -> usize {
        self.sizes.message
    }

    /// Whether `more` bytes fill the block.
    pub fn is_full_with(&self, more: usize) -> bool {
        self.filled + more as u64 >= self.sizes.block_of(self.block, self.shards)
    }

    /// Counts bytes that were written; ends the part if the block is full.
    pub fn advance(&mut self, bytes: usize, sink: &mut impl ShardSink) -> Result<()> {
        self.filled += bytes as u64;
        if self.is_full_with(0) {
            sink.end_part(self.shard())?;
            self.block += 1;
            self.filled = 0;
        }
        Ok(())
    }
}

/// Assigns whole batches to the blocks of shards: none is split, joined or dropped.
pub struct WholeBatches {
    blocks: BlockCursor,
}

impl WholeBatches {
    /// The blocks of a stream.
    pub fn new(blocks: BlockCursor) -> Self {
        WholeBatches { blocks }
    }

    /// Adds the stream's next batch. Nothing is buffered.
    pub fn push(&mut self, batch: &RecordBatch, app_metadata: &[u8], sink: &mut impl ShardSink) -> Result<()> {
        let batch = shrink_to_fit(batch);
        sink.write_whole(self.blocks.shard(), &batch, app_metadata)?;
        self.blocks.advance(data_bytes(&batch) + app_metadata.len(), sink)
    }
}
