//! What the catalog keeps, restores and refuses: old versions, dropped tables, options, limits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use futures::stream;
use serde_json::{Value, json};
use volley_client::Client;
use volley_common::options::{Mode, Options};
use volley_common::{Code, Error, Result};
use volley_tests::process::ServerProcess;
use volley_tests::{ClusterOptions, TestCluster, rows};

async fn small_cluster() -> TestCluster {
    TestCluster::start_with(ClusterOptions { coordinators: 3, nodes: 3, ..ClusterOptions::default() }).await
}

async fn put(client: &Client, table: &str, mode: Mode, ids: std::ops::Range<i64>) {
    rows::put(client, table, &Options { mode: Some(mode), ..Options::default() }, ids).await.unwrap();
}

async fn restore(client: &Client, body: Value) -> Result<Value> {
    client.action("restore_version", &body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn old_version_and_dropped_table_are_restored() {
    let mut cluster = small_cluster().await;
    let client = cluster.client().await;
    put(&client, "a/t", Mode::Replace, 0..100).await;
    put(&client, "a/t", Mode::Replace, 500..510).await;
    let restored = restore(&client, json!({ "table": "a/t", "version": 1 })).await.unwrap();
    let of = |key: &str| restored[key].clone();
    assert_eq!((of("version"), of("restored"), of("replaced"), of("rows")), (json!(3), json!(1), json!(2), json!(100)));
    for member in [&cluster.coordinators[1], &cluster.nodes[2]] {
        assert_eq!(rows::get(&member.client().await, "a/t").await.unwrap(), (0..100).collect::<Vec<_>>());
    }
    let versions = client.action("list_versions", &json!({ "table": "a/t" })).await.unwrap();
    let kinds: Vec<&Value> =
        versions["versions"].as_array().unwrap().iter().map(|v| &v["replaced_by"]["kind"]).collect();
    assert_eq!(kinds, [&Value::Null, &json!("restore"), &json!("replace")]);

    let dropped = client.drop_table(&rows::name("a/t")).await.unwrap();
    assert!(dropped["restorable_until_ms"].is_u64(), "{dropped}");
    let error = rows::get(&client, "a/t").await.unwrap_err();
    assert!(error.code == Code::NotFound && error.message.contains("restore_version"), "{error}");
    put(&client, "a/t", Mode::Create, 900..901).await;
    let error = restore(&client, json!({ "table": "a/t" })).await.unwrap_err();
    assert!(error.code == Code::AlreadyExists && error.message.contains("\"a/t\""), "{error}");
    put(&client, "b", Mode::Create, 0..7).await;
    client.drop_table(&rows::name("b")).await.unwrap();
    let restored = restore(&client, json!({ "table": "b" })).await.unwrap();
    assert_eq!((&restored["undropped"], &restored["version"], &restored["rows"]), (&json!(true), &json!(1), &json!(7)));
    assert_eq!(rows::get(&client, "b").await.unwrap(), (0..7).collect::<Vec<_>>());
    let error = restore(&client, json!({ "table": "b", "verison": 1 })).await.unwrap_err();
    assert!(error.message.contains("verison"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_version_is_read_with_its_own_columns() {
    let mut cluster = small_cluster().await;
    let client = cluster.client().await;
    put(&client, "t", Mode::Replace, 0..5).await;
    // The same names in another order, and one more.
    let schema = Arc::new(Schema::new(vec![
        Field::new("text", DataType::Utf8, true),
        Field::new("id", DataType::Int64, false),
        Field::new("new", DataType::Int64, false),
    ]));
    let numbers = || Arc::new(Int64Array::from(vec![7]));
    let columns: Vec<arrow::array::ArrayRef> = vec![Arc::new(StringArray::from(vec!["x"])), numbers(), numbers()];
    let batch = RecordBatch::try_new(schema.clone(), columns).unwrap();
    client.put(&rows::name("t"), &Options::default(), schema, stream::iter([Ok(batch)])).await.unwrap();

    let read = async |member: &Client, columns: &[&str]| {
        let columns = Some(columns.iter().map(|column| column.to_string()).collect());
        member.get_all(&rows::name("t"), &Options { version: Some(1), columns, ..Options::default() }).await
    };
    for member in [&cluster.coordinators[0], &cluster.nodes[1]] {
        let member = member.client().await;
        let (schema, batches) = read(&member, &["text", "id"]).await.unwrap();
        let names: Vec<&String> = schema.fields().iter().map(|field| field.name()).collect();
        assert_eq!(names, ["text", "id"]);
        let turned: Vec<RecordBatch> = batches.iter().map(|batch| batch.project(&[1, 0]).unwrap()).collect();
        assert_eq!(rows::ids(&turned), [0, 1, 2, 3, 4]);
        let error = read(&member, &["new"]).await.unwrap_err();
        assert!(error.code == Code::InvalidArgument && error.message.contains("\"new\""), "{error}");
    }
    let all = Options { version: Some(1), ..Options::default() };
    let (schema, batches) = client.get_all(&rows::name("t"), &all).await.unwrap();
    assert_eq!((schema, rows::ids(&batches)), (rows::schema(), vec![0, 1, 2, 3, 4]));
    restore(&client, json!({ "table": "t", "version": 1 })).await.unwrap();
    assert_eq!(rows::get(&client, "t").await.unwrap(), [0, 1, 2, 3, 4]);
}

/// The error of a request whose options belong to another one.
fn refused<T>(result: Result<T>, option: &str) {
    let error: Error = result.err().unwrap();
    assert!(error.code == Code::InvalidArgument && error.message.contains(option), "{option}: {error}");
    assert!(error.message.contains("belongs to"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn options_without_effect_are_refused_by_every_member() {
    let mut cluster = small_cluster().await;
    let client = cluster.client().await;
    put(&client, "t", Mode::Replace, 0..5).await;
    let limit = Options { limit: Some(3), ..Options::default() };
    let shards = Options { shards: Some(3), ..Options::default() };
    for member in [&cluster.coordinators[0], &cluster.nodes[0]] {
        let member = member.client().await;
        refused(rows::put(&member, "t", &limit, 0..5).await, "limit");
        refused(member.info(&rows::name("t"), &shards).await, "shards");
        let ticket = arrow_flight::Ticket { ticket: r#"{"table": "t", "mode": "append"}"#.into() };
        refused(member.do_get(ticket).await, "mode");
        refused(member.action("begin_write", &json!({ "table": "t", "version": 1 })).await, "version");
    }
    assert_eq!(rows::get(&client, "t").await.unwrap().len(), 5);
    let many = Options { replicas: Some(9), ..Options::default() };
    for member in [&cluster.coordinators[0], &cluster.nodes[0]] {
        let (member, start) = (member.client().await, Instant::now());
        let error = rows::put(&member, "u", &many, 0..5).await.unwrap_err();
        assert_eq!(error.code, Code::FailedPrecondition, "{error}");
        assert!(error.message.contains("9 replicas need 5") && !error.message.contains("no coordinator"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn table_with_one_endpoint_is_read_whole_and_in_order() {
    let mut cluster = small_cluster().await;
    let client = cluster.client().await;
    let options = Options { max_endpoints: Some(1), shards: Some(3), ..Options::default() };
    rows::put(&client, "t", &options, 0..30).await.unwrap();
    for start in [30, 60] {
        put(&client, "t", Mode::Append, start..start + 30).await;
    }
    for member in [&cluster.coordinators[0], &cluster.coordinators[2], &cluster.nodes[0]] {
        let member = member.client().await;
        let info = member.info(&rows::name("t"), &Options::default()).await.unwrap();
        assert_eq!((info.endpoint.len(), info.total_records, info.ordered), (1, 90, true));
        // As R does: the first endpoint, at the member that was asked.
        let (_, batches) = member.do_get(info.endpoint[0].ticket.clone().unwrap()).await.unwrap();
        assert_eq!(rows::ids(&batches), (0..90).collect::<Vec<_>>());
    }
    let other = Options { mode: Some(Mode::Append), max_endpoints: Some(2), ..Options::default() };
    let error = rows::put(&client, "t", &other, 0..1).await.unwrap_err();
    assert!(error.message.contains("max_endpoints = 1"), "{error}");
}

/// Anonymous memory of a process, KiB.
fn anonymous_kib(process: &ServerProcess) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid().unwrap())).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_tables_and_requests_end_in_an_error() {
    let mut cluster = small_cluster().await;
    let client = cluster.client().await;
    let create = async |name: &str, shards: u32, fields: Value| {
        client.action("create_table", &json!({ "table": name, "shards": shards, "fields": fields })).await
    };
    let error = create("deep", 1, json!([{ "name": "x", "type": "List(".repeat(2000) }])).await.unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument, "{error}");
    let long = create("long", 1, json!([{ "name": "x".repeat(7 << 20), "type": "nonsense" }])).await.unwrap_err();
    assert!(long.code == Code::InvalidArgument && long.message.len() < 4096, "{} bytes", long.message.len());

    let field = |at: usize| json!({ "name": format!("c{at}"), "type": "int64" });
    create("wide", 1, (0..10_000).map(field).collect()).await.unwrap();
    let start = Instant::now();
    let columns = Some((0..60_000).map(|at| format!("column number {at}")).collect());
    let many = Options { columns, ..Options::default() };
    let error = client.info(&rows::name("wide"), &many).await.unwrap_err();
    assert!(error.code == Code::InvalidArgument && error.message.contains("60000 columns"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());

    // Tables of many shards take hardly any space until they have rows.
    let before = cluster.coordinators.iter().map(anonymous_kib).max().unwrap();
    let mut created = 0;
    let error = loop {
        match create(&format!("many/{created}"), 4096, json!([{ "name": "id", "type": "int64" }])).await {
            Ok(_) => created += 1,
            Err(error) => break error,
        }
    };
    assert!(error.code == Code::ResourceExhausted && error.message.contains("copies of shards"), "{error}");
    assert!((100..130).contains(&created), "{created} tables");
    let grown = cluster.coordinators.iter().map(anonymous_kib).max().unwrap().saturating_sub(before);
    assert!(grown < 32 << 10, "{grown} KiB for {created} empty tables");
    // The first write places the table.
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
    let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from(vec![1, 2]))]).unwrap();
    let append = Options { mode: Some(Mode::Append), ..Options::default() };
    client.put(&rows::name("many/0"), &append, schema, stream::iter([Ok(batch)])).await.unwrap();
    let explained = client.action("explain", &json!({ "table": "many/0" })).await.unwrap();
    let placed = explained["shards"][0]["placed"].as_array().unwrap().len();
    assert_eq!((placed, explained["shards"].as_array().unwrap().len()), (2, 4096));
}
