//! What the tests of several modules need: the services of a coordinator alone, whose cluster has users.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use volley_common::identity::{Access, Directory, LoginMethod, Principal, Secret, hash_password};
use volley_common::net::ConnectionPool;
use volley_common::server::audit::AuditLog;
use volley_common::tls::MemberRole;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{
    CreateTable, Grant, Node, PutGrant, PutUser, PutUserMode, RegisterNode, Role, TableSpec, User,
};

use super::{CallerPolicy, Services};
use crate::config::CoordinatorConfig;
use crate::raft::testing;

/// The password of the administrator `root`.
pub const ROOT_PASSWORD: &str = "root's password";

/// The services of coordinator 1 alone, which leads.
pub struct ServicesFixture {
    /// The services.
    pub services: Services,
    _dir: TempDir,
}

impl ServicesFixture {
    /// Of a cluster without users.
    pub async fn open() -> Self {
        Self::with_config(CoordinatorConfig::default()).await
    }

    /// Of a cluster without users, with these settings.
    pub async fn with_config(config: CoordinatorConfig) -> Self {
        let (dir, raft) = testing::single_leader().await;
        let tls = config.server.load_tls(MemberRole::Coordinator, Some(1)).unwrap();
        let callers = CallerPolicy { rules: config.server.identity_rules().unwrap(), audit: AuditLog::off() };
        let (pool, stop) = (ConnectionPool::new(), CancellationToken::new());
        let services = Services::new(config, raft, pool, Vec::new(), tls, callers, stop);
        let fixture = ServicesFixture { services, _dir: dir };
        fixture.follow_catalog();
        fixture
    }

    /// Of a cluster with the administrator `root`.
    pub async fn closed() -> Self {
        let fixture = Self::open().await;
        fixture.create_administrator().await;
        fixture
    }

    /// Creates `root`, the first user of the cluster.
    pub async fn create_administrator(&self) {
        // Once for all tests of a process: few hashes are computed at a time, and few may wait.
        static HASH: OnceCell<String> = OnceCell::const_new();
        let hash = || async { hash_password(Secret::new(ROOT_PASSWORD)).await.unwrap() };
        let password_hash = HASH.get_or_init(hash).await.clone();
        let root = User { name: "root".into(), password_hash, generation: 1, ..User::default() };
        self.apply(Op::PutUser(PutUser { user: Some(root), mode: PutUserMode::Bootstrap as i32 })).await;
    }

    /// Makes the directory that of the catalog, as the running coordinator does after each change.
    pub fn follow_catalog(&self) {
        let snapshot = self.services.raft.view().identity_snapshot();
        self.services.directory.store(Directory::new(&snapshot));
    }

    /// Applies a command, and makes the directory that of the catalog.
    pub async fn apply(&self, op: Op) {
        self.services.raft.propose(op).await.unwrap();
        self.follow_catalog();
    }

    /// Registers nodes 1 to `count`, which have the boot ids 11 and so on.
    pub async fn register_nodes(&self, count: u64) {
        for id in 1..=count {
            let (flight_uri, peer_addr) = (format!("grpc+tcp://n{id}:1"), format!("n{id}:2"));
            let node = Node { id, boot: 10 + id, flight_uri, peer_addr, ..Node::default() };
            self.apply(Op::RegisterNode(RegisterNode { node: Some(node) })).await;
        }
    }

    /// Grants a role on a prefix such as `sales/eu`; "" is the whole cluster. `columns`: all if there are none.
    pub async fn grant(&self, to: &str, role: Role, prefix: &str, columns: &[&str]) {
        let grant = Grant {
            to: to.into(),
            role: role as i32,
            prefix: prefix.split('/').filter(|part| !part.is_empty()).map(String::from).collect(),
            columns: columns.iter().map(|column| column.to_string()).collect(),
            ..Grant::default()
        };
        self.apply(Op::PutGrant(PutGrant { grant: Some(grant) })).await;
    }

    /// Creates a table without a schema.
    pub async fn create_table(&self, name: &str) {
        let table = name.split('/').map(String::from).collect();
        let spec =
            Some(TableSpec { shards: 1, replicas: 1, shard_by: vec!["a".into(), "b".into()], ..TableSpec::default() });
        self.apply(Op::CreateTable(CreateTable { table, spec, ..CreateTable::default() })).await;
    }

    /// A principal of this name, who logged in with a password.
    pub fn access(&self, name: &str) -> Access {
        self.access_by(name, LoginMethod::Password, "")
    }

    /// A principal of this name, who proved it by this method and credential.
    pub fn access_by(&self, name: &str, method: LoginMethod, credential: &str) -> Access {
        let directory = self.services.directory.load().unwrap();
        let groups = directory.user(name).map(|user| user.groups.clone()).unwrap_or_default();
        let principal = Principal { name: name.into(), groups, method, credential: credential.into() };
        Access::of_principal(principal, Arc::clone(&directory))
    }
}
