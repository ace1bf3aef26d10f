//! Members that stop: open streams may finish, and no new connection is accepted.

use std::time::Duration;

use arrow_flight::{FlightData, FlightDescriptor, Ticket};
use bytes::Bytes;
use futures::SinkExt;
use futures::channel::mpsc::{Sender, channel};
use tonic::{Code, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use volley_client::Client;
use volley_common::net::ConnectionPool;
use volley_common::options::Options;
use volley_tests::process::ServerProcess;
use volley_tests::{ClusterOptions, TestCluster, raw, rows, wait_for};

const SOON: Duration = Duration::from_secs(20);

/// A drain limit that a busy machine does not reach; no test waits for it.
fn long_drain() -> Vec<String> {
    vec!["--drain-ms".into(), "200000".into()]
}

/// A stream that stays open until the sender is dropped; it echoes its messages.
async fn open(client: &Client) -> (Sender<FlightData>, Streaming<FlightData>) {
    let (mut sender, messages) = channel(1);
    let echo = FlightDescriptor::new_cmd(br#"{"exchange": "echo"}"#.to_vec());
    sender.send(FlightData { flight_descriptor: Some(echo), ..message("first") }).await.unwrap();
    let mut back = client.flight().do_exchange(messages).await.unwrap().into_inner();
    assert_eq!(back.message().await.unwrap().unwrap().app_metadata, "first");
    (sender, back)
}

/// Ends such a stream, which is whole.
async fn finish(mut sender: Sender<FlightData>, mut back: Streaming<FlightData>) {
    sender.send(message("last")).await.unwrap();
    assert_eq!(back.message().await.unwrap().unwrap().app_metadata, "last");
    drop(sender);
    assert!(back.message().await.unwrap().is_none());
}

fn message(text: &str) -> FlightData {
    FlightData { app_metadata: text.to_string().into(), ..FlightData::default() }
}

/// Waits until the member reports that it is stopping and accepts no new connections.
async fn wait_for_drain(member: &ServerProcess) {
    wait_for(SOON, "it reports that it is stopping", async || {
        let (code, body) = member.http("/readyz").await?;
        (code == 503 && body.contains("stopping")).then_some(())
    })
    .await;
    assert_eq!(member.http("/livez").await.unwrap().0, 200, "{} is alive", member.name);
    wait_for(SOON, "its port is closed", async || Client::connect(&member.address).await.is_err().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_while_a_stopping_leader_drains() {
    let mut cluster = TestCluster::start_with(ClusterOptions {
        nodes: 1,
        zones: 1,
        coordinator_flags: long_drain(),
        ..ClusterOptions::default()
    })
    .await;
    let old = cluster.leader().await;
    let (sender, back) = open(&cluster.coordinators[old].client().await).await;
    cluster.coordinators[old].terminate();
    wait_for_drain(&cluster.coordinators[old]).await;
    let new =
        wait_for(SOON, "another coordinator leads", async || Some(cluster.leader().await).filter(|new| *new != old))
            .await;
    let client = cluster.coordinators[new].client().await;
    wait_for(SOON, "the node has a session with it", async || {
        let options = Options { write_id: Some("once".into()), ..Options::default() };
        rows::put(&client, "t", &options, 0..100).await.ok()
    })
    .await;
    assert_eq!(cluster.nodes_alive().await, Some(1));
    assert!(cluster.coordinators[old].is_running(), "it waits for its stream");
    finish(sender, back).await;
    assert!(cluster.coordinators[old].wait_for_exit().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_node_serves_health_until_its_streams_end() {
    let mut cluster = TestCluster::start_with(ClusterOptions {
        coordinators: 1,
        nodes: 1,
        zones: 1,
        node_flags: long_drain(),
        ..ClusterOptions::default()
    })
    .await;
    let node = &mut cluster.nodes[0];
    let (ready, alive) = (node.http("/readyz").await.unwrap(), node.http("/livez").await.unwrap());
    assert_eq!((ready.0, alive.0), (200, 200));
    let mut health = HealthClient::new(ConnectionPool::new().channel(&node.address).unwrap());
    for service in ["", "arrow.flight.protocol.FlightService"] {
        let request = HealthCheckRequest { service: service.into() };
        assert_eq!(health.check(request).await.unwrap().into_inner().status(), ServingStatus::Serving, "{service:?}");
    }
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let (sender, back) = open(&node.client().await).await;
    node.terminate();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert!(watch.message().await.unwrap().is_none(), "a watch must not hold up the stop");
    wait_for_drain(node).await;
    finish(sender, back).await;
    assert!(node.wait_for_exit().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn proxied_streams_finish_while_their_node_drains() {
    const LARGE: i64 = 600_000;
    let mut cluster = TestCluster::start_with(ClusterOptions {
        coordinators: 1,
        nodes: 1,
        zones: 1,
        node_flags: long_drain(),
        ..ClusterOptions::default()
    })
    .await;
    let client = cluster.coordinators[0].client().await;
    rows::put(&client, "large", &Options::default(), 0..LARGE).await.unwrap();
    let mut get = client.open(Ticket::new("large")).await.unwrap();
    let (sender, mut back) = open(&client).await;
    let mut batches = raw::messages("t", &rows::schema(), vec![rows::batch(0..100), rows::batch(100..200)]);
    let last = batches.pop().unwrap();
    let (mut put, messages) = channel(1);
    let ((), answers) = tokio::join!(
        async {
            for message in batches {
                put.send(message).await.unwrap();
            }
        },
        async { client.flight().do_put(messages).await },
    );
    let mut acks = answers.unwrap().into_inner();
    acks.message().await.unwrap().unwrap();

    let node = &mut cluster.nodes[0];
    node.terminate();
    wait_for_drain(node).await;
    // The coordinator waits for the node, and probes it.
    let ended = async {
        tokio::select! {
            end = back.message() => format!("{end:?}"),
            end = acks.message() => format!("{end:?}"),
        }
    };
    if let Ok(end) = tokio::time::timeout(Duration::from_secs(3), ended).await {
        panic!("a stream ended early: {end}");
    }
    finish(sender, back).await;
    put.send(last).await.unwrap();
    drop(put);
    let mut outcome = Bytes::new();
    while let Some(ack) = acks.message().await.unwrap() {
        outcome = ack.app_metadata;
    }
    let outcome: serde_json::Value = serde_json::from_slice(&outcome).unwrap();
    assert_eq!(outcome["rows"], 200, "{outcome}");
    let mut rows = 0;
    while let Some(batch) = get.next().await.unwrap() {
        rows += batch.num_rows();
    }
    assert_eq!(rows as i64, LARGE);
    assert!(node.wait_for_exit().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_open_at_the_drain_limit_end_with_unavailable() {
    let limit = vec!["--drain-ms".to_string(), "6000".into()];
    let options = ClusterOptions {
        coordinators: 1,
        nodes: 1,
        zones: 1,
        coordinator_flags: limit.clone(),
        node_flags: limit,
        ..ClusterOptions::default()
    };
    let mut cluster = TestCluster::start_with(options).await;
    // The coordinator first, because its stream leads to the node.
    for member in cluster.members() {
        let (_sender, mut back) = open(&member.client().await).await;
        member.terminate();
        let status = back.message().await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{}: {status}", member.name);
        assert!(status.message().contains("another location"), "{}: {status}", member.name);
        assert!(member.wait_for_exit().await.success(), "{} exits with success", member.name);
    }
}
