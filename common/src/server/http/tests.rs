#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::identity::HttpLogin;
use super::*;
use crate::identity::{Access, Authenticator, Directory, DirectoryHandle, Identified, IdentityRules, Secret};
use crate::server::audit::{AuditData, AuditLog, AuditSettings, AuditTarget};
use crate::tls::{Caller, ClientIdentity};
use crate::wire::catalog::{Grant, Role};
use crate::wire::cluster::IdentitySnapshot;
use crate::{Error, Result};

#[derive(Clone)]
struct StartingStatus;

impl HttpStatus for StartingStatus {
    async fn readiness(&self) -> (StatusCode, String) {
        (StatusCode::SERVICE_UNAVAILABLE, "starting\n".into())
    }

    fn identity(&self) -> Option<HttpIdentity> {
        None
    }
}

#[derive(Clone)]
struct ReadyStatus(HttpIdentity);

impl HttpStatus for ReadyStatus {
    async fn readiness(&self) -> (StatusCode, String) {
        (StatusCode::OK, "ready\n".into())
    }

    fn identity(&self) -> Option<HttpIdentity> {
        Some(self.0.clone())
    }
}

/// Accepts every user with the password `right`.
struct OnePassword(Authenticator);

impl HttpLogin for OnePassword {
    fn login<'a>(
        &'a self,
        user: &'a str,
        password: &'a Secret,
        address: Option<SocketAddr>,
    ) -> BoxFuture<'a, Result<Access>> {
        Box::pin(async move {
            if password.expose() != "right" {
                return Err(Error::unauthenticated("user or password is wrong"));
            }
            let caller = Caller::Client(Arc::new(ClientIdentity { name: user.into(), ..ClientIdentity::default() }));
            match self.0.identify(&HeaderMap::new(), &caller, address, "/metrics")? {
                Identified::Access(access) => Ok(access),
                Identified::Login { .. } => Err(Error::internal("a login without credentials")),
            }
        })
    }
}

/// The identity of a cluster in which `op` is an operator and `reader` reads everything.
fn closed() -> HttpIdentity {
    let grant = |to: &str, role: Role| Grant { to: to.into(), role: role.into(), ..Grant::default() };
    let directory = DirectoryHandle::new();
    directory.store(Directory::new(&IdentitySnapshot {
        epoch: 1,
        grants: vec![grant("user:op", Role::Operator), grant("user:reader", Role::Reader)],
        ..IdentitySnapshot::default()
    }));
    let rules = IdentityRules::default();
    let authenticator = Authenticator::new(directory, rules, Arc::new(|| None));
    let login = Arc::new(OnePassword(authenticator.clone()));
    HttpIdentity { authenticator, login, audit: AuditLog::off(), public_metrics: false }
}

/// An HTTP port in the test's process.
struct TestPort {
    address: SocketAddr,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl TestPort {
    async fn start(status: impl HttpStatus) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let serving =
            tokio::spawn(serve(listener, Arc::new(ListenerTls::none()), status, HttpPages::default(), stop.clone()));
        TestPort { address, stop, serving }
    }

    /// The whole response to a GET; `head`: further lines of the request's head.
    async fn get(&self, path: &str, head: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: v\r\nconnection: close\r\n{head}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn expect(&self, path: &str, head: &str, status: u16) -> String {
        let answer = self.get(path, head).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path} {head}: {answer}");
        answer
    }

    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), self.serving).await.unwrap().unwrap();
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("authorization: Basic {}\r\n", STANDARD.encode(format!("{user}:{password}")))
}

#[tokio::test]
async fn stop_does_not_wait_for_an_incomplete_request() {
    let port = TestPort::start(StartingStatus).await;
    let mut stuck = TcpStream::connect(port.address).await.unwrap();
    stuck.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
    port.stop().await;
}

#[tokio::test]
async fn one_address_leaves_connections_for_others() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    let _stop_at_end = stop.clone().drop_guard();
    tokio::spawn(serve_app(listener, Arc::new(ListenerTls::none()), app(StartingStatus, Router::new()), 8, stop));
    let answer_of = async |from: [u8; 4]| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        let mut answer = [0; 8];
        let sent = stream.write_all(b"GET /livez HTTP/1.1\r\nhost: v\r\n\r\n").await;
        let answered = stream.read_exact(&mut answer).await;
        // Kept open.
        (sent.is_ok() && answered.is_ok()).then_some(stream)
    };
    let (first, second) = (answer_of([127, 0, 0, 1]).await, answer_of([127, 0, 0, 1]).await);
    assert!(first.is_some() && second.is_some());
    assert!(answer_of([127, 0, 0, 1]).await.is_none(), "a quarter is taken");
    assert!(answer_of([127, 0, 0, 2]).await.is_some());
}

#[tokio::test]
async fn grpc_call_gets_a_status_that_names_the_port() {
    let port = TestPort::start(StartingStatus).await;
    let channel = crate::net::ConnectionPool::new().channel(&port.address.to_string()).unwrap();
    let mut client = arrow_flight::flight_service_client::FlightServiceClient::new(channel);
    let status = client.list_actions(arrow_flight::Empty {}).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unimplemented);
    assert!(["HTTP port", "--http-listen", "--listen"].iter().all(|word| status.message().contains(word)), "{status}");
    port.stop().await;
}

#[tokio::test]
async fn starting_server_is_alive_but_not_ready() {
    let port = TestPort::start(StartingStatus).await;
    for (path, status) in [("/livez", 200), ("/readyz", 503), ("/metrics", 503)] {
        port.expect(path, "", status).await;
    }
    assert!(port.get("/metrics", "").await.ends_with("starting\n"));
    port.stop().await;
}

#[tokio::test]
async fn metrics_need_an_operator_and_probes_nobody() {
    let port = TestPort::start(ReadyStatus(closed())).await;
    for path in ["/livez", "/readyz"] {
        port.expect(path, "", 200).await;
    }
    let challenge = "www-authenticate: basic realm=\"volley\", bearer";
    let anonymous = port.expect("/metrics", "", 401).await;
    assert!(anonymous.to_lowercase().contains(challenge), "{anonymous}");
    port.expect("/metrics", &basic("op", "wrong"), 401).await;
    port.expect("/metrics", "authorization: Bearer nonsense\r\n", 401).await;
    let reader = port.expect("/metrics", &basic("reader", "right"), 403).await;
    assert!(!reader.to_lowercase().contains("www-authenticate"), "{reader}");
    port.expect("/metrics", &basic("op", "right"), 200).await;
    port.stop().await;
}

#[tokio::test]
async fn metrics_are_public_if_open_or_so_configured() {
    for identity in [
        HttpIdentity { authenticator: Authenticator::open(), ..closed() },
        HttpIdentity { public_metrics: true, ..closed() },
    ] {
        let port = TestPort::start(ReadyStatus(identity)).await;
        port.expect("/metrics", "", 200).await;
        port.stop().await;
    }
}

#[tokio::test]
async fn metrics_are_unavailable_until_the_users_are_known() {
    let rules = IdentityRules::default();
    let authenticator = Authenticator::new(DirectoryHandle::new(), rules, Arc::new(|| None));
    let port = TestPort::start(ReadyStatus(HttpIdentity { authenticator, ..closed() })).await;
    port.expect("/metrics", "", 503).await;
    port.stop().await;
}

#[tokio::test]
async fn refused_scrapes_are_audited_with_user_and_address() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit.log");
    let target = AuditTarget::File(file.clone());
    let settings = AuditSettings { target, data: AuditData::None, file_bytes: 1 << 20, files: 1 };
    let audit = AuditLog::new(&settings).unwrap();
    let port = TestPort::start(ReadyStatus(HttpIdentity { audit, ..closed() })).await;
    port.expect("/metrics", &format!("x-request-id: scrape-1\r\n{}", basic("op", "hunter2")), 401).await;
    port.expect("/metrics", &basic("reader", "right"), 403).await;
    port.expect("/metrics", &basic("op", "right"), 200).await;
    port.stop().await;
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [login, denied] = &lines[..] else { panic!("{text}") };
    assert_eq!((&login["claimed"], &login["request_id"]), (&json!("op"), &json!("scrape-1")));
    assert_eq!((&login["address"], &denied["address"]), (&json!("127.0.0.1"), &json!("127.0.0.1")));
    assert_eq!((&denied["principal"], &denied["result"]), (&json!("reader"), &json!("PERMISSION_DENIED")));
    assert!(!text.contains("hunter2") && !text.contains(&STANDARD.encode("op:hunter2")), "{text}");
}
