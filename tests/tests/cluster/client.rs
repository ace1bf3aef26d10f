//! What the Rust client does for its users: several addresses, puts by several streams, reads that outlast their tickets.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::oneshot;
use volley_client::{Client, FetchOptions, ParallelPut};
use volley_common::options::{Mode, Options};
use volley_common::{Code, Result};
use volley_tests::{TestCluster, rows, wait_for};

const SOON: Duration = Duration::from_secs(60);

fn keyed() -> Options {
    Options { shard_by: Some(vec!["id".into()]), shards: Some(8), ..Options::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_put_is_one_version_with_every_row() {
    let cluster = TestCluster::start().await;
    // A coordinator plans the write, or a node that forwards the call.
    for (member, table) in [(&cluster.coordinators[0], "by-coordinator"), (&cluster.nodes[1], "by-node")] {
        let client = member.client().await;
        let name = rows::name(table);
        let put = async |options: &Options, ids: std::ops::Range<i64>| {
            client
                .put_parallel(&name, options, rows::schema(), rows::stream(ids), ParallelPut::default())
                .await
                .unwrap()
        };
        let first = put(&keyed(), 0..200_000).await;
        assert_eq!((first.version, first.rows, first.staged, first.repeated), (1, 200_000, false, false));
        // The table's keys are those that it has.
        let append = Options { mode: Some(Mode::Append), ..Options::default() };
        assert_eq!(put(&append, 200_000..300_000).await.version, 2);
        assert_eq!(rows::get_sorted(&client, table).await.unwrap(), Vec::from_iter(0..300_000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_put_keeps_the_order_of_tables_without_keys() {
    let mut cluster = TestCluster::start().await;
    let client = cluster.client().await;
    let (name, options) = (rows::name("t"), Options { shards: Some(4), ..Options::default() });
    let put = client.put_parallel(&name, &options, rows::schema(), rows::stream(0..100_000), ParallelPut::default());
    assert_eq!(put.await.unwrap().rows, 100_000);
    assert_eq!(rows::get(&client, "t").await.unwrap(), Vec::from_iter(0..100_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_put_into_a_killed_node_leaves_nothing() {
    let mut cluster = TestCluster::start().await;
    let client = cluster.client().await;
    let (killed, gate) = oneshot::channel::<()>();
    // The streams are open once the source is read to its half.
    let before = stream::iter(rows::batches(0..1_000_000).into_iter().map(Ok));
    let (reached, half) = oneshot::channel::<()>();
    let between = stream::once(async move {
        reached.send(()).unwrap();
        gate.await.unwrap();
        Ok(rows::batch(0..0))
    });
    let after = stream::iter(rows::batches(1_000_000..1_500_000).into_iter().map(Ok));
    let source = before.chain(between).chain(after);
    let put = {
        let client = client.clone();
        tokio::spawn(async move {
            let name = rows::name("t");
            client.put_parallel(&name, &keyed(), rows::schema(), source, ParallelPut::default()).await
        })
    };
    half.await.unwrap();
    cluster.nodes[0].kill();
    killed.send(()).unwrap();
    let error = put.await.unwrap().unwrap_err();
    assert_eq!(error.code, Code::Unavailable, "{error}");
    let error = rows::get(&client, "t").await.unwrap_err();
    assert_eq!(error.code, Code::NotFound, "{error}");
    // The others take its rows.
    let again = wait_for(SOON, "a put without the killed node", async || {
        let (name, source) = (rows::name("t"), rows::stream(0..10_000));
        client.put_parallel(&name, &keyed(), rows::schema(), source, ParallelPut::default()).await.ok()
    });
    assert_eq!(again.await.rows, 10_000);
    assert_eq!(rows::get_sorted(&client, "t").await.unwrap(), Vec::from_iter(0..10_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_slower_than_its_tickets_gets_every_row_once() {
    let mut cluster = TestCluster::start().await;
    let client = cluster.client().await;
    let short = Options { shards: Some(4), retention_s: Some(10), ..Options::default() };
    rows::put(&client, "t", &short, 0..400_000).await.unwrap();
    let how = FetchOptions { streams: 1, window_bytes: 1 };
    let mut fetch = client.get(&rows::name("t"), &Options::default(), how).await.unwrap();
    assert!(fetch.info.endpoint.len() > 1, "a second endpoint is opened late");
    let mut batches = vec![fetch.next().await.unwrap().unwrap().batch];
    rows::put(&client, "t", &Options::default(), 0..1).await.unwrap();
    let last = fetch.info.endpoint.last().unwrap().ticket.clone().unwrap();
    let expired = async || client.do_get(last.clone()).await.err();
    let error = wait_for(SOON, "the last ticket expires", expired).await;
    assert_eq!(error.code, Code::NotFound, "{error}");
    let rest: Vec<_> = fetch.map_ok(|part| part.batch).try_collect().await.unwrap();
    batches.extend(rest);
    assert_eq!(rows::ids(&batches), Vec::from_iter(0..400_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn client_of_several_members_outlives_the_one_it_uses() {
    let mut cluster = TestCluster::start().await;
    let addresses: Vec<String> = cluster.coordinators.iter().map(|member| member.address.clone()).collect();
    let client = Client::builder().addresses(&addresses).connect().await.unwrap();
    rows::put(&client, "t", &Options::default(), 0..1000).await.unwrap();
    let used = addresses.iter().position(|address| address == client.address()).unwrap();
    cluster.coordinators[used].kill();
    let read: Result<Vec<i64>> = wait_for(SOON, "a leader answers", async || match rows::get(&client, "t").await {
        Err(error) if error.code == Code::Unavailable => None,
        outcome => Some(outcome),
    })
    .await;
    assert_eq!(read.unwrap(), Vec::from_iter(0..1000));
    rows::put(&client, "t", &Options::default(), 0..10).await.unwrap();
    assert_eq!(rows::get(&client, "t").await.unwrap(), Vec::from_iter(0..10));
}
