//! The copy orders in progress, and parts that must not be ordered again yet.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use volley_common::{NodeId, PartId};

use crate::scheduler::repair::CopyLoad;

/// An order without a result for this long is considered lost, and its part is ordered again.
const ORDER_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a copied part is not ordered again: the report that the node holds it may still be in transit.
const COOLDOWN: Duration = Duration::from_secs(5);
/// How long a node that failed to copy a part is not chosen for it again.
const FAILURE_BACKOFF: Duration = Duration::from_secs(30);

/// The copy orders of all nodes.
#[derive(Default)]
pub struct CopyTracker {
    in_progress: HashMap<PartId, CopyInProgress>,
    /// The parts of these copies, by target and order: a large cluster makes tens of thousands at once.
    orders: HashMap<(NodeId, u64), PartId>,
    /// Copied parts: the node, and when the copy finished.
    cooling_down: HashMap<PartId, (NodeId, Instant)>,
    failed: HashMap<(PartId, NodeId), Instant>,
}

struct CopyInProgress {
    to: NodeId,
    from: NodeId,
    order: u64,
    since: Instant,
}

impl CopyTracker {
    /// Drops entries whose time has passed.
    pub fn expire(&mut self, now: Instant) {
        let (in_progress, orders) = (&mut self.in_progress, &mut self.orders);
        in_progress.retain(|_, copy| {
            let is_recent = now.duration_since(copy.since) < ORDER_TIMEOUT;
            if !is_recent {
                orders.remove(&(copy.to, copy.order));
            }
            is_recent
        });
        self.cooling_down.retain(|_, (_, since)| now.duration_since(*since) < COOLDOWN);
        self.failed.retain(|_, since| now.duration_since(*since) < FAILURE_BACKOFF);
    }

    /// Whether a part must not be ordered now.
    pub fn is_busy(&self, part: PartId, now: Instant) -> bool {
        self.in_progress.contains_key(&part)
            || self.cooling_down.get(&part).is_some_and(|(_, since)| now.duration_since(*since) < COOLDOWN)
    }

    /// Parts that a node may hold soon, or holds without having reported it.
    pub fn pending_at(&self, node: NodeId) -> impl Iterator<Item = PartId> {
        let in_progress = self.in_progress.iter().filter(move |(_, copy)| copy.to == node).map(|(part, _)| *part);
        let copied = self.cooling_down.iter().filter(move |(_, (to, _))| *to == node).map(|(part, _)| *part);
        in_progress.chain(copied)
    }

    /// Parts that are being copied, and to which node.
    pub fn in_progress(&self) -> BTreeMap<PartId, NodeId> {
        self.in_progress.iter().map(|(part, copy)| (*part, copy.to)).collect()
    }

    /// The load of all nodes.
    pub fn load(&self) -> CopyLoad {
        let mut load = CopyLoad::default();
        for copy in self.in_progress.values() {
            *load.to.entry(copy.to).or_default() += 1;
            *load.from.entry(copy.from).or_default() += 1;
        }
        for (part, node) in self.failed.keys() {
            load.failed.entry(*part).or_default().insert(*node);
        }
        load
    }

    /// Records an order to copy a part from `from` to `to`.
    pub fn start(&mut self, part: PartId, to: NodeId, from: NodeId, order: u64, now: Instant) {
        let before = self.in_progress.insert(part, CopyInProgress { to, from, order, since: now });
        if let Some(before) = before {
            self.orders.remove(&(before.to, before.order));
        }
        self.orders.insert((to, order), part);
    }

    /// Records the end of an order. A part that was not copied can immediately be ordered from another node. Orders
    /// that are no copies are ignored.
    pub fn finish(&mut self, node: NodeId, order: u64, copied: bool, now: Instant) {
        let Some(part) = self.orders.remove(&(node, order)) else { return };
        self.in_progress.remove(&part);
        if copied {
            self.cooling_down.insert(part, (node, now));
        } else {
            self.failed.insert((part, node), now);
        }
    }

    /// Drops the orders of a node whose session ended.
    pub fn forget_node(&mut self, node: NodeId) {
        self.in_progress.retain(|_, copy| copy.to != node);
        self.orders.retain(|(to, _), _| *to != node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(1);
    const SOURCE: NodeId = NodeId(2);

    #[test]
    fn part_is_busy_until_its_copy_finished_and_cooled_down() {
        let (mut copies, now) = (CopyTracker::default(), Instant::now());
        copies.start(PartId(1), NODE, SOURCE, 7, now);
        assert!(copies.is_busy(PartId(1), now));
        copies.finish(NODE, 8, true, now);
        assert_eq!((copies.load().to[&NODE], copies.load().from[&SOURCE]), (1, 1));
        copies.finish(NODE, 7, true, now);
        assert!(copies.load().to.is_empty() && copies.is_busy(PartId(1), now));
        assert!(!copies.is_busy(PartId(1), now + COOLDOWN));
        copies.expire(now + COOLDOWN);
        assert!(copies.in_progress.is_empty() && copies.cooling_down.is_empty() && copies.failed.is_empty());
    }

    #[test]
    fn late_end_of_an_order_ends_no_later_one() {
        let (mut copies, now) = (CopyTracker::default(), Instant::now());
        copies.start(PartId(1), NODE, SOURCE, 7, now);
        copies.expire(now + ORDER_TIMEOUT);
        copies.start(PartId(1), NODE, SOURCE, 8, now + ORDER_TIMEOUT);
        copies.start(PartId(2), NODE, SOURCE, 9, now);
        copies.start(PartId(2), SOURCE, NODE, 10, now);
        copies.start(PartId(3), NODE, SOURCE, 11, now);
        copies.forget_node(SOURCE);
        for (node, order) in [(NODE, 7), (NODE, 9), (SOURCE, 10), (SOURCE, 8)] {
            copies.finish(node, order, true, now);
        }
        assert_eq!(copies.in_progress(), BTreeMap::from([(PartId(1), NODE), (PartId(3), NODE)]));
        assert!(copies.cooling_down.is_empty() && copies.orders.len() == 2);
        [8, 11].into_iter().for_each(|order| copies.finish(NODE, order, true, now));
        assert!(copies.in_progress.is_empty() && copies.orders.is_empty() && copies.cooling_down.len() == 2);
    }

    #[test]
    fn failed_copy_is_ordered_from_another_node_at_once() {
        let (mut copies, now) = (CopyTracker::default(), Instant::now());
        copies.start(PartId(1), NODE, SOURCE, 7, now);
        copies.finish(NODE, 7, false, now);
        assert!(!copies.is_busy(PartId(1), now));
        assert!(copies.load().failed[&PartId(1)].contains(&NODE));
        copies.expire(now + FAILURE_BACKOFF);
        assert!(copies.load().failed.is_empty());
    }

    #[test]
    fn lost_copies_are_ordered_again() {
        let (mut copies, now) = (CopyTracker::default(), Instant::now());
        copies.start(PartId(1), NODE, SOURCE, 7, now);
        copies.expire(now + ORDER_TIMEOUT);
        assert!(!copies.is_busy(PartId(1), now));
        copies.start(PartId(2), NODE, SOURCE, 8, now);
        assert_eq!(copies.pending_at(NODE).collect::<Vec<_>>(), [PartId(2)]);
        assert_eq!(copies.in_progress(), BTreeMap::from([(PartId(2), NODE)]));
        copies.forget_node(NODE);
        assert!(!copies.is_busy(PartId(2), now));
    }
}
