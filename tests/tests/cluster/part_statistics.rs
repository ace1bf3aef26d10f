//! Parts that can have no row that a filter selects are no endpoints, and queries do not read them.

use std::ops::Range;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use arrow_flight::{FlightDescriptor, FlightInfo};
use serde_json::{Value, json};
use volley_client::Client;
use volley_common::options::{Mode, Options};
use volley_tests::{ClusterOptions, TestCluster, rows, wait_for};

const PARTS: i64 = 20;
/// Rows of a part: each batch of a put fills a block.
const ROWS: i64 = 10_000;
const SOON: Duration = Duration::from_secs(60);

/// One coordinator and two nodes, whose blocks are small.
async fn cluster() -> TestCluster {
    let node_config = "block_bytes = 65536\n".into();
    let options = ClusterOptions { coordinators: 1, nodes: 2, node_config, ..ClusterOptions::default() };
    TestCluster::start_with(options).await
}

async fn info(client: &Client, command: Value) -> FlightInfo {
    client.info_of(FlightDescriptor::new_cmd(command.to_string())).await.unwrap()
}

async fn read(client: &Client, info: FlightInfo) -> Vec<RecordBatch> {
    let mut batches = Vec::new();
    for endpoint in info.endpoint {
        batches.extend(client.do_get(endpoint.ticket.unwrap()).await.unwrap().1);
    }
    batches
}

/// The rows of a filtered read: how many endpoints it has, and the ids in ascending order.
async fn filtered(client: &Client, version: Option<u64>, filter: &str) -> (usize, Vec<i64>) {
    let info = info(client, json!({ "table": "t", "version": version, "where": filter })).await;
    assert_eq!((info.total_records, info.total_bytes), (-1, -1));
    let endpoints = info.endpoint.len();
    let mut ids = rows::ids(&read(client, info).await);
    ids.sort_unstable();
    (endpoints, ids)
}

async fn query(client: &Client, sql: &str) -> Vec<RecordBatch> {
    let info = info(client, json!({ "sql": sql })).await;
    read(client, info).await
}

#[tokio::test(flavor = "multi_thread")]
async fn filter_that_selects_one_part_has_one_endpoint() {
    let mut cluster = cluster().await;
    let client = cluster.client().await;
    let version = rows::put(&client, "t", &Options::default(), 0..PARTS * ROWS).await.unwrap().version;
    // Compactions make later versions.
    let all = info(&client, json!({ "table": "t", "version": version })).await;
    assert_eq!(all.endpoint.len() as i64, PARTS);
    let node = cluster.nodes[0].client().await;
    let some = |ids: Range<i64>| ids.collect::<Vec<i64>>();
    for (filter, endpoints, ids) in [
        ("id = 123456", 1, some(123_456..123_457)),
        ("id >= 55000 AND id < 65000", 2, some(55_000..65_000)),
        ("id BETWEEN 55000 AND 55009 OR id < 3", 2, [some(0..3), some(55_000..55_010)].concat()),
        ("id IN (7, 199999)", 2, vec![7, 199_999]),
        ("id < 0", 1, Vec::new()),
        ("id < 0 OR text IS NULL AND id < 7", 1, vec![0]),
        ("id % 100000 = 5", PARTS as usize, vec![5, 100_005]),
    ] {
        for member in [&client, &node] {
            assert_eq!(filtered(member, Some(version), filter).await, (endpoints, ids.clone()), "{filter}");
        }
    }
    let from = format!("FROM t FOR VERSION AS OF {version} WHERE id = 123456");
    let plan = query(&client, &format!("EXPLAIN SELECT count(*) {from}")).await;
    let plan: String = plan.iter().flat_map(|batch| batch.column(1).as_string::<i32>().iter().flatten()).collect();
    assert!(plan.contains("parts=1,") && plan.contains("parts_pruned=19 of 20"), "{plan}");
    let counted = query(&client, &format!("SELECT count(*) {from}")).await;
    assert_eq!(counted[0].column(0).as_primitive::<Int64Type>().values(), &[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn compacted_parts_have_statistics() {
    let mut cluster = cluster().await;
    let client = cluster.client().await;
    let made = Options { shards: Some(4), shard_by: Some(vec!["id".into()]), ..Options::default() };
    rows::put(&client, "t", &made, 0..100).await.unwrap();
    let append = Options { mode: Some(Mode::Append), ..Options::default() };
    for at in 1..10 {
        rows::put(&client, "t", &append, at * 100..(at + 1) * 100).await.unwrap();
    }
    let all = || info(&client, json!({ "table": "t" }));
    wait_for(SOON, "the parts are compacted", async || (all().await.endpoint.len() < 30).then_some(())).await;
    assert_eq!(filtered(&client, None, "id < 0").await, (1, Vec::new()));
    assert_eq!(filtered(&client, None, "id >= 998").await.1, [998, 999]);
    assert!(all().await.endpoint.len() >= 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_columns_that_the_table_names_exclude_parts() {
    let mut cluster = cluster().await;
    let client = cluster.client().await;
    let put = async |column: &str| {
        let named = Options { stats_columns: Some(vec![column.into()]), ..Options::default() };
        rows::put(&client, "t", &named, 0..5 * ROWS).await.unwrap().version
    };
    // Compactions make later versions. All texts begin with the same 16 bytes, which are greater than "a".
    for (column, by_id, by_text) in [("text", 5, 1), ("id", 1, 5)] {
        let version = put(column).await;
        assert_eq!(filtered(&client, Some(version), "id = 23456").await, (by_id, vec![23_456]), "{column}");
        assert_eq!(filtered(&client, Some(version), "text < 'a'").await, (by_text, Vec::new()), "{column}");
    }
    let stats = client.action("get_stats", &json!({ "table": "t" })).await.unwrap();
    assert_eq!(stats["stats_columns"], json!(["id"]));
    let missing = Options { stats_columns: Some(vec!["nothing".into()]), ..Options::default() };
    let error = rows::put(&client, "t", &missing, 0..5).await.unwrap_err();
    assert!(error.message.contains("stats_columns") && error.message.contains("nothing"), "{error}");
}
