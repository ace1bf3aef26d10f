//! Staged writes: what comes after the end of one is refused, and gets neither into the table nor into a later write of its id.

use std::ops::Range;
use std::time::Duration;

use arrow_flight::FlightDescriptor;
use serde_json::{Value, json};
use volley_client::{Client, PutOutcome};
use volley_common::options::Options;
use volley_common::{Code, Result};
use volley_tests::raw::{OpenPut, code, messages};
use volley_tests::{ClusterOptions, TestCluster, rows, wait_for};

const SOON: Duration = Duration::from_secs(60);

fn small(coordinator_config: &str) -> ClusterOptions {
    ClusterOptions {
        coordinators: 3,
        nodes: 2,
        coordinator_config: coordinator_config.into(),
        ..ClusterOptions::default()
    }
}

async fn begin(client: &Client) {
    client.action("begin_write", &json!({ "table": "t", "write_id": "w" })).await.unwrap();
}

async fn end(client: &Client, action: &str) -> Result<Value> {
    client.action(action, &json!({ "write_id": "w" })).await
}

async fn put(client: &Client, ids: Range<i64>) -> Result<PutOutcome> {
    let options = Options { write_id: Some("w".into()), ..Options::default() };
    rows::put(client, "t", &options, ids).await
}

/// Every member refuses a put with the id of the write that has ended, and its commit.
async fn is_refused_by_all(cluster: &TestCluster, reason: &str) {
    for member in cluster.coordinators.iter().chain(&cluster.nodes) {
        let client = member.client().await;
        for error in [put(&client, 0..1000).await.unwrap_err(), end(&client, "commit_write").await.unwrap_err()] {
            assert_eq!(error.code, Code::Aborted, "{}: {error}", member.name);
            assert!(error.message.contains(reason) && error.message.contains("begin another write"), "{error}");
        }
        let error = client.info(&rows::name("t"), &Options::default()).await.unwrap_err();
        assert_eq!(error.code, Code::NotFound, "{}: {error}", member.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn aborted_write_gets_no_row_into_the_table() {
    let cluster = TestCluster::start_with(small("")).await;
    let client = cluster.coordinators[1].client().await;
    begin(&client).await;
    // Of a put that is under way when its write ends.
    let late = OpenPut::begin(&cluster.nodes[1]);
    let mut sent = messages("t", &rows::schema(), rows::batches(0..500_000));
    sent[0].flight_descriptor = Some(FlightDescriptor::new_cmd(r#"{"table": "t", "write_id": "w"}"#));
    late.send(sent).await;
    wait_for(SOON, "it has reached a disk", async || (!cluster.part_files().is_empty()).then_some(())).await;
    assert!(put(&client, 0..1000).await.unwrap().staged);
    end(&client, "abort_write").await.unwrap();
    is_refused_by_all(&cluster, "aborted by the client").await;
    begin(&client).await;
    let (refused, message) = code(late.finish().await);
    assert_eq!(refused, Code::Aborted, "{message}");
    assert!(put(&client, 5000..5010).await.unwrap().staged);
    assert_eq!(end(&client, "commit_write").await.unwrap()["rows"], 10);
    assert_eq!(rows::get_sorted(&client, "t").await.unwrap(), Vec::from_iter(5000..5010));
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_write_gets_no_row_into_the_table() {
    let cluster = TestCluster::start_with(small("lease_ms = 5000")).await;
    let client = cluster.nodes[0].client().await;
    begin(&client).await;
    assert!(put(&client, 0..50_000).await.unwrap().staged);
    wait_for(SOON, "its parts are removed", async || cluster.part_files().is_empty().then_some(())).await;
    is_refused_by_all(&cluster, "lease ran out").await;
}
