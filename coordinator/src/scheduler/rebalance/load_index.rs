//! Writable nodes by zone and load: finds the best node for a replica without a look at all nodes. After the loss of a zone of a
//! large cluster there are millions of replicas to place, on thousands of nodes.

use std::collections::{BTreeMap, BTreeSet};

use crate::scheduler::placement::rendezvous_hash;

/// How much a node has, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NodeLoad {
    /// Whether it has as many replicas as it should have at most.
    pub full: bool,
    /// Its replicas by its weight.
    pub ratio: u64,
}

/// The nodes of a zone: load, hash of the id, id.
type ZoneNodes = BTreeSet<(NodeLoad, u64, u64)>;

/// What nodes are compared by if they are all full or all not: replicas of the table by weight, load ratio, distance from the
/// shard's position among the hashes, id.
type TargetRank = (u64, u64, u64, u64);

/// Nodes by zone and load.
#[derive(Default)]
pub(super) struct LoadIndex {
    zones: BTreeMap<usize, ZoneNodes>,
}

impl LoadIndex {
    pub fn insert(&mut self, zone: usize, node: u64, load: NodeLoad) {
        self.zones.entry(zone).or_default().insert((load, node_hash(node), node));
    }

    /// Changes the load of a node.
    pub fn update(&mut self, zone: usize, node: u64, before: NodeLoad, after: NodeLoad) {
        let nodes = self.zones.entry(zone).or_default();
        nodes.remove(&(before, node_hash(node), node));
        nodes.insert((after, node_hash(node), node));
    }

    /// The best node in the zones for which `is_eligible` is true: one that is not full, then by the fewest replicas of the table,
    /// then by the lowest load. Of equal ones that whose hash follows `start`, which differs between shards.
    ///
    /// `table_ratio`: the replicas of the table on a node, by its weight; `None` if the node must not be chosen.
    pub fn best(
        &self,
        is_eligible: impl Fn(usize) -> bool,
        start: u64,
        table_ratio: impl Fn(u64) -> Option<u64>,
    ) -> Option<u64> {
        let zones = self.zones.iter().filter(|(zone, _)| is_eligible(**zone));
        let zones: Vec<&ZoneNodes> = zones.map(|(_, nodes)| nodes).collect();
        let best = |full: bool| {
            let unused = zones.iter().filter_map(|nodes| first_unused(nodes, full, start, &table_ratio)).min();
            // The table has replicas on all of them.
            unused.or_else(|| {
                let all = zones.iter().flat_map(|nodes| nodes.range(level(full, 0, 0).0..=level(full, u64::MAX, 0).1));
                all.filter_map(|found| rank(found, start, &table_ratio)).min()
            })
        };
        let (.., node) = best(false).or_else(|| best(true))?;
        Some(node)
    }
}

/// Of the nodes without a replica of the table the one with the lowest load.
fn first_unused(
    nodes: &ZoneNodes,
    full: bool,
    start: u64,
    table_ratio: &impl Fn(u64) -> Option<u64>,
) -> Option<TargetRank> {
    let mut at_least = 0;
    loop {
        let (lowest, highest) = (level(full, at_least, 0).0, level(full, u64::MAX, 0).1);
        let (NodeLoad { ratio, .. }, ..) = *nodes.range(lowest..=highest).next()?;
        let (first, last) = level(full, ratio, start);
        let (wrapped, _) = level(full, ratio, 0);
        let of_level = nodes.range(first..=last).chain(nodes.range(wrapped..first));
        let found = of_level.filter_map(|found| rank(found, start, table_ratio)).find(|(table, ..)| *table == 0);
        if found.is_some() {
            return found;
        }
        at_least = ratio.checked_add(1)?;
    }
}

/// The first and the last key of a load, from a hash on.
fn level(full: bool, ratio: u64, from: u64) -> ((NodeLoad, u64, u64), (NodeLoad, u64, u64)) {
    let load = NodeLoad { full, ratio };
    ((load, from, 0), (load, u64::MAX, u64::MAX))
}

fn rank(
    (load, hash, node): &(NodeLoad, u64, u64),
    start: u64,
    table_ratio: &impl Fn(u64) -> Option<u64>,
) -> Option<TargetRank> {
    Some((table_ratio(*node)?, load.ratio, hash.wrapping_sub(start), *node))
}

fn node_hash(node: u64) -> u64 {
    rendezvous_hash(0, 0, node)
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// The best node, found by a look at all nodes.
    fn best_of_all(
        nodes: &[(usize, NodeLoad)],
        zones: &[usize],
        start: u64,
        table: &dyn Fn(u64) -> Option<u64>,
    ) -> Option<u64> {
        let eligible = (0..).zip(nodes).filter(|(_, (zone, _))| zones.contains(zone));
        let ranked = eligible.filter_map(|(node, (_, load))| {
            let rank = rank(&(*load, node_hash(node), node), start, &table)?;
            Some((load.full, rank))
        });
        ranked.min().map(|(_, (.., node))| node)
    }

    #[test]
    fn best_node_is_that_of_a_look_at_all_nodes() {
        let mut random = StdRng::seed_from_u64(5);
        for round in 0..2000 {
            let load = |random: &mut StdRng| NodeLoad {
                full: random.random_bool(0.3),
                ratio: if random.random_bool(0.02) { u64::MAX } else { random.random_range(0..4) },
            };
            let count = random.random_range(0..30);
            let mut nodes: Vec<(usize, NodeLoad)> =
                (0..count).map(|_| (random.random_range(0..4), load(&mut random))).collect();
            let mut index = LoadIndex::default();
            (0..).zip(&nodes).for_each(|(node, (zone, load))| index.insert(*zone, node, *load));
            for (at, (zone, old)) in nodes.iter_mut().enumerate().filter(|(at, _)| at % 3 == 0) {
                let new = load(&mut random);
                index.update(*zone, at as u64, std::mem::replace(old, new), new);
            }
            let most = random.random_range(0..3);
            let ratios: Vec<Option<u64>> =
                (0..count).map(|_| random.random_bool(0.8).then(|| random.random_range(0..=most))).collect();
            let table = |node: u64| ratios[node as usize];
            let (start, zones) = (random.random(), [random.random_range(0..4), random.random_range(0..4)]);
            let found = index.best(|zone| zones.contains(&zone), start, table);
            assert_eq!(found, best_of_all(&nodes, &zones, start, &table), "round {round}");
        }
    }
}
