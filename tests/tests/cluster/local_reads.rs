//! Reads by files: a client on the machine of the nodes, whose batches are the mapped parts.

use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use futures::TryStreamExt;
use tempfile::TempDir;
use volley_client::{Client, FetchOptions, LocalMode, LocalReadCounts};
use volley_common::options::{Codec, Options};
use volley_tests::cluster::ClusterOptions;
use volley_tests::process::ServerProcess;
use volley_tests::{TestCluster, rows, wait_for};

const SOON: Duration = Duration::from_secs(60);

/// A cluster whose nodes have local sockets, and their folder.
async fn start(nodes: usize) -> (TestCluster, TempDir) {
    let sockets = tempfile::tempdir().unwrap();
    let flags = ["--local-socket".to_string(), format!("{}/{{name}}.sock", sockets.path().display())];
    let options = ClusterOptions { coordinators: 1, nodes, node_flags: flags.to_vec(), ..ClusterOptions::default() };
    (TestCluster::start_with(options).await, sockets)
}

async fn read(client: &Client, options: &Options) -> Vec<i64> {
    let (_, batches) = client.get_all(&rows::name("t"), options).await.unwrap();
    rows::ids(&batches)
}

async fn all_alive(cluster: &TestCluster) {
    let nodes = cluster.nodes.len();
    let alive = async || (cluster.nodes_alive().await == Some(nodes)).then_some(());
    wait_for(SOON, "every node is alive", alive).await;
}

/// What came of local reads since `before`.
fn since(client: &Client, before: &LocalReadCounts) -> (u64, u64) {
    let now = client.local_reads();
    assert_eq!(now.fallbacks, before.fallbacks);
    (now.endpoints - before.endpoints, now.rows - before.rows)
}

/// A counter of a node.
pub(super) async fn counter(node: &ServerProcess, name: &str) -> u64 {
    let (_, text) = node.http("/metrics").await.unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_columns_on_this_machine_are_read_by_files() {
    let (mut cluster, _sockets) = start(3).await;
    let client = cluster.client().await;
    let options = Options { shards: Some(4), ..Options::default() };
    rows::put(&client, "t", &options, 0..200_000).await.unwrap();
    let info = client.info(&rows::name("t"), &Options::default()).await.unwrap();
    let endpoints = info.endpoint.len() as u64;
    let none = client.local_reads();
    assert_eq!(read(&client, &Options::default()).await, Vec::from_iter(0..200_000));
    assert_eq!(since(&client, &none), (endpoints, 200_000));

    let before = client.local_reads();
    let columns = Options { columns: Some(vec!["id".into()]), ..Options::default() };
    let (schema, batches) = client.get_all(&rows::name("t"), &columns).await.unwrap();
    let ids = batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec());
    assert_eq!((schema.fields().len(), ids.collect::<Vec<i64>>()), (1, Vec::from_iter(0..200_000)));
    assert_eq!(since(&client, &before), (endpoints, 200_000));

    let before = client.local_reads();
    let limited = Options { limit: Some(1234), ..Options::default() };
    assert_eq!(read(&client, &limited).await, Vec::from_iter(0..1234));
    assert_eq!(since(&client, &before), (1, 1234));

    // Rows that a filter selects come by the wire, and nobody tries anything else.
    let before = client.local_reads();
    let filtered = Options { filter: Some("id < 10".into()), ..Options::default() };
    assert_eq!(read(&client, &filtered).await, Vec::from_iter(0..10));
    assert_eq!(since(&client, &before), (0, 0));

    let mut served = 0;
    for node in &cluster.nodes {
        served += counter(node, "volley_local_reads_total").await;
    }
    assert_eq!(served, 2 * endpoints + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_outlive_the_parts_that_they_are_of() {
    let (mut cluster, _sockets) = start(1).await;
    let client = cluster.client().await;
    let options = Options { retention_s: Some(10), ..Options::default() };
    rows::put(&client, "t", &options, 0..50_000).await.unwrap();
    let (_, first) = client.get_all(&rows::name("t"), &Options::default()).await.unwrap();
    let old = Options { version: Some(1), ..Options::default() };
    rows::put(&client, "t", &options, 7..8).await.unwrap();
    assert_eq!(read(&client, &Options::default()).await, [7]);
    assert_eq!(since(&client, &LocalReadCounts::default()).1, 50_001);
    let removed = async || client.get_all(&rows::name("t"), &old).await.err();
    wait_for(SOON, "the first version expires", removed).await;
    let files = || cluster.part_files().len();
    wait_for(SOON, "its parts are removed", async || (files() == 1).then_some(())).await;
    assert_eq!(rows::ids(&first), Vec::from_iter(0..50_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_and_preserved_tables_are_equal_by_files() {
    let (mut cluster, _sockets) = start(2).await;
    let client = cluster.client().await;
    let wire = Client::builder().address(client.address()).local(LocalMode::Never).connect().await.unwrap();
    for (table, options) in [
        ("lz4", Options { compression: Some(Codec::Lz4), ..Options::default() }),
        ("zstd", Options { compression: Some(Codec::Zstd), ..Options::default() }),
        ("preserved", Options { preserve_batches: Some(true), ..Options::default() }),
    ] {
        rows::put(&client, table, &options, 0..30_000).await.unwrap();
        let name = rows::name(table);
        let before = client.local_reads();
        let read = async |client: &Client| -> (Vec<RecordBatch>, _) {
            let stream = client.get(&name, &Options::default(), FetchOptions::default()).await.unwrap();
            let schema = stream.schema.clone();
            (stream.map_ok(|fetched| fetched.batch).try_collect().await.unwrap(), schema)
        };
        let (by_files, by_wire) = (read(&client).await, read(&wire).await);
        assert_eq!(by_files, by_wire);
        assert_eq!(since(&client, &before).1, 30_000);
    }
    assert_eq!(wire.local_reads(), LocalReadCounts::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn hung_and_restarted_nodes_cost_no_row() {
    let (mut cluster, _sockets) = start(3).await;
    let client = cluster.client().await;
    let options = Options { shards: Some(4), replicas: Some(2), ..Options::default() };
    rows::put(&client, "t", &options, 0..50_000).await.unwrap();
    cluster.nodes[0].pause();
    assert_eq!(read(&client, &Options::default()).await, Vec::from_iter(0..50_000));
    cluster.nodes[0].resume();
    all_alive(&cluster).await;
    // Its socket is a new one, of which the next plans tell.
    cluster.nodes[0].kill();
    cluster.nodes[0].restart().await;
    all_alive(&cluster).await;
    let by_files = async || {
        let before = client.local_reads();
        assert_eq!(read(&client, &Options::default()).await, Vec::from_iter(0..50_000));
        (client.local_reads().rows - before.rows == 50_000).then_some(())
    };
    wait_for(SOON, "all endpoints are read by files again", by_files).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn socket_goes_with_its_node() {
    let (mut cluster, sockets) = start(1).await;
    let path = sockets.path().join("node1.sock");
    assert!(path.exists());
    let second = cluster.add_node();
    second.set_flag("--local-socket", path.to_str().unwrap());
    let reason = second.start_fails().await;
    assert!(reason.contains("another process listens there"), "{reason}");
    assert!(cluster.nodes[0].stop().await.success());
    assert!(!path.exists());
}
