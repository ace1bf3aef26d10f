//! Parts that are at home everywhere → copies elsewhere that may go.

use std::collections::{BTreeMap, HashSet};

use volley_common::wire::catalog::{HolderChange, Table};
use volley_common::{NodeId, PartId};

use super::nodes::Nodes;
use super::reconcile::change;
use super::{placed, replicas};
use crate::catalog::{Catalog, PartRow};

/// Copies that may go, at most `most`.
///
/// A copy may go if its node is alive, not one of those that the shard is placed on and not draining (what a draining
/// node has stays until it is removed), and as many live nodes *of the placement* as the table has replicas have the
/// part: those never give theirs up, so that two copies never go for each other's sake. Parts that an open merge reads
/// stay where they are. Copies of nodes that were removed go, too: they are none.
pub fn surplus(catalog: &Catalog, nodes: &Nodes, most: usize) -> Vec<HolderChange> {
    let merging: HashSet<PartId> =
        catalog.open_writes().flat_map(|write| write.sources.iter().map(PartId::from)).collect();
    let mut found = Vec::new();
    let mut table: Option<&Table> = None;
    for part in catalog.all_parts() {
        if found.len() >= most {
            break;
        }
        if table.is_none_or(|table| table.id != part.table) {
            table = catalog.table(part.table);
        }
        let Some(table) = table else { continue };
        if merging.contains(&part.part_id()) {
            continue;
        }
        let goes =
            part.holders.iter().map(|node| NodeId(*node)).filter(|node| goes(catalog, nodes, table, part, *node));
        found.extend(goes.map(|node| change(part.part_id(), node, false)));
    }
    found
}

fn goes(catalog: &Catalog, nodes: &Nodes, table: &Table, part: &PartRow, node: NodeId) -> bool {
    if catalog.was_removed(node) {
        return true;
    }
    let homes = placed(table, part.shard);
    let at_home = |other: &&u64| homes.contains(other) && nodes.stays_alive(NodeId(**other));
    nodes.stays_alive(node)
        && !homes.contains(&node.0)
        && part.holders.iter().filter(at_home).count() >= replicas(table)
}

/// What to have deleted after these changes came into the catalog: copies that it does not count any more, and still has
/// enough others of.
pub fn deletions(catalog: &Catalog, nodes: &Nodes, gone: &[HolderChange]) -> BTreeMap<NodeId, Vec<PartId>> {
    let mut delete: BTreeMap<NodeId, Vec<PartId>> = BTreeMap::new();
    for change in gone {
        let (node, id) = (NodeId(change.node), change.part.as_ref().map_or(PartId(0), PartId::from));
        let found = catalog.part(id).and_then(|part| Some((part, catalog.table(part.table)?)));
        let Some((part, table)) = found else { continue };
        if !part.holders.contains(&node.0) && goes(catalog, nodes, table, part, node) && !catalog.was_removed(node) {
            delete.entry(node).or_default().push(id);
        }
    }
    delete
}
