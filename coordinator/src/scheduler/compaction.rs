//! Decides which small parts of a table to compact, and on which node.
//!
//! A compaction replaces a run of adjacent parts in which no part has more than half of the bytes. So every rewritten byte
//! ends up in a part at least twice as large, and is rewritten at most `log2(max_part_bytes / size of its first part)`
//! times, in whatever order appends arrive. In a table without keys a compacted part has at most the share of one shard, so that
//! readers still get a part for each shard.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use volley_common::partition::shard_bytes;
use volley_common::wire::catalog::Table;
use volley_common::{NodeId, PartId};

use super::placement::placement_of;
use crate::catalog::{Catalog, PartRow};

/// Which parts are compacted, and how many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionLimits {
    /// Parts of at least this many bytes are never compacted.
    pub max_part_bytes: u64,
    /// The fewest sources of one compaction.
    pub min_sources: usize,
    /// Maximum number of sources of one compaction.
    pub max_sources: usize,
    /// Maximum bytes of all sources of one compaction.
    pub max_bytes: u64,
    /// The number of a table's parts that are examined, the newest first, including removed parts kept for readers.
    pub max_examined: usize,
}

impl Default for CompactionLimits {
    fn default() -> Self {
        CompactionLimits {
            max_part_bytes: 32 << 20,
            min_sources: 8,
            max_sources: 1024,
            max_bytes: 128 << 20,
            max_examined: 100_000,
        }
    }
}

impl CompactionLimits {
    /// These limits for a table. One of several shards without keys keeps a part for each of them, as its put wrote it.
    fn of_table(mut self, table: &Table) -> Self {
        if let Some(spec) = table.spec.as_ref().filter(|spec| spec.shard_by.is_empty() && spec.shards > 1) {
            let share = shard_bytes(table.bytes, spec.shards);
            self.max_part_bytes = self.max_part_bytes.min(share);
            self.max_bytes = self.max_bytes.min(share);
        }
        self
    }
}

/// A compaction to order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompactionPlan {
    /// The table's id.
    pub table: u64,
    /// The parts to replace, in the table's order.
    pub sources: Vec<PartId>,
    /// The node that compacts them.
    pub node: NodeId,
}

/// Plans the compaction that a table needs most, if any.
///
/// `alive` are the nodes that parts can be read from, `free` the writable ones with capacity for a compaction.
pub fn plan_compaction(
    catalog: &Catalog,
    table: &Table,
    alive: &BTreeSet<NodeId>,
    free: &BTreeSet<NodeId>,
    limits: &CompactionLimits,
) -> Option<CompactionPlan> {
    let limits = &limits.of_table(table);
    let keyed = table.spec.as_ref().is_some_and(|spec| !spec.shard_by.is_empty());
    let examined = catalog.newest_parts(table.id).take(limits.max_examined);
    let mut newest: Vec<&PartRow> = examined.filter(|part| part.removed == 0).collect();
    newest.reverse();
    let mut sequences: BTreeMap<u32, Vec<&PartRow>> = BTreeMap::new();
    for part in newest {
        // In a table with keys only the order within a shard is significant.
        sequences.entry(if keyed { part.shard } else { 0 }).or_default().push(part);
    }
    let can_compact = |part: &PartRow| {
        part.bytes < limits.max_part_bytes && part.holders.iter().any(|node| alive.contains(&NodeId(*node)))
    };
    let runs = sequences.values().flat_map(|parts| parts.split(|part| !can_compact(part)));
    let candidates = runs.filter_map(|run| {
        let bytes: Vec<u64> = run.iter().map(|part| part.bytes).collect();
        select_range(&bytes, limits).map(|range| &run[range])
    });
    let sources = candidates.max_by_key(|sources| sources.len())?;
    let node = select_node(table, sources, free)?;
    Some(CompactionPlan { table: table.id, sources: sources.iter().map(|part| part.part_id()).collect(), node })
}

/// Selects the range of a run of adjacent parts to compact, given their sizes in order. Of several ranges that qualify it
/// selects the newest.
fn select_range(bytes: &[u64], limits: &CompactionLimits) -> Option<Range<usize>> {
    let mut from = 0;
    // A loop, because a table of many parts may have as many ranges.
    loop {
        let rest = &bytes[from..];
        if rest.len() < limits.min_sources {
            return None;
        }
        let select_in = |range: Range<usize>| {
            let found = select_range(&rest[range.clone()], limits)?;
            let start = from + range.start;
            Some(start + found.start..start + found.end)
        };
        let total: u64 = rest.iter().sum();
        let (largest, max) = rest.iter().enumerate().max_by_key(|(_, bytes)| **bytes)?;
        if max.saturating_mul(2) > total {
            return select_in(largest + 1..rest.len()).or_else(|| select_in(0..largest));
        }
        let mut sum = 0;
        let fitting = rest.iter().take(limits.max_sources).take_while(|bytes| {
            sum += **bytes;
            sum <= limits.max_bytes
        });
        let fits = fitting.count().max(1);
        if fits == rest.len() {
            return Some(from..from + fits);
        }
        // If the run exceeds one compaction, the oldest parts go first, so that the result stays out of later compactions.
        if let Some(found) = select_in(0..fits) {
            return Some(found);
        }
        from += fits;
    }
}

/// Selects the free node that holds most bytes of the sources, preferring nodes of their shard's placement.
fn select_node(table: &Table, sources: &[&PartRow], free: &BTreeSet<NodeId>) -> Option<NodeId> {
    let placement = placement_of(table, sources.first()?.shard);
    let held_bytes = |node: &NodeId| -> u64 {
        sources.iter().filter(|part| part.holders.contains(&node.0)).map(|part| part.bytes).sum()
    };
    free.iter().copied().max_by_key(|node| (placement.contains(&node.0), held_bytes(node)))
}

#[cfg(test)]
pub(crate) mod tests;
