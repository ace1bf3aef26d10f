use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::member_health::HealthRank;
use super::*;
use crate::http2::{grpc_error, grpc_frames};
use crate::identity::{Access, Directory, LoginMethod, Principal};
use crate::server::serve::testing::{TestServer, closed_address, delayed, endless, soon};
use crate::server::serve::{ServerLimits, bind, serve, serve_tls};
use crate::tls::client::ClientConnector;
use crate::tls::peers::PeerFiles;
use crate::tls::pem::TlsFile;
use crate::tls::server::{HttpVersions, ListenerFiles};
use crate::tls::testing::TestCa;
use crate::tls::{ClientAuth, ClientTls, ListenerTls, PeerTls, PeerTlsMode};
use crate::{Code, Error, Result, grpc};

/// A listener that accepts connections, as the kernel does for a stopped process, and never answers.
async fn hung() -> (TcpListener, String) {
    let listener = bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    (listener, addr)
}

async fn answering() -> TestServer {
    TestServer::start(|_: http::Request<Incoming>| async { grpc_error(Error::unimplemented("test")) }).await
}

/// A pool that knows a member that answers.
async fn pool_with_another() -> (ConnectionPool, TestServer) {
    let (pool, other) = (ConnectionPool::new(), answering().await);
    pool.health(&other.addr);
    (pool, other)
}

#[tokio::test]
async fn breaker_is_open_until_the_member_answers_a_probe() {
    let (listener, addr) = hung().await;
    let (pool, _other) = pool_with_another().await;
    let began = Instant::now();
    let call = std::future::pending::<Result<()>>();
    let error = soon(pool.while_answering(&addr, call)).await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    assert!(error.message.contains(&addr) && began.elapsed() < Duration::from_secs(4), "{error}");
    assert_eq!(pool.health(&addr).rank(), HealthRank::Silent);
    let mut addrs = [addr.clone(), "other:1".to_string()];
    pool.sort_by_health(&mut addrs);
    assert_eq!(addrs[1], addr);

    let shutdown = CancellationToken::new();
    let service =
        tower::service_fn(|_| async { Ok::<_, std::convert::Infallible>(grpc_error(Error::unimplemented("test"))) });
    tokio::spawn(serve(listener, service, shutdown.clone(), ServerLimits::default()));
    soon(async {
        while pool.health(&addr).rank() == HealthRank::Silent {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    shutdown.cancel();
}

#[tokio::test]
async fn slow_call_is_waited_for_while_the_member_answers() {
    let server = answering().await;
    let pool = ConnectionPool::new();
    let slow = async {
        tokio::time::sleep(Duration::from_millis(2500)).await;
        Ok::<_, Error>(7)
    };
    assert_eq!(pool.while_answering(&server.addr, slow).await, Ok(7));
    assert_eq!(pool.health(&server.addr).rank(), HealthRank::Answers);
}

#[tokio::test]
async fn replies_to_other_calls_are_answers_too() {
    // No probe is answered, as by a member that is too busy.
    let (_listener, addr) = hung().await;
    let (pool, _other) = pool_with_another().await;
    let slow = async {
        tokio::time::sleep(Duration::from_millis(3500)).await;
        Ok::<_, Error>(7)
    };
    let replies = async {
        loop {
            pool.while_answering(&addr, async { Ok::<_, Error>(()) }).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        outcome = pool.while_answering(&addr, slow) => assert_eq!(outcome, Ok(7)),
        () = replies => {}
    }
    assert_eq!(pool.health(&addr).rank(), HealthRank::Answers);
    // Without them it is silent.
    let call = std::future::pending::<Result<()>>();
    assert_eq!(soon(pool.while_answering(&addr, call)).await.unwrap_err().code, Code::Unavailable);
}

/// An address whose first connection is carried to the member at `addr`. Further ones are accepted, and never answered.
async fn first_connection_only(addr: &str) -> String {
    let ((listener, front), back) = (hung().await, addr.to_string());
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = tokio::net::TcpStream::connect(back).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        std::future::pending::<()>().await;
        drop(listener);
    });
    front
}

#[tokio::test]
async fn bytes_of_a_stream_are_answers_too() {
    let made = Arc::new(AtomicUsize::new(0));
    let server = TestServer::start(move |_| {
        let messages = endless(made.clone());
        async move { grpc_frames(messages) }
    })
    .await;
    let addr = first_connection_only(&server.addr).await;
    let (pool, _other) = pool_with_another().await;
    let (reply, _permit) = soon(pool.send(&addr, grpc::do_get_request("t"))).await.unwrap();
    let mut body = reply.into_body();
    let slow = async {
        tokio::time::sleep(Duration::from_millis(3500)).await;
        Ok::<_, Error>(7)
    };
    let reading = async {
        loop {
            body.frame().await.unwrap().unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        outcome = pool.while_answering(&addr, slow) => assert_eq!(outcome, Ok(7)),
        () = reading => {}
    }
    assert!(pool.health(&addr).rank() < HealthRank::Silent);
    // Without them it is silent.
    drop(body);
    let call = std::future::pending::<Result<()>>();
    assert_eq!(soon(pool.while_answering(&addr, call)).await.unwrap_err().code, Code::Unavailable);
}

#[tokio::test]
async fn member_that_answers_late_is_not_silent() {
    let server = answering().await;
    let addr = delayed(&server.addr, Duration::from_millis(2500)).await;
    let pool = ConnectionPool::new();
    let slow = async {
        tokio::time::sleep(Duration::from_secs(4)).await;
        Ok::<_, Error>(7)
    };
    assert_eq!(pool.while_answering(&addr, slow).await, Ok(7));
    assert!(pool.health(&addr).rank() < HealthRank::Silent);
}

#[tokio::test(start_paused = true)]
async fn call_waits_longer_if_no_member_answers() {
    let ((_one, addr), (_two, other)) = (hung().await, hung().await);
    let pool = ConnectionPool::new();
    pool.health(&other);
    // The second call begins when the breaker is open.
    for _ in 0..2 {
        let began = tokio::time::Instant::now();
        let call = std::future::pending::<Result<()>>();
        let error = pool.while_answering(&addr, call).await.unwrap_err();
        assert_eq!(error.code, Code::Unavailable);
        let waited = began.elapsed();
        assert!(waited >= Duration::from_secs(5) && waited < Duration::from_secs(7), "{waited:?}");
        assert_eq!(pool.health(&addr).rank(), HealthRank::Silent);
    }
}

#[tokio::test(start_paused = true)]
async fn probe_for_comparison_counts_for_calls_that_wait() {
    let ((_one, addr), (_two, other)) = (hung().await, hung().await);
    let pool = ConnectionPool::new();
    pool.health(&other);
    let asking = async {
        // The first probe of the one has failed, and the other is being probed.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let asked = tokio::time::Instant::now();
        assert!(!pool.health(&other).answers().await);
        asked.elapsed()
    };
    tokio::select! {
        waited = asking => assert!(waited < Duration::from_millis(450), "{waited:?}"),
        _ = pool.while_answering(&addr, std::future::pending::<Result<()>>()) => panic!("it does not end so soon"),
    }
}

/// A listener that closes each connection, as one at its limit does.
async fn closing() -> String {
    let (listener, addr) = hung().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream);
        }
    });
    addr
}

#[tokio::test]
async fn slow_call_is_waited_for_while_connections_are_refused() {
    // A member that drains, or died: nothing listens at its address.
    let (_reserved, refusing) = closed_address();
    let pool = ConnectionPool::new();
    for addr in [refusing, closing().await] {
        assert!(!soon(pool.health(&addr).answers()).await, "it gets no new call");
        let slow = async {
            tokio::time::sleep(Duration::from_millis(2500)).await;
            Ok::<_, Error>(7)
        };
        assert_eq!(pool.while_answering(&addr, slow).await, Ok(7));
        assert_eq!(pool.health(&addr).rank(), HealthRank::Deprioritized);
    }
}

#[tokio::test]
async fn replies_to_one_principal_leave_memory_for_others() {
    let server = answering().await;
    // Eight of the smallest shares.
    let pool = ConnectionPool::new().limit_relay_memory(192 << 10);
    let send = async |name: &str| {
        let principal = Principal {
            name: name.into(),
            groups: Vec::new(),
            method: LoginMethod::Password,
            credential: String::new(),
        };
        let mut request = grpc::do_get_request("t");
        request.extensions_mut().insert(Access::of_principal(principal, Arc::new(Directory::open())));
        soon(pool.send(&server.addr, request)).await
    };
    let mut held = Vec::new();
    for name in ["a", "a", "a", "a", "b"] {
        held.push(send(name).await.unwrap());
    }
    match send("a").await.map(drop) {
        Err(SendError::Refused(error)) => {
            assert!(error.message.contains("\"a\" take half") && error.retry_after_ms.is_some(), "{error}");
        }
        other => panic!("{other:?}"),
    }
    for name in ["b", "b", "b"] {
        held.push(send(name).await.unwrap());
    }
    assert!(matches!(send("c").await.map(drop), Err(SendError::Refused(_))), "all is taken");
    drop(held);
    assert!(send("a").await.is_ok());
}

/// In TLS 1.3 the request may have been sent before the refusal arrives.
#[tokio::test]
async fn request_with_a_refused_certificate_may_go_to_another_member() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), TestCa::new("ca"));
    let (cert, key) = ca.issue_server(&["localhost", "127.0.0.1"]).write(dir.path(), "server");
    let trusted = ca.write(dir.path(), "ca");
    let (cert, key) = (TlsFile::new("tls_cert", cert), TlsFile::new("tls_key", key));
    let files = ListenerFiles { cert, key, client_ca: Some(TlsFile::new("tls_client_ca", &trusted)) };
    let tls = ListenerTls::for_clients(Some(files), ClientAuth::Required, HttpVersions::Http2, None).unwrap();
    let (listener, addr) = hung().await;
    let service =
        tower::service_fn(|_| async { Ok::<_, std::convert::Infallible>(grpc_error(Error::unimplemented("test"))) });
    tokio::spawn(serve_tls(listener, Arc::new(tls), service, CancellationToken::new(), ServerLimits::default()));
    let settings = ClientTls { ca: Some(trusted), ..ClientTls::default() };
    let connector = Connector::Client(ClientConnector::new(settings, HttpVersions::Http2));
    let pool = ConnectionPool::new().with_connector(connector);
    for _ in 0..5 {
        let failed =
            soon(pool.send(&addr, grpc::do_get_request("t"))).await.map(drop).expect_err("it has no certificate");
        assert!(matches!(failed, SendError::NotSent(_)), "{failed:?}");
    }
}

#[tokio::test]
async fn coordinator_with_another_id_than_expected_gets_no_request() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), TestCa::new("ca"));
    let member = |name: &str| {
        let (cert, key) = ca.issue_member(name).write(dir.path(), &name.replace('/', "-"));
        let files = PeerFiles { ca: ca.write(dir.path(), "ca"), cert, key };
        Arc::new(PeerTls::load(PeerTlsMode::Require, &files, |_| Ok(())).unwrap())
    };
    let (own, other) = (member("coordinator/1"), member("coordinator/2"));
    let (listener, addr) = hung().await;
    let service =
        tower::service_fn(|_| async { Ok::<_, std::convert::Infallible>(grpc_error(Error::unimplemented("test"))) });
    let tls = Arc::new(ListenerTls::for_members(Some(other)));
    tokio::spawn(serve_tls(listener, tls, service, CancellationToken::new(), ServerLimits::for_peers()));
    let connector = Connector::to_members(Some(&own));
    for (id, is_expected) in [(2, true), (3, false)] {
        let opened = connector.clone().expecting_coordinator(id).connect(&addr, Duration::from_secs(10)).await;
        assert_eq!(opened.is_ok(), is_expected, "{id}: {:?}", opened.err());
    }
    let coordinators = ConnectionPool::new().with_connector(connector).to_coordinators();
    assert!(coordinators.send(&addr, grpc::do_get_request("t")).await.is_ok());
}

#[tokio::test]
async fn hedged_call_is_answered_by_the_faster_member() {
    let pool = ConnectionPool::new();
    let call = |addr: String| async move {
        if addr == "slow:1" {
            std::future::pending::<()>().await;
        }
        Attempt::Done(Ok(addr))
    };
    let mut addrs = ["slow:1".to_string(), "fast:1".to_string()];
    let mut failover = Failover::new(addrs.clone());
    let answer = soon(pool.attempt_any(&mut failover, Some(Duration::from_millis(20)), call)).await;
    assert_eq!(answer, Some(Ok("fast:1".to_string())));
    pool.sort_by_health(&mut addrs);
    assert_eq!(addrs, ["fast:1", "slow:1"]);
}

#[tokio::test]
async fn attempts_end_when_each_member_asked_for_the_next() {
    let pool = ConnectionPool::new();
    let mut failover = Failover::new(["a:1".to_string(), "b:1".to_string()]);
    let call = |addr: String| async move { Attempt::<()>::TryNext(Error::unavailable(addr)) };
    assert_eq!(pool.attempt_any(&mut failover, None, call).await, None);
    assert_eq!(failover.into_errors(), ["a:1", "b:1"].map(Error::unavailable));
}
