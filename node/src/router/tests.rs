//! Forwarded puts and metadata calls.

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{Criteria, FlightData};
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tonic::metadata::MetadataMap;
use volley_common::identity::ASSERTION_HEADER;
use volley_common::server::serve::bind;
use volley_common::wire::catalog::{Node, NodeState};
use volley_common::{Code, clock};

use super::*;
use crate::callers::tests::{TestUsers, client, with_token};
use crate::get::tests::cluster::{TestNode, key};
use crate::storage::DiskSpace;

#[test]
fn writable_nodes_are_alive_and_neither_draining_nor_read_only() {
    let node = |id, state: NodeState| Node {
        id,
        state: state.into(),
        flight_uri: format!("grpc+tcp://n{id}:1"),
        ..Node::default()
    };
    let nodes = [
        node(1, NodeState::Alive),
        node(2, NodeState::Alive),
        node(3, NodeState::Unreachable),
        Node { draining: true, ..node(4, NodeState::Alive) },
        Node { read_only_reason: "full".into(), ..node(5, NodeState::Alive) },
    ];
    let nodes = nodes.into_iter().map(|node| (NodeId(node.id), node)).collect();
    assert_eq!(writable_nodes(&ClusterMembers { nodes, ..ClusterMembers::default() }, NodeId(1)), ["n2:1"]);
}

#[test]
fn client_cannot_describe_its_own_connection() {
    let said = || {
        let forged = [(CLIENT_LISTENER_HEADER, "forged"), (CLIENT_TLS_HEADER, "forged")];
        HeaderMap::from_iter(
            forged.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))),
        )
    };
    let mut plaintext = said();
    describe_client(&mut plaintext, None, false);
    assert!(plaintext.is_empty(), "{plaintext:?}");
    let mut tls = said();
    describe_client(&mut tls, Some(HeaderValue::from_static("external")), true);
    assert_eq!(
        (tls[CLIENT_LISTENER_HEADER].as_bytes(), tls[CLIENT_TLS_HEADER].as_bytes()),
        (&b"external"[..], &b"true"[..])
    );
    assert_eq!(tls.len(), 2);
}

#[tokio::test]
async fn incomplete_metadata_request_ends_in_an_error() {
    let half = Bytes::from_static(b"\0\0\0\x01\0half of a message");
    let frames = |frames: Vec<Bytes>| stream::iter(frames).map(|data| Ok::<_, Status>(http_body::Frame::data(data)));
    for sent in [vec![], vec![half]] {
        let body = http_body_util::StreamBody::new(frames(sent).chain(stream::pending()));
        let error = read_metadata_request(body, MAX_METADATA_REQUEST, Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(error.code, Code::DeadlineExceeded, "{error}");
    }
    let (nobody, everybody) = (Access::of(&http::Extensions::new()), Access::open());
    assert_eq!(metadata_limits(&nobody), (64 << 10, Duration::from_secs(10)));
    for (max_bytes, timeout) in [metadata_limits(&nobody), metadata_limits(&everybody)] {
        let large = vec![Bytes::from(vec![0; max_bytes]), Bytes::from_static(b"x")];
        let body = http_body_util::StreamBody::new(frames(large));
        let error = read_metadata_request(body, max_bytes, timeout).await.unwrap_err();
        assert_eq!(error.code, Code::ResourceExhausted, "{error}");
    }
}

/// Accepts connections, reads 10 000 bytes and closes them without a reply.
async fn close_early(listener: TcpListener) {
    loop {
        let (mut socket, _) = listener.accept().await.unwrap();
        let empty_settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        socket.write_all(&empty_settings).await.unwrap();
        socket.read_exact(&mut [0; 10_000]).await.unwrap();
    }
}

#[tokio::test]
async fn put_that_fails_while_forwarded_is_unavailable() {
    let node = TestNode::serving(|node, request| NodeRouter::new(&node, Routes::default(), "").respond(request)).await;
    node.context.store.override_space(Some(DiskSpace { total: 100, free: 2 }));
    let put = async || {
        let first = FlightData { data_body: vec![0; 100_000].into(), ..FlightData::default() };
        let channel = ConnectionPool::new().channel(&node.addr).unwrap();
        let upload = stream::iter([first]).chain(stream::pending());
        FlightServiceClient::new(channel).do_put(upload).await.unwrap_err()
    };
    assert_eq!(put().await.code(), Code::ResourceExhausted, "no node accepts it");
    let listener = bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let row =
        Node { id: 9, flight_uri: format!("grpc+tcp://{addr}"), state: NodeState::Alive.into(), ..Node::default() };
    let members = ClusterMembers { nodes: [(NodeId(9), row)].into(), ..ClusterMembers::default() };
    node.context.cluster.members.store(Arc::new(members));
    let task = tokio::spawn(close_early(listener));
    for what in ["connection closed", "not reached"] {
        let status = put().await;
        assert_eq!(status.code(), Code::Unavailable, "{what}: {status}");
        assert!(status.message().contains(&addr) && status.message().contains("98.0 % used"), "{what}: {status}");
        task.abort();
    }
}

#[tokio::test]
async fn proxied_call_has_an_assertion_instead_of_credentials() {
    let seen = Arc::new(Mutex::new(None));
    let sent = seen.clone();
    let coordinator = TestNode::serving(move |_, request| {
        *sent.lock() = Some(request.headers().clone());
        std::future::ready(grpc_error(Error::unauthenticated("the coordinator's own reason")))
    })
    .await;
    let users = TestUsers::new();
    let node = users.node().await;
    let coordinator_flight = vec![coordinator.addr.clone()];
    node.context.cluster.members.store(Arc::new(ClusterMembers { coordinator_flight, ..ClusterMembers::default() }));
    let mut request = with_token(Criteria::default(), &users.token("ann"));
    request.metadata_mut().insert("x-request-id", "7".parse().unwrap());
    let status = client(&node).list_flights(request).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "the coordinator's own reason"));
    let headers: HeaderMap = seen.lock().take().unwrap();
    assert!(!headers.contains_key("authorization") && headers["x-request-id"] == "7", "{headers:?}");
    let metadata = MetadataMap::from_headers(headers);
    let signed = metadata.get_bin(ASSERTION_HEADER).unwrap().to_bytes().unwrap();
    let assertion = key().verify_assertion(&signed, clock::now_ms()).unwrap();
    assert_eq!((assertion.principal.as_str(), assertion.address.as_str()), ("ann", "127.0.0.1"));
    assert_eq!(assertion.path, "/arrow.flight.protocol.FlightService/ListFlights");
}
