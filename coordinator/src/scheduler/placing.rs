//! Which nodes should hold which shard, after nodes came or went: as few changes as can be.
//!
//! - A replica leaves its node only if that node leaves (drained, removed, silent beyond its grace) and another can
//!   take its place; where none can, the shard waits for its node.
//! - A free place goes to the node in a zone of its own, with the fewest shards of that table, with the least load.
//! - Replicas that share a zone spread to zones without one.
//! - A node with less than half of its fair share (it is new, or came back) gets its share: what it has on disk
//!   already first, then of every table in proportion, from the nodes with most. Nothing else moves: so a node that
//!   joins moves no more than its own share.
//!
//! A node that takes no parts at present keeps the shards it has, and gets none.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use volley_common::NodeId;
use volley_common::placement::{Candidate, LOAD_BOUND, weights};
use volley_common::wire::catalog::{Holders, Node, Table, TablePlacement};
use xxhash_rust::xxh3::xxh3_64;

use super::nodes::Nodes;
use super::{placed, replicas};
use crate::catalog::Catalog;

/// Below so many hundredths of its fair share a node gets more. Of a hundred nodes the ring gives some two thirds by
/// itself: those must not set parts moving.
const POOR: u64 = 50;
/// The nodes from which shards are taken: those above so many hundredths of their share, the richest first.
const RICH: [u64; 3] = [120, 110, 100];

/// New homes for the shards that need some; tables that stay as they are are not in it.
pub fn placements(catalog: &Catalog, nodes: &Nodes) -> Vec<TablePlacement> {
    if nodes.writable.is_empty() {
        return Vec::new();
    }
    let mut plan = Plan::new(catalog, nodes);
    for at in 0..plan.tables.len() {
        for shard in 0..plan.tables[at].shards.len() {
            plan.fill(at, shard);
            plan.spread(at, shard);
        }
    }
    let poor = plan.poor();
    let had = if poor.is_empty() { HashSet::new() } else { on_disk(catalog, &poor) };
    poor.into_iter().for_each(|node| plan.enrich(node, &had));
    plan.changes(catalog)
}

/// Where the parts of a shard that is written now go: its `placed` nodes, but others in place of those that are not among
/// `homes`, as long as there are any.
pub fn stand_ins(homes: &[Node], table: u64, shard: u32, placed: &[u64], replicas: usize) -> Vec<u64> {
    let zone = |id: &u64| homes.iter().find(|home| home.id == *id).map(|home| home.zone.as_str());
    let mut nodes: Vec<u64> = placed.iter().copied().filter(|id| zone(id).is_some()).collect();
    while nodes.len() < replicas.max(placed.len()) {
        let zones: BTreeSet<_> = nodes.iter().filter_map(zone).collect();
        let free = homes.iter().filter(|home| !nodes.contains(&home.id));
        match free.min_by_key(|home| (zones.contains(home.zone.as_str()), turn(table, shard, home.id))) {
            Some(home) => nodes.push(home.id),
            None => break,
        }
    }
    // Nodes that cannot be had stay named: so many copies as they are must not become fewer unnoticed.
    let missing = placed.iter().filter(|id| zone(id).is_none());
    let room = placed.len().saturating_sub(nodes.len());
    nodes.extend(missing.take(room));
    nodes
}

/// An order of nodes that differs from shard to shard.
pub(super) fn turn(table: u64, shard: u32, node: u64) -> u64 {
    let mut bytes = [0; 20];
    bytes[..8].copy_from_slice(&table.to_le_bytes());
    bytes[8..12].copy_from_slice(&shard.to_le_bytes());
    bytes[12..].copy_from_slice(&node.to_le_bytes());
    xxh3_64(&bytes)
}

/// Shards of which a node has a part, of some nodes.
fn on_disk(catalog: &Catalog, nodes: &[u64]) -> HashSet<(u64, u64, u32)> {
    let mut found = HashSet::new();
    for part in catalog.all_parts() {
        for node in part.holders.iter().filter(|node| nodes.contains(node)) {
            found.insert((*node, part.table, part.shard));
        }
    }
    found
}

/// A node that may have shards.
struct Home {
    /// Equal for nodes of one zone.
    zone: usize,
    weight: u64,
    takes: bool,
    /// Replicas that it has.
    load: u64,
}

struct TablePlan {
    id: u64,
    replicas: usize,
    shards: Vec<Vec<u64>>,
    /// Replicas of it that nodes have.
    counts: BTreeMap<u64, u64>,
}

/// All placements on the way from what they are to what they should be.
struct Plan {
    /// Nodes that stay.
    homes: BTreeMap<u64, Home>,
    /// Nodes that leave; what is on neither list is no node at all.
    leaving: BTreeSet<u64>,
    tables: Vec<TablePlan>,
    /// All replicas, and all nodes' weights.
    replicas: u64,
    weights: u64,
}

impl Plan {
    fn new(catalog: &Catalog, nodes: &Nodes) -> Self {
        let (staying, leaving): (Vec<&Node>, Vec<&Node>) =
            catalog.nodes().partition(|node| nodes.stays(NodeId(node.id)));
        let candidate = |node: &&Node| Candidate { id: NodeId(node.id), zone: String::new(), capacity: node.capacity };
        let weights = weights(&staying.iter().map(candidate).collect::<Vec<_>>());
        let names: BTreeSet<&str> = staying.iter().map(|node| node.zone.as_str()).collect();
        let zones: BTreeMap<&str, usize> = names.into_iter().zip(0..).collect();
        let home = |node: &&Node| {
            let id = NodeId(node.id);
            let (zone, takes) = (zones[node.zone.as_str()], nodes.writable.contains(&id));
            (node.id, Home { zone, takes, weight: weights.get(&id).copied().unwrap_or(1), load: 0 })
        };
        let homes: BTreeMap<u64, Home> = staying.iter().map(home).collect();
        let tables: Vec<TablePlan> = catalog.tables().map(|table| TablePlan::new(table, homes.len())).collect();
        let mut plan = Plan {
            weights: homes.values().map(|home| home.weight).sum(),
            replicas: tables.iter().map(|table| (table.shards.len() * table.replicas) as u64).sum(),
            homes,
            leaving: leaving.iter().map(|node| node.id).collect(),
            tables,
        };
        for at in 0..plan.tables.len() {
            for node in plan.tables[at].shards.concat() {
                plan.count(at, node, 1);
            }
        }
        plan
    }

    fn count(&mut self, table: usize, node: u64, change: i64) {
        if let Some(home) = self.homes.get_mut(&node) {
            home.load = home.load.saturating_add_signed(change);
            let count = self.tables[table].counts.entry(node).or_default();
            *count = count.saturating_add_signed(change);
        }
    }

    /// Gives a shard the replicas that it lacks, in place of those that leave.
    fn fill(&mut self, table: usize, shard: usize) {
        let mut nodes = std::mem::take(&mut self.tables[table].shards[shard]);
        nodes.retain(|node| self.homes.contains_key(node) || self.leaving.contains(node));
        for at in 0..nodes.len() {
            if !self.homes.contains_key(&nodes[at])
                && let Some(taken) = self.pick(table, shard, &nodes, false)
            {
                nodes[at] = taken;
                self.count(table, taken, 1);
            }
        }
        while nodes.len() < self.tables[table].replicas
            && let Some(taken) = self.pick(table, shard, &nodes, false)
        {
            nodes.push(taken);
            self.count(table, taken, 1);
        }
        self.tables[table].shards[shard] = nodes;
    }

    /// Moves replicas out of zones where there are two of them into zones where there is none.
    fn spread(&mut self, table: usize, shard: usize) {
        loop {
            let nodes = &self.tables[table].shards[shard];
            let doubled = |node: &u64| {
                let zone = self.zone(*node);
                zone.is_some() && nodes.iter().filter(|other| self.zone(**other) == zone).count() > 1
            };
            let from = nodes.iter().copied().filter(doubled).max_by_key(|node| (self.ratio(*node), *node));
            let Some(from) = from else { return };
            let Some(to) = self.pick(table, shard, nodes, true) else { return };
            self.replace(table, shard, from, to);
        }
    }

    fn zone(&self, node: u64) -> Option<usize> {
        self.homes.get(&node).map(|home| home.zone)
    }

    fn replace(&mut self, table: usize, shard: usize, from: u64, to: u64) {
        for node in self.tables[table].shards[shard].iter_mut().filter(|node| **node == from) {
            *node = to;
        }
        self.count(table, from, -1);
        self.count(table, to, 1);
    }

    /// The best node for one more replica of a shard that is on `nodes`; with `own_zone` only one that shares none.
    fn pick(&self, table: usize, shard: usize, nodes: &[u64], own_zone: bool) -> Option<u64> {
        let zones: Vec<usize> = nodes.iter().filter_map(|node| self.zone(*node)).collect();
        let plan = &self.tables[table];
        let free = self.homes.iter().filter(|(id, home)| home.takes && !nodes.contains(id));
        let fits = free.filter(|(_, home)| !own_zone || !zones.contains(&home.zone));
        let best = fits.min_by_key(|(id, home)| {
            let full = home.load as f64 + 1.0 > (self.share(home.weight) as f64 * LOAD_BOUND / SCALE as f64).ceil();
            let count = plan.counts.get(id).copied().unwrap_or(0);
            let of_table = count * SCALE / home.weight;
            (zones.contains(&home.zone), full, of_table, self.ratio(**id), turn(plan.id, shard as u32, **id))
        });
        best.map(|(id, _)| *id)
    }

    /// Load by weight, comparable between nodes.
    fn ratio(&self, node: u64) -> u64 {
        self.homes.get(&node).map_or(0, |home| home.load * SCALE / home.weight)
    }

    /// A fair share, in [`SCALE`]ths of a replica.
    fn share(&self, weight: u64) -> u64 {
        let share =
            u128::from(self.replicas) * u128::from(weight) * u128::from(SCALE) / u128::from(self.weights.max(1));
        u64::try_from(share).unwrap_or(u64::MAX)
    }

    /// Nodes that have far less than their share, the poorest first.
    fn poor(&self) -> Vec<u64> {
        let is_poor = |home: &Home| home.takes && home.load < self.share(home.weight) * POOR / 100 / SCALE;
        let mut poor: Vec<u64> = self.homes.iter().filter(|(_, home)| is_poor(home)).map(|(id, _)| *id).collect();
        poor.sort_by_key(|id| self.ratio(*id));
        poor
    }

    /// Gives a node its share.
    fn enrich(&mut self, node: u64, had: &HashSet<(u64, u64, u32)>) {
        let Some(weight) = self.homes.get(&node).map(|home| home.weight) else { return };
        let fair = self.share(weight) / SCALE;
        let mut order: Vec<usize> = (0..self.tables.len()).collect();
        order.sort_by_key(|at| turn(self.tables[*at].id, 0, node));
        for pass in [Pass::Had, Pass::InProportion, Pass::Any] {
            for rich in RICH {
                for table in &order {
                    self.take_from(*table, node, fair, rich, pass, had);
                }
            }
        }
    }

    /// Moves shards of one table to a node, until it has its share of all (and, in proportion, of the table).
    fn take_from(&mut self, table: usize, node: u64, fair: u64, rich: u64, pass: Pass, had: &HashSet<(u64, u64, u32)>) {
        let plan = &self.tables[table];
        let (id, of_table) = (plan.id, (plan.shards.len() * plan.replicas) as u64);
        let quota = match pass {
            Pass::InProportion => of_table * self.homes[&node].weight / self.weights.max(1),
            Pass::Had | Pass::Any => u64::MAX,
        };
        for shard in 0..self.tables[table].shards.len() {
            let count = self.tables[table].counts.get(&node).copied().unwrap_or(0);
            if self.homes[&node].load >= fair || count >= quota {
                return;
            }
            if pass == Pass::Had && !had.contains(&(node, id, shard as u32)) {
                continue;
            }
            if let Some(from) = self.giver(&self.tables[table].shards[shard], node, rich) {
                self.replace(table, shard, from, node);
            }
        }
    }

    /// The richest of a shard's nodes that can give its replica to `to` without two of them coming to share a zone.
    fn giver(&self, nodes: &[u64], to: u64, rich: u64) -> Option<u64> {
        if nodes.contains(&to) {
            return None;
        }
        let zones =
            |nodes: &mut dyn Iterator<Item = u64>| nodes.map(|node| self.zone(node)).collect::<BTreeSet<_>>().len();
        let before = zones(&mut nodes.iter().copied());
        let is_rich = |home: &Home| home.load * SCALE > self.share(home.weight) / 100 * rich;
        let givers = nodes.iter().copied().filter(|node| self.homes.get(node).is_some_and(is_rich));
        let fit = givers
            .filter(|giver| zones(&mut nodes.iter().map(|node| if node == giver { to } else { *node })) >= before);
        fit.max_by_key(|node| (self.ratio(*node), *node))
    }

    fn changes(&self, catalog: &Catalog) -> Vec<TablePlacement> {
        let changed = |plan: &&TablePlan| {
            let table = catalog.table(plan.id);
            table.is_some_and(|table| (0..).zip(&plan.shards).any(|(at, nodes)| placed(table, at) != nodes.as_slice()))
        };
        let placement = |plan: &TablePlan| TablePlacement {
            table: plan.id,
            placement: plan.shards.iter().map(|nodes| Holders { nodes: nodes.clone() }).collect(),
        };
        self.tables.iter().filter(changed).map(placement).collect()
    }
}

/// What of a table may go to a node that has too little.
#[derive(Clone, Copy, PartialEq)]
enum Pass {
    /// Shards that it has parts of.
    Had,
    /// So many shards as its weight gives it.
    InProportion,
    Any,
}

/// Fractions are counted in these.
const SCALE: u64 = 1 << 20;

impl TablePlan {
    fn new(table: &Table, homes: usize) -> Self {
        TablePlan {
            id: table.id,
            replicas: replicas(table).min(homes),
            shards: table.placement.iter().map(|holders| holders.nodes.clone()).collect(),
            counts: BTreeMap::new(),
        }
    }
}
