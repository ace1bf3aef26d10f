//! Clients and nodes that are killed in the middle of a call, and a cluster that is restarted.

use std::path::PathBuf;
use std::time::Duration;

use arrow_flight::FlightDescriptor;
use futures::StreamExt;
use volley_client::{FetchOptions, PutOutcome};
use volley_common::Code;
use volley_common::options::{Mode, Options};
use volley_tests::raw::{OpenPut, messages};
use volley_tests::{ClusterOptions, TestCluster, rows, wait_for};

const SOON: Duration = Duration::from_secs(30);

fn keyed() -> Options {
    Options { shards: Some(8), shard_by: Some(vec!["id".into()]), ..Options::default() }
}

async fn gone(cluster: &TestCluster, what: &str) {
    wait_for(SOON, what, async || cluster.part_files().is_empty().then_some(())).await;
}

async fn is_unknown(cluster: &mut TestCluster, table: &str) {
    let error = cluster.client().await.info(&rows::name(table), &Options::default()).await.unwrap_err();
    assert_eq!(error.code, Code::NotFound, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn put_of_a_vanished_client_leaves_no_files() {
    let mut cluster = TestCluster::start().await;
    for member in [&cluster.nodes[1], &cluster.coordinators[2]] {
        let put = OpenPut::begin(member);
        put.send(messages("t", &rows::schema(), rows::batches(0..500_000))).await;
        wait_for(SOON, "the put has reached a disk", async || (!cluster.part_files().is_empty()).then_some(())).await;
        put.vanish();
        gone(&cluster, "the unfinished put's files are removed").await;
    }
    is_unknown(&mut cluster, "t").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn put_through_a_killed_node_leaves_no_files() {
    let mut cluster = TestCluster::start().await;
    for through_coordinator in [false, true] {
        let member = if through_coordinator { &cluster.coordinators[0] } else { &cluster.nodes[2] };
        let put = OpenPut::begin(member);
        // So few rows that no holder copies their part yet.
        put.send(messages("t", &rows::schema(), rows::batches(0..50_000))).await;
        let busy = wait_for(SOON, "the put has reached a disk", async || cluster.part_files().first().cloned()).await;
        // The writing node is the one with an unfinished file.
        let victim = cluster.nodes.iter().position(|node| busy.starts_with(&node.folder)).unwrap();
        cluster.nodes[victim].kill();
        put.send(messages("t", &rows::schema(), rows::batches(0..1000))).await;
        let status = put.finish().await.unwrap_err();
        // Without a proxy between, tonic itself reports the broken connection.
        if through_coordinator {
            assert_eq!(status.code(), Code::Unavailable, "{status}");
        }
        is_unknown(&mut cluster, "t").await;
        cluster.nodes[victim].restart().await;
        cluster.settle().await;
        gone(&cluster, "the files of the killed put are removed").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn put_replaces_a_killed_replica_by_another_node() {
    let mut cluster = TestCluster::start_with(ClusterOptions { zones: 4, ..ClusterOptions::default() }).await;
    let mut sent = messages("t", &rows::schema(), rows::batches(0..300_000));
    // 8 shards of 2 copies on 4 nodes: the victim is among their targets.
    let keyed_t = r#"{"table": "t", "shards": 8, "shard_by": ["id"]}"#;
    sent[0].flight_descriptor = Some(FlightDescriptor::new_cmd(keyed_t));
    let rest = sent.split_off(5);
    let put = OpenPut::begin(&cluster.nodes[0]);
    put.send(sent).await;
    cluster.nodes[3].kill();
    put.send(rest).await;
    put.finish().await.unwrap();
    let client = cluster.nodes[0].client().await;
    assert_eq!(rows::get_sorted(&client, "t").await.unwrap(), Vec::from_iter(0..300_000));
    let info = client.info(&rows::name("t"), &Options::default()).await.unwrap();
    // Two copies, although one of the targets was killed.
    assert!(info.endpoint.iter().all(|endpoint| endpoint.location.len() == 2));
    // Later puts go to the remaining nodes.
    rows::put(&client, "u", &keyed(), 0..50_000).await.unwrap();
    let info = client.info(&rows::name("u"), &Options::default()).await.unwrap();
    let dead = cluster.nodes[3].uri();
    assert!(info.endpoint.iter().all(|endpoint| endpoint.location.iter().all(|location| location.uri != dead)));
    assert_eq!(rows::get_sorted(&client, "u").await.unwrap(), Vec::from_iter(0..50_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn holder_killed_while_a_part_grows_is_replaced() {
    let mut cluster = TestCluster::start_with(ClusterOptions { zones: 4, ..ClusterOptions::default() }).await;
    let mut sent = messages("t", &rows::schema(), rows::batches(0..400_000));
    let keyed_t = r#"{"table": "t", "shards": 2, "shard_by": ["id"]}"#;
    sent[0].flight_descriptor = Some(FlightDescriptor::new_cmd(keyed_t));
    let rest = sent.split_off(31);
    let put = OpenPut::begin(&cluster.nodes[0]);
    put.send(sent).await;
    let writer = cluster.nodes[0].folder.clone();
    let is_copied =
        |file: &PathBuf| !file.starts_with(&writer) && file.metadata().is_ok_and(|metadata| metadata.len() >= 1 << 20);
    let copied =
        wait_for(SOON, "a holder copies a part that grows", async || cluster.part_files().into_iter().find(is_copied))
            .await;
    let victim = cluster.nodes.iter().position(|node| copied.starts_with(&node.folder)).unwrap();
    cluster.nodes[victim].kill();
    put.send(rest).await;
    put.finish().await.unwrap();
    let client = cluster.nodes[0].client().await;
    assert_eq!(rows::get_sorted(&client, "t").await.unwrap(), Vec::from_iter(0..400_000));
    let (info, dead) = (client.info(&rows::name("t"), &Options::default()).await.unwrap(), cluster.nodes[victim].uri());
    for endpoint in &info.endpoint {
        assert_eq!(endpoint.location.len(), 2);
        assert!(endpoint.location.iter().all(|location| location.uri != dead));
    }
}

/// Rows of a table too large for the flow control windows of a client that does not read.
const LARGE: i64 = 2_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn get_fails_over_when_its_node_is_killed() {
    let mut cluster = TestCluster::start().await;
    let client = cluster.client().await;
    let two = Options { shards: Some(2), ..keyed() };
    rows::put(&client, "t", &two, 0..LARGE).await.unwrap();
    let how = FetchOptions { streams: 8, window_bytes: 1 };
    let mut fetch = client.get(&rows::name("t"), &Options::default(), how).await.unwrap();
    let first = fetch.next().await.unwrap().unwrap();
    let victim = cluster.node_index(&format!("grpc+tcp://{}", first.from));
    cluster.nodes[victim].kill();
    let (endpoint, broken) = (first.endpoint, first.from.clone());
    let (mut batches, mut went_on) = (vec![first.batch], false);
    while let Some(part) = fetch.next().await {
        let part = part.unwrap();
        went_on |= part.endpoint == endpoint && part.from != broken;
        batches.push(part.batch);
    }
    assert!(went_on, "the stream ended before the node was killed, so this tests nothing");
    let mut ids = rows::ids(&batches);
    ids.sort_unstable();
    assert!(ids.into_iter().eq(0..LARGE));
}

#[tokio::test(flavor = "multi_thread")]
async fn proxied_get_fails_over_when_its_holder_is_killed() {
    let mut cluster = TestCluster::start().await;
    let client = cluster.client().await;
    rows::put(&client, "t", &Options::default(), 0..LARGE).await.unwrap();
    let info = client.info(&rows::name("t"), &Options::default()).await.unwrap();
    let endpoint = &info.endpoint[0];
    let uris = endpoint.location.iter().map(|location| &location.uri).filter(|uri| uri.starts_with("grpc+tcp"));
    let holders: Vec<usize> = uris.map(|uri| cluster.node_index(uri)).collect();
    let whole = client.do_get(endpoint.ticket.clone().unwrap()).await.unwrap().1;
    let bystander = (0..4).find(|node| !holders.contains(node)).unwrap();
    let mut stream = cluster.nodes[bystander].client().await.open(endpoint.ticket.clone().unwrap()).await.unwrap();
    let mut batches = vec![stream.next().await.unwrap().unwrap()];
    cluster.nodes[holders[0]].kill();
    while let Some(batch) = stream.next().await.unwrap() {
        batches.push(batch);
    }
    assert_eq!(rows::ids(&batches), rows::ids(&whole));
    cluster.nodes[holders[1]].kill();
    let there = cluster.nodes[bystander].client().await;
    let error = there.do_get(endpoint.ticket.clone().unwrap()).await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable, "without a holder: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_keeps_everything_when_all_members_are_killed() {
    let mut cluster = TestCluster::start().await;
    let client = cluster.client().await;
    rows::put(&client, "ordered", &Options::default(), 0..60_000).await.unwrap();
    rows::put(&client, "keyed", &keyed(), 0..60_000).await.unwrap();
    let append = Options { mode: Some(Mode::Append), write_id: Some("once".into()), ..Options::default() };
    let outcome = rows::put(&client, "ordered", &append, 60_000..70_000).await.unwrap();
    let held = client.info(&rows::name("ordered"), &Options::default()).await.unwrap();
    rows::put(&client, "ordered", &Options::default(), 5..6).await.unwrap();

    cluster.members().for_each(|member| member.kill());
    cluster.members().for_each(|member| member.start());
    cluster.settle().await;

    let client = cluster.client().await;
    assert_eq!(rows::get(&client, "ordered").await.unwrap(), [5]);
    assert_eq!(rows::get_sorted(&client, "keyed").await.unwrap(), Vec::from_iter(0..60_000));
    let again = rows::put(&client, "ordered", &append, 60_000..70_000).await.unwrap();
    assert_eq!(again, PutOutcome { repeated: true, ..outcome });
    let batches: Vec<_> =
        client.fetch(held, FetchOptions::default()).unwrap().map(|part| part.unwrap().batch).collect().await;
    assert_eq!(rows::ids(&batches), Vec::from_iter(0..70_000), "a FlightInfo outlives a restart");

    for member in cluster.members() {
        assert!(member.stop().await.success(), "{} did not exit with success on SIGTERM", member.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_node_is_unreachable_and_alive_when_resumed() {
    let coordinator_flags = vec!["--node-timeout-ms".into(), "1500".into()];
    let cluster =
        TestCluster::start_with(ClusterOptions { nodes: 2, coordinator_flags, ..ClusterOptions::default() }).await;
    cluster.nodes[1].pause();
    wait_for(SOON, "the node is unreachable", async || (cluster.nodes_alive().await == Some(1)).then_some(())).await;
    cluster.nodes[1].resume();
    wait_for(SOON, "the node is alive again", async || (cluster.nodes_alive().await == Some(2)).then_some(())).await;
}
