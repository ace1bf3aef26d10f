//! Pure: the catalog, and what nodes report → what to tell them and what to write down.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use volley_common::placement::{Candidate, Ring};
use volley_common::wire::catalog::{HolderChange, Table};
use volley_common::wire::cluster::{CopyPart, HeldPart};
use volley_common::{NodeId, PartId};

use crate::catalog::{Catalog, PartRow};

/// The version of every table at one moment: what is newer was committed afterwards.
pub type Horizon = BTreeMap<u64, u64>;

/// What follows from a node's inventory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reconciled {
    /// Parts that the node should delete, once `changes` are in the catalog.
    pub delete: Vec<PartId>,
    /// What the catalog should learn.
    pub changes: Vec<HolderChange>,
}

/// Every table's version now. Take it before asking a node for its inventory.
pub fn horizon(catalog: &Catalog) -> Horizon {
    catalog.all_tables().map(|table| (table.id, table.version)).collect()
}

/// What follows from parts that a node says it holds (not from those that it does not mention).
///
/// - the catalog does not list it and its write is dead: deleted; while the write is open: kept;
/// - it is not the bytes that the catalog means: deleted, and not a holder;
/// - the node is not recorded as a holder: recorded, unless there are copies enough elsewhere: deleted then.
///
/// `catalog` must have applied all that was committed when the report came.
pub fn reconcile_held(catalog: &Catalog, node: NodeId, held: &[HeldPart], alive: &BTreeSet<NodeId>) -> Reconciled {
    let mut out = Reconciled::default();
    for report in held {
        let id = report.id.as_ref().map_or(PartId(0), PartId::from);
        let Some(part) = catalog.part(id) else {
            if catalog.is_dead(&report.write) {
                out.delete.push(id);
            }
            continue;
        };
        let recorded = part.holders.contains(&node.0);
        if (report.crc32c, report.bytes) != (part.crc32c, part.bytes) {
            out.delete.push(id);
            if recorded {
                out.changes.push(change(id, node, false));
            }
            continue;
        }
        match (recorded, surplus(catalog, part, node, alive)) {
            (true, Surplus::Placed) => out.changes.push(change(id, node, false)),
            (false, Surplus::Placed | Surplus::Copied) => out.delete.push(id),
            (false, Surplus::No) => out.changes.push(change(id, node, true)),
            (true, Surplus::Copied | Surplus::No) => {}
        }
    }
    out
}

/// What follows from a node's whole inventory: [`reconcile_held`], and parts that it should hold and does not.
///
/// `before` is the [`horizon`] from before the inventory was asked for, `busy` are the parts that the node was ordered to
/// copy, or came to hold, since then: the inventory may not have them yet.
pub fn reconcile(
    catalog: &Catalog,
    node: NodeId,
    inventory: &[HeldPart],
    before: &Horizon,
    busy: &BTreeSet<PartId>,
    alive: &BTreeSet<NodeId>,
) -> Reconciled {
    let mut out = reconcile_held(catalog, node, inventory, alive);
    let held: BTreeSet<PartId> = inventory.iter().filter_map(|part| part.id.as_ref()).map(PartId::from).collect();
    let settled = |part: &&PartRow| before.get(&part.table).is_some_and(|version| part.added <= *version);
    let missing = catalog.all_parts().filter(|part| part.holders.contains(&node.0)).filter(settled);
    let missing = missing.map(PartRow::part_id).filter(|id| !held.contains(id) && !busy.contains(id));
    out.changes.extend(missing.map(|id| change(id, node, false)));
    out
}

fn change(part: PartId, node: NodeId, held: bool) -> HolderChange {
    HolderChange { part: Some(part.into()), node: node.0, held }
}

/// Whether a node's copy may go.
enum Surplus {
    /// The node should hold it, or too few others do.
    No,
    /// Enough live nodes are recorded as its holders.
    Copied,
    /// Enough live nodes *of its placement* are: they never give theirs up, so this one can.
    Placed,
}

fn surplus(catalog: &Catalog, part: &PartRow, node: NodeId, alive: &BTreeSet<NodeId>) -> Surplus {
    let Some(table) = catalog.table(part.table) else { return Surplus::No };
    let placed = placed(table, part.shard);
    if placed.contains(&node.0) {
        return Surplus::No;
    }
    let others = || part.holders.iter().filter(|other| **other != node.0 && alive.contains(&NodeId(**other)));
    let wanted = replicas(table);
    if others().filter(|other| placed.contains(other)).count() >= wanted {
        return Surplus::Placed;
    }
    if others().count() >= wanted { Surplus::Copied } else { Surplus::No }
}

fn placed(table: &Table, shard: u32) -> &[u64] {
    table.placement.get(shard as usize).map_or(&[], |holders| &holders.nodes)
}

fn replicas(table: &Table) -> usize {
    table.spec.as_ref().map_or(1, |spec| spec.replicas.max(1)) as usize
}

/// Copies to order, most endangered parts first, at most `most`: of parts of the newest versions with fewer
/// copies than `min(replicas, live nodes)`.
///
/// `waited` are silent nodes whose grace is not over: their copies count, but nobody copies from or to them.
/// `busy` are parts that are being copied already. Looks at every part: some 0.1 s per million.
pub fn copies(
    catalog: &Catalog,
    alive: &BTreeSet<NodeId>,
    waited: &BTreeSet<NodeId>,
    busy: &BTreeSet<PartId>,
    most: usize,
) -> Vec<(NodeId, CopyPart)> {
    let mut short: Vec<(usize, &PartRow)> = Vec::new();
    for table in catalog.tables() {
        let wanted = replicas(table).min(alive.len());
        for part in catalog.part_rows_at(table.id, table.version) {
            let has =
                |nodes: &BTreeSet<NodeId>| part.holders.iter().filter(|node| nodes.contains(&NodeId(**node))).count();
            let live = has(alive);
            if live > 0 && live + has(waited) < wanted && !busy.contains(&part.part_id()) {
                short.push((live, part));
            }
        }
    }
    short.sort_by_key(|(live, _)| *live);
    short.truncate(most);
    if short.is_empty() {
        return Vec::new();
    }
    let ring = Ring::new(&candidates(catalog, alive));
    let mut orders = HashMap::new();
    let mut copy = |part: &PartRow| copy_of(catalog, part, alive, &ring, &mut orders);
    short.into_iter().filter_map(|(_, part)| copy(part)).collect()
}

fn candidates(catalog: &Catalog, alive: &BTreeSet<NodeId>) -> Vec<Candidate> {
    let nodes = alive.iter().filter_map(|id| catalog.node(*id));
    nodes.map(|node| Candidate { id: NodeId(node.id), zone: node.zone.clone(), capacity: node.capacity }).collect()
}

/// The copy of one part: to the first live node of its placement without it, else to the next on the ring.
fn copy_of(
    catalog: &Catalog,
    part: &PartRow,
    alive: &BTreeSet<NodeId>,
    ring: &Ring,
    orders: &mut HashMap<(u64, u32), Vec<NodeId>>,
) -> Option<(NodeId, CopyPart)> {
    let table = catalog.table(part.table)?;
    let free = |node: &NodeId| alive.contains(node) && !part.holders.contains(&node.0);
    let target = placed(table, part.shard).iter().map(|node| NodeId(*node)).find(free).or_else(|| {
        let order = orders.entry((table.id, part.shard)).or_insert_with(|| ring.order(table.id, part.shard));
        order.iter().copied().find(free)
    })?;
    let holders = part.holders.iter().filter(|node| alive.contains(&NodeId(**node)));
    let sources = holders.filter_map(|node| catalog.node(NodeId(*node))).map(|node| node.peer_addr.clone()).collect();
    let order = CopyPart { part: Some(part.to_part()), table: table.name.clone(), sources, background: true };
    Some((target, order))
}

#[cfg(test)]
mod tests;
