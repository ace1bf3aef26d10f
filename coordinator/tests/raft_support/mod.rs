//! Coordinators' Raft groups in one process, over loopback TCP connections.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use volley_common::NodeId;
use volley_common::wire::catalog as row;
use volley_common::wire::catalog::{Node, RegisterNode, command};
use volley_common::wire::cluster as wire;
use volley_common::wire::cluster::coordinator_server::{Coordinator, CoordinatorServer};
use volley_coordinator::raft::{Handle, RaftConfig};

/// The timeout of every expected event.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// The leader's side of forwarded proposals and read-index requests.
pub struct LeaderService(pub Handle);

macro_rules! unimplemented_calls {
    ($($name:ident($request:ty) -> $reply:ty;)*) => {
        $(fn $name<'a, 'b>(&'a self, _: Request<$request>)
            -> std::pin::Pin<Box<dyn Future<Output = Result<Response<$reply>, Status>> + Send + 'b>>
        where 'a: 'b, Self: 'b {
            Box::pin(async { Err(Status::unimplemented("not in this test")) })
        })*
    };
}

#[tonic::async_trait]
impl Coordinator for LeaderService {
    type SessionStream = tokio_stream::Pending<Result<wire::NodeOrder, Status>>;

    async fn propose(&self, request: Request<wire::ProposeRequest>) -> Result<Response<wire::ProposeReply>, Status> {
        let command = request.into_inner().command.unwrap_or_default();
        let reply = self.0.propose_local(command).await?;
        Ok(Response::new(wire::ProposeReply { reply: Some(reply) }))
    }

    async fn read_index(
        &self,
        request: Request<wire::ReadIndexRequest>,
    ) -> Result<Response<wire::ReadIndexReply>, Status> {
        let index = self.0.read_index_local(request.into_inner().follower).await?;
        Ok(Response::new(wire::ReadIndexReply { index }))
    }

    unimplemented_calls! {
        session(Streaming<wire::NodeReport>) -> Self::SessionStream;
        begin_write(wire::BeginWriteRequest) -> wire::WritePlan;
        stage_parts(wire::StagePartsRequest) -> wire::StagePartsReply;
        renew_write(wire::RenewWriteRequest) -> wire::RenewWriteReply;
        commit_write(wire::CommitWriteRequest) -> row::WriteOutcome;
        abort_write(wire::AbortWriteRequest) -> wire::AbortWriteReply;
        deletable_parts(wire::DeletablePartsRequest) -> wire::DeletablePartsReply;
        plan_read(wire::PlanReadRequest) -> wire::PlanReadReply;
        plan_tables(wire::PlanTablesRequest) -> wire::PlanTablesReply;
        list_tables(wire::ListTablesRequest) -> wire::ListTablesReply;
        login(wire::LoginRequest) -> wire::LoginReply;
    }
}

/// A coordinator's Raft and the server of its peer port.
pub struct TestCoordinator {
    pub raft: Handle,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<()>,
}

impl TestCoordinator {
    /// Stops like a killed process.
    pub async fn kill(self) {
        self.stop.cancel();
        self.served.abort();
        let _ = self.served.await;
        self.raft.halt().await;
    }

    /// Shuts down cleanly.
    pub async fn shut_down(self) {
        self.raft.shutdown().await;
        self.stop.cancel();
        let _ = self.served.await;
    }
}

/// Free ports, and the peer list on them.
pub async fn peers(count: u64) -> BTreeMap<u64, String> {
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    held.iter().zip(1..).map(|(l, id)| (id, l.local_addr().unwrap().to_string())).collect()
}

pub fn config(id: u64, peers: &BTreeMap<u64, String>, dir: &Path) -> RaftConfig {
    let mut config = RaftConfig::new(id, peers.clone(), dir.join(format!("c{id}")));
    config.heartbeat_interval = Duration::from_millis(100);
    config.election_timeout_min = Duration::from_millis(500);
    config.election_timeout_max = Duration::from_millis(1000);
    // Elections take long while many groups start on two processors.
    config.request_timeout = Duration::from_secs(20);
    config
}

pub async fn start(config: RaftConfig) -> TestCoordinator {
    let addr = config.peers[&config.id].clone();
    serve(Handle::start(config).await.unwrap(), &addr)
}

/// Serves a coordinator at its address in the peer list.
pub fn serve(raft: Handle, addr: &str) -> TestCoordinator {
    let addr: SocketAddr = addr.parse().unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(addr).unwrap();
    let listener = TcpListenerStream::new(socket.listen(128).unwrap());
    let stop = CancellationToken::new();
    let server = Server::builder()
        .add_service(raft.service())
        .add_service(CoordinatorServer::new(LeaderService(raft.clone())))
        .serve_with_incoming_shutdown(listener, stop.clone().cancelled_owned());
    let served = tokio::spawn(async move { server.await.unwrap() });
    TestCoordinator { raft, stop, served }
}

/// A command that adds a row to the catalog.
pub fn node(id: u64) -> command::Op {
    command::Op::RegisterNode(RegisterNode {
        node: Some(Node {
            id,
            boot: 1,
            zone: "z".into(),
            flight_uri: format!("grpc+tcp://127.0.0.1:{}", 1000 + id % 60000),
            peer_addr: format!("127.0.0.1:{}", 1000 + id % 60000),
            ..Node::default()
        }),
    })
}

/// Proposes nodes like a client: repeats a change whose outcome is unknown, because the change is idempotent.
pub async fn propose_nodes(raft: &Handle, ids: Range<u64>) {
    for id in ids {
        match raft.propose(node(id)).await {
            Err(error) if error.message.contains("may or may not have taken effect") => {
                raft.propose(node(id)).await.unwrap();
            }
            answer => drop(answer.unwrap()),
        }
    }
}

/// Checks that a linearizable read on each of these coordinators returns all of these nodes.
pub async fn expect_nodes(coordinators: &BTreeMap<u64, TestCoordinator>, ids: Range<u64>) {
    for coordinator in coordinators.values() {
        let view = coordinator.raft.read().await.unwrap();
        for id in ids.clone() {
            assert!(view.node(NodeId(id)).is_some(), "coordinator {} lacks {id}", coordinator.raft.id());
        }
    }
}

/// Waits until a condition holds for a coordinator's applied state. `what` describes the condition.
pub async fn wait_until(raft: &Handle, what: &str, condition: impl Fn(&Handle) -> bool) {
    let mut applied = raft.watch_applied();
    let waiting = async {
        while !condition(raft) {
            let _ = tokio::time::timeout(Duration::from_millis(50), applied.changed()).await;
        }
    };
    let done = tokio::time::timeout(TIMEOUT, waiting).await;
    assert!(done.is_ok(), "coordinator {}: {what}: not in time: {:?} {}", raft.id(), raft.fault(), raft.metrics());
}

/// Waits until a coordinator sees a leader; returns its id.
pub async fn leader(raft: &Handle) -> u64 {
    wait_until(raft, "a leader", |raft| raft.leader().is_some() && raft.view().cluster().is_some()).await;
    raft.leader().unwrap()
}
