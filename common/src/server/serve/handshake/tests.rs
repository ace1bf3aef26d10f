//! Connections with TLS, and those that have it where the port has not, or the reverse.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_flight::Ticket;
use arrow_flight::flight_service_client::FlightServiceClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::super::testing::soon;
use super::super::*;
use super::{ANSWER_GRACE, open};
use crate::http2::grpc_error;
use crate::net::{ConnectionPool, Connector};
use crate::tls::client::ClientConnector;
use crate::tls::peers::PeerFiles;
use crate::tls::pem::TlsFile;
use crate::tls::server::{HttpVersions, ListenerFiles};
use crate::tls::testing::TestCa;
use crate::tls::{ClientAuth, ClientTls, MemberRole, PeerTls, PeerTlsMode};

/// A server that says who called it.
async fn start(tls: ListenerTls, port: PortKind) -> String {
    start_with(tls, ServerLimits { port, ..ServerLimits::default() }).await
}

async fn start_with(tls: ListenerTls, limits: ServerLimits) -> String {
    let listener = bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let service = tower::service_fn(async |request: http::Request<Incoming>| {
        let extensions = request.extensions();
        assert_ne!(extensions.get::<Caller>(), Some(&Caller::Plaintext), "it would be an allocation for each request");
        assert!(PeerAddress::of(extensions).is_some_and(|peer| peer.ip().is_loopback()), "no address, or another one");
        Ok::<_, Infallible>(grpc_error(Error::not_found(Caller::of(extensions).to_string())))
    });
    tokio::spawn(serve_tls(listener, Arc::new(tls), service, CancellationToken::new(), limits));
    addr
}

fn peers(dir: &std::path::Path, ca: &TestCa, mode: PeerTlsMode, member: &str) -> Arc<PeerTls> {
    let name = member.replace('/', "-");
    let (cert, key) = ca.issue_member(member).write(dir, &name);
    let files = PeerFiles { ca: ca.write(dir, "ca"), cert, key };
    Arc::new(PeerTls::load(mode, &files, |_| Ok(())).unwrap())
}

fn listener(dir: &std::path::Path, ca: &TestCa, members: Option<Arc<PeerTls>>) -> ListenerTls {
    let (cert, key) = ca.issue_server(&["localhost", "127.0.0.1"]).write(dir, "server");
    let (cert, key) = (TlsFile::new("tls_cert", cert), TlsFile::new("tls_key", key));
    let files = ListenerFiles { cert, key, client_ca: None };
    ListenerTls::for_clients(Some(files), ClientAuth::Optional, HttpVersions::Http2, members).unwrap()
}

fn client(dir: &std::path::Path, ca: &TestCa) -> ConnectionPool {
    let settings = ClientTls { ca: Some(ca.write(dir, "trusted")), ..ClientTls::default() };
    ConnectionPool::new().with_connector(Connector::Client(ClientConnector::new(settings, HttpVersions::Http2)))
}

/// The message of the status, by a tonic channel and by a connection below tonic.
async fn answers(pool: &ConnectionPool, addr: &str) -> [String; 2] {
    let by_channel = FlightServiceClient::new(pool.channel(addr).unwrap()).do_get(Ticket::default()).await;
    let by_channel = Error::from(by_channel.map(drop).unwrap_err()).message;
    let below = match pool.send(addr, crate::grpc::do_get_request("t")).await {
        Ok((reply, _)) => Status::from_header_map(reply.headers()).unwrap().message().to_string(),
        Err(failed) => Error::from(failed).message,
    };
    [by_channel, below]
}

#[tokio::test]
async fn member_is_the_caller_at_every_port_of_a_member() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), TestCa::new("ca"));
    let own = peers(dir.path(), &ca, PeerTlsMode::Require, "node/a");
    let pool = ConnectionPool::new().with_connector(Connector::to_members(Some(&own)));
    let server = peers(dir.path(), &ca, PeerTlsMode::Require, "coordinator/1");
    let plaintext_for_clients =
        ListenerTls::for_clients(None, ClientAuth::Optional, HttpVersions::Http2, Some(server.clone())).unwrap();
    for (tls, port) in [
        (ListenerTls::for_members(Some(server.clone())), PortKind::Peer),
        (listener(dir.path(), &ca, Some(server.clone())), PortKind::Flight),
        (plaintext_for_clients, PortKind::Flight),
    ] {
        let addr = start(tls, port).await;
        assert_eq!(answers(&pool, &addr).await, ["the member volley://node/a"; 2], "{port:?}");
        assert!(pool.health(&addr).answers().await);
        let mut client = FlightServiceClient::new(pool.coordinator_channel(&addr).unwrap());
        assert_eq!(client.do_get(Ticket::default()).await.unwrap_err().message(), "the member volley://node/a");
    }
}

#[tokio::test]
async fn node_at_the_address_of_a_coordinator_is_refused() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), TestCa::new("ca"));
    let own = peers(dir.path(), &ca, PeerTlsMode::Require, "node/a");
    let other = peers(dir.path(), &ca, PeerTlsMode::Require, "node/b");
    let addr = start(ListenerTls::for_members(Some(other)), PortKind::Peer).await;
    let connector = Connector::to_members(Some(&own)).expecting(MemberRole::Coordinator);
    let answers = answers(&ConnectionPool::new().with_connector(connector), &addr).await;
    assert!(answers.iter().all(|answer| answer.contains("a coordinator is expected")), "{answers:?}");
}

#[tokio::test]
async fn client_with_tls_is_anonymous_and_one_without_is_refused() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), TestCa::new("ca"));
    let addr = start(listener(dir.path(), &ca, None), PortKind::Flight).await;
    assert_eq!(answers(&client(dir.path(), &ca), &addr).await, ["a caller without a certificate"; 2]);
    let refused = answers(&ConnectionPool::new(), &addr).await;
    assert!(refused.iter().all(|answer| answer.contains("requires TLS")), "{refused:?}");
    for (port, remedy) in [(PortKind::Flight, "connect by grpc+tls://"), (PortKind::Http, "connect by https://")] {
        let addr = start(listener(dir.path(), &ca, None), port).await;
        let mut http1 = TcpStream::connect(&addr).await.unwrap();
        http1.write_all(b"GET / HTTP/1.1\r\nhost: v\r\n\r\n").await.unwrap();
        let mut reply = String::new();
        soon(http1.read_to_string(&mut reply)).await.unwrap();
        assert!(reply.starts_with("HTTP/1.1 400 ") && reply.contains(remedy), "{reply}");
    }
}

#[tokio::test]
async fn refused_client_may_read_the_answer_before_its_connection_ends() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), TestCa::new("ca"));
    let addr = start(listener(dir.path(), &ca, None), PortKind::Flight).await;
    let socket = TokioIo::new(TcpStream::connect(&addr).await.unwrap());
    let (mut calls, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), socket).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut request = crate::grpc::do_get_request("t").map(http_body_util::Full::new);
    *request.uri_mut() = format!("http://{addr}{}", request.uri().path()).parse().unwrap();
    let sent = Instant::now();
    let reply = calls.send_request(request).await.unwrap();
    let status = Status::from_header_map(reply.headers()).unwrap();
    assert!(status.message().contains("requires TLS"), "{status}");
    // It ends although the client keeps it, but not at once.
    soon(connection).await.unwrap().unwrap();
    assert!(sent.elapsed() >= ANSWER_GRACE, "{:?}", sent.elapsed());
}

#[tokio::test]
async fn tls_at_a_port_without_tls_is_refused() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), TestCa::new("ca"));
    let addr = start(ListenerTls::none(), PortKind::Flight).await;
    let refused = answers(&client(dir.path(), &ca), &addr).await;
    assert!(refused.iter().all(|answer| answer.contains("may have no TLS")), "{refused:?}");
    assert_eq!(answers(&ConnectionPool::new(), &addr).await, ["a caller without TLS"; 2]);
}

#[tokio::test]
async fn rolling_change_needs_no_plaintext_fallback() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), TestCa::new("ca"));
    let modes = [None, Some(PeerTlsMode::Accept), Some(PeerTlsMode::Prefer), Some(PeerTlsMode::Require)];
    let of = |mode: Option<PeerTlsMode>, name: &str| mode.map(|mode| peers(dir.path(), &ca, mode, name));
    for (at, server) in modes.iter().enumerate() {
        let addr = start(ListenerTls::for_members(of(*server, "node/a")), PortKind::Peer).await;
        // During a change members are one step apart at most.
        for dialling in &modes[at.saturating_sub(1)..modes.len().min(at + 2)] {
            let own = of(*dialling, "node/b");
            let pool = ConnectionPool::new().with_connector(Connector::to_members(own.as_ref()));
            let [answer, _] = answers(&pool, &addr).await;
            assert!(["the member volley://node/b", "a caller without TLS"].contains(&answer.as_str()), "{answer}");
        }
    }
    let addr = start(ListenerTls::for_members(of(modes[3], "node/a")), PortKind::Peer).await;
    let [refused, _] = answers(&ConnectionPool::new(), &addr).await;
    assert!(refused.contains("requires"), "{refused}");
}

#[tokio::test]
async fn slow_handshake_does_not_delay_other_connections() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), TestCa::new("ca"));
    let addr = start(listener(dir.path(), &ca, None), PortKind::Flight).await;
    let mut slow = TcpStream::connect(&addr).await.unwrap();
    slow.write_all(&[0x16, 3, 1, 0, 200]).await.unwrap();
    let answered = tokio::time::timeout(Duration::from_secs(5), answers(&client(dir.path(), &ca), &addr)).await;
    assert_eq!(answered.unwrap(), ["a caller without a certificate"; 2]);
}

#[tokio::test]
async fn half_handshakes_do_not_affect_established_connections() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), TestCa::new("ca"));
    let limits = ServerLimits { connections: 64, ..ServerLimits::default() };
    let addr = start_with(listener(dir.path(), &ca, None), limits).await;
    let established = client(dir.path(), &ca);
    let served = ["a caller without a certificate"; 2];
    assert_eq!(answers(&established, &addr).await, served);
    // A quarter of the connections may be in their opening, half of them for each address.
    let mut halves = Vec::new();
    for _ in 0..64 / 4 / 2 {
        let mut half = TcpStream::connect(&addr).await.unwrap();
        half.write_all(&[0x16, 3, 1, 0, 200]).await.unwrap();
        halves.push(half);
    }
    // One more is served, and the oldest of these is closed.
    assert_eq!(answers(&client(dir.path(), &ca), &addr).await, served);
    let closed = tokio::time::timeout(Duration::from_secs(5), halves[0].read(&mut [0])).await.expect("closed at once");
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    assert_eq!(answers(&established, &addr).await, served);
}

#[tokio::test]
async fn opening_has_one_deadline_with_its_handshake() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), TestCa::new("ca"));
    let tls = listener(dir.path(), &ca, None);
    let socket = bind("127.0.0.1:0").await.unwrap();
    let mut half = TcpStream::connect(socket.local_addr().unwrap()).await.unwrap();
    half.write_all(&[0x16, 3, 1, 0, 200]).await.unwrap();
    let (stream, peer) = socket.accept().await.unwrap();
    let opening = open(stream, peer, &tls, PortKind::Flight, Duration::from_millis(50));
    let opened = tokio::time::timeout(OPENING_TIMEOUT / 2, opening).await.expect("it ends by its own deadline");
    assert!(opened.is_none());
}
