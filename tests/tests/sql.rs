//! SQL on a cluster of real processes, by the client of Flight SQL in arrow-flight and by plain Flight calls.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow_flight::error::FlightError;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{
    Any, CommandGetCatalogs, CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys,
    CommandGetImportedKeys, CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables,
    CommandGetXdbcTypeInfo, CommandStatementIngest, CommandStatementQuery, EndTransaction, ProstMessageExt,
    TableDefinitionOptions, TableExistsOption, TableNotExistOption,
};
use arrow_flight::{Action, CancelFlightInfoRequest, FlightDescriptor, FlightInfo};
use futures::{StreamExt, TryStreamExt, stream};
use prost::Message;
use volley_client::{Client, ClientChannel};
use volley_common::options::Options;
use volley_common::{Code, Error, Result};
use volley_tests::{ClusterOptions, TestCluster, rows};

/// A query that runs for longer than any test.
const ENDLESS: &str = "WITH RECURSIVE n AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM n WHERE x < 1000000000000) SELECT count(*) AS c FROM n";

type SqlClient = FlightSqlServiceClient<ClientChannel>;

async fn small_cluster() -> TestCluster {
    let options = ClusterOptions { coordinators: 1, nodes: 2, zones: 1, ..ClusterOptions::default() };
    TestCluster::start_with(options).await
}

fn sql_of(client: &Client) -> SqlClient {
    FlightSqlServiceClient::new_from_inner(client.flight())
}

/// The error of the server, which the client wraps.
fn server_error(error: FlightError) -> Error {
    match error {
        FlightError::Tonic(status) => Error::from(*status),
        other => panic!("{other}"),
    }
}

async fn update(client: &Client, statement: &str) -> Result<i64> {
    sql_of(client).execute_update(statement.into(), None).await.map_err(server_error)
}

async fn query(client: &Client, statement: &str) -> Result<Vec<RecordBatch>> {
    let info = sql_of(client).execute(statement.into(), None).await.map_err(server_error)?;
    read_all(client, info).await
}

/// All rows of a FlightInfo, endpoint by endpoint. A query's has no location: its ticket is redeemed where it was planned.
async fn read_all(client: &Client, info: FlightInfo) -> Result<Vec<RecordBatch>> {
    let mut batches = Vec::new();
    for endpoint in info.endpoint {
        let (schema, rows) = client.do_get(endpoint.ticket.unwrap()).await?;
        let promised = volley_common::ipc::schema::parse_schema(&info.schema)?;
        assert_eq!(schema, promised, "the stream has the schema of the FlightInfo");
        batches.extend(rows);
    }
    Ok(batches)
}

/// The integers of the first column.
fn numbers(batches: &[RecordBatch]) -> Vec<i64> {
    batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
}

async fn query_numbers(client: &Client, statement: &str) -> Vec<i64> {
    numbers(&query(client, statement).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn table_is_created_filled_queried_and_dropped_by_sql() {
    let mut cluster = small_cluster().await;
    for member in 0..2 {
        let client = match member {
            0 => cluster.client().await,
            _ => cluster.nodes[0].client().await,
        };
        let created = "CREATE TABLE s.t (id BIGINT NOT NULL, text VARCHAR) WITH (shards = 2)";
        assert_eq!(update(&client, created).await.unwrap(), 0);
        assert_eq!(update(&client, created).await.unwrap_err().code, Code::AlreadyExists);
        update(&client, "CREATE TABLE IF NOT EXISTS s.t (id BIGINT)").await.unwrap();
        assert_eq!(update(&client, "INSERT INTO s.t VALUES (1, 'one'), (2, NULL)").await.unwrap(), 2);
        assert_eq!(update(&client, "INSERT INTO s.t (id) SELECT id + 10 FROM s.t").await.unwrap(), 2);
        assert_eq!(query_numbers(&client, "SELECT id FROM s.t ORDER BY id").await, [1, 2, 11, 12]);
        assert_eq!(query_numbers(&client, "SELECT count(text) FROM s.t").await, [1], "a missing column is null");
        let refused = update(&client, "INSERT INTO s.t VALUES (1.5, 'x')").await.unwrap_err();
        assert!(refused.code == Code::InvalidArgument && refused.message.contains("\"id\""), "{refused}");
        let refused = update(&client, "INSERT INTO s.t (text) VALUES ('x')").await.unwrap_err();
        assert!(refused.message.contains("\"id\" cannot be null"), "{refused}");
        assert_eq!(update(&client, "CREATE TABLE s.copy AS SELECT id FROM s.t WHERE id > 2").await.unwrap(), 2);
        assert_eq!(query_numbers(&client, "SELECT sum(id) FROM s.copy").await, [23]);
        for table in ["s.t", "s.copy"] {
            assert_eq!(update(&client, &format!("DROP TABLE {table}")).await.unwrap(), 0);
            assert_eq!(
                query(&client, &format!("SELECT count(*) FROM {table}")).await.unwrap_err().code,
                Code::NotFound
            );
            assert_eq!(update(&client, &format!("DROP TABLE {table}")).await.unwrap_err().code, Code::NotFound);
            update(&client, &format!("DROP TABLE IF EXISTS {table}")).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn filtered_read_has_ordinary_endpoints_of_all_holders() {
    let mut cluster = small_cluster().await;
    let client = cluster.client().await;
    let options = Options { shards: Some(3), ..Options::default() };
    rows::put(&client, "t", &options, 0..10_000).await.unwrap();
    for member in ["coordinator", "node"] {
        let there = if member == "node" { cluster.nodes[1].client().await } else { cluster.client().await };
        let filtered = FlightDescriptor::new_cmd(r#"{"table": "t", "where": "id >= 9000 AND text IS NOT NULL"}"#);
        let info = there.info_of(filtered.clone()).await.unwrap();
        assert_eq!(info.flight_descriptor, Some(filtered));
        assert!(info.endpoint.iter().all(|endpoint| !endpoint.location.is_empty()), "{member}");
        let mut ids = rows::ids(&read_all(&there, info).await.unwrap());
        ids.sort_unstable();
        let expected: Vec<i64> = (9000..10_000).filter(|id| id % 7 != 0).collect();
        assert_eq!(ids, expected, "{member}");
        let mut by_sql = query_numbers(&there, "SELECT id FROM t WHERE id >= 9000 AND text IS NOT NULL").await;
        by_sql.sort_unstable();
        assert_eq!(by_sql, expected, "{member}");
        assert_eq!(query_numbers(&there, "SELECT id FROM t WHERE id > 5 LIMIT 3").await.len(), 3, "{member}");
        let wrong = FlightDescriptor::new_cmd(r#"{"table": "t", "where": "ID >= "}"#);
        assert_eq!(there.info_of(wrong).await.unwrap_err().code, Code::InvalidArgument, "{member}");
        let missing = FlightDescriptor::new_cmd(r#"{"table": "nowhere", "where": "id > 1"}"#);
        assert_eq!(there.info_of(missing).await.unwrap_err().code, Code::NotFound, "{member}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ticket_of_a_query_reads_its_versions_at_every_member() {
    let mut cluster = small_cluster().await;
    let client = cluster.client().await;
    let first = rows::put(&client, "t", &Options::default(), 0..1000).await.unwrap().version;
    let counted = "SELECT count(*) AS n FROM t JOIN t AS other ON t.id = other.id";
    let info = sql_of(&client).execute(counted.into(), None).await.unwrap();
    assert!(info.endpoint.len() == 1 && info.endpoint[0].location.is_empty());
    rows::put(&client, "t", &Options::default(), 0..10).await.unwrap();
    assert_eq!(query_numbers(&client, counted).await, [10]);
    for member in cluster.members() {
        let there = member.client().await;
        assert_eq!(numbers(&read_all(&there, info.clone()).await.unwrap()), [1000], "{}", member.name);
    }
    let earlier = format!("SELECT count(*) FROM t FOR VERSION AS OF {first}");
    assert_eq!(query_numbers(&client, &earlier).await, [1000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_statement_runs_with_its_parameters() {
    let mut cluster = small_cluster().await;
    let client = cluster.client().await;
    update(&client, "CREATE TABLE t (id BIGINT, text VARCHAR)").await.unwrap();
    let parameters = |ids: Vec<i64>, texts: Vec<&str>| {
        let columns: [(&str, Arc<dyn Array>); 2] =
            [("id", Arc::new(Int64Array::from(ids))), ("text", Arc::new(StringArray::from(texts)))];
        RecordBatch::try_from_iter(columns).unwrap()
    };
    let mut insert = sql_of(&client).prepare("INSERT INTO t VALUES ($1, $2)".into(), None).await.unwrap();
    let types: Vec<DataType> =
        insert.parameter_schema().unwrap().fields().iter().map(|field| field.data_type().clone()).collect();
    assert_eq!(types, [DataType::Int64, DataType::Utf8]);
    assert!(insert.dataset_schema().unwrap().fields().is_empty(), "it has no rows");
    for id in [1, 2] {
        insert.set_parameters(parameters(vec![id], vec!["text"])).unwrap();
        assert_eq!(insert.execute_update().await.unwrap(), 1);
    }
    insert.close().await.unwrap();
    let mut select = sql_of(&client).prepare("SELECT count(*) AS n FROM t WHERE id = $1".into(), None).await.unwrap();
    let expected = Schema::new(vec![Field::new("n", DataType::Int64, false)]);
    assert_eq!(select.dataset_schema().unwrap().fields(), expected.fields());
    for (id, count) in [(2, 1), (7, 0)] {
        let ids: Arc<dyn Array> = Arc::new(Int64Array::from(vec![id]));
        select.set_parameters(RecordBatch::try_from_iter([("id", ids)]).unwrap()).unwrap();
        let info = select.execute().await.unwrap();
        assert_eq!(numbers(&read_all(&client, info).await.unwrap()), [count]);
    }
}

fn ingest(table: &str, missing: TableNotExistOption, exists: TableExistsOption) -> CommandStatementIngest {
    CommandStatementIngest {
        table_definition_options: Some(TableDefinitionOptions {
            if_not_exist: missing.into(),
            if_exists: exists.into(),
        }),
        table: table.into(),
        schema: None,
        catalog: None,
        temporary: false,
        transaction_id: None,
        options: Default::default(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ingest_creates_appends_and_replaces_as_its_mode_says() {
    use TableExistsOption::{Append, Fail, Replace};
    use TableNotExistOption::{Create, Fail as FailIfMissing};
    let mut cluster = small_cluster().await;
    let client = cluster.client().await;
    let run = async |command: CommandStatementIngest| {
        let batches = stream::iter(rows::batches(0..20_000).into_iter().map(Ok));
        sql_of(&client).execute_ingest(command, batches).await.map_err(server_error)
    };
    let count = async || query_numbers(&client, "SELECT count(*) FROM t").await;
    assert_eq!(run(ingest("t", FailIfMissing, Append)).await.unwrap_err().code, Code::NotFound);
    assert_eq!(run(ingest("t", Create, Fail)).await.unwrap(), 20_000);
    assert_eq!(run(ingest("t", Create, Fail)).await.unwrap_err().code, Code::AlreadyExists);
    assert_eq!(run(ingest("t", FailIfMissing, Append)).await.unwrap(), 20_000);
    assert_eq!(count().await, [40_000]);
    assert_eq!(run(ingest("t", Create, Append)).await.unwrap(), 20_000);
    assert_eq!(count().await, [60_000]);
    assert_eq!(run(ingest("t", Create, Replace)).await.unwrap(), 20_000);
    assert_eq!(count().await, [20_000]);
    assert_eq!(run(ingest("other", Create, Append)).await.unwrap(), 20_000);
    let temporary = CommandStatementIngest { temporary: true, ..ingest("u", Create, Fail) };
    assert_eq!(run(temporary).await.unwrap(), 20_000);
    assert_eq!(query_numbers(&client, "SELECT count(*) FROM u").await, [20_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ingests_and_statements_of_a_transaction_end_with_it() {
    let mut cluster = small_cluster().await;
    let (one, other) = (cluster.client().await, cluster.nodes[0].client().await);
    for end in [EndTransaction::Rollback, EndTransaction::Commit] {
        let id = sql_of(&one).begin_transaction().await.unwrap();
        for client in [&one, &other] {
            let command = CommandStatementIngest {
                transaction_id: Some(id.clone()),
                ..ingest("t", TableNotExistOption::Create, TableExistsOption::Append)
            };
            let batches = stream::iter(rows::batches(0..20_000).into_iter().map(Ok));
            assert_eq!(sql_of(client).execute_ingest(command, batches).await.unwrap(), 20_000);
        }
        for (statement, written) in
            [("INSERT INTO t (id) VALUES (-1), (-2)", 2), ("CREATE TABLE u AS SELECT 7 AS x", 1)]
        {
            assert_eq!(sql_of(&other).execute_update(statement.into(), Some(id.clone())).await.unwrap(), written);
        }
        for table in ["t", "u"] {
            let counted = sql_of(&one).execute(format!("SELECT count(*) FROM {table}"), Some(id.clone())).await;
            assert_eq!(server_error(counted.unwrap_err()).code, Code::NotFound, "not even its own rows");
        }
        sql_of(&other).end_transaction(id.clone(), end).await.unwrap();
        let late = sql_of(&one).execute_update("INSERT INTO t (id) VALUES (1)".into(), Some(id)).await;
        let code = server_error(late.unwrap_err()).code;
        assert_eq!(code, if end == EndTransaction::Commit { Code::FailedPrecondition } else { Code::Aborted });
    }
    assert_eq!(query_numbers(&one, "SELECT count(*) FROM t").await, [40_002]);
    assert_eq!(query_numbers(&one, "SELECT count(*) FROM u").await, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_query_ends_on_the_node_that_runs_it() {
    let mut cluster = small_cluster().await;
    let (coordinator, node) = (cluster.client().await, cluster.nodes[0].client().await);
    let info = sql_of(&node).execute(ENDLESS.into(), None).await.unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let mut running = node.flight().do_get(ticket.clone()).await.unwrap().into_inner();
    running.next().await.unwrap().unwrap();
    let body = CancelFlightInfoRequest { info: Some(info) }.encode_to_vec().into();
    let action = Action { r#type: "CancelFlightInfo".into(), body };
    coordinator.flight().do_action(action).await.unwrap().into_inner().try_collect::<Vec<_>>().await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), running.next()).await.expect("the query ends");
    assert_eq!(ended.unwrap().unwrap_err().code(), Code::Cancelled);
    assert_eq!(node.do_get(ticket).await.unwrap_err().code, Code::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_commands_describe_the_tables() {
    let mut cluster = small_cluster().await;
    let client = cluster.client().await;
    rows::put(&client, "sales/orders", &Options::default(), 0..10).await.unwrap();
    let command = CommandGetTables {
        catalog: None,
        db_schema_filter_pattern: Some("sales".into()),
        table_name_filter_pattern: Some("ord%".into()),
        table_types: Vec::new(),
        include_schema: true,
    };
    let info = sql_of(&client).get_tables(command).await.unwrap();
    let tables = read_all(&client, info).await.unwrap();
    let column = |name: &str| tables[0].column_by_name(name).unwrap().as_string::<i32>().value(0).to_string();
    assert_eq!((column("db_schema_name"), column("table_name")), ("sales".into(), "orders".into()));
    let catalogs = sql_of(&client).get_catalogs().await.unwrap();
    let catalogs = read_all(&client, catalogs).await.unwrap();
    assert_eq!(catalogs[0].column(0).as_string::<i32>().value(0), "volley");
    let listed = query(&client, "SELECT table_name FROM information_schema.tables WHERE table_schema = 'sales'").await;
    assert_eq!(listed.unwrap().iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
}

/// One command of each kind that reads, and whether it has rows: there are no keys.
fn commands(table: &str) -> Vec<(Any, bool)> {
    let table = || table.to_string();
    let keys = [
        CommandGetPrimaryKeys { table: table(), ..Default::default() }.as_any(),
        CommandGetExportedKeys { table: table(), ..Default::default() }.as_any(),
        CommandGetImportedKeys { table: table(), ..Default::default() }.as_any(),
        CommandGetCrossReference { pk_table: table(), fk_table: table(), ..Default::default() }.as_any(),
    ];
    let tables = |include_schema| CommandGetTables { include_schema, ..Default::default() }.as_any();
    let query = |query: String| CommandStatementQuery { query, transaction_id: None }.as_any();
    let others = [
        CommandGetCatalogs {}.as_any(),
        CommandGetDbSchemas::default().as_any(),
        tables(false),
        tables(true),
        CommandGetTableTypes {}.as_any(),
        CommandGetSqlInfo::default().as_any(),
        CommandGetXdbcTypeInfo::default().as_any(),
        query(format!("SELECT id FROM {} WHERE id > 3", table())),
        query(format!("SELECT text, count(*) AS n FROM {} GROUP BY text", table())),
    ];
    keys.into_iter().map(|command| (command, false)).chain(others.into_iter().map(|command| (command, true))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn schema_of_every_command_is_that_of_its_rows() {
    let mut cluster = small_cluster().await;
    rows::put(&cluster.client().await, "t", &Options::default(), 0..10).await.unwrap();
    for member in cluster.members() {
        let client = member.client().await;
        for (command, has_rows) in commands("t") {
            let descriptor = FlightDescriptor::new_cmd(command.encode_to_vec());
            let schema = client.flight().get_schema(descriptor.clone()).await.unwrap().into_inner();
            let info = client.info_of(descriptor).await.unwrap();
            assert_eq!(schema.schema, info.schema, "{}: {command:?}", member.name);
            // It compares the schema of the rows with that of the FlightInfo.
            let batches = read_all(&client, info).await.unwrap();
            let count: usize = batches.iter().map(RecordBatch::num_rows).sum();
            assert_eq!(count > 0, has_rows, "{}: {command:?}", member.name);
        }
    }
}
