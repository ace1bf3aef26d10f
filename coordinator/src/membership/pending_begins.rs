//! Writes whose plan was sent before their begin was committed.
//!
//! A node that reports a part of a write that the catalog does not know is ordered to delete it. The parts of these writes may be
//! committed nevertheless: the begin is in this leader's log. So the leader first looks here, then reads the catalog: a begin that has
//! been applied is in the catalog by then, and one that was refused or lost will never let a commit in. If another coordinator leads by
//! now, it has the begin in its log, and applied before it reads, or no commit of the write succeeds.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use volley_common::PartId;
use volley_common::wire::cluster::HeldPart;

/// Maximum number of them.
const MAX_PENDING: usize = 4096;

/// The ids of the writes, each with the number of its begins.
#[derive(Default)]
pub struct PendingBegins(Mutex<HashMap<String, usize>>);

/// One begin, until its outcome is known.
pub struct PendingBegin {
    begins: Arc<PendingBegins>,
    write: String,
}

impl PendingBegins {
    /// Adds a begin; none if there are too many.
    pub fn add(self: &Arc<Self>, write: &str) -> Option<PendingBegin> {
        let mut writes = self.0.lock();
        if writes.len() >= MAX_PENDING {
            return None;
        }
        *writes.entry(write.to_string()).or_default() += 1;
        Some(PendingBegin { begins: self.clone(), write: write.to_string() })
    }

    /// Those of the parts that belong to such writes. To be called before the catalog is read by which the parts are judged.
    pub fn parts_of(&self, held: &[HeldPart]) -> BTreeSet<PartId> {
        let writes = self.0.lock();
        if writes.is_empty() {
            return BTreeSet::new();
        }
        let pending = held.iter().filter(|part| writes.contains_key(&part.write));
        pending.filter_map(|part| part.id.as_ref()).map(PartId::from).collect()
    }
}

impl Drop for PendingBegin {
    fn drop(&mut self) {
        let mut writes = self.begins.0.lock();
        if let Some(count) = writes.get_mut(&self.write) {
            *count -= 1;
            if *count == 0 {
                writes.remove(&self.write);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_pending_until_the_last_begin_of_their_write_ends() {
        let held = |id: u128, write: &str| HeldPart {
            id: Some(PartId(id).into()),
            write: write.into(),
            ..HeldPart::default()
        };
        let (begins, parts) = (Arc::<PendingBegins>::default(), [held(1, "a"), held(2, "b"), held(3, "a")]);
        assert!(begins.parts_of(&parts).is_empty());
        let (first, second) = (begins.add("a").unwrap(), begins.add("a").unwrap());
        let of_a = BTreeSet::from([PartId(1), PartId(3)]);
        assert_eq!(begins.parts_of(&parts), of_a);
        drop(first);
        assert_eq!(begins.parts_of(&parts), of_a);
        drop(second);
        assert!(begins.parts_of(&parts).is_empty());
        let all: Vec<PendingBegin> = (0..MAX_PENDING).map(|at| begins.add(&at.to_string()).unwrap()).collect();
        assert!(begins.add("one more").is_none());
        drop(all);
        assert!(begins.add("one more").is_some());
    }
}
