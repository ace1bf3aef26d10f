//! The actions of Flight SQL.

use arrow::datatypes::{Field, Schema};
use arrow_flight::{Action, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightInfo};
use bytes::Bytes;
use prost::Message;
use volley_common::{Error, Result, TransactionId, clock};
use volley_sql::flight_sql::{self, PreparedHandle, SqlAction};
use volley_sql::statement::{PlainRead, SqlStatement, UpdateStatement, parse};

use super::caller::SqlCaller;
use super::coordinator_call::run_action;
use super::insert_rows::missing_column;
use super::parameters::typed_by_columns;
use super::query::{BoundQuery, QueryPlan, plan};
use super::read_forward::{check_filter, visible_schema};
use super::transaction::{end, insert_schema};
use crate::coordinator_proxy::{CoordinatorProxy, MetadataRequest};

/// The schemas of a prepared statement.
struct PreparedSchemas {
    /// Of its rows; `None`: it changes tables.
    dataset: Option<Schema>,
    /// Of its parameters.
    parameters: Schema,
}

/// Runs an action. Returns the bodies of its results.
///
/// # Errors
/// UNAUTHENTICATED: the caller is nobody. UNIMPLEMENTED: savepoints, Substrait. Those of the statement, and of the end of a
/// transaction.
pub async fn run(
    caller: &SqlCaller,
    proxy: &CoordinatorProxy,
    call: &MetadataRequest,
    action: &Action,
) -> Result<Vec<Bytes>> {
    caller.access.require_identity()?;
    match flight_sql::decode_action(&action.r#type, &action.body)? {
        SqlAction::CreatePreparedStatement { sql, transaction } => {
            let PreparedSchemas { dataset, parameters } = schemas_of(caller, &sql, transaction).await?;
            let handle = PreparedHandle { sql, parameters: None, transaction }.encode()?;
            Ok(vec![flight_sql::created_result(handle, dataset.as_ref(), &parameters)?])
        }
        // A handle is all that there is of a prepared statement.
        SqlAction::ClosePreparedStatement { .. } => Ok(Vec::new()),
        SqlAction::CancelQuery { info } => cancel(proxy, call, &info).await,
        // The id is all that there is of a transaction that has not written.
        SqlAction::BeginTransaction => Ok(vec![flight_sql::transaction_result(TransactionId::new(clock::now_ms()))]),
        SqlAction::EndTransaction { transaction, commit } => {
            end(caller, proxy, call, transaction, commit).await.map(|()| Vec::new())
        }
    }
}

async fn schemas_of(caller: &SqlCaller, sql: &str, transaction: Option<TransactionId>) -> Result<PreparedSchemas> {
    match parse(sql)? {
        SqlStatement::Read(read) => {
            let dataset = Some(schema_of_read(caller, &read).await?);
            Ok(PreparedSchemas { dataset, parameters: Schema::empty() })
        }
        SqlStatement::Query(query) => {
            let query = BoundQuery::new(query, None);
            let planned = plan(caller, &query).await;
            caller.record_read("CreatePreparedStatement", &query.table_names(), &planned);
            let planned = planned?;
            Ok(PreparedSchemas {
                dataset: Some(planned.schema.as_ref().clone()),
                parameters: planned.parameter_schema(),
            })
        }
        SqlStatement::Update(update) => {
            Ok(PreparedSchemas { dataset: None, parameters: parameters_of_update(caller, update, transaction).await? })
        }
    }
}

/// The schema of a read that coordinators plan.
async fn schema_of_read(caller: &SqlCaller, read: &PlainRead) -> Result<Schema> {
    check_filter(caller, read).await?;
    let schema = visible_schema(caller, &read.table, read.version).await?;
    let Some(columns) = &read.columns else { return Ok(schema.as_ref().clone()) };
    let index = |name: &String| schema.index_of(name).map_err(|_| missing_column(&schema, name));
    let indexes = columns.iter().map(index).collect::<Result<Vec<_>>>()?;
    schema.project(&indexes).map_err(|e| Error::internal(format!("selecting columns: {e}")))
}

/// The parameters of a statement that changes tables: those of an INSERT.
async fn parameters_of_update(
    caller: &SqlCaller,
    update: UpdateStatement,
    transaction: Option<TransactionId>,
) -> Result<Schema> {
    let UpdateStatement::Insert { table, columns, query } = update else { return Ok(Schema::empty()) };
    let query = BoundQuery::new(query, None);
    let planned: QueryPlan = plan(caller, &query).await?;
    if planned.parameters.is_empty() {
        return Ok(Schema::empty());
    }
    let schema = insert_schema(caller, &table, transaction).await?;
    let targets: Vec<Field> = match columns {
        None => schema.fields().iter().map(|field| field.as_ref().clone()).collect(),
        Some(names) => names.iter().filter_map(|name| schema.field_with_name(name).ok().cloned()).collect(),
    };
    Ok(typed_by_columns(&planned.parameter_schema(), &query.statement.sql, &targets))
}

/// Cancels the FlightInfo of a query: at coordinators, from whom all nodes learn it.
async fn cancel(proxy: &CoordinatorProxy, call: &MetadataRequest, info: &[u8]) -> Result<Vec<Bytes>> {
    let info = FlightInfo::decode(info)
        .map_err(|e| Error::invalid(format!("the body of CancelQuery has no FlightInfo that can be read: {e}")))?;
    let request = CancelFlightInfoRequest { info: Some(info) };
    let result = run_action(proxy, call, "CancelFlightInfo", request.encode_to_vec().into()).await?;
    // The coordinator refuses what it cannot cancel.
    let result = CancelFlightInfoResult::decode(result)
        .map_err(|e| Error::internal(format!("the result of CancelFlightInfo cannot be read: {e}")))?;
    Ok(vec![flight_sql::cancel_result(CancelStatus::try_from(result.status).unwrap_or_default())])
}
