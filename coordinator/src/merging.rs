//! Pure: which small parts of a table are worth merging, and which node should do it.
//!
//! What is merged is a run of neighbours in which no part has more than half of the bytes: so whatever a merge writes
//! again ends in a part at least twice as large, and a byte is rewritten no more often than `log2(small / its first
//! part's size)` times, however the appends come.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use volley_common::wire::catalog::Table;
use volley_common::{NodeId, PartId};

use crate::catalog::{Catalog, PartRow};

/// What is merged, and how much of it at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Parts of so many bytes are never merged.
    pub small: u64,
    /// Sources of a merge at least, and at most.
    pub sources: (usize, usize),
    /// Bytes of a merge's sources at most.
    pub bytes: u64,
    /// Parts of a table that are looked at, the newest, those included that are only kept for readers.
    pub look: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { small: 32 << 20, sources: (8, 1024), bytes: 128 << 20, look: 100_000 }
    }
}

/// One merge to order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergePlan {
    /// The table's id.
    pub table: u64,
    /// The parts to replace, in the table's order.
    pub sources: Vec<PartId>,
    /// Who is to do it.
    pub node: NodeId,
}

/// The merge that a table needs most, if any.
///
/// `alive` are the nodes that parts can be read from, `free` those of them that take parts and have time for a merge.
pub fn merge_of(
    catalog: &Catalog,
    table: &Table,
    alive: &BTreeSet<NodeId>,
    free: &BTreeSet<NodeId>,
    limits: &Limits,
) -> Option<MergePlan> {
    let keyed = table.spec.as_ref().is_some_and(|spec| !spec.shard_by.is_empty());
    let mut newest: Vec<&PartRow> =
        catalog.newest_parts(table.id).take(limits.look).filter(|part| part.removed == 0).collect();
    newest.reverse();
    let mut orders: BTreeMap<u32, Vec<&PartRow>> = BTreeMap::new();
    for part in newest {
        // With keys only the order within a shard means anything.
        orders.entry(if keyed { part.shard } else { 0 }).or_default().push(part);
    }
    let mergeable =
        |part: &PartRow| part.bytes < limits.small && part.holders.iter().any(|node| alive.contains(&NodeId(*node)));
    let runs = orders.values().flat_map(|parts| parts.split(|part| !mergeable(part)));
    let chosen = runs.filter_map(|run| {
        let bytes: Vec<u64> = run.iter().map(|part| part.bytes).collect();
        window(&bytes, limits).map(|range| &run[range])
    });
    let sources = chosen.max_by_key(|sources| sources.len())?;
    let node = node_for(table, sources, free)?;
    Some(MergePlan { table: table.id, sources: sources.iter().map(|part| part.part_id()).collect(), node })
}

/// Which of a run's neighbours (their bytes, in order) to merge; the newest that will do.
fn window(bytes: &[u64], limits: &Limits) -> Option<Range<usize>> {
    let (least, most) = limits.sources;
    if bytes.len() < least {
        return None;
    }
    let total: u64 = bytes.iter().sum();
    let (largest, max) = bytes.iter().enumerate().max_by_key(|(_, bytes)| **bytes)?;
    let behind = |from: usize| window(&bytes[from..], limits).map(|range| range.start + from..range.end + from);
    if max.saturating_mul(2) > total {
        return behind(largest + 1).or_else(|| window(&bytes[..largest], limits));
    }
    let mut sum = 0;
    let fitting = bytes.iter().take(most).take_while(|bytes| {
        sum += **bytes;
        sum <= limits.bytes
    });
    let fits = fitting.count().max(1);
    if fits == bytes.len() {
        return Some(0..fits);
    }
    // Of more than one merge can take the oldest go first, so that what they become stays out of the next merges.
    window(&bytes[..fits], limits).or_else(|| behind(fits))
}

/// Who holds most of the sources' bytes, of the nodes that are to hold what becomes of them if any of those is free.
fn node_for(table: &Table, sources: &[&PartRow], free: &BTreeSet<NodeId>) -> Option<NodeId> {
    let shard = sources.first()?.shard as usize;
    let placed = table.placement.get(shard).map_or(&[][..], |holders| &holders.nodes);
    let held = |node: &NodeId| -> u64 {
        sources.iter().filter(|part| part.holders.contains(&node.0)).map(|part| part.bytes).sum()
    };
    free.iter().copied().max_by_key(|node| (placed.contains(&node.0), held(node)))
}

#[cfg(test)]
pub(crate) mod tests;
