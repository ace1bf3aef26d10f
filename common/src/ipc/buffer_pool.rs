//! Memory for message bodies, used again and again.
//!
//! A body of megabytes in fresh memory costs a page fault for every 4 KiB of it: that can cost more than all copying of its bytes.
//! So a stream keeps the blocks that its bodies lay in for those to come, and asks for huge pages. A body begins at a
//! page, so that arrow reads it in place.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use bytes::{Buf, Bytes};
use memmap2::{MmapMut, MmapRaw};
use parking_lot::Mutex;

use crate::{Error, Result};

/// Smaller bodies come from the heap.
const SMALL: usize = 64 << 10;
/// Blocks from this size on are worth huge pages (of x86; elsewhere it is a hint too).
const HUGE_PAGE: usize = 2 << 20;
/// A body may take an idle block that is so many times as large.
const ROOMY: usize = 4;
/// Bodies that are kept lie in blocks of this size, ...
const SHARED: usize = 4 * HUGE_PAGE;
/// ... if they are no larger than this.
const LARGEST_SHARING: usize = SHARED / 4;
/// Where a body in a shared block may begin: arrow's alignment.
const ALIGNMENT: usize = 64;
/// Blocks that nobody uses: so many bytes in all, or one block if that is larger.
const IDLE_BYTES: usize = 8 << 20;

/// The blocks of one stream. They are given back when the stream and all its bodies are gone.
#[derive(Debug, Default)]
pub struct Bodies {
    idle: Arc<Mutex<Idle>>,
    /// Whether small bodies share blocks.
    sharing: bool,
    /// The block that the next bodies share.
    shared: Option<Shared>,
}

#[derive(Debug, Default)]
struct Idle {
    /// Longest idle first.
    blocks: VecDeque<MmapRaw>,
    bytes: usize,
}

/// A block, and how much of it bodies have.
type Shared = (Arc<Block>, usize);

/// A body that is being gathered.
#[derive(Debug)]
pub struct Gathering {
    memory: Memory,
    filled: usize,
    length: usize,
}

#[derive(Debug)]
enum Memory {
    Heap(Vec<u8>),
    Block(Piece),
}

/// Where a body lies in a block: no other body has these bytes as long as the block lives.
#[derive(Debug)]
struct Piece {
    block: Arc<Block>,
    at: usize,
}

/// A block in use; it goes back to its stream's idle ones when it is dropped.
#[derive(Debug)]
struct Block {
    /// `None` only while it is dropped.
    map: Option<MmapRaw>,
    home: Weak<Mutex<Idle>>,
}

/// A gathered body.
struct Body {
    piece: Piece,
    length: usize,
}

impl Bodies {
    /// For a reader that keeps what comes: bodies share blocks that are worth huge pages. One body that is kept keeps
    /// its block.
    pub fn kept() -> Self {
        Bodies { sharing: true, ..Bodies::default() }
    }

    /// Room for a body of `length` bytes.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: there is no memory for it.
    pub fn begin(&mut self, length: usize) -> Result<Gathering> {
        self.idle.lock().let_go_of_huge(length);
        let memory = match (self.sharing, length) {
            (_, ..SMALL) => Memory::Heap(Vec::with_capacity(length)),
            (true, ..=LARGEST_SHARING) => Memory::Block(self.share(length)?),
            _ => Memory::Block(Piece { block: self.block(length)?, at: 0 }),
        };
        Ok(Gathering { memory, filled: 0, length })
    }

    fn share(&mut self, length: usize) -> Result<Piece> {
        let (block, at) = match self.shared.take().filter(|(_, used)| used + length <= SHARED) {
            Some(fits) => fits,
            None => (self.block(SHARED)?, 0),
        };
        self.shared = Some((block.clone(), (at + length).next_multiple_of(ALIGNMENT)));
        Ok(Piece { block, at })
    }

    fn block(&self, length: usize) -> Result<Arc<Block>> {
        let fitting = self.idle.lock().take(length);
        let map = match fitting {
            Some(map) => map,
            None => map_block(length)?,
        };
        Ok(Arc::new(Block { map: Some(map), home: Arc::downgrade(&self.idle) }))
    }
}

/// New memory of at least `length` bytes, in few sizes.
fn map_block(length: usize) -> Result<MmapRaw> {
    let none = |e| {
        Error::exhausted(format!(
            "there is no memory for a message body of {length} bytes ({e}): try again, or send smaller batches"
        ))
    };
    let map = MmapRaw::from(MmapMut::map_anon(length.next_power_of_two()).map_err(none)?);
    // Of the body, not of the block: a huge page is there as a whole, whatever of it is used.
    #[cfg(target_os = "linux")]
    if length >= HUGE_PAGE {
        // A system without huge pages refuses, and gives small ones.
        let _ = map.advise(memmap2::Advice::HugePage);
    }
    Ok(map)
}

impl Idle {
    /// The smallest block that fits and is not far too large.
    fn take(&mut self, length: usize) -> Option<MmapRaw> {
        let fits = |size: usize| (length..=length.saturating_mul(ROOMY)).contains(&size);
        let sizes = self.blocks.iter().map(|block| block.len()).enumerate();
        let (at, size) = sizes.filter(|(_, size)| fits(*size)).min_by_key(|(_, size)| *size)?;
        self.bytes -= size;
        self.blocks.remove(at)
    }

    /// Gives back what is larger than all that may be idle, unless the next body is of its kind.
    fn let_go_of_huge(&mut self, next: usize) {
        if self.bytes <= IDLE_BYTES {
            return;
        }
        self.blocks.retain(|block| block.len() <= IDLE_BYTES || block.len() <= next.saturating_mul(ROOMY));
        self.bytes = self.blocks.iter().map(|block| block.len()).sum();
    }

    fn put(&mut self, block: MmapRaw) {
        self.bytes += block.len();
        self.blocks.push_back(block);
        while self.bytes > IDLE_BYTES && self.blocks.len() > 1 {
            self.bytes -= self.blocks.pop_front().map_or(0, |oldest| oldest.len());
        }
    }
}

impl Gathering {
    /// Takes as much of `from` as belongs to the body.
    pub fn fill(&mut self, from: &mut Bytes) {
        let count = from.len().min(self.length - self.filled);
        match &mut self.memory {
            Memory::Heap(bytes) => bytes.extend_from_slice(&from[..count]),
            Memory::Block(piece) => piece.write(self.filled, &from[..count]),
        }
        self.filled += count;
        from.advance(count);
    }

    /// Whether all of it is there.
    pub fn is_full(&self) -> bool {
        self.filled == self.length
    }

    /// What was gathered.
    pub fn finish(self) -> Bytes {
        match self.memory {
            Memory::Heap(bytes) => bytes.into(),
            Memory::Block(piece) => Bytes::from_owner(Body { piece, length: self.filled }),
        }
    }
}

impl Piece {
    /// Writes within the body, `at` behind its beginning.
    fn write(&mut self, at: usize, bytes: &[u8]) {
        let Some(map) = &self.block.map else { return };
        assert!(self.at + at + bytes.len() <= map.len(), "a body is within its block");
        // SAFETY: the bytes are mapped, and this piece's alone until it is finished: nobody reads or writes them meanwhile.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), map.as_mut_ptr().add(self.at + at), bytes.len()) }
    }
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        let Some(map) = &self.piece.block.map else { return &[] };
        // SAFETY: the bytes are mapped as long as the block lives, were written, and are written no more.
        unsafe { std::slice::from_raw_parts(map.as_ptr().add(self.piece.at), self.length) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let (Some(map), Some(home)) = (self.map.take(), self.home.upgrade()) {
            home.lock().put(map);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(bodies: &mut Bodies, length: usize, byte: u8) -> Bytes {
        let mut gathering = bodies.begin(length).unwrap();
        let mut from = Bytes::from(vec![byte; length + 1]);
        while !gathering.is_full() {
            let mut step = from.split_to(from.len().min(1 + length / 3));
            gathering.fill(&mut step);
            from = if step.is_empty() { from } else { step };
        }
        assert_eq!(from.len(), 1, "what is behind the body is left");
        gathering.finish()
    }

    #[test]
    fn bodies_hold_what_was_gathered_where_arrow_can_read_it() {
        let mut bodies = Bodies::default();
        for length in [0, 1, SMALL - 1, SMALL, SMALL + 1, HUGE_PAGE + 5] {
            let body = body(&mut bodies, length, 7);
            assert!(body.len() == length && body.iter().all(|&byte| byte == 7));
            assert!(length == 0 || body.as_ptr().align_offset(8) == 0);
        }
    }

    #[test]
    fn a_block_is_used_again_when_no_slice_of_its_body_is_left() {
        let mut bodies = Bodies::default();
        let first = body(&mut bodies, 1 << 20, 1);
        let at = first.as_ptr();
        let slice = first.slice(10..20);
        drop(first);
        let second = body(&mut bodies, 1 << 20, 2);
        assert_ne!(second.as_ptr(), at);
        assert!(slice.iter().all(|&byte| byte == 1));
        drop(slice);
        assert_eq!(body(&mut bodies, (1 << 20) - 100, 3).as_ptr(), at);
    }

    #[test]
    fn idle_blocks_are_bounded_and_the_largest_may_be_one_alone() {
        let mut bodies = Bodies::default();
        let many: Vec<_> = (0..20).map(|_| body(&mut bodies, 1 << 20, 1)).collect();
        drop(many);
        assert_eq!(bodies.idle.lock().bytes, IDLE_BYTES);
        let large: Vec<_> = (0..3).map(|_| body(&mut bodies, 5 * IDLE_BYTES, 1)).collect();
        drop(large);
        let idle = bodies.idle.lock();
        assert_eq!((idle.blocks.len(), idle.bytes), (1, 8 * IDLE_BYTES));
        drop(idle);
        drop(body(&mut bodies, 1, 1));
        assert_eq!(bodies.idle.lock().bytes, 0, "small bodies came after the large ones");
    }

    #[test]
    fn kept_bodies_share_blocks_and_give_them_back_together() {
        let mut bodies = Bodies::kept();
        let kept: Vec<_> = (0..20).map(|byte| body(&mut bodies, (1 << 20) + 7, byte)).collect();
        for (byte, body) in (0..).zip(&kept) {
            assert!(body.len() == (1 << 20) + 7 && body.iter().all(|&b| b == byte));
            assert_eq!(body.as_ptr().align_offset(ALIGNMENT), 0);
        }
        assert_eq!(bodies.idle.lock().bytes, 0);
        drop(kept);
        assert_eq!(bodies.idle.lock().bytes, SHARED, "two of three; one more may be idle than there is room for");
        let large = body(&mut bodies, LARGEST_SHARING + 1, 3);
        assert!(large.iter().all(|&b| b == 3));
    }

    #[test]
    fn a_small_body_does_not_take_a_block_that_is_far_too_large() {
        let mut bodies = Bodies::default();
        drop(body(&mut bodies, 4 << 20, 1));
        let small = body(&mut bodies, SMALL, 1);
        assert_eq!(bodies.idle.lock().bytes, 4 << 20);
        drop(bodies);
        assert!(small.iter().all(|&byte| byte == 1), "a body outlives its stream");
    }
}
