use arrow_flight::Ticket;
use futures::stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::http2::grpc_frames;
use crate::net::ConnectionPool;
use crate::proxy::forward;
use crate::server::serve::ServerLimits;
use crate::server::serve::testing::{TestServer, message, soon};
use crate::{Code, Error};

const LONG: usize = 10_000_000;

/// Fails with a message of 10 MB: before the stream, or within it.
async fn start_verbose_server() -> TestServer {
    TestServer::start(|request: Request<hyper::body::Incoming>| async move {
        let error = Error::invalid("ä".repeat(LONG / 2));
        match request.uri().path().ends_with("ListFlights") {
            true => grpc_error(error),
            false => grpc_frames(stream::iter([Ok(message(1, 9)), Err(error)])),
        }
    })
    .await
}

/// Whatever answers, and whichever way it fails, the client reads a status with the start of the message.
#[tokio::test]
async fn long_message_arrives_cut_direct_and_forwarded() {
    let server = start_verbose_server().await;
    let (pool, upstream) = (ConnectionPool::new(), server.addr.clone());
    let proxy = TestServer::start(move |request| {
        let (pool, upstream) = (pool.clone(), upstream.clone());
        async move { forward(&pool, &upstream, request).await.unwrap_or_else(|failed| grpc_error(Error::from(failed))) }
    })
    .await;
    for member in [&server, &proxy] {
        let mut client = member.client().await;
        let whole = client.list_flights(arrow_flight::Criteria::default()).await.unwrap_err();
        let mut stream = client.do_get(Ticket::default()).await.unwrap().into_inner();
        assert!(stream.message().await.unwrap().is_some());
        for status in [whole, stream.message().await.unwrap_err()] {
            assert_eq!(status.code(), Code::InvalidArgument, "{status}");
            assert!(status.message().len() <= MAX_MESSAGE && status.message().starts_with("ääää"), "{status}");
            assert!(status.message().ends_with("more bytes are left out)"), "{status}");
        }
    }
}

#[tokio::test]
async fn empty_error_says_which_port_this_is() {
    let server = TestServer::start(|request: Request<hyper::body::Incoming>| async move {
        match request.uri().path().ends_with("DoGet") {
            true => grpc_error(Status::unimplemented("")),
            false => grpc_error(Status::not_found("")),
        }
    })
    .await;
    let status = server.client().await.do_get(Ticket::default()).await.unwrap_err();
    assert!(status.message().contains("DoGet") && status.message().contains("--peer-listen"), "{status}");
    let status = server.client().await.list_flights(arrow_flight::Criteria::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("ListFlights failed with NotFound"), "{status}");
}

#[tokio::test]
async fn panic_ends_only_its_call() {
    let server = TestServer::start(|request: Request<hyper::body::Incoming>| async move {
        match request.uri().path().rsplit('/').next().unwrap() {
            "ListFlights" => panic!("before the response"),
            "DoGet" => grpc_frames(stream::iter((0..2).map(|at| match at {
                0 => Ok(message(1, 9)),
                _ => panic!("within the stream"),
            }))),
            _ => grpc_error(Error::not_found("alive")),
        }
    })
    .await;
    let mut client = server.client().await;
    let status = client.list_flights(arrow_flight::Criteria::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(status.message().contains("before the response"), "{status}");
    let mut stream = client.do_get(Ticket::default()).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    let status = stream.message().await.unwrap_err();
    assert!(status.code() == Code::Internal && status.message().contains("within the stream"), "{status}");
    assert_eq!(client.list_actions(arrow_flight::Empty {}).await.unwrap_err().code(), Code::NotFound);
}

/// A reply that the client's HTTP/2 refuses fails for good; the next member would send the same.
#[tokio::test]
async fn reply_that_breaks_http2_is_internal() {
    for length in [20_000, 100_000] {
        let server = TestServer::start(move |_| async move {
            let mut reply = grpc_error(Error::not_found("x"));
            reply.headers_mut().insert("x-long", "x".repeat(length).parse().unwrap());
            reply
        })
        .await;
        let status = server.client().await.do_get(Ticket::default()).await.unwrap_err();
        assert_eq!(Error::from(status).code, Code::Internal);
        let request = crate::grpc::do_get_request("t");
        let error = Error::from(forward(&ConnectionPool::new(), &server.addr, request).await.unwrap_err());
        assert_eq!(error.code, Code::Internal, "{error}");
    }
}

#[tokio::test]
async fn other_content_types_are_http_415() {
    let server = TestServer::start(|_| async { grpc_error(Error::not_found("served")) }).await;
    let pool = ConnectionPool::new();
    for (content_type, expected) in [
        ("application/grpc", 200),
        ("application/grpc+proto", 200),
        ("application/grpc;x=y", 200),
        ("application/grpc-web", 415),
        ("application/json", 415),
        ("", 415),
    ] {
        let mut request = crate::grpc::do_get_request("t");
        request.headers_mut().insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        let (reply, _) = pool.send(&server.addr, request).await.unwrap();
        assert_eq!(reply.status(), expected, "{content_type}");
        assert_eq!(reply.headers()["grpc-accept-encoding"], "identity,gzip");
    }
}

#[tokio::test]
async fn http1_request_is_answered_with_the_reason() {
    let server = TestServer::start(|_| async { grpc_error(Error::not_found("served")) }).await;
    let mut client = TcpStream::connect(&server.addr).await.unwrap();
    client.write_all(b"GET /livez HTTP/1.1\r\nhost: v\r\n\r\n").await.unwrap();
    let mut reply = String::new();
    soon(client.read_to_string(&mut reply)).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 505") && reply.contains("Flight port"), "{reply}");
    let mut tls = TcpStream::connect(&server.addr).await.unwrap();
    tls.write_all(b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03").await.unwrap();
    let mut byte = [0];
    assert!(matches!(soon(tls.read(&mut byte)).await, Ok(0) | Err(_)), "closed");
}

/// A server that names its calls, and answers each with an error: of a call of its own, or that of another server.
async fn start_naming_server(upstream: Option<String>) -> TestServer {
    let pool = ConnectionPool::new();
    let limits = ServerLimits { names_calls: true, ..ServerLimits::default() };
    TestServer::with_limits(limits, move |request: Request<hyper::body::Incoming>| {
        let (pool, upstream) = (pool.clone(), upstream.clone());
        async move {
            match upstream {
                Some(member) => forward(&pool, &member, request).await.unwrap_or_else(|e| grpc_error(Error::from(e))),
                None => match request.uri().path().ends_with("ListFlights") {
                    true => grpc_error(Error::not_found("no table \"ä\"")),
                    false => grpc_frames(stream::iter([Ok(message(1, 9)), Err(Error::not_found("no part"))])),
                },
            }
        }
    })
    .await
}

#[tokio::test]
async fn errors_end_with_the_name_of_their_call_once() {
    let server = start_naming_server(None).await;
    let proxy = start_naming_server(Some(server.addr.clone())).await;
    for member in [&server, &proxy] {
        let mut client = member.client().await;
        for name in ["job-7", "100%"] {
            let mut request = tonic::Request::new(arrow_flight::Criteria::default());
            request.metadata_mut().insert(REQUEST_ID_HEADER, name.parse().unwrap());
            let status = client.list_flights(request).await.unwrap_err();
            assert_eq!(status.message(), format!("no table \"ä\" (request {name})"));
            assert_eq!(Error::from(status).message, "no table \"ä\"");
        }
        let mut stream = client.do_get(Ticket::default()).await.unwrap().into_inner();
        assert!(stream.message().await.unwrap().is_some());
        let status = stream.message().await.unwrap_err();
        let name = status.message().strip_prefix("no part (request ").and_then(|rest| rest.strip_suffix(')'));
        assert!(name.is_some_and(|name| name.len() == 16), "the server names what has no name: {status}");
    }
}
