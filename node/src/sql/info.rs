//! GetFlightInfo, GetSchema and PollFlightInfo of what is SQL.

use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo, PollInfo, SchemaResult, Ticket};
use bytes::Bytes;
use serde_json::{Value, json};
use tonic::metadata::MetadataMap;
use volley_common::ipc::schema::schema_message;
use volley_common::local_read::socket_hints::LOCAL_KEY;
use volley_common::options::TableRequest;
use volley_common::options::sql::SqlContent;
use volley_common::wire::cluster::{self, Query, TableVersion};
use volley_common::{Error, Result, clock, grpc};
use volley_sql::flight_sql::MetadataCommand;
use volley_sql::statement::{PlainRead, SqlStatement, parse};

use super::caller::SqlCaller;
use super::query::{BoundQuery, plan, plan_sized};
use super::read_forward;
use super::request::{SqlRead, StatementText, check_query_headers, sql_read};
use super::stored_result::ResultCall;
use crate::coordinator_proxy::{CoordinatorProxy, MetadataRequest};

/// How long the ticket of a query lasts that reads no table, milliseconds.
const TABLELESS_MS: u64 = 600_000;

/// A metadata call that reads.
pub struct InfoCall<'a> {
    /// Who makes it.
    pub caller: &'a SqlCaller,
    /// How coordinators are reached.
    pub proxy: &'a CoordinatorProxy,
    /// The call.
    pub request: &'a MetadataRequest,
    /// Its message.
    pub descriptor: &'a FlightDescriptor,
}

/// What a descriptor asks for.
enum InfoSubject {
    /// A read that coordinators plan by this descriptor.
    Read(PlainRead, FlightDescriptor),
    /// A query.
    Query(String, BoundQuery),
    /// What Flight SQL tells about the tables and the server.
    Metadata(MetadataCommand),
}

/// A statement that reads.
pub enum ReadStatement {
    /// What coordinators plan.
    Plain(PlainRead),
    /// What the engine runs.
    Query(BoundQuery),
}

/// The read of a statement.
///
/// # Errors
/// INVALID_ARGUMENT: it changes tables. Those of [`parse`].
pub fn read_statement(text: &StatementText) -> Result<ReadStatement> {
    match parse(&text.sql)? {
        SqlStatement::Read(read) if text.parameters.is_none() => Ok(ReadStatement::Plain(read)),
        SqlStatement::Read(_) => Err(Error::invalid("the statement has no parameters, and values for some were bound")),
        SqlStatement::Query(query) => Ok(ReadStatement::Query(BoundQuery::new(query, text.parameters.clone()))),
        SqlStatement::Update(_) => Err(Error::invalid(
            "the statement changes tables, and this call only reads: send it by do_put, as execute_update of a Flight SQL client or of ADBC does",
        )),
    }
}

impl InfoCall<'_> {
    /// The encoded reply.
    ///
    /// # Errors
    /// Those of the statement, of planning, and of coordinators.
    pub async fn reply(&self, content: SqlContent) -> Result<Bytes> {
        let subject = self.subject(content)?;
        match self.request.method() {
            "GetSchema" => Ok(grpc::encode_message(&self.schema(&subject).await?)),
            "PollFlightInfo" => Ok(grpc::encode_message(&PollInfo {
                info: Some(self.flight_info(&subject).await?),
                flight_descriptor: None,
                progress: Some(1.0),
                expiration_time: None,
            })),
            _ => Ok(grpc::encode_message(&self.flight_info(&subject).await?)),
        }
    }

    fn subject(&self, content: SqlContent) -> Result<InfoSubject> {
        let headers = &self.request.head.headers;
        if content == SqlContent::Filter {
            let metadata = MetadataMap::from_headers(headers.clone());
            let request = TableRequest::from_descriptor(self.descriptor, &metadata)?.for_read()?;
            return Ok(InfoSubject::Read(read_forward::of_request(request), self.descriptor.clone()));
        }
        match sql_read(&self.descriptor.cmd, headers)? {
            SqlRead::Metadata(command) => Ok(InfoSubject::Metadata(command)),
            SqlRead::Statement(text) => match read_statement(&text)? {
                ReadStatement::Plain(read) => {
                    let planned = FlightDescriptor::new_cmd(read_forward::command(&read));
                    Ok(InfoSubject::Read(read, planned))
                }
                ReadStatement::Query(query) => {
                    check_query_headers(headers)?;
                    Ok(InfoSubject::Query(text.sql, query))
                }
            },
        }
    }

    async fn schema(&self, subject: &InfoSubject) -> Result<SchemaResult> {
        match subject {
            InfoSubject::Read(read, _) => read_forward::schema(self.caller, self.proxy, self.request, read).await,
            InfoSubject::Metadata(command) => Ok(SchemaResult { schema: schema_message(&command.schema())? }),
            InfoSubject::Query(_, query) => {
                let planned = plan(self.caller, query).await;
                self.caller.record_read("GetSchema", &query.table_names(), &planned);
                Ok(SchemaResult { schema: schema_message(&planned?.schema)? })
            }
        }
    }

    async fn flight_info(&self, subject: &InfoSubject) -> Result<FlightInfo> {
        match subject {
            InfoSubject::Read(read, planned) => {
                let descriptors = (planned, self.descriptor);
                read_forward::flight_info(self.caller, self.proxy, self.request, read, descriptors).await
            }
            InfoSubject::Metadata(command) => {
                let ticket = self.descriptor.cmd.clone();
                Ok(self.with_endpoint(schema_message(&command.schema())?, FlightEndpoint::default(), ticket))
            }
            InfoSubject::Query(sql, query) => {
                let info = self.query_info(sql, query).await;
                self.caller.record_read("GetFlightInfo", &query.table_names(), &info);
                info
            }
        }
    }

    /// The FlightInfo of a query: one endpoint, whose signed ticket any node redeems; those of its stored result, if that is large.
    async fn query_info(&self, sql: &str, query: &BoundQuery) -> Result<FlightInfo> {
        let call = ResultCall { caller: self.caller, proxy: self.proxy, request: self.request };
        let least = call.least_bytes()?;
        let planned = plan_sized(self.caller, query, least).await?;
        let schema = schema_message(&planned.schema)?;
        let is_large = planned.result_bytes.zip(least).is_some_and(|(bytes, least)| bytes >= least);
        if is_large && let Some(info) = call.flight_info(query, &planned, &schema).await? {
            let app_metadata = with_local_sockets(&planned.tables, &info.app_metadata);
            return Ok(FlightInfo { flight_descriptor: Some(self.descriptor.clone()), app_metadata, ..info });
        }
        let expires_ms = planned.expires_ms.unwrap_or_else(|| clock::now_ms() + TABLELESS_MS);
        let app_metadata = versions_json(&planned.tables).to_string().into();
        let mut ticket = cluster::Ticket {
            flight: rand::random(),
            expires_ms,
            query: Some(Query {
                sql: sql.into(),
                tables: planned.tables,
                parameters: query.parameters.clone().unwrap_or_default(),
                schema: schema.clone(),
                timeout_ms: self.caller.limit.ticket_ms(),
            }),
            ..cluster::Ticket::default()
        };
        self.caller.access.bind_ticket(&mut ticket, false);
        let signed = self.caller.context.get.cluster.ticket_key()?.sign(&ticket);
        Ok(FlightInfo { app_metadata, ..self.with_endpoint(schema, endpoint_until(expires_ms), signed.into()) })
    }

    /// A FlightInfo of one endpoint without a location: clients use the connection that they have.
    fn with_endpoint(&self, schema: Bytes, endpoint: FlightEndpoint, ticket: Bytes) -> FlightInfo {
        FlightInfo {
            schema,
            flight_descriptor: Some(self.descriptor.clone()),
            endpoint: vec![FlightEndpoint { ticket: Some(Ticket { ticket }), ..endpoint }],
            total_records: -1,
            total_bytes: -1,
            ordered: true,
            app_metadata: Bytes::new(),
        }
    }
}

/// The tables of a query and the versions that it reads, as JSON.
fn versions_json(tables: &[TableVersion]) -> Value {
    let table = |table: &TableVersion| json!({ "table": table.table.join("/"), "version": table.version });
    json!({ "tables": tables.iter().map(table).collect::<Vec<_>>() })
}

/// The same of a query with a stored result, with the local sockets that the plan of its result has.
fn with_local_sockets(tables: &[TableVersion], of_result: &[u8]) -> Bytes {
    let mut metadata = versions_json(tables);
    let of_result = serde_json::from_slice::<Value>(of_result).unwrap_or_default();
    if let Some(sockets) = of_result.get(LOCAL_KEY) {
        metadata[LOCAL_KEY] = sockets.clone();
    }
    metadata.to_string().into()
}

/// An endpoint that can be read until this time, in milliseconds since 1970.
fn endpoint_until(ms: u64) -> FlightEndpoint {
    let mut endpoint = FlightEndpoint::default();
    let expiry = endpoint.expiration_time.get_or_insert_default();
    expiry.seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    expiry.nanos = (ms % 1000) as i32 * 1_000_000;
    endpoint
}
