use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_flight::{FlightData, Ticket};
use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::*;
use crate::http2::status::trailers;
use crate::http2::{grpc_error, grpc_frames};
use crate::server::serve::testing::{TestServer, closed_address, delayed, endless, message, soon};
use crate::server::serve::{ServerLimits, bind, serve};

/// A member that forwards every call to `upstream`.
async fn proxy_to(upstream: &str) -> TestServer {
    let (pool, upstream) = (ConnectionPool::new(), upstream.to_string());
    TestServer::start(move |request| {
        let (pool, upstream) = (pool.clone(), upstream.clone());
        async move { forward(&pool, &upstream, request).await.unwrap_or_else(|failed| grpc_error(Error::from(failed))) }
    })
    .await
}

/// Sends the request's body back as it arrives, then OK.
async fn echo(request: http::Request<Incoming>) -> Response<ReplyBody> {
    let metadata = request.headers().get("x-seen").cloned();
    let path = request.uri().path().to_string();
    let end = async { Some(Ok(trailers(&tonic::Status::ok("")))) };
    let body = request.into_body().with_trailers(end);
    let mut reply = http::Response::new(ReplyBody::Tonic(tonic::body::Body::new(body)));
    reply.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    reply.headers_mut().insert("x-path", path.parse().unwrap());
    if let Some(metadata) = metadata {
        reply.headers_mut().insert("x-seen", metadata);
    }
    reply
}

#[tokio::test]
async fn call_is_forwarded_in_both_directions_in_lockstep() {
    let upstream = TestServer::start(echo).await;
    let member = proxy_to(&upstream.addr).await;
    let (sender, receiver) = tokio::sync::mpsc::channel::<FlightData>(1);
    let mut request = tonic::Request::new(ReceiverStream::new(receiver));
    request.metadata_mut().insert("x-seen", "yes".parse().unwrap());
    let reply = member.client().await.do_exchange(request).await.unwrap();
    assert_eq!(reply.metadata().get("x-seen").unwrap(), "yes");
    assert_eq!(reply.metadata().get("x-path").unwrap(), "/arrow.flight.protocol.FlightService/DoExchange");
    let mut reply = reply.into_inner();
    for at in 0..4u8 {
        let sent = FlightData { data_body: vec![at; 3_000_000].into(), ..FlightData::default() };
        sender.send(sent.clone()).await.unwrap();
        assert_eq!(soon(reply.message()).await.unwrap().unwrap(), sent);
    }
    drop(sender);
    assert!(soon(reply.message()).await.unwrap().is_none());
}

#[tokio::test]
async fn errors_are_forwarded_unchanged() {
    let upstream = TestServer::start(|request: http::Request<Incoming>| async move {
        match request.uri().path().ends_with("DoGet") {
            true => grpc_error(Error::not_found("no table \"ä\"")),
            false => grpc_frames(stream::iter([Ok(message(1, 9)), Err(Error::data_loss("bad part"))])),
        }
    })
    .await;
    let member = proxy_to(&upstream.addr).await;
    let status = member.client().await.do_get(Ticket::default()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "no table \"ä\""));
    // The upload is still open when the member responds with an error.
    let upload = stream::once(async { FlightData::default() }).chain(stream::pending());
    let mut reply = member.client().await.do_exchange(upload).await.unwrap().into_inner();
    assert!(soon(reply.message()).await.unwrap().is_some());
    let status = soon(reply.message()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::DataLoss, "bad part"));
}

#[tokio::test]
async fn member_that_dies_during_a_response_is_named() {
    let made = Arc::new(AtomicUsize::new(0));
    let upstream = TestServer::start(move |_| {
        let endless = endless(made.clone());
        async move { grpc_frames(endless) }
    })
    .await;
    let member = proxy_to(&upstream.addr).await;
    let mut reply = member.client().await.do_get(Ticket::default()).await.unwrap().into_inner();
    for _ in 0..5 {
        assert!(reply.message().await.unwrap().is_some());
    }
    upstream.task.abort();
    let status = soon(async {
        loop {
            match reply.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended as if it were complete"),
                Err(status) => return status,
            }
        }
    })
    .await;
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains(&upstream.addr), "{status}");
}

#[tokio::test]
async fn reply_without_a_status_is_an_error() {
    let upstream = TestServer::start(|request: http::Request<Incoming>| async move {
        let name = http::HeaderName::from_static("x-other");
        let other = http::HeaderMap::from_iter([(name, http::HeaderValue::from_static("1"))]);
        let end = request.uri().path().ends_with("DoGet").then_some(Ok(other));
        let body = http_body_util::Full::new(bytes::Bytes::new()).with_trailers(std::future::ready(end));
        let mut reply = http::Response::new(ReplyBody::Tonic(tonic::body::Body::new(body)));
        reply.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
        reply
    })
    .await;
    let member = proxy_to(&upstream.addr).await;
    let mut client = member.client().await;
    let with_trailers = match soon(client.do_get(Ticket::default())).await {
        Ok(reply) => soon(reply.into_inner().message()).await.unwrap_err(),
        Err(status) => status,
    };
    let without = match soon(client.do_action(arrow_flight::Action::default())).await {
        Ok(reply) => soon(reply.into_inner().message()).await.unwrap_err(),
        Err(status) => status,
    };
    for status in [with_trailers, without] {
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(status.message().contains(&upstream.addr), "{status}");
    }
}

#[tokio::test]
async fn unreachable_member_is_named() {
    let (_reserved, addr) = closed_address();
    let member = proxy_to(&addr).await;
    let status = soon(member.client().await.do_get(Ticket::default())).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains(&addr), "{status}");
    let status = proxy_to("not an address").await.client().await.do_get(Ticket::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
}

#[tokio::test]
async fn restarted_member_is_reached_again() {
    let upstream = TestServer::start(|_| async { grpc_error(Error::not_found("first")) }).await;
    let addr = upstream.addr.clone();
    let member = proxy_to(&addr).await;
    let mut client = member.client().await;
    assert_eq!(client.do_get(Ticket::default()).await.unwrap_err().message(), "first");
    upstream.shutdown.cancel();
    soon(upstream.task).await.unwrap();
    assert_eq!(client.do_get(Ticket::default()).await.unwrap_err().code(), Code::Unavailable);
    let listener = bind(&addr).await.unwrap();
    let service =
        tower::service_fn(|_| async { Ok::<_, std::convert::Infallible>(grpc_error(Error::not_found("second"))) });
    let shutdown = tokio_util::sync::CancellationToken::new();
    tokio::spawn(serve(listener, service, shutdown.clone(), ServerLimits::default()));
    assert_eq!(client.do_get(Ticket::default()).await.unwrap_err().message(), "second");
    shutdown.cancel();
}

/// Sends a message when it is dropped.
struct NotifyOnDrop(tokio::sync::mpsc::Sender<()>);

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        let _ = self.0.try_send(());
    }
}

#[tokio::test]
async fn client_disconnect_cancels_the_call_at_the_member() {
    let (sender, mut dropped) = tokio::sync::mpsc::channel(1);
    let upstream = TestServer::start(move |_| {
        let guard = NotifyOnDrop(sender.clone());
        let first = stream::once(async { Ok(message(1, 1)) });
        async move {
            grpc_frames(first.chain(stream::pending()).map(move |item| {
                let _held = &guard;
                item
            }))
        }
    })
    .await;
    let member = proxy_to(&upstream.addr).await;
    let mut reply = member.client().await.do_get(Ticket::default()).await.unwrap().into_inner();
    assert!(reply.message().await.unwrap().is_some());
    drop(reply);
    soon(dropped.recv()).await.unwrap();
}

#[tokio::test]
async fn neither_side_runs_ahead_of_the_other() {
    let made = Arc::new(AtomicUsize::new(0));
    let counter = made.clone();
    let upstream = TestServer::start(move |request: http::Request<Incoming>| {
        let endless = endless(counter.clone());
        async move {
            match request.uri().path().rsplit('/').next() {
                Some("DoGet") => grpc_frames(endless),
                // Reads nothing of the upload.
                Some("DoPut") => grpc_frames(stream::pending::<Result<_>>().map(move |item| {
                    let _held = &request;
                    item
                })),
                _ => grpc_frames(stream::iter((0..64).map(|_| Ok(message(1, 1 << 20))))),
            }
        }
    })
    .await;
    let member = proxy_to(&upstream.addr).await;
    let mut down = member.client().await.do_get(Ticket::default()).await.unwrap().into_inner();
    assert!(down.message().await.unwrap().is_some());

    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let upload = stream::repeat_with(move || {
        counter.fetch_add(1, Ordering::SeqCst);
        FlightData { data_body: vec![0; 1 << 20].into(), ..FlightData::default() }
    });
    let _up = member.client().await.do_put(upload).await.unwrap();

    // Meanwhile other calls use the same connections to the member.
    for _ in 0..6 {
        let other = member.client().await.do_exchange(stream::empty()).await.unwrap().into_inner();
        assert_eq!(soon(other.count()).await, 64);
    }
    let (made, sent) = (made.load(Ordering::SeqCst), sent.load(Ordering::SeqCst));
    assert!(made < 40, "{made} messages were made for a reader that took one");
    assert!(sent < 40, "{sent} messages were sent to a reader that took none");
}

/// A call may be what ends the member: it must not end the next one too.
#[tokio::test]
async fn call_that_broke_a_connection_goes_to_no_other_member() {
    let listener = bind("127.0.0.1:0").await.unwrap();
    let dying = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let empty_settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        tokio::io::AsyncWriteExt::write_all(&mut socket, &empty_settings).await.unwrap();
        tokio::io::AsyncReadExt::read_exact(&mut socket, &mut [0; 10_000]).await.unwrap();
    });
    let called = Arc::new(AtomicUsize::new(0));
    let counter = called.clone();
    let other = TestServer::start(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        async { grpc_error(Error::not_found("other")) }
    })
    .await;
    let (pool, mut failover) = (ConnectionPool::new(), Failover::new([dying.clone(), other.addr.clone()]));
    let request = || {
        let request = crate::grpc::do_get_request(vec![0u8; 20_000]);
        Some(request.map(ProxyRequestBody::from))
    };
    // Without the hedge of `forward_to_any`, which calls the other member beside the first if this machine is slow.
    let attempt = |addr: String| forward_once(&pool, addr, Repeatable::Yes, &request);
    let error = soon(pool.attempt_any(&mut failover, None, attempt)).await.unwrap().err().unwrap();
    assert!(error.code == Code::Unavailable && error.message.contains(&dying), "{error}");
    assert_eq!(called.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn call_that_is_sent_once_waits_for_a_busy_member() {
    let server = TestServer::start(|_| async { grpc_error(Error::not_found("reached")) }).await;
    let delay = std::time::Duration::from_millis(1500);
    let candidates = vec![delayed(&server.addr, delay).await, delayed(&server.addr, delay).await];
    let request = || Some(crate::grpc::do_get_request("t").map(ProxyRequestBody::from));
    let reply = soon(forward_to_any(&ConnectionPool::new(), candidates, Repeatable::No, request)).await.unwrap();
    assert_eq!(tonic::Status::from_header_map(reply.headers()).unwrap().message(), "reached");
}

#[tokio::test]
async fn call_without_a_member_that_may_be_busy_fails_at_once() {
    let (_reserved, closed) = closed_address();
    let request = || Some(crate::grpc::do_get_request("t").map(ProxyRequestBody::from));
    let began = std::time::Instant::now();
    let failed = forward_to_any(&ConnectionPool::new(), vec![closed.clone()], Repeatable::No, request).await;
    let Err(ForwardFailure::NotAccepted(error)) = failed else { panic!("a closed address accepted a call") };
    assert!(error.message.contains(&closed) && began.elapsed() < std::time::Duration::from_secs(4), "{error}");
}

/// The member seems well when the call is sent, and never answers, as if it was stopped a moment ago.
#[tokio::test]
async fn stream_goes_to_another_member_while_nothing_was_read() {
    let (pool, other) = (ConnectionPool::new(), TestServer::start(echo).await);
    let hung = bind("127.0.0.1:0").await.unwrap();
    let addrs = vec![hung.local_addr().unwrap().to_string(), other.addr.clone()];
    let (pool_of_member, stopped) = (pool.clone(), addrs[0].clone());
    let member = TestServer::start(move |request: http::Request<Incoming>| {
        let (pool, candidates) = (pool_of_member.clone(), addrs.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = ReplayableBody::new(body);
            let request = || body.unread().map(|body| Request::from_parts(head.clone(), body));
            pool.health(&candidates[0]).record_answer();
            match forward_to_any(&pool, candidates, Repeatable::WhileUnread, request).await {
                Ok(reply) => reply,
                Err(ForwardFailure::Final(error)) => grpc_error(error),
                Err(failure) => panic!("{failure:?}"),
            }
        }
    })
    .await;
    let (sender, receiver) = tokio::sync::mpsc::channel::<FlightData>(1);
    let mut reply = soon(member.client().await.do_exchange(ReceiverStream::new(receiver))).await.unwrap().into_inner();
    assert_eq!(pool.health(&stopped).rank(), crate::net::member_health::HealthRank::Silent);
    let sent = FlightData { data_body: vec![7; 1000].into(), ..FlightData::default() };
    sender.send(sent.clone()).await.unwrap();
    assert_eq!(soon(reply.message()).await.unwrap().unwrap(), sent);
    drop(sender);
    assert!(soon(reply.message()).await.unwrap().is_none());

    let status =
        soon(member.client().await.do_exchange(stream::iter([sent]).chain(stream::pending()))).await.unwrap_err();
    assert!(status.message().contains(&stopped) && status.message().contains("may have got the call"), "{status}");
}
