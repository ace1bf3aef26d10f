//! The present term of office of this leader: how far the catalog was when it began.
//!
//! Everything that an earlier leader committed precedes that point. A node that has seen more from another leader has seen
//! commits that this catalog lost: it was restored from an older copy.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// The term of office, once it was asked for.
#[derive(Default)]
pub struct Leadership {
    /// A random number; 0 before the first term.
    epoch: AtomicU64,
    /// Raft's term, and the index that the catalog had applied early in it.
    began: Mutex<Option<(u64, u64)>>,
}

impl Leadership {
    /// The epoch that orders carry.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// Whether `began` is set for this term of Raft.
    pub fn is_known(&self, term: u64) -> bool {
        self.began.lock().is_some_and(|(known, _)| known == term)
    }

    /// Begins an epoch for this term of Raft, unless it has begun. `applied` must include everything that was committed
    /// before the term.
    pub fn begin(&self, term: u64, applied: u64) {
        let mut began = self.began.lock();
        if began.is_none_or(|(known, _)| known != term) {
            *began = Some((term, applied));
            self.epoch.store(rand::random_range(1..=u64::MAX), Ordering::Relaxed);
        }
    }

    /// Whether a node that has seen this index from the leader of this epoch has seen commits that this catalog lost.
    pub fn has_lost(&self, seen_epoch: u64, seen_index: u64) -> bool {
        let began = self.began.lock().map_or(u64::MAX, |(_, applied)| applied);
        seen_epoch != 0 && seen_epoch != self.epoch() && seen_index > began
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_an_earlier_leader_can_have_committed_is_lost() {
        let leadership = Leadership::default();
        assert!(!leadership.has_lost(7, 1000), "nothing is known yet");
        leadership.begin(3, 100);
        let epoch = leadership.epoch();
        assert!(!leadership.has_lost(7, 100) && leadership.has_lost(7, 101));
        assert!(!leadership.has_lost(epoch, 5000), "seen from this leader");
        assert!(!leadership.has_lost(0, 5000), "an older node");
        leadership.begin(3, 200);
        assert!(leadership.epoch() == epoch && leadership.has_lost(7, 101), "the same term");
        leadership.begin(4, 200);
        assert!(leadership.epoch() != epoch && !leadership.has_lost(epoch, 200) && leadership.has_lost(epoch, 201));
    }
}
