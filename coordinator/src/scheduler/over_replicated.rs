//! Copies outside of the placement that can be deleted because every placed node has one.

use std::collections::{BTreeMap, HashSet};

use volley_common::wire::catalog::{HolderChange, Table};
use volley_common::{NodeId, PartId};

use super::node_sets::NodeSets;
use super::placement::{placement_of, replica_count};
use super::reconcile::holder_change;
use crate::catalog::{Catalog, PartRow};

/// Copies that can be deleted, at most `limit`, as holder changes.
///
/// A copy is excess if its node is alive, not draining and not in the shard's placement, and at least as many live nodes
/// *of the placement* as the table has replicas hold the part. Copies of the placement are never excess, so two copies can
/// never justify each other's deletion. A draining node keeps its copies until it is removed. Sources of an open
/// compaction stay where they are. Copies on removed nodes are always excess.
pub fn excess_copies(catalog: &Catalog, nodes: &NodeSets, limit: usize) -> Vec<HolderChange> {
    excess_copies_of(catalog, nodes, limit, catalog.all_parts())
}

/// [`excess_copies`] of these parts.
pub fn excess_copies_of<'a>(
    catalog: &Catalog,
    nodes: &NodeSets,
    limit: usize,
    parts: impl Iterator<Item = &'a PartRow>,
) -> Vec<HolderChange> {
    let compacting: HashSet<PartId> =
        catalog.open_writes().flat_map(|write| write.sources.iter().map(PartId::from)).collect();
    let mut excess = Vec::new();
    let mut table: Option<&Table> = None;
    for part in parts {
        if excess.len() >= limit {
            break;
        }
        // Parts come grouped by table: each table is looked up once.
        if table.is_none_or(|table| table.id != part.table) {
            table = catalog.table(part.table);
        }
        let Some(table) = table else { continue };
        if compacting.contains(&part.part_id()) {
            continue;
        }
        let holders = part.holders.iter().map(|node| NodeId(*node));
        let excess_holders = holders.filter(|node| is_excess(catalog, nodes, table, part, *node));
        excess.extend(excess_holders.map(|node| holder_change(part.part_id(), node, false)));
    }
    excess
}

fn is_excess(catalog: &Catalog, nodes: &NodeSets, table: &Table, part: &PartRow, node: NodeId) -> bool {
    if catalog.was_removed(node) {
        return true;
    }
    let placement = placement_of(table, part.shard);
    let is_placed = |holder: &&u64| placement.contains(holder) && nodes.counts_as_live_replica(NodeId(**holder));
    nodes.counts_as_live_replica(node)
        && !placement.contains(&node.0)
        && part.holders.iter().filter(is_placed).count() >= replica_count(table)
}

/// The parts to delete on each node, after the catalog has applied `changes`: copies that the catalog no longer counts,
/// of parts that still have enough other copies.
pub fn deletions(catalog: &Catalog, nodes: &NodeSets, changes: &[HolderChange]) -> BTreeMap<NodeId, Vec<PartId>> {
    let mut delete: BTreeMap<NodeId, Vec<PartId>> = BTreeMap::new();
    for change in changes {
        let (node, id) = (NodeId(change.node), change.part.as_ref().map_or(PartId(0), PartId::from));
        let found = catalog.part(id).and_then(|part| Some((part, catalog.table(part.table)?)));
        let Some((part, table)) = found else { continue };
        let excess = !part.holders.contains(&node.0) && is_excess(catalog, nodes, table, part, node);
        if excess && !catalog.was_removed(node) {
            delete.entry(node).or_default().push(id);
        }
    }
    delete
}
