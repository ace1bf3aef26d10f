//! The long-lived pieces of a node, grouped by what uses them: a get, a put, the wiring.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use volley_common::Result;
use volley_common::fairness::CallLimit;
use volley_common::identity::{Authenticator, OidcVerifier};
use volley_common::net::{ConnectionPool, Connector};
use volley_common::server::audit::AuditLog;
use volley_common::server::{ServerConfig, ServerTls};
use volley_common::wire::catalog::{LocalSocket, NodeListener};

use crate::callers::CallerIdentifier;
use crate::cluster_view::ClusterView;
use crate::config::NodeConfig;
use crate::coordinator_client::CoordinatorClient;
use crate::copy::PartCopier;
use crate::get_resources::{GetMemory, GetSlots, ScanThreads, max_scan_threads};
use crate::login::LoginClient;
use crate::put_resources::PutResources;
use crate::sql_resources::SqlResources;
use crate::storage::PartStore;
use crate::wire_compression::WireCompression;

/// The addresses at which others reach this node.
#[derive(Clone, Debug, Default)]
pub struct NodeAddresses {
    /// For members: HOST:PORT.
    pub peer_addr: String,
    /// For clients: `grpc+tcp://HOST:PORT`.
    pub flight_uri: String,
    /// For clients of each named listener.
    pub listeners: Vec<NodeListener>,
    /// For clients on this machine.
    pub local_socket: Option<LocalSocket>,
}

/// How a node protects its ports.
pub struct NodeSecurity {
    /// The TLS of its listeners and towards other members; `None`: there is no TLS.
    pub tls: Option<Arc<ServerTls>>,
    /// Has the cluster's users, grants and keys, once the leader has sent them.
    pub cluster: Arc<ClusterView>,
    /// Identifies callers by what is in `cluster`.
    pub authenticator: Authenticator,
    /// Verifies tokens of the configured OIDC issuer. Its keys are refreshed while the node runs.
    pub oidc: Option<Arc<OidcVerifier>>,
    /// Records what callers did or were refused.
    pub audit: AuditLog,
}

impl NodeSecurity {
    /// As configured. Nobody is identified before the leader has sent its users.
    ///
    /// # Errors
    /// Those of the settings of identification and of the audit log: one sentence that names the setting or the file.
    pub fn configured(config: &ServerConfig, tls: Arc<ServerTls>) -> Result<Self> {
        let rules = config.identity_rules()?;
        let cluster = Arc::<ClusterView>::default();
        let (oidc, known) = (rules.oidc.clone(), cluster.clone());
        let ticket_key = Arc::new(move || known.ticket_key.load_full());
        Ok(NodeSecurity {
            tls: Some(tls),
            authenticator: Authenticator::new(cluster.directory.clone(), rules, ticket_key),
            cluster,
            oidc,
            audit: config.audit_log()?,
        })
    }

    /// No TLS, and everybody may do everything: for tests and measurements.
    pub fn open() -> Self {
        NodeSecurity {
            tls: None,
            cluster: Arc::default(),
            authenticator: Authenticator::open(),
            oidc: None,
            audit: AuditLog::off(),
        }
    }
}

/// What a get uses.
#[derive(Clone)]
pub struct GetContext {
    /// The parts on this node's disk.
    pub store: PartStore,
    /// Members, ticket key and cancelled flights.
    pub cluster: Arc<ClusterView>,
    /// The places of gets that decompress.
    pub decompressions: GetSlots,
    /// The places and threads of gets that compress what they send.
    pub compression: WireCompression,
    /// The memory for what gets copy.
    pub memory: GetMemory,
    /// The places of gets that filter.
    pub filters: GetSlots,
    /// The threads that scan parts.
    pub scan_threads: ScanThreads,
    /// Plans reads of tables by name.
    pub coordinators: Arc<CoordinatorClient>,
    /// Connections to other members.
    pub pool: ConnectionPool,
    /// Records gets.
    pub audit: AuditLog,
}

/// What a put uses.
pub struct PutContext {
    /// The node's configuration.
    pub config: Arc<NodeConfig>,
    /// The parts on this node's disk.
    pub store: PartStore,
    /// The ticket key, by which callers are asserted to coordinators.
    pub cluster: Arc<ClusterView>,
    /// Begins, commits and aborts writes.
    pub coordinators: Arc<CoordinatorClient>,
    /// Connections to other members.
    pub pool: ConnectionPool,
    /// Memory, threads and places, shared by all puts.
    pub resources: Arc<PutResources>,
    /// Where other nodes pull copies of new parts from: HOST:PORT.
    pub peer_addr: String,
    /// The puts and compactions in progress. A shutdown waits for them.
    pub tasks: TaskTracker,
    /// Records puts.
    pub audit: AuditLog,
}

/// What SQL uses: it reads by gets, and writes by puts.
pub struct SqlContext {
    /// What gets use.
    pub get: Arc<GetContext>,
    /// What puts use.
    pub put: Arc<PutContext>,
    /// The engine and its threads.
    pub resources: SqlResources,
}

/// All pieces of a node. Only the wiring and the session with the leader take all of them; other code takes the pieces
/// that it uses.
pub struct NodeContext {
    /// The configuration that the process was started with.
    pub config: Arc<NodeConfig>,
    /// The parts on this node's disk.
    pub store: PartStore,
    /// Connections to other members.
    pub pool: ConnectionPool,
    /// Calls to the coordinators, with fail-over.
    pub coordinators: Arc<CoordinatorClient>,
    /// Members, ticket key and cancelled flights.
    pub cluster: Arc<ClusterView>,
    /// Copies parts from other nodes.
    pub copier: Arc<PartCopier>,
    /// What gets use.
    pub get: Arc<GetContext>,
    /// What puts use.
    pub put: Arc<PutContext>,
    /// What SQL uses.
    pub sql: Arc<SqlContext>,
    /// Where others reach this node.
    pub addresses: NodeAddresses,
    /// The TLS of its listeners and towards other members.
    pub tls: Option<Arc<ServerTls>>,
    /// Identifies callers, on the HTTP port too.
    pub authenticator: Authenticator,
    /// Identifies the callers of the Flight listeners.
    pub callers: Arc<CallerIdentifier>,
    /// Counts the calls of clients.
    pub calls: Arc<CallLimit>,
    /// Records what callers did or were refused.
    pub audit: AuditLog,
    /// Cancelled when the process is to stop.
    pub shutdown: CancellationToken,
}

impl NodeContext {
    /// Connects the pieces of a node; starts nothing.
    pub fn new(
        config: NodeConfig,
        store: PartStore,
        addresses: NodeAddresses,
        security: NodeSecurity,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let NodeSecurity { tls, cluster, authenticator, audit, .. } = security;
        let config = Arc::new(config);
        let pool = ConnectionPool::new().limit_relay_memory(config.server.relay_memory_bytes);
        let pool = pool.with_connector(Connector::to_members(tls.as_ref().and_then(|tls| tls.peers())));
        let coordinators =
            CoordinatorClient::new(pool.clone(), config.coordinators.clone(), config.server.request_timeout());
        let coordinators = Arc::new(coordinators);
        let peer_addr = addresses.peer_addr.clone();
        let callers = CallerIdentifier::new(
            authenticator.clone(),
            LoginClient::new(coordinators.clone()),
            cluster.clone(),
            audit.clone(),
        );
        let copier = PartCopier::new(store.clone(), pool.clone(), peer_addr.clone(), &config);
        let get = Arc::new(GetContext {
            decompressions: GetSlots::for_decompressing(config.max_decompressing_gets),
            compression: WireCompression::new(config.max_compressing_gets),
            memory: GetMemory::new(config.get_memory_bytes),
            filters: GetSlots::for_filtering(config.max_filtered_gets),
            scan_threads: ScanThreads::new(max_scan_threads()),
            store: store.clone(),
            cluster: cluster.clone(),
            coordinators: coordinators.clone(),
            pool: pool.clone(),
            audit: audit.clone(),
        });
        let put = Arc::new(PutContext {
            config: config.clone(),
            store: store.clone(),
            cluster: cluster.clone(),
            coordinators: coordinators.clone(),
            pool: pool.clone(),
            resources: Arc::new(PutResources::new(&config)),
            peer_addr,
            tasks: TaskTracker::new(),
            audit: audit.clone(),
        });
        let resources = SqlResources::new(config.clone(), store.clone());
        Arc::new(NodeContext {
            sql: Arc::new(SqlContext { get: get.clone(), put: put.clone(), resources }),
            get,
            put,
            copier: Arc::new(copier),
            calls: config.server.limits.call_limit(),
            config,
            store,
            pool,
            coordinators,
            cluster,
            addresses,
            tls,
            authenticator,
            callers: Arc::new(callers),
            audit,
            shutdown,
        })
    }
}
