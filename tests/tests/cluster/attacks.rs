//! Clients that take what they can: memory and connections stay bounded, and others are served meanwhile.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use std::{fs, io};

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightDescriptor, Ticket};
use futures::StreamExt;
use futures::future::join_all;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use volley_client::Client;
use volley_common::options::{LISTENER_HEADER, Options};
use volley_tests::loopback::HTTP_OFFSET;
use volley_tests::process::ServerProcess;
use volley_tests::{ClusterOptions, TestCluster, rows, wait_for};

/// One client may have as many calls as all together: here memory is tested, not that limit.
const MANY_CALLS: &str = "max_calls_per_principal = 16384";

/// The same of memory: at a node of an open cluster, all clients of a coordinator are one, which has half.
const MUCH_MEMORY: &str = "get_memory_bytes = 1073741824";

fn of_nodes(nodes: usize) -> ClusterOptions {
    let (coordinator_config, node_config) = (MANY_CALLS.into(), format!("{MANY_CALLS}\n{MUCH_MEMORY}"));
    ClusterOptions { coordinators: 1, nodes, coordinator_config, node_config, ..ClusterOptions::default() }
}

async fn small() -> TestCluster {
    TestCluster::start_with(of_nodes(1)).await
}

/// Anonymous memory of a process, MiB: pages of mapped files can be dropped at any time.
fn anonymous_mib(process: &ServerProcess) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

/// A ticket of the whole table.
async fn ticket(member: &ServerProcess) -> Ticket {
    let mut request = tonic::Request::new(FlightDescriptor::new_path(vec!["t".into()]));
    request.metadata_mut().insert(LISTENER_HEADER, "single".parse().unwrap());
    let info = member.client().await.flight().get_flight_info(request).await.unwrap().into_inner();
    info.endpoint[0].ticket.clone().unwrap()
}

/// A connection from an address of this machine. The client's own windows are small, and end within a frame.
async fn connect_from(source: [u8; 4], member: &ServerProcess) -> Channel {
    let address: SocketAddr = member.address.parse().unwrap();
    let connector = tower::service_fn(move |_: Uri| async move {
        let socket = TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        io::Result::Ok(TokioIo::new(socket.connect(address).await?))
    });
    let endpoint = Endpoint::from_shared(format!("http://{}", member.address)).unwrap();
    let endpoint = endpoint.initial_stream_window_size(12_345).initial_connection_window_size(1 << 30);
    endpoint.connect_with_connector(connector).await.unwrap()
}

/// Opens `count` DoGets of the whole table on three connections and reads nothing but the start of each. Each connection is of
/// another client, because one client has half of the memory at most.
async fn unread_gets(member: &ServerProcess, count: usize) -> Vec<tonic::Streaming<arrow_flight::FlightData>> {
    let ticket = ticket(member).await;
    let mut streams = Vec::new();
    for source in 1..=3 {
        let channel = connect_from([127, 0, 0, source], member).await;
        let client = FlightServiceClient::new(channel).max_decoding_message_size(1 << 30);
        let opened = join_all((0..count / 3).map(|_| {
            let (mut client, ticket) = (client.clone(), ticket.clone());
            async move { client.do_get(ticket).await.unwrap().into_inner() }
        }));
        streams.extend(opened.await);
    }
    streams
}

/// Waits until the memory no longer grows; returns it.
async fn settled_mib(process: &ServerProcess) -> u64 {
    let mut last = 0;
    wait_for(Duration::from_secs(60), "the memory to settle", async || {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = anonymous_mib(process);
        (now <= std::mem::replace(&mut last, now)).then_some(now)
    })
    .await
}

/// 9,900 clients that do not read take less than 512 MiB of the member, and others are served meanwhile.
async fn check_unread_gets(member: &ServerProcess) {
    let before = anonymous_mib(member);
    let mut streams = Vec::new();
    for (count, limit) in [(1_500, 256), (8_400, 512)] {
        streams.extend(unread_gets(member, count).await);
        let grown = settled_mib(member).await.saturating_sub(before);
        eprintln!("{}: {grown} MiB for {} unread streams", member.name, streams.len());
        assert!(grown < limit, "{}: {grown} MiB for {} unread streams", member.name, streams.len());
    }
    let start = Instant::now();
    assert_eq!(rows::get(&member.client().await, "t").await.unwrap().len(), 1_500_000, "others are served");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_streams_take_bounded_memory() {
    let mut cluster = small().await;
    // More than the windows of one stream.
    rows::put(&cluster.client().await, "t", &Options::default(), 0..1_500_000).await.unwrap();
    for member in [&cluster.coordinators[0], &cluster.nodes[0]] {
        check_unread_gets(member).await;
    }
}

/// One of the nodes has the table, and the other one reads it there.
#[tokio::test(flavor = "multi_thread")]
async fn unread_streams_of_a_peers_part_take_bounded_memory() {
    let mut cluster = TestCluster::start_with(of_nodes(2)).await;
    let one_copy = Options { replicas: Some(1), shards: Some(1), ..Options::default() };
    rows::put(&cluster.client().await, "t", &one_copy, 0..1_500_000).await.unwrap();
    for member in &cluster.nodes {
        check_unread_gets(member).await;
    }
}

/// A connection of which nothing is read once it is paused.
struct PausableStream {
    stream: TcpStream,
    is_paused: Arc<AtomicBool>,
}

impl AsyncRead for PausableStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.is_paused.load(Ordering::SeqCst) {
            true => Poll::Pending,
            false => Pin::new(&mut self.stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for PausableStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A client whose windows are as large as HTTP/2 allows, and that stops to read its connection.
async fn client_that_stops_reading(member: &ServerProcess) -> FlightServiceClient<Channel> {
    let (address, is_paused) = (member.address.clone(), Arc::<AtomicBool>::default());
    let pause = is_paused.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let (address, is_paused) = (address.clone(), is_paused.clone());
        async move {
            let stream = TcpStream::connect(address).await?;
            io::Result::Ok(TokioIo::new(PausableStream { stream, is_paused }))
        }
    });
    let endpoint = Endpoint::from_shared(format!("http://{}", member.address)).unwrap();
    let endpoint = endpoint.initial_stream_window_size((1 << 31) - 1).initial_connection_window_size((1 << 31) - 1);
    let mut client = FlightServiceClient::new(endpoint.connect_with_connector(connector).await.unwrap());
    // The member's settings allow more than the first 100 streams.
    client.list_actions(arrow_flight::Empty {}).await.unwrap();
    pause.store(true, Ordering::SeqCst);
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_connections_take_bounded_memory() {
    let mut cluster = TestCluster::start_with(of_nodes(2)).await;
    let one_copy = Options { replicas: Some(1), shards: Some(1), ..Options::default() };
    rows::put(&cluster.client().await, "t", &one_copy, 0..1_500_000).await.unwrap();
    for member in cluster.members() {
        let before = anonymous_mib(member);
        let ticket = ticket(member).await;
        let mut gets = JoinSet::new();
        for _ in 0..3 {
            let client = client_that_stops_reading(member).await;
            for _ in 0..400 {
                let (mut client, ticket) = (client.clone(), ticket.clone());
                gets.spawn(async move { client.do_get(ticket).await });
            }
        }
        let grown = settled_mib(member).await.saturating_sub(before);
        eprintln!("{}: {grown} MiB for {} gets on unread connections", member.name, gets.len());
        assert!(grown < 320, "{}: {grown} MiB for {} gets on unread connections", member.name, gets.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_requests_neither_block_flight_nor_stay() {
    let mut cluster = small().await;
    for member in [0, 1] {
        let process = cluster.members().nth(member).unwrap();
        process.kill();
        process.run_under(vec!["prlimit".into(), "--nofile=512:512".into()]);
        process.restart().await;
    }
    cluster.settle().await;
    rows::put(&cluster.client().await, "t", &Options::default(), 0..10).await.unwrap();
    for member in [&cluster.coordinators[0], &cluster.nodes[0]] {
        let (host, port) = member.address.rsplit_once(':').unwrap();
        let http = format!("{host}:{}", port.parse::<u16>().unwrap() + HTTP_OFFSET);
        let mut held = Vec::new();
        // More than the process may open; those over the limits are closed at once.
        for (address, bytes) in [(&http, &b"GET /livez HTTP/1.1\r\nx: "[..]), (&member.address, b"PRI * HTTP/2.0\r\n")]
        {
            for _ in 0..300 {
                let Ok(mut stream) = TcpStream::connect(address).await else { continue };
                let _ = stream.write_all(bytes).await;
                held.push(stream);
            }
        }
        // Half prefaces on the Flight port are dropped after 10 s; the HTTP port never takes the Flight port's share.
        let served = async || rows::get(&Client::connect(&member.address).await.ok()?, "t").await.ok();
        let served = wait_for(Duration::from_secs(15), "Flight is served", served).await;
        assert_eq!(served.len(), 10, "{}", member.name);
        let alive = async || member.http("/livez").await.filter(|(status, _)| *status == 200);
        wait_for(Duration::from_secs(25), "HTTP is served again", alive).await;
        drop(held);
    }
}

/// Whatever is nested in what a client sends, the process survives it.
#[tokio::test(flavor = "multi_thread")]
async fn deep_nesting_is_refused() {
    let mut cluster = small().await;
    let client = cluster.client().await;
    let deep = format!("{{\"table\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let actions = client.flight().list_actions(arrow_flight::Empty {}).await.unwrap().into_inner();
    let actions: Vec<_> = actions.map(|action| action.unwrap().r#type).collect().await;
    for action in actions.into_iter().filter(|name| name != "healthcheck" && !name.contains("Session")) {
        let request = arrow_flight::Action::new(action.clone(), deep.clone());
        let refused = async { client.flight().do_action(request).await?.into_inner().next().await.transpose() };
        assert!(refused.await.is_err(), "{action}");
    }
    for command in [deep.clone(), deep.replace('[', "{\"a\":").replace(']', "}")] {
        let descriptor = FlightDescriptor::new_cmd(command.clone());
        assert!(client.flight().get_flight_info(descriptor).await.is_err());
        for member in [&cluster.coordinators[0], &cluster.nodes[0]] {
            let ticket = arrow_flight::Ticket::new(command.clone());
            assert!(member.client().await.flight().do_get(ticket).await.is_err(), "{}", member.name);
        }
    }
    assert!(cluster.members().all(ServerProcess::is_running));
}
