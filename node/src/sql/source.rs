//! The tables of one caller, as the query engine reads them: planned by coordinators, read by [`PartScanner`].

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use volley_common::ipc::schema::parse_schema;
use volley_common::telemetry::trace::KeptContext;
use volley_common::wire::cluster::{self, PlanTablesRequest, TableVersion};
use volley_common::{Error, Result, TableName, clock, partition};
use volley_sql::predicate::Predicate;
use volley_sql::source::{ListedTable, PartScan, PlannedPart, PlannedTable, TableSharding, TableSource};
use volley_sql::statement::TableAt;

use super::caller::SqlCaller;
use super::part_filter::part_filter;
use crate::get::part_scan::PartScanner;
use crate::get::ticket_parts::with_parts;

/// A table of fewer parts is read without asking which of them a filter excludes: that takes a call to a coordinator.
const MIN_PARTS_TO_PRUNE: usize = 4;
/// How long a statement waits for coordinators that do not answer which parts a filter excludes, for all of its tables together.
const PRUNING_TIME: Duration = Duration::from_secs(3);
/// Batches of a scan that are read ahead of the engine.
const READ_AHEAD: usize = 2;

/// Tables of a statement that were planned before: their ids and versions. Another table can have the name of one since.
pub type PinnedTables = HashMap<TableAt, TableVersion>;

/// The tables of one caller, for one statement.
pub struct NodeSource {
    caller: SqlCaller,
    /// Where connections and disks are waited for: the threads of the node, not those of the engine.
    io: Handle,
    /// The call that the statement belongs to.
    call: KeptContext,
    planned: Mutex<PlannedVersions>,
    pruning: PruningDeadline,
}

/// Until when coordinators are asked which parts can be left out. `None`: none is asked, or the last one answered.
#[derive(Default)]
struct PruningDeadline(Mutex<Option<Instant>>);

impl PruningDeadline {
    /// That of a call which begins now: the same for all calls since the last one that was answered.
    fn of_call(&self) -> Instant {
        *self.0.lock().get_or_insert_with(|| Instant::now() + PRUNING_TIME)
    }

    fn answered(&self) {
        *self.0.lock() = None;
    }
}

/// What was planned, here or before.
struct PlannedVersions {
    tables: PinnedTables,
    /// When the first of the tickets expires, milliseconds since 1970.
    expires_ms: Option<u64>,
    rights: PlannedRights,
}

/// By which rights of the caller tables were planned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlannedRights {
    /// By table's name: a hash of the columns that the caller may read, as tickets have it.
    pub permitted_columns: BTreeMap<Vec<String>, u64>,
    /// The oldest epoch of grants by which one was planned; `None`: no table was planned.
    pub grant_epoch: Option<u64>,
}

impl NodeSource {
    /// The tables that `caller` may see; of those in `pinned` these ones. A table that is planned twice is the same both times, at
    /// the same version. Call it on a thread of the node.
    pub fn new(caller: SqlCaller, pinned: PinnedTables) -> Arc<Self> {
        let rights = PlannedRights::default();
        let planned = Mutex::new(PlannedVersions { tables: pinned, expires_ms: None, rights });
        let (io, call) = (Handle::current(), KeptContext::current());
        Arc::new(NodeSource { caller, io, call, planned, pruning: PruningDeadline::default() })
    }

    /// The ids and versions of those of these tables that were planned. The others as the statement names them.
    pub fn versions(&self, tables: &[TableAt]) -> Vec<TableVersion> {
        let planned = self.planned.lock();
        tables.iter().map(|table| planned_or_newest(&planned.tables, table)).collect()
    }

    /// When the first of the planned tickets expires, milliseconds since 1970; `None`: no table was planned.
    pub fn expires_ms(&self) -> Option<u64> {
        self.planned.lock().expires_ms
    }

    /// The rights by which the tables were planned.
    pub fn rights(&self) -> PlannedRights {
        self.planned.lock().rights.clone()
    }

    fn note(&self, table: &TableAt, planned: &PlannedTable) {
        let (table_id, expires_ms) = (planned.ticket.table_id, planned.ticket.expires_ms);
        let (permitted_columns, epoch) = (planned.ticket.permitted_columns, planned.ticket.grant_epoch);
        let version =
            TableVersion { table: table.name.components().to_vec(), version: Some(planned.version), table_id };
        let mut versions = self.planned.lock();
        versions.tables.insert(table.clone(), version);
        versions.expires_ms = Some(versions.expires_ms.map_or(expires_ms, |first| first.min(expires_ms)));
        let rights = &mut versions.rights;
        rights.permitted_columns.insert(table.name.components().to_vec(), permitted_columns);
        rights.grant_epoch = Some(rights.grant_epoch.map_or(epoch, |first| first.min(epoch)));
    }

    fn read_plan(&self, table: &TableAt, planned: &cluster::PlannedTable) -> Result<PlannedTable> {
        let key = self.caller.context.get.cluster.ticket_key()?;
        let ticket = key.verify(&planned.ticket, clock::now_ms())?;
        let keys = planned.shard_by.clone();
        let planned = PlannedTable {
            name: table.name.clone(),
            version: ticket.version,
            schema: parse_schema(&planned.visible_schema)?,
            parts: ticket.parts.iter().map(|part| PlannedPart { rows: part.rows }).collect(),
            rows: planned.rows,
            bytes: planned.bytes,
            sharding: sharding(keys, planned, ticket.parts.len()),
            ticket: Arc::new(ticket),
        };
        self.note(table, &planned);
        Ok(planned)
    }

    /// The table with only those parts that a coordinator does not exclude.
    ///
    /// # Errors
    /// DEADLINE_EXCEEDED: none answers until then. Those of planning.
    async fn plan_filtered(
        &self,
        table: &PlannedTable,
        filter: cluster::PartFilter,
        until: Instant,
    ) -> Result<PlannedTable> {
        let too_late = || Error::deadline(format!("no coordinator answered within {PRUNING_TIME:?}"));
        if until <= Instant::now() {
            return Err(too_late());
        }
        let version = TableVersion {
            table: table.name.components().to_vec(),
            version: Some(table.version),
            table_id: table.ticket.table_id,
        };
        let request = PlanTablesRequest { tables: vec![version], filters: vec![filter] };
        let (coordinators, caller) = (self.caller.context.get.coordinators.clone(), self.caller.asserted.clone());
        let answer = async move { timeout_at(until, coordinators.plan_tables(request, &caller)).await };
        let reply = self.on_node(async move { answer.await.unwrap_or_else(|_| Err(too_late())) }).await?;
        self.pruning.answered();
        let Some(planned) = reply.tables.first() else {
            return Err(Error::internal("a coordinator planned no table"));
        };
        let ticket = self.caller.context.get.cluster.ticket_key()?.verify(&planned.ticket, clock::now_ms())?;
        if (ticket.table_id, ticket.version) != (table.ticket.table_id, table.ticket.version) {
            return Err(Error::internal(format!("another version of table {} was planned", table.name)));
        }
        // The columns stay those of the first plan, whatever the caller may see by now.
        let kept = with_parts(&table.ticket, ticket.parts);
        let keys = table.sharding.as_ref().map(|sharding| sharding.keys.clone()).unwrap_or_default();
        Ok(PlannedTable {
            sharding: sharding(keys, planned, kept.parts.len()),
            parts: kept.parts.iter().map(|part| PlannedPart { rows: part.rows }).collect(),
            rows: planned.rows,
            bytes: planned.bytes,
            ticket: Arc::new(kept),
            ..table.clone()
        })
    }

    /// Runs `call` on the threads of the node.
    async fn on_node<T: Send + 'static>(&self, call: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let ended = AbortOnDropHandle::new(self.io.spawn(self.call.carry(call))).await;
        ended.unwrap_or_else(|e| Err(Error::internal(format!("a call to a coordinator failed: {e}"))))
    }
}

impl fmt::Debug for NodeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeSource").field("caller", &self.caller.access).finish_non_exhaustive()
    }
}

#[tonic::async_trait]
impl TableSource for NodeSource {
    async fn plan(&self, tables: &[TableAt]) -> Result<Vec<PlannedTable>> {
        let request = PlanTablesRequest { tables: self.versions(tables), filters: Vec::new() };
        let (coordinators, caller) = (self.caller.context.get.coordinators.clone(), self.caller.asserted.clone());
        let reply = self.on_node(async move { coordinators.plan_tables(request, &caller).await }).await?;
        if reply.tables.len() != tables.len() {
            let (planned, wanted) = (reply.tables.len(), tables.len());
            return Err(Error::internal(format!("a coordinator planned {planned} of {wanted} tables")));
        }
        tables.iter().zip(&reply.tables).map(|(table, planned)| self.read_plan(table, planned)).collect()
    }

    async fn prune(&self, table: &Arc<PlannedTable>, filter: &Predicate) -> Arc<PlannedTable> {
        if table.parts.len() < MIN_PARTS_TO_PRUNE {
            return table.clone();
        }
        let Some(filter) = part_filter(filter, &table.ticket) else { return table.clone() };
        match self.plan_filtered(table, filter, self.pruning.of_call()).await {
            Ok(planned) => Arc::new(planned),
            Err(error) => {
                tracing::debug!(table = %table.name, %error, "no part is left out of a scan");
                table.clone()
            }
        }
    }

    async fn list(&self) -> Result<Vec<ListedTable>> {
        let (coordinators, caller) = (self.caller.context.get.coordinators.clone(), self.caller.asserted.clone());
        let reply = self.on_node(async move { coordinators.list_tables(&caller).await }).await?;
        reply.tables.into_iter().map(listed).collect()
    }

    fn scan(&self, scan: PartScan) -> BoxStream<'static, Result<RecordBatch>> {
        let PartScan { table, parts, columns, filter, limit, counts } = scan;
        let scanner = PartScanner::new(self.caller.context.get.clone(), self.caller.asserted.clone()).counting(counts);
        let (ticket, schema) = (table.ticket.clone(), table.schema.clone());
        let rows = scanner.scan(ticket, schema, parts, columns, filter, limit.map(|rows| rows as u64));
        read_on(self.io.clone(), self.call.clone(), rows)
    }
}

/// How the rows of so many parts are distributed by these keys, if a coordinator says it, and this node knows the function.
fn sharding(keys: Vec<String>, planned: &cluster::PlannedTable, parts: usize) -> Option<TableSharding> {
    let part_shards = planned.part_shards.clone();
    let is_known = planned.partition_algorithm == partition::ALGORITHM
        && !keys.is_empty()
        && part_shards.len() == parts
        && part_shards.iter().all(|shard| *shard < planned.shards);
    is_known.then_some(TableSharding { keys, shards: planned.shards, part_shards })
}

/// The table that was planned before, if it was, else the one that has the name now.
fn planned_or_newest(planned: &PinnedTables, table: &TableAt) -> TableVersion {
    let newest =
        || TableVersion { table: table.name.components().to_vec(), version: table.version, ..TableVersion::default() };
    planned.get(table).cloned().unwrap_or_else(newest)
}

fn listed(table: cluster::TableSummary) -> Result<ListedTable> {
    let cluster::TableSummary { table, schema, rows, bytes, version } = table;
    let name = TableName::from_components(&table)?;
    Ok(ListedTable { name, schema: parse_schema(&schema)?, rows, bytes, version })
}

/// The same items, read by a task of `io` for a call. The task starts with the first poll, and ends when the stream is dropped.
pub(super) fn read_on<T: Send + 'static>(
    io: Handle,
    call: KeptContext,
    rows: BoxStream<'static, Result<T>>,
) -> BoxStream<'static, Result<T>> {
    let start = async move {
        let (send, receive) = mpsc::channel(READ_AHEAD);
        let task = AbortOnDropHandle::new(io.spawn(call.carry(async move {
            let mut rows = rows;
            while let Some(item) = rows.next().await {
                if send.send(item).await.is_err() {
                    return;
                }
            }
        })));
        stream::unfold((receive, Some(task)), |(mut receive, mut task)| async move {
            if let Some(item) = receive.recv().await {
                return Some((item, (receive, task)));
            }
            // Rows that are missing because the task panicked must not look like the end.
            match task.take()?.await {
                Ok(()) => None,
                Err(e) => Some((Err(Error::internal(format!("reading a table failed: {e}"))), (receive, None))),
            }
        })
    };
    stream::once(start).flatten().boxed()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
