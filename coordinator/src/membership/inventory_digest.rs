//! Compares digests of what a node holds and of what the catalog expects, and decides when to request its inventory.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use volley_common::NodeId;

use crate::catalog::Catalog;

/// After this long a mismatch leads to an inventory even if it keeps changing, as it does while puts are in progress.
const UNSTABLE_MISMATCH_TIMEOUT: Duration = Duration::from_secs(10);
/// The least time between two inventories of a node; more for large ones.
const INVENTORY_INTERVAL: Duration = Duration::from_secs(3);
/// Digesting the catalog takes at most one in this many units of time.
const IDLE_FACTOR: u32 = 20;

/// The digest of a set of parts: order does not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InventoryDigest {
    /// XOR over `PartId::digest`.
    pub xor: u64,
    /// The number of parts.
    pub count: u64,
}

/// The digests of what each node should hold, from one state of the catalog.
#[derive(Clone, Default)]
pub struct ExpectedDigests {
    digests: BTreeMap<NodeId, InventoryDigest>,
    /// The applied index of the catalog, when it was digested, and how long that took.
    computed: Option<(u64, Instant, Duration)>,
}

impl ExpectedDigests {
    /// Digests the whole catalog: some 0.2 µs per part.
    pub fn of(catalog: &Catalog, applied: u64) -> Self {
        let started = Instant::now();
        let mut digests: BTreeMap<NodeId, InventoryDigest> = BTreeMap::new();
        for part in catalog.all_parts() {
            let xor = part.part_id().digest();
            for holder in &part.holders {
                let digest = digests.entry(NodeId(*holder)).or_default();
                digest.xor ^= xor;
                digest.count += 1;
            }
        }
        ExpectedDigests { digests, computed: Some((applied, started, started.elapsed())) }
    }

    /// Whether the catalog has changed since, and enough time has passed to digest it again.
    pub fn is_stale(&self, applied: u64, now: Instant) -> bool {
        self.computed.is_none_or(|(index, at, took)| index != applied && now.duration_since(at) >= took * IDLE_FACTOR)
    }

    /// The digest of what a node should hold; `None` before the catalog was digested.
    pub fn digest(&self, node: NodeId) -> Option<InventoryDigest> {
        self.computed.as_ref().map(|_| self.digests.get(&node).copied().unwrap_or_default())
    }
}

/// A pair of digests that differ.
#[derive(Clone, Copy, PartialEq)]
struct Mismatch {
    held: InventoryDigest,
    expected: InventoryDigest,
}

/// Tracks the mismatches of one node.
#[derive(Default)]
pub struct InventoryCheck {
    /// The last heartbeat's mismatch, and when the first heartbeat with the same one arrived and was handled.
    last: Option<(Mismatch, [Instant; 2])>,
    /// When the node began to mismatch.
    mismatch_since: Option<Instant>,
    /// When the inventory was requested.
    requested: Option<Instant>,
    /// When the next inventory may be requested.
    not_before: Option<Instant>,
}

impl InventoryCheck {
    /// Checks a heartbeat that arrived at `arrived`; returns whether to request the inventory now.
    ///
    /// A mismatch is stable if it is unchanged after `min_interval`, both by the arrival of the heartbeats and by the time of
    /// handling them: heartbeats that queued up behind each other are no independent observations.
    pub fn heartbeat(
        &mut self,
        held: InventoryDigest,
        expected: InventoryDigest,
        arrived: Instant,
        now: Instant,
        min_interval: Duration,
    ) -> bool {
        if held == expected {
            (self.last, self.mismatch_since) = (None, None);
            return false;
        }
        let mismatch = Mismatch { held, expected };
        let known = self.last.filter(|(last, _)| *last == mismatch);
        let (_, first) = *self.last.insert(known.unwrap_or((mismatch, [arrived, now])));
        let has_lasted = |(at, first): (Instant, Instant)| at.duration_since(first) >= min_interval;
        let stable = known.is_some() && [arrived, now].into_iter().zip(first).all(has_lasted);
        let since = *self.mismatch_since.get_or_insert(now);
        let due = stable || now.duration_since(since) >= UNSTABLE_MISMATCH_TIMEOUT;
        let allowed = self.not_before.is_none_or(|at| arrived >= at)
            && self.requested.is_none_or(|at| now.duration_since(at) >= 10 * INVENTORY_INTERVAL);
        if due && allowed {
            self.requested = Some(now);
        }
        due && allowed
    }

    /// Whether to request an inventory that is wanted regardless of the digests, unless it was requested recently.
    pub fn unconditional(&mut self, now: Instant) -> bool {
        let due = self.requested.is_none_or(|at| now.duration_since(at) >= 10 * INVENTORY_INTERVAL);
        if due {
            self.requested = Some(now);
        }
        due
    }

    /// Records that an inventory of this many parts was reconciled.
    pub fn reconciled(&mut self, parts: usize, now: Instant) {
        self.requested = None;
        self.mismatch_since = None;
        let per_part = Duration::from_micros(100) * u32::try_from(parts).unwrap_or(u32::MAX);
        self.not_before = Some(now + INVENTORY_INTERVAL + per_part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: InventoryDigest = InventoryDigest { xor: 1, count: 1 };
    const B: InventoryDigest = InventoryDigest { xor: 2, count: 2 };
    const C: InventoryDigest = InventoryDigest { xor: 3, count: 3 };
    const BEAT: Duration = Duration::from_secs(1);

    #[test]
    fn second_equal_mismatch_requests_the_inventory_once() {
        let (mut check, now) = (InventoryCheck::default(), Instant::now());
        assert!(!check.heartbeat(A, A, now, now, BEAT));
        assert!(!check.heartbeat(A, B, now, now, BEAT));
        assert!(check.heartbeat(A, B, now + BEAT, now + BEAT, BEAT));
        assert!(!check.heartbeat(A, B, now + 2 * BEAT, now + 2 * BEAT, BEAT));
    }

    #[test]
    fn heartbeats_that_queued_up_are_no_stable_mismatch() {
        let (mut check, now) = (InventoryCheck::default(), Instant::now());
        assert!(!check.heartbeat(A, B, now, now, BEAT));
        assert!(!check.heartbeat(A, B, now, now + BEAT, BEAT));
        assert!(!check.heartbeat(A, B, now + BEAT / 2, now + BEAT, BEAT));
        assert!(check.heartbeat(A, B, now + BEAT, now + BEAT, BEAT), "since the first");
        let (mut check, late) = (InventoryCheck::default(), now + 9 * BEAT);
        assert!((0..9).all(|beat| !check.heartbeat(A, B, now + beat * BEAT, late, BEAT)));
        assert!(check.heartbeat(A, B, late + BEAT, late + BEAT, BEAT));
    }

    #[test]
    fn changing_mismatch_requests_the_inventory_later() {
        let (mut check, now) = (InventoryCheck::default(), Instant::now());
        assert!(!check.heartbeat(A, B, now, now, BEAT));
        assert!(!check.heartbeat(B, C, now + BEAT, now + BEAT, BEAT));
        assert!(check.heartbeat(C, A, now + UNSTABLE_MISMATCH_TIMEOUT, now + UNSTABLE_MISMATCH_TIMEOUT, BEAT));
    }

    #[test]
    fn match_clears_the_mismatch() {
        let (mut check, now) = (InventoryCheck::default(), Instant::now());
        assert!(!check.heartbeat(A, B, now, now, BEAT));
        assert!(!check.heartbeat(B, B, now + BEAT, now + BEAT, BEAT));
        assert!(!check.heartbeat(A, B, now + UNSTABLE_MISMATCH_TIMEOUT, now + UNSTABLE_MISMATCH_TIMEOUT, BEAT));
    }

    #[test]
    fn next_inventory_waits_for_the_interval() {
        let (mut check, now) = (InventoryCheck::default(), Instant::now());
        check.heartbeat(A, B, now, now, BEAT);
        assert!(check.heartbeat(A, B, now + BEAT, now + BEAT, BEAT));
        let now = now + BEAT;
        check.reconciled(10, now);
        assert!(!check.heartbeat(A, B, now + INVENTORY_INTERVAL / 2, now + INVENTORY_INTERVAL / 2, BEAT));
        assert!(check.heartbeat(A, B, now + 2 * INVENTORY_INTERVAL, now + 2 * INVENTORY_INTERVAL, BEAT));
    }
}
