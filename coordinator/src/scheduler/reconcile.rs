//! What nodes report → what they should delete, and what the catalog should learn.

use std::collections::{BTreeMap, BTreeSet};

use volley_common::wire::catalog::HolderChange;
use volley_common::wire::cluster::HeldPart;
use volley_common::{NodeId, PartId};

use super::{placed, replicas};
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
        match (recorded, is_needed(catalog, part, node, alive)) {
            (false, false) => out.delete.push(id),
            (false, true) => out.changes.push(change(id, node, true)),
            // Copies that the catalog counts are given up by the leader alone: see [`super::surplus`].
            (true, _) => {}
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

pub(super) fn change(part: PartId, node: NodeId, held: bool) -> HolderChange {
    HolderChange { part: Some(part.into()), node: node.0, held }
}

/// Whether a copy that the catalog does not count is of use: placed here, or too few others are alive and staying.
fn is_needed(catalog: &Catalog, part: &PartRow, node: NodeId, alive: &BTreeSet<NodeId>) -> bool {
    let Some(table) = catalog.table(part.table) else { return true };
    let stays = |other: &NodeId| alive.contains(other) && catalog.node(*other).is_none_or(|node| !node.draining);
    let others = part.holders.iter().filter(|other| **other != node.0 && stays(&NodeId(**other))).count();
    placed(table, part.shard).contains(&node.0) || others < replicas(table)
}
