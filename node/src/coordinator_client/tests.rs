//! Which calls go to another coordinator, and in which order coordinators are called.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;

use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use volley_common::ticket::TicketKey;
use volley_common::wire::cluster::Ticket;

use super::*;

/// Whether these bytes of a client have an HTTP/2 DATA frame.
fn has_data_frame(received: &[u8]) -> bool {
    const PREFACE: usize = 24;
    let mut frames = received.get(PREFACE..).unwrap_or_default();
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = frames {
        if *kind == 0 {
            return true;
        }
        frames = rest.get(u32::from_be_bytes([0, *a, *b, *c]) as usize..).unwrap_or_default();
    }
    false
}

/// A coordinator that every call ends, after it was counted.
async fn ended_by_each_call(calls: Arc<AtomicUsize>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let calls = calls.clone();
            tokio::spawn(async move {
                let mut received = Vec::new();
                while !has_data_frame(&received) {
                    if connection.read_buf(&mut received).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                calls.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    addr
}

/// A coordinator that refuses the n-th call after `delay(n)`; none: it never answers.
async fn refusing_after(delay: fn(usize) -> Option<Duration>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let calls = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let calls = calls.clone();
            let service = hyper::service::service_fn(move |_: http::Request<Incoming>| {
                let wait = delay(calls.fetch_add(1, Ordering::Relaxed));
                async move {
                    match wait {
                        Some(wait) => tokio::time::sleep(wait).await,
                        None => std::future::pending().await,
                    }
                    Ok::<_, Infallible>(Status::unavailable("too few nodes").into_http::<tonic::body::Body>())
                }
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(connection), service));
        }
    });
    addr
}

/// The error of a call to this coordinator, which fails after `deadline`.
async fn error_within(deadline: Duration, addr: &str) -> String {
    let client = CoordinatorClient::new(ConnectionPool::new(), vec![addr.to_string()], deadline);
    let error = client.renew("w").await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable, "{error}");
    error.message
}

#[tokio::test]
async fn reason_of_a_coordinator_outlives_the_deadline() {
    let addr = refusing_after(|call| (call == 0).then_some(Duration::ZERO)).await;
    let error = error_within(Duration::from_secs(2), &addr).await;
    assert_eq!(error, format!("coordinator {addr}: too few nodes"));
}

/// As a coordinator does that waits for a leader.
#[tokio::test]
async fn coordinator_that_waits_as_long_as_its_caller_is_heard() {
    let addr = refusing_after(|_| Some(Duration::from_secs(2))).await;
    let error = error_within(Duration::from_secs(2), &addr).await;
    assert_eq!(error, format!("coordinator {addr}: too few nodes"));
}

#[tokio::test]
async fn coordinator_that_never_answers_is_named() {
    let addr = refusing_after(|_| None).await;
    let error = error_within(Duration::from_millis(200), &addr).await;
    assert_eq!(error, format!("no coordinator answered within 200ms: coordinator {addr}: no answer in time"));
}

#[tokio::test]
async fn call_with_client_content_ends_one_coordinator_at_most() {
    let calls = Arc::new(AtomicUsize::new(0));
    let addrs = vec![ended_by_each_call(calls.clone()).await, ended_by_each_call(calls.clone()).await];
    let client = CoordinatorClient::new(ConnectionPool::new(), addrs.clone(), Duration::from_millis(500));
    let caller = AssertedCaller::cluster(Arc::default());
    let began = client.begin_write(BeginWriteRequest::default(), &caller).await.unwrap_err();
    let planned = client.plan_read(PlanReadRequest::default(), &caller).await.unwrap_err();
    let tables = client.plan_tables(PlanTablesRequest::default(), &caller).await.unwrap_err();
    let listed = client.list_tables(&caller).await.unwrap_err();
    let logged_in = client.login(LoginRequest::default()).await.unwrap_err();
    for error in [began, planned, tables, listed, logged_in] {
        assert_eq!(error.code, Code::Unavailable, "{error}");
        let names_one = addrs.iter().any(|addr| error.message.contains(addr));
        assert!(names_one && error.message.contains("can be repeated"), "{error}");
    }
    assert_eq!(calls.load(Ordering::Relaxed), 5, "each call was sent once");
    client.renew("w").await.unwrap_err();
    assert!(calls.load(Ordering::Relaxed) >= 7, "a call with ids goes to the next one");
}

#[test]
fn plan_without_the_requested_filter_is_refused() {
    let key = TicketKey::new(&[7; 32]);
    let plan = |filter: &str| {
        let ticket = Ticket { filter: filter.into(), ..Ticket::default() };
        PlanReadReply { ticket: key.sign(&ticket).into() }
    };
    let error = check_filtered(true, &plan("")).unwrap_err();
    assert!(error.code == Code::FailedPrecondition && error.message.contains("upgrade"), "{error}");
    check_filtered(true, &plan("a > 1")).unwrap();
    check_filtered(false, &plan("")).unwrap();
}

#[test]
fn preferred_coordinator_stays_first_when_the_list_changes() {
    let named = |names: &[&str]| names.iter().map(|name| format!("{name}:1")).collect::<Vec<_>>();
    let client = CoordinatorClient::new(ConnectionPool::new(), named(&["a", "b", "c"]), Duration::from_secs(1));
    client.prefer("c:1");
    assert_eq!(client.addrs(), named(&["c", "a", "b"]));
    client.refresh(&named(&["b", "c", "d"]));
    assert_eq!(client.addrs(), named(&["c", "d", "a", "b"]));
    client.prefer("nobody:1");
    assert_eq!(client.addrs(), named(&["b", "c", "d", "a"]));
}

#[tokio::test]
async fn call_without_coordinators_fails_at_once() {
    let client = CoordinatorClient::new(ConnectionPool::new(), Vec::new(), Duration::from_secs(3600));
    let error = client.renew("w").await.unwrap_err();
    assert_eq!(error.message, "no coordinator is configured");
}
