//! The catalog: the state machine that the coordinators replicate.
//!
//! | module | what it holds |
//! |---|---|
//! | [`Catalog`] (here) | the rows, their indexes, and the questions that may be asked of them |
//! | `apply` | every command, in one place |
//! | `commit` | what makes a write, a table or a version appear and go |
//! | `coordinators` | which coordinators are wanted |
//! | `expire` | what time ends |
//! | `merge` | parts that become fewer, the rows as they were |
//! | `nodes` | nodes and the homes of shards |
//! | [`parts`] | parts, compact: about 270 bytes each, 1,000,000 of them in 270 MB |
//! | [`rows`] | rows ↔ keys and bytes |
//!
//! **Invariant**: a catalog is a pure function of the commands applied to it: no clock, no randomness.

use std::collections::{BTreeMap, BTreeSet};

use volley_common::wire::catalog::{
    Cancelled, Cluster, Node, NodeState, Part, Pin, Row, Table, Write, WriteState, row,
};
use volley_common::{Error, NodeId, PartId, Result, TableName};

mod apply;
mod commit;
mod coordinators;
mod expire;
mod merge;
pub mod nodes;
pub mod parts;
pub mod rows;
#[cfg(test)]
mod tests;

use parts::Parts;
pub use parts::{PartRow, Place, Stamp};
pub use rows::{Change, RowKey};

/// The whole catalog, in memory.
#[derive(Default)]
pub struct Catalog {
    cluster: Option<Cluster>,
    nodes: BTreeMap<u64, Node>,
    /// By id, dropped ones too until their parts are purged.
    tables: BTreeMap<u64, Table>,
    /// Tables that exist, by name.
    names: BTreeMap<Vec<String>, u64>,
    parts: Parts,
    writes: BTreeMap<String, Write>,
    cancelled: BTreeMap<u64, Cancelled>,
    /// Ids of open writes.
    open: BTreeSet<String>,
    /// When a finished write ended, and its id: the oldest first.
    ended: BTreeSet<(u64, String)>,
    /// Tables with replaced versions, pins or a drop: all that expiry looks at.
    aging: BTreeSet<u64>,
    /// Replicas of shards that nodes are to have, of all tables that exist.
    placed: BTreeMap<NodeId, u64>,
    touched: BTreeSet<RowKey>,
    nodes_stamp: Stamp,
}

/// Questions.
impl Catalog {
    /// What the cluster is; none before `FormCluster`.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// Every node that registered and was not removed, by id.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| node.state != NodeState::Removed as i32)
    }

    /// One node.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id.0).filter(|node| node.state != NodeState::Removed as i32)
    }

    /// Whether an operator took this node out.
    pub fn was_removed(&self, id: NodeId) -> bool {
        self.nodes.get(&id.0).is_some_and(|node| node.state == NodeState::Removed as i32)
    }

    /// Who holds a part. A node that was removed stands in the part's row until the leader has taken it out, but is no holder.
    pub fn holders(&self, part: &PartRow) -> impl Iterator<Item = NodeId> {
        part.holders.iter().map(|node| NodeId(*node)).filter(|node| !self.was_removed(*node))
    }

    /// A table by id, dropped ones too while their parts are kept.
    pub fn table(&self, id: u64) -> Option<&Table> {
        self.tables.get(&id)
    }

    /// A table that exists, by name.
    pub fn table_named(&self, name: &TableName) -> Option<&Table> {
        self.find(name.components())
    }

    /// A table that exists, by name.
    ///
    /// # Errors
    /// NOT_FOUND, naming the table.
    pub fn require_table(&self, name: &TableName) -> Result<&Table> {
        self.table_named(name).ok_or_else(|| no_table(name.components()))
    }

    /// Tables that exist, in name order.
    pub fn tables(&self) -> impl Iterator<Item = &Table> {
        self.names.values().filter_map(|id| self.tables.get(id))
    }

    /// Every table, by id, dropped ones too while their parts are kept.
    pub fn all_tables(&self) -> impl Iterator<Item = &Table> {
        self.tables.values()
    }

    /// The parts of one version of a table (by its id), in the order of their rows.
    pub fn parts_at(&self, table: u64, version: u64) -> Vec<Part> {
        self.part_rows_at(table, version).map(PartRow::to_part).collect()
    }

    /// As [`Catalog::parts_at`], without building messages.
    pub fn part_rows_at(&self, table: u64, version: u64) -> impl DoubleEndedIterator<Item = &PartRow> {
        self.parts.up_to(table, version).filter(move |part| part.is_in(version))
    }

    /// A table's parts from the newest to the oldest, those included that are only kept for readers.
    pub fn newest_parts(&self, table: u64) -> impl Iterator<Item = &PartRow> {
        self.parts.up_to(table, u64::MAX).rev()
    }

    /// One part, whether its version is the newest or only kept.
    pub fn part(&self, id: PartId) -> Option<&PartRow> {
        self.parts.get(id)
    }

    /// Every part, by table and in order.
    pub fn all_parts(&self) -> impl Iterator<Item = &PartRow> {
        self.parts.iter()
    }

    /// Every part of a table, by its id, of all versions that are kept.
    pub fn all_parts_of(&self, table: u64) -> impl Iterator<Item = &PartRow> {
        self.parts.up_to(table, u64::MAX)
    }

    /// The state of a table's parts and of the nodes: what was made of them is good while this is the same.
    pub fn stamps(&self, table: u64) -> (Stamp, Stamp) {
        (self.parts.stamp(table), self.nodes_stamp)
    }

    /// How many parts there are, kept ones too.
    pub fn part_count(&self) -> usize {
        self.parts.len()
    }

    /// Every write that is open or remembered, by id.
    pub fn writes(&self) -> impl Iterator<Item = &Write> {
        self.writes.values()
    }

    /// One write.
    pub fn write(&self, id: &str) -> Option<&Write> {
        self.writes.get(id)
    }

    /// Writes that are neither committed nor aborted.
    pub fn open_writes(&self) -> impl Iterator<Item = &Write> {
        self.open.iter().filter_map(|id| self.writes.get(id))
    }

    /// FlightInfos that were cancelled.
    pub fn cancelled(&self) -> impl Iterator<Item = &Cancelled> {
        self.cancelled.values()
    }

    /// Whether a part of this write that the catalog does not list may be deleted: the write is
    /// unknown, aborted, or committed without it. (Ask a catalog that has applied everything committed.)
    pub fn is_dead(&self, write: &str) -> bool {
        !self.open.contains(write)
    }

    /// The version that a reader of a table gets at `now_ms`: the wanted one, or the newest.
    ///
    /// # Errors
    /// NOT_FOUND, naming the table and the versions that are readable.
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

    fn find(&self, name: &[String]) -> Option<&Table> {
        self.names.get(name).and_then(|id| self.tables.get(id))
    }
}

/// Keeping rows and indexes together.
impl Catalog {
    /// Puts a row of a snapshot or of the disk in place; not a change that [`Catalog::take_changes`] tells.
    pub fn insert_row(&mut self, row: Row) {
        match row.row {
            Some(row::Row::Cluster(cluster)) => self.cluster = Some(cluster),
            Some(row::Row::Node(node)) => self.index_node(node),
            Some(row::Row::Table(table)) => self.index_table(table),
            Some(row::Row::Part(part)) => self.parts.insert(PartRow::from_part(&part)),
            Some(row::Row::Write(write)) => self.index_write(write),
            Some(row::Row::Cancelled(cancelled)) => drop(self.cancelled.insert(cancelled.flight, cancelled)),
            None => {}
        }
    }

    /// Takes a row away, as a [`Change`] without a row says; not a change itself.
    pub fn remove_row(&mut self, key: &RowKey) {
        match key {
            RowKey::Cluster => self.cluster = None,
            RowKey::Node(id) => {
                self.nodes.remove(id);
                self.nodes_stamp = parts::new_stamp();
            }
            RowKey::Table(id) => self.unindex_table(*id),
            RowKey::Part { table, place } => self.parts.remove_at(*table, *place),
            RowKey::Write(id) => self.unindex_write(id),
            RowKey::Cancelled(flight) => drop(self.cancelled.remove(flight)),
        }
    }

    /// Every row, in the order of their keys.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        let cluster = self.cluster.iter().cloned().map(row::Row::Cluster);
        let nodes = self.nodes.values().cloned().map(row::Row::Node);
        let tables = self.tables.values().cloned().map(row::Row::Table);
        let parts = self.parts.iter().map(|part| row::Row::Part(part.to_part()));
        let writes = self.writes.values().cloned().map(row::Row::Write);
        let cancelled = self.cancelled.values().copied().map(row::Row::Cancelled);
        let all = cluster.chain(nodes).chain(tables).chain(parts).chain(writes).chain(cancelled);
        all.map(|row| Row { row: Some(row) })
    }

    /// The row of a key as it stands.
    pub fn row(&self, key: &RowKey) -> Option<Row> {
        let row = match key {
            RowKey::Cluster => self.cluster.clone().map(row::Row::Cluster),
            RowKey::Node(id) => self.nodes.get(id).cloned().map(row::Row::Node),
            RowKey::Table(id) => self.tables.get(id).cloned().map(row::Row::Table),
            RowKey::Part { table, place } => self.parts.at(*table, *place).map(|part| row::Row::Part(part.to_part())),
            RowKey::Write(id) => self.writes.get(id).cloned().map(row::Row::Write),
            RowKey::Cancelled(flight) => self.cancelled.get(flight).copied().map(row::Row::Cancelled),
        };
        row.map(|row| Row { row: Some(row) })
    }

    /// The rows that commands touched since the last call, in the order of their keys.
    pub fn take_changes(&mut self) -> Vec<Change> {
        let touched = std::mem::take(&mut self.touched);
        touched.into_iter().map(|key| Change { row: self.row(&key), key }).collect()
    }

    fn put_node(&mut self, node: Node) {
        self.touched.insert(RowKey::Node(node.id));
        self.index_node(node);
    }

    fn index_node(&mut self, node: Node) {
        self.nodes.insert(node.id, node);
        self.nodes_stamp = parts::new_stamp();
    }

    fn put_table(&mut self, table: Table) {
        self.touched.insert(RowKey::Table(table.id));
        self.index_table(table);
    }

    fn index_table(&mut self, table: Table) {
        self.unindex_table(table.id);
        if table.dropped_ms == 0 {
            self.names.insert(table.name.clone(), table.id);
            self.note_placement(&table);
        }
        if table.dropped_ms != 0 || !table.replaced.is_empty() || !table.pins.is_empty() {
            self.aging.insert(table.id);
        }
        self.tables.insert(table.id, table);
    }

    fn remove_table(&mut self, id: u64) {
        self.touched.insert(RowKey::Table(id));
        self.unindex_table(id);
        self.parts.forget(id);
    }

    fn unindex_table(&mut self, id: u64) {
        self.aging.remove(&id);
        let Some(old) = self.tables.remove(&id) else { return };
        if old.dropped_ms == 0 {
            self.forget_placement(&old);
        }
        if self.names.get(&old.name) == Some(&id) {
            self.names.remove(&old.name);
        }
    }

    fn put_write(&mut self, write: Write) {
        self.touched.insert(RowKey::Write(write.id.clone()));
        self.index_write(write);
    }

    fn index_write(&mut self, write: Write) {
        self.unindex_write(&write.id);
        if write.state == WriteState::Open as i32 {
            self.open.insert(write.id.clone());
        } else {
            self.ended.insert((write.ended_ms, write.id.clone()));
        }
        self.writes.insert(write.id.clone(), write);
    }

    fn remove_write(&mut self, id: &str) {
        self.touched.insert(RowKey::Write(id.to_string()));
        self.unindex_write(id);
    }

    fn unindex_write(&mut self, id: &str) {
        if let Some(old) = self.writes.remove(id) {
            self.open.remove(id);
            self.ended.remove(&(old.ended_ms, old.id));
        }
    }

    fn put_part(&mut self, part: PartRow) {
        self.touched.insert(part.key());
        self.parts.insert(part);
    }

    fn remove_part(&mut self, id: PartId) {
        if let Some(part) = self.parts.remove(id) {
            self.touched.insert(part.key());
        }
    }
}

/// Whether a version can be read: it is the newest, nothing of it was replaced, what was is still kept, or it is pinned.
fn readable(table: &Table, version: u64, now_ms: u64) -> bool {
    let known = version >= table.oldest.max(1) && version <= table.version;
    match table.replaced.iter().find(|r| r.version > version) {
        _ if !known => false,
        None => true,
        Some(end) => end.until_ms >= now_ms || pinned(&table.pins, version, now_ms),
    }
}

/// Whether a pin keeps this version (one of another version may keep some of its parts, and does not count).
fn pinned(pins: &[Pin], version: u64, now_ms: u64) -> bool {
    pins.iter().any(|pin| pin.until_ms >= now_ms && version == pin.version)
}

/// The readable versions in words: at most 20 of them, the newest.
fn readable_text(table: &Table, now_ms: u64) -> String {
    let all = (table.oldest.max(1)..=table.version).rev().take(10_000);
    let found: Vec<String> = all.filter(|v| readable(table, *v, now_ms)).take(20).map(|v| v.to_string()).collect();
    match found.as_slice() {
        [] => "it was dropped and none of its versions is kept any longer".into(),
        [one] => format!("only version {one} is"),
        _ => format!("these are: {}", found.join(", ")),
    }
}

fn no_table(name: &[String]) -> Error {
    Error::not_found(format!("there is no table {:?}", name.join("/")))
}
