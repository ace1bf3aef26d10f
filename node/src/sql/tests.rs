//! SQL at a node of an open cluster that reaches no coordinator: queries that read no table.

use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::{
    ActionBeginTransactionRequest, ActionBeginTransactionResult, Any, CommandStatementQuery, ProstMessageExt,
};
use arrow_flight::utils::batches_to_flight_data;
use arrow_flight::{FlightData, FlightInfo, Ticket};
use futures::{StreamExt, TryStreamExt, stream};
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::Service;
use volley_common::clock;
use volley_common::identity::Access;
use volley_common::ipc::schema::parse_schema;
use volley_common::net::{ConnectionPool, MemberChannel};
use volley_common::wire::catalog::{Cancelled, WriteState};
use volley_sql::flight_sql::PreparedHandle;

use super::update::{UpdateCall, update_statement};
use super::*;
use crate::callers::tests::{TestUsers, client, with_token};
use crate::get::tests::cluster::{TestNode, key};
use crate::put::tests::cluster::InProcessCluster;
use crate::router::NodeRouter;

/// A query that runs for longer than any test.
const ENDLESS: &str = "WITH RECURSIVE n AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM n WHERE x < 1000000000000) SELECT count(*) AS c FROM n";

async fn node() -> (TestNode, FlightServiceClient<MemberChannel>) {
    let node = TestNode::serving(|node, request| {
        let mut router = NodeRouter::new(&node, Routes::default(), "");
        async move { router.call(request).await.unwrap_or_else(|never| match never {}) }
    })
    .await;
    let client = FlightServiceClient::new(ConnectionPool::new().channel(&node.addr).unwrap());
    (node, client)
}

fn command(sql: &str) -> FlightDescriptor {
    FlightDescriptor::new_cmd(serde_json::json!({ "sql": sql }).to_string())
}

async fn info(client: &mut FlightServiceClient<MemberChannel>, sql: &str) -> Result<FlightInfo, Status> {
    Ok(client.get_flight_info(command(sql)).await?.into_inner())
}

/// The first column of what a ticket gives.
async fn numbers(client: &mut FlightServiceClient<MemberChannel>, ticket: Ticket) -> Result<Vec<i64>, Status> {
    let data = client.do_get(ticket).await?.into_inner().map_err(FlightError::from);
    let batches = FlightRecordBatchStream::new_from_flight_data(data).try_collect::<Vec<_>>().await;
    let batches = batches.map_err(|error| match error {
        FlightError::Tonic(status) => *status,
        other => Status::internal(other.to_string()),
    })?;
    let column = |batch: &RecordBatch| batch.column(0).as_primitive::<Int64Type>().values().to_vec();
    Ok(batches.iter().flat_map(column).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn query_is_planned_and_its_ticket_gives_the_rows() {
    let (_node, mut client) = node().await;
    let sql = "SELECT 7 AS seven UNION ALL SELECT 8 ORDER BY seven";
    let info = info(&mut client, sql).await.unwrap();
    assert_eq!(info.flight_descriptor, Some(command(sql)));
    assert_eq!((info.total_records, info.endpoint.len(), info.endpoint[0].location.len()), (-1, 1, 0));
    assert_eq!(parse_schema(&info.schema).unwrap().field(0).name(), "seven");
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    for _ in 0..2 {
        assert_eq!(numbers(&mut client, ticket.clone()).await.unwrap(), [7, 8]);
    }
    let schema = client.get_schema(command(sql)).await.unwrap().into_inner();
    assert_eq!(schema.schema, info.schema);
    let poll = client.poll_flight_info(command(sql)).await.unwrap().into_inner();
    assert!(poll.flight_descriptor.is_none() && poll.progress == Some(1.0));
    assert_eq!(poll.info.unwrap().schema, info.schema);
}

/// The stack of an ordinary thread does not suffice for the type of the sum.
#[tokio::test(flavor = "multi_thread")]
async fn deep_expression_of_a_query_is_computed() {
    let (_node, mut client) = node().await;
    let sum = format!("value {}", "+ value ".repeat(320));
    let sql = format!("SELECT value FROM generate_series(1, 3) WHERE abs({sum}) > 900");
    let ticket = info(&mut client, &sql).await.unwrap().endpoint[0].ticket.clone().unwrap();
    assert_eq!(numbers(&mut client, ticket).await.unwrap(), [3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn statement_as_a_ticket_or_header_gives_the_rows() {
    let (_node, mut client) = node().await;
    let ticket = Ticket { ticket: br#"{"sql": "SELECT 7"}"#.to_vec().into() };
    assert_eq!(numbers(&mut client, ticket).await.unwrap(), [7]);
    let mut request = tonic::Request::new(FlightDescriptor::new_path(vec!["anything".into()]));
    request.metadata_mut().insert("x-volley-sql", "SELECT 9 AS nine".parse().unwrap());
    let info = client.get_flight_info(request).await.unwrap().into_inner();
    assert_eq!(numbers(&mut client, info.endpoint[0].ticket.clone().unwrap()).await.unwrap(), [9]);
}

/// The time limit of the session is in its cookie, and then in the ticket.
#[tokio::test(flavor = "multi_thread")]
async fn query_ends_with_the_time_of_its_session() {
    let (_node, mut client) = node().await;
    let with_cookie = |timeout: &str, sql: &str| {
        let mut request = tonic::Request::new(command(sql));
        let cookie = format!("arrow_flight_session_id=17.{timeout}");
        request.metadata_mut().insert("cookie", cookie.parse().unwrap());
        request
    };
    let hour = client.get_flight_info(with_cookie("i3600000", "SELECT 1")).await.unwrap().into_inner();
    let limit = |info: &FlightInfo| {
        let ticket = info.endpoint[0].ticket.clone().unwrap();
        key().verify(&ticket.ticket, 0).unwrap().query.unwrap().timeout_ms
    };
    assert_eq!(limit(&hour), 0, "that of the node");
    let info = client.get_flight_info(with_cookie("t2000", ENDLESS)).await.unwrap().into_inner();
    assert_eq!(limit(&info), 2000);
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), numbers(&mut client, ticket)).await.expect("it ends");
    let ended = ended.unwrap_err();
    assert!(ended.code() == Code::DeadlineExceeded && ended.message().contains("statement_timeout"), "{ended}");
    let mut request = tonic::Request::new(Ticket { ticket: serde_json::json!({ "sql": ENDLESS }).to_string().into() });
    request.metadata_mut().insert("cookie", "arrow_flight_session_id=17.d2000".parse().unwrap());
    let mut rows = client.do_get(request).await.unwrap().into_inner();
    rows.next().await.unwrap().unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), rows.next()).await.expect("it ends");
    assert_eq!(ended.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_and_cancelled_tickets_of_queries_are_refused() {
    let (node, mut client) = node().await;
    let info = info(&mut client, "SELECT 1").await.unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let mut forged = ticket.ticket.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let refused = numbers(&mut client, Ticket { ticket: forged.into() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let flight = key().verify(&ticket.ticket, 0).unwrap().flight;
    node.context.cluster.cancelled.add(&[Cancelled { flight, until_ms: clock::now_ms() + 60_000 }]);
    assert_eq!(numbers(&mut client, ticket).await.unwrap_err().code(), Code::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_flight_ends_its_running_query_at_once() {
    let (node, mut client) = node().await;
    let ticket = info(&mut client, ENDLESS).await.unwrap().endpoint[0].ticket.clone().unwrap();
    let flight = key().verify(&ticket.ticket, 0).unwrap().flight;
    let mut running = client.do_get(ticket).await.unwrap().into_inner();
    running.next().await.unwrap().unwrap();
    node.context.cluster.cancelled.add(&[Cancelled { flight, until_ms: clock::now_ms() + 60_000 }]);
    let ended = tokio::time::timeout(Duration::from_secs(10), running.next()).await.expect("the query ends");
    assert_eq!(ended.unwrap().unwrap_err().code(), Code::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn changing_statements_are_refused_where_only_reads_are() {
    let (_node, mut client) = node().await;
    let refused = info(&mut client, "DROP TABLE t").await.unwrap_err();
    assert!(refused.code() == Code::InvalidArgument && refused.message().contains("do_put"), "{refused}");
    let refused = info(&mut client, "SELEC 1").await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let first = FlightData { flight_descriptor: Some(command("SELECT 1")), ..FlightData::default() };
    let mut results = client.do_put(stream::iter([first])).await.unwrap().into_inner();
    let refused = results.next().await.unwrap().unwrap_err();
    assert!(refused.message().contains("get_flight_info"), "{refused}");
}

/// The command of a prepared statement that reads.
fn prepared_query(handle: &[u8]) -> FlightDescriptor {
    let field = |tag: u32, value: &[u8]| {
        let mut message = Vec::new();
        prost::encoding::bytes::encode(tag, &value.to_vec(), &mut message);
        message
    };
    let name = b"type.googleapis.com/arrow.flight.protocol.sql.CommandPreparedStatementQuery";
    FlightDescriptor::new_cmd([field(1, name), field(2, &field(1, handle))].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn query_runs_once_for_each_row_of_its_parameters() {
    let (_node, mut client) = node().await;
    let sql = "SELECT CAST($1 AS BIGINT) + value AS n FROM generate_series(1, 2)".to_string();
    let handle = PreparedHandle { sql, parameters: None, transaction: None }.encode().unwrap();
    let rows =
        |values: Vec<i64>| RecordBatch::try_from_iter([("1", Arc::new(Int64Array::from(values)) as ArrayRef)]).unwrap();
    let batches = vec![rows(vec![10, 20]), rows(vec![30])];
    let mut messages = batches_to_flight_data(&batches[0].schema(), batches.clone()).unwrap();
    messages[0].flight_descriptor = Some(prepared_query(&handle));
    let result = client.do_put(stream::iter(messages)).await.unwrap().into_inner().next().await.unwrap().unwrap();
    // The handle is the last field of the result.
    let at = result.app_metadata.windows(5).position(|bytes| bytes == b"VLYS1").unwrap();
    let bound = client.get_flight_info(prepared_query(&result.app_metadata[at..])).await.unwrap().into_inner();
    assert!(parse_schema(&bound.schema).unwrap().field(0).is_nullable());
    let ticket = bound.endpoint[0].ticket.clone().unwrap();
    assert_eq!(numbers(&mut client, ticket).await.unwrap(), [11, 12, 21, 22, 31, 32]);
    let unbound = client.get_flight_info(prepared_query(&handle)).await.unwrap().into_inner();
    let refused = numbers(&mut client, unbound.endpoint[0].ticket.clone().unwrap()).await.unwrap_err();
    assert!(refused.code() == Code::InvalidArgument && refused.message().contains("bind them"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn savepoints_are_refused_with_the_remedy() {
    let (_node, mut client) = node().await;
    for name in ["BeginSavepoint", "EndSavepoint"] {
        let refused = client.do_action(Action { r#type: name.into(), body: Bytes::new() }).await.unwrap_err();
        assert!(
            refused.code() == Code::Unimplemented && refused.message().contains("transaction"),
            "{name}: {refused}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_begins_without_a_coordinator_and_its_query_runs() {
    let (_node, mut client) = node().await;
    let body = ActionBeginTransactionRequest {}.as_any().encode_to_vec().into();
    let begun = client.do_action(Action { r#type: "BeginTransaction".into(), body }).await.unwrap().into_inner();
    let results: Vec<arrow_flight::Result> = begun.try_collect().await.unwrap();
    let result = Any::decode(results[0].body.clone()).unwrap().unpack::<ActionBeginTransactionResult>().unwrap();
    let transaction_id = Some(result.unwrap().transaction_id);
    let query =
        CommandStatementQuery { query: "SELECT 7 AS seven UNION ALL SELECT 8 ORDER BY seven".into(), transaction_id };
    let descriptor = FlightDescriptor::new_cmd(query.as_any().encode_to_vec());
    let info = client.get_flight_info(descriptor).await.unwrap().into_inner();
    assert_eq!(numbers(&mut client, info.endpoint[0].ticket.clone().unwrap()).await.unwrap(), [7, 8]);
    let foreign = CommandStatementQuery { transaction_id: Some("mine".into()), ..query };
    let refused =
        client.get_flight_info(FlightDescriptor::new_cmd(foreign.as_any().encode_to_vec())).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn ticket_of_a_query_is_for_its_own_principal() {
    let users = TestUsers::new();
    let node = users.node().await;
    let planned = client(&node).get_flight_info(with_token(command("SELECT 1"), &users.token("ann"))).await.unwrap();
    let ticket = planned.into_inner().endpoint[0].ticket.clone().unwrap();
    let refused = client(&node).do_get(with_token(ticket.clone(), &users.token("eve"))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    client(&node).do_get(with_token(ticket, &users.token("ann"))).await.unwrap();
    let nobody = client(&node).get_flight_info(command("SELECT 1")).await.unwrap_err();
    assert_eq!(nobody.code(), Code::Unauthenticated);
}

/// Creates the table of a statement at the node of a cluster. Returns how many rows it has.
async fn create(cluster: &InProcessCluster, sql: &str) -> Result<i64> {
    let context = &cluster.nodes[0].context;
    let mut request = http::Request::new(());
    request.extensions_mut().insert(Access::open());
    let (head, ()) = request.into_parts();
    let proxy = CoordinatorProxy::new(context.cluster.clone(), &context.pool, "");
    let caller = SqlCaller::of(context.sql.clone(), &head);
    let slot = context.put.resources.admit().unwrap();
    let call = UpdateCall { caller, proxy, head, slot, transaction: None };
    call.execute(update_statement(sql).unwrap(), Vec::new()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_query_become_a_table_by_one_put() {
    let cluster = InProcessCluster::start(1, &[&[0]], 1).await;
    assert_eq!(create(&cluster, "CREATE TABLE t AS SELECT 7 AS n UNION ALL SELECT 8").await.unwrap(), 2);
    assert_eq!(cluster.write().parts.iter().map(|part| part.rows).sum::<u64>(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn failure_of_a_query_rolls_its_table_back() {
    let cluster = InProcessCluster::start(1, &[&[0]], 1).await;
    let failing = "CREATE TABLE t AS SELECT 10 / (x - 8) AS n FROM (VALUES (7), (8)) AS v(x)";
    let error = create(&cluster, failing).await.unwrap_err();
    assert!(error.code == Code::InvalidArgument && !error.message.contains("broke"), "{error}");
    assert_eq!(cluster.write().state(), WriteState::Aborted);
}
