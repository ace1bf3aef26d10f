//! Members that are told to stop: what is open may end, and nothing new comes to them.

use std::time::Duration;

use arrow_flight::{FlightData, FlightDescriptor};
use futures::SinkExt;
use futures::channel::mpsc::{Sender, channel};
use tonic::{Code, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use volley_common::client::Client;
use volley_common::net::ConnectionPool;
use volley_common::options::Options;
use volley_tests::process::Process;
use volley_tests::{Cluster, Shape, rows, wait_for};

const SOON: Duration = Duration::from_secs(20);

/// Time enough for whatever a busy machine does meanwhile; nothing waits for its end.
fn patient() -> Vec<String> {
    vec!["--drain-ms".into(), "200000".into()]
}

/// A stream that stays open until the sender is dropped; what is sent comes back.
async fn open(client: &Client) -> (Sender<FlightData>, Streaming<FlightData>) {
    let (mut sender, messages) = channel(1);
    let echo = FlightDescriptor::new_cmd(br#"{"exchange": "echo"}"#.to_vec());
    sender.send(FlightData { flight_descriptor: Some(echo), ..message("first") }).await.unwrap();
    let mut back = client.flight().do_exchange(messages).await.unwrap().into_inner();
    assert_eq!(back.message().await.unwrap().unwrap().app_metadata, "first");
    (sender, back)
}

fn message(text: &str) -> FlightData {
    FlightData { app_metadata: text.to_string().into(), ..FlightData::default() }
}

/// Waits until it is not ready, though it lives and takes no new connections.
async fn drains(member: &Process) {
    wait_for(SOON, "it says that it is stopping", async || {
        let (code, said) = member.http("/readyz").await?;
        (code == 503 && said.contains("stopping")).then_some(())
    })
    .await;
    assert_eq!(member.http("/livez").await.unwrap().0, 200, "{} is alive", member.name);
    wait_for(SOON, "its port is closed", async || Client::connect(&member.address).await.is_err().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_coordinator_leads_while_the_streams_of_the_leader_end() {
    let mut cluster = Cluster::of(Shape { nodes: 1, zones: 1, coordinator_flags: patient(), ..Shape::default() }).await;
    let old = cluster.leader().await;
    let (mut sender, mut back) = open(&cluster.coordinators[old].client().await).await;
    cluster.coordinators[old].terminate();
    drains(&cluster.coordinators[old]).await;
    let new =
        wait_for(SOON, "another one leads", async || Some(cluster.leader().await).filter(|new| *new != old)).await;
    let client = cluster.coordinators[new].client().await;
    wait_for(SOON, "the node is in session with it", async || {
        let options = Options { write_id: Some("once".into()), ..Options::default() };
        rows::put(&client, "t", &options, 0..100).await.ok()
    })
    .await;
    assert_eq!(cluster.nodes_alive().await, Some(1));
    assert!(cluster.coordinators[old].is_alive(), "it waits for its stream");
    sender.send(message("last")).await.unwrap();
    assert_eq!(back.message().await.unwrap().unwrap().app_metadata, "last");
    drop(sender);
    assert!(back.message().await.unwrap().is_none());
    assert!(cluster.coordinators[old].ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_answers_those_who_watch_it_until_its_streams_have_ended() {
    let mut cluster =
        Cluster::of(Shape { coordinators: 1, nodes: 1, zones: 1, node_flags: patient(), ..Shape::default() }).await;
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
    let (mut sender, mut back) = open(&node.client().await).await;
    node.terminate();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert!(watch.message().await.unwrap().is_none(), "a watch must not hold up the stop");
    drains(node).await;
    sender.send(message("last")).await.unwrap();
    assert_eq!(back.message().await.unwrap().unwrap().app_metadata, "last");
    drop(sender);
    assert!(back.message().await.unwrap().is_none());
    assert!(node.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_open_when_the_time_is_up_end_with_unavailable() {
    let limit = vec!["--drain-ms".to_string(), "6000".into()];
    let shape = Shape {
        coordinators: 1,
        nodes: 1,
        zones: 1,
        coordinator_flags: limit.clone(),
        node_flags: limit,
        ..Shape::default()
    };
    let mut cluster = Cluster::of(shape).await;
    // The coordinator first: its stream goes on to the node.
    for member in cluster.members() {
        let (_sender, mut back) = open(&member.client().await).await;
        member.terminate();
        let status = back.message().await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{}: {status}", member.name);
        assert!(status.message().contains("another location"), "{}: {status}", member.name);
        assert!(member.ended().await.success(), "{} was told to end", member.name);
    }
}
