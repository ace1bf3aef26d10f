//! Decides which nodes should hold which shard after nodes joined or left, with as few changes as possible.
//!
//! - A replica leaves its node only if that node leaves (drained, removed, or unreachable beyond the repair delay) and
//!   another node can replace it. If none can, the replica stays placed on its node.
//! - A missing replica is placed on a node in a zone without a replica of the shard if possible, then by the fewest
//!   shards of that table, then by the lowest load.
//! - Replicas that share a zone spread to zones without one.
//! - A node with less than half of its fair share (because it is new, or came back) is filled up to its share: first with
//!   shards that it mostly has on disk already, then with every table in proportion, from the most loaded nodes. No other replica
//!   moves, so a node that joins causes no more moves than its own share.
//!
//! A node that is not writable keeps its shards and gets no new ones.

mod load_index;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use volley_common::NodeId;
use volley_common::placement::{Candidate, LOAD_BOUND, weights};
use volley_common::wire::catalog::{Node, ShardPlacement, Table, TablePlacement};

use self::load_index::{LoadIndex, NodeLoad};
use super::node_sets::NodeSets;
use super::placement::{placement_of, rendezvous_hash, replica_count};
use crate::catalog::Catalog;

/// A node with less than this percentage of its fair share is underloaded. In a cluster of a hundred nodes the hash
/// ring gives some of them only two thirds of their share, which must not cause moves.
const UNDERLOADED_PERCENT: u64 = 50;
/// Shards are taken from nodes above these percentages of their fair share, from the highest threshold to the lowest.
const OVERLOADED_PERCENTS: [u64; 3] = [120, 110, 100];
/// The denominator of fixed-point fractions.
const SCALE: u64 = 1 << 20;

/// The new placements of tables that need one; unchanged tables are left out.
pub fn rebalance(catalog: &Catalog, nodes: &NodeSets) -> Vec<TablePlacement> {
    if nodes.writable.is_empty() {
        return Vec::new();
    }
    let mut plan = PlacementPlan::new(catalog, nodes);
    for table in 0..plan.tables.len() {
        for shard in 0..plan.tables[table].shards.len() {
            plan.fill_replicas(table, shard);
            plan.spread_zones(table, shard);
        }
    }
    let underloaded = plan.underloaded();
    let on_disk = if underloaded.is_empty() { ShardsOnDisk::new() } else { shards_on_disk(catalog, &underloaded) };
    underloaded.into_iter().for_each(|node| plan.fill_underloaded(node, &on_disk));
    plan.changes(catalog)
}

/// By node and table: the shards of which the node holds at least half of the bytes, in their order.
type ShardsOnDisk = HashMap<(u64, u64), Vec<usize>>;

/// A node that has only some parts of a shard, for example of puts that it took while others did not answer, does not count:
/// else a new node could be filled up with the shards of a few busy tables.
fn shards_on_disk(catalog: &Catalog, nodes: &[u64]) -> ShardsOnDisk {
    let nodes: HashSet<u64> = nodes.iter().copied().collect();
    let mut totals: HashMap<(u64, u32), u64> = HashMap::new();
    let mut held: HashMap<(u64, u64, u32), u64> = HashMap::new();
    for part in catalog.all_parts() {
        *totals.entry((part.table, part.shard)).or_default() += part.bytes;
        for node in part.holders.iter().filter(|node| nodes.contains(node)) {
            *held.entry((*node, part.table, part.shard)).or_default() += part.bytes;
        }
    }
    let mut on_disk = ShardsOnDisk::new();
    for ((node, table, shard), bytes) in held {
        if bytes * 2 >= totals[&(table, shard)] {
            on_disk.entry((node, table)).or_default().push(shard as usize);
        }
    }
    on_disk.values_mut().for_each(|shards| shards.sort_unstable());
    on_disk
}

/// A node that keeps its shards and may get more.
struct PlacementNode {
    /// Index of the zone, equal for nodes of one zone.
    zone: usize,
    weight: u64,
    writable: bool,
    /// Replicas that are placed on it.
    load: u64,
}

struct TablePlan {
    id: u64,
    replicas: usize,
    /// The nodes of each shard.
    shards: Vec<Vec<u64>>,
    /// Replicas of the table by node.
    counts: BTreeMap<u64, u64>,
}

impl TablePlan {
    fn new(table: &Table, nodes: usize) -> Self {
        TablePlan {
            id: table.id,
            replicas: replica_count(table).min(nodes),
            shards: table.placement.iter().map(|holders| holders.nodes.clone()).collect(),
            counts: BTreeMap::new(),
        }
    }
}

/// The placement of all tables while it is being changed.
struct PlacementPlan {
    /// Nodes that stay.
    nodes: BTreeMap<u64, PlacementNode>,
    /// The writable ones of them.
    by_load: LoadIndex,
    /// Nodes that leave. An id in neither collection is not a node of the cluster.
    leaving: BTreeSet<u64>,
    tables: Vec<TablePlan>,
    /// Replicas of all tables.
    total_replicas: u64,
    /// Weights of all nodes that stay.
    total_weight: u64,
}

/// Which shards of a table may move to an underloaded node.
#[derive(Clone, Copy)]
enum Pass {
    /// Shards of which the node has parts on disk.
    OnDisk,
    /// As many shards of the table as the node's weight entitles it to.
    Proportional,
    Any,
}

impl PlacementPlan {
    fn new(catalog: &Catalog, sets: &NodeSets) -> Self {
        let (staying, leaving): (Vec<&Node>, Vec<&Node>) =
            catalog.nodes().partition(|node| sets.counts_as_replica(NodeId(node.id)));
        let candidate = |node: &&Node| Candidate { id: NodeId(node.id), zone: String::new(), capacity: node.capacity };
        let weights = weights(&staying.iter().map(candidate).collect::<Vec<_>>());
        let zone_names: BTreeSet<&str> = staying.iter().map(|node| node.zone.as_str()).collect();
        let zones: BTreeMap<&str, usize> = zone_names.into_iter().zip(0..).collect();
        let placement_node = |node: &&Node| {
            let id = NodeId(node.id);
            let (zone, writable) = (zones[node.zone.as_str()], sets.writable.contains(&id));
            (node.id, PlacementNode { zone, writable, weight: weights.get(&id).copied().unwrap_or(1), load: 0 })
        };
        let nodes: BTreeMap<u64, PlacementNode> = staying.iter().map(placement_node).collect();
        let tables: Vec<TablePlan> = catalog.tables().map(|table| TablePlan::new(table, nodes.len())).collect();
        let mut plan = PlacementPlan {
            total_weight: nodes.values().map(|node| node.weight).sum(),
            total_replicas: tables.iter().map(|table| (table.shards.len() * table.replicas) as u64).sum(),
            nodes,
            by_load: LoadIndex::default(),
            leaving: leaving.iter().map(|node| node.id).collect(),
            tables,
        };
        for table in 0..plan.tables.len() {
            for node in plan.tables[table].shards.concat() {
                plan.count(table, node, 1);
            }
        }
        let writable = plan.nodes.iter().filter(|(_, node)| node.writable);
        let loads: Vec<_> = writable.map(|(id, node)| (node.zone, *id, plan.load_of(node))).collect();
        loads.into_iter().for_each(|(zone, id, load)| plan.by_load.insert(zone, id, load));
        plan
    }

    fn add_load(&mut self, table: usize, id: u64, change: i64) {
        let Some(before) = self.nodes.get(&id).map(|node| self.load_of(node)) else { return };
        self.count(table, id, change);
        if let Some(node) = self.nodes.get(&id).filter(|node| node.writable) {
            let (zone, after) = (node.zone, self.load_of(node));
            self.by_load.update(zone, id, before, after);
        }
    }

    /// Changes the numbers of replicas, and not the index of them.
    fn count(&mut self, table: usize, id: u64, change: i64) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.load = node.load.saturating_add_signed(change);
            let count = self.tables[table].counts.entry(id).or_default();
            *count = count.saturating_add_signed(change);
        }
    }

    /// Replaces a shard's replicas on leaving nodes, and adds the replicas that it lacks.
    fn fill_replicas(&mut self, table: usize, shard: usize) {
        let mut nodes = std::mem::take(&mut self.tables[table].shards[shard]);
        nodes.retain(|node| self.nodes.contains_key(node) || self.leaving.contains(node));
        for at in 0..nodes.len() {
            if !self.nodes.contains_key(&nodes[at])
                && let Some(target) = self.pick_target(table, shard, &nodes, false)
            {
                nodes[at] = target;
                self.add_load(table, target, 1);
            }
        }
        while nodes.len() < self.tables[table].replicas
            && let Some(target) = self.pick_target(table, shard, &nodes, false)
        {
            nodes.push(target);
            self.add_load(table, target, 1);
        }
        self.tables[table].shards[shard] = nodes;
    }

    /// Moves replicas that share a zone into zones without a replica of the shard.
    fn spread_zones(&mut self, table: usize, shard: usize) {
        loop {
            let nodes = &self.tables[table].shards[shard];
            let shares_zone = |node: &u64| {
                let zone = self.zone(*node);
                zone.is_some() && nodes.iter().filter(|other| self.zone(**other) == zone).count() > 1
            };
            let from = nodes.iter().copied().filter(shares_zone).max_by_key(|node| (self.load_ratio(*node), *node));
            let Some(from) = from else { return };
            let Some(to) = self.pick_target(table, shard, nodes, true) else { return };
            self.move_replica(table, shard, from, to);
        }
    }

    fn zone(&self, node: u64) -> Option<usize> {
        self.nodes.get(&node).map(|node| node.zone)
    }

    fn move_replica(&mut self, table: usize, shard: usize, from: u64, to: u64) {
        for node in self.tables[table].shards[shard].iter_mut().filter(|node| **node == from) {
            *node = to;
        }
        self.add_load(table, from, -1);
        self.add_load(table, to, 1);
    }

    /// The best node for one more replica of a shard that is on `nodes`; with `own_zone` only a node in a zone without one.
    fn pick_target(&self, table: usize, shard: usize, nodes: &[u64], own_zone: bool) -> Option<u64> {
        let zones: Vec<usize> = nodes.iter().filter_map(|node| self.zone(*node)).collect();
        let plan = &self.tables[table];
        let table_ratio = |id: u64| {
            let node = self.nodes.get(&id).filter(|_| !nodes.contains(&id))?;
            Some(plan.counts.get(&id).copied().unwrap_or(0) * SCALE / node.weight)
        };
        let start = rendezvous_hash(plan.id, shard as u32, 0);
        let best = |shared: bool| self.by_load.best(|zone| zones.contains(&zone) == shared, start, table_ratio);
        best(false).or_else(|| if own_zone { None } else { best(true) })
    }

    /// How much a node has, as targets are compared by it.
    fn load_of(&self, node: &PlacementNode) -> NodeLoad {
        let bound = (self.fair_share(node.weight) as f64 * LOAD_BOUND / SCALE as f64).ceil();
        NodeLoad { full: node.load as f64 + 1.0 > bound, ratio: node.load * SCALE / node.weight }
    }

    /// Load by weight in [`SCALE`]ths, comparable between nodes.
    fn load_ratio(&self, node: u64) -> u64 {
        self.nodes.get(&node).map_or(0, |node| node.load * SCALE / node.weight)
    }

    /// The fair share of a node, in [`SCALE`]ths of a replica.
    fn fair_share(&self, weight: u64) -> u64 {
        let share = u128::from(self.total_replicas) * u128::from(weight) * u128::from(SCALE)
            / u128::from(self.total_weight.max(1));
        u64::try_from(share).unwrap_or(u64::MAX)
    }

    /// Writable nodes with far less than their share, the least loaded first.
    fn underloaded(&self) -> Vec<u64> {
        let is_underloaded = |node: &PlacementNode| {
            node.writable && node.load < self.fair_share(node.weight) * UNDERLOADED_PERCENT / 100 / SCALE
        };
        let found = self.nodes.iter().filter(|(_, node)| is_underloaded(node));
        let mut underloaded: Vec<u64> = found.map(|(id, _)| *id).collect();
        underloaded.sort_by_key(|id| self.load_ratio(*id));
        underloaded
    }

    /// Moves shards to an underloaded node until it has its fair share.
    fn fill_underloaded(&mut self, node: u64, on_disk: &ShardsOnDisk) {
        let Some(weight) = self.nodes.get(&node).map(|node| node.weight) else { return };
        let fair_share = self.fair_share(weight) / SCALE;
        let mut order: Vec<usize> = (0..self.tables.len()).collect();
        order.sort_by_key(|at| rendezvous_hash(self.tables[*at].id, 0, node));
        for pass in [Pass::OnDisk, Pass::Proportional, Pass::Any] {
            for overloaded_percent in OVERLOADED_PERCENTS {
                // Without a donor there is no need to look at the shards.
                if !self.nodes.values().any(|node| self.is_overloaded(node, overloaded_percent)) {
                    continue;
                }
                for table in &order {
                    self.move_shards(*table, node, fair_share, overloaded_percent, pass, on_disk);
                }
            }
        }
    }

    /// Moves shards of one table to a node, until it has its fair share of all tables, or the pass's quota of this one.
    fn move_shards(
        &mut self,
        table: usize,
        node: u64,
        fair_share: u64,
        overloaded_percent: u64,
        pass: Pass,
        on_disk: &ShardsOnDisk,
    ) {
        let plan = &self.tables[table];
        let (id, replicas) = (plan.id, (plan.shards.len() * plan.replicas) as u64);
        let quota = match pass {
            Pass::Proportional => replicas * self.nodes[&node].weight / self.total_weight.max(1),
            Pass::OnDisk | Pass::Any => u64::MAX,
        };
        let on_disk = on_disk.get(&(node, id)).map_or(&[][..], Vec::as_slice);
        let shard_count = plan.shards.len();
        let shards: Box<dyn Iterator<Item = usize> + '_> = match pass {
            // An old version of the table may have more shards.
            Pass::OnDisk => Box::new(on_disk.iter().copied().take_while(move |shard| *shard < shard_count)),
            Pass::Proportional | Pass::Any => Box::new(0..shard_count),
        };
        for shard in shards {
            let count = self.tables[table].counts.get(&node).copied().unwrap_or(0);
            if self.nodes[&node].load >= fair_share || count >= quota {
                return;
            }
            if let Some(donor) = self.pick_donor(&self.tables[table].shards[shard], node, overloaded_percent) {
                self.move_replica(table, shard, donor, node);
            }
        }
    }

    fn is_overloaded(&self, node: &PlacementNode, percent: u64) -> bool {
        node.load * SCALE > self.fair_share(node.weight) / 100 * percent
    }

    /// The most loaded of a shard's nodes that can give its replica to `to` without reducing the number of zones.
    fn pick_donor(&self, nodes: &[u64], to: u64, overloaded_percent: u64) -> Option<u64> {
        if nodes.contains(&to) {
            return None;
        }
        let is_donor = |id: &u64| self.nodes.get(id).is_some_and(|node| self.is_overloaded(node, overloaded_percent));
        let mut overloaded = nodes.iter().copied().filter(is_donor).peekable();
        // Most shards have none: their zones need not be counted.
        overloaded.peek()?;
        let count_zones =
            |nodes: &mut dyn Iterator<Item = u64>| nodes.map(|node| self.zone(node)).collect::<BTreeSet<_>>().len();
        let zones_before = count_zones(&mut nodes.iter().copied());
        let keeps_zones = |donor: &u64| {
            count_zones(&mut nodes.iter().map(|node| if node == donor { to } else { *node })) >= zones_before
        };
        overloaded.filter(keeps_zones).max_by_key(|node| (self.load_ratio(*node), *node))
    }

    fn changes(&self, catalog: &Catalog) -> Vec<TablePlacement> {
        let is_changed = |plan: &&TablePlan| {
            let table = catalog.table(plan.id);
            table.is_some_and(|table| {
                (0..).zip(&plan.shards).any(|(shard, nodes)| placement_of(table, shard) != nodes.as_slice())
            })
        };
        let placement = |plan: &TablePlan| TablePlacement {
            table: plan.id,
            placement: plan.shards.iter().map(|nodes| ShardPlacement { nodes: nodes.clone() }).collect(),
        };
        self.tables.iter().filter(is_changed).map(placement).collect()
    }
}
