//! Many small appends are compacted in the background; clients see fewer endpoints and the same rows.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow_flight::FlightInfo;
use futures::TryStreamExt;
use futures::future::join_all;
use volley_client::{Client, FetchOptions};
use volley_common::options::{Mode, Options};
use volley_tests::{ClusterOptions, TestCluster, rows, wait_for};

/// Concurrent writers, appends of each, rows of each append.
const WRITERS: i64 = 3;
const APPENDS: i64 = 60;
const ROWS: i64 = 20;
/// The distance between the ids of two writers.
const APART: i64 = 1_000_000;
/// Long enough for a read during a replacement, short enough to wait for its end.
const RETENTION_S: u64 = 25;
const SOON: Duration = Duration::from_secs(60);

fn append() -> Options {
    Options { mode: Some(Mode::Append), ..Options::default() }
}

async fn info(client: &Client) -> FlightInfo {
    client.info(&rows::name("t"), &Options::default()).await.unwrap()
}

/// The rows of a FlightInfo, in order.
async fn fetched(client: &Client, info: FlightInfo) -> Vec<i64> {
    let parts = client.fetch(info, FetchOptions::default()).unwrap();
    let batches: Vec<_> = parts.map_ok(|part| part.batch).try_collect().await.unwrap();
    rows::ids(&batches)
}

/// Checks that the ids are the first appends of every writer, each complete and in order: how many appends they are.
fn check_prefixes(ids: &[i64]) -> i64 {
    let mut next = [0; WRITERS as usize];
    for append in ids.chunks(ROWS as usize) {
        let writer = append[0] / APART;
        let first = writer * APART + next[writer as usize];
        assert_eq!(append, Vec::from_iter(first..first + ROWS), "after {next:?}");
        next[writer as usize] += ROWS;
    }
    next.iter().sum::<i64>() / ROWS
}

async fn write(client: &Client, writer: i64) {
    for at in 0..APPENDS {
        let first = writer * APART + at * ROWS;
        rows::put(client, "t", &append(), first..first + ROWS).await.unwrap();
    }
}

/// Reads and checks until the writers are done; returns the first FlightInfo with many endpoints.
async fn read(client: &Client, done: &AtomicBool) -> FlightInfo {
    let (mut seen, mut kept) = (0, None);
    while !done.load(Ordering::Relaxed) || kept.is_none() {
        let info = info(client).await;
        if info.endpoint.len() >= 10 {
            kept.get_or_insert(info.clone());
        }
        assert!(info.ordered);
        let found = check_prefixes(&fetched(client, info).await);
        assert!(found >= seen, "{found} appends after {seen}");
        seen = found;
    }
    kept.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn small_appends_are_compacted_under_readers() {
    let mut cluster = TestCluster::start().await;
    let client = cluster.client().await;
    let made = Options { shards: Some(4), retention_s: Some(RETENTION_S), ..Options::default() };
    rows::put(&client, "t", &made, 0..0).await.unwrap();
    let others: Vec<Client> = join_all(cluster.nodes.iter().map(|node| node.client())).await;
    let done = AtomicBool::new(false);
    let writing = async {
        join_all(others.iter().zip(0..WRITERS).map(|(client, writer)| write(client, writer))).await;
        done.store(true, Ordering::Relaxed);
    };
    let (kept, ()) = tokio::join!(read(&client, &done), writing);

    let few =
        wait_for(SOON, "few endpoints", async || Some(info(&client).await).filter(|i| i.endpoint.len() <= 12)).await;
    assert!(kept.endpoint.len() > 2 && kept.total_records <= few.total_records);
    let appends = kept.total_records / ROWS;
    assert_eq!(check_prefixes(&fetched(&client, kept).await), appends, "a version from before the compaction");
    assert_eq!(check_prefixes(&fetched(&client, few).await), WRITERS * APPENDS);
    // Compaction may continue. In the end the disks hold two copies of each current part and nothing else.
    wait_for(2 * SOON, "replaced parts are deleted", async || {
        let parts = info(&client).await.endpoint.len();
        (cluster.part_files().len() == 2 * parts).then_some(())
    })
    .await;
    assert_eq!(check_prefixes(&rows::get(&client, "t").await.unwrap()), WRITERS * APPENDS);
}

/// Files of compactions on a node's disk. The write ids of compactions begin with `merge-`.
fn compaction_files(cluster: &TestCluster, node: usize) -> Vec<PathBuf> {
    let is_compacted = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().contains("merge-"));
    let folder = &cluster.nodes[node].folder;
    cluster.part_files().into_iter().filter(|path| path.starts_with(folder) && is_compacted(path)).collect()
}

async fn eight_more(client: &Client, rows: &mut i64) {
    for _ in 0..8 {
        rows::put(client, "t", &append(), *rows..*rows + ROWS).await.unwrap();
        *rows += ROWS;
    }
}

async fn wait_for_compaction(client: &Client) {
    wait_for(SOON, "the parts are compacted", async || (info(client).await.endpoint.len() < 8).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_killed_during_compaction_leaves_no_files() {
    let mut cluster =
        TestCluster::start_with(ClusterOptions { coordinators: 1, nodes: 2, ..ClusterOptions::default() }).await;
    let client = cluster.client().await;
    rows::put(&client, "t", &Options { shards: Some(1), ..Options::default() }, 0..0).await.unwrap();
    let mut written = 0;
    eight_more(&client, &mut written).await;
    wait_for_compaction(&client).await;
    // Both nodes hold everything, so the same one always compacts.
    let compacting = wait_for(SOON, "a node logs a compaction", async || {
        cluster.nodes.iter().position(|node| node.log().contains("compacted small parts"))
    })
    .await;
    let unfinished = loop {
        let before = compaction_files(&cluster, compacting);
        eight_more(&client, &mut written).await;
        // The other node accepts no copy: the compaction begins and cannot end.
        cluster.nodes[1 - compacting].pause();
        let found = wait_for(SOON, "a compaction begins", async || {
            let new = compaction_files(&cluster, compacting).into_iter().find(|file| !before.contains(file));
            new.or((info(&client).await.endpoint.len() < 8).then(PathBuf::new))
        })
        .await;
        if info(&client).await.endpoint.len() >= 8 {
            break found;
        }
        // It ended before the other node was paused: try again.
        cluster.nodes[1 - compacting].resume();
    };
    cluster.nodes[compacting].kill();
    cluster.nodes[1 - compacting].resume();
    cluster.nodes[compacting].restart().await;
    cluster.settle().await;
    assert_eq!(rows::get(&client, "t").await.unwrap(), Vec::from_iter(0..written));
    wait_for(SOON, "its unfinished file is deleted", async || (!unfinished.exists()).then_some(())).await;
    wait_for_compaction(&client).await;
    assert_eq!(rows::get(&client, "t").await.unwrap(), Vec::from_iter(0..written));
}
