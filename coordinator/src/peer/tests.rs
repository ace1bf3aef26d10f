//! Calls of the peer service from callers whose certificates do not allow what the messages claim, or for clients whose rights
//! do not.
#![allow(clippy::unwrap_used)]

mod audited;
mod queries;

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use volley_common::identity::{ASSERTION_HEADER, missing_table};
use volley_common::tls::{ClientIdentity, MemberIdentity, MemberRole};
use volley_common::wire::PROTOCOL;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{
    AddCoordinator, BeginWrite, Command, CreateTable, DropTable, Node, RemoveCoordinator, RemoveNode, WriteMode,
    WriteState,
};
use volley_common::wire::cluster::coordinator_client::CoordinatorClient;
use volley_common::wire::cluster::node_order::What;
use volley_common::wire::cluster::node_report::Report;
use volley_common::wire::cluster::{Follower, Hello, Welcome};

use super::*;
use crate::config::CoordinatorConfig;
use crate::raft::testing;
use crate::service::testing::{ROOT_PASSWORD, ServicesFixture};
use crate::service::tickets::ticket_key;

/// As how many nodes a caller tries to join that has no node's certificate.
const FLOOD: u64 = 1_000;
/// How long the parts of an unreachable node are waited for.
const REPAIR_DELAY_MS: u64 = 500;

/// Coordinator 1 alone, which leads.
struct PeerServiceFixture {
    raft: Handle,
    services: Services,
    membership: Arc<NodeMembership>,
    users: ServicesFixture,
}

/// An open session: reports can be sent while it is kept.
struct JoinedNode {
    _reports: mpsc::Sender<NodeReport>,
    orders: Streaming<NodeOrder>,
}

type PeerClientAs<I> = CoordinatorClient<InterceptedService<CoordinatorServer<CoordinatorPeerService>, I>>;

impl PeerServiceFixture {
    /// In an open cluster.
    async fn start() -> Self {
        let config = CoordinatorConfig { repair_delay_ms: REPAIR_DELAY_MS, ..CoordinatorConfig::default() };
        Self::of(ServicesFixture::with_config(config).await)
    }

    fn of(users: ServicesFixture) -> Self {
        let services = users.services.clone();
        let (config, reports) = (services.config.clone(), services.node_reports.clone());
        let membership = NodeMembership::new(config, services.raft.clone(), reports, services.stop.clone());
        PeerServiceFixture { raft: services.raft.clone(), services, membership, users }
    }

    /// A client within the process, whose requests are marked as those of this caller.
    fn client_of(&self, caller: Caller) -> PeerClientAs<impl Interceptor + use<>> {
        let server = CoordinatorPeerService::server(&self.services, self.membership.clone());
        CoordinatorClient::new(InterceptedService::new(server, testing::calls_of(caller)))
    }

    async fn propose(&self, caller: Caller, op: Op, coordinator: u64) -> Result<ProposeReply, Status> {
        let request = ProposeRequest { command: Some(Command { now_ms: 0, op: Some(op) }), coordinator };
        Ok(self.client_of(caller).propose(request).await?.into_inner())
    }

    /// Opens a session as the node `id`.
    async fn join(&self, caller: Caller, id: u64) -> Result<JoinedNode, Status> {
        let node = Node {
            id,
            boot: 1,
            flight_uri: "grpc+tcp://127.0.0.1:1".into(),
            peer_addr: "127.0.0.1:2".into(),
            certificate_name: "forged".into(),
            ..Node::default()
        };
        let hello = Hello { node: Some(node), protocol: PROTOCOL, ..Hello::default() };
        let (reports, queued) = mpsc::channel(1);
        reports.try_send(NodeReport { report: Some(Report::Hello(hello)) }).unwrap();
        let orders = self.client_of(caller).session(ReceiverStream::new(queued)).await?.into_inner();
        Ok(JoinedNode { _reports: reports, orders })
    }

    fn certificate_name(&self, node: u64) -> String {
        self.raft.view().node(NodeId(node)).unwrap().certificate_name.clone()
    }
}

fn member(role: MemberRole, name: &str) -> Caller {
    Caller::Member(Arc::new(MemberIdentity { role, name: name.into() }))
}

fn node(name: &str) -> Caller {
    member(MemberRole::Node, name)
}

fn coordinator(id: &str) -> Caller {
    member(MemberRole::Coordinator, id)
}

fn client() -> Caller {
    Caller::Client(Arc::new(ClientIdentity { name: "alice".into(), ..ClientIdentity::default() }))
}

fn code<T>(result: Result<T, Status>) -> Code {
    result.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test(flavor = "multi_thread")]
async fn proposal_of_another_caller_is_refused() {
    let fixture = PeerServiceFixture::start().await;
    let create = CreateTable { table: vec!["t".into()], ..CreateTable::default() };
    fixture.raft.propose(Op::CreateTable(create)).await.unwrap();
    let drop_table = || Op::DropTable(DropTable { table: vec!["t".into()] });
    for caller in [node("n1"), node("1"), client(), Caller::Anonymous, coordinator("2")] {
        for op in [
            drop_table(),
            Op::RemoveCoordinator(RemoveCoordinator { id: 1 }),
            Op::AddCoordinator(AddCoordinator { id: 9, peer: "127.0.0.1:9".into() }),
            Op::RemoveNode(RemoveNode { node: 7 }),
        ] {
            for claimed in [0, 1] {
                let result = fixture.propose(caller.clone(), op.clone(), claimed).await;
                assert_eq!(code(result), Code::PermissionDenied, "{caller:?} {op:?}");
            }
        }
    }
    let has_table = || fixture.raft.view().table_named(&"t".parse().unwrap()).is_some();
    assert!(has_table());
    fixture.propose(coordinator("1"), drop_table(), 1).await.unwrap();
    assert!(!has_table(), "a coordinator proposes it under its own id");
}

#[tokio::test(flavor = "multi_thread")]
async fn read_index_of_another_caller_is_refused() {
    let fixture = PeerServiceFixture::start().await;
    let request = |id: Option<u64>| ReadIndexRequest { follower: id.map(|id| Follower { id, ..Follower::default() }) };
    for (caller, id, expected) in [
        (node("n1"), Some(2), Code::PermissionDenied),
        (node("n1"), None, Code::PermissionDenied),
        (client(), None, Code::PermissionDenied),
        (Caller::Anonymous, None, Code::PermissionDenied),
        (coordinator("2"), Some(3), Code::PermissionDenied),
        (coordinator("2"), Some(2), Code::Ok),
        (coordinator("2"), None, Code::Ok),
        (Caller::Plaintext, Some(2), Code::Ok),
    ] {
        let result = fixture.client_of(caller.clone()).read_index(request(id)).await;
        assert_eq!(code(result), expected, "{caller:?} {id:?}");
    }
}

/// Neither a session nor its first order, which has the key of the tickets.
#[tokio::test(flavor = "multi_thread")]
async fn flood_of_strangers_joins_no_node_and_gets_no_key() {
    let fixture = PeerServiceFixture::start().await;
    for caller in [Caller::Anonymous, client(), coordinator("1")] {
        for id in 1..=FLOOD {
            let status = fixture.join(caller.clone(), id).await.err().expect("a session was opened");
            assert_eq!(status.code(), Code::PermissionDenied, "{caller:?} {status}");
        }
    }
    assert_eq!((fixture.raft.view().nodes().count(), fixture.membership.session_count()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_of_a_live_node_joins_no_other_node() {
    let fixture = PeerServiceFixture::start().await;
    let mut first = fixture.join(node("n1"), 7).await.unwrap();
    let Some(What::Welcome(Welcome { ticket_key, .. })) = first.orders.message().await.unwrap().unwrap().what else {
        panic!("no welcome")
    };
    assert!(!ticket_key.is_empty());
    for id in 100..100 + FLOOD {
        let status = fixture.join(node("n1"), id).await.err().expect("a session was opened");
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(status.message().contains(&NodeId(7).to_string()), "{status}");
    }
    assert_eq!(fixture.raft.view().nodes().count(), 1);
    // Its data folder was lost: it comes back with another id.
    drop(first);
    let rejoined = async {
        loop {
            match fixture.join(node("n1"), 8).await {
                Ok(joined) => return joined,
                Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let _joined = tokio::time::timeout(Duration::from_secs(30), rejoined).await.expect("node 7 stays alive");
    assert_eq!(fixture.certificate_name(8), "n1");
    let since_ms = fixture.raft.view().node(NodeId(7)).unwrap().unreachable_since_ms;
    assert!(fixture.raft.now_ms() >= since_ms + REPAIR_DELAY_MS, "sessions that end at once join no further nodes");
}

#[tokio::test(flavor = "multi_thread")]
async fn node_registers_with_its_first_certificate_only() {
    let fixture = PeerServiceFixture::start().await;
    let _plaintext = fixture.join(Caller::Plaintext, 7).await.unwrap();
    assert_eq!(fixture.certificate_name(7), "", "the hello proves no name");
    let _first = fixture.join(node("n1"), 7).await.unwrap();
    assert_eq!(fixture.certificate_name(7), "n1");
    let status = fixture.join(node("n2"), 7).await.err().expect("a session was opened");
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    for name in ["volley://node/n1".to_string(), "volley://node/n2".into(), NodeId(7).to_string()] {
        assert!(status.message().contains(&name), "{name}: {status}");
    }
    let _again = fixture.join(node("n1"), 7).await.unwrap();
    let _without_tls = fixture.join(Caller::Plaintext, 7).await.unwrap();
    assert_eq!(fixture.certificate_name(7), "n1", "the binding stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn node_cannot_write_as_another_node() {
    let fixture = PeerServiceFixture::start().await;
    let _session = fixture.join(node("n1"), 7).await.unwrap();
    let begin = BeginWrite {
        id: "w".into(),
        table: vec!["t".into()],
        mode: WriteMode::Create as i32,
        writer: 7,
        writer_boot: 1,
        attempt: 5,
        lease_ms: 600_000,
        ..BeginWrite::default()
    };
    fixture.raft.propose(Op::BeginWrite(begin)).await.unwrap();
    let renew = RenewWriteRequest { write: "w".into() };
    let commit = CommitWriteRequest { write: "w".into(), attempt: 5, ..CommitWriteRequest::default() };
    let abort = |attempt| AbortWriteRequest { write: "w".into(), reason: "a test".into(), attempt };
    let begin = BeginWriteRequest { writer: 7, ..BeginWriteRequest::default() };
    let deletable = DeletablePartsRequest { node: 7, ..DeletablePartsRequest::default() };
    for caller in [node("n2"), coordinator("1"), client(), Caller::Anonymous] {
        let mut client = fixture.client_of(caller.clone());
        let codes = [
            code(client.begin_write(begin.clone()).await),
            code(client.renew_write(renew.clone()).await),
            code(client.commit_write(commit.clone()).await),
            code(client.abort_write(abort(5)).await),
            code(client.abort_write(abort(0)).await),
            code(client.deletable_parts(deletable.clone()).await),
        ];
        assert_eq!(codes, [Code::PermissionDenied; 6], "{caller:?}");
    }
    let state = || fixture.raft.view().write("w").unwrap().state();
    assert_eq!(state(), WriteState::Open);
    let mut own = fixture.client_of(node("n1"));
    let error = own.begin_write(begin).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "it has no table's name, but may begin writes: {error}");
    own.renew_write(renew).await.unwrap();
    own.deletable_parts(deletable).await.unwrap();
    own.abort_write(abort(5)).await.unwrap();
    assert_eq!(state(), WriteState::Aborted);
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_and_plans_are_for_nodes() {
    let fixture = PeerServiceFixture::start().await;
    for caller in [coordinator("1"), client(), Caller::Anonymous] {
        let mut client = fixture.client_of(caller.clone());
        let codes = [
            code(client.stage_parts(StagePartsRequest::default()).await),
            code(client.plan_read(PlanReadRequest::default()).await),
            code(client.renew_write(RenewWriteRequest::default()).await),
        ];
        assert_eq!(codes, [Code::PermissionDenied; 3], "{caller:?}");
    }
}

/// A request that a node makes of the method `path` for this principal.
fn asserted<T>(fixture: &PeerServiceFixture, name: &str, path: &str, message: T) -> Request<T> {
    let key = ticket_key(&fixture.raft.view()).unwrap();
    let value = fixture.users.access(name).assertion(&key, path, clock::now_ms()).unwrap();
    let mut request = Request::new(message);
    let headers = HeaderMap::from_iter([(HeaderName::from_static(ASSERTION_HEADER), value)]);
    *request.metadata_mut() = MetadataMap::from_headers(headers);
    request
}

/// With a reader and a writer of `sales`, and the table `sales/a`.
async fn fixture_with_users() -> PeerServiceFixture {
    let users = ServicesFixture::closed().await;
    for (name, role) in [("reader", Role::Reader), ("writer", Role::Writer), ("stranger", Role::Operator)] {
        users.services.identity.create_user(name, None, Vec::new()).await.unwrap();
        let prefix = if role == Role::Operator { "" } else { "sales" };
        users.grant(&format!("user:{name}"), role, prefix, &[]).await;
    }
    users.create_table("sales/a").await;
    PeerServiceFixture::of(users)
}

#[tokio::test(flavor = "multi_thread")]
async fn write_is_begun_for_writers_of_its_table() {
    let fixture = fixture_with_users().await;
    let mut client = fixture.client_of(Caller::Plaintext);
    let mut begin = async |principal: Option<&str>, table: &str, path: &str| {
        let message = BeginWriteRequest { table: vec![table.into()], ..BeginWriteRequest::default() };
        let request = match principal {
            Some(name) => asserted(&fixture, name, path, message),
            None => Request::new(message),
        };
        code(client.begin_write(request).await)
    };
    // No node is alive: that is found after the rights.
    assert_eq!(begin(Some("writer"), "sales/new", BEGIN_WRITE).await, Code::Unavailable);
    for (principal, table, expected) in [
        (Some("reader"), "sales/a", Code::PermissionDenied),
        (Some("stranger"), "sales/a", Code::PermissionDenied),
        (Some("writer"), "sales_old", Code::PermissionDenied),
        (None, "sales/a", Code::Unauthenticated),
    ] {
        assert_eq!(begin(principal, table, BEGIN_WRITE).await, expected, "{principal:?} {table}");
    }
    assert_eq!(begin(Some("writer"), "sales/a", PLAN_READ).await, Code::Unauthenticated, "of another call");
}

#[tokio::test(flavor = "multi_thread")]
async fn read_is_planned_for_readers_of_its_table() {
    let fixture = fixture_with_users().await;
    let mut client = fixture.client_of(Caller::Plaintext);
    let mut plan = async |name: &str, table: &str| {
        let message = PlanReadRequest { table: vec![table.into()], ..PlanReadRequest::default() };
        client.plan_read(asserted(&fixture, name, PLAN_READ, message)).await.unwrap_err()
    };
    assert_eq!(plan("reader", "sales/a").await.code(), Code::Unavailable, "no node is alive");
    let hidden = plan("stranger", "sales/a").await;
    assert_eq!(
        (hidden.code(), hidden.message()),
        (Code::NotFound, &*missing_table(&["sales".into(), "a".into()]).message)
    );
    assert_eq!(plan("reader", "sales/none").await.message(), missing_table(&["sales".into(), "none".into()]).message);
    let unasserted = client.plan_read(PlanReadRequest { table: vec!["sales/a".into()], ..Default::default() }).await;
    assert_eq!(code(unasserted), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn node_logs_in_its_clients() {
    let fixture = fixture_with_users().await;
    let mut client = fixture.client_of(node("n1"));
    let request =
        |password: &str| LoginRequest { user: "root".into(), password: password.into(), address: "192.0.2.1".into() };
    let reply = client.login(request(ROOT_PASSWORD)).await.unwrap().into_inner();
    fixture.users.follow_catalog();
    let access = fixture.services.authenticator.access_of_token(&Secret::new(reply.token), None).unwrap();
    assert_eq!((access.name(), reply.expires_ms > clock::now_ms()), ("root", true));
    assert_eq!(code(client.login(request("wrong")).await), Code::Unauthenticated);
    for caller in [coordinator("1"), self::client(), Caller::Anonymous] {
        let result = fixture.client_of(caller).login(request(ROOT_PASSWORD)).await;
        assert_eq!(code(result), Code::PermissionDenied);
    }
}
