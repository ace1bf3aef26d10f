//! The status of the cluster, and nodes that are drained and removed.

use std::time::Duration;

use serde_json::{Value, json};
use volley_client::Client;
use volley_common::Code;
use volley_common::options::Options;
use volley_tests::process::ServerProcess;
use volley_tests::{ClusterOptions, TestCluster, rows, wait_for};

const SOON: Duration = Duration::from_secs(40);

/// A node counts as unreachable after 2 s, and its parts are copied after 2 more.
fn fast_repair(nodes: usize) -> ClusterOptions {
    let coordinator_flags = ["--node-timeout-ms", "2000", "--repair-delay-ms", "2000"].map(String::from).to_vec();
    ClusterOptions { coordinators: 3, nodes, zones: nodes, coordinator_flags, ..ClusterOptions::default() }
}

fn keyed(shards: u32, replicas: u32) -> Options {
    let shard_by = Some(vec!["id".into()]);
    Options { shards: Some(shards), shard_by, replicas: Some(replicas), ..Options::default() }
}

async fn becomes(client: &Client, health: &str) -> Value {
    wait_for(SOON, health, async || client.status().await.ok().filter(|status| status["health"] == health)).await
}

async fn explain(client: &Client, table: &str) -> Value {
    client.action("explain", &json!({ "table": table })).await.unwrap()
}

/// The id of the node at this address.
fn id_of(status: &Value, process: &ServerProcess) -> String {
    let mut nodes = status["nodes"].as_array().unwrap().iter();
    let node = nodes.find(|node| node["flight"] == process.uri().as_str()).unwrap();
    node["id"].as_str().unwrap().to_string()
}

fn counts(status: &Value) -> [u64; 3] {
    ["parts", "below_replicas", "unreadable"].map(|key| status["copies"][key].as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_with_dead_node_is_yellow_until_repaired() {
    let mut cluster = TestCluster::start_with(fast_repair(4)).await;
    let client = cluster.client().await;
    rows::put(&client, "a/t", &keyed(8, 2), 0..80_000).await.unwrap();
    for coordinator in &cluster.coordinators {
        // Every coordinator reports what only the leader knows.
        let status = becomes(&coordinator.client().await, "green").await;
        assert_eq!(counts(&status), [8, 0, 0]);
        assert!(status["nodes"].as_array().unwrap().iter().all(|node| node["bytes_used"].is_u64()), "{status}");
    }
    let victim = id_of(&client.status().await.unwrap(), &cluster.nodes[0]);
    cluster.nodes[0].kill();
    let status = becomes(&client, "yellow").await;
    assert!(counts(&status)[1] > 0 && counts(&status)[2] == 0, "{status}");
    let node = status["nodes"].as_array().unwrap().iter().find(|node| node["id"] == victim.as_str()).unwrap();
    assert_eq!(node["condition"], "silent");
    let explained = explain(&client, "a/t").await;
    let missing = explained["shards"].as_array().unwrap().iter().flat_map(|s| s["missing"].as_array().unwrap());
    let kinds: Vec<&str> = missing.map(|one| one["kind"].as_str().unwrap()).collect();
    assert!(kinds.iter().all(|kind| ["grace", "copying", "queued"].contains(kind)), "{explained}");

    // It stays yellow while the node is away, and names it.
    let repaired = async || client.status().await.ok().filter(|status| counts(status)[1..] == [0, 0]);
    let status = wait_for(SOON, "the repair", repaired).await;
    assert_eq!(status["health"], "yellow", "{status}");
    assert!(status["unreachable"][0].as_str().unwrap().contains(&victim), "{status}");
    assert_eq!(explain(&client, "a/t").await["below_replicas"], 0);
    assert_eq!(rows::get_sorted(&client, "a/t").await.unwrap(), Vec::from_iter(0..80_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_with_unreadable_part_is_red_and_names_it() {
    let mut cluster = TestCluster::start_with(fast_repair(3)).await;
    let client = cluster.client().await;
    rows::put(&client, "a/t", &keyed(3, 1), 0..3_000).await.unwrap();
    let shard = explain(&client, "a/t").await["shards"][1].clone();
    let holder = shard["holders"][0].clone();
    let victim = cluster.nodes.iter().position(|node| node.address == holder["address"].as_str().unwrap()).unwrap();
    cluster.nodes[victim].kill();

    let status = becomes(&client, "red").await;
    let named = status["unreadable"].as_array().unwrap();
    let lost = named.iter().find(|part| part["shard"] == 1).unwrap();
    assert_eq!((&lost["table"], &lost["holders"]), (&json!("a/t"), &json!([holder["node"]])));
    let missing = explain(&client, "a/t").await["shards"][1]["missing"][0].clone();
    assert_eq!(missing["kind"], "unreadable");
    assert!(missing["why"].as_str().unwrap().contains(holder["address"].as_str().unwrap()), "{missing}");
    let error = client.info(&rows::name("a/t"), &Options::default()).await.unwrap_err();
    assert!(error.code == Code::Unavailable && error.message.contains("shard"), "{error}");
    // A node with the only copy is not removed, whether it is alive or not.
    let remove = json!({ "node": holder["node"] });
    let error = client.action("remove_node", &remove).await.unwrap_err();
    assert!(error.code == Code::FailedPrecondition && error.message.contains("a/t"), "{error}");

    cluster.nodes[victim].restart().await;
    becomes(&client, "green").await;
    assert_eq!(rows::get_sorted(&client, "a/t").await.unwrap(), Vec::from_iter(0..3_000));
    let error = client.action("remove_node", &remove).await.unwrap_err();
    assert!(error.code == Code::FailedPrecondition && error.message.contains("drain"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn drained_node_moves_its_parts_and_is_removed() {
    let mut cluster = TestCluster::start_with(fast_repair(4)).await;
    let client = cluster.client().await;
    rows::put(&client, "keyed", &keyed(8, 2), 0..80_000).await.unwrap();
    rows::put(&client, "alone", &keyed(8, 1), 0..8_000).await.unwrap();
    let id = id_of(&client.status().await.unwrap(), &cluster.nodes[1]);
    let node = json!({ "node": id });
    let begun = client.action("drain_node", &json!({ "node": &id[..8] })).await.unwrap();
    assert_eq!((&begun["node"], &begun["draining"]), (&json!(id), &json!(true)));

    let drained = wait_for(SOON, "the drain is done", async || {
        assert_eq!(rows::get_sorted(&client, "alone").await.unwrap(), Vec::from_iter(0..8_000));
        rows::put(&client, "meanwhile", &keyed(4, 2), 0..100).await.unwrap();
        let now = client.action("drain_node", &json!({ "node": id, "begin": false })).await.unwrap();
        (now["done"] == true).then_some(now)
    })
    .await;
    assert_eq!((&drained["parts_left"], &drained["bytes_left"]), (&json!(0), &json!(0)));

    let removed = client.action("remove_node", &node).await.unwrap();
    assert_eq!(removed["removed"], true);
    cluster.nodes[1].kill();
    let status = client.status().await.unwrap();
    assert!(status["nodes"].as_array().unwrap().iter().all(|other| other["id"] != id.as_str()), "{status}");
    assert_eq!(client.action("drain_node", &node).await.unwrap_err().code, Code::NotFound);
    assert_eq!(rows::get_sorted(&client, "keyed").await.unwrap(), Vec::from_iter(0..80_000));
    assert_eq!(rows::get_sorted(&client, "alone").await.unwrap(), Vec::from_iter(0..8_000));
    becomes(&client, "green").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn undrained_node_is_not_draining() {
    let mut cluster = TestCluster::start_with(fast_repair(2)).await;
    let client = cluster.client().await;
    let node = json!({ "node": cluster.nodes[0].address });
    let draining =
        async || client.status().await.unwrap()["nodes"].as_array().unwrap().iter().any(|n| n["draining"] == true);
    client.action("drain_node", &node).await.unwrap();
    assert!(draining().await);
    client.action("undrain_node", &node).await.unwrap();
    assert!(!draining().await);
    let answer =
        client.action("drain_node", &json!({ "node": cluster.nodes[0].address, "begin": false })).await.unwrap();
    assert_eq!((&answer["draining"], &answer["done"]), (&json!(false), &json!(false)));
    for (body, word) in [
        (json!({ "node": "ffffffff" }), "ffffffff"),
        (json!({ "node": "x" }), "HOST:PORT"),
        (json!({ "node": "ffff", "force": true }), "force"),
    ] {
        let error = client.action("drain_node", &body).await.unwrap_err();
        assert!(error.message.contains(word), "{body}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_listed_until_their_retention_ends() {
    let mut options = fast_repair(2);
    options.coordinator_flags.extend(["--retention-ms", "4000"].map(String::from));
    let mut cluster = TestCluster::start_with(options).await;
    let client = cluster.client().await;
    for version in 1..=3 {
        rows::put(&client, "t", &Options::default(), 0..version * 100).await.unwrap();
    }
    let list = async || client.action("list_versions", &json!({ "table": "t" })).await.unwrap();
    let listed = list().await;
    let versions: Vec<u64> =
        listed["versions"].as_array().unwrap().iter().map(|v| v["version"].as_u64().unwrap()).collect();
    assert_eq!(versions, [3, 2, 1]);
    for version in listed["versions"].as_array().unwrap() {
        let number = version["version"].as_u64().unwrap();
        assert_eq!(version["rows"], number * 100);
        assert!(version["made_ms"].is_u64() && version["until_ms"].is_u64() == (number < 3), "{version}");
        let old = Options { version: Some(number), ..Options::default() };
        let (_, batches) = client.get_all(&rows::name("t"), &old).await.unwrap();
        assert_eq!(rows::ids(&batches), Vec::from_iter(0..number as i64 * 100));
    }
    wait_for(SOON, "the old versions have expired", async || {
        (list().await["versions"].as_array()?.len() == 1).then_some(())
    })
    .await;
    let old = Options { version: Some(1), ..Options::default() };
    assert_eq!(client.info(&rows::name("t"), &old).await.unwrap_err().code, Code::NotFound);
    let error = client.action("list_versions", &json!({ "table": "nowhere" })).await.unwrap_err();
    assert_eq!(error.code, Code::NotFound);
}

/// The status code and the body of a coordinator's `/readyz`.
async fn readiness(coordinator: &ServerProcess) -> Option<(u16, Value)> {
    let (code, body) = coordinator.http("/readyz").await?;
    Some((code, serde_json::from_str(&body).ok()?))
}

#[tokio::test(flavor = "multi_thread")]
async fn coordinator_without_majority_is_not_ready() {
    let mut cluster = TestCluster::start_with(fast_repair(1)).await;
    rows::put(&cluster.client().await, "t", &Options::default(), 0..10).await.unwrap();
    let leader = cluster.leader().await;
    assert_eq!(readiness(&cluster.coordinators[leader]).await.unwrap().0, 200);
    for other in (0..3).filter(|other| *other != leader) {
        cluster.coordinators[other].kill();
    }
    let left = &cluster.coordinators[leader];
    let (code, body) = readiness(left).await.unwrap();
    assert_eq!((code, &body["status"]), (503, &json!("no leader")), "{body}");
    let status = left.client().await.status().await.unwrap();
    assert_eq!((&status["health"], &status["leader"]), (&json!("red"), &Value::Null));
    assert!(status["stale"].as_str().unwrap().contains("leader"), "{status}");
    assert_eq!(status["stats"]["tables"], 1);

    for other in (0..3).filter(|other| *other != leader) {
        cluster.coordinators[other].restart().await;
    }
    let left = &cluster.coordinators[leader];
    wait_for(SOON, "it is ready again", async || (readiness(left).await?.0 == 200).then_some(())).await;
    becomes(&left.client().await, "green").await;
}
