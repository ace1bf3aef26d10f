//! Open parts, kept mapped for the next reader: a get then does not open and fault in the file again.
//!
//! Limited by count and by bytes; the part that was opened first is evicted first. A part that is evicted while it is read
//! stays open, and is found, until its last reader drops it. An eviction unmaps on the thread that causes it, after all
//! locks are released, so the methods that open or evict must run where blocking is allowed.
//!
//! This is not `quick_cache` or `moka`: they have one limit (a weight), do not find an evicted part that is still in
//! use, and do not check an entry against the file system before they return it; `moka` also unmaps on the thread that
//! happens to run its housekeeping. The remaining code is smaller than adapters for them would be.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use volley_common::{PartId, Result};

use super::part::Part;

/// Parts that are kept open at most; each has one file open.
const MAX_PARTS: usize = 1024;
/// Bytes of the files of all kept parts; their page tables take 1/512 of it.
const MAX_BYTES: u64 = 16 << 30;

/// The open parts of a node.
#[derive(Default)]
pub struct PartCache {
    state: Mutex<CacheState>,
    /// Held while a part is being opened, so that concurrent readers open it once.
    opening: Mutex<HashMap<PartId, Arc<Mutex<()>>>>,
}

#[derive(Default)]
struct CacheState {
    entries: HashMap<PartId, CacheEntry>,
    order: EvictionOrder,
}

struct CacheEntry {
    /// Alive while the part is kept or read.
    open: Weak<Part>,
    /// `None` after an eviction.
    kept: Option<Arc<Part>>,
}

impl PartCache {
    /// The part, if it is open and its file is unchanged. Asks the file system, but reads nothing.
    pub fn get(&self, id: PartId) -> Option<Arc<Part>> {
        let open = self.state.lock().entries.get(&id)?.open.upgrade();
        open.filter(|part| part.check_unchanged().is_ok())
    }

    /// The part; `open` opens it if it is not open or its file has changed. Concurrent calls for one part wait for the
    /// first one. `None` if `open` returns `None`.
    ///
    /// # Errors
    /// Those of `open`; the next call tries again.
    pub fn get_or_open(&self, id: PartId, open: impl FnOnce() -> Result<Option<Part>>) -> Result<Option<Arc<Part>>> {
        if let Some(part) = self.get(id) {
            return Ok(Some(part));
        }
        let opening = self.opening.lock().entry(id).or_default().clone();
        // Dropped after the lock is released: that may unmap parts.
        let mut displaced = Vec::new();
        let result = {
            let _alone = opening.lock();
            match self.get(id) {
                Some(part) => Ok(Some(part)),
                None => open().map(|part| part.map(|part| self.insert(Arc::new(part), &mut displaced))),
            }
        };
        let mut all = self.opening.lock();
        // Two references: the map's and this call's. Otherwise another call waits.
        if Arc::strong_count(&opening) == 2 {
            all.remove(&id);
        }
        result
    }

    /// Parts that are kept open, and their bytes.
    pub fn kept(&self) -> (usize, u64) {
        let state = self.state.lock();
        (state.order.parts.len(), state.order.bytes)
    }

    /// Drops the cached mapping of a part; current readers keep theirs.
    pub fn evict(&self, id: PartId) {
        let mut state = self.state.lock();
        state.order.remove(id);
        let evicted = state.evict(id);
        drop(state);
        drop(evicted);
    }

    /// Forgets a part that was removed or replaced. Its readers keep it, but later lookups do not find it.
    pub fn forget(&self, id: PartId) {
        let mut state = self.state.lock();
        state.order.remove(id);
        let forgotten = state.entries.remove(&id);
        drop(state);
        drop(forgotten);
    }

    /// The parts that it replaces or evicts go to `displaced`.
    fn insert(&self, part: Arc<Part>, displaced: &mut Vec<Arc<Part>>) -> Arc<Part> {
        let mut state = self.state.lock();
        let entry = CacheEntry { open: Arc::downgrade(&part), kept: Some(part.clone()) };
        let replaced = state.entries.insert(part.id(), entry);
        let over = state.order.push(part.id(), part.len());
        displaced.extend(replaced.and_then(|entry| entry.kept));
        displaced.extend(over.into_iter().filter_map(|id| state.evict(id)));
        part
    }
}

impl CacheState {
    /// The caller drops the result after it has released the lock: that may unmap the part.
    fn evict(&mut self, id: PartId) -> Option<Arc<Part>> {
        let kept = self.entries.get_mut(&id)?.kept.take();
        if kept.as_ref().is_some_and(|part| Arc::strong_count(part) == 1) {
            self.entries.remove(&id);
        }
        kept
    }
}

/// The kept parts in the order in which they were opened.
#[derive(Default)]
struct EvictionOrder {
    parts: VecDeque<(PartId, u64)>,
    bytes: u64,
}

impl EvictionOrder {
    /// Adds a part; returns the parts that are over the limits, which may include this one.
    fn push(&mut self, id: PartId, bytes: u64) -> Vec<PartId> {
        self.remove(id);
        self.parts.push_back((id, bytes));
        self.bytes += bytes;
        let mut over = Vec::new();
        while self.parts.len() > MAX_PARTS || self.bytes > MAX_BYTES {
            let Some((id, bytes)) = self.parts.pop_front() else { break };
            self.bytes -= bytes;
            over.push(id);
        }
        over
    }

    fn remove(&mut self, id: PartId) {
        if let Some(at) = self.parts.iter().position(|(kept, _)| *kept == id) {
            self.bytes -= self.parts.remove(at).map_or(0, |(_, bytes)| bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_parts_are_evicted_above_either_limit() {
        let id = |at: usize| PartId(at as u128);
        let mut order = EvictionOrder::default();
        assert!((0..MAX_PARTS).all(|at| order.push(id(at), 1).is_empty()));
        assert_eq!(order.push(id(MAX_PARTS), 1), [id(0)]);
        assert_eq!(order.push(id(0), MAX_BYTES).len(), MAX_PARTS);
        assert_eq!(order.push(id(1), MAX_BYTES + 1), [id(0), id(1)], "a part larger than the limit is not kept");
    }

    #[test]
    fn reopened_part_counts_once() {
        let mut order = EvictionOrder::default();
        for _ in 0..10 {
            assert!(order.push(PartId(1), MAX_BYTES / 2).is_empty());
            assert!(order.push(PartId(2), MAX_BYTES / 2).is_empty());
        }
        order.remove(PartId(1));
        assert_eq!(order.bytes, MAX_BYTES / 2);
    }
}
