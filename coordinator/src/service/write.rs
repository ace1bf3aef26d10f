//! Writes: begin, stage, renew, commit, abort; `transactions` has those that belong to a transaction.

mod known_write;
#[cfg(test)]
mod tests;
mod transactions;

use bytes::Bytes;
use volley_common::identity::Access;
use volley_common::ipc::schema::{check_appendable, parse_schema};
use volley_common::options::{check_retention, check_ttl, check_write_id};
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::reply::Reply;
use volley_common::wire::catalog::{
    AbortWrite, BeginWrite, CommitWrite, Compression, DescriptorKind, Node, Part, RenewWrite, Role, StageParts, Table,
    WriteMode, WriteOutcome, WriteState,
};
use volley_common::wire::cluster::{BeginWriteRequest, CommitWriteRequest, StagePartsRequest, WritePlan};
use volley_common::{Code, Error, Result, TableName};

use self::known_write::{check_repeated, check_table, is_resumable, resume};
use crate::catalog::replies::unexpected_reply;
use crate::catalog::{Catalog, refuses_puts};
use crate::config::CoordinatorConfig;
use crate::planner::catalog_limits::CatalogLimits;
use crate::planner::table_options::{NodeCounts, TableOptions, check_keys, check_stats_columns, placement};
use crate::planner::write_targets::{retarget, spreads_over_shards, write_targets};
use crate::raft::Handle;
use crate::service::live_nodes::wait_for_live_nodes;

/// How often a write is planned: again, if the catalog has changed meanwhile.
const MAX_PLANS: u32 = 4;

/// Writes.
#[derive(Clone)]
pub struct WriteService {
    raft: Handle,
    /// How long a write without activity is kept open.
    lease_ms: u64,
    /// The default retention of a new table.
    retention_ms: u64,
    limits: CatalogLimits,
}

impl WriteService {
    /// Works on this catalog.
    pub fn new(raft: Handle, config: &CoordinatorConfig) -> Self {
        WriteService { raft, lease_ms: config.lease_ms, retention_ms: config.retention_ms, limits: config.limits }
    }

    /// Begins a write: plans where its parts go and records it in the catalog. A known write id resumes the write as it was
    /// begun, or returns its outcome if it is committed. That of a staged write which was aborted begins no put. Whether the
    /// principal may write to the table is checked before.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the name, options, schema or keys. UNAVAILABLE: too few live nodes, or no leader.
    /// RESOURCE_EXHAUSTED: too few nodes accept writes. From the catalog: ALREADY_EXISTS, NOT_FOUND, ABORTED.
    pub async fn begin_write(&self, access: &Access, mut request: BeginWriteRequest) -> Result<WritePlan> {
        let name = TableName::from_components(&request.table)?;
        // What is recorded is the name by which the rights were checked: no component contains a slash.
        request.table = name.components().to_vec();
        if request.write_id.is_empty() {
            request.write_id = format!("{:032x}", rand::random::<u128>());
        }
        check_write_id(&request.write_id)?;
        wait_for_live_nodes(&self.raft).await;
        self.begin_planned(access, &name, &request).await
    }

    /// Begins a write by a plan that is made of the present catalog, and again if the catalog has changed meanwhile.
    async fn begin_planned(&self, access: &Access, name: &TableName, request: &BeginWriteRequest) -> Result<WritePlan> {
        let mut plans = 1;
        loop {
            let (command, nodes) = match request.transaction.is_empty() {
                true => self.plan_begin(access, name, request).await?,
                false => self.plan_begin_in_transaction(access, name, request).await?,
            };
            match self.propose_begin(command, nodes).await {
                Err(error) if plans < MAX_PLANS && is_overtaken(request, &error) => plans += 1,
                begun => return begun,
            }
        }
    }

    /// The command that begins a write by the present catalog, and the nodes that take its parts.
    async fn plan_begin(
        &self,
        access: &Access,
        name: &TableName,
        request: &BeginWriteRequest,
    ) -> Result<(BeginWrite, Vec<Node>)> {
        let catalog = self.raft.read().await?;
        let is_put = request.writer != 0;
        let known = catalog.write(&request.write_id);
        let known = known.filter(|known| known.state() != WriteState::Aborted || is_put && refuses_puts(known));
        known.iter().try_for_each(|known| check_table(access, known, request))?;
        if is_put {
            catalog.check_put_id(&request.write_id)?;
        }
        let (command, open) = match known {
            Some(known) if is_resumable(&known, request.attempt) => {
                check_repeated(&catalog, name, &known, request)?;
                let open = known.state == WriteState::Open as i32;
                (resume(&known, request, self.lease_ms)?, open)
            }
            _ => (self.plan_write(&catalog, name, request)?, true),
        };
        // A committed write only returns its outcome: it needs no targets.
        let nodes = match &command.spec {
            Some(spec) if open => write_targets(&catalog, spec)?,
            _ => Vec::new(),
        };
        Ok((command, nodes))
    }

    async fn propose_begin(&self, command: BeginWrite, nodes: Vec<Node>) -> Result<WritePlan> {
        match self.raft.propose(Op::BeginWrite(command)).await? {
            Reply::Write(write) => {
                let (spreads, write) = (spreads_over_shards(&self.raft.view(), &write), retarget(write, &nodes));
                Ok(WritePlan { write: Some(write), nodes, lease_ms: self.lease_ms, spreads })
            }
            other => Err(unexpected_reply("begin_write", &other)),
        }
    }

    fn plan_write(&self, catalog: &Catalog, name: &TableName, request: &BeginWriteRequest) -> Result<BeginWrite> {
        self.limits.check_new_write(catalog, &request.write_id)?;
        let nodes = NodeCounts::of(catalog)?;
        let table = catalog.table_named(name);
        let old = table.and_then(|table| table.spec.as_ref());
        let options = table_options(request)?;
        let mode = mode_of(request, table);
        let begin = BeginWrite { mode: mode as i32, ..begin_command(request, self.lease_ms) };
        match (mode, table) {
            (WriteMode::Append, None) => Err(Error::not_found(format!(
                "there is no table {name:?} to append to: put it with mode \"create\" or \"replace\""
            ))),
            (WriteMode::Create, Some(_)) => Err(Error::exists(format!(
                "table {name:?} exists already: put with mode \"replace\" or \"append\", or drop it first"
            ))),
            (WriteMode::Append, Some(table)) => {
                let options = options.temporary(name, request.temporary_ttl_ms, old)?;
                plan_append(catalog, name, table, &options, begin)
            }
            (_, table) => {
                let options = options.temporary(name, request.temporary_ttl_ms, old)?;
                let spec =
                    options.spec(old, nodes, self.retention_ms).map_err(|e| e.at(format_args!("table {name:?}")))?;
                check_keys(name, &request.schema, &spec)?;
                check_stats_columns(name, &request.schema, &spec)?;
                self.limits.check_table(catalog, name, &spec, &request.schema, table)?;
                let placement = placement(catalog, name, &spec, table, &write_targets(catalog, &spec)?);
                Ok(BeginWrite { spec: Some(spec), placement, table_id: table.map_or(0, |t| t.id), ..begin })
            }
        }
    }

    /// Checks that a principal may commit or abort a write: that it may write to its table. If the principal may not even read
    /// the table, the write does not exist for it.
    ///
    /// # Errors
    /// NOT_FOUND: no such write. PERMISSION_DENIED: the principal may only read the table. UNAVAILABLE: no leader.
    pub async fn require_writer(&self, access: &Access, write: &str) -> Result<Vec<String>> {
        // The local catalog may lag. A write never changes its table.
        let table_in = |catalog: &Catalog| catalog.write(write).map(|known| known.table.clone());
        let local = table_in(&self.raft.view());
        let table = match local {
            Some(table) => table,
            None => table_in(&*self.raft.read().await?).ok_or_else(|| no_write(write))?,
        };
        match access.require(Role::Writer, &table) {
            Err(_) if access.require_identity().is_ok() && !access.can_read(&table) => Err(no_write(write)),
            checked => checked.map(|()| table),
        }
    }

    /// Adds the parts of one stream to a write that `begin_write` began.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the stream's schema does not match the write's. Errors of the catalog.
    pub async fn stage_parts(&self, request: StagePartsRequest) -> Result<()> {
        {
            let catalog = self.raft.read().await?;
            let write = catalog.write(&request.write).ok_or_else(|| no_write(&request.write))?;
            let name = TableName::from_components(&write.table)?;
            self.limits.check_staged(&catalog, &write, request.parts.len())?;
            check_schema(&name, &write.schema, &request.schema)?;
            if let Some(spec) = &write.spec {
                check_keys(&name, &request.schema, spec)?;
                // The first stream brings the schema.
                if write.schema.is_empty() {
                    check_stats_columns(&name, &request.schema, spec)?;
                    self.limits.check_table(&catalog, &name, spec, &request.schema, catalog.table_named(&name))?;
                }
            }
        }
        let StagePartsRequest { write, stream, mut parts, schema, attempt, only_first, begun } = request;
        limit_statistics(&mut parts);
        in_order(&mut parts);
        let lease_ms = self.lease_ms;
        let command = StageParts { write, stream, parts, lease_ms, schema, attempt, only_first, begun };
        self.raft.propose(Op::StageParts(command)).await?;
        Ok(())
    }

    /// Extends a write's lease.
    pub async fn renew_write(&self, write: String) -> Result<()> {
        let lease_ms = self.lease_ms;
        self.raft.propose(Op::RenewWrite(RenewWrite { write, lease_ms })).await?;
        Ok(())
    }

    /// Publishes a write as the table's next version. A repeated commit returns the same outcome.
    pub async fn commit_write(&self, request: CommitWriteRequest) -> Result<WriteOutcome> {
        let CommitWriteRequest { write, mut parts, attempt } = request;
        self.limits.check_parts(&write, parts.len() as u64)?;
        limit_statistics(&mut parts);
        let command = CommitWrite { write: write.clone(), parts, attempt };
        match self.raft.propose(Op::CommitWrite(command)).await? {
            Reply::Outcome(outcome) => {
                tracing::info!(write, version = outcome.version, rows = outcome.rows, "a write was committed");
                Ok(outcome)
            }
            other => Err(unexpected_reply("commit_write", &other)),
        }
    }

    /// Aborts a write. `attempt` 0 means any attempt.
    pub async fn abort_write(&self, write: String, reason: String, attempt: u64) -> Result<()> {
        self.raft.propose(Op::AbortWrite(AbortWrite { write, reason, attempt })).await?;
        Ok(())
    }
}

/// Whether a plan was refused because something came first that another plan fits: for a put of a transaction another one, or a
/// change of the table; for one that creates its table or appends to it also that the table was created or dropped.
fn is_overtaken(request: &BeginWriteRequest, error: &Error) -> bool {
    match error.code {
        Code::Aborted => request.create_append || !request.transaction.is_empty(),
        Code::AlreadyExists | Code::NotFound => request.create_append,
        _ => false,
    }
}

/// Removes statistics that take too much memory of the coordinators: nodes send less.
fn limit_statistics(parts: &mut [Part]) {
    /// More than [`MAX_PART_BOUNDS_BYTES`](volley_common::ipc::statistics::MAX_PART_BOUNDS_BYTES): nodes may be of a later version.
    const MAX_BYTES: usize = 1024;
    parts.iter_mut().filter(|part| part.statistics.len() > MAX_BYTES).for_each(|part| part.statistics = Bytes::new());
}

/// Sorts the parts of a stream as the node wrote them. It tells them in the order in which they became durable, and the catalog keeps
/// the order that it is told.
fn in_order(parts: &mut [Part]) {
    parts.sort_by_key(|part| part.seq);
}

/// What the write does: one that creates the table or appends to it depends on `table`.
fn mode_of(request: &BeginWriteRequest, table: Option<&Table>) -> WriteMode {
    match WriteMode::try_from(request.mode).unwrap_or_default() {
        WriteMode::Create if request.create_append && table.is_some() => WriteMode::Append,
        mode => mode,
    }
}

fn table_options(request: &BeginWriteRequest) -> Result<TableOptions> {
    let compression = match request.compression {
        Some(code) => Some(Compression::try_from(code).map_err(|_| {
            Error::invalid(format!("compression {code} is not known: this coordinator is older than the node"))
        })?),
        None => None,
    };
    // Nodes of earlier versions do not check it.
    request.retention_ms.map_or(Ok(()), |ms| check_retention(ms / 1000))?;
    request.ttl_ms.map_or(Ok(()), |ms| check_ttl(ms / 1000))?;
    Ok(TableOptions {
        shards: request.shards,
        shard_by: request.shard_by.clone(),
        replicas: request.replicas,
        compression,
        retention_ms: request.retention_ms,
        ttl_ms: request.ttl_ms,
        stats_columns: request.stats_columns.as_ref().map(|columns| columns.names.clone()),
        max_endpoints: request.max_endpoints,
        preserve_batches: request.preserve_batches,
        shareable_tickets: request.shareable_tickets,
    })
}

/// The fields of the command that come from the request; the plan is still missing.
fn begin_command(request: &BeginWriteRequest, lease_ms: u64) -> BeginWrite {
    BeginWrite {
        id: request.write_id.clone(),
        table: request.table.clone(),
        kind: match DescriptorKind::try_from(request.kind) {
            Ok(DescriptorKind::Unspecified) | Err(_) => DescriptorKind::Path as i32,
            Ok(kind) => kind as i32,
        },
        mode: request.mode,
        schema: request.schema.clone(),
        staged: request.staged,
        writer: request.writer,
        writer_boot: request.writer_boot,
        attempt: request.attempt,
        lease_ms,
        transaction: request.transaction.clone(),
        fenced: request.staged && request.transaction.is_empty(),
        query_result: request.query_result,
        ..BeginWrite::default()
    }
}

fn plan_append(
    catalog: &Catalog,
    name: &TableName,
    table: &Table,
    options: &TableOptions,
    begin: BeginWrite,
) -> Result<BeginWrite> {
    let spec = table.spec.clone().unwrap_or_default();
    options.check_append(name, &spec)?;
    check_schema(name, &table.schema, &begin.schema)?;
    let placement = match table.placement.is_empty() {
        true => placement(catalog, name, &spec, None, &write_targets(catalog, &spec)?),
        false => table.placement.clone(),
    };
    Ok(BeginWrite {
        spec: Some(spec),
        placement,
        table_id: table.id,
        // The rows are stored with the table's own schema message and its metadata.
        schema: table.schema.clone(),
        ..begin
    })
}

/// Checks that a stream's schema can be appended to the expected one. An empty schema is not known yet and passes.
fn check_schema(name: &TableName, expected: &Bytes, stream: &Bytes) -> Result<()> {
    if expected.is_empty() || stream.is_empty() || expected == stream {
        return Ok(());
    }
    let expected = parse_schema(expected)?;
    let stream = parse_schema(stream).map_err(|e| e.at("the schema"))?;
    check_appendable(&expected, &stream).map_err(|e| e.at(format_args!("table {name:?}")))
}

fn no_write(id: &str) -> Error {
    Error::not_found(format!("there is no write {id:?}: it was never begun, or it ended long ago"))
}
