//! Parts that stay open for their next reader: what opening and mapping cost is then not paid anew by every get.
//!
//! A part that was removed, put aside or is about to be verified is let go of at once: its space is free then, and the
//! disk can be read instead of memory.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use volley_common::PartId;

use super::Part;
use super::store::Store;

/// Parts that stay open at most, each with one file ...
const PARTS: usize = 1024;
/// ... and the bytes of their files: where all are mapped the tables of pages take 1/512 of it.
const BYTES: u64 = 16 << 30;

/// A part's mapping: as long as somebody reads it, or it is kept.
#[derive(Default)]
pub struct Opened {
    read: Weak<Part>,
    kept: Option<Arc<Part>>,
}

impl Opened {
    /// The part, if it is open. Somebody may have touched its file: see `vouched`.
    pub fn get(&self) -> Option<Arc<Part>> {
        self.read.upgrade()
    }

    /// Keeps it no longer; readers do. What this gives is to be dropped where no lock is held: unmapping takes time.
    pub fn let_go(&mut self) -> Option<Arc<Part>> {
        self.kept.take()
    }
}

/// An open part, unless somebody touched its file. To be asked where no lock is held: it asks the file system.
pub fn vouched(opened: Option<Arc<Part>>) -> Option<Arc<Part>> {
    opened.filter(|part| part.vouch().is_ok())
}

/// The parts that are kept, in the order in which they were opened.
#[derive(Default)]
pub struct Kept(Mutex<Order>);

#[derive(Default)]
struct Order {
    parts: VecDeque<(PartId, u64)>,
    bytes: u64,
}

impl Kept {
    /// Notes a part; gives those that are to be let go of for it.
    fn add(&self, id: PartId, bytes: u64) -> Vec<PartId> {
        let mut order = self.0.lock();
        order.forget(id);
        order.parts.push_back((id, bytes));
        order.bytes += bytes;
        let mut over = Vec::new();
        while order.parts.len() > PARTS || order.bytes > BYTES {
            let Some((id, bytes)) = order.parts.pop_front() else { break };
            order.bytes -= bytes;
            over.push(id);
        }
        over
    }
}

impl Order {
    fn forget(&mut self, id: PartId) {
        if let Some(at) = self.parts.iter().position(|(kept, _)| *kept == id) {
            self.bytes -= self.parts.remove(at).map_or(0, |(_, bytes)| bytes);
        }
    }
}

impl Store {
    /// The part, if it is open and nobody touched its file: without reading it.
    pub fn opened(&self, id: PartId) -> Option<Arc<Part>> {
        let opened = self.0.index.lock().get(&id).and_then(|entry| entry.opened.get());
        vouched(opened)
    }

    /// Keeps a part open no longer than its readers do. Unmapping it takes time.
    pub fn let_go(&self, id: PartId) {
        self.0.kept.0.lock().forget(id);
        let kept = self.0.index.lock().get_mut(&id).and_then(|entry| entry.opened.let_go());
        drop(kept);
    }

    /// Keeps a part open that was just opened.
    pub(super) fn keep(&self, part: &Arc<Part>) {
        let over = self.0.kept.add(part.id(), part.len());
        let mut index = self.0.index.lock();
        let opened = Opened { read: Arc::downgrade(part), kept: Some(part.clone()) };
        let before = index.get_mut(&part.id()).map(|entry| std::mem::replace(&mut entry.opened, opened));
        let over: Vec<_> = over.iter().filter_map(|id| index.get_mut(id)?.opened.let_go()).collect();
        drop(index);
        drop((before, over));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_parts_go_when_there_are_too_many_or_too_large_ones() {
        let id = |at: usize| PartId(at as u128);
        let kept = Kept::default();
        assert!((0..PARTS).all(|at| kept.add(id(at), 1).is_empty()));
        assert_eq!(kept.add(id(PARTS), 1), [id(0)]);
        assert_eq!(kept.add(id(0), BYTES).len(), PARTS);
        assert_eq!(kept.add(id(1), BYTES + 1), [id(0), id(1)], "one that is larger than all is not kept");
    }

    #[test]
    fn a_part_that_is_opened_again_counts_once() {
        let kept = Kept::default();
        for _ in 0..10 {
            assert!(kept.add(PartId(1), BYTES / 2).is_empty());
            assert!(kept.add(PartId(2), BYTES / 2).is_empty());
        }
        kept.0.lock().forget(PartId(1));
        assert_eq!(kept.0.lock().bytes, BYTES / 2);
    }
}
