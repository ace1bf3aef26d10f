//! Pure: which orders to copy a part are under way.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use volley_common::{NodeId, PartId};

/// Orders to copy that a node has at once.
const AT_ONCE: usize = 8;
/// An order that nobody heard of for so long is given again.
const GIVEN_UP: Duration = Duration::from_secs(600);
/// After an order ended its part is left alone for so long: the report that it is held may be on its way, or it failed.
const REST: Duration = Duration::from_secs(5);

/// The orders of all nodes.
#[derive(Default)]
pub struct Copying {
    under_way: HashMap<PartId, (NodeId, u64, Instant)>,
    resting: HashMap<PartId, (NodeId, Instant)>,
}

impl Copying {
    /// Parts that are not to be ordered now.
    pub fn busy(&mut self, now: Instant) -> BTreeSet<PartId> {
        self.under_way.retain(|_, (_, _, since)| now.duration_since(*since) < GIVEN_UP);
        self.resting.retain(|_, (_, since)| now.duration_since(*since) < REST);
        self.under_way.keys().chain(self.resting.keys()).copied().collect()
    }

    /// Parts that one node may be about to hold.
    pub fn busy_at(&self, node: NodeId) -> impl Iterator<Item = PartId> {
        let under_way = self.under_way.iter().filter(move |(_, (at, _, _))| *at == node).map(|(part, _)| *part);
        let resting = self.resting.iter().filter(move |(_, (at, _))| *at == node).map(|(part, _)| *part);
        under_way.chain(resting)
    }

    /// Parts that are being copied, and to which node.
    pub fn under_way(&self) -> BTreeMap<PartId, NodeId> {
        self.under_way.iter().map(|(part, (node, _, _))| (*part, *node)).collect()
    }

    /// How many more orders each node may get; a node that is not named, all of them.
    pub fn load(&self) -> BTreeMap<NodeId, usize> {
        let mut load = BTreeMap::new();
        for (node, _, _) in self.under_way.values() {
            *load.entry(*node).or_default() += 1;
        }
        load
    }

    /// Whether a node with so many orders may get another.
    pub fn has_room(load: usize) -> bool {
        load < AT_ONCE
    }

    /// The order was given.
    pub fn began(&mut self, part: PartId, node: NodeId, order: u64, now: Instant) {
        self.under_way.insert(part, (node, order, now));
    }

    /// The order ended, well or not.
    pub fn ended(&mut self, node: NodeId, order: u64, now: Instant) {
        let part = self.under_way.iter().find(|(_, (at, of, _))| (*at, *of) == (node, order)).map(|(part, _)| *part);
        if let Some(part) = part {
            self.under_way.remove(&part);
            self.resting.insert(part, (node, now));
        }
    }

    /// The node's session ended: its orders are forgotten.
    pub fn lost(&mut self, node: NodeId) {
        self.under_way.retain(|_, (at, _, _)| *at != node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(1);

    #[test]
    fn a_part_is_busy_until_its_order_ended_and_rested() {
        let (mut copying, now) = (Copying::default(), Instant::now());
        copying.began(PartId(1), NODE, 7, now);
        assert!(copying.busy(now).contains(&PartId(1)));
        copying.ended(NODE, 8, now);
        assert_eq!(copying.load()[&NODE], 1);
        copying.ended(NODE, 7, now);
        assert!(copying.load().is_empty() && copying.busy(now).contains(&PartId(1)));
        assert!(copying.busy(now + REST).is_empty());
    }

    #[test]
    fn lost_orders_are_given_again() {
        let (mut copying, now) = (Copying::default(), Instant::now());
        copying.began(PartId(1), NODE, 7, now);
        assert!(copying.busy(now + GIVEN_UP).is_empty());
        copying.began(PartId(2), NODE, 8, now);
        assert_eq!(copying.busy_at(NODE).collect::<Vec<_>>(), [PartId(2)]);
        copying.lost(NODE);
        assert!(copying.busy(now).is_empty());
    }
}
