//! Limits that are settings, each exceeded at a cluster of real processes. docs/limits.md lists all of them.

use std::time::Duration;

use arrow_flight::{FlightData, Ticket};
use futures::channel::oneshot;
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use volley_client::Client;
use volley_common::options::Options;
use volley_common::{Code, Result};
use volley_tests::{ClusterOptions, TestCluster, rows, wait_for};

async fn limited(coordinator_flags: &[&str], node_flags: &[&str]) -> TestCluster {
    let owned = |flags: &[&str]| flags.iter().map(|flag| flag.to_string()).collect::<Vec<String>>();
    let (coordinator_flags, node_flags) = (owned(coordinator_flags), owned(node_flags));
    let options =
        ClusterOptions { coordinators: 1, nodes: 1, coordinator_flags, node_flags, ..ClusterOptions::default() };
    TestCluster::start_with(options).await
}

async fn create(client: &Client, table: &str, columns: &[&str]) -> Result<Value> {
    let fields: Vec<Value> = columns.iter().map(|name| json!({ "name": name, "type": "int64" })).collect();
    client.action("create_table", &json!({ "table": table, "fields": fields })).await
}

fn exhausted<T>(result: Result<T>, setting: &str) {
    let error = result.err().unwrap();
    assert!(error.code == Code::ResourceExhausted && error.message.contains(setting), "{setting}: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn catalog_refuses_what_exceeds_its_settings() {
    let flags = [
        ["--max-tables", "2"],
        ["--max-columns", "4"],
        ["--max-column-name-bytes", "20"],
        ["--max-open-writes", "1"],
        ["--max-parts-per-write", "3"],
    ];
    let mut cluster = limited(&flags.concat(), &[]).await;
    let client = cluster.client().await;
    exhausted(create(&client, "wide", &["a", "b", "c", "d", "e"]).await, "max_columns");
    exhausted(create(&client, "long", &["a column of 21 bytes."]).await, "max_column_name_bytes");
    create(&client, "a", &["id"]).await.unwrap();
    create(&client, "b", &["a", "b", "c", "d"]).await.unwrap();
    exhausted(create(&client, "c", &["id"]).await, "max_tables");

    let begin = async |table: &str| client.action("begin_write", &json!({ "table": table, "mode": "append" })).await;
    let first = begin("a").await.unwrap();
    exhausted(begin("b").await, "max_open_writes");
    exhausted(rows::put(&client, "b", &Options::default(), 0..5).await, "max_open_writes");
    client.action("abort_write", &json!({ "write_id": first["write_id"] })).await.unwrap();

    // A part for each shard.
    let keyed = |shards| Options { shards: Some(shards), shard_by: Some(vec!["id".into()]), ..Options::default() };
    exhausted(rows::put(&client, "a", &keyed(8), 0..1000).await, "max_parts_per_write");
    // The node aborts the refused write.
    let put = async || rows::put(&client, "b", &keyed(2), 0..1000).await.ok();
    wait_for(Duration::from_secs(10), "another write can be open", put).await;
    assert_eq!(rows::get_sorted(&client, "b").await.unwrap(), Vec::from_iter(0..1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_in_progress_are_limited_for_each_client() {
    let mut cluster = limited(&[], &["--max-calls", "4", "--max-calls-per-principal", "2"]).await;
    let node = cluster.nodes[0].client().await;
    let open = async || {
        let (end, ended) = oneshot::channel::<()>();
        let silent = stream::pending::<FlightData>().take_until(ended);
        (node.flight().do_put(silent).await.unwrap(), end)
    };
    let held = [open().await, open().await];
    let status = node.flight().do_get(Ticket::new("{\"table\": \"t\"}")).await.unwrap_err();
    assert!(status.message().contains("max_calls_per_principal"), "{status}");
    for key in ["grpc-retry-pushback-ms", "retry-after-ms"] {
        assert!(status.metadata().contains_key(key), "{key} in {status:?}");
    }
    drop(held);
    let put = async || rows::put(&node, "t", &Options::default(), 0..10).await.ok();
    wait_for(Duration::from_secs(10), "the calls have ended", put).await;
    assert_eq!(rows::get(&cluster.client().await, "t").await.unwrap().len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn ticket_and_list_are_no_longer_than_their_limits() {
    let mut cluster = limited(&["--max-ticket-ms", "5000", "--max-result-rows", "2"], &[]).await;
    let client = cluster.client().await;
    rows::put(&client, "x/t", &Options::default(), 0..10).await.unwrap();
    let info = client.info(&rows::name("x/t"), &Options::default()).await.unwrap();
    let expires = info.endpoint[0].expiration_time.unwrap();
    assert!(expires.seconds as u64 * 1000 <= volley_common::clock::now_ms() + 5_000, "{expires:?}");
    for table in ["y/a", "y/b"] {
        create(&client, table, &["id"]).await.unwrap();
    }
    exhausted(client.action("list_tables", &json!({})).await, "\"prefix\"");
    let listed = client.action("list_tables", &json!({ "prefix": "y/" })).await.unwrap();
    assert_eq!(listed["tables"].as_array().unwrap().len(), 2);
}
