//! Writes: begun with a plan, staged, committed or aborted.

use bytes::Bytes;
use volley_common::ipc::schema::{check_appendable, parse_schema};
use volley_common::options::check_write_id;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::reply::Reply;
use volley_common::wire::catalog::{
    AbortWrite, BeginWrite, CommitWrite, Compression, DescriptorKind, RenewWrite, StageParts, Table, Write, WriteMode,
    WriteOutcome, WriteState,
};
use volley_common::wire::cluster::{BeginWriteRequest, CommitWriteRequest, StagePartsRequest, WritePlan};
use volley_common::{Error, Result, TableName};

use super::homes::{homes, redirected};
use super::spec::{Choice, check_keys, placement};
use super::{Service, need_nodes};
use crate::catalog::Catalog;

impl Service {
    /// Begins a write: decides where its parts go and puts that into the catalog. A write id that is known is taken up
    /// again as it was begun, or answered with its outcome if it is committed.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the name, options, schema or keys. UNAVAILABLE: not enough live nodes, or no leader.
    /// RESOURCE_EXHAUSTED: too few nodes take parts. What the catalog refuses: ALREADY_EXISTS, NOT_FOUND, ABORTED.
    pub async fn begin_write(&self, mut request: BeginWriteRequest) -> Result<WritePlan> {
        let name = TableName::from_components(&request.table)?;
        if request.write_id.is_empty() {
            request.write_id = format!("{:032x}", rand::random::<u128>());
        }
        check_write_id(&request.write_id)?;
        let (command, nodes) = {
            let catalog = self.raft.read().await?;
            let (command, open) = match catalog.write(&request.write_id) {
                Some(known) if is_taken_up(known) => {
                    let open = known.state == WriteState::Open as i32;
                    (resume(known, &request, self.config.lease_ms)?, open)
                }
                _ => (self.plan_write(&catalog, &name, &request)?, true),
            };
            // One that is committed only answers: no parts of it go anywhere.
            let nodes = match &command.spec {
                Some(spec) if open => homes(&catalog, spec)?,
                _ => Vec::new(),
            };
            (command, nodes)
        };
        match self.raft.propose(Op::BeginWrite(command)).await? {
            Reply::Write(write) => {
                let write = Some(redirected(write, &nodes));
                Ok(WritePlan { write, nodes, lease_ms: self.config.lease_ms })
            }
            other => Err(unexpected("begin_write", &other)),
        }
    }

    fn plan_write(&self, catalog: &Catalog, name: &TableName, request: &BeginWriteRequest) -> Result<BeginWrite> {
        let live = need_nodes(catalog)?;
        let choice = choice(request)?;
        let table = catalog.table_named(name);
        let mode = WriteMode::try_from(request.mode).unwrap_or_default();
        let begin = begin_command(request, self.config.lease_ms);
        match (mode, table) {
            (WriteMode::Append, None) => Err(Error::not_found(format!(
                "there is no table {name:?} to append to: put it with mode \"create\" or \"replace\""
            ))),
            (WriteMode::Create, Some(_)) => Err(Error::exists(format!(
                "table {name:?} exists already: put with mode \"replace\" or \"append\", or drop it first"
            ))),
            (WriteMode::Append, Some(table)) => plan_append(name, table, &choice, begin),
            (_, table) => {
                let spec = choice.spec(table.and_then(|t| t.spec.as_ref()), live, self.config.retention_ms)?;
                check_keys(name, &request.schema, &spec)?;
                let placement = placement(catalog, name, &spec, table, &homes(catalog, &spec)?);
                Ok(BeginWrite { spec: Some(spec), placement, table_id: table.map_or(0, |t| t.id), ..begin })
            }
        }
    }

    /// Adds one stream's parts to a write that `begin_write` began.
    ///
    /// # Errors
    /// What the catalog refuses; INVALID_ARGUMENT if the stream's schema does not fit the write's.
    pub async fn stage_parts(&self, request: StagePartsRequest) -> Result<()> {
        {
            let catalog = self.raft.read().await?;
            let write = catalog.write(&request.write).ok_or_else(|| no_write(&request.write))?;
            let name = TableName::from_components(&write.table)?;
            check_fits(&name, &write.schema, &request.schema)?;
            if let Some(spec) = &write.spec {
                check_keys(&name, &request.schema, spec)?;
            }
        }
        let StagePartsRequest { write, stream, parts, schema } = request;
        let lease_ms = self.config.lease_ms;
        self.raft.propose(Op::StageParts(StageParts { write, stream, parts, lease_ms, schema })).await?;
        Ok(())
    }

    /// Prolongs a write's lease.
    pub async fn renew_write(&self, write: String) -> Result<()> {
        let lease_ms = self.config.lease_ms;
        self.raft.propose(Op::RenewWrite(RenewWrite { write, lease_ms })).await?;
        Ok(())
    }

    /// Makes a write visible as the table's next version; repeated, it answers the same.
    pub async fn commit_write(&self, request: CommitWriteRequest) -> Result<WriteOutcome> {
        let CommitWriteRequest { write, parts, attempt } = request;
        match self.raft.propose(Op::CommitWrite(CommitWrite { write, parts, attempt })).await? {
            Reply::Outcome(outcome) => Ok(outcome),
            other => Err(unexpected("commit_write", &other)),
        }
    }

    /// Ends a write without effect.
    pub async fn abort_write(&self, write: String, reason: String, attempt: u64) -> Result<()> {
        self.raft.propose(Op::AbortWrite(AbortWrite { write, reason, attempt })).await?;
        Ok(())
    }
}

fn choice(request: &BeginWriteRequest) -> Result<Choice> {
    let compression = match request.compression {
        Some(code) => Some(Compression::try_from(code).map_err(|_| {
            Error::invalid(format!("compression {code} is not known: this coordinator is older than the node"))
        })?),
        None => None,
    };
    Ok(Choice {
        shards: request.shards,
        shard_by: request.shard_by.clone(),
        replicas: request.replicas,
        compression,
        retention_ms: request.retention_ms,
    })
}

/// What goes into the command as it came; the plan is still missing.
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
        ..BeginWrite::default()
    }
}

fn plan_append(name: &TableName, table: &Table, choice: &Choice, begin: BeginWrite) -> Result<BeginWrite> {
    let spec = table.spec.clone().unwrap_or_default();
    choice.check_append(name, &spec)?;
    check_fits(name, &table.schema, &begin.schema)?;
    Ok(BeginWrite {
        spec: Some(spec),
        placement: table.placement.clone(),
        table_id: table.id,
        // The rows are stored under the table's own schema message, whose metadata wins.
        schema: table.schema.clone(),
        ..begin
    })
}

/// A begun write goes on, a committed one answers; one that was aborted, or whose writer tries again, is planned anew.
fn is_taken_up(known: &Write) -> bool {
    let state = WriteState::try_from(known.state).unwrap_or_default();
    state == WriteState::Committed || (state == WriteState::Open && known.staged)
}

/// A known write is begun again as it was planned: only who writes, and which attempt, is new.
fn resume(known: &Write, request: &BeginWriteRequest, lease_ms: u64) -> Result<BeginWrite> {
    if known.table != request.table {
        return Err(Error::invalid(format!(
            "the write id {:?} is in use for table {:?}: choose another for table {:?}",
            known.id,
            known.table.join("/"),
            request.table.join("/")
        )));
    }
    let name = TableName::from_components(&known.table)?;
    if known.state == WriteState::Open as i32 {
        check_fits(&name, &known.schema, &request.schema)?;
        if let Some(spec) = &known.spec {
            check_keys(&name, &request.schema, spec)?;
        }
    }
    let schema = if known.schema.is_empty() { request.schema.clone() } else { known.schema.clone() };
    Ok(BeginWrite {
        kind: known.kind,
        mode: known.mode,
        spec: known.spec.clone(),
        placement: known.placement.clone(),
        staged: known.staged,
        table_id: known.table_id,
        schema,
        ..begin_command(request, lease_ms)
    })
}

/// Checks that a stream's schema fits the one that is fixed; either may not be known yet.
fn check_fits(name: &TableName, fixed: &Bytes, stream: &Bytes) -> Result<()> {
    if fixed.is_empty() || stream.is_empty() || fixed == stream {
        return Ok(());
    }
    let fixed = parse_schema(fixed)?;
    let stream = parse_schema(stream).map_err(|e| e.at("the schema"))?;
    check_appendable(&fixed, &stream).map_err(|e| e.at(format_args!("table {name:?}")))
}

fn no_write(id: &str) -> Error {
    Error::not_found(format!("there is no write {id:?}: it was never begun, or ended too long ago"))
}

pub(crate) fn unexpected(what: &str, reply: &Reply) -> Error {
    let kind = match reply {
        Reply::Done(_) => "done",
        Reply::Refusal(_) => "a refusal",
        Reply::Write(_) => "a write",
        Reply::Outcome(_) => "an outcome",
        Reply::Table(_) => "a table",
    };
    Error::internal(format!("{what} was answered with {kind}"))
}
