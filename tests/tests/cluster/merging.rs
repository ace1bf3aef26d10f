//! Many small appends: merged in the background, and nobody notices but by the number of endpoints.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow_flight::FlightInfo;
use futures::TryStreamExt;
use futures::future::join_all;
use volley_common::client::{Client, FetchOptions};
use volley_common::options::{Mode, Options};
use volley_tests::{Cluster, Shape, rows, wait_for};

/// Writers at once, appends of each, rows of each append.
const WRITERS: i64 = 3;
const APPENDS: i64 = 60;
const ROWS: i64 = 20;
/// Rows of one writer lie so far from those of the next.
const APART: i64 = 1_000_000;
/// Long enough for what is read while it is replaced, short enough to wait for its end.
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

/// Of every writer the first so many appends, each whole and in one piece, in order; gives how many there are.
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

/// Reads and checks until the writers are done; the first FlightInfo of many endpoints is kept.
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
async fn small_appends_become_few_endpoints_while_readers_read() {
    let mut cluster = Cluster::start().await;
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
    assert_eq!(check_prefixes(&fetched(&client, kept).await), appends, "a version from before the merges");
    assert_eq!(check_prefixes(&fetched(&client, few).await), WRITERS * APPENDS);
    // Merges that were still to come may go on; then two copies of what is there are all that lies on disk.
    wait_for(2 * SOON, "what was merged is gone from the disks", async || {
        let parts = info(&client).await.endpoint.len();
        (cluster.files().len() == 2 * parts).then_some(())
    })
    .await;
    assert_eq!(check_prefixes(&rows::get(&client, "t").await.unwrap()), WRITERS * APPENDS);
}

/// Files of merges on a node's disk.
fn merge_files(cluster: &Cluster, node: usize) -> Vec<PathBuf> {
    let of_merge = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().contains("merge-"));
    let folder = &cluster.nodes[node].folder;
    cluster.files().into_iter().filter(|path| path.starts_with(folder) && of_merge(path)).collect()
}

async fn eight_more(client: &Client, rows: &mut i64) {
    for _ in 0..8 {
        rows::put(client, "t", &append(), *rows..*rows + ROWS).await.unwrap();
        *rows += ROWS;
    }
}

async fn merged(client: &Client) {
    wait_for(SOON, "the parts are merged", async || (info(client).await.endpoint.len() < 8).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merging_node_that_is_killed_leaves_nothing() {
    let mut cluster = Cluster::of(Shape { coordinators: 1, nodes: 2, ..Shape::default() }).await;
    let client = cluster.client().await;
    rows::put(&client, "t", &Options { shards: Some(1), ..Options::default() }, 0..0).await.unwrap();
    let mut written = 0;
    eight_more(&client, &mut written).await;
    merged(&client).await;
    // Both nodes hold everything, so that it is always the same one that merges.
    let merging = wait_for(SOON, "a node says that it merged", async || {
        cluster.nodes.iter().position(|node| node.log().contains("compacted small parts"))
    })
    .await;
    let unfinished = loop {
        let before = merge_files(&cluster, merging);
        eight_more(&client, &mut written).await;
        // The other node takes no copy: the merge is begun and cannot end.
        cluster.nodes[1 - merging].pause();
        let found = wait_for(SOON, "a merge is begun", async || {
            let new = merge_files(&cluster, merging).into_iter().find(|file| !before.contains(file));
            new.or((info(&client).await.endpoint.len() < 8).then(PathBuf::new))
        })
        .await;
        if info(&client).await.endpoint.len() >= 8 {
            break found;
        }
        // It was over before the other node stood still: once more.
        cluster.nodes[1 - merging].resume();
    };
    cluster.nodes[merging].kill9();
    cluster.nodes[1 - merging].resume();
    cluster.nodes[merging].restart().await;
    cluster.settle().await;
    assert_eq!(rows::get(&client, "t").await.unwrap(), Vec::from_iter(0..written));
    wait_for(SOON, "what it was writing is gone", async || (!unfinished.exists()).then_some(())).await;
    merged(&client).await;
    assert_eq!(rows::get(&client, "t").await.unwrap(), Vec::from_iter(0..written));
}
