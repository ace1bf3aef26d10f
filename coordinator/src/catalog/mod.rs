//! The catalog: the replicated state machine of the coordinators.
//!
//! | module | what it holds |
//! |---|---|
//! | [`Catalog`] (here) | the rows and their indexes |
//! | `query` | read-only queries |
//! | `apply` | the dispatch of commands, and the commands of open writes, pins and cancellations |
//! | `commit` | commands that create and end tables, versions and writes |
//! | `compaction` | commands that replace small parts by fewer larger ones |
//! | `coordinators` | commands that change the set of coordinators |
//! | `expire` | leases, retention and other deadlines |
//! | [`nodes`] | commands about nodes, holders and placement |
//! | [`parts`] | the in-memory index of parts: about 270 bytes each, 270 MB for a million |
//! | [`rows`], [`replies`] | row keys and their bytes; replies of commands |
//!
//! **Invariant**: a catalog is a pure function of the commands applied to it: no clock, no randomness.

use std::collections::{BTreeMap, BTreeSet};

use volley_common::wire::catalog::{Cancelled, Cluster, Node, Row, Table, Write, WriteState, row};
use volley_common::{NodeId, PartId};

mod apply;
mod commit;
mod compaction;
mod coordinators;
mod expire;
pub mod nodes;
pub mod parts;
mod query;
pub mod replies;
pub mod rows;
#[cfg(test)]
mod tests;

use parts::PartIndex;
pub use parts::{PartRow, Revision};
pub use rows::{Change, RowKey, SortKey};

/// The whole catalog, in memory.
#[derive(Default)]
pub struct Catalog {
    cluster: Option<Cluster>,
    nodes: BTreeMap<u64, Node>,
    /// By id. A dropped table stays until its parts are purged.
    tables: BTreeMap<u64, Table>,
    /// Ids of existing tables, by name.
    names: BTreeMap<Vec<String>, u64>,
    parts: PartIndex,
    writes: BTreeMap<String, Write>,
    cancelled: BTreeMap<u64, Cancelled>,
    /// Ids of open writes.
    open: BTreeSet<String>,
    /// (end time, id) of finished writes, the oldest first.
    ended: BTreeSet<(u64, String)>,
    /// Ids of tables with replaced versions, pins or a drop: the only ones that expiry examines.
    aging: BTreeSet<u64>,
    /// Shard replicas that are placed on each node, over all existing tables.
    placed: BTreeMap<NodeId, u64>,
    /// Keys of the rows that commands changed since [`Catalog::take_changes`].
    touched: BTreeSet<RowKey>,
    nodes_revision: Revision,
}

/// Rows and indexes, kept consistent.
impl Catalog {
    /// Inserts a row from a snapshot or from disk. [`Catalog::take_changes`] does not report it.
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

    /// Removes a row, to replay a [`Change`] without a row. [`Catalog::take_changes`] does not report it.
    pub fn remove_row(&mut self, key: &RowKey) {
        match key {
            RowKey::Cluster => self.cluster = None,
            RowKey::Node(id) => {
                self.nodes.remove(id);
                self.nodes_revision = parts::next_revision();
            }
            RowKey::Table(id) => self.unindex_table(*id),
            RowKey::Part { table, sort_key } => self.parts.remove_at(*table, *sort_key),
            RowKey::Write(id) => self.unindex_write(id),
            RowKey::Cancelled(flight) => drop(self.cancelled.remove(flight)),
        }
    }

    /// All rows, in key order.
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

    /// The current row of a key.
    pub fn row(&self, key: &RowKey) -> Option<Row> {
        let row = match key {
            RowKey::Cluster => self.cluster.clone().map(row::Row::Cluster),
            RowKey::Node(id) => self.nodes.get(id).cloned().map(row::Row::Node),
            RowKey::Table(id) => self.tables.get(id).cloned().map(row::Row::Table),
            RowKey::Part { table, sort_key } => {
                self.parts.at(*table, *sort_key).map(|part| row::Row::Part(part.to_part()))
            }
            RowKey::Write(id) => self.writes.get(id).cloned().map(row::Row::Write),
            RowKey::Cancelled(flight) => self.cancelled.get(flight).copied().map(row::Row::Cancelled),
        };
        row.map(|row| Row { row: Some(row) })
    }

    /// The rows that commands changed since the last call, in key order.
    pub fn take_changes(&mut self) -> Vec<Change> {
        let touched = std::mem::take(&mut self.touched);
        touched.into_iter().map(|key| Change { row: self.row(&key), key }).collect()
    }

    fn upsert_node(&mut self, node: Node) {
        self.touched.insert(RowKey::Node(node.id));
        self.index_node(node);
    }

    fn index_node(&mut self, node: Node) {
        self.nodes.insert(node.id, node);
        self.nodes_revision = parts::next_revision();
    }

    fn upsert_table(&mut self, table: Table) {
        self.touched.insert(RowKey::Table(table.id));
        self.index_table(table);
    }

    fn index_table(&mut self, table: Table) {
        self.unindex_table(table.id);
        if table.dropped_ms == 0 {
            self.names.insert(table.name.clone(), table.id);
            self.count_placement(&table);
        }
        if table.dropped_ms != 0 || !table.replaced.is_empty() || !table.pins.is_empty() {
            self.aging.insert(table.id);
        }
        self.tables.insert(table.id, table);
    }

    fn remove_table(&mut self, id: u64) {
        self.touched.insert(RowKey::Table(id));
        self.unindex_table(id);
        self.parts.forget_table(id);
    }

    fn unindex_table(&mut self, id: u64) {
        self.aging.remove(&id);
        let Some(old) = self.tables.remove(&id) else { return };
        if old.dropped_ms == 0 {
            self.uncount_placement(&old);
        }
        if self.names.get(&old.name) == Some(&id) {
            self.names.remove(&old.name);
        }
    }

    fn upsert_write(&mut self, write: Write) {
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

    fn upsert_part(&mut self, part: PartRow) {
        self.touched.insert(part.key());
        self.parts.insert(part);
    }

    fn remove_part(&mut self, id: PartId) {
        if let Some(part) = self.parts.remove(id) {
            self.touched.insert(part.key());
        }
    }
}
