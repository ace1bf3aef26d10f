//! Writes of a transaction: a put begins its transaction's write to the table, or joins it. The end of the transaction commits or
//! aborts all of them.

#[cfg(test)]
mod tests;

use volley_common::identity::Access;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::reply::Reply;
use volley_common::wire::catalog::{BeginWrite, EndTransaction, Node, Role, Write, WriteMode, WriteState};
use volley_common::wire::cluster::{BeginWriteRequest, WritePlan};
use volley_common::{Code, Error, Result, TableName, TransactionId};

use super::known_write::resume;
use super::{WriteService, check_schema, mode_of, table_options};
use crate::catalog::replies::unexpected_reply;
use crate::catalog::{Catalog, written_already};
use crate::planner::write_targets::write_targets;
use crate::service::live_nodes::wait_for_live_nodes;

/// Maximum number of transactions of a principal that have written and are open.
const MAX_OPEN_TRANSACTIONS: usize = 1_000;

impl WriteService {
    /// Begins the write of a put that belongs to a transaction, or joins the one that its transaction has to the table. Whether the
    /// principal may write to the table is checked before.
    ///
    /// The first stream that is staged decides what the write does to the table. Later ones must append: a put that would
    /// create or replace the table would lose their rows.
    ///
    /// # Errors
    /// Those of [`WriteService::begin_write`] and [`Catalog::check_open_transaction`]. ALREADY_EXISTS, FAILED_PRECONDITION: the
    /// transaction has put rows into the table. RESOURCE_EXHAUSTED: the principal has too many open transactions.
    pub async fn begin_in_transaction(&self, access: &Access, mut request: BeginWriteRequest) -> Result<WritePlan> {
        let name = TableName::from_components(&request.table)?;
        let transaction: TransactionId = request.transaction.parse()?;
        request.table = name.components().to_vec();
        request.write_id = transaction.write_id(name.components());
        request.staged = true;
        wait_for_live_nodes(&self.raft).await;
        self.begin_planned(access, &name, &request).await
    }

    /// The command that begins the write, or joins it, by the present catalog, and the nodes that take its parts.
    pub(super) async fn plan_begin_in_transaction(
        &self,
        access: &Access,
        name: &TableName,
        request: &BeginWriteRequest,
    ) -> Result<(BeginWrite, Vec<Node>)> {
        let catalog = self.raft.read().await?;
        catalog.check_open_transaction(&request.transaction, access.name())?;
        check_open_transactions(&catalog, &request.transaction, access.name())?;
        let planned = self.plan_in_transaction(&catalog, name, request)?;
        let command = BeginWrite { principal: access.name().into(), ..planned };
        let nodes = match &command.spec {
            Some(spec) => write_targets(&catalog, spec)?,
            None => Vec::new(),
        };
        Ok((command, nodes))
    }

    /// The command that begins the write, or that joins it with the plan and the attempt that it has.
    fn plan_in_transaction(
        &self,
        catalog: &Catalog,
        name: &TableName,
        request: &BeginWriteRequest,
    ) -> Result<BeginWrite> {
        let known = catalog.write(&request.write_id).filter(|known| known.state() == WriteState::Open);
        let Some(known) = known else { return self.plan_write(catalog, name, request) };
        if known.table != request.table {
            // The ids of two tables are the same by chance, or because somebody looked for such names.
            return Err(Error::invalid(format!(
                "one transaction cannot write to tables {name:?} and {:?}: use two",
                known.table.join("/")
            )));
        }
        let joined = || -> Result<BeginWrite> {
            Ok(BeginWrite { attempt: known.attempt, ..resume(&known, request, self.lease_ms)? })
        };
        if catalog.has_streams(&known.id) {
            check_joins(name, &known, request)?;
            return joined();
        }
        // Nothing was staged: its puts run, or have failed. One that does the same joins them, any other takes their place.
        let planned = self.plan_write(catalog, name, request)?;
        let is_same = (planned.mode, &planned.spec, planned.table_id) == (known.mode, &known.spec, known.table_id)
            && check_schema(name, &known.schema, &planned.schema).is_ok();
        if is_same { joined() } else { Ok(BeginWrite { replaces_attempt: known.attempt, ..planned }) }
    }

    /// Commits a transaction or rolls it back, for its principal. A commit is refused if the principal may no longer write to one of
    /// the tables. A commit that fails rolls the transaction back. Returns the tables that the transaction was about to change,
    /// also if it fails; none if it has ended before, or has written nothing.
    pub async fn end_transaction(&self, access: &Access, id: &str, commit: bool) -> (Vec<Vec<String>>, Result<()>) {
        match self.tables_to_commit(access, id, commit).await {
            Ok(Some(tables)) => {
                let ended = self.end_open_transaction(access, id, commit, &tables).await;
                (tables, ended)
            }
            Ok(None) => (Vec::new(), Ok(())),
            Err(error) => (Vec::new(), Err(error)),
        }
    }

    /// The tables of a transaction; `None`: it has written nothing, so that there is nothing to end.
    async fn tables_to_commit(&self, access: &Access, id: &str, commit: bool) -> Result<Option<Vec<Vec<String>>>> {
        let parsed: TransactionId = id.parse()?;
        let catalog = self.raft.read().await?;
        match catalog.transaction(id) {
            Some(known) => {
                // The catalog refuses to end that of another principal.
                let own = catalog.writes_of(known).filter(|_| known.principal == access.name());
                Ok(Some(own.map(|write| write.table.clone()).collect()))
            }
            None if commit => catalog.check_not_forgotten(parsed).map(|()| None),
            None => Ok(None),
        }
    }

    async fn end_open_transaction(
        &self,
        access: &Access,
        id: &str,
        commit: bool,
        tables: &[Vec<String>],
    ) -> Result<()> {
        let refusal = tables.iter().find_map(|table| access.require(Role::Writer, table).err()).filter(|_| commit);
        let command = EndTransaction {
            id: id.into(),
            principal: access.name().into(),
            commit: commit && refusal.is_none(),
            reason: refusal.as_ref().map(|error| error.message.clone()).unwrap_or_default(),
        };
        let ended = match self.raft.propose(Op::EndTransaction(command)).await? {
            Reply::Transaction(ended) => ended,
            other => return Err(unexpected_reply("end_transaction", &other)),
        };
        match (refusal, ended.abort) {
            (Some(refusal), _) => Err(refusal.at(format_args!("transaction {id} was rolled back"))),
            (None, Some(abort)) if commit => Err(Error {
                code: Code::from_i32(abort.code),
                message: format!("transaction {id} was rolled back: {}", abort.message),
                retry_after_ms: None,
                request_id: None,
            }),
            (None, _) => {
                tracing::info!(transaction = id, commit, tables = tables.len(), "a transaction has ended");
                Ok(())
            }
        }
    }
}

/// Checks that one more transaction of a principal may be open.
fn check_open_transactions(catalog: &Catalog, id: &str, principal: &str) -> Result<()> {
    if catalog.transaction(id).is_some() || catalog.open_transactions_of(principal) < MAX_OPEN_TRANSACTIONS {
        return Ok(());
    }
    Err(Error::exhausted(format!(
        "{MAX_OPEN_TRANSACTIONS} transactions of this principal have written and are open, the most that one may have: commit them or roll them back, or try again later"
    )))
}

/// Checks that a put can add its rows to those of its transaction.
fn check_joins(name: &TableName, known: &Write, request: &BeginWriteRequest) -> Result<()> {
    // That the table exists, or does not, says nothing of what the transaction makes of it.
    match mode_of(request, None) {
        WriteMode::Append => {}
        WriteMode::Create if request.create_append => {}
        WriteMode::Create => {
            return Err(Error::exists(format!("table {name:?} exists already: the transaction has put rows into it")));
        }
        WriteMode::Replace | WriteMode::Compact => return Err(written_already(known)),
    }
    match &known.spec {
        Some(spec) => {
            let options = table_options(request)?.temporary(name, request.temporary_ttl_ms, Some(spec))?;
            options.check_append(name, spec)
        }
        None => Ok(()),
    }
}
