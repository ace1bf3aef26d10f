//! Step 2 of a put: the coordinators open the write and choose the placement of its parts.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use volley_common::ipc::schema::{parse_schema, schema_message};
use volley_common::options::{Mode, TableRequest};
use volley_common::partition::MIN_SHARD_BYTES;
use volley_common::wire::catalog::{Compression, TableSpec, Write, WriteMode, WriteState};
use volley_common::wire::cluster::{BeginWriteRequest, ColumnNames, WritePlan};
use volley_common::{Error, Result, TableName};

use super::PutTarget;
use super::handshake::PutHandshake;
use super::part_sink::PartSinkConfig;
use crate::assertion::AssertedCaller;
use crate::context::PutContext;

/// What the coordinators answered.
pub enum PutPlan {
    /// The write is open.
    Write(PlannedWrite),
    /// A write of this id was committed before: its outcome as JSON, with `"repeated": true`. The client's rows are to be read and dropped.
    Committed(Bytes),
}

/// A planned write of this node: a client's put, or a compaction.
pub struct PlannedWrite {
    pub(super) context: Arc<PutContext>,
    pub(super) plan: Arc<WritePlan>,
    pub(super) table: TableName,
    pub(super) write_id: String,
    pub(super) attempt: u64,
    /// Only for a staged write: this stream's id.
    pub(super) stream: Option<u64>,
    /// In a transaction: the put creates or replaces the table, so that no rows may be there before.
    pub(super) only_first: bool,
    /// The table's schema, which is stored. That of the put may differ in metadata, and have narrower types.
    pub(super) schema: SchemaRef,
    /// Somebody chose the number of shards, with this put or before: a small table is distributed over all of them, too.
    spreads: bool,
    /// How the client names the put.
    pub(super) request_id: Option<String>,
    /// Only for a put that creates its table, and would append if there were one.
    pub(super) again: Option<Box<BeginAgain>>,
}

/// Begins the write of a put anew when another put has created the table meanwhile: then it is planned as an append.
pub(super) struct BeginAgain {
    request: BeginWriteRequest,
    caller: AssertedCaller,
}

/// The first block of each shard, bytes, if somebody chose the number of shards. Less than a message: then a table of a
/// message for each shard uses them all.
const FIRST_BLOCK_BYTES: u64 = MIN_SHARD_BYTES / 2;

/// Begins the write that the handshake requests, for `caller`, into `target`.
///
/// # Errors
/// INVALID_ARGUMENT: a schema that IPC cannot encode. Those of the coordinators, such as PERMISSION_DENIED.
pub async fn begin(
    context: Arc<PutContext>,
    handshake: &PutHandshake,
    caller: &AssertedCaller,
    target: PutTarget,
) -> Result<PutPlan> {
    let query_result = target == PutTarget::QueryResult;
    let temporary_ttl_ms = match target {
        PutTarget::TemporaryTable => context.config.temporary_table_ttl_s.saturating_mul(1000),
        PutTarget::Table | PutTarget::QueryResult => 0,
    };
    let request = BeginWriteRequest { query_result, temporary_ttl_ms, ..begin_request(&context, handshake)? };
    let (mut attempt, transaction) = (request.attempt, request.transaction.clone());
    let expires = temporary_ttl_ms != 0 || request.ttl_ms.is_some_and(|ms| ms != 0);
    let has_stats_columns = request.stats_columns.as_ref().is_some_and(|columns| !columns.names.is_empty());
    let again = (request.create_append && transaction.is_empty())
        .then(|| Box::new(BeginAgain { request: request.clone(), caller: caller.clone() }));
    let plan = context.coordinators.begin_write(request, caller).await?;
    let write = plan.write.as_ref().ok_or_else(|| Error::internal("the coordinator planned no write"))?;
    check_transaction(write, &transaction)?;
    check_query_result(write, query_result)?;
    check_options(write, expires, has_stats_columns)?;
    if !transaction.is_empty() {
        // A put that joined a write of its transaction writes by the plan of that one.
        attempt = write.attempt;
    }
    if write.state() == WriteState::Committed {
        let outcome = write.outcome.as_ref().ok_or_else(|| Error::internal("a committed write has no outcome"))?;
        let mut json = outcome.to_json();
        json["repeated"] = true.into();
        return Ok(PutPlan::Committed(Bytes::from(json.to_string())));
    }
    let schema = match write.schema.as_ref() {
        [] => handshake.schema.clone(),
        message => parse_schema(message)?,
    };
    // One Arc for both if they are equal: then comparing them for every batch costs nothing.
    let schema = if schema == handshake.schema { handshake.schema.clone() } else { schema };
    let stream = write.staged.then(rand::random::<u64>);
    let again = again.filter(|_| !write.staged && write.mode() == WriteMode::Create);
    let name = handshake.request.name.clone();
    let options = &handshake.request.options;
    let spreads = options.shards.is_some() || plan.spreads;
    let only_first =
        !transaction.is_empty() && matches!(options.mode.unwrap_or_default(), Mode::Create | Mode::Replace);
    let planned = PlannedWrite::new(context, plan, name, schema, attempt, stream);
    let request_id = caller.request_id().map(String::from);
    Ok(PutPlan::Write(PlannedWrite { spreads, only_first, request_id, again, ..planned }))
}

/// Checks that a write that was planned belongs to the transaction that was requested, if any.
///
/// # Errors
/// FAILED_PRECONDITION: the coordinator is of a version that does not know transactions.
pub fn check_transaction(write: &Write, transaction: &str) -> Result<()> {
    match write.state() == WriteState::Open && write.transaction != transaction {
        true => Err(Error::precondition(
            "a coordinator of an earlier version planned this put and does not know transactions: upgrade all coordinators, or put without one",
        )),
        false => Ok(()),
    }
}

/// Checks that a write that was planned makes the result of a query, if one was requested: everybody would see its table.
///
/// # Errors
/// FAILED_PRECONDITION: the coordinator is of a version that does not know such results.
fn check_query_result(write: &Write, requested: bool) -> Result<()> {
    match requested && write.state() == WriteState::Open && !write.query_result {
        true => Err(Error::precondition(
            "a coordinator of an earlier version does not know stored results of queries: upgrade all coordinators",
        )),
        false => Ok(()),
    }
}

/// Checks that the table of a write that was planned has the options that not all versions know, if they were requested: that it
/// expires, and names the columns of its statistics.
///
/// # Errors
/// FAILED_PRECONDITION: the coordinator is of a version that does not know the option, or the write was begun without it.
fn check_options(write: &Write, expires: bool, has_stats_columns: bool) -> Result<()> {
    let has = |is_set: fn(&TableSpec) -> bool| write.spec.as_ref().is_some_and(is_set);
    let lacks_ttl = expires && !has(|spec| spec.ttl_ms != 0);
    let lacks_columns = has_stats_columns && !has(|spec| !spec.stats_columns.is_empty());
    let option = match (lacks_ttl, lacks_columns) {
        _ if write.state() != WriteState::Open => return Ok(()),
        (true, _) => "ttl_s",
        (false, true) => "stats_columns",
        (false, false) => return Ok(()),
    };
    Err(Error::precondition(format!(
        "this put was planned without the option {option}: its write or transaction was begun without it, and no later put can add it; or a coordinator is of an earlier version, then upgrade all coordinators"
    )))
}

fn begin_request(context: &PutContext, handshake: &PutHandshake) -> Result<BeginWriteRequest> {
    let TableRequest { name, kind, options } = &handshake.request;
    Ok(BeginWriteRequest {
        table: name.components().to_vec(),
        kind: (*kind).into(),
        mode: WriteMode::from(options.mode.unwrap_or_default()).into(),
        shards: options.shards,
        shard_by: options.shard_by.clone().unwrap_or_default(),
        replicas: options.replicas,
        compression: options.compression.map(|c| Compression::from(c).into()),
        schema: schema_message(&handshake.schema)?,
        // Chosen here if the client did not, so that a repeated call is the same write. In a transaction its coordinator
        // chooses.
        write_id: options.write_id.clone().unwrap_or_else(|| format!("{:032x}", rand::random::<u128>())),
        // A coordinator that does not know transactions must not commit the write.
        staged: options.transaction.is_some(),
        writer: context.store.node().0,
        writer_boot: context.store.boot(),
        attempt: rand::random(),
        retention_ms: options.retention_s.map(|s| s.saturating_mul(1000)),
        ttl_ms: options.ttl_s.map(|s| s.saturating_mul(1000)),
        stats_columns: options.stats_columns.clone().map(|names| ColumnNames { names }),
        max_endpoints: options.max_endpoints,
        preserve_batches: options.preserve_batches,
        shareable_tickets: options.shareable_tickets,
        listener: handshake.listener.clone(),
        transaction: options.transaction.clone().unwrap_or_default(),
        create_append: options.mode == Some(Mode::CreateAppend),
        // Not among the options, which clients have.
        query_result: false,
        temporary_ttl_ms: 0,
    })
}

impl BeginAgain {
    /// Begins the write anew, as this attempt.
    ///
    /// # Errors
    /// Those of a put that appends.
    pub(super) async fn begin(&self, context: &PutContext, attempt: u64) -> Result<WritePlan> {
        let request = BeginWriteRequest { attempt, ..self.request.clone() };
        let begun = context.coordinators.begin_write(request, &self.caller).await;
        begun.map_err(|error| error.at("another put has created the table meanwhile"))
    }
}

impl PlannedWrite {
    /// `stream`: for a staged write, this stream's id.
    pub fn new(
        context: Arc<PutContext>,
        plan: WritePlan,
        table: TableName,
        schema: SchemaRef,
        attempt: u64,
        stream: Option<u64>,
    ) -> Self {
        let write_id = plan.write.as_ref().map(|write| write.id.clone()).unwrap_or_default();
        let plan = Arc::new(plan);
        let (only_first, spreads, request_id) = (false, false, None);
        let again = None;
        PlannedWrite { context, plan, table, write_id, attempt, stream, schema, only_first, spreads, request_id, again }
    }

    /// Checks that the parts, which were written by the first plan, fit another plan of the same write.
    ///
    /// # Errors
    /// ABORTED.
    pub(super) fn check_fits(&self, plan: &WritePlan) -> Result<()> {
        let write = plan.write.as_ref().ok_or_else(|| Error::internal("the coordinator planned no write"))?;
        // Its commit returns the outcome.
        if write.state() == WriteState::Committed {
            return Ok(());
        }
        // Options that say nothing of the parts may differ.
        let of_parts = |spec: &TableSpec| TableSpec {
            replicas: 0,
            retention_ms: 0,
            max_endpoints: 0,
            shareable_tickets: false,
            ttl_ms: 0,
            ..spec.clone()
        };
        let spec = self.plan.write.as_ref().and_then(|first| first.spec.as_ref());
        let has_schema = write.schema.is_empty() || parse_schema(&write.schema)? == self.schema;
        match has_schema && spec.map(of_parts) == write.spec.as_ref().map(of_parts) {
            true => Ok(()),
            false => Err(Error::aborted(format!(
                "another put has created table {:?} meanwhile, with other options or another schema than this one would have: put again to append",
                self.table
            ))),
        }
    }

    /// How its parts are written.
    pub fn sink_config(&self) -> PartSinkConfig {
        let (config, resources) = (&self.context.config, &self.context.resources);
        PartSinkConfig {
            store: self.context.store.clone(),
            table: self.table.clone(),
            write_id: self.write_id.clone(),
            spec: self.plan.write.as_ref().and_then(|w| w.spec.clone()).unwrap_or_default(),
            schema: self.schema.clone(),
            // A staged write's stream has a random number. Its upper 31 bits are those of the sequence numbers of the
            // stream's parts, the lower 32 bits count them: the parts of one stream stay together in the table's order.
            first_seq: self.stream.map_or(0, |stream| (stream >> 33) << 32),
            message_bytes: config.message_bytes_of(self.schema.fields().len()),
            block_bytes: config.block_bytes,
            first_block_bytes: if self.spreads { FIRST_BLOCK_BYTES } else { config.block_bytes },
            part_bytes: config.part_bytes,
            seals: resources.seals.clone(),
            contents: resources.contents.clone(),
            remote_shards: self.remote_shards(),
        }
    }

    /// The shards whose placement does not have this node.
    fn remote_shards(&self) -> HashSet<u32> {
        let this_node = self.context.store.node().0;
        let placement = self.plan.write.as_ref().map_or(&[][..], |write| write.placement.as_slice());
        let is_remote = |nodes: &[u64]| !nodes.is_empty() && !nodes.contains(&this_node);
        (0..).zip(placement).filter(|(_, shard)| is_remote(&shard.nodes)).map(|(shard, _)| shard).collect()
    }
}
