//! Reused memory for message bodies.
//!
//! Fresh memory costs a page fault for every 4 KiB: for a body of megabytes that can cost more than all copying of its
//! bytes. So a stream reuses the blocks of dropped bodies for later ones, and requests huge pages. A body begins at a
//! page or at arrow's alignment, so that arrow reads it in place.
#![allow(unsafe_code, reason = "bodies share mapped blocks")]

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use bytes::{Buf, Bytes};
use memmap2::{MmapMut, MmapRaw};
use parking_lot::Mutex;

use super::body_builder::{BodyAllocator, BodyBuilder};
use crate::{Error, Result};

/// Smaller bodies are allocated on the heap.
const MIN_BLOCK_BODY: usize = 64 << 10;
/// For blocks of at least this size huge pages are requested (the size is that of x86; on other machines the request is
/// only a hint).
const HUGE_PAGE: usize = 2 << 20;
/// A body may take an idle block of up to this many times its size.
const MAX_OVERSIZE: usize = 4;
/// Size of a block that several bodies share.
const SHARED_BLOCK: usize = 4 * HUGE_PAGE;
/// Larger bodies get a block of their own.
const MAX_SHARING_BODY: usize = SHARED_BLOCK / 4;
/// Where a body in a shared block may begin: arrow's alignment.
const ALIGNMENT: usize = 64;
/// Limit for all idle blocks of a stream together; a single larger block may stay until a body arrives that it does not
/// fit.
const MAX_IDLE_BYTES: usize = 8 << 20;

/// The blocks of one stream, or of many. They are unmapped once the streams and all their bodies are dropped.
#[derive(Debug, Default)]
pub struct BufferPool {
    /// Bodies return their blocks from any thread.
    idle: Arc<Mutex<IdleBlocks>>,
    /// Whether bodies share blocks.
    sharing: bool,
    /// The block that the next bodies share, and how many of its bytes are taken.
    shared: Option<(Arc<PooledBlock>, usize)>,
}

#[derive(Debug)]
struct IdleBlocks {
    /// Longest idle first.
    blocks: VecDeque<MmapRaw>,
    bytes: usize,
    max_bytes: usize,
    /// A body may take a block of up to this many times its size.
    max_oversize: usize,
}

impl Default for IdleBlocks {
    fn default() -> Self {
        let blocks = VecDeque::new();
        IdleBlocks { blocks, bytes: 0, max_bytes: MAX_IDLE_BYTES, max_oversize: MAX_OVERSIZE }
    }
}

/// A body that is being received.
#[derive(Debug)]
pub struct BodyBuffer {
    memory: BodyMemory,
    filled: usize,
    length: usize,
}

#[derive(Debug)]
enum BodyMemory {
    Heap(Vec<u8>),
    Block(BlockRange),
}

/// Where a body begins in a block: no other body uses its bytes as long as the block lives.
#[derive(Debug)]
struct BlockRange {
    block: Arc<PooledBlock>,
    start: usize,
}

/// A block in use; it returns to its stream's idle blocks when it is dropped.
#[derive(Debug)]
struct PooledBlock {
    /// `None` only during drop.
    map: Option<MmapRaw>,
    pool: Weak<Mutex<IdleBlocks>>,
}

/// A complete body in a block.
struct PooledBody {
    range: BlockRange,
    length: usize,
}

impl BufferPool {
    /// For a reader that keeps the bodies: they share blocks that are large enough for huge pages. One kept body keeps
    /// its whole block.
    pub fn with_shared_blocks() -> Self {
        BufferPool { sharing: true, ..BufferPool::default() }
    }

    /// The same for a reader of so many streams at a time, see [`BufferPool::for_stream`]: a stream takes the blocks that those
    /// before it have left, and together they keep as many as they would alone.
    pub fn with_shared_blocks_of(streams: usize) -> Self {
        let idle = IdleBlocks { max_bytes: MAX_IDLE_BYTES.saturating_mul(streams), ..IdleBlocks::default() };
        BufferPool { idle: Arc::new(Mutex::new(idle)), ..BufferPool::with_shared_blocks() }
    }

    /// For many streams, see [`BufferPool::for_stream`]. They share `max_idle` bytes of idle blocks, and a body never takes
    /// more than [`BufferPool::block_bytes`].
    pub fn for_many_streams(max_idle: usize) -> Self {
        let idle = IdleBlocks { max_bytes: max_idle, max_oversize: 1, ..IdleBlocks::default() };
        BufferPool { idle: Arc::new(Mutex::new(idle)), ..BufferPool::default() }
    }

    /// The pool of one more stream, which shares the idle blocks of this one.
    pub fn for_stream(&self) -> Self {
        BufferPool { idle: self.idle.clone(), sharing: self.sharing, shared: None }
    }

    /// Bytes of memory that a body of this many bytes takes, if it shares no block.
    pub fn block_bytes(length: usize) -> usize {
        if length < MIN_BLOCK_BODY { length } else { length.next_power_of_two() }
    }

    /// Bytes of memory that several bodies of this many bytes together take at most.
    pub fn most_block_bytes(length: usize) -> usize {
        if length < MIN_BLOCK_BODY { length } else { 2 * length }
    }

    fn share(&mut self, length: usize) -> Result<BlockRange> {
        let (block, start) = match self.shared.take().filter(|(_, used)| used + length <= SHARED_BLOCK) {
            Some(current) => current,
            None => (self.block(SHARED_BLOCK)?, 0),
        };
        self.shared = Some((block.clone(), (start + length).next_multiple_of(ALIGNMENT)));
        Ok(BlockRange { block, start })
    }

    fn block(&self, length: usize) -> Result<Arc<PooledBlock>> {
        let idle = self.idle.lock().take(length);
        let map = match idle {
            Some(map) => map,
            None => map_block(length)?,
        };
        Ok(Arc::new(PooledBlock { map: Some(map), pool: Arc::downgrade(&self.idle) }))
    }
}

impl BodyAllocator for BufferPool {
    type Builder = BodyBuffer;

    fn begin(&mut self, length: usize, _: usize) -> Result<BodyBuffer> {
        self.idle.lock().release_oversized(length);
        let memory = match (self.sharing, length) {
            (_, ..MIN_BLOCK_BODY) => BodyMemory::Heap(Vec::with_capacity(length)),
            (true, ..=MAX_SHARING_BODY) => BodyMemory::Block(self.share(length)?),
            _ => BodyMemory::Block(BlockRange { block: self.block(length)?, start: 0 }),
        };
        Ok(BodyBuffer { memory, filled: 0, length })
    }
}

/// Maps new memory of at least `length` bytes; sizes are powers of two, so that a block fits bodies of many sizes.
fn map_block(length: usize) -> Result<MmapRaw> {
    let no_memory = |e| {
        Error::exhausted(format!(
            "there is no memory for a message body of {length} bytes ({e}): try again, or send smaller batches"
        ))
    };
    let map = MmapRaw::from(MmapMut::map_anon(length.next_power_of_two()).map_err(no_memory)?);
    // Decided by the body's length, not the block's: a huge page takes all its memory even if little of it is used.
    #[cfg(target_os = "linux")]
    if length >= HUGE_PAGE {
        // A system without huge pages returns an error and uses small ones.
        let _ = map.advise(memmap2::Advice::HugePage);
    }
    Ok(map)
}

impl IdleBlocks {
    /// Takes the smallest block that fits and is not far too large.
    fn take(&mut self, length: usize) -> Option<MmapRaw> {
        let largest = match self.max_oversize {
            1 => length.next_power_of_two(),
            times => length.saturating_mul(times),
        };
        let fits = |size: usize| (length..=largest).contains(&size);
        let sizes = self.blocks.iter().map(|block| block.len()).enumerate();
        let (at, size) = sizes.filter(|(_, size)| fits(*size)).min_by_key(|(_, size)| *size)?;
        self.bytes -= size;
        self.blocks.remove(at)
    }

    /// Unmaps a block over `max_bytes`, unless a body of `next` bytes could use it. [`IdleBlocks::put`] keeps
    /// such a block only as the single one.
    fn release_oversized(&mut self, next: usize) {
        if self.bytes > self.max_bytes && self.bytes > next.saturating_mul(self.max_oversize.max(2)) {
            self.blocks.clear();
            self.bytes = 0;
        }
    }

    fn put(&mut self, block: MmapRaw) {
        self.bytes += block.len();
        self.blocks.push_back(block);
        while self.bytes > self.max_bytes && self.blocks.len() > 1 {
            self.bytes -= self.blocks.pop_front().map_or(0, |oldest| oldest.len());
        }
    }
}

impl BodyBuilder for BodyBuffer {
    type Body = Bytes;

    fn fill(&mut self, from: &mut Bytes) {
        let count = from.len().min(self.length - self.filled);
        match &mut self.memory {
            BodyMemory::Heap(bytes) => bytes.extend_from_slice(&from[..count]),
            BodyMemory::Block(range) => range.write(self.filled, &from[..count]),
        }
        self.filled += count;
        from.advance(count);
    }

    fn is_full(&self) -> bool {
        self.filled == self.length
    }

    fn finish(self) -> Bytes {
        match self.memory {
            BodyMemory::Heap(bytes) => bytes.into(),
            BodyMemory::Block(range) => Bytes::from_owner(PooledBody { range, length: self.filled }),
        }
    }

    fn into_bytes(body: Bytes) -> Bytes {
        body
    }
}

impl BlockRange {
    /// Writes `bytes` at `offset` within the body.
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let Some(map) = &self.block.map else { return };
        assert!(self.start + offset + bytes.len() <= map.len(), "a body is within its block");
        // SAFETY: the target was just checked to be mapped. `fill` writes no more than the body's length, and those bytes
        // belong to this range alone until the body is finished: nothing else reads or writes them meanwhile, also not through
        // `bytes`, which is received data outside of this range.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), map.as_mut_ptr().add(self.start + offset), bytes.len()) }
    }
}

impl AsRef<[u8]> for PooledBody {
    fn as_ref(&self) -> &[u8] {
        let Some(map) = &self.range.block.map else { return &[] };
        // SAFETY: `write` checked that the bytes lie within the mapping, which lives as long as the block. They have been
        // written, and are not written again before the block has no range and returns to the pool.
        unsafe { std::slice::from_raw_parts(map.as_ptr().add(self.range.start), self.length) }
    }
}

impl Drop for PooledBlock {
    fn drop(&mut self) {
        if let (Some(map), Some(pool)) = (self.map.take(), self.pool.upgrade()) {
            pool.lock().put(map);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(pool: &mut BufferPool, length: usize, byte: u8) -> Bytes {
        let mut buffer = pool.begin(length, 0).unwrap();
        let mut from = Bytes::from(vec![byte; length + 1]);
        while !buffer.is_full() {
            let mut step = from.split_to(from.len().min(1 + length / 3));
            buffer.fill(&mut step);
            from = if step.is_empty() { from } else { step };
        }
        assert_eq!(from.len(), 1, "bytes after the body are not taken");
        buffer.finish()
    }

    #[test]
    fn body_of_any_size_is_complete_and_aligned() {
        let mut pool = BufferPool::default();
        for length in [0, 1, MIN_BLOCK_BODY - 1, MIN_BLOCK_BODY, MIN_BLOCK_BODY + 1, HUGE_PAGE + 5] {
            let body = body(&mut pool, length, 7);
            assert!(body.len() == length && body.iter().all(|&byte| byte == 7));
            assert!(length == 0 || body.as_ptr().align_offset(8) == 0);
        }
    }

    #[test]
    fn block_is_reused_once_every_slice_is_dropped() {
        let mut pool = BufferPool::default();
        let first = body(&mut pool, 1 << 20, 1);
        let at = first.as_ptr();
        let slice = first.slice(10..20);
        drop(first);
        let second = body(&mut pool, 1 << 20, 2);
        assert_ne!(second.as_ptr(), at);
        assert!(slice.iter().all(|&byte| byte == 1));
        drop(slice);
        assert_eq!(body(&mut pool, (1 << 20) - 100, 3).as_ptr(), at);
    }

    #[test]
    fn idle_blocks_are_bounded_by_bytes_or_one_block() {
        let mut pool = BufferPool::default();
        let many: Vec<_> = (0..20).map(|_| body(&mut pool, 1 << 20, 1)).collect();
        drop(many);
        assert_eq!(pool.idle.lock().bytes, MAX_IDLE_BYTES);
        let large: Vec<_> = (0..3).map(|_| body(&mut pool, 5 * MAX_IDLE_BYTES, 1)).collect();
        drop(large);
        let idle = pool.idle.lock();
        assert_eq!((idle.blocks.len(), idle.bytes), (1, 8 * MAX_IDLE_BYTES));
        drop(idle);
        drop(body(&mut pool, 1, 1));
        assert_eq!(pool.idle.lock().bytes, 0, "a small body releases the large block");
    }

    #[test]
    fn kept_bodies_share_blocks_and_return_them_together() {
        let mut pool = BufferPool::with_shared_blocks();
        let kept: Vec<_> = (0..20).map(|byte| body(&mut pool, (1 << 20) + 7, byte)).collect();
        for (byte, body) in (0..).zip(&kept) {
            assert!(body.len() == (1 << 20) + 7 && body.iter().all(|&b| b == byte));
            assert_eq!(body.as_ptr().align_offset(ALIGNMENT), 0);
        }
        assert_eq!(pool.idle.lock().bytes, 0);
        drop(kept);
        assert_eq!(
            pool.idle.lock().bytes,
            SHARED_BLOCK,
            "one of three: two exceed the limit, the last is still shared"
        );
        let large = body(&mut pool, MAX_SHARING_BODY + 1, 3);
        assert!(large.iter().all(|&b| b == 3));
    }

    #[test]
    fn streams_of_one_pool_share_idle_blocks_of_their_size() {
        let pool = BufferPool::for_many_streams(4 << 20);
        let (mut one, mut two) = (pool.for_stream(), pool.for_stream());
        let first = body(&mut one, (1 << 20) - 5, 1);
        let at = first.as_ptr();
        drop(first);
        assert_eq!(body(&mut two, (1 << 20) - 9, 2).as_ptr(), at);
        drop(body(&mut two, 400 << 10, 3));
        assert_eq!(pool.idle.lock().bytes, (1 << 20) + (512 << 10), "a smaller body takes no larger block");
        let many: Vec<_> = (0..9).map(|_| body(&mut one, 1 << 20, 1)).collect();
        drop(many);
        assert_eq!(pool.idle.lock().bytes, 4 << 20);
    }

    #[test]
    fn stream_takes_the_shared_block_of_one_that_has_ended() {
        let pool = BufferPool::with_shared_blocks_of(2);
        let mut first = pool.for_stream();
        let at = body(&mut first, 1 << 20, 1).as_ptr();
        drop(first);
        assert_eq!(pool.idle.lock().bytes, SHARED_BLOCK);
        assert_eq!(body(&mut pool.for_stream(), 1 << 20, 2).as_ptr(), at);
    }

    #[test]
    fn small_body_leaves_a_far_larger_block_idle() {
        let mut pool = BufferPool::default();
        drop(body(&mut pool, 4 << 20, 1));
        let small = body(&mut pool, MIN_BLOCK_BODY, 1);
        assert_eq!(pool.idle.lock().bytes, 4 << 20);
        drop(pool);
        assert!(small.iter().all(|&byte| byte == 1), "a body outlives its stream");
    }
}
