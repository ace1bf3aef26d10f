//! Nodes that join, lose their disk, leave and try to rejoin, during reads.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use volley_client::Client;
use volley_common::Code;
use volley_common::options::Options;
use volley_tests::{ClusterOptions, TestCluster, rows, wait_for};

const SOON: Duration = Duration::from_secs(40);
const ROWS: i64 = 60_000;
const SHARDS: usize = 12;

/// Every node in a zone of its own. A node counts as unreachable after 1.5 s, and its parts are copied after 1 s more.
fn options(nodes: usize) -> ClusterOptions {
    let coordinator_flags = ["--node-timeout-ms", "1500", "--repair-delay-ms", "1500"].map(String::from).to_vec();
    ClusterOptions { coordinators: 1, nodes, zones: 10, coordinator_flags, ..ClusterOptions::default() }
}

fn keyed(replicas: u32) -> Options {
    let shard_by = Some(vec!["id".into()]);
    Options { shards: Some(SHARDS as u32), shard_by, replicas: Some(replicas), ..Options::default() }
}

/// Parts on each node's disk.
fn spread(cluster: &TestCluster) -> Vec<usize> {
    let files = cluster.part_files();
    cluster.nodes.iter().map(|node| files.iter().filter(|file| file.starts_with(&node.folder)).count()).collect()
}

/// Waits until the numbers of parts on the disks satisfy `fits` and all copies exist; reads all rows meanwhile.
async fn wait_for_spread(cluster: &TestCluster, client: &Client, what: &str, fits: impl Fn(&[usize]) -> bool) {
    wait_for(SOON, what, async || {
        assert_eq!(rows::get_sorted(client, "t").await.unwrap(), Vec::from_iter(0..ROWS), "{what}");
        let copies = client.status().await.unwrap()["copies"].clone();
        let copied = copies["below_replicas"] == 0 && copies["unreadable"] == 0;
        (copied && fits(&spread(cluster))).then_some(())
    })
    .await;
}

/// The id of the node at this address, of those in this state.
async fn id_of(client: &Client, uri: &str, state: &str) -> String {
    let status = client.status().await.unwrap();
    let mut nodes = status["nodes"].as_array().unwrap().iter();
    let found = nodes.find(|node| node["flight"] == uri && node["state"] == state);
    found.unwrap_or_else(|| panic!("{status}"))["id"].as_str().unwrap().to_string()
}

async fn act(client: &Client, action: &str, node: &str) -> Value {
    client.action(action, &json!({ "node": node })).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn new_node_gets_its_share_of_parts() {
    let options = options(3);
    let mut cluster = TestCluster::start_with(options.clone()).await;
    let client = cluster.client().await;
    rows::put(&client, "t", &keyed(2), 0..ROWS).await.unwrap();
    wait_for_spread(&cluster, &client, "two copies of every part", |on| on.iter().sum::<usize>() == 2 * SHARDS).await;
    cluster.add_node().restart().await;
    wait_for_spread(&cluster, &client, "a quarter of all copies on the new node", |on| {
        on.iter().sum::<usize>() == 2 * SHARDS && on[3] == 2 * SHARDS / 4
    })
    .await;
    // The rows of a new put go there too.
    let append = Options { mode: Some(volley_common::options::Mode::Append), ..Options::default() };
    rows::put(&client, "t", &append, ROWS..ROWS + 1200).await.unwrap();
    wait_for(SOON, "a quarter of the new parts", async || (spread(&cluster)[3] == SHARDS).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_with_a_lost_disk_comes_back_as_a_new_node() {
    let mut cluster = TestCluster::start_with(options(3)).await;
    let client = cluster.client().await;
    rows::put(&client, "t", &keyed(2), 0..ROWS).await.unwrap();
    let victim = cluster.nodes[1].uri();
    cluster.nodes[1].kill();
    fs::remove_dir_all(&cluster.nodes[1].folder).unwrap();
    cluster.nodes[1].restart().await;
    wait_for_spread(&cluster, &client, "all copies are there again", |on| {
        // How many shards a node gets depends on its id, which is random.
        on.iter().sum::<usize>() == 2 * SHARDS && on[1] > 0
    })
    .await;
    let old = id_of(&client, &victim, "silent").await;
    act(&client, "remove_node", &old).await;
    assert_eq!(client.status().await.unwrap()["nodes"].as_array().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_node_exits_and_cannot_rejoin() {
    let mut cluster = TestCluster::start_with(options(4)).await;
    let client = cluster.client().await;
    rows::put(&client, "t", &keyed(2), 0..ROWS).await.unwrap();
    let id = id_of(&client, &cluster.nodes[2].uri(), "alive").await;
    let early = client.action("remove_node", &json!({ "node": id })).await.unwrap_err();
    assert!(early.code == Code::FailedPrecondition && early.message.contains("drain"), "{early}");
    wait_for(SOON, "the drain is done", async || (act(&client, "drain_node", &id).await["done"] == true).then_some(()))
        .await;
    act(&client, "remove_node", &id).await;
    wait_for(SOON, "the removed node ends", async || cluster.nodes[2].has_crashed().then_some(())).await;
    cluster.nodes[2].kill();
    let why = cluster.nodes[2].start_fails().await;
    assert!(why.contains("was removed from this cluster") && why.contains("--data-dir"), "{why}");
    wait_for_spread(&cluster, &client, "the other nodes have all copies", |on| {
        on.iter().sum::<usize>() - on[2] == 2 * SHARDS
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shard_without_live_holder_is_unavailable_until_it_returns() {
    let mut cluster = TestCluster::start_with(options(2)).await;
    let client = cluster.client().await;
    rows::put(&client, "t", &keyed(1), 0..ROWS).await.unwrap();
    cluster.nodes[1].kill();
    let error =
        wait_for(SOON, "a shard is missing", async || client.info(&rows::name("t"), &Options::default()).await.err())
            .await;
    assert_eq!(error.code, Code::Unavailable, "{error}");
    assert!(error.message.starts_with("shard ") && error.message.contains("table \"t\""), "{error}");
    cluster.nodes[1].restart().await;
    cluster.settle().await;
    assert_eq!(rows::get_sorted(&client, "t").await.unwrap(), Vec::from_iter(0..ROWS));
}
