//! Pure: which orders to copy a part are under way.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use volley_common::{NodeId, PartId};

use crate::scheduler::repair::Load;

/// An order that nobody heard of for so long is given again.
const GIVEN_UP: Duration = Duration::from_secs(600);
/// After an order ended its part is left alone for so long: the report that it is held may be on its way.
const REST: Duration = Duration::from_secs(5);
/// A node that failed to copy a part is not asked again for so long, if there are others.
const FAILED: Duration = Duration::from_secs(30);

/// The orders of all nodes.
#[derive(Default)]
pub struct Copying {
    under_way: HashMap<PartId, Order>,
    resting: HashMap<PartId, (NodeId, Instant)>,
    failed: HashMap<(PartId, NodeId), Instant>,
}

struct Order {
    to: NodeId,
    from: NodeId,
    number: u64,
    since: Instant,
}

impl Copying {
    /// Forgets what is long over.
    pub fn tidy(&mut self, now: Instant) {
        self.under_way.retain(|_, order| now.duration_since(order.since) < GIVEN_UP);
        self.resting.retain(|_, (_, since)| now.duration_since(*since) < REST);
        self.failed.retain(|_, since| now.duration_since(*since) < FAILED);
    }

    /// Whether a part is not to be ordered now.
    pub fn is_busy(&self, part: PartId, now: Instant) -> bool {
        self.under_way.contains_key(&part)
            || self.resting.get(&part).is_some_and(|(_, since)| now.duration_since(*since) < REST)
    }

    /// Whether there is any part that was kept from being ordered for a while.
    pub fn is_idle(&self) -> bool {
        self.under_way.is_empty() && self.resting.is_empty() && self.failed.is_empty()
    }

    /// Parts that one node may be about to hold.
    pub fn busy_at(&self, node: NodeId) -> impl Iterator<Item = PartId> {
        let under_way = self.under_way.iter().filter(move |(_, order)| order.to == node).map(|(part, _)| *part);
        let resting = self.resting.iter().filter(move |(_, (at, _))| *at == node).map(|(part, _)| *part);
        under_way.chain(resting)
    }

    /// Parts that are being copied, and to which node.
    pub fn under_way(&self) -> BTreeMap<PartId, NodeId> {
        self.under_way.iter().map(|(part, order)| (*part, order.to)).collect()
    }

    /// What nodes are busy with.
    pub fn load(&self) -> Load {
        let mut load = Load::default();
        for order in self.under_way.values() {
            *load.to.entry(order.to).or_default() += 1;
            *load.from.entry(order.from).or_default() += 1;
        }
        for (part, node) in self.failed.keys() {
            load.failed.entry(*part).or_default().insert(*node);
        }
        load
    }

    /// The order was given to `to`, to copy what `from` has.
    pub fn began(&mut self, part: PartId, to: NodeId, from: NodeId, number: u64, now: Instant) {
        self.under_way.insert(part, Order { to, from, number, since: now });
    }

    /// The order ended; a part that was not copied may be ordered of another node at once.
    pub fn ended(&mut self, node: NodeId, number: u64, copied: bool, now: Instant) {
        let part = self.under_way.iter().find(|(_, order)| (order.to, order.number) == (node, number));
        let Some(part) = part.map(|(part, _)| *part) else { return };
        self.under_way.remove(&part);
        if copied {
            self.resting.insert(part, (node, now));
        } else {
            self.failed.insert((part, node), now);
        }
    }

    /// The node's session ended: its orders are forgotten.
    pub fn lost(&mut self, node: NodeId) {
        self.under_way.retain(|_, order| order.to != node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(1);
    const SOURCE: NodeId = NodeId(2);

    #[test]
    fn a_part_is_busy_until_its_order_ended_and_rested() {
        let (mut copying, now) = (Copying::default(), Instant::now());
        copying.began(PartId(1), NODE, SOURCE, 7, now);
        assert!(copying.is_busy(PartId(1), now));
        copying.ended(NODE, 8, true, now);
        assert_eq!((copying.load().to[&NODE], copying.load().from[&SOURCE]), (1, 1));
        copying.ended(NODE, 7, true, now);
        assert!(copying.load().to.is_empty() && copying.is_busy(PartId(1), now));
        assert!(!copying.is_busy(PartId(1), now + REST));
        copying.tidy(now + REST);
        assert!(copying.is_idle());
    }

    #[test]
    fn a_part_that_could_not_be_copied_is_asked_of_others_at_once() {
        let (mut copying, now) = (Copying::default(), Instant::now());
        copying.began(PartId(1), NODE, SOURCE, 7, now);
        copying.ended(NODE, 7, false, now);
        assert!(!copying.is_busy(PartId(1), now));
        assert!(copying.load().failed[&PartId(1)].contains(&NODE));
        copying.tidy(now + FAILED);
        assert!(copying.load().failed.is_empty());
    }

    #[test]
    fn lost_orders_are_given_again() {
        let (mut copying, now) = (Copying::default(), Instant::now());
        copying.began(PartId(1), NODE, SOURCE, 7, now);
        copying.tidy(now + GIVEN_UP);
        assert!(!copying.is_busy(PartId(1), now));
        copying.began(PartId(2), NODE, SOURCE, 8, now);
        assert_eq!(copying.busy_at(NODE).collect::<Vec<_>>(), [PartId(2)]);
        assert_eq!(copying.under_way(), BTreeMap::from([(PartId(2), NODE)]));
        copying.lost(NODE);
        assert!(!copying.is_busy(PartId(2), now));
    }
}
