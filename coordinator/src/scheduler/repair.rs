//! Decides which parts need a copy, and which node copies them from which.
//!
//! This takes two steps, because a scan over a million parts takes a tenth of a second, and copies finish every few
//! milliseconds: [`parts_to_copy`] scans all parts and lists those that need a copy, the most urgent first; [`next_copy`]
//! examines one of them again once a node has capacity, and chooses target and source.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use volley_common::wire::catalog::Table;
use volley_common::wire::cluster::CopyPart;
use volley_common::{NodeId, PartId};

use super::node_sets::NodeSets;
use super::placement::{placement_of, rendezvous_hash, replica_count};
use crate::catalog::{Catalog, PartRow};

/// Concurrent copies to one node, and concurrent copies from one node.
pub const MAX_COPIES_PER_NODE: usize = 8;
/// Parts that a scan lists for each node that takes copies; in all at least the second and at most the third number.
const QUEUED_PER_NODE: usize = 100;
const MIN_QUEUED: usize = 10_000;
const MAX_QUEUED: usize = 1_000_000;

/// Why a part needs a copy. The variants are ordered by urgency, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum CopyPriority {
    /// A part of a newest version is under-replicated. Holds the number of live copies.
    Newest(usize),
    /// A removed part that is kept for readers is under-replicated. Holds the number of live copies.
    Kept(usize),
    /// The part has enough copies, but not on the nodes of its placement.
    Move,
}

/// How many parts the leader lists in one scan. The next scan follows after many times as long as this one takes, and a scan of
/// more parts takes longer: the list grows with the cluster, so that its nodes have copies to make until then.
pub fn queue_limit(nodes: &NodeSets) -> usize {
    nodes.writable.len().saturating_mul(QUEUED_PER_NODE).clamp(MIN_QUEUED, MAX_QUEUED)
}

/// Lists at most `limit` parts that need a copy, the most urgent first: by fewest live copies, then in catalog order; newest
/// versions before kept parts, moves last. The flag is true if the list is complete.
pub fn parts_to_copy(catalog: &Catalog, nodes: &NodeSets, limit: usize) -> (Vec<PartId>, bool) {
    let mut scan = CopyScan::new(limit);
    scan.examine(catalog, nodes, catalog.all_parts());
    scan.finish()
}

/// [`parts_to_copy`] in steps.
pub struct CopyScan {
    limit: usize,
    /// With their numbers among those that were found.
    found: Vec<(CopyPriority, u64, PartId)>,
    count: u64,
}

impl CopyScan {
    /// Is to list at most `limit` parts.
    pub fn new(limit: usize) -> Self {
        CopyScan { limit, found: Vec::new(), count: 0 }
    }

    /// Examines further parts, which follow those before in the catalog's order.
    pub fn examine<'a>(&mut self, catalog: &Catalog, nodes: &NodeSets, parts: impl Iterator<Item = &'a PartRow>) {
        let mut table: Option<&Table> = None;
        for part in parts {
            // Parts come grouped by table: each table is looked up once.
            if table.is_none_or(|table| table.id != part.table) {
                table = catalog.table(part.table);
            }
            if let Some(priority) = table.and_then(|table| priority(nodes, table, part)) {
                self.found.push((priority, self.count, part.part_id()));
                self.count += 1;
                // After the loss of a zone all parts need a copy: the memory for them stays within the limit.
                if self.found.len() > self.limit.saturating_mul(2) {
                    keep_smallest(&mut self.found, self.limit);
                }
            }
        }
    }

    /// The list, as [`parts_to_copy`] has it.
    pub fn finish(mut self) -> (Vec<PartId>, bool) {
        keep_smallest(&mut self.found, self.limit);
        self.found.sort_unstable();
        (self.found.into_iter().map(|(_, _, id)| id).collect(), self.count <= self.limit as u64)
    }
}

/// Drops all but this many of the smallest items.
fn keep_smallest<T: Ord>(items: &mut Vec<T>, limit: usize) {
    if items.len() > limit {
        items.select_nth_unstable(limit);
        items.truncate(limit);
    }
}

fn priority(nodes: &NodeSets, table: &Table, part: &PartRow) -> Option<CopyPriority> {
    let count = |test: &dyn Fn(NodeId) -> bool| part.holders.iter().filter(|node| test(NodeId(**node))).count();
    let live = count(&|node| nodes.alive.contains(&node));
    let no_target = count(&|node| nodes.writable.contains(&node)) == nodes.writable.len();
    if live == 0 || no_target {
        return None;
    }
    let newest = part.removed == 0;
    if count(&|node| nodes.counts_as_replica(node)) < replica_count(table) {
        return Some(if newest { CopyPriority::Newest(live) } else { CopyPriority::Kept(live) });
    }
    let misplaced = newest && placed_without_copy(nodes, table, part).next().is_some();
    misplaced.then_some(CopyPriority::Move)
}

/// Writable nodes of the part's placement that do not hold it.
fn placed_without_copy<'a>(
    nodes: &'a NodeSets,
    table: &'a Table,
    part: &'a PartRow,
) -> impl Iterator<Item = NodeId> + 'a {
    let placed = placement_of(table, part.shard).iter().map(|node| NodeId(*node));
    placed.filter(|node| nodes.writable.contains(node) && !part.holders.contains(&node.0))
}

/// The copies in progress, by node.
#[derive(Clone, Debug, Default)]
pub struct CopyLoad {
    /// Copies that each node is making.
    pub to: BTreeMap<NodeId, usize>,
    /// Copies that are being made of each node's parts.
    pub from: BTreeMap<NodeId, usize>,
    /// Nodes that recently failed to copy a part. Other nodes are chosen instead.
    pub failed: HashMap<PartId, BTreeSet<NodeId>>,
}

impl CopyLoad {
    /// Counts one more copy.
    pub fn add(&mut self, copy: &CopyOrder) {
        *self.to.entry(copy.to).or_default() += 1;
        *self.from.entry(copy.from).or_default() += 1;
    }
}

/// How many nodes can take another copy, and of how many another one can be made: counted once, and changed with each copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyCapacity {
    targets: usize,
    sources: usize,
}

impl CopyCapacity {
    /// Counts the nodes.
    pub fn of(load: &CopyLoad, nodes: &NodeSets) -> Self {
        let free = |load: &BTreeMap<NodeId, usize>, nodes: &BTreeSet<NodeId>| {
            nodes.iter().filter(|node| has_capacity(load, **node)).count()
        };
        CopyCapacity { targets: free(&load.to, &nodes.writable), sources: free(&load.from, &nodes.alive) }
    }

    /// Whether no copy can be ordered.
    pub fn is_exhausted(self) -> bool {
        self.targets == 0 || self.sources == 0
    }

    /// Counts a copy that [`next_copy`] chose, and that was added to the load.
    pub fn add(&mut self, load: &CopyLoad, copy: &CopyOrder) {
        // Both had capacity before.
        self.targets -= usize::from(!has_capacity(&load.to, copy.to));
        self.sources -= usize::from(!has_capacity(&load.from, copy.from));
    }
}

fn has_capacity(load: &BTreeMap<NodeId, usize>, node: NodeId) -> bool {
    load.get(&node).is_none_or(|load| *load < MAX_COPIES_PER_NODE)
}

/// A copy to order.
#[derive(Clone, Debug, PartialEq)]
pub struct CopyOrder {
    /// The node that makes the copy.
    pub to: NodeId,
    /// The preferred source.
    pub from: NodeId,
    /// The order to send.
    pub order: CopyPart,
    /// The part has enough copies and only moves: rebalancing, not repair.
    pub moves: bool,
}

/// What to do about a part now.
#[derive(Clone, Debug, PartialEq)]
pub enum CopyDecision {
    /// Order this copy.
    Order(Box<CopyOrder>),
    /// Wait until a node has capacity.
    Wait,
    /// The part needs no copy, or no node can make one.
    Skip,
}

/// Chooses target and source of a part's next copy. The target is a node of its placement; or, if the part is
/// under-replicated and no placed node can take it, any other writable node.
pub fn next_copy(catalog: &Catalog, nodes: &NodeSets, load: &CopyLoad, id: PartId) -> CopyDecision {
    let found = catalog.part(id).and_then(|part| Some((part, catalog.table(part.table)?)));
    let Some((part, table)) = found else { return CopyDecision::Skip };
    let Some(priority) = priority(nodes, table, part) else { return CopyDecision::Skip };
    let has_not_failed = |node: &NodeId| load.failed.get(&id).is_none_or(|failed| !failed.contains(node));
    let mut targets: Vec<NodeId> = placed_without_copy(nodes, table, part).filter(has_not_failed).collect();
    if targets.is_empty() && priority != CopyPriority::Move {
        targets = other_targets(catalog, nodes, part).into_iter().filter(has_not_failed).collect();
    }
    if targets.is_empty() {
        return CopyDecision::Skip;
    }
    let to = targets.into_iter().find(|node| has_capacity(&load.to, *node));
    let holders = part.holders.iter().map(|node| NodeId(*node));
    let mut sources: Vec<NodeId> = holders.filter(|node| nodes.alive.contains(node)).collect();
    sources.sort_by_key(|node| {
        let busy = load.from.get(node).copied().unwrap_or(0);
        (nodes.degraded.contains(node), busy, rendezvous_hash(part.table, part.seq as u32, node.0))
    });
    let from = sources.iter().copied().find(|node| has_capacity(&load.from, *node));
    let (Some(to), Some(from)) = (to, from) else { return CopyDecision::Wait };
    sources.sort_by_key(|node| *node != from);
    let addresses = sources.iter().filter_map(|node| catalog.node(*node)).map(|node| node.peer_addr.clone());
    let order = CopyPart {
        part: Some(part.to_part()),
        table: table.name.clone(),
        sources: addresses.collect(),
        background: true,
    };
    let moves = priority == CopyPriority::Move;
    CopyDecision::Order(Box::new(CopyOrder { to, from, order, moves }))
}

/// Writable nodes that do not hold the part: those in zones without a copy first, then in the shard's rendezvous order.
fn other_targets(catalog: &Catalog, nodes: &NodeSets, part: &PartRow) -> Vec<NodeId> {
    let zone = |node: u64| catalog.node(NodeId(node)).map(|node| node.zone.as_str());
    let counted = part.holders.iter().filter(|node| nodes.counts_as_replica(NodeId(**node)));
    let zones: BTreeSet<&str> = counted.filter_map(|node| zone(*node)).collect();
    let writable = nodes.writable.iter().copied();
    let mut targets: Vec<NodeId> = writable.filter(|node| !part.holders.contains(&node.0)).collect();
    targets.sort_by_key(|node| {
        let shares_zone = zone(node.0).is_some_and(|zone| zones.contains(zone));
        (shares_zone, rendezvous_hash(part.table, part.shard, node.0))
    });
    targets
}
