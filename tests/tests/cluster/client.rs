//! What the Rust client does for its users: several addresses, reads that outlast their tickets.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use volley_client::{Client, FetchOptions};
use volley_common::options::Options;
use volley_common::{Code, Result};
use volley_tests::{TestCluster, rows, wait_for};

const SOON: Duration = Duration::from_secs(60);

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
