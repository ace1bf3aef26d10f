//! The long-lived pieces of a node, grouped by what uses them: a get, a put, the wiring.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use volley_common::net::{ConnectionPool, Connector};
use volley_common::server::ServerTls;
use volley_common::wire::catalog::NodeListener;

use crate::cluster_view::ClusterView;
use crate::config::NodeConfig;
use crate::coordinator_client::CoordinatorClient;
use crate::copy::PartCopier;
use crate::get_resources::DecompressionSlots;
use crate::put_resources::PutResources;
use crate::storage::PartStore;

/// The addresses at which others reach this node.
#[derive(Clone, Debug, Default)]
pub struct NodeAddresses {
    /// For members: HOST:PORT.
    pub peer_addr: String,
    /// For clients: `grpc+tcp://HOST:PORT`.
    pub flight_uri: String,
    /// For clients of each named listener.
    pub listeners: Vec<NodeListener>,
}

/// What a get uses.
#[derive(Clone)]
pub struct GetContext {
    /// The parts on this node's disk.
    pub store: PartStore,
    /// Members, ticket key and cancelled flights.
    pub cluster: Arc<ClusterView>,
    /// The places of gets that decompress.
    pub decompressions: DecompressionSlots,
    /// Plans reads of tables by name.
    pub coordinators: Arc<CoordinatorClient>,
    /// Connections to other members.
    pub pool: ConnectionPool,
}

/// What a put uses.
pub struct PutContext {
    /// The node's configuration.
    pub config: Arc<NodeConfig>,
    /// The parts on this node's disk.
    pub store: PartStore,
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
    /// Where others reach this node.
    pub addresses: NodeAddresses,
    /// The TLS of its listeners and towards other members.
    pub tls: Option<Arc<ServerTls>>,
    /// Cancelled when the process is to stop.
    pub shutdown: CancellationToken,
}

impl NodeContext {
    /// Connects the pieces of a node; starts nothing. `tls`: without it there is no TLS.
    pub fn new(
        config: NodeConfig,
        store: PartStore,
        addresses: NodeAddresses,
        tls: Option<Arc<ServerTls>>,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let config = Arc::new(config);
        let pool = ConnectionPool::new().limit_relay_memory(config.server.relay_memory_bytes);
        let pool = pool.with_connector(Connector::to_members(tls.as_ref().and_then(|tls| tls.peers())));
        let cluster = Arc::<ClusterView>::default();
        let coordinators =
            CoordinatorClient::new(pool.clone(), config.coordinators.clone(), config.server.request_timeout());
        let coordinators = Arc::new(coordinators);
        let peer_addr = addresses.peer_addr.clone();
        let copier = PartCopier::new(store.clone(), pool.clone(), peer_addr.clone(), &config);
        Arc::new(NodeContext {
            get: Arc::new(GetContext {
                decompressions: DecompressionSlots::new(config.max_decompressing_gets),
                store: store.clone(),
                cluster: cluster.clone(),
                coordinators: coordinators.clone(),
                pool: pool.clone(),
            }),
            put: Arc::new(PutContext {
                config: config.clone(),
                store: store.clone(),
                coordinators: coordinators.clone(),
                pool: pool.clone(),
                resources: Arc::new(PutResources::new(&config)),
                peer_addr,
                tasks: TaskTracker::new(),
            }),
            copier: Arc::new(copier),
            config,
            store,
            pool,
            coordinators,
            cluster,
            addresses,
            tls,
            shutdown,
        })
    }
}
