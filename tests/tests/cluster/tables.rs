//! Tables are returned as they were put, and no reader sees half of a write.

use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use volley_client::{FetchOptions, PutOutcome};
use volley_common::options::{Mode, Options};
use volley_common::{Code, Result};
use volley_tests::{TestCluster, rows};

fn keyed() -> Options {
    Options { shards: Some(8), shard_by: Some(vec!["id".into()]), ..Options::default() }
}

fn append() -> Options {
    Options { mode: Some(Mode::Append), ..Options::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn put_and_get_work_at_every_member() {
    let mut cluster = TestCluster::start().await;
    let client = cluster.client().await;
    for member in cluster.members() {
        let there = member.client().await;
        let (ordered, hashed) = (format!("{}/ordered", member.name), format!("{}/keyed", member.name));
        let outcome = rows::put(&there, &ordered, &Options::default(), 0..50_000).await.unwrap();
        assert_eq!((outcome.table.as_str(), outcome.version, outcome.rows), (ordered.as_str(), 1, 50_000));
        rows::put(&there, &hashed, &keyed(), 0..50_000).await.unwrap();
        for reader in [&client, &there] {
            assert_eq!(rows::get(reader, &ordered).await.unwrap(), Vec::from_iter(0..50_000), "{ordered}");
            assert_eq!(rows::get_sorted(reader, &hashed).await.unwrap(), Vec::from_iter(0..50_000), "{hashed}");
        }
    }
    let listed = client.list("node").await.unwrap();
    assert_eq!(listed.len(), 8);
    assert!(listed.iter().all(|info| info.total_records == 50_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn keyed_rows_are_placed_by_hash_on_two_nodes() {
    let mut cluster = TestCluster::start().await;
    let client = cluster.client().await;
    rows::put(&client, "t", &keyed(), 0..80_000).await.unwrap();
    let partitioner = volley_common::partition::Partitioner::new(&rows::schema(), &["id".into()], 8).unwrap();
    let info = client.info(&rows::name("t"), &Options::default()).await.unwrap();
    assert!(!info.ordered);
    for endpoint in &info.endpoint {
        let uris: Vec<&str> = endpoint.location.iter().map(|location| location.uri.as_str()).collect();
        assert_eq!(uris.len(), 2, "two copies: {uris:?}");
        let (one, two) = (cluster.node_index(uris[0]), cluster.node_index(uris[1]));
        assert_ne!(one % 2, two % 2, "both copies are in one zone");
    }
    let fetched: Vec<_> = client.fetch(info, FetchOptions::default()).unwrap().try_collect().await.unwrap();
    let mut shards_of_endpoint = std::collections::BTreeMap::new();
    for part in &fetched {
        for shard in partitioner.shards_of(&part.batch).unwrap() {
            assert_eq!(*shards_of_endpoint.entry(part.endpoint).or_insert(shard), shard, "an endpoint mixes shards");
        }
    }
    assert_eq!(shards_of_endpoint.len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn flight_info_keeps_its_version_after_writes() {
    let mut cluster = TestCluster::start().await;
    let client = cluster.client().await;
    rows::put(&client, "t", &Options::default(), 0..30_000).await.unwrap();
    let hold = async || client.info(&rows::name("t"), &Options::default()).await.unwrap();

    let first = hold().await;
    rows::put(&client, "t", &append(), 30_000..40_000).await.unwrap();
    let second = hold().await;
    rows::put(&client, "t", &Options::default(), 100..200).await.unwrap();
    let third = hold().await;
    client.drop_table(&rows::name("t")).await.unwrap();

    for (info, expected) in [(first, 0..30_000), (second, 0..40_000), (third, 100..200)] {
        assert_eq!(info.total_records, expected.end - expected.start);
        let batches: Vec<_> =
            client.fetch(info, FetchOptions::default()).unwrap().map_ok(|part| part.batch).try_collect().await.unwrap();
        assert_eq!(rows::ids(&batches), Vec::from_iter(expected));
    }
    let error = client.info(&rows::name("t"), &Options::default()).await.unwrap_err();
    assert_eq!(error.code, Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn open_stream_survives_a_replace_and_a_drop() {
    let mut cluster = TestCluster::start().await;
    let client = cluster.client().await;
    rows::put(&client, "t", &Options::default(), 0..400_000).await.unwrap();
    let how = FetchOptions { streams: 1, window_bytes: 1 };
    let mut fetch = client.get(&rows::name("t"), &Options::default(), how).await.unwrap();
    let mut batches = vec![fetch.next().await.unwrap().unwrap().batch];
    rows::put(&client, "t", &Options::default(), 0..1).await.unwrap();
    client.drop_table(&rows::name("t")).await.unwrap();
    while let Some(part) = fetch.next().await {
        batches.push(part.unwrap().batch);
    }
    assert_eq!(rows::ids(&batches), Vec::from_iter(0..400_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writes_are_serialized() {
    let mut cluster = TestCluster::start().await;
    let client = cluster.client().await;
    rows::put(&client, "t", &Options::default(), 0..1000).await.unwrap();

    // Every append takes effect once and completely.
    let others: Vec<_> = join_all(cluster.nodes.iter().map(|node| node.client())).await;
    let writers =
        others.iter().zip(1..).map(async |(other, k)| rows::put(other, "t", &append(), k * 1000..(k + 1) * 1000).await);
    let outcomes: Vec<_> = join_all(writers).await.into_iter().collect::<Result<_>>().unwrap();
    let mut versions: Vec<u64> = outcomes.iter().map(|outcome| outcome.version).collect();
    versions.sort_unstable();
    assert_eq!(versions, [2, 3, 4, 5]);
    let found = rows::get(&client, "t").await.unwrap();
    assert!(found.chunks(1000).all(|rows| rows.is_sorted()), "an append is torn");
    assert_eq!(rows::get_sorted(&client, "t").await.unwrap(), Vec::from_iter(0..5000));

    // One replace is the last, and is complete.
    let writers = others
        .iter()
        .zip(1..)
        .map(async |(other, k)| rows::put(other, "t", &Options::default(), k * 70_000..(k + 1) * 70_000).await);
    let outcomes: Vec<_> = join_all(writers).await.into_iter().collect::<Result<_>>().unwrap();
    let last = outcomes.iter().enumerate().max_by_key(|(_, outcome)| outcome.version).unwrap().0 as i64 + 1;
    assert_eq!(rows::get(&client, "t").await.unwrap(), Vec::from_iter(last * 70_000..(last + 1) * 70_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_write_id_takes_effect_once() {
    let mut cluster = TestCluster::start().await;
    let client = cluster.client().await;
    rows::put(&client, "t", &Options::default(), 0..10).await.unwrap();
    let named = Options { write_id: Some("nightly".into()), ..append() };
    let first = rows::put(&client, "t", &named, 10..20).await.unwrap();
    for node in &cluster.nodes {
        let again = rows::put(&node.client().await, "t", &named, 10..20).await.unwrap();
        assert_eq!(again, PutOutcome { repeated: true, ..first.clone() });
    }
    assert_eq!(rows::get(&client, "t").await.unwrap(), Vec::from_iter(0..20));
    let elsewhere = rows::put(&client, "other", &named, 0..10).await;
    assert!(elsewhere.is_err(), "the id of a write to one table was taken for another: {elsewhere:?}");
}
