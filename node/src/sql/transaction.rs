//! Transactions: a put that belongs to one is staged into its transaction's write ([`crate::put`]); coordinators make all of these
//! visible at its end.

use std::time::Duration;

use arrow::datatypes::SchemaRef;
use serde_json::json;
use tokio::time::Instant;
use volley_common::ipc::schema::parse_schema;
use volley_common::telemetry::trace::carry;
use volley_common::wire::catalog::{DescriptorKind, WriteMode};
use volley_common::wire::cluster::BeginWriteRequest;
use volley_common::{Code, Error, Result, TableName, TransactionId};

use super::caller::SqlCaller;
use super::coordinator_call::run_action;
use super::read_forward::visible_schema;
use crate::coordinator_proxy::{CoordinatorProxy, MetadataRequest};
use crate::put::plan::check_transaction;

/// How long the end of a transaction is tried: longer than an election, as repeating it is safe.
const END_DEADLINE: Duration = Duration::from_secs(30);
/// The pause before it is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// Commits a transaction, or rolls it back. It is ended also if the client goes.
///
/// # Errors
/// Those of the actions commit_transaction and abort_transaction. UNAVAILABLE that says that the outcome is unknown, if no
/// coordinator answered in time.
pub async fn end(
    caller: &SqlCaller,
    proxy: &CoordinatorProxy,
    call: &MetadataRequest,
    transaction: TransactionId,
    commit: bool,
) -> Result<()> {
    let (proxy, call, tasks) = (proxy.clone(), call.clone(), caller.context.put.tasks.clone());
    let ending = async move {
        let name = if commit { "commit_transaction" } else { "abort_transaction" };
        let body = json!({ "transaction": transaction.to_string() }).to_string();
        let deadline = Instant::now() + END_DEADLINE;
        loop {
            let error = match run_action(&proxy, &call, name, body.clone().into()).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            match error.code {
                Code::Unavailable if Instant::now() < deadline => tokio::time::sleep(RETRY_PAUSE).await,
                Code::Unavailable | Code::DeadlineExceeded => {
                    return Err(error.at(format_args!(
                        "it is unknown whether transaction {transaction} has ended; end it again to find out"
                    )));
                }
                // A coordinator of an earlier version.
                Code::Unimplemented => {
                    return Err(Error::precondition(
                        "a coordinator of an earlier version does not know transactions: upgrade all coordinators",
                    ));
                }
                _ => return Err(error),
            }
        }
    };
    let ended = tasks.spawn(carry(ending)).await;
    ended.unwrap_or_else(|e| Err(Error::internal(format!("ending a transaction failed: {e}"))))
}

/// The columns into which an INSERT puts rows: those of the table that the caller may see. If the transaction creates or replaces
/// the table, its own are not visible yet, and those count.
///
/// # Errors
/// Those of [`visible_schema`]; of a transaction those of the begin of its write to the table.
pub async fn insert_schema(
    caller: &SqlCaller,
    table: &TableName,
    transaction: Option<TransactionId>,
) -> Result<SchemaRef> {
    let Some(transaction) = transaction else { return visible_schema(caller, table, None).await };
    let transaction = transaction.to_string();
    let request = BeginWriteRequest {
        table: table.components().to_vec(),
        kind: DescriptorKind::Command as i32,
        mode: WriteMode::Append as i32,
        attempt: rand::random(),
        transaction: transaction.clone(),
        // A coordinator that does not know transactions must not begin a write that could be committed.
        staged: true,
        ..BeginWriteRequest::default()
    };
    let plan = caller.context.put.coordinators.begin_write(request, &caller.asserted).await?;
    let write = plan.write.ok_or_else(|| Error::internal("the coordinator planned no write"))?;
    check_transaction(&write, &transaction)?;
    match write.mode() {
        WriteMode::Append | WriteMode::Compact => visible_schema(caller, table, None).await,
        WriteMode::Create | WriteMode::Replace => parse_schema(&write.schema),
    }
}
