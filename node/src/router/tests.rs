//! Forwarded puts.

use arrow_flight::FlightData;
use arrow_flight::flight_service_client::FlightServiceClient;
use futures::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use volley_common::Code;
use volley_common::server::serve::bind;
use volley_common::wire::catalog::{Node, NodeState};

use super::*;
use crate::get::tests::cluster::TestNode;
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
