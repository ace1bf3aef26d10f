//! Pure: does a node hold what the catalog says, told from digests, and when to ask for the whole inventory.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use volley_common::NodeId;

use crate::catalog::Catalog;

/// A mismatch that changes all the time (puts are under way) is looked into after so long.
const UNSTEADY: Duration = Duration::from_secs(10);
/// The least time between two inventories of a node; more for large ones.
const BETWEEN: Duration = Duration::from_secs(3);
/// The catalog is digested at most this fraction of the time.
const SHARE: u32 = 20;

/// An inventory in short: XOR of the parts' digests, and their number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// XOR over `PartId::digest`.
    pub xor: u64,
    /// Parts.
    pub count: u64,
}

/// What every node should hold by the catalog, as of some moment.
#[derive(Clone, Default)]
pub struct Expected {
    digests: BTreeMap<NodeId, Digest>,
    /// The applied index that it is of, when it was made, and how long that took.
    made: Option<(u64, Instant, Duration)>,
}

impl Expected {
    /// Digests the whole catalog: some 0.2 µs a part.
    pub fn of(catalog: &Catalog, applied: u64) -> Self {
        let began = Instant::now();
        let mut digests: BTreeMap<NodeId, Digest> = BTreeMap::new();
        for part in catalog.all_parts() {
            let xor = part.part_id().digest();
            for holder in &part.holders {
                let digest = digests.entry(NodeId(*holder)).or_default();
                digest.xor ^= xor;
                digest.count += 1;
            }
        }
        Expected { digests, made: Some((applied, began, began.elapsed())) }
    }

    /// Whether the catalog went on since, and enough time has passed to look again.
    pub fn is_stale(&self, applied: u64, now: Instant) -> bool {
        self.made.is_none_or(|(index, at, took)| index != applied && now.duration_since(at) >= took * SHARE)
    }

    /// What a node should hold; none before the first look.
    pub fn digest(&self, node: NodeId) -> Option<Digest> {
        self.made.as_ref().map(|_| self.digests.get(&node).copied().unwrap_or_default())
    }
}

/// The watch over one node's digests.
#[derive(Default)]
pub struct Check {
    /// The last heartbeat's mismatch: what it held, what it should; and when the first that was just so arrived and was taken.
    last: Option<((Digest, Digest), [Instant; 2])>,
    since: Option<Instant>,
    asked: Option<Instant>,
    not_before: Option<Instant>,
}

impl Check {
    /// Takes a heartbeat that arrived some time ago; says whether to ask for the inventory now. A mismatch is steady that was
    /// seen again after `apart`, by when they arrived and when they are taken: of heartbeats that waited for each other one
    /// says no more than the other.
    pub fn heartbeat(
        &mut self,
        held: Digest,
        expected: Digest,
        arrived: Instant,
        now: Instant,
        apart: Duration,
    ) -> bool {
        if held == expected {
            (self.last, self.since) = (None, None);
            return false;
        }
        let known = self.last.filter(|(last, _)| *last == (held, expected));
        let (_, first) = *self.last.insert(known.unwrap_or(((held, expected), [arrived, now])));
        let lasted = |(at, first): (Instant, Instant)| at.duration_since(first) >= apart;
        let steady = known.is_some() && [arrived, now].into_iter().zip(first).all(lasted);
        let since = *self.since.get_or_insert(now);
        let due = steady || now.duration_since(since) >= UNSTEADY;
        let may = self.not_before.is_none_or(|at| arrived >= at)
            && self.asked.is_none_or(|at| now.duration_since(at) >= 10 * BETWEEN);
        if due && may {
            self.asked = Some(now);
        }
        due && may
    }

    /// An inventory of `parts` was reconciled.
    pub fn reconciled(&mut self, parts: usize, now: Instant) {
        self.asked = None;
        self.since = None;
        self.not_before = Some(now + BETWEEN + Duration::from_micros(100) * u32::try_from(parts).unwrap_or(u32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Digest = Digest { xor: 1, count: 1 };
    const B: Digest = Digest { xor: 2, count: 2 };
    const C: Digest = Digest { xor: 3, count: 3 };
    const BEAT: Duration = Duration::from_secs(1);

    #[test]
    fn the_second_equal_mismatch_asks_and_asks_once() {
        let (mut check, now) = (Check::default(), Instant::now());
        assert!(!check.heartbeat(A, A, now, now, BEAT));
        assert!(!check.heartbeat(A, B, now, now, BEAT));
        assert!(check.heartbeat(A, B, now + BEAT, now + BEAT, BEAT));
        assert!(!check.heartbeat(A, B, now + 2 * BEAT, now + 2 * BEAT, BEAT));
    }

    #[test]
    fn heartbeats_that_arrive_or_are_taken_together_are_no_steady_mismatch() {
        let (mut check, now) = (Check::default(), Instant::now());
        assert!(!check.heartbeat(A, B, now, now, BEAT));
        assert!(!check.heartbeat(A, B, now, now + BEAT, BEAT));
        assert!(!check.heartbeat(A, B, now + BEAT / 2, now + BEAT, BEAT));
        assert!(check.heartbeat(A, B, now + BEAT, now + BEAT, BEAT), "since the first");
        let (mut check, late) = (Check::default(), now + 9 * BEAT);
        assert!((0..9).all(|beat| !check.heartbeat(A, B, now + beat * BEAT, late, BEAT)));
        assert!(check.heartbeat(A, B, late + BEAT, late + BEAT, BEAT));
    }

    #[test]
    fn a_mismatch_that_changes_is_looked_into_later() {
        let (mut check, now) = (Check::default(), Instant::now());
        assert!(!check.heartbeat(A, B, now, now, BEAT));
        assert!(!check.heartbeat(B, C, now + BEAT, now + BEAT, BEAT));
        assert!(check.heartbeat(C, A, now + UNSTEADY, now + UNSTEADY, BEAT));
    }

    #[test]
    fn a_match_forgets_the_mismatch() {
        let (mut check, now) = (Check::default(), Instant::now());
        assert!(!check.heartbeat(A, B, now, now, BEAT));
        assert!(!check.heartbeat(B, B, now + BEAT, now + BEAT, BEAT));
        assert!(!check.heartbeat(A, B, now + UNSTEADY, now + UNSTEADY, BEAT));
    }

    #[test]
    fn after_an_inventory_the_next_one_waits() {
        let (mut check, now) = (Check::default(), Instant::now());
        check.heartbeat(A, B, now, now, BEAT);
        assert!(check.heartbeat(A, B, now + BEAT, now + BEAT, BEAT));
        let now = now + BEAT;
        check.reconciled(10, now);
        assert!(!check.heartbeat(A, B, now + BETWEEN / 2, now + BETWEEN / 2, BEAT));
        assert!(check.heartbeat(A, B, now + 2 * BETWEEN, now + 2 * BETWEEN, BEAT));
    }
}
