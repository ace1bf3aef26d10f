//! A slow link: nodes compress what they send where they find that to bring more rows.

use std::net::SocketAddr;
use std::time::Duration;

use arrow_flight::Ticket;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use volley_client::Client;
use volley_common::options::{Codec, Options};
use volley_tests::cluster::ClusterOptions;
use volley_tests::{TestCluster, rows};

use super::local_reads::counter;

/// Bytes a second.
const LINK: f64 = 4e6;
/// Some 18 MB, of which buffers on the way take a few before the link shows.
const ROWS: i64 = 600_000;
/// The counter of bytes that were not sent.
const SAVED: &str = "volley_get_saved_bytes_total";

/// An address that leads to `target` by a slow link.
async fn slow_link(target: SocketAddr) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let socket = TcpSocket::new_v4().unwrap();
            // What is on its way is little.
            socket.set_recv_buffer_size(64 << 10).unwrap();
            let server = socket.connect(target).await.unwrap();
            tokio::spawn(pass_on(client, server));
        }
    });
    address
}

async fn pass_on(client: TcpStream, server: TcpStream) {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let requests = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let mut bytes = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from_server.read(&mut bytes).await {
        if to_client.write_all(&bytes[..count]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_secs_f64(count as f64 / LINK)).await;
    }
    requests.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_over_a_slow_link_are_compressed_and_complete() {
    let options = ClusterOptions { coordinators: 1, nodes: 1, ..ClusterOptions::default() };
    let mut cluster = TestCluster::start_with(options).await;
    let client = cluster.client().await;
    rows::put(&client, "t", &Options::default(), 0..ROWS).await.unwrap();
    let slow = slow_link(cluster.nodes[0].address.parse().unwrap()).await;
    let far = Client::connect(&slow).await.unwrap();
    let mut saved = 0;
    for _ in 0..2 {
        let (_, batches) = far.do_get(Ticket::new("t")).await.unwrap();
        assert_eq!(rows::ids(&batches), Vec::from_iter(0..ROWS));
        let now = counter(&cluster.nodes[0], SAVED).await;
        assert!(now > saved + 1_000_000, "{} bytes were saved", now - saved);
        saved = now;
    }
    // A client that does not want it gets the same rows, and costs the node nothing.
    let plain = Client::builder().address(client.address()).compress(false).connect().await.unwrap();
    let (_, batches) = plain.get_all(&rows::name("t"), &Options::default()).await.unwrap();
    assert_eq!(rows::ids(&batches), Vec::from_iter(0..ROWS));
    assert_eq!(counter(&cluster.nodes[0], SAVED).await, saved);
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_auto_tables_are_compressed_if_that_pays() {
    let options = ClusterOptions { coordinators: 1, nodes: 1, ..ClusterOptions::default() };
    let mut cluster = TestCluster::start_with(options).await;
    let client = cluster.client().await;
    let mut stored = Vec::new();
    for (table, compression) in [("plain", Codec::None), ("auto", Codec::Auto)] {
        let before: u64 = sizes(&cluster);
        let options = Options { compression: Some(compression), ..Options::default() };
        rows::put(&client, table, &options, 0..100_000).await.unwrap();
        stored.push(sizes(&cluster) - before);
        let (_, batches) = client.get_all(&rows::name(table), &Options::default()).await.unwrap();
        assert_eq!(rows::ids(&batches), Vec::from_iter(0..100_000));
    }
    assert!(stored[1] < stored[0] * 2 / 3, "{stored:?}");
    let stats = client.action("get_stats", &serde_json::json!({"table": "auto"})).await.unwrap();
    assert_eq!(stats["compression"], "auto");
}

fn sizes(cluster: &TestCluster) -> u64 {
    cluster.part_files().iter().map(|path| path.metadata().unwrap().len()).sum()
}
