//! Queries on several nodes: nodes that are lost in the middle of one, and queries that nobody reads any more.

use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use arrow_flight::Ticket;
use futures::{StreamExt, TryStreamExt};
use volley_client::{Client, FetchOptions};
use volley_common::options::Options;
use volley_common::{Code, Result};
use volley_tests::process::ServerProcess;
use volley_tests::text_rows::text_rows;
use volley_tests::{ClusterOptions, TestCluster, rows, wait_for};

const SOON: Duration = Duration::from_secs(30);
/// How many rows the table `t` has.
const ROWS: i64 = 100_000;

/// A cluster whose nodes share every query, with a table of eight shards.
async fn sharing_cluster() -> TestCluster {
    let node_flags = ["--sql-distribute-bytes", "0", "--sql-partitions", "2"].map(String::from).to_vec();
    let options = ClusterOptions { coordinators: 1, nodes: 4, node_flags, ..ClusterOptions::default() };
    let mut cluster = TestCluster::start_with(options).await;
    let options = Options { shards: Some(8), shard_by: Some(vec!["id".into()]), ..Options::default() };
    rows::put(&cluster.client().await, "t", &options, 0..ROWS).await.unwrap();
    // A node whose engine still starts does not answer in time, and takes no part.
    let client = cluster.nodes[0].client().await;
    wait_for(SOON, "all nodes take part", async || plan(&client).await.contains("t3 on node").then_some(())).await;
    cluster
}

/// The plan of a join of the table with itself.
async fn plan(client: &Client) -> String {
    let plan = query(client, "EXPLAIN SELECT count(*) FROM t a JOIN t b ON a.id = b.id").await.unwrap();
    text_rows(&plan).concat().join("\n")
}

async fn query(client: &Client, sql: &str) -> Result<Vec<RecordBatch>> {
    let rows = client.query(sql, FetchOptions::default()).await?;
    rows.map_ok(|fetched| fetched.batch).try_collect().await
}

/// The number of rows and the sum of a join of the table with itself.
async fn joined(client: &Client) -> Result<(i64, i64)> {
    let batches = query(client, "SELECT count(*), sum(b.id) FROM t a JOIN t b ON a.id = b.id + 1").await?;
    let value = |column: usize| batches[0].column(column).as_primitive::<Int64Type>().value(0);
    Ok((value(0), value(1)))
}

const EXPECTED: (i64, i64) = (ROWS - 1, (ROWS - 1) * (ROWS - 2) / 2);

#[tokio::test(flavor = "multi_thread")]
async fn plan_shows_the_nodes_of_its_tasks() {
    let cluster = sharing_cluster().await;
    let client = cluster.nodes[1].client().await;
    let plan = plan(&client).await;
    for part in ["t0 on node", "[Stage 1] => Network", "PartScanExec"] {
        assert!(plan.contains(part), "{part}: {plan}");
    }
    assert_eq!(joined(&client).await.unwrap(), EXPECTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn query_is_right_or_unavailable_when_a_node_is_killed() {
    let mut cluster = sharing_cluster().await;
    let client = cluster.nodes[0].client().await;
    assert_eq!(joined(&client).await.unwrap(), EXPECTED);
    for victim in [3, 2] {
        let killed = async {
            tokio::task::yield_now().await;
            cluster.nodes[victim].kill();
        };
        let (outcome, ()) = tokio::join!(joined(&client), killed);
        match outcome {
            Ok(found) => assert_eq!(found, EXPECTED),
            Err(error) => assert_eq!(error.code, Code::Unavailable, "{error}"),
        }
        // Parts of which the killed node was a holder are read from the other ones.
        wait_for(SOON, "queries are answered by the other nodes", async || {
            let found = joined(&client).await.ok()?;
            assert_eq!(found, EXPECTED);
            Some(())
        })
        .await;
        cluster.nodes[victim].restart().await;
        cluster.settle().await;
    }
}

/// How many tasks of other nodes' queries run on a node, by its metrics.
async fn tasks_on(node: &ServerProcess) -> f64 {
    let (_, metrics) = node.http("/metrics").await.unwrap();
    let value = metrics.lines().find_map(|line| line.strip_prefix("volley_query_tasks "));
    value.map_or(0.0, |value| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn query_that_nobody_reads_ends_on_all_nodes() {
    let cluster = sharing_cluster().await;
    let client = cluster.nodes[0].client().await;
    // Compares 10,000,000,000 pairs of rows.
    let endless = r#"{"sql": "SELECT count(*) FROM t a JOIN t b ON a.id * b.id < a.id - b.id - 200000"}"#;
    let mut running = client.flight().do_get(Ticket::new(endless)).await.unwrap().into_inner();
    running.next().await.unwrap().unwrap();
    for node in &cluster.nodes[1..] {
        wait_for(SOON, "tasks run on every node", async || (tasks_on(node).await > 0.0).then_some(())).await;
    }
    drop(running);
    for node in &cluster.nodes[1..] {
        wait_for(SOON, "all tasks have ended", async || (tasks_on(node).await == 0.0).then_some(())).await;
    }
    assert_eq!(joined(&client).await.unwrap(), EXPECTED);
}
