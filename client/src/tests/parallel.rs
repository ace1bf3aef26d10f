//! Puts by several streams.

use std::time::Duration;

use volley_common::partition::Partitioner;

use super::*;

/// A coordinator that begins a write to these nodes, of which each holds one shard.
async fn start_coordinator(nodes: &[String], commit: Status) -> (RunningFake, Client) {
    let placement: Vec<[usize; 1]> = (0..nodes.len()).map(|node| [node]).collect();
    let begun =
        json!({ "write_id": "w", "nodes": nodes, "shard_by": ["n"], "placement": placement, "lease_ms": 60_000 });
    let coordinator = start_fake(|fake| (fake.begun, fake.commit) = (Some(begun), commit)).await;
    let client = Client::connect(&coordinator.address).await.unwrap();
    (coordinator, client)
}

/// A node into which puts are staged.
async fn start_node() -> RunningFake {
    start_fake(|fake| fake.begun = Some(Value::Null)).await
}

async fn put(client: &Client, batches: Vec<Result<RecordBatch>>) -> Result<PutOutcome> {
    let options = Options { shard_by: Some(vec!["n".into()]), ..Options::default() };
    client.put_parallel(&table(), &options, schema(), stream::iter(batches), ParallelPut::default()).await
}

fn thousand() -> Vec<Result<RecordBatch>> {
    (0..10).map(|k| Ok(numbers(k * 100..k * 100 + 100))).collect()
}

/// The values of a put that must have arrived in whole.
async fn received(member: &mut RunningFake) -> Vec<i64> {
    let Some(ReceivedPut::Complete(_, batches)) = member.puts.recv().await else { panic!("the put broke") };
    let column = |batch: &RecordBatch| batch.column(0).as_primitive::<Int64Type>().values().to_vec();
    batches.iter().flat_map(column).collect()
}

/// Waits until a member has received an action of this name.
async fn until_received(member: &RunningFake, action: &str) {
    let received = async {
        while member.bodies(action).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), received).await.unwrap();
}

#[tokio::test]
async fn rows_go_to_the_holders_of_their_shards_with_one_commit() {
    let (mut one, mut two) = (start_node().await, start_node().await);
    let (coordinator, client) = start_coordinator(&[one.uri(), two.uri()], Status::ok("")).await;
    let outcome = put(&client, thousand()).await.unwrap();
    assert_eq!((outcome.version, outcome.rows, outcome.repeated), (2, 1000, false));
    let all = numbers(0..1000);
    let shards = Partitioner::new(&schema(), &["n".into()], 2).unwrap().shards_of(&all).unwrap();
    let of_shard = |shard: u32| (0..1000).filter(|n| shards[*n as usize] == shard).collect::<Vec<i64>>();
    assert_eq!(received(&mut one).await, of_shard(0));
    assert_eq!(received(&mut two).await, of_shard(1));
    assert_eq!(coordinator.bodies("begin_write"), [json!({ "table": "t", "shard_by": ["n"] })]);
    assert_eq!(coordinator.bodies("commit_write"), [json!({ "write_id": "w" })]);
    assert!(coordinator.bodies("abort_write").is_empty());
}

#[tokio::test]
async fn failing_source_commits_nothing() {
    let (mut one, mut two) = (start_node().await, start_node().await);
    let (coordinator, client) = start_coordinator(&[one.uri(), two.uri()], Status::ok("")).await;
    let batches = vec![Ok(numbers(0..1_000_000)), Err(Error::data_loss("line 7 is bad"))];
    assert_eq!(put(&client, batches).await.unwrap_err(), Error::data_loss("line 7 is bad"));
    for node in [&mut one, &mut two] {
        assert!(!matches!(node.puts.try_recv(), Ok(ReceivedPut::Complete(..))));
    }
    assert_eq!(coordinator.bodies("abort_write"), [json!({ "write_id": "w", "reason": "line 7 is bad" })]);
    assert!(coordinator.bodies("commit_write").is_empty());
}

#[tokio::test]
async fn refused_stream_ends_the_others_and_its_error_is_told() {
    let (one, two) = (start_node().await, start_node().await);
    one.logins.accept("another token");
    let (coordinator, client) = start_coordinator(&[one.uri(), two.uri()], Status::ok("")).await;
    let error = put(&client, thousand()).await.unwrap_err();
    assert_eq!(error.code, Code::Unauthenticated, "{error}");
    assert_eq!(coordinator.bodies("abort_write").len(), 1);
    assert!(coordinator.bodies("commit_write").is_empty());
}

#[tokio::test]
async fn refused_commit_is_aborted_and_told() {
    let mut node = start_node().await;
    let (coordinator, client) =
        start_coordinator(&[node.uri()], Status::resource_exhausted("the quota of t is used up")).await;
    let error = put(&client, thousand()).await.unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (Code::ResourceExhausted, "the quota of t is used up"));
    assert_eq!(received(&mut node).await.len(), 1000);
    assert_eq!(coordinator.bodies("abort_write").len(), 1);
}

#[tokio::test]
async fn commit_whose_outcome_is_unknown_is_repeated_and_not_aborted() {
    let node = start_node().await;
    let (coordinator, client) = start_coordinator(&[node.uri()], Status::internal("the reply broke")).await;
    let error = put(&client, thousand()).await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable, "{error}");
    assert!(error.message.contains("the outcome of write w is unknown"), "{error}");
    assert_eq!(coordinator.bodies("commit_write").len(), 4);
    assert!(coordinator.bodies("abort_write").is_empty());
}

#[tokio::test]
async fn unreachable_holder_is_replaced_by_another() {
    let mut node = start_node().await;
    let (_coordinator, client) = start_coordinator(&[dead_address().await, node.uri()], Status::ok("")).await;
    put(&client, thousand()).await.unwrap();
    let mut rows = received(&mut node).await;
    rows.sort_unstable();
    assert!(rows.into_iter().eq(0..1000));
}

#[tokio::test]
async fn one_stream_is_left_where_no_node_can_be_reached() {
    let dead = dead_address().await;
    let (mut coordinator, client) = start_coordinator(&[dead], Status::ok("")).await;
    put(&client, thousand()).await.unwrap();
    assert!(received(&mut coordinator).await.into_iter().eq(0..1000), "in their order");
}

#[tokio::test]
async fn members_that_tell_no_placement_get_one_stream() {
    let begun = json!({ "write_id": "w", "nodes": ["grpc+tcp://192.0.2.1:1"], "lease_ms": 60_000 });
    let mut coordinator = start_fake(|fake| fake.begun = Some(begun)).await;
    let client = Client::connect(&coordinator.address).await.unwrap();
    put(&client, thousand()).await.unwrap();
    assert_eq!(received(&mut coordinator).await.len(), 1000);
    assert_eq!(coordinator.bodies("commit_write").len(), 1);
}

#[tokio::test]
async fn put_with_a_write_id_is_an_ordinary_one() {
    let mut member = start_fake(|_| {}).await;
    let client = Client::connect(&member.address).await.unwrap();
    let options = Options { write_id: Some("load-1".into()), ..Options::default() };
    let batches = stream::iter(thousand());
    let outcome = client.put_parallel(&table(), &options, schema(), batches, ParallelPut::default()).await.unwrap();
    assert_eq!((outcome.version, received(&mut member).await.len()), (1, 1000));
    assert!(member.bodies("begin_write").is_empty());
}

#[tokio::test]
async fn put_that_is_dropped_is_aborted() {
    let (mut one, two) = (start_node().await, start_node().await);
    let (coordinator, client) = start_coordinator(&[one.uri(), two.uri()], Status::ok("")).await;
    let endless = stream::iter([Ok(numbers(0..100))]).chain(stream::pending());
    let options = Options { shard_by: Some(vec!["n".into()]), ..Options::default() };
    let putting = client.clone();
    let put = tokio::spawn(async move {
        putting.put_parallel(&table(), &options, schema(), endless, ParallelPut::default()).await
    });
    until_received(&coordinator, "begin_write").await;
    put.abort();
    assert!(put.await.unwrap_err().is_cancelled());
    tokio::time::timeout(Duration::from_secs(30), client.settle()).await.unwrap();
    assert_eq!(coordinator.bodies("abort_write").len(), 1);
    assert!(coordinator.bodies("commit_write").is_empty());
    // It may have been given up before its streams began.
    assert!(!matches!(one.puts.try_recv(), Ok(ReceivedPut::Complete(..))));
}
