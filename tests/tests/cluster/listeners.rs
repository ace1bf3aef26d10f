//! Named listeners: which addresses a client gets.

use arrow_flight::{FlightDescriptor, FlightInfo};
use serde_json::json;
use tonic::Request;
use volley_client::Client;
use volley_common::options::{CLIENT_LISTENER_HEADER, LISTENER_HEADER, Options};
use volley_common::{Code, Error};
use volley_tests::{ClusterOptions, TestCluster, rows};

const REUSE: &str = "arrow-flight-reuse-connection://?";
const ROWS: i64 = 20_000;

/// A coordinator and two nodes with a second listener, `external`, 1,000 ports above the first; and a table of four parts.
async fn with_two_listeners(more: &[&str]) -> TestCluster {
    let external = |port: u16| {
        let listen = ["--listen".to_string(), format!("external={{host}}:{port}")];
        let advertise = ["--advertise".to_string(), format!("external=grpc+tcp://{{host}}:{port}")];
        listen.into_iter().chain(advertise).collect::<Vec<String>>()
    };
    let coordinator_flags = external(9815).into_iter().chain(more.iter().map(|flag| flag.to_string())).collect();
    let options = ClusterOptions {
        coordinators: 1,
        nodes: 2,
        coordinator_flags,
        node_flags: external(9816),
        ..ClusterOptions::default()
    };
    let mut cluster = TestCluster::start_with(options).await;
    let options = Options { shards: Some(4), shard_by: Some(vec!["id".into()]), ..Options::default() };
    rows::put(&cluster.client().await, "t", &options, 0..ROWS).await.unwrap();
    cluster
}

/// The member's external address.
fn external(address: &str) -> String {
    address.replace(":88", ":98")
}

async fn info(client: &Client, listener: Option<&str>) -> Result<FlightInfo, Error> {
    let header = listener.map(|name| (LISTENER_HEADER, name.as_bytes()));
    info_with(client, header).await
}

async fn info_with(client: &Client, header: Option<(&'static str, &[u8])>) -> Result<FlightInfo, Error> {
    let mut request = Request::new(FlightDescriptor::new_path(vec!["t".into()]));
    if let Some((name, value)) = header {
        request.metadata_mut().insert(name, value.try_into().unwrap());
    }
    Ok(client.flight().get_flight_info(request).await?.into_inner())
}

/// All locations, each once.
fn locations(info: &FlightInfo) -> Vec<&str> {
    let mut uris: Vec<&str> = info.endpoint.iter().flat_map(|e| &e.location).map(|l| l.uri.as_str()).collect();
    uris.sort_unstable();
    uris.dedup();
    uris
}

/// The nodes' addresses, as [`locations`] returns them.
fn expected(nodes: impl Iterator<Item = String>) -> Vec<String> {
    let mut uris: Vec<String> = nodes.map(|address| format!("grpc+tcp://{address}")).collect();
    uris.sort_unstable();
    uris
}

async fn read(client: &Client) -> Vec<i64> {
    rows::get_sorted(client, "t").await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn locations_are_those_of_the_clients_listener() {
    let cluster = with_two_listeners(&[]).await;
    let coordinator = &cluster.coordinators[0].address;
    let inside = Client::connect(coordinator).await.unwrap();
    let outside = Client::connect(&external(coordinator)).await.unwrap();
    let nodes = || cluster.nodes.iter().map(|node| node.address.clone());
    let (internal, others) = (expected(nodes()), expected(nodes().map(|address| external(&address))));
    assert_eq!(locations(&info(&inside, None).await.unwrap()), internal);
    assert_eq!(locations(&info(&outside, None).await.unwrap()), others);
    assert_eq!(locations(&info(&inside, Some("external")).await.unwrap()), others, "as requested");
    for node in &cluster.nodes {
        let there = Client::connect(&external(&node.address)).await.unwrap();
        assert_eq!(locations(&info(&there, None).await.unwrap()), others, "by way of {}", node.name);
        assert_eq!(read(&there).await, Vec::from_iter(0..ROWS));
        assert_eq!(locations(&info(&node.client().await, None).await.unwrap()), internal, "by way of {}", node.name);
    }
    for client in [&inside, &outside] {
        assert_eq!(read(client).await, Vec::from_iter(0..ROWS));
    }
    for (client, uris) in [(&inside, &internal), (&outside, &others)] {
        let begun = client.action("begin_write", &json!({ "table": "t", "mode": "append" })).await.unwrap();
        let mut nodes: Vec<&str> = begun["nodes"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
        nodes.sort_unstable();
        assert_eq!(&nodes, uris, "where a write goes");
    }
    let error = info(&inside, Some("nowhere")).await.unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);
    assert!(["\"nowhere\"", "external", "proxy"].iter().all(|word| error.message.contains(word)), "{error}");
    for member in [&cluster.coordinators[0], &cluster.nodes[0]] {
        let client = member.client().await;
        let forged = info_with(&client, Some((CLIENT_LISTENER_HEADER, &b"external"[..]))).await.unwrap();
        assert_eq!(locations(&forged), internal, "a client of {} cannot set the header of its listener", member.name);
        let error = info_with(&client, Some((LISTENER_HEADER, &b"\xfcber"[..]))).await.unwrap_err();
        assert!(
            error.code == Code::InvalidArgument && error.message.contains(LISTENER_HEADER),
            "{}: {error}",
            member.name
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listener_without_nodes_is_served_by_the_coordinator() {
    let flags = |name: &str, port: u16| vec!["--listen".to_string(), format!("{name}={{host}}:{port}")];
    let options = ClusterOptions {
        coordinators: 1,
        nodes: 2,
        coordinator_flags: flags("external", 9815),
        node_flags: flags("other", 9816),
        ..ClusterOptions::default()
    };
    let cluster = TestCluster::start_with(options).await;
    let address = external(&cluster.coordinators[0].address);
    let outside = Client::connect(&address).await.unwrap();
    rows::put(&outside, "t", &Options::default(), 0..ROWS).await.unwrap();
    let own = format!("grpc+tcp://{address}");
    assert_eq!(locations(&info(&outside, None).await.unwrap()), [own.as_str()]);
    for (way, uri) in [("proxy", REUSE), ("single", &own), ("direct", &own)] {
        let asked = info(&outside, Some(way)).await.unwrap();
        assert_eq!(locations(&asked), [uri], "{way}: no address is advertised for this listener");
    }
    assert_eq!(read(&outside).await, Vec::from_iter(0..ROWS));
    let begun = outside.action("begin_write", &json!({ "table": "t", "mode": "append" })).await.unwrap();
    assert_eq!(begun["nodes"], json!([own]), "it is forwarded in the same way");
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy_listener_serves_all_data_itself() {
    let cluster = with_two_listeners(&["--locations", "external=proxy"]).await;
    let coordinator = &cluster.coordinators[0].address;
    let inside = Client::connect(coordinator).await.unwrap();
    let outside = Client::connect(&external(coordinator)).await.unwrap();
    let own = |address: &str| expected(std::iter::once(address.to_string()));
    let through = info(&outside, None).await.unwrap();
    assert_eq!(
        (locations(&through), through.endpoint.len()),
        (own(&external(coordinator)).iter().map(String::as_str).collect(), 4)
    );
    assert_eq!(read(&outside).await, Vec::from_iter(0..ROWS));
    let direct = expected(cluster.nodes.iter().map(|node| external(&node.address)));
    assert_eq!(locations(&info(&outside, Some("direct")).await.unwrap()), direct, "direct addresses on request");
    let asked = info(&inside, Some("proxy")).await.unwrap();
    assert_eq!(locations(&asked), own(coordinator));
    let single = info(&inside, Some("single")).await.unwrap();
    assert_eq!((locations(&single), single.endpoint.len()), (own(coordinator).iter().map(String::as_str).collect(), 1));
    let ticket = single.endpoint[0].ticket.clone().unwrap();
    let (_, batches) = inside.do_get(ticket).await.unwrap();
    let mut ids = rows::ids(&batches);
    ids.sort_unstable();
    assert_eq!(ids, Vec::from_iter(0..ROWS), "the only endpoint has all");
}
