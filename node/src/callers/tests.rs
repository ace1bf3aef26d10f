//! A node of a cluster with users: who may call what, handshakes, and on whose behalf it calls other members.
#![allow(clippy::unwrap_used)]

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{Action, BasicAuth, Criteria, FlightData, HandshakeRequest};
use bytes::Bytes;
use futures::{StreamExt, stream};
use prost::Message;
use tonic::{Request, Status};
use volley_common::identity::{Directory, IdentityRules, SessionTokenIssuer, new_signing_key};
use volley_common::net::{ConnectionPool, MemberChannel};
use volley_common::tls::ClientIdentity;
use volley_common::wire::catalog::{Grant, Role, SigningKey, User};
use volley_common::wire::cluster::{BeginWriteRequest, IdentitySnapshot, Ticket};

use super::*;
use crate::assertion::AssertedCaller;
use crate::context::NodeSecurity;
use crate::coordinator_client::CoordinatorClient;
use crate::get::reader::TicketReader;
use crate::get::remote::HOP_HEADER;
use crate::get::tests::cluster::{TestNode, batch, introduce, key, ticket};
use crate::put::tests::cluster::InProcessCluster;

const EPOCH: u64 = 7;
/// At which nothing listens.
const NO_COORDINATOR: &str = "127.0.0.1:1";
/// `ann:secret` and `ann:guess`.
const RIGHT_PASSWORD: &str = "Basic YW5uOnNlY3JldA==";
const WRONG_PASSWORD: &str = "Basic YW5uOmd1ZXNz";

/// Of a node in an open cluster, without a coordinator.
pub(crate) fn open_callers() -> CallerIdentifier {
    let coordinators = CoordinatorClient::new(ConnectionPool::new(), Vec::new(), Duration::ZERO);
    let logins = LoginClient::new(Arc::new(coordinators));
    CallerIdentifier::new(Authenticator::open(), logins, Arc::default(), AuditLog::off())
}

/// A cluster with the users `ann`, who reads and writes `t`, and `eve`, who has no rights.
pub(crate) struct TestUsers {
    signing: SigningKey,
    users: [User; 2],
}

impl TestUsers {
    pub fn new() -> Self {
        let user = |name: &str| User { name: name.into(), generation: 5, ..User::default() };
        TestUsers { signing: new_signing_key(clock::now_ms()).unwrap(), users: [user("ann"), user("eve")] }
    }

    /// A session token.
    pub fn token(&self, user: &str) -> String {
        let user = self.users.iter().find(|known| known.name == user).unwrap();
        let (token, _) = SessionTokenIssuer::new(&self.signing).unwrap().issue(user, "", clock::now_ms()).unwrap();
        token.expose().to_string()
    }

    fn directory(&self) -> Directory {
        let (to, prefix) = ("user:ann".to_string(), vec!["t".to_string()]);
        Directory::new(&IdentitySnapshot {
            epoch: EPOCH,
            users: self.users.to_vec(),
            grants: vec![Grant { to, role: Role::Writer.into(), prefix, ..Grant::default() }],
            keys: vec![SigningKey { private_key: Bytes::new(), ..self.signing.clone() }],
            ..IdentitySnapshot::default()
        })
    }

    /// That of a node without a directory yet.
    fn security_of_new_node(&self) -> NodeSecurity {
        let open = NodeSecurity::open();
        let known = open.cluster.clone();
        let rules = IdentityRules::default();
        let ticket_key = Arc::new(move || known.ticket_key.load_full());
        let authenticator = Authenticator::new(open.cluster.directory.clone(), rules, ticket_key);
        NodeSecurity { authenticator, ..open }
    }

    async fn node_at(&self, coordinator: &str) -> TestNode {
        let security = self.security_of_new_node();
        security.cluster.directory.store(self.directory());
        TestNode::identifying(security, coordinator).await
    }

    /// A node without a coordinator.
    pub async fn node(&self) -> TestNode {
        self.node_at(NO_COORDINATOR).await
    }

    /// A node, and the fake coordinator that it logs in at.
    async fn node_with_coordinator(&self) -> (TestNode, InProcessCluster) {
        let cluster = InProcessCluster::start(1, &[], 1).await;
        let login = ("secret".to_string(), self.token("ann"));
        cluster.coordinator.state.lock().passwords.insert("ann".into(), login);
        (self.node_at(cluster.coordinator_addr()).await, cluster)
    }
}

fn with_header<T>(message: T, name: &'static str, value: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(name, value.parse().unwrap());
    request
}

/// A request with a bearer token.
pub(crate) fn with_token<T>(message: T, token: &str) -> Request<T> {
    with_header(message, "authorization", &format!("Bearer {token}"))
}

fn flight_ticket(ticket: &Ticket) -> arrow_flight::Ticket {
    arrow_flight::Ticket { ticket: key().sign(ticket).into() }
}

/// `ticket`, as a coordinator planned it for ann.
fn planned_for_ann(ticket: Ticket) -> Ticket {
    Ticket { principal: "ann".into(), grant_epoch: EPOCH, ..ticket }
}

/// A Flight client of a node.
pub(crate) fn client(node: &TestNode) -> FlightServiceClient<MemberChannel> {
    FlightServiceClient::new(ConnectionPool::new().channel(&node.addr).unwrap())
}

fn rows() -> Vec<arrow::array::RecordBatch> {
    vec![batch(0, 5, &["a", "b"])]
}

#[tokio::test]
async fn calls_without_identity_are_refused() {
    let node = TestUsers::new().node().await;
    let (mut flight, planned) = (client(&node), planned_for_ann(ticket(&[(node.write(&rows()), &[])])));
    let refused = [
        node.get(&planned).await.unwrap_err(),
        node.get(&Ticket { shareable: true, ..planned }).await.unwrap_err(),
        flight.do_put(stream::iter([FlightData::default()])).await.unwrap_err(),
        flight.do_exchange(stream::iter([FlightData::default()])).await.unwrap_err(),
        flight.list_flights(Criteria::default()).await.unwrap_err(),
        flight.list_flights(with_token(Criteria::default(), "noise")).await.unwrap_err(),
        flight.handshake(stream::iter([HandshakeRequest::default()])).await.unwrap_err(),
        flight.handshake(stream::iter(Vec::<HandshakeRequest>::new())).await.unwrap_err(),
    ];
    for (at, status) in refused.iter().enumerate() {
        assert_eq!(status.code(), Code::Unauthenticated, "{at}: {status}");
    }
    // Coordinators decide which actions are public.
    let action = flight.do_action(Action { r#type: "healthcheck".into(), body: Bytes::new() }).await;
    assert_eq!(action.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn ticket_is_redeemed_by_its_principal_or_if_shareable() {
    let users = TestUsers::new();
    let node = users.node().await;
    let planned = planned_for_ann(ticket(&[(node.write(&rows()), &[])]));
    let get =
        async |user: &str, planned: &Ticket| node.call(with_token(flight_ticket(planned), &users.token(user))).await;
    assert_eq!(get("ann", &planned).await.unwrap(), rows());
    assert_eq!(get("eve", &planned).await.unwrap_err().code(), Code::PermissionDenied);
    let shareable = Ticket { shareable: true, ..planned };
    assert_eq!(get("eve", &shareable).await.unwrap(), rows());
}

#[tokio::test]
async fn part_of_another_node_is_read_on_behalf_of_the_caller() {
    let users = TestUsers::new();
    let (serving, holder) = (users.node().await, users.node().await);
    introduce(&[&serving, &holder]);
    let planned = planned_for_ann(ticket(&[(holder.write(&rows()), &[&holder])]));
    assert_eq!(serving.call(with_token(flight_ticket(&planned), &users.token("ann"))).await.unwrap(), rows());
    // As a client would try it that has seen how nodes call each other.
    let hop = with_header(flight_ticket(&planned), HOP_HEADER, "1");
    assert_eq!(holder.call(hop).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn own_work_of_the_cluster_reads_parts_of_other_nodes() {
    let users = TestUsers::new();
    let (reading, holder) = (users.node().await, users.node().await);
    introduce(&[&reading, &holder]);
    let work = ticket(&[(holder.write(&rows()), &[&holder])]);
    let reader = || TicketReader::new(reading.context.get.clone(), work.clone(), false).unwrap();
    let refused = reader().next_message().await.unwrap_err();
    assert_eq!(refused.code, Code::Unauthenticated, "{refused}");
    let mut reader = reader().on_behalf_of(AssertedCaller::cluster(reading.context.cluster.clone()));
    assert!(reader.next_message().await.unwrap().is_some());
}

/// The token in the headers of a handshake's reply, and in its first message.
async fn handshake(
    node: &TestNode,
    request: impl tonic::IntoStreamingRequest<Message = HandshakeRequest>,
) -> Result<(String, Option<Bytes>), Status> {
    let response = client(node).handshake(request).await?;
    let bearer = response.metadata().get("authorization").unwrap().to_str().unwrap();
    let token = bearer.strip_prefix("Bearer ").unwrap().to_string();
    Ok((token, response.into_inner().next().await.transpose()?.map(|reply| reply.payload)))
}

#[tokio::test]
async fn handshake_logs_in_by_its_header() {
    let users = TestUsers::new();
    let (node, cluster) = users.node_with_coordinator().await;
    let answered = async |count: usize, value: &str| {
        let messages = stream::iter(vec![HandshakeRequest::default(); count]);
        handshake(&node, with_header(messages, "authorization", value)).await
    };
    let token = users.token("ann");
    for value in [RIGHT_PASSWORD, RIGHT_PASSWORD.trim_end_matches('=')] {
        let (header, message) = answered(0, value).await.unwrap();
        assert_eq!(message, None);
        node.context.authenticator.access_of_token(&Secret::new(header), None).unwrap();
    }
    let (header, message) = answered(1, RIGHT_PASSWORD).await.unwrap();
    assert_eq!(message.unwrap(), header);
    assert_eq!(cluster.coordinator.state.lock().logins.len(), 1, "the others are cached");
    let presented = answered(1, &format!("Bearer {token}")).await.unwrap();
    assert_eq!(presented, (token.clone(), Some(Bytes::from(token))), "only coordinators sign tokens");
    for refused in [WRONG_PASSWORD, "Bearer noise", "Digest x"] {
        assert_eq!(answered(0, refused).await.unwrap_err().code(), Code::Unauthenticated, "{refused}");
    }
}

#[tokio::test]
async fn handshake_payload_is_answered_before_the_stream_ends() {
    let users = TestUsers::new();
    let (node, _cluster) = users.node_with_coordinator().await;
    let request = |password: &str| {
        let auth = BasicAuth { username: "ann".into(), password: password.into() };
        let message = HandshakeRequest { payload: auth.encode_to_vec().into(), ..HandshakeRequest::default() };
        stream::iter([message]).chain(stream::pending())
    };
    let (header, message) = handshake(&node, request("secret")).await.unwrap();
    assert_eq!(message.unwrap(), header);
    node.context.authenticator.access_of_token(&Secret::new(header), None).unwrap();
    assert_eq!(handshake(&node, request("guess")).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn client_with_a_certificate_needs_no_handshake() {
    let node = TestUsers::new().node().await;
    let (callers, headers, mut extensions) = (&node.context.callers, HeaderMap::new(), Extensions::new());
    extensions.insert(Caller::Client(Arc::new(ClientIdentity { name: "alice".into(), ..ClientIdentity::default() })));
    let Ok(HandshakeAnswer::ByMessage(access)) = callers.answer_to_headers(&headers, &extensions).await else {
        panic!("its headers have no credentials")
    };
    let error = callers.answer_to_message(&access, b"", &headers, &extensions).await.unwrap_err();
    assert!(error.code == Code::FailedPrecondition && error.message.contains("\"alice\""), "{error}");
}

#[tokio::test]
async fn password_with_each_call_is_one_login() {
    let users = TestUsers::new();
    let (node, cluster) = users.node_with_coordinator().await;
    let planned = planned_for_ann(ticket(&[(node.write(&rows()), &[])]));
    let get = async |password: &str| node.call(with_header(flight_ticket(&planned), "authorization", password)).await;
    for _ in 0..3 {
        assert_eq!(get(RIGHT_PASSWORD).await.unwrap(), rows());
    }
    assert_eq!(cluster.coordinator.state.lock().logins.len(), 1);
    assert_eq!(get(WRONG_PASSWORD).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn login_waits_until_the_node_knows_the_new_user() {
    let users = TestUsers::new();
    let (node, cluster) = users.node_with_coordinator().await;
    let directory = &node.context.cluster.directory;
    directory.store(Directory::new(&IdentitySnapshot { closed: true, ..IdentitySnapshot::default() }));
    let learn = async {
        while cluster.coordinator.state.lock().logins.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        directory.store(users.directory());
    };
    let password = Secret::new("secret");
    let (login, ()) = tokio::join!(node.context.callers.known_login("ann", &password, None), learn);
    assert_eq!(login.unwrap().1.name(), "ann");
}

#[tokio::test]
async fn node_without_a_directory_identifies_nobody() {
    let users = TestUsers::new();
    let node = TestNode::identifying(users.security_of_new_node(), NO_COORDINATOR).await;
    let listed = client(&node).list_flights(with_token(Criteria::default(), &users.token("ann"))).await;
    assert_eq!(listed.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn calls_to_coordinators_assert_the_caller() {
    let users = TestUsers::new();
    let (node, cluster) = users.node_with_coordinator().await;
    let planned = planned_for_ann(ticket(&[(node.write(&rows()), &[])]));
    cluster.coordinator.state.lock().planned_ticket = key().sign(&planned).into();
    let by_name = with_token(arrow_flight::Ticket { ticket: Bytes::from_static(b"t/1") }, &users.token("ann"));
    assert_eq!(node.call(by_name).await.unwrap(), rows());
    let access = node.context.authenticator.access_of_token(&Secret::new(users.token("ann")), None).unwrap();
    let caller = AssertedCaller::client(access, node.context.cluster.clone());
    node.context.coordinators.begin_write(BeginWriteRequest::default(), &caller).await.unwrap();
    let signed = cluster.coordinator.state.lock().assertions.clone();
    let asserted: Vec<(String, String)> = signed
        .into_iter()
        .map(|bytes| key().verify_assertion(&bytes.unwrap(), clock::now_ms()).unwrap())
        .map(|assertion| (assertion.principal, assertion.path))
        .collect();
    let by_ann = |method: &str| ("ann".to_string(), format!("/volley.cluster.v1.Coordinator/{method}"));
    assert_eq!(asserted, [by_ann("PlanRead"), by_ann("BeginWrite")]);
}

#[test]
fn calls_are_recorded_by_known_names_only() {
    for (path, operation, kind) in [
        (HANDSHAKE, "Handshake", AuditKind::Login),
        (DO_GET, "DoGet", AuditKind::Read),
        (DO_ACTION, "DoAction", AuditKind::Admin),
        ("/arrow.flight.protocol.FlightService/DoPut", "DoPut", AuditKind::Write),
        ("/arrow.flight.protocol.FlightService/secret", "other", AuditKind::Read),
        ("/DoGet", "other", AuditKind::Read),
    ] {
        assert_eq!(recorded_as(path), (operation, kind), "{path}");
    }
}
