//! Reads: plans, schemas, listing; each as far as the reader's rights go.
//!
//! A filter is not evaluated here, and decides which rows are sent: a plan with one has no numbers of rows, is not cut at a limit,
//! and is one endpoint if there is a limit. The tickets carry both. What a node has made of the filter excludes parts by their
//! statistics (`part_pruning`).

mod listing;
mod part_pruning;
pub mod queries;
mod query_results;
mod similar_tables;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use volley_common::identity::Access;
use volley_common::listen::host_port;
use volley_common::net::ConnectionPool;
use volley_common::net::member_health::HealthRank;
use volley_common::options::{Options, TableRequest};
use volley_common::telemetry::trace::note;
use volley_common::ticket::{TicketKey, TicketSigner};
use volley_common::wire::catalog::{Compression, DescriptorKind, Node, Table, TableLayout, TableSpec};
use volley_common::wire::cluster::{Columns, PartFilter, Ticket};
use volley_common::{PartId, Result, TableName, clock};

use self::part_pruning::PartPruning;
use self::similar_tables::require_table;
use super::columns::{SelectedColumns, select_columns};
use super::live_nodes::wait_for_live_nodes;
use super::plan_cache::PlanCache;
use super::tickets::{ticket_key, ticket_ms};
use crate::catalog::Catalog;
use crate::client_listener::{ClientListener, ListenerTable, Locations};
use crate::config::CoordinatorConfig;
use crate::node_probes::nodes_of_rank_among;
use crate::planner::catalog_limits::CatalogLimits;
use crate::planner::endpoints::{VersionPlan, plan_filtered};
use crate::raft::{CatalogView, Handle};

/// A read of one version of a table, split into endpoints: everything that a FlightInfo contains.
pub struct ReadPlan {
    /// The table's name.
    pub name: Vec<String>,
    /// The version that the endpoints together contain.
    pub version: u64,
    /// The schema message that every stream begins with, of the requested columns.
    pub schema: Bytes,
    /// The streams, which can be fetched in parallel.
    pub version_plan: Arc<VersionPlan>,
    /// By URI index of the plan: whether the node may hang, so that it is listed last. Empty: none does.
    pub doubted: Vec<bool>,
    /// Signs their tickets.
    pub signer: TicketSigner,
    /// The client's listener.
    pub listener: ClientListener,
    /// Selects which of equally good locations comes first.
    pub rotation: usize,
    /// Rows of all endpoints; `None` if there is a filter.
    pub rows: Option<u64>,
    /// Bytes of the parts of all endpoints; `None` if the client requested only some columns or rows, or uncompressed ones of
    /// a compressed table, or may read only some columns.
    pub bytes: Option<u64>,
    /// Whether the endpoints, concatenated, contain the rows in order.
    pub ordered: bool,
    /// When the tickets expire, milliseconds since 1970.
    pub expires_ms: u64,
    /// Whether clients on a node's machine may get the files of parts: there is no filter, and the reader may see all columns.
    pub offers_local_reads: bool,
}

/// A table as ListFlights reports it.
pub struct TableListing {
    /// The table's row, with the schema that the reader sees.
    pub table: Table,
    /// The table's name.
    pub name: TableName,
    /// How the client named the table that it created: by path or by command.
    pub kind: DescriptorKind,
    /// Its size; `None`: the reader may read only some columns, and must not learn something of the others.
    pub bytes: Option<u64>,
}

/// What a request reads: a version, before its columns are selected.
struct ResolvedRead {
    table: Vec<String>,
    table_id: u64,
    version: u64,
    /// The schema and the options that the version has.
    layout: TableLayout,
    expires_ms: u64,
    key: TicketKey,
    version_plan: Arc<VersionPlan>,
}

/// Reads. Whether a principal may read a table is checked before; here, which of its columns exist for it.
pub struct ReadService {
    raft: Handle,
    listeners: Arc<ListenerTable>,
    /// Knows the health of the nodes.
    pool: ConnectionPool,
    plan_cache: PlanCache,
    /// Counts requests, to spread load over equally good nodes.
    rotation: AtomicUsize,
    /// The retention of tables without one.
    retention_ms: u64,
    /// Maximum number of endpoints of a FlightInfo.
    max_endpoints: u32,
    limits: CatalogLimits,
}

impl ReadService {
    /// Works on this catalog.
    pub fn new(raft: Handle, listeners: Arc<ListenerTable>, pool: ConnectionPool, config: &CoordinatorConfig) -> Self {
        ReadService {
            raft,
            listeners,
            pool,
            plan_cache: PlanCache::default(),
            rotation: AtomicUsize::new(0),
            retention_ms: config.retention_ms,
            max_endpoints: config.max_endpoints,
            limits: config.limits,
        }
    }

    /// Plans the endpoints of a FlightInfo. `part_filter`: what a node has made of the filter of the options; only with one it
    /// counts.
    ///
    /// # Errors
    /// NOT_FOUND: no such table or version. INVALID_ARGUMENT: an unknown column. UNAVAILABLE: a shard without a live holder,
    /// or no leader.
    pub async fn plan_flight_info(
        &self,
        access: &Access,
        request: &TableRequest,
        part_filter: Option<&PartFilter>,
        listener: &ClientListener,
    ) -> Result<ReadPlan> {
        let options = &request.options;
        let part_filter = part_filter.filter(|_| options.filter.is_some());
        let pruning = PartPruning::new(part_filter, access.permitted_columns(request.name.components()));
        let most = |spec: Option<&TableSpec>| match listener.locations {
            Locations::Single => 1,
            Locations::Direct | Locations::Proxy => {
                let of_table = spec.map(|spec| spec.max_endpoints).filter(|most| *most > 0);
                let most = options.max_endpoints.or(of_table).unwrap_or(u32::MAX).min(self.max_endpoints);
                most.min(filter_copies(options.filter.as_deref())).max(1)
            }
        };
        let plan = |catalog: CatalogView| {
            let table = require_table(&catalog, access, &request.name)?;
            self.resolve_read(&catalog, table, options, pruning.as_ref(), most, &listener.name)
        };
        wait_for_live_nodes(&self.raft).await;
        let target = self.raft.read_with(plan).await??;
        let columns = target.select_columns(access, options).await?;
        let nodes = &target.version_plan.nodes;
        let doubted = nodes_of_rank_among(&self.raft.view(), &self.pool, HealthRank::Deprioritized, nodes);
        let is_filtered = options.filter.is_some();
        let offers_local_reads = !is_filtered && access.permitted_columns(&target.table).is_none();
        let whole_table = offers_local_reads
            && options.limit.is_none()
            && columns.indexes.is_none()
            && !target.is_decompressed(options);
        let in_ticket = target.columns_in_ticket(access, &columns, options).await?;
        Ok(ReadPlan {
            version: target.version,
            doubted: target.version_plan.uris_of(&doubted),
            signer: self.signer(access, &target, in_ticket, options),
            listener: listener.clone(),
            rotation: self.next_rotation(),
            rows: (!is_filtered).then_some(target.version_plan.rows),
            bytes: whole_table.then_some(target.version_plan.bytes),
            ordered: target.layout.spec.is_none_or(|spec| spec.shard_by.is_empty()),
            expires_ms: target.expires_ms,
            offers_local_reads,
            schema: columns.schema,
            version_plan: target.version_plan,
            name: target.table,
        })
    }

    /// Plans a read of a table as one stream; returns its signed ticket.
    ///
    /// # Errors
    /// As [`ReadService::plan_flight_info`].
    pub async fn plan_ticket(&self, access: &Access, name: &TableName, options: &Options) -> Result<Vec<u8>> {
        // The ticket does not depend on the listener; the default listener's plan is the likeliest to be cached.
        let listener = self.listeners.default_name();
        let plan = |catalog: CatalogView| {
            self.resolve_read(&catalog, require_table(&catalog, access, name)?, options, None, |_| 1, &listener)
        };
        wait_for_live_nodes(&self.raft).await;
        let target = self.raft.read_with(plan).await??;
        let columns = target.select_columns(access, options).await?;
        let suffix = target.version_plan.endpoints.first().map_or(&[][..], |endpoint| &endpoint.ticket_suffix);
        let in_ticket = target.columns_in_ticket(access, &columns, options).await?;
        Ok(self.signer(access, &target, in_ticket, options).ticket(suffix))
    }

    /// The schema message of a table, of the requested version and columns.
    ///
    /// # Errors
    /// NOT_FOUND: no such table or version. INVALID_ARGUMENT: an unknown column.
    pub async fn schema(&self, access: &Access, request: &TableRequest) -> Result<Bytes> {
        let schema = {
            let catalog = self.raft.read().await?;
            let table = require_table(&catalog, access, &request.name)?;
            let version =
                catalog.readable_version(table, request.options.version, clock::now_ms().max(catalog.clock_ms()))?;
            catalog.layout_at(table, version).schema
        };
        let name = request.name.components();
        Ok(select_columns(name, &schema, &request.options, access.permitted_columns(name)).await?.schema)
    }

    fn resolve_read(
        &self,
        catalog: &Catalog,
        table: &Table,
        options: &Options,
        pruning: Option<&PartPruning>,
        max_endpoints: impl Fn(Option<&TableSpec>) -> u32,
        listener: &Arc<str>,
    ) -> Result<ResolvedRead> {
        // Expiry runs by the catalog's time, even if this coordinator's clock is behind.
        let now_ms = clock::now_ms().max(catalog.clock_ms());
        let version = catalog.readable_version(table, options.version, now_ms)?;
        let layout = catalog.layout_at(table, version);
        catalog.require_live_nodes()?;
        let (most, limit) = match (&options.filter, options.limit) {
            // One node counts the rows for which the filter is true.
            (Some(_), Some(_)) => (1, None),
            (_, limit) => (max_endpoints(layout.spec.as_ref()) as usize, limit),
        };
        let version_plan = match pruning.and_then(|pruning| pruning.filter_of(&layout.schema)) {
            Some(filter) => {
                let alive = catalog.live_node_ids();
                let plan = plan_filtered(catalog, table, version, most, filter, alive, listener)?;
                metrics::counter!("volley_plan_parts_pruned_total").increment(plan.pruned);
                Arc::new(plan)
            }
            None => self.plan_cache.plan(catalog, table, version, most, limit, listener)?,
        };
        Ok(ResolvedRead {
            table: table.name.clone(),
            table_id: table.id,
            version,
            expires_ms: expires_ms(table, version, now_ms, self.retention_ms)
                .min(now_ms.saturating_add(self.limits.ticket_ms(u64::MAX))),
            key: ticket_key(catalog)?,
            version_plan,
            layout,
        })
    }

    /// The next number of the sequence that spreads load over equally good nodes.
    fn next_rotation(&self) -> usize {
        self.rotation.fetch_add(1, Ordering::Relaxed)
    }

    /// Flight addresses (HOST:PORT) of the live nodes that can serve a ticket: holders of its first part first, then the
    /// others, which fetch the parts from holders.
    ///
    /// # Errors
    /// UNAVAILABLE: no node is alive.
    pub async fn serving_nodes(&self, ticket: &Ticket) -> Result<Vec<String>> {
        wait_for_live_nodes(&self.raft).await;
        let catalog = self.raft.view();
        let offset = self.next_rotation() % catalog.require_live_nodes()?;
        let mut live: Vec<&Node> = catalog.live_nodes().collect();
        live.rotate_left(offset);
        let holders: Vec<u64> = match ticket.parts.first() {
            Some(first) => {
                let id = first.id.as_ref().map_or(PartId(0), PartId::from);
                catalog.part(id).map_or_else(|| first.holders.clone(), |part| part.holders.to_vec())
            }
            None => Vec::new(),
        };
        let serving = rank_serving(&live, &holders).into_iter();
        Ok(serving.map(|node| host_port(&node.flight_uri).to_string()).collect())
    }

    /// Flight addresses (HOST:PORT) of the live nodes for a stream without a ticket, a different one first each time.
    ///
    /// # Errors
    /// UNAVAILABLE: no node is alive.
    pub async fn put_nodes(&self) -> Result<Vec<String>> {
        self.serving_nodes(&Ticket::default()).await
    }

    /// The signer of the tickets of one read, which belong to the reader. `schema` and `columns`: what they say of the columns.
    fn signer(
        &self,
        access: &Access,
        target: &ResolvedRead,
        (schema, columns): (Bytes, Option<Columns>),
        options: &Options,
    ) -> TicketSigner {
        let filter = options.filter.clone();
        let mut ticket = Ticket {
            flight: rand::random(),
            expires_ms: target.expires_ms,
            table: target.table.clone(),
            table_id: target.table_id,
            version: target.version,
            columns,
            schema,
            decompress: options.decompress == Some(true),
            // Without a filter the last endpoint has a limit of its own.
            limit: options.limit.filter(|_| filter.is_some()),
            filter: filter.unwrap_or_default(),
            ..Ticket::default()
        };
        let is_shareable = target.layout.spec.as_ref().is_some_and(|spec| spec.shareable_tickets);
        access.bind_ticket(&mut ticket, is_shareable);
        note("volley.flight", || format!("{:016x}", ticket.flight));
        note("volley.version", || target.version as i64);
        target.key.signer(&ticket)
    }
}

impl ResolvedRead {
    /// Whether the bodies that the client receives are not those that are stored.
    fn is_decompressed(&self, options: &Options) -> bool {
        let compression = self.layout.spec.as_ref().map_or(Compression::None, TableSpec::compression);
        options.decompress == Some(true) && compression != Compression::None
    }

    /// The columns that a principal requests, of those that exist for it.
    async fn select_columns(&self, access: &Access, options: &Options) -> Result<SelectedColumns> {
        let permitted = access.permitted_columns(&self.table);
        select_columns(&self.table, &self.layout.schema, options, permitted).await
    }

    /// What the tickets say of the columns.
    async fn columns_in_ticket(
        &self,
        access: &Access,
        selected: &SelectedColumns,
        options: &Options,
    ) -> Result<(Bytes, Option<Columns>)> {
        let has_parts = self.version_plan.has_parts();
        if has_parts || options.filter.is_none() {
            return Ok(selected.in_ticket(has_parts));
        }
        // No part has the schema, in which a node finds the columns of the filter.
        Ok(selected.within(&self.select_columns(access, &Options::default()).await?))
    }
}

/// The nodes to which a stream is offered, of those that are alive: holders first, degraded nodes last; so are nodes that are not
/// writable if there are no holders, as for a put. In a large cluster only some are listed.
fn rank_serving<'a>(live: &[&'a Node], holders: &[u64]) -> Vec<&'a Node> {
    /// Nobody tries more of them.
    const MOST: usize = 100;
    let mut ranked: BTreeMap<_, Vec<&Node>> = BTreeMap::new();
    for node in live.iter().copied() {
        let rank = (!holders.contains(&node.id), !node.is_writable() && holders.is_empty(), node.is_degraded());
        ranked.entry(rank).or_default().push(node);
    }
    ranked.into_values().flatten().take(MOST).collect()
}

/// How many tickets of a plan may have this filter: each has a copy of it.
fn filter_copies(filter: Option<&str>) -> u32 {
    /// The most bytes of all copies, unless one alone has more.
    const MAX_COPIED: usize = 8 << 20;
    filter.map_or(u32::MAX, |filter| u32::try_from(MAX_COPIED / filter.len().max(1)).unwrap_or(u32::MAX))
}

/// When a ticket for this version expires: after the retention, but for a replaced version not after its parts are purged.
fn expires_ms(table: &Table, version: u64, now_ms: u64, default_ms: u64) -> u64 {
    let newest = now_ms.saturating_add(ticket_ms(table.spec.as_ref(), default_ms));
    let Some(end) = table.replaced.iter().find(|replaced| replaced.version > version) else { return newest };
    let pins = table.pins.iter().filter(|pin| pin.version == version);
    pins.map(|pin| pin.until_ms).fold(end.until_ms, u64::max).min(newest)
}

#[cfg(test)]
mod tests;
