//! Read-only queries of the catalog.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use volley_common::identity::missing_table;
use volley_common::wire::catalog::{Cancelled, Cluster, Node, NodeState, Part, Pin, Table, Write};
use volley_common::{Error, NodeId, PartId, Result, TableName};

use super::{Catalog, PartRow, Revision, SortKey, TableUsage};

impl Catalog {
    /// The cluster's row; `None` before `FormCluster`.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// The cluster's row.
    ///
    /// # Errors
    /// UNAVAILABLE before the cluster is formed.
    pub fn require_cluster(&self) -> Result<&Cluster> {
        self.cluster.as_ref().ok_or_else(not_formed)
    }

    /// Every registered node that was not removed, by id.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| node.state != NodeState::Removed as i32)
    }

    /// A node by id, unless it was removed.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id.0).filter(|node| node.state != NodeState::Removed as i32)
    }

    /// Nodes that are alive, by id.
    pub fn live_nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes().filter(|node| node.is_alive())
    }

    /// Ids of the nodes that are alive.
    pub fn live_node_ids(&self) -> &BTreeSet<NodeId> {
        &self.alive
    }

    /// Nodes that get new parts, by id.
    pub fn writable_nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes().filter(|node| node.is_writable())
    }

    /// The number of live nodes, at least one.
    ///
    /// # Errors
    /// UNAVAILABLE if no node is alive; the message says how many nodes there are.
    pub fn require_live_nodes(&self) -> Result<usize> {
        let live = self.alive.len();
        if live > 0 {
            return Ok(live);
        }
        Err(Error::unavailable(match self.nodes().count() {
            0 => "no node has joined the cluster yet: start volley-node, or try again once one has".to_string(),
            n => format!("none of the cluster's {n} nodes is alive: start them, or try again"),
        }))
    }

    /// Whether an operator removed this node.
    pub fn was_removed(&self, id: NodeId) -> bool {
        self.nodes.get(&id.0).is_some_and(|node| node.state == NodeState::Removed as i32)
    }

    /// The holders of a part, without removed nodes. The row of a part lists a removed node until the leader deletes it.
    pub fn holders(&self, part: &PartRow) -> impl Iterator<Item = NodeId> {
        part.holders.iter().map(|node| NodeId(*node)).filter(|node| !self.was_removed(*node))
    }

    /// A table by id; also a dropped table while its parts are kept.
    pub fn table(&self, id: u64) -> Option<&Table> {
        self.tables.get(&id)
    }

    /// An existing table by name.
    pub fn table_named(&self, name: &TableName) -> Option<&Table> {
        self.find(name.components())
    }

    /// An existing table by name.
    ///
    /// # Errors
    /// NOT_FOUND, naming the table. If it was dropped and can come back, the message says so.
    pub fn require_table(&self, name: &TableName) -> Result<&Table> {
        self.table_named(name).ok_or_else(|| {
            let mut error = no_table(name.components());
            let dropped = self.dropped_table(name.components(), self.clock_ms);
            if let Some(end) = dropped.and_then(|dropped| dropped.replaced.last()) {
                let left_s = end.until_ms.saturating_sub(self.clock_ms) / 1000;
                error.message +=
                    &format!(": it was dropped, and `volley restore {name}` (the action restore_version) brings it back for another {left_s} s");
            }
            error
        })
    }

    /// Existing tables in name order.
    pub fn tables(&self) -> impl Iterator<Item = &Table> {
        self.names.values().filter_map(|id| self.tables.get(id))
    }

    /// Names of existing tables in their order, from this one on.
    pub fn names_from<'c>(&'c self, first: &[String]) -> impl Iterator<Item = &'c [String]> + use<'c> {
        let from_first = self.names.range::<[String], _>((Bound::Included(first), Bound::Unbounded));
        from_first.map(|(name, _)| &name[..])
    }

    /// Every table by id, including dropped tables whose parts are kept.
    pub fn all_tables(&self) -> impl Iterator<Item = &Table> {
        self.tables.values()
    }

    /// The parts of one version of a table (by id), in row order.
    pub fn parts_at(&self, table: u64, version: u64) -> Vec<Part> {
        self.part_rows_at(table, version).map(PartRow::to_part).collect()
    }

    /// The parts of one version of a table (by id), in row order, without building messages.
    pub fn part_rows_at(&self, table: u64, version: u64) -> impl DoubleEndedIterator<Item = &PartRow> {
        self.parts.up_to(table, version).filter(move |part| part.is_in(version))
    }

    /// A table's parts from the newest to the oldest, including removed parts that are kept for readers.
    pub fn newest_parts(&self, table: u64) -> impl Iterator<Item = &PartRow> {
        self.parts.up_to(table, u64::MAX).rev()
    }

    /// A part by id, including removed parts that are kept for readers.
    pub fn part(&self, id: PartId) -> Option<&PartRow> {
        self.parts.get(id)
    }

    /// Every part, by table and then in row order.
    pub fn all_parts(&self) -> impl Iterator<Item = &PartRow> {
        self.parts.iter()
    }

    /// Every part after a position (table id and sort key), in the same order; `None`: from the first one on.
    pub fn parts_after(&self, last: Option<(u64, SortKey)>) -> impl Iterator<Item = &PartRow> {
        self.parts.after(last)
    }

    /// Every part of a table (by id), over all kept versions.
    pub fn all_parts_of(&self, table: u64) -> impl Iterator<Item = &PartRow> {
        self.parts.up_to(table, u64::MAX)
    }

    /// The revisions of a table's parts and of all nodes. A result derived from them is valid while both are unchanged.
    pub fn revisions(&self, table: u64) -> (Revision, Revision) {
        (self.parts.revision(table), self.nodes_revision)
    }

    /// The number of parts, including removed parts that are kept for readers.
    pub fn part_count(&self) -> usize {
        self.parts.len()
    }

    /// Whether any part has statistics.
    pub fn has_part_statistics(&self) -> bool {
        self.parts.with_statistics() > 0
    }

    /// Every write that is open, or finished and still remembered. Costs a decode for each finished one.
    pub fn writes(&self) -> impl Iterator<Item = Cow<'_, Write>> {
        self.open.values().map(Cow::Borrowed).chain(self.finished.iter().map(Cow::Owned))
    }

    /// A write by id. A finished one has only its id, table, attempt, state, outcome or reason, and end.
    pub fn write(&self, id: &str) -> Option<Cow<'_, Write>> {
        self.open.get(id).map(Cow::Borrowed).or_else(|| self.finished.get(id).map(Cow::Owned))
    }

    /// Writes that are neither committed nor aborted, by id.
    pub fn open_writes(&self) -> impl Iterator<Item = &Write> {
        self.open.values()
    }

    /// The number of finished writes whose ids are remembered.
    pub fn finished_writes(&self) -> usize {
        self.finished.len()
    }

    /// How much the tables hold.
    pub fn table_usage(&self) -> TableUsage {
        self.usage
    }

    /// The time of the last command that had an effect, milliseconds since 1970.
    pub fn clock_ms(&self) -> u64 {
        self.clock_ms
    }

    /// Cancelled flights.
    pub fn cancelled(&self) -> impl Iterator<Item = &Cancelled> {
        self.cancelled.values()
    }

    /// Whether a flight is cancelled.
    pub fn is_cancelled(&self, flight: u64) -> bool {
        self.cancelled.contains_key(&flight)
    }

    /// Whether a write is open. Once it is not (unknown, aborted, or committed), a part of it that the catalog does not
    /// list may be deleted. Valid only on a catalog that has applied every committed command.
    pub fn is_write_open(&self, write: &str) -> bool {
        self.open.contains_key(write)
    }

    /// The version that a reader gets at `now_ms`: `wanted`, or the newest.
    ///
    /// # Errors
    /// NOT_FOUND, naming the table and its readable versions.
    pub fn readable_version(&self, table: &Table, wanted: Option<u64>, now_ms: u64) -> Result<u64> {
        let version = wanted.unwrap_or(table.version);
        if readable(table, version, now_ms) {
            return Ok(version);
        }
        Err(Error::not_found(format!(
            "table {:?} has no readable version {version}: {}",
            table.name.join("/"),
            readable_text(table, now_ms)
        )))
    }

    /// Whether a version of a table can be read at `now_ms`.
    pub fn is_readable(&self, table: &Table, version: u64, now_ms: u64) -> bool {
        readable(table, version, now_ms)
    }

    /// Shard replicas that are placed on each node, over all existing tables. A node without any is missing.
    pub fn placed_replicas(&self) -> &BTreeMap<NodeId, u64> {
        &self.placed
    }

    pub(super) fn find(&self, name: &[String]) -> Option<&Table> {
        self.names.get(name).and_then(|id| self.tables.get(id))
    }
}

/// Whether a version is readable: none of its parts was replaced, its retention has not passed, or it is pinned.
pub(super) fn readable(table: &Table, version: u64, now_ms: u64) -> bool {
    let known = version >= table.oldest.max(1) && version <= table.version;
    match table.replaced.iter().find(|r| r.version > version) {
        _ if !known => false,
        None => true,
        Some(end) => end.until_ms >= now_ms || pinned(&table.pins, version, now_ms),
    }
}

/// Whether a pin keeps this version. A pin of another version may keep some of its parts, and does not count.
fn pinned(pins: &[Pin], version: u64, now_ms: u64) -> bool {
    pins.iter().any(|pin| pin.until_ms >= now_ms && version == pin.version)
}

/// Lists the readable versions for an error message: at most the newest 20.
pub(super) fn readable_text(table: &Table, now_ms: u64) -> String {
    let all = (table.oldest.max(1)..=table.version).rev().take(10_000);
    let found: Vec<String> = all.filter(|v| readable(table, *v, now_ms)).take(20).map(|v| v.to_string()).collect();
    match found.as_slice() {
        [] => "it was dropped, and none of its versions is kept".into(),
        [one] => format!("only version {one} is readable"),
        _ => format!("the readable versions are {}", found.join(", ")),
    }
}

pub(super) fn no_table(name: &[String]) -> Error {
    missing_table(name)
}

pub(super) fn not_formed() -> Error {
    Error::unavailable("the cluster is still being formed: try again in a moment")
}
