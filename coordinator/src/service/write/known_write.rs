//! Writes whose id is known already: whether a request begins one again, or asks for another write by the same id.

use volley_common::identity::Access;
use volley_common::wire::catalog::{BeginWrite, Table, Write, WriteMode, WriteState};
use volley_common::wire::cluster::BeginWriteRequest;
use volley_common::{Error, Result, TableName};

use super::{begin_command, check_schema};
use crate::catalog::Catalog;
use crate::planner::table_options::check_keys;

/// Whether a known write is resumed: it is committed, or open and staged or begun by the same attempt, which called another
/// coordinator too. An aborted write, or a put that is tried again, is planned again.
pub(super) fn is_resumable(known: &Write, attempt: u64) -> bool {
    let same_attempt = attempt != 0 && attempt == known.attempt;
    match known.state() {
        WriteState::Committed => true,
        WriteState::Open => known.staged || same_attempt,
        WriteState::Aborted => false,
    }
}

/// Checks that a request with the id of a committed write does not provably ask for another write: only its id, its table
/// and its outcome are kept.
///
/// # Errors
/// FAILED_PRECONDITION: it has another mode or another schema.
pub(super) fn check_repeated(
    catalog: &Catalog,
    name: &TableName,
    known: &Write,
    request: &BeginWriteRequest,
) -> Result<()> {
    let Some(version) = known.outcome.as_ref().map(|outcome| outcome.version) else { return Ok(()) };
    let differs = |what: String| {
        Err(Error::precondition(format!(
            "the write id {:?} belongs to a write to table {name:?} that is committed already, as version {version}, and {what}: choose another id",
            known.id
        )))
    };
    // The table may have been dropped and created again since.
    let is_same = |table: &&Table| table.created_ms <= known.ended_ms && catalog.is_readable(table, version, 0);
    let table = catalog.table_named(name).filter(is_same);
    let mode = WriteMode::try_from(request.mode).unwrap_or_default();
    let replaced =
        |table: &Table| table.replaced.iter().any(|end| end.version == version && !end.compaction && end.restored == 0);
    match mode {
        // An append needs a table, which has a version already; a table is created with version 1.
        WriteMode::Append if version == 1 || table.is_some_and(replaced) => {
            return differs("that was no append".into());
        }
        WriteMode::Create if version != 1 && !request.create_append => return differs("that created no table".into()),
        _ => {}
    }
    let Some(table) = table else { return Ok(()) };
    match check_schema(name, &catalog.layout_at(table, version).schema, &request.schema) {
        Ok(()) => Ok(()),
        Err(error) => differs(format!("with another schema: {}", error.message)),
    }
}

/// Checks that a request with the id of a known write is for the same table. The error names that of the write only to who
/// may read it.
///
/// # Errors
/// INVALID_ARGUMENT: the id is in use for another table.
pub(super) fn check_table(access: &Access, known: &Write, request: &BeginWriteRequest) -> Result<()> {
    if known.table == request.table {
        return Ok(());
    }
    let of_other = match access.can_read(&known.table) {
        true => format!(" for table {:?}", known.table.join("/")),
        false => String::new(),
    };
    let wanted = request.table.join("/");
    Err(Error::invalid(format!(
        "the write id {:?} is in use{of_other}: choose another id for table {wanted:?}",
        known.id
    )))
}

/// The command that begins a known write again: with the recorded plan, but the request's writer and attempt.
pub(super) fn resume(known: &Write, request: &BeginWriteRequest, lease_ms: u64) -> Result<BeginWrite> {
    let name = TableName::from_components(&known.table)?;
    if known.state == WriteState::Open as i32 {
        check_schema(&name, &known.schema, &request.schema)?;
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
        fenced: known.staged && request.transaction.is_empty(),
        table_id: known.table_id,
        schema,
        ..begin_command(request, lease_ms)
    })
}
