//! Statements that change tables: rows go through a put, so that all of them become visible at once or none; a table is dropped by the
//! action of the coordinators.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::{FlightData, FlightDescriptor};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use http::request::Parts;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tonic::metadata::MetadataMap;
use volley_common::ipc::encode::{IpcMessage, encode_messages};
use volley_common::ipc::schema::{flight_header, schema_message};
use volley_common::server::audit::REQUEST_ID_HEADER;
use volley_common::telemetry::trace::carry;
use volley_common::{Code, Error, Result, TableName, TransactionId};
use volley_sql::engine::RowsShare;
use volley_sql::statement::{CreateTable, QueryStatement, SqlStatement, UpdateStatement, parse};

use super::caller::SqlCaller;
use super::coordinator_call::run_action;
use super::insert_rows::InsertPlan;
use super::query::{self, BoundQuery};
use super::result_encoder::ResultEncoder;
use super::result_queue::WaitingMessage;
use super::transaction::insert_schema;
use crate::coordinator_proxy::{CoordinatorProxy, MetadataRequest};
use crate::put::{self, PutInput, PutTarget};
use crate::put_resources::PutSlot;

/// A call that changes tables.
pub struct UpdateCall {
    /// Who makes it.
    pub caller: SqlCaller,
    /// How coordinators are reached.
    pub proxy: CoordinatorProxy,
    /// The call's head.
    pub head: Parts,
    /// Its place among the puts of this node.
    pub slot: PutSlot,
    /// The transaction that its statement belongs to.
    pub transaction: Option<TransactionId>,
}

/// The statement of a text that changes tables.
///
/// # Errors
/// INVALID_ARGUMENT: it only reads. Those of [`parse`].
pub fn update_statement(sql: &str) -> Result<UpdateStatement> {
    match parse(sql)? {
        SqlStatement::Update(update) => Ok(update),
        SqlStatement::Read(_) | SqlStatement::Query(_) => Err(Error::invalid(
            "the statement only reads, and this call changes tables: send it by get_flight_info, as execute of a Flight SQL client does",
        )),
    }
}

impl UpdateCall {
    /// Carries out a statement, once for each row of parameters. Returns how many rows it has written.
    ///
    /// # Errors
    /// Those of the query, of puts and of actions. Nothing is changed then, unless the error says that the outcome is unknown.
    pub async fn execute(self, statement: UpdateStatement, parameters: Vec<Bytes>) -> Result<i64> {
        match statement {
            UpdateStatement::Insert { table, columns, query } => self.insert(table, columns, query, parameters).await,
            _ if !parameters.is_empty() => {
                Err(Error::invalid("only INSERT has parameters: write the values into the statement"))
            }
            UpdateStatement::CreateTable(table) => self.create(table).await,
            UpdateStatement::CreateTableAs { table, query } => self.create_as(table, query).await,
            UpdateStatement::DropTable { table, if_exists } => self.drop_table(&table, if_exists).await,
        }
    }

    async fn insert(
        self,
        table: TableName,
        columns: Option<Vec<String>>,
        query: QueryStatement,
        parameters: Vec<Bytes>,
    ) -> Result<i64> {
        let schema = insert_schema(&self.caller, &table, self.transaction).await?;
        let target = RowTarget::Existing { schema, columns };
        let descriptor = descriptor_of(&table, "append", self.transaction, Map::new());
        self.put_query(query, parameters, descriptor, target).await
    }

    async fn create(self, table: CreateTable) -> Result<i64> {
        let first = schema_data(&table.schema, Some(create_descriptor(&table, self.transaction)))?;
        let if_not_exists = table.if_not_exists;
        let headers = request_id(&self.caller);
        let created = self.put(PutTarget::Table, headers, Box::pin(stream::iter([Ok::<_, Error>(first)]))).await;
        unless_exists(created, if_not_exists)
    }

    async fn create_as(self, table: CreateTable, query: QueryStatement) -> Result<i64> {
        let descriptor = create_descriptor(&table, self.transaction);
        let created = self.put_query(query, Vec::new(), descriptor, RowTarget::New).await;
        unless_exists(created, table.if_not_exists)
    }

    async fn drop_table(self, table: &TableName, if_exists: bool) -> Result<i64> {
        if self.transaction.is_some() {
            return Err(Error::unimplemented(format!(
                "DROP TABLE {table} is not supported in a transaction: commit or roll it back, and drop the table with autocommit on; CREATE OR REPLACE TABLE replaces one in a transaction"
            )));
        }
        let body = json!({ "table": table.to_string(), "if_exists": if_exists }).to_string();
        let (proxy, call) = (self.proxy, MetadataRequest { head: self.head, body: Bytes::new() });
        // It runs to its end also if the client goes.
        let tasks = self.caller.context.put.tasks.clone();
        let dropped =
            tasks.spawn(carry(async move { run_action(&proxy, &call, "drop_table", body.into()).await })).await;
        dropped.unwrap_or_else(|e| Err(Error::internal(format!("dropping a table failed: {e}"))))?;
        Ok(0)
    }

    /// Puts the rows of a query, which runs once for each row of parameters.
    async fn put_query(
        self,
        query: QueryStatement,
        parameters: Vec<Bytes>,
        descriptor: FlightDescriptor,
        target: RowTarget,
    ) -> Result<i64> {
        let bound = BoundQuery::new(query, None);
        let tables = bound.table_names();
        let runs: Vec<Option<Bytes>> = match parameters.is_empty() {
            true => vec![None],
            false => parameters.into_iter().map(Some).collect(),
        };
        let message_bytes = self.caller.context.put.config.message_bytes;
        let (caller, failure) = (self.caller.clone(), Arc::new(Mutex::new(None)));
        let noted = failure.clone();
        let rows = stream::iter(runs).enumerate().then(move |(at, parameters)| {
            let caller = caller.clone();
            let query = BoundQuery { parameters, ..bound.clone() };
            let encoder = PutRowsEncoder {
                descriptor: descriptor.clone(),
                target: target.clone(),
                plan: None,
                message_bytes,
            };
            // One schema for all runs.
            let skipped = usize::from(at > 0);
            async move { Ok::<_, Error>(query::run(&caller, query, HashMap::new(), None, encoder).await?.skip(skipped)) }
        });
        let rows = rows.try_flatten().inspect_err(move |error: &Error| *noted.lock() = Some(error.clone()));
        let (caller, headers) = (self.caller.clone(), request_id(&self.caller));
        let written = self.put(PutTarget::Table, headers, Box::pin(rows)).await;
        // The put says only that its stream broke.
        let written = written.map_err(|error| failure.lock().take().unwrap_or(error));
        if !tables.is_empty() {
            caller.record_read("DoPut", &tables, &written);
        }
        written
    }

    /// Runs a put of these messages into this target. Returns its rows.
    ///
    /// # Errors
    /// Those of the put.
    pub async fn put(self, target: PutTarget, headers: MetadataMap, input: PutInput) -> Result<i64> {
        let UpdateCall { caller, slot, .. } = self;
        let mut results =
            put::put_into(target, caller.context.put.clone(), headers, caller.access.clone(), input, slot);
        let mut last = Bytes::new();
        while let Some(result) = results.next().await {
            last = result?.app_metadata;
        }
        let outcome: Value = serde_json::from_slice(&last).unwrap_or_default();
        // A put without an outcome is one whose client gave its messages metadata.
        Ok(outcome["rows"].as_i64().unwrap_or(-1))
    }
}

/// Where the rows of a query go.
#[derive(Clone)]
enum RowTarget {
    /// To a new table with their schema.
    New,
    /// To a table of this schema, into these of its columns.
    Existing { schema: SchemaRef, columns: Option<Vec<String>> },
}

/// The messages of a put of a query's rows.
pub(super) struct PutRowsEncoder {
    descriptor: FlightDescriptor,
    target: RowTarget,
    /// Once the schema is known, for an existing table.
    plan: Option<InsertPlan>,
    message_bytes: usize,
}

impl PutRowsEncoder {
    /// Of a put that creates a table with the schema of the rows. `message_bytes`: about how many a message has.
    pub(super) fn for_new_table(descriptor: FlightDescriptor, message_bytes: usize) -> Self {
        PutRowsEncoder { descriptor, target: RowTarget::New, plan: None, message_bytes }
    }
}

impl ResultEncoder for PutRowsEncoder {
    type Item = FlightData;

    fn begin(&mut self, schema: &SchemaRef) -> Result<Vec<FlightData>> {
        let descriptor = Some(self.descriptor.clone());
        match &self.target {
            RowTarget::New => Ok(vec![schema_data(schema, descriptor)?]),
            RowTarget::Existing { schema: table, columns } => {
                let plan = InsertPlan::new(table.clone(), columns.as_deref(), schema.fields().len())?;
                let first = schema_data(plan.schema(), descriptor)?;
                self.plan = Some(plan);
                Ok(vec![first])
            }
        }
    }

    fn encode(&mut self, batch: RecordBatch) -> Result<Vec<IpcMessage>> {
        let batch = match &self.plan {
            Some(plan) => plan.conform(&batch)?,
            None => batch,
        };
        encode_messages(&batch, self.message_bytes)
    }

    /// The rows count until the put takes them: then they are in its memory.
    fn waiting(&self, message: IpcMessage, share: RowsShare) -> WaitingMessage<FlightData> {
        WaitingMessage::new(FlightData::from(&message), Some(share))
    }
}

/// The schema message of a put, which is its first.
fn schema_data(schema: &Schema, descriptor: Option<FlightDescriptor>) -> Result<FlightData> {
    let data_header = flight_header(&schema_message(schema)?);
    Ok(FlightData { flight_descriptor: descriptor, data_header, ..FlightData::default() })
}

/// The descriptor of a put.
pub fn descriptor_of(
    table: &TableName,
    mode: &str,
    transaction: Option<TransactionId>,
    mut options: Map<String, Value>,
) -> FlightDescriptor {
    options.insert("table".into(), table.to_string().into());
    options.insert("mode".into(), mode.into());
    if let Some(id) = transaction {
        options.insert("transaction".into(), id.to_string().into());
    }
    FlightDescriptor::new_cmd(Value::Object(options).to_string())
}

fn create_descriptor(table: &CreateTable, transaction: Option<TransactionId>) -> FlightDescriptor {
    let mode = if table.or_replace { "replace" } else { "create" };
    descriptor_of(&table.name, mode, transaction, table.options.clone())
}

/// With IF NOT EXISTS a table that exists is no error.
fn unless_exists(created: Result<i64>, if_not_exists: bool) -> Result<i64> {
    match created {
        Err(error) if if_not_exists && error.code == Code::AlreadyExists => Ok(0),
        created => created,
    }
}

/// How the client names its call, for the put that carries it out. Its other headers are no options of that put.
pub(super) fn request_id(caller: &SqlCaller) -> MetadataMap {
    let named = caller.headers.get(REQUEST_ID_HEADER).cloned();
    let named = named.map(|id| (http::HeaderName::from_static(REQUEST_ID_HEADER), id));
    MetadataMap::from_headers(named.into_iter().collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};
    use arrow::datatypes::{DataType, Field};
    use volley_common::options::{Mode, TableRequest};

    use super::*;

    #[test]
    fn created_table_has_the_options_of_its_statement() {
        let sql = "CREATE TABLE IF NOT EXISTS sales.orders (id BIGINT) WITH (shard_by = 'id', shards = 8)";
        let UpdateStatement::CreateTable(table) = update_statement(sql).unwrap() else { panic!("{sql}") };
        let request = TableRequest::from_descriptor(&create_descriptor(&table, None), &MetadataMap::new()).unwrap();
        let request = request.for_put().unwrap();
        assert_eq!((request.name.to_string().as_str(), request.options.mode), ("sales/orders", Some(Mode::Create)));
        assert_eq!((request.options.shards, request.options.shard_by), (Some(8), Some(vec!["id".into()])));
        let replaced = CreateTable { or_replace: true, ..table };
        let transaction = Some(TransactionId::new(7));
        let descriptor = create_descriptor(&replaced, transaction);
        let request = TableRequest::from_descriptor(&descriptor, &MetadataMap::new()).unwrap();
        assert_eq!(request.options.mode, Some(Mode::Replace));
        assert_eq!(request.options.transaction, transaction.map(|id| id.to_string()));
    }

    #[test]
    fn query_is_no_update() {
        let error = update_statement("SELECT 1").unwrap_err();
        assert!(error.code == Code::InvalidArgument && error.message.contains("only reads"), "{error}");
    }

    #[test]
    fn existing_table_is_no_error_if_the_statement_says_so() {
        let exists = || Err(Error::exists("there is a table"));
        assert_eq!(unless_exists(exists(), true), Ok(0));
        assert_eq!(unless_exists(exists(), false).unwrap_err().code, Code::AlreadyExists);
        assert_eq!(unless_exists(Err(Error::denied("no")), true).unwrap_err().code, Code::PermissionDenied);
    }

    #[test]
    fn inserted_rows_have_the_schema_of_the_table() {
        let field = |data_type| Field::new("x", data_type, true);
        let schema: SchemaRef = Arc::new(Schema::new(vec![field(DataType::Int32)]));
        let target = RowTarget::Existing { schema: schema.clone(), columns: None };
        let descriptor = descriptor_of(&"t".parse().unwrap(), "append", None, Map::new());
        let mut encoder = PutRowsEncoder { descriptor, target, plan: None, message_bytes: 1 << 20 };
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let batch = RecordBatch::try_from_iter([("anything", column)]).unwrap();
        let first = encoder.begin(&batch.schema()).unwrap();
        assert_eq!(first.len(), 1);
        assert_eq!(first[0].data_header, flight_header(&schema_message(&schema).unwrap()));
        let command: Value = serde_json::from_slice(&first[0].flight_descriptor.as_ref().unwrap().cmd).unwrap();
        assert_eq!(command, json!({ "mode": "append", "table": "t" }));
        assert_eq!(encoder.encode(batch).unwrap().len(), 1);
    }
}
