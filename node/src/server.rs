//! Wiring: builds the parts of a node and starts them.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use volley_common::net::ConnectionPool;
use volley_common::server::serve::TonicService;
use volley_common::server::{
    BoundListener, Lifecycle, PreboundSockets, RunningServer, ServerAddresses, ServerSockets, health, reflection,
};
use volley_common::wire::catalog::NodeListener;
use volley_common::{Error, Result};

use crate::config::NodeConfig;
use crate::coordinator_client::CoordinatorClient;
use crate::copy::Pulls;
use crate::http::NodeHttpStatus;
use crate::routes::Router;
use crate::state::Shared;
use crate::storage::{Store, fault};
use crate::{flight, peer, scrub, session};

/// A node that runs in this process.
pub struct RunningNode {
    /// Its addresses.
    pub addresses: ServerAddresses,
    state: Arc<Shared>,
    lifecycle: Lifecycle,
    /// Why the session with the cluster ended.
    failure: Arc<Mutex<Option<Error>>>,
}

/// Opens the data folder, binds the ports and serves. Returns when clients can be answered, which is after the first session
/// with the leading coordinator has begun.
///
/// # Errors
/// One sentence that says why it cannot start: the folder, a port, the configuration.
pub async fn start(config: NodeConfig) -> Result<RunningNode> {
    config.check()?;
    let sockets = ServerSockets::bind(&config.server, PreboundSockets::default()).await?;
    let addresses = sockets.addresses()?;
    let ServerSockets { flight, peer, http } = sockets;
    let lifecycle = Lifecycle::default();
    let (join, joined) = watch::channel(false);
    let http_status = NodeHttpStatus { joined: joined.clone(), stop: lifecycle.stop_token().clone() };
    let start_failed = lifecycle.serve_http(http, http_status);

    fault::install();
    let (dir, watermarks) = (config.server.data_dir.clone(), config.watermarks());
    let store = tokio::task::spawn_blocking(move || Store::open_with(&dir, watermarks))
        .await
        .map_err(|e| Error::internal(format!("opening the data folder: {e}")))??;
    let state = Arc::new(build_state(config, store, &addresses, &flight, &lifecycle)?);

    let (reporter, health) = health::service().await;
    for listener in flight {
        let routes = reflection::add_to(Routes::new(flight::service(&state)).add_service(health.clone()))?;
        let router = Router::new(state.clone(), routes, &listener.name);
        lifecycle.serve_clients(listener.socket, router, state.config.server.limits());
    }
    lifecycle.serve_peers(peer, TonicService(Routes::new(peer::service(state.clone()))));
    lifecycle.report_health(reporter, joined.clone(), |joined| *joined);
    lifecycle.spawn_peer_task(scrub::run(state.clone()));
    let failure = Arc::default();
    lifecycle.spawn_peer_task(run_session(state.clone(), join, Arc::clone(&failure)));
    start_failed.disarm();

    let running = RunningNode { addresses, state, lifecycle, failure };
    running.wait_ready(joined).await?;
    Ok(running)
}

fn build_state(
    config: NodeConfig,
    store: Store,
    addresses: &ServerAddresses,
    listeners: &[BoundListener],
    lifecycle: &Lifecycle,
) -> Result<Shared> {
    let pool = ConnectionPool::new();
    let node_listener = |l: &BoundListener| NodeListener { name: l.name.clone(), uri: l.uri.clone() };
    Ok(Shared {
        flight_uri: addresses.flight_uri.clone(),
        listeners: listeners.iter().filter(|l| !l.name.is_empty()).map(node_listener).collect(),
        peer_addr: config.peer_reachable_at(addresses.peer)?,
        coordinators: CoordinatorClient::new(
            pool.clone(),
            config.coordinators.clone(),
            config.server.request_timeout(),
        ),
        cluster: store.cluster().map(Arc::new).into(),
        pulls: Pulls::new(&config),
        config,
        store,
        pool,
        ticket_key: None.into(),
        members: Default::default(),
        cancelled: Default::default(),
        puts: TaskTracker::new(),
        received: Default::default(),
        shutdown: lifecycle.stop_token().clone(),
    })
}

/// Keeps the session with the leading coordinator. If the cluster refuses the node, the server stops with that error.
async fn run_session(state: Arc<Shared>, join: watch::Sender<bool>, failure: Arc<Mutex<Option<Error>>>) {
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

async fn drain_puts(state: &Shared) {
    state.puts.close();
    if tokio::time::timeout(state.config.server.limits().drain, state.puts.wait()).await.is_err() {
        tracing::warn!(puts = state.puts.len(), "the drain limit is over: ending the puts that are still open");
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
        // No more writes: the next start need not read again what is verified.
        let _ = tokio::task::spawn_blocking(move || store.remember(true)).await;
    }
}
