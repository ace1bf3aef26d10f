//! The catalog: the replicated state machine of the coordinators.
//!
//! | module | what it holds |
//! |---|---|
//! | [`Catalog`] (here) | the rows and their indexes |
//! | `query` | read-only queries |
//! | `apply` | the dispatch of commands, and the commands of open writes, pins and cancellations |
//! | `staged`, `finished` | the streams of staged writes; what is kept of finished writes |
//! | `fencing` | refuses what was meant for a staged write that has ended |
//! | `commit` | commands that create and end tables, versions and writes |
//! | `restore` | the command that brings back old versions and dropped tables |
//! | `query_results` | tables of queries' results, which are dropped by the commit that makes them |
//! | `layouts` | the schemas and specs of old versions |
//! | `usage` | how much the tables hold |
//! | `compaction` | commands that replace small parts by fewer larger ones |
//! | `coordinators` | commands that change the set of coordinators |
//! | `expire` | leases, retention and other deadlines |
//! | `time_to_live` | tables that expire |
//! | `spec_features` | which options of tables every coordinator must know |
//! | `identity`, `users`, `grants` | the rows of users, service tokens, grants and signing keys; the commands that change them |
//! | `ticket_keys` | the keys that sign tickets, and their replacement |
//! | `transactions`, `ended_transactions` | transactions: writes that one command makes visible; what is kept of those that ended |
//! | `quotas` | the largest size of the tables of a prefix |
//! | [`nodes`] | commands about nodes, holders and placement |
//! | [`parts`] | the in-memory index of parts: 300 to 560 bytes each, up to 560 MB for a million |
//! | [`rows`], [`replies`] | row keys and their bytes; replies of commands |
//!
//! **Invariant**: a catalog is a pure function of the commands applied to it: no clock, no randomness.

use std::collections::{BTreeMap, BTreeSet};

use volley_common::wire::catalog::{
    Cancelled, CatalogClock, Cluster, IdentityState, Node, Row, Table, TableLayout, Transaction, Write, WriteState, row,
};
use volley_common::{NodeId, PartId};

mod apply;
mod commit;
mod compaction;
mod coordinators;
mod ended_transactions;
mod expire;
mod fencing;
mod finished;
mod grants;
mod identity;
mod layouts;
pub mod nodes;
pub mod parts;
mod query;
mod query_results;
mod quotas;
pub mod replies;
mod restore;
pub mod rows;
mod spec_features;
mod staged;
#[cfg(test)]
mod tests;
mod ticket_keys;
mod time_to_live;
mod transactions;
mod usage;
mod users;

use ended_transactions::EndedTransactions;
pub use fencing::refuses_puts;
use finished::FinishedWrites;
use identity::IdentityRows;
use parts::PartIndex;
pub use parts::{PartRow, Revision};
pub use quotas::QuotaUsage;
pub use rows::{Change, RowKey, SortKey};
pub use spec_features::features_of;
use staged::StagedStreams;
pub use time_to_live::expires_ms;
pub use transactions::written_already;
pub use usage::TableUsage;

/// The whole catalog, in memory.
#[derive(Default)]
pub struct Catalog {
    cluster: Option<Cluster>,
    nodes: BTreeMap<u64, Node>,
    /// The nodes that are alive.
    alive: BTreeSet<NodeId>,
    /// By id. A dropped table stays until its parts are purged.
    tables: BTreeMap<u64, Table>,
    /// Ids of existing tables, by name.
    names: BTreeMap<Vec<String>, u64>,
    parts: PartIndex,
    /// By table id and layout id.
    layouts: BTreeMap<(u64, u64), TableLayout>,
    /// Open writes, by id.
    open: BTreeMap<String, Write>,
    finished: FinishedWrites,
    /// By write id.
    staged: BTreeMap<String, StagedStreams>,
    /// Open transactions, by id.
    transactions: BTreeMap<String, Transaction>,
    ended_transactions: EndedTransactions,
    cancelled: BTreeMap<u64, Cancelled>,
    usage: TableUsage,
    identity: IdentityRows,
    /// By prefix.
    quotas: BTreeMap<Vec<String>, QuotaUsage>,
    /// The time of the last command that had an effect, milliseconds since 1970.
    clock_ms: u64,
    /// Ids of tables with replaced versions, pins or a drop: the only ones that expiry examines.
    aging: BTreeSet<u64>,
    /// When tables expire, and their ids; only of existing tables that do.
    expiring: BTreeSet<(u64, u64)>,
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
            Some(row::Row::Staged(staged)) => self.index_staged(staged),
            Some(row::Row::Layout(layout)) => self.index_layout(layout),
            Some(row::Row::Clock(clock)) => self.clock_ms = clock.now_ms,
            Some(row::Row::User(user)) => self.identity.insert_user(user),
            Some(row::Row::Token(token)) => self.identity.insert_token(token),
            Some(row::Row::Grant(grant)) => self.identity.insert_grant(grant),
            Some(row::Row::SigningKey(key)) => self.identity.insert_key(key),
            Some(row::Row::Quota(quota)) => self.index_quota(quota),
            Some(row::Row::Identity(state)) => self.identity.set_state(state),
            Some(row::Row::Transaction(transaction)) => self.index_transaction(transaction),
            None => {}
        }
    }

    /// Removes a row, to replay a [`Change`] without a row. [`Catalog::take_changes`] does not report it.
    pub fn remove_row(&mut self, key: &RowKey) {
        match key {
            RowKey::Cluster => self.cluster = None,
            RowKey::Node(id) => {
                self.nodes.remove(id);
                self.alive.remove(&NodeId(*id));
                self.nodes_revision = parts::next_revision();
            }
            RowKey::Table(id) => self.unindex_table(*id),
            RowKey::Part { table, sort_key } => self.parts.remove_at(*table, *sort_key),
            RowKey::Write(id) => self.unindex_write(id),
            RowKey::Cancelled(flight) => drop(self.cancelled.remove(flight)),
            RowKey::StagedStream { write, index } => self.unindex_staged(write, *index),
            RowKey::Layout { table, id } => self.unindex_layout(*table, *id),
            RowKey::Clock => self.clock_ms = 0,
            RowKey::User(name) => self.identity.remove_user(name),
            RowKey::Token(id) => self.identity.remove_token(id),
            RowKey::Grant { to, role, prefix } => self.identity.remove_grant(&(to.clone(), *role, prefix.clone())),
            RowKey::SigningKey(id) => self.identity.remove_key(id),
            RowKey::Quota(prefix) => self.unindex_quota(prefix),
            RowKey::Identity => self.identity.set_state(IdentityState::default()),
            RowKey::Transaction(id) => self.unindex_transaction(id),
        }
    }

    /// All rows, by kind.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        let cluster = self.cluster.iter().cloned().map(row::Row::Cluster);
        let nodes = self.nodes.values().cloned().map(row::Row::Node);
        let tables = self.tables.values().cloned().map(row::Row::Table);
        let parts = self.parts.iter().map(|part| row::Row::Part(part.to_part()));
        let writes = self.open.values().cloned().chain(self.finished.iter()).map(row::Row::Write);
        let cancelled = self.cancelled.values().copied().map(row::Row::Cancelled);
        let staged = self.staged_streams().cloned().map(row::Row::Staged);
        let layouts = self.layouts.values().cloned().map(row::Row::Layout);
        let clock = self.clock_row().into_iter().map(row::Row::Clock);
        let all = cluster.chain(nodes).chain(tables).chain(parts).chain(writes).chain(cancelled);
        let identity = self.identity.rows();
        let quotas = self.quotas.values().map(|usage| row::Row::Quota(usage.quota.clone()));
        let transactions = self.transactions.values().chain(self.ended_transactions.iter()).cloned();
        let all = all.chain(staged).chain(layouts).chain(clock).chain(identity).chain(quotas);
        all.chain(transactions.map(row::Row::Transaction)).map(|row| Row { row: Some(row) })
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
            RowKey::Write(id) => self.write(id).map(|write| row::Row::Write(write.into_owned())),
            RowKey::Cancelled(flight) => self.cancelled.get(flight).copied().map(row::Row::Cancelled),
            RowKey::StagedStream { write, index } => self.staged_stream(write, *index).cloned().map(row::Row::Staged),
            RowKey::Layout { table, id } => self.layouts.get(&(*table, *id)).cloned().map(row::Row::Layout),
            RowKey::Clock => self.clock_row().map(row::Row::Clock),
            RowKey::Quota(prefix) => self.quotas.get(prefix).map(|usage| row::Row::Quota(usage.quota.clone())),
            RowKey::User(_) | RowKey::Token(_) | RowKey::Grant { .. } | RowKey::SigningKey(_) | RowKey::Identity => {
                self.identity.row(key)
            }
            RowKey::Transaction(id) => self.transaction(id).cloned().map(row::Row::Transaction),
        };
        row.map(|row| Row { row: Some(row) })
    }

    /// The rows that commands changed since the last call, in key order.
    pub fn take_changes(&mut self) -> Vec<Change> {
        let touched = std::mem::take(&mut self.touched);
        touched.into_iter().map(|key| Change { row: self.row(&key), key }).collect()
    }

    fn clock_row(&self) -> Option<CatalogClock> {
        (self.clock_ms != 0).then_some(CatalogClock { now_ms: self.clock_ms })
    }

    fn upsert_node(&mut self, node: Node) {
        self.touched.insert(RowKey::Node(node.id));
        self.index_node(node);
    }

    fn index_node(&mut self, node: Node) {
        let id = NodeId(node.id);
        match node.is_alive() {
            true => self.alive.insert(id),
            false => self.alive.remove(&id),
        };
        self.nodes.insert(node.id, node);
        self.nodes_revision = parts::next_revision();
    }

    fn upsert_table(&mut self, table: Table) {
        self.touched.insert(RowKey::Table(table.id));
        self.index_table(table);
    }

    fn index_table(&mut self, table: Table) {
        let old = self.unindex_but_placement(table.id).filter(|old| old.dropped_ms == 0);
        // As at most commits: a table may have thousands of shards.
        let is_placed_as_before =
            table.dropped_ms == 0 && old.as_ref().is_some_and(|old| old.placement == table.placement);
        if let Some(old) = old.filter(|_| !is_placed_as_before) {
            self.uncount_placement(&old);
        }
        if table.dropped_ms == 0 {
            self.names.insert(table.name.clone(), table.id);
            if !is_placed_as_before {
                self.count_placement(&table);
            }
            self.count_in_quotas(&table);
            self.expiring.extend(expires_ms(&table).map(|at_ms| (at_ms, table.id)));
        }
        if table.dropped_ms != 0 || !table.replaced.is_empty() || !table.pins.is_empty() {
            self.aging.insert(table.id);
        }
        self.usage += TableUsage::of_table(&table);
        self.tables.insert(table.id, table);
    }

    fn remove_table(&mut self, id: u64) {
        self.touched.insert(RowKey::Table(id));
        self.unindex_table(id);
        self.remove_layouts(id, &BTreeSet::new());
        self.parts.forget_table(id);
    }

    fn unindex_table(&mut self, id: u64) {
        if let Some(old) = self.unindex_but_placement(id).filter(|old| old.dropped_ms == 0) {
            self.uncount_placement(&old);
        }
    }

    /// Removes a table from all indexes but the counts of placed replicas.
    fn unindex_but_placement(&mut self, id: u64) -> Option<Table> {
        self.aging.remove(&id);
        let old = self.tables.remove(&id)?;
        self.usage -= TableUsage::of_table(&old);
        if let Some(at_ms) = expires_ms(&old) {
            self.expiring.remove(&(at_ms, id));
        }
        if old.dropped_ms == 0 {
            self.uncount_in_quotas(&old);
        }
        if self.names.get(&old.name) == Some(&id) {
            self.names.remove(&old.name);
        }
        Some(old)
    }

    fn upsert_write(&mut self, write: Write) {
        self.touched.insert(RowKey::Write(write.id.clone()));
        self.index_write(write);
    }

    fn index_write(&mut self, write: Write) {
        self.unindex_write(&write.id);
        if write.state == WriteState::Open as i32 {
            self.open.insert(write.id.clone(), write);
        } else {
            self.finished.insert(write);
        }
    }

    fn remove_write(&mut self, id: &str) {
        self.touched.insert(RowKey::Write(id.to_string()));
        self.unindex_write(id);
    }

    fn unindex_write(&mut self, id: &str) {
        self.open.remove(id);
        self.finished.remove(id);
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
