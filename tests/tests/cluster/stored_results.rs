//! Large results of queries, which are stored and read from all nodes, and what is left of those that fail or are cancelled.

use std::path::PathBuf;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use arrow_flight::{Action, CancelFlightInfoRequest, FlightDescriptor, FlightInfo};
use futures::TryStreamExt;
use prost::Message;
use serde_json::json;
use tonic::Request;
use volley_client::{Client, FetchOptions};
use volley_common::options::Options;
use volley_common::{Code, Result};
use volley_tests::process::ServerProcess;
use volley_tests::{ClusterOptions, TestCluster, rows, wait_for};

const SOON: Duration = Duration::from_secs(60);
/// How many rows the table `t` has.
const ROWS: i64 = 50_000;
/// A query of the engine with as many rows as the table.
const SORTED: &str = "SELECT id, id + 1 AS more FROM t ORDER BY id DESC";
/// One whose rows are expected to be as many, and that compares 2,500,000,000 pairs of rows before the first.
const ENDLESS: &str =
    "SELECT id, id + 1 AS more FROM t a WHERE EXISTS (SELECT 1 FROM t b WHERE a.id * b.id < a.id - b.id - 200000)";

/// One coordinator and three nodes with small blocks, which store every result whose size they can tell.
async fn storing_cluster() -> TestCluster {
    let node_config = "block_bytes = 65536\nsql_result_bytes = 1\n".into();
    let options = ClusterOptions { coordinators: 1, nodes: 3, node_config, ..ClusterOptions::default() };
    let mut cluster = TestCluster::start_with(options).await;
    rows::put(&cluster.client().await, "t", &Options::default(), 0..ROWS).await.unwrap();
    cluster
}

fn descriptor(sql: &str) -> FlightDescriptor {
    FlightDescriptor::new_cmd(json!({ "sql": sql }).to_string())
}

async fn query(client: &Client, sql: &str) -> Result<Vec<RecordBatch>> {
    let rows = client.query(sql, FetchOptions::default()).await?;
    rows.map_ok(|fetched| fetched.batch).try_collect().await
}

fn is_stored(info: &FlightInfo) -> bool {
    info.endpoint.iter().all(|endpoint| !endpoint.location.is_empty())
}

/// The first column.
fn numbers(batches: &[RecordBatch]) -> Vec<i64> {
    batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
}

/// The files of stored results on all nodes.
fn files(cluster: &TestCluster) -> Vec<PathBuf> {
    cluster.part_files().into_iter().filter(|path| path.to_string_lossy().contains("query_results")).collect()
}

/// How many puts run on a node, by its metrics.
async fn puts_on(node: &ServerProcess) -> f64 {
    let (_, metrics) = node.http("/metrics").await.unwrap();
    let value = metrics.lines().find_map(|line| line.strip_prefix("volley_puts "));
    value.map_or(0.0, |value| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn large_result_has_the_endpoints_of_its_parts_in_order() {
    let mut cluster = storing_cluster().await;
    let expected: Vec<i64> = (0..ROWS).rev().collect();
    for member in cluster.members() {
        let client = member.client().await;
        let info = client.query_info(SORTED).await.unwrap();
        assert!(info.endpoint.len() > 1 && is_stored(&info), "{}: {info:?}", member.name);
        assert_eq!((info.ordered, info.total_records), (true, ROWS));
        assert_eq!(info.flight_descriptor, Some(descriptor(SORTED)));
        let schema = client.flight().get_schema(descriptor(SORTED)).await.unwrap().into_inner();
        assert_eq!(schema.schema, info.schema);
        let fetched = client.fetch(info.clone(), FetchOptions::default()).unwrap();
        let fetched: Vec<RecordBatch> = fetched.map_ok(|fetched| fetched.batch).try_collect().await.unwrap();
        assert_eq!(numbers(&fetched), expected, "{}", member.name);
        // Any member redeems the tickets, and they have the order of the endpoints.
        let mut again = Vec::new();
        for endpoint in info.endpoint {
            again.extend(client.do_get(endpoint.ticket.unwrap()).await.unwrap().1);
        }
        assert_eq!(numbers(&again), expected, "{}", member.name);
    }
    assert!(!files(&cluster).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn result_is_not_stored_where_one_endpoint_is_wanted_or_due() {
    let mut cluster = storing_cluster().await;
    let client = cluster.client().await;
    for (name, value) in [("x-volley-max-endpoints", "1"), ("x-volley-listener", "single")] {
        let mut request = Request::new(descriptor(SORTED));
        request.metadata_mut().insert(name, value.parse().unwrap());
        let info = client.flight().get_flight_info(request).await.unwrap().into_inner();
        assert!(info.endpoint.len() == 1 && !is_stored(&info), "{name}: {info:?}");
    }
    // How many groups there are is not known before.
    let grouped = "SELECT id % 7 AS k, count(*) AS n FROM t GROUP BY k ORDER BY k";
    let info = client.query_info(grouped).await.unwrap();
    assert!(info.endpoint.len() == 1 && !is_stored(&info), "{info:?}");
    assert_eq!(numbers(&query(&client, grouped).await.unwrap()), Vec::from_iter(0..7));
    assert!(files(&cluster).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_leads_to_a_stored_result() {
    let mut cluster = storing_cluster().await;
    let client = cluster.client().await;
    assert!(is_stored(&client.query_info(SORTED).await.unwrap()));
    assert_eq!(client.list("").await.unwrap().len(), 1);
    let tables = "SELECT table_name FROM information_schema.tables WHERE table_schema <> 'information_schema'";
    let found: usize = query(&client, tables).await.unwrap().iter().map(RecordBatch::num_rows).sum();
    assert_eq!(found, 1);
    // The folder is named by the table.
    let file = files(&cluster).remove(0);
    let table = file.iter().map(|part| part.to_string_lossy()).find(|part| part.starts_with("query_results"));
    let table = rows::name(&table.unwrap().replace('+', "/"));
    for member in cluster.members() {
        let there = member.client().await;
        let error = there.info(&table, &Options::default()).await.unwrap_err();
        assert!(error.code == Code::NotFound && !error.message.contains("restore"), "{}: {error}", member.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_query_leaves_nothing() {
    let mut cluster = storing_cluster().await;
    for member in cluster.members() {
        let client = member.client().await;
        let error = client.query_info("SELECT id, 10 / (id - 40000) AS x FROM t ORDER BY id").await.unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{}: {error}", member.name);
    }
    wait_for(SOON, "nothing is left", async || files(&cluster).is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_result_is_removed() {
    let mut cluster = storing_cluster().await;
    let client = cluster.client().await;
    let info = client.query_info(SORTED).await.unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    client.do_get(ticket.clone()).await.unwrap();
    let body = CancelFlightInfoRequest { info: Some(info) }.encode_to_vec().into();
    let action = Action { r#type: "CancelFlightInfo".into(), body };
    client.flight().do_action(action).await.unwrap().into_inner().try_collect::<Vec<_>>().await.unwrap();
    assert_eq!(client.do_get(ticket).await.unwrap_err().code, Code::Cancelled);
    wait_for(SOON, "its parts are removed", async || files(&cluster).is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn query_whose_client_goes_is_ended_and_not_stored() {
    let cluster = storing_cluster().await;
    let client = cluster.nodes[0].client().await;
    tokio::select! {
        planned = client.query_info(ENDLESS) => panic!("the query has ended: {planned:?}"),
        () = wait_for(SOON, "the query runs", async || (puts_on(&cluster.nodes[0]).await > 0.0).then_some(())) => {}
    }
    let ended = async || (puts_on(&cluster.nodes[0]).await == 0.0).then_some(());
    wait_for(SOON, "the query has ended", ended).await;
    assert!(files(&cluster).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn result_beyond_the_space_of_results_has_one_endpoint() {
    let node_config = "sql_result_bytes = 1\nsql_result_space_bytes = 1000\n".into();
    let options = ClusterOptions { coordinators: 1, nodes: 2, node_config, ..ClusterOptions::default() };
    let mut cluster = TestCluster::start_with(options).await;
    let client = cluster.client().await;
    rows::put(&client, "t", &Options::default(), 0..ROWS).await.unwrap();
    let info = client.query_info(SORTED).await.unwrap();
    assert!(info.endpoint.len() == 1 && !is_stored(&info), "{info:?}");
    assert_eq!(numbers(&query(&client, SORTED).await.unwrap()), Vec::from_iter((0..ROWS).rev()));
    assert!(files(&cluster).is_empty());
}
