//! Parts with too few copies, or not at home yet → copies, one by one.
//!
//! Two steps, because looking at a million parts takes a tenth of a second and orders end every few milliseconds:
//! [`lacking`] looks at all parts and lists those that want a copy, the most urgent first; [`order`] looks at one of
//! them again when a node has room, and says who copies it from whom.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use volley_common::wire::catalog::Table;
use volley_common::wire::cluster::CopyPart;
use volley_common::{NodeId, PartId};

use super::nodes::Nodes;
use super::placing::turn;
use super::{placed, replicas};
use crate::catalog::{Catalog, PartRow};

/// Copies that one node makes, and that are made of one node's parts, at a time.
pub const AT_ONCE: usize = 8;

/// Why a part wants a copy: the more urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    /// A part of a newest version has fewer copies than its table wants, so many of them alive.
    Newest(usize),
    /// A part that is kept for readers of an older version has.
    Kept(usize),
    /// It has copies enough, but not where it is placed.
    Move,
}

/// The parts that want a copy, the most urgent first: fewest live copies, then the oldest; kept versions after newest
/// ones, moves last. At most `most`; says also whether that is all.
pub fn lacking(catalog: &Catalog, nodes: &Nodes, most: usize) -> (Vec<PartId>, bool) {
    let mut found: Vec<(Need, u32, PartId)> = Vec::new();
    let mut table: Option<&Table> = None;
    for part in catalog.all_parts() {
        // Parts come by table: its row is looked up once.
        if table.is_none_or(|table| table.id != part.table) {
            table = catalog.table(part.table);
        }
        if let Some(need) = table.and_then(|table| need(nodes, table, part)) {
            found.push((need, found.len() as u32, part.part_id()));
        }
    }
    let all = found.len() <= most;
    if !all {
        found.select_nth_unstable(most);
        found.truncate(most);
    }
    found.sort_unstable();
    (found.into_iter().map(|(_, _, id)| id).collect(), all)
}

fn need(nodes: &Nodes, table: &Table, part: &PartRow) -> Option<Need> {
    let count = |test: &dyn Fn(NodeId) -> bool| part.holders.iter().filter(|node| test(NodeId(**node))).count();
    let live = count(&|node| nodes.alive.contains(&node));
    if live == 0 || count(&|node| nodes.writable.contains(&node)) == nodes.writable.len() {
        // Nobody to copy from, or nobody to copy to.
        return None;
    }
    let newest = part.removed == 0;
    if count(&|node| nodes.stays(node)) < replicas(table) {
        return Some(if newest { Need::Newest(live) } else { Need::Kept(live) });
    }
    (newest && missing_at_home(nodes, table, part).next().is_some()).then_some(Need::Move)
}

/// The nodes that a part is placed on and that can take it, but do not have it.
fn missing_at_home<'a>(nodes: &'a Nodes, table: &'a Table, part: &'a PartRow) -> impl Iterator<Item = NodeId> + 'a {
    let homes = placed(table, part.shard).iter().map(|node| NodeId(*node));
    homes.filter(|node| nodes.writable.contains(node) && !part.holders.contains(&node.0))
}

/// What nodes are busy with.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// Copies that each node is making.
    pub to: BTreeMap<NodeId, usize>,
    /// Copies that are being made of each node's parts.
    pub from: BTreeMap<NodeId, usize>,
    /// Nodes that failed to copy a part lately: others are asked.
    pub failed: HashMap<PartId, BTreeSet<NodeId>>,
}

impl Load {
    /// Whether no node has room for another copy.
    pub fn is_full(&self, nodes: &Nodes) -> bool {
        nodes.writable.iter().all(|node| !has_room(&self.to, *node))
            || nodes.alive.iter().all(|node| !has_room(&self.from, *node))
    }

    /// Counts one more copy.
    pub fn add(&mut self, order: &Copy) {
        *self.to.entry(order.to).or_default() += 1;
        *self.from.entry(order.from).or_default() += 1;
    }
}

fn has_room(load: &BTreeMap<NodeId, usize>, node: NodeId) -> bool {
    load.get(&node).is_none_or(|load| *load < AT_ONCE)
}

/// A copy to order.
#[derive(Clone, Debug, PartialEq)]
pub struct Copy {
    /// Who is to make it.
    pub to: NodeId,
    /// Of whose part, unless that one fails.
    pub from: NodeId,
    /// The order.
    pub order: CopyPart,
}

/// What is to be done about a part now.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Order this.
    Order(Box<Copy>),
    /// Wait until a node has room.
    Wait,
    /// Nothing (any more).
    Nothing,
}

/// Who should copy a part now: a node of its placement without it, else, if it has too few copies, another one.
pub fn order(catalog: &Catalog, nodes: &Nodes, load: &Load, id: PartId) -> Next {
    let found = catalog.part(id).and_then(|part| Some((part, catalog.table(part.table)?)));
    let Some((part, table)) = found else { return Next::Nothing };
    let Some(need) = need(nodes, table, part) else { return Next::Nothing };
    let sound = |node: &NodeId| load.failed.get(&id).is_none_or(|failed| !failed.contains(node));
    let mut targets: Vec<NodeId> = missing_at_home(nodes, table, part).filter(sound).collect();
    if targets.is_empty() && need != Need::Move {
        targets = others(catalog, nodes, part).into_iter().filter(sound).collect();
    }
    if targets.is_empty() {
        return Next::Nothing;
    }
    let to = targets.into_iter().find(|node| has_room(&load.to, *node));
    let mut sources: Vec<NodeId> =
        part.holders.iter().map(|node| NodeId(*node)).filter(|node| nodes.alive.contains(node)).collect();
    sources.sort_by_key(|node| {
        let busy = load.from.get(node).copied().unwrap_or(0);
        (nodes.degraded.contains(node), busy, turn(part.table, part.seq as u32, node.0))
    });
    let from = sources.iter().copied().find(|node| has_room(&load.from, *node));
    let (Some(to), Some(from)) = (to, from) else { return Next::Wait };
    sources.sort_by_key(|node| *node != from);
    let addresses = sources.iter().filter_map(|node| catalog.node(*node)).map(|node| node.peer_addr.clone());
    let order = CopyPart {
        part: Some(part.to_part()),
        table: table.name.clone(),
        sources: addresses.collect(),
        background: true,
    };
    Next::Order(Box::new(Copy { to, from, order }))
}

/// Takers that a part is not placed on and that do not have it: those in zones without a copy first, then in an order of
/// the shard's own.
fn others(catalog: &Catalog, nodes: &Nodes, part: &PartRow) -> Vec<NodeId> {
    let zone = |node: u64| catalog.node(NodeId(node)).map(|node| node.zone.as_str());
    let zones: BTreeSet<&str> =
        part.holders.iter().filter(|node| nodes.stays(NodeId(**node))).filter_map(|node| zone(*node)).collect();
    let mut others: Vec<NodeId> =
        nodes.writable.iter().copied().filter(|node| !part.holders.contains(&node.0)).collect();
    others.sort_by_key(|node| {
        let shared = zone(node.0).is_some_and(|zone| zones.contains(zone));
        (shared, turn(part.table, part.shard, node.0))
    });
    others
}
