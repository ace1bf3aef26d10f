mod floods;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow_flight::Ticket;
use futures::{StreamExt, stream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

use super::testing::{TestServer, endless, message, soon};
use super::*;
use crate::http2::{grpc_error, grpc_frames};
use crate::wire::cluster::node_client::NodeClient;
use crate::wire::cluster::node_server::{Node, NodeServer};
use crate::wire::cluster::{
    CopyOpenPartReply, CopyOpenPartRequest, CopyPart, CopyPartReply, DescribeWorkerReply, DescribeWorkerRequest,
    DiscardPartsReply, DiscardPartsRequest, FetchPartRequest, PartChunk, QueryTaskOrder, QueryTaskReport,
    QueryTaskRows, ReadQueryTaskRequest,
};

#[tokio::test]
async fn frames_arrive_and_end_with_ok() {
    let server =
        TestServer::start(|_| async { grpc_frames(stream::iter((0..3).map(|at| Ok(message(at, 3 << 20))))) }).await;
    let mut reply = server.client().await.do_get(Ticket::default()).await.unwrap().into_inner();
    for at in 0..3 {
        let data = reply.message().await.unwrap().unwrap();
        assert_eq!(data.data_header, "header");
        assert!(data.data_body.len() == 3 << 20 && data.data_body.iter().all(|&byte| byte == at));
    }
    assert!(reply.message().await.unwrap().is_none());
}

#[tokio::test]
async fn error_within_a_stream_becomes_trailers() {
    let text = "part 7 of table \"é/ü\" is gone: 100 %\nnew line";
    let server = TestServer::start(move |_| async move {
        grpc_frames(stream::iter([Ok(message(1, 10)), Err(Error::data_loss(text))]))
    })
    .await;
    let mut reply = server.client().await.do_get(Ticket::default()).await.unwrap().into_inner();
    assert!(reply.message().await.unwrap().is_some());
    let status = reply.message().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::DataLoss, text));
}

#[tokio::test]
async fn error_before_a_stream_is_the_whole_response() {
    let server = TestServer::start(|_| async { grpc_error(Error::not_found("no table \"x\"")) }).await;
    let status = server.client().await.do_get(Ticket::default()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "no table \"x\""));
}

#[tokio::test]
async fn call_is_counted_with_its_code_when_its_reply_ends() {
    let server = TestServer::start(|request| async move {
        match request.headers().contains_key("missing") {
            true => grpc_error(Error::not_found("no table \"x\"")),
            false => grpc_frames(stream::iter([Ok(message(1, 10)), Err(Error::data_loss("gone"))])),
        }
    })
    .await;
    let mut client = server.client().await;
    let mut missing = Request::new(arrow_flight::Empty {});
    missing.metadata_mut().insert("missing", "1".parse().unwrap());
    assert_eq!(client.list_actions(missing).await.unwrap_err().code(), Code::NotFound);
    let mut broken = client.list_actions(arrow_flight::Empty {}).await.unwrap().into_inner();
    while let Ok(Some(_)) = broken.message().await {}
    drop(broken);
    let counted =
        |code: &str| format!("volley_requests_total{{port=\"flight\",method=\"ListActions\",code=\"{code}\"}}");
    let expected = ["NOT_FOUND", "DATA_LOSS"].map(counted);
    soon(async {
        loop {
            let text = tokio::task::spawn_blocking(crate::telemetry::render).await.unwrap().unwrap();
            if expected.iter().all(|line| text.contains(line)) {
                break;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn request_has_the_address_that_it_came_from() {
    let server = TestServer::start(|request| {
        let peer = PeerAddress::of(request.extensions());
        async move { grpc_error(Error::not_found(format!("{peer:?}"))) }
    })
    .await;
    let (mut one, mut other) = (server.client().await, server.client().await);
    let first = one.do_get(Ticket::default()).await.unwrap_err();
    assert!(first.message().starts_with("Some(127.0.0.1:"), "{first}");
    assert_eq!(one.do_get(Ticket::default()).await.unwrap_err().message(), first.message());
    assert_ne!(other.do_get(Ticket::default()).await.unwrap_err().message(), first.message());
}

#[tokio::test]
async fn stalled_reader_stops_only_its_own_stream() {
    let made = Arc::new(AtomicUsize::new(0));
    let counter = made.clone();
    let server = TestServer::start(move |request| {
        let endless = request.headers().contains_key("endless").then(|| endless(counter.clone()));
        async move {
            match endless {
                Some(endless) => grpc_frames(endless),
                None => grpc_frames(stream::iter((0..64).map(|_| Ok(message(1, 1 << 20))))),
            }
        }
    })
    .await;
    let mut client = server.client().await;
    let mut request = Request::new(Ticket::default());
    request.metadata_mut().insert("endless", "1".parse().unwrap());
    let mut stalled = client.do_get(request).await.unwrap().into_inner();
    assert!(stalled.message().await.unwrap().is_some());
    // This client has one small window for all streams of a connection, so the other stream uses its own connection.
    let other = server.client().await.do_get(Ticket::default()).await.unwrap().into_inner();
    assert_eq!(soon(other.count()).await, 64);
    let made = made.load(Ordering::SeqCst);
    assert!(made < 20, "{made} messages were made for a reader that took one");
}

#[tokio::test]
async fn drain_finishes_streams_and_accepts_no_new_ones() {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let receiver = Arc::new(parking_lot::Mutex::new(Some(receiver)));
    let server = TestServer::start(move |_| {
        let receiver = receiver.lock().take().expect("one call");
        async move { grpc_frames(ReceiverStream::new(receiver)) }
    })
    .await;
    let mut reply = server.client().await.do_get(Ticket::default()).await.unwrap().into_inner();
    server.shutdown.cancel();
    // The listener is closed before the streams have ended.
    soon(async { while tokio::net::TcpStream::connect(&server.addr).await.is_ok() {} }).await;
    sender.send(Ok(message(5, 5))).await.unwrap();
    assert_eq!(reply.message().await.unwrap().unwrap().data_body, vec![5; 5]);
    drop(sender);
    assert!(reply.message().await.unwrap().is_none());
    soon(server.task).await.unwrap();
}

#[tokio::test]
async fn drain_ends_streams_at_its_limit() {
    let limits = ServerLimits { drain: Duration::from_secs(8), ..ServerLimits::default() };
    let server = TestServer::with_limits(limits, |_| async { grpc_frames(stream::pending()) }).await;
    let mut reply = server.client().await.do_get(Ticket::default()).await.unwrap().into_inner();
    server.shutdown.cancel();
    let status = soon(reply.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("another location"), "{status}");
    soon(server.task).await.unwrap();
}

#[tokio::test]
async fn drain_ends_calls_without_a_response() {
    let limits = ServerLimits { drain: Duration::from_secs(8), ..ServerLimits::default() };
    let (called, mut calls) = tokio::sync::mpsc::channel(1);
    let server = TestServer::with_limits(limits, move |_| {
        let called = called.clone();
        async move {
            called.send(()).await.unwrap();
            std::future::pending().await
        }
    })
    .await;
    let mut client = server.client().await;
    let call = tokio::spawn(async move { client.do_get(Ticket::default()).await.map(drop) });
    calls.recv().await.unwrap();
    server.shutdown.cancel();
    let status = soon(call).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("same write id"), "{status}");
    soon(server.task).await.unwrap();
}

/// hyper does not poll a body while the client has no window left, so the trailers follow once the client reads on.
#[tokio::test]
async fn slow_reader_gets_the_status_once_it_reads_on() {
    let limits = ServerLimits { drain: Duration::from_secs(24), ..ServerLimits::default() };
    let server = TestServer::with_limits(limits, |request| {
        let endless = request.headers().contains_key("endless").then(|| endless(Arc::default()));
        async move {
            match endless {
                Some(endless) => grpc_frames(endless),
                None => grpc_frames(stream::pending()),
            }
        }
    })
    .await;
    let mut request = Request::new(Ticket::default());
    request.metadata_mut().insert("endless", "1".parse().unwrap());
    let mut slow = server.client().await.do_get(request).await.unwrap().into_inner();
    assert!(slow.message().await.unwrap().is_some());
    let mut other = server.client().await.do_get(Ticket::default()).await.unwrap().into_inner();
    server.shutdown.cancel();
    assert_eq!(soon(other.message()).await.unwrap_err().code(), Code::Unavailable, "the drain limit is reached");
    let status = soon(read_to_error(&mut slow)).await;
    assert!(status.code() == Code::Unavailable && status.message().contains("another location"), "{status}");
    soon(server.task).await.unwrap();
}

#[tokio::test]
async fn stalled_reader_does_not_delay_the_shutdown() {
    let limits = ServerLimits { drain: Duration::from_millis(100), ..ServerLimits::default() };
    let server = TestServer::with_limits(limits, |_| async { grpc_frames(endless(Arc::default())) }).await;
    let mut stalled = server.client().await.do_get(Ticket::default()).await.unwrap().into_inner();
    assert!(stalled.message().await.unwrap().is_some());
    server.shutdown.cancel();
    soon(server.task).await.unwrap();
    soon(read_to_error(&mut stalled)).await;
}

/// Reads up to the error in which the stream ends.
async fn read_to_error(reply: &mut tonic::Streaming<arrow_flight::FlightData>) -> Status {
    loop {
        match reply.message().await {
            Ok(message) => assert!(message.is_some(), "the stream looks complete"),
            Err(status) => return status,
        }
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    let limits = ServerLimits { connections: 1, ..ServerLimits::default() };
    let server = TestServer::with_limits(limits, |_| async { grpc_error(Error::not_found("x")) }).await;
    let mut first = server.client().await;
    assert_eq!(first.do_get(Ticket::default()).await.unwrap_err().code(), Code::NotFound);
    let mut second = tokio::net::TcpStream::connect(&server.addr).await.unwrap();
    let mut byte = [0];
    let read = soon(tokio::io::AsyncReadExt::read(&mut second, &mut byte)).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    assert_eq!(first.do_get(Ticket::default()).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn port_in_use_is_named() {
    let listener = bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let error = bind(&addr).await.unwrap_err();
    assert!(error.message.contains(&addr) && error.message.contains("another process"), "{error}");
}

/// A tonic service.
struct FakeNodeService;

#[tonic::async_trait]
impl Node for FakeNodeService {
    type FetchPartStream = stream::Iter<std::vec::IntoIter<Result<PartChunk, Status>>>;

    async fn fetch_part(&self, _: Request<FetchPartRequest>) -> Result<Response<Self::FetchPartStream>, Status> {
        let chunk = |byte: &u8| Ok(PartChunk { data: vec![*byte; 100].into(), end: None });
        Ok(Response::new(stream::iter([1, 2].iter().map(chunk).collect::<Vec<_>>())))
    }

    async fn copy_part(&self, _: Request<CopyPart>) -> Result<Response<CopyPartReply>, Status> {
        Err(Status::data_loss("bad copy"))
    }

    async fn copy_open_part(&self, _: Request<CopyOpenPartRequest>) -> Result<Response<CopyOpenPartReply>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn discard_parts(&self, _: Request<DiscardPartsRequest>) -> Result<Response<DiscardPartsReply>, Status> {
        Ok(Response::new(DiscardPartsReply {}))
    }

    type RunQueryTaskStream = stream::Empty<Result<QueryTaskReport, Status>>;
    type ReadQueryTaskStream = stream::Empty<Result<QueryTaskRows, Status>>;

    async fn describe_worker(
        &self,
        _: Request<DescribeWorkerRequest>,
    ) -> Result<Response<DescribeWorkerReply>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn run_query_task(
        &self,
        _: Request<Streaming<QueryTaskOrder>>,
    ) -> Result<Response<Self::RunQueryTaskStream>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn read_query_task(
        &self,
        _: Request<ReadQueryTaskRequest>,
    ) -> Result<Response<Self::ReadQueryTaskStream>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }
}

#[tokio::test]
async fn tonic_services_are_served_too() {
    let listener = bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let routes = tonic::service::Routes::new(NodeServer::new(FakeNodeService)).prepare();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(serve(listener, TonicService(routes), shutdown.clone(), ServerLimits::default()));
    let mut client = NodeClient::new(crate::net::ConnectionPool::new().channel(&addr).unwrap());
    client.discard_parts(DiscardPartsRequest::default()).await.unwrap();
    let status = client.copy_part(CopyPart::default()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::DataLoss, "bad copy"));
    let chunks = client.fetch_part(FetchPartRequest::default()).await.unwrap().into_inner();
    assert_eq!(chunks.count().await, 2);
    shutdown.cancel();
    soon(task).await.unwrap();
}
