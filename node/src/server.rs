//! Wiring: builds the parts of a node and starts them.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tonic::service::Routes;
use volley_common::local_read::machine::machine_id;
use volley_common::local_read::socket_file::{self, SocketFile};
use volley_common::server::http::HttpPages;
use volley_common::server::serve::TonicService;
use volley_common::server::{
    BoundListener, Lifecycle, PreboundSockets, RunningServer, ServerAddresses, ServerSockets, health, reflection,
};
use volley_common::tls::{Caller, MemberRole};
use volley_common::wire::catalog::{LocalSocket, NodeListener};
use volley_common::{Error, Result};
use volley_http::HttpState;

use crate::config::NodeConfig;
use crate::context::{NodeAddresses, NodeContext, NodeSecurity};
use crate::http::NodeHttpStatus;
use crate::local_read::LocalReadService;
use crate::router::NodeRouter;
use crate::scrub::Scrubber;
use crate::sql::stage_network::NodeNetwork;
use crate::storage::{PartStore, sigbus};
use crate::{flight, orphan_expiry, peer, session};

/// A node that runs in this process.
pub struct RunningNode {
    /// Its addresses.
    pub addresses: ServerAddresses,
    state: Arc<NodeContext>,
    lifecycle: Lifecycle,
    /// Why the session with the cluster ended.
    failure: Arc<Mutex<Option<Error>>>,
}

/// The most connections of the local socket: a client has one for as long as it gets descriptors.
const MAX_LOCAL_CONNECTIONS: usize = 256;

/// The local socket, bound.
struct LocalListener {
    socket: (UnixListener, SocketFile),
    /// What FlightInfos say of it.
    announced: LocalSocket,
}

/// Opens the data folder, binds the ports and serves. Returns when clients can be answered, which is after the first session
/// with the leading coordinator has begun.
///
/// # Errors
/// One sentence that says why it cannot start: the folder, a port, the configuration.
pub async fn start(config: NodeConfig) -> Result<RunningNode> {
    config.check()?;
    let tls = config.server.load_tls(MemberRole::Node, None)?;
    let security = NodeSecurity::configured(&config.server, tls.clone())?;
    let oidc = security.oidc.clone();
    let sockets = ServerSockets::bind(&config.server, PreboundSockets::default()).await?;
    let addresses = sockets.addresses()?;
    let local = bind_local(&config).await?;
    let ServerSockets { flight, peer, http } = sockets;
    let lifecycle = Lifecycle::default();
    let (join, joined) = watch::channel(false);
    let http_status = NodeHttpStatus::new(joined.clone(), lifecycle.stop_token().clone());
    let pages = HttpState::new(&config.server);
    let served = HttpPages { routes: volley_http::router(pages.clone()), has_history: !config.server.http.no_web_page };
    let start_failed = lifecycle.serve_http(http, tls.http(), http_status.clone(), served);

    sigbus::install();
    let (dir, watermarks) = (config.server.data_dir.clone(), config.watermarks());
    let store = tokio::task::spawn_blocking(move || PartStore::open_with(&dir, watermarks))
        .await
        .map_err(|e| Error::internal(format!("opening the data folder: {e}")))??;
    let announced = local.as_ref().map(|local| local.announced.clone());
    let state = build_context(config, store, (&addresses, announced), &flight, &lifecycle, security)?;
    state.sql.resources.connect(Arc::new(NodeNetwork::new(state.get.clone())));
    http_status.set(state.clone());

    let (reporter, health) = health::service().await;
    let router = |name: &str| -> Result<NodeRouter> {
        let service = flight::service(state.config.max_message, state.callers.clone());
        let routes = Routes::new(service).add_service(health.clone());
        let routes = match state.config.server.identity.public_reflection {
            true => reflection::add_public_to(routes)?,
            false => reflection::add_to(routes, &state.audit)?,
        };
        Ok(NodeRouter::new(&state, routes, name))
    };
    let limits = state.config.server.limits();
    if let (Some(local), Some(first)) = (local, flight.first()) {
        let is_plaintext = tls.flight(&first.name).accepts_plaintext();
        let caller = if is_plaintext { Caller::Plaintext } else { Caller::Anonymous };
        let limits = limits.with_connections((limits.connections / 8).min(MAX_LOCAL_CONNECTIONS), 0);
        let limits = limits.named("local_socket");
        let reads = LocalReadService::new(&state, local.announced.id);
        lifecycle.serve_local(local.socket, caller, router(&first.name)?, reads, limits);
    }
    for listener in flight {
        let router = router(&listener.name)?;
        // The first listener's: pages have no listener of their own.
        pages.connect(lifecycle.serve_in_process(router.clone(), limits));
        let limits = limits.named(&listener.name);
        lifecycle.serve_clients(listener.socket, tls.flight(&listener.name), router, limits);
    }
    lifecycle.serve_peers(peer, tls.peer(), TonicService(Routes::new(peer::service(&state))));
    lifecycle.spawn_peer_task(tls.watch_files(state.shutdown.clone()));
    if let Some(oidc) = oidc {
        lifecycle.spawn_peer_task(oidc.refresh_loop(state.shutdown.clone()));
    }
    lifecycle.report_health(reporter, joined.clone(), |joined| *joined);
    lifecycle.spawn_peer_task(Scrubber::new(state.store.clone(), &state.config, state.shutdown.clone()).run());
    let (orphans, settings, stop) = (state.store.clone(), state.config.clone(), state.shutdown.clone());
    lifecycle.spawn_peer_task(async move { orphan_expiry::run(orphans, &settings, stop).await });
    let failure = Arc::default();
    lifecycle.spawn_peer_task(run_session(state.clone(), join, Arc::clone(&failure)));
    start_failed.disarm();

    let running = RunningNode { addresses, state, lifecycle, failure };
    running.wait_ready(joined).await?;
    Ok(running)
}

/// Binds the local socket, if there is one.
async fn bind_local(config: &NodeConfig) -> Result<Option<LocalListener>> {
    let Some(path) = &config.local_socket else { return Ok(None) };
    let socket = socket_file::bind(path).await?;
    let machine = machine_id().unwrap_or_default();
    if machine.is_empty() {
        tracing::warn!(
            "the system gives no boot id, so that clients cannot know that they are on this machine: reads come by the wire"
        );
    }
    let (machine, path) = (machine.to_string(), path.display().to_string());
    let announced = LocalSocket { machine, path, uid: rustix::process::geteuid().as_raw(), id: rand::random() };
    Ok(Some(LocalListener { socket, announced }))
}

fn build_context(
    config: NodeConfig,
    store: PartStore,
    (addresses, local_socket): (&ServerAddresses, Option<LocalSocket>),
    listeners: &[BoundListener],
    lifecycle: &Lifecycle,
    security: NodeSecurity,
) -> Result<Arc<NodeContext>> {
    let node_listener = |l: &BoundListener| NodeListener { name: l.name.clone(), uri: l.uri.clone() };
    let addresses = NodeAddresses {
        peer_addr: config.peer_reachable_at(addresses.peer)?,
        flight_uri: addresses.flight_uri.clone(),
        listeners: listeners.iter().filter(|l| !l.name.is_empty()).map(node_listener).collect(),
        local_socket,
    };
    Ok(NodeContext::new(config, store, addresses, security, lifecycle.stop_token().clone()))
}

/// Keeps the session with the leading coordinator. If the cluster refuses the node, the server stops with that error.
async fn run_session(state: Arc<NodeContext>, join: watch::Sender<bool>, failure: Arc<Mutex<Option<Error>>>) {
    if let Err(error) = session::run(state.clone(), join).await {
        tracing::error!(%error, "the cluster refuses this node");
        *failure.lock() = Some(error);
        state.shutdown.cancel();
    }
}

impl RunningNode {
    /// Returns when the first session has begun.
    ///
    /// # Errors
    /// Those of [`RunningServer::wait`].
    async fn wait_ready(&self, mut joined: watch::Receiver<bool>) -> Result<()> {
        let joined = joined.wait_for(|joined| *joined);
        match self.lifecycle.stop_token().run_until_cancelled(joined).await {
            Some(Ok(_)) => Ok(()),
            // The session has ended: `wait` returns the reason.
            Some(Err(_)) | None => self.wait().await,
        }
    }

    /// Stops in two stages. Peers are served while puts drain: other nodes pull the parts of the last ones.
    async fn stop(&self) {
        let first_stage = async {
            tokio::join!(self.lifecycle.clients_ended(), drain_puts(&self.state));
        };
        self.lifecycle.shutdown(first_stage).await;
    }
}

async fn drain_puts(state: &NodeContext) {
    state.put.tasks.close();
    if tokio::time::timeout(state.config.server.limits().drain, state.put.tasks.wait()).await.is_err() {
        tracing::warn!(puts = state.put.tasks.len(), "the drain limit is over: ending the puts that are still open");
    }
}

impl RunningServer for RunningNode {
    fn flight_uri(&self) -> &str {
        &self.addresses.flight_uri
    }

    async fn wait(&self) -> Result<()> {
        self.lifecycle.stop_token().cancelled().await;
        self.stop().await;
        self.failure.lock().clone().map_or(Ok(()), Err)
    }

    async fn shutdown(&self) {
        self.stop().await;
        let store = self.state.store.clone();
        // There are no more writes, so the next start can trust what is verified.
        let save = move || {
            store.record_seen_catalog(true);
            store.save_verification_log(true);
        };
        let _ = tokio::task::spawn_blocking(save).await;
    }
}
