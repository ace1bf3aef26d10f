//! Reconciles the parts that a node reports with the catalog.

use std::collections::{BTreeMap, BTreeSet};

use volley_common::wire::catalog::{HolderChange, WriteState};
use volley_common::wire::cluster::HeldPart;
use volley_common::{NodeId, PartId};

use super::placement::{placement_of, replica_count};
use crate::catalog::{Catalog, PartRow};

/// Every table's version at one moment, by table id. Newer versions were committed later.
pub type VersionSnapshot = BTreeMap<u64, u64>;

/// What follows from a node's report.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReconcilePlan {
    /// Parts that the node should delete once the catalog has applied `changes`.
    pub delete: Vec<PartId>,
    /// Parts that the node should quarantine: nothing lists them, and nothing proves that nobody needs them.
    pub quarantine: Vec<PartId>,
    /// Holders to add to the catalog or to remove from it.
    pub changes: Vec<HolderChange>,
}

/// Takes the snapshot that [`reconcile`] needs, before the inventory of a node is requested.
pub fn version_snapshot(catalog: &Catalog) -> VersionSnapshot {
    catalog.all_tables().map(|table| (table.id, table.version)).collect()
}

/// Whether the catalog may have lost commits of parts that a node holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatalogHistory {
    /// The catalog has every commit: a part that it does not list, and whose write is not open, was never committed or
    /// has been removed since.
    Complete,
    /// The cluster was recovered since the node was last reconciled: a part that the catalog does not list may have been
    /// committed.
    Recovered,
}

/// Decides about parts that a node reports to hold. It draws no conclusion about parts that the report does not mention.
///
/// - A part that the catalog does not list is deleted, unless its write is open, or quarantined if the catalog may have lost
///   its commit.
/// - A part with other bytes than the catalog's is quarantined, and its node is no holder.
/// - If the node is not recorded as a holder, it is recorded, or the part is deleted if other nodes hold enough copies.
///
/// `catalog` must have applied every command that was committed when the report arrived.
pub fn reconcile_held(
    catalog: &Catalog,
    node: NodeId,
    held: &[HeldPart],
    history: CatalogHistory,
    alive: &BTreeSet<NodeId>,
) -> ReconcilePlan {
    let mut plan = ReconcilePlan::default();
    for report in held {
        let id = report.id.as_ref().map_or(PartId(0), PartId::from);
        let Some(part) = catalog.part(id) else {
            match history {
                _ if catalog.is_write_open(&report.write) => {}
                CatalogHistory::Complete => plan.delete.push(id),
                CatalogHistory::Recovered => plan.quarantine.push(id),
            }
            continue;
        };
        let recorded = part.holders.contains(&node.0);
        if !has_same_bytes(report, part) {
            plan.quarantine.push(id);
            if recorded {
                plan.changes.push(holder_change(id, node, false));
            }
            continue;
        }
        match (recorded, is_needed(catalog, part, node, alive)) {
            (false, false) => plan.delete.push(id),
            (false, true) => plan.changes.push(holder_change(id, node, true)),
            // Only the leader's scan deletes copies that the catalog counts: see [`super::over_replicated`].
            (true, _) => {}
        }
    }
    plan
}

/// Those of the parts that `node` holds for which the catalog proves that the node need not keep them: their write has ended
/// without them, or they were committed and enough other nodes hold them. Unlike [`reconcile_held`] it does not count a
/// part of an unknown write: that write may have been committed before a recovery.
///
/// `catalog` must have applied every command that was committed when the request arrived.
pub fn deletable(catalog: &Catalog, node: NodeId, held: &[HeldPart], alive: &BTreeSet<NodeId>) -> Vec<PartId> {
    let is_deletable = |report: &&HeldPart| {
        let id = report.id.as_ref().map_or(PartId(0), PartId::from);
        match catalog.part(id) {
            Some(part) => {
                let recorded = part.holders.contains(&node.0);
                !recorded && has_same_bytes(report, part) && !is_needed(catalog, part, node, alive)
            }
            None => {
                let write = catalog.write(&report.write);
                write.is_some_and(|write| write.state() != WriteState::Open && !write.end_unknown)
            }
        }
    };
    held.iter().filter(is_deletable).filter_map(|part| part.id.as_ref()).map(PartId::from).collect()
}

fn has_same_bytes(report: &HeldPart, part: &PartRow) -> bool {
    (report.crc32c, report.bytes) == (part.crc32c, part.bytes)
}

/// Decides about a node's whole inventory: as [`reconcile_held`], and removes the node as holder of parts that are missing.
///
/// `before` is the [`version_snapshot`] from before the inventory was requested. `busy` are the parts that the node was
/// ordered to copy, or reported as new, since then: the inventory may not contain them yet.
pub fn reconcile(
    catalog: &Catalog,
    node: NodeId,
    inventory: &[HeldPart],
    before: &VersionSnapshot,
    busy: &BTreeSet<PartId>,
    history: CatalogHistory,
    alive: &BTreeSet<NodeId>,
) -> ReconcilePlan {
    let mut plan = reconcile_held(catalog, node, inventory, history, alive);
    let held: BTreeSet<PartId> = inventory.iter().filter_map(|part| part.id.as_ref()).map(PartId::from).collect();
    let in_snapshot = |part: &&PartRow| before.get(&part.table).is_some_and(|version| part.added <= *version);
    let expected = catalog.all_parts().filter(|part| part.holders.contains(&node.0)).filter(in_snapshot);
    let missing = expected.map(PartRow::part_id).filter(|id| !held.contains(id) && !busy.contains(id));
    plan.changes.extend(missing.map(|id| holder_change(id, node, false)));
    plan
}

pub(super) fn holder_change(part: PartId, node: NodeId, held: bool) -> HolderChange {
    HolderChange { part: Some(part.into()), node: node.0, held }
}

/// Whether a copy that the catalog does not record is needed: its node is in the placement, or too few other holders are
/// alive and not draining.
fn is_needed(catalog: &Catalog, part: &PartRow, node: NodeId, alive: &BTreeSet<NodeId>) -> bool {
    let Some(table) = catalog.table(part.table) else { return true };
    let counts = |other: &NodeId| alive.contains(other) && catalog.node(*other).is_none_or(|node| !node.draining);
    let others = part.holders.iter().filter(|other| **other != node.0 && counts(&NodeId(**other))).count();
    placement_of(table, part.shard).contains(&node.0) || others < replica_count(table)
}
