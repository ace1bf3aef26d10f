//! Wiring: the parts of a node put together and started.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use volley_common::listen::{self, Bound, local_addr};
use volley_common::proxy::Relay;
use volley_common::serve::{self, Limits, Tonic};
use volley_common::wire::catalog::NodeListener;
use volley_common::wire::cluster::node_server::NodeServer;
use volley_common::{Error, Result, health, reflection};

use crate::config::Config;
use crate::coordinators::Coordinators;
use crate::copy::PartCopier;
use crate::routes::Router;
use crate::scrub::Scrubber;
use crate::state::Shared;
use crate::storage::{PartStore, sigbus};
use crate::{flight, http, peer, session};

/// A node that runs in this process.
pub struct Running {
    /// Where Flight is served.
    pub flight_addr: SocketAddr,
    /// Where members are served.
    pub peer_addr: SocketAddr,
    /// Where health and metrics are served.
    pub http_addr: SocketAddr,
    /// Where clients are told to reach it: `grpc+tcp://HOST:PORT`.
    pub flight_uri: String,
    state: Arc<Shared>,
    /// The listeners of clients.
    clients: TaskTracker,
    /// Everything.
    tasks: TaskTracker,
    /// Ends the peers' service, health and metrics after the clients' service.
    stop_peers: CancellationToken,
    failure: Arc<Mutex<Option<Error>>>,
    ready: watch::Receiver<bool>,
}

/// Sockets bound beforehand, for a caller that must know the ports before it starts; else they are bound as the
/// configuration says.
#[derive(Default)]
pub struct Listeners {
    /// For Flight clients.
    pub flight: Option<TcpListener>,
    /// For members.
    pub peer: Option<TcpListener>,
    /// For health and metrics.
    pub http: Option<TcpListener>,
}

/// Opens the data folder, binds the ports and serves. Returns when clients can be answered, which is
/// after the first session with the leading coordinator has begun.
///
/// # Errors
/// One sentence that says why it cannot start: the folder, a port, the configuration.
pub async fn start(config: Config) -> Result<Running> {
    start_with_listeners(config, Listeners::default()).await
}

/// [`start`] on sockets that are bound already.
///
/// # Errors
/// As [`start`].
pub async fn start_with_listeners(config: Config, listeners: Listeners) -> Result<Running> {
    config.check()?;
    let sockets = Sockets::bind(&config, listeners.flight, listeners.peer).await?;
    let base = Base::start(listeners.http, &config.http_listen).await?;
    // Until it runs: whatever fails, nothing is left behind.
    let failed = base.stop_peers.clone().drop_guard();
    sigbus::install();
    let (dir, watermarks) = (config.data_dir.clone(), config.watermarks());
    let store = tokio::task::spawn_blocking(move || PartStore::open_with(&dir, watermarks))
        .await
        .map_err(|e| Error::internal(format!("opening the data folder: {e}")))??;
    let state = Arc::new(share(config, store, &sockets, base.shutdown.clone())?);
    let running = serve_all(state, sockets, base).await?;
    failed.disarm();
    running.wait_ready().await?;
    Ok(running)
}

/// What is there before the data folder is open.
struct Base {
    http_addr: SocketAddr,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    stop_peers: CancellationToken,
    ready: watch::Sender<bool>,
}

impl Base {
    /// Serves health: a large folder takes its time to open, and whoever watches must not take that for death.
    async fn start(given: Option<TcpListener>, addr: &str) -> Result<Self> {
        let socket = listen::bound(given, addr).await?;
        let (tasks, ready) = (TaskTracker::new(), watch::Sender::new(false));
        let (shutdown, stop_peers) = (CancellationToken::new(), CancellationToken::new());
        let http_addr = local_addr(&socket)?;
        tasks.spawn(http::serve(socket, ready.subscribe(), shutdown.clone(), stop_peers.clone()));
        Ok(Base { http_addr, tasks, shutdown, stop_peers, ready })
    }
}

struct Sockets {
    /// At least one.
    flight: Vec<Bound>,
    peer: TcpListener,
}

impl Sockets {
    async fn bind(config: &Config, flight: Option<TcpListener>, peer: Option<TcpListener>) -> Result<Self> {
        Ok(Sockets {
            flight: Bound::all(&config.listeners()?, flight).await?,
            peer: listen::bound(peer, &config.peer_listen).await?,
        })
    }

    /// The listener of members and of clients that need no other.
    fn first(&self) -> Result<&Bound> {
        self.flight.first().ok_or_else(|| Error::internal("there is no listener"))
    }
}

fn named(listener: &Bound) -> NodeListener {
    NodeListener { name: listener.name.clone(), uri: listener.uri.clone() }
}

fn share(config: Config, store: PartStore, sockets: &Sockets, shutdown: CancellationToken) -> Result<Shared> {
    let relay = Relay::new();
    let peer_addr = config.peer_reachable_at(local_addr(&sockets.peer)?)?;
    let copier = PartCopier::new(store.clone(), relay.clone(), peer_addr.clone(), &config);
    Ok(Shared {
        flight_uri: sockets.first()?.uri.clone(),
        listeners: sockets.flight.iter().filter(|l| !l.name.is_empty()).map(named).collect(),
        coordinators: Coordinators::new(relay.clone(), config.coordinators.clone(), config.deadline()),
        cluster: store.cluster().map(Arc::new).into(),
        config,
        store,
        relay,
        ticket_key: None.into(),
        members: Default::default(),
        cancelled: Default::default(),
        puts: TaskTracker::new(),
        copier,
        peer_addr,
        shutdown,
    })
}

async fn serve_all(state: Arc<Shared>, sockets: Sockets, base: Base) -> Result<Running> {
    let ready = base.ready;
    let running = Running {
        flight_addr: local_addr(&sockets.first()?.socket)?,
        peer_addr: local_addr(&sockets.peer)?,
        http_addr: base.http_addr,
        flight_uri: state.flight_uri.clone(),
        state: state.clone(),
        clients: TaskTracker::new(),
        tasks: base.tasks,
        stop_peers: base.stop_peers,
        failure: Arc::default(),
        ready: ready.subscribe(),
    };
    let (reporter, health) = health::service().await;
    running.tasks.spawn(report_health(ready.subscribe(), state.shutdown.clone(), reporter));
    for listener in sockets.flight {
        let routes = reflection::add_to(Routes::new(flight::service(&state)).add_service(health.clone()))?;
        let router = Router::new(state.clone(), routes, &listener.name);
        running.clients.spawn(serve::serve(listener.socket, router, state.shutdown.clone(), state.config.limits()));
    }
    let peers: NodeServer<_> = peer::service(state.clone());
    running.tasks.spawn(serve::serve(
        sockets.peer,
        Tonic(Routes::new(peers)),
        running.stop_peers.clone(),
        Limits::default(),
    ));
    running.tasks.spawn(Scrubber::new(state.store.clone(), &state.config, state.shutdown.clone()).run());
    let failure = running.failure.clone();
    running.tasks.spawn(async move {
        if let Err(error) = session::run(state.clone(), ready).await {
            tracing::error!(%error, "the cluster does not take this node");
            *failure.lock() = Some(error);
            state.shutdown.cancel();
        }
    });
    let (state, clients) = (running.state.clone(), running.clients.clone());
    let (tasks, stop) = (running.tasks.clone(), running.stop_peers.clone());
    running.tasks.spawn(async move {
        state.shutdown.cancelled().await;
        clients.close();
        tokio::join!(clients.wait(), drain(&state));
        tasks.close();
        stop.cancel();
    });
    Ok(running)
}

/// gRPC health: serving once the node is in a cluster, and until it is to stop.
async fn report_health(mut joined: watch::Receiver<bool>, stopping: CancellationToken, reporter: health::Reporter) {
    let joined = async { joined.wait_for(|joined| *joined).await.is_ok() };
    if stopping.run_until_cancelled(joined).await == Some(true) {
        reporter.set(true).await;
    }
    stopping.cancelled().await;
    reporter.end().await;
}

/// Other nodes pull parts of puts that are at their end: peers are served until these are done.
async fn drain(state: &Shared) {
    state.puts.close();
    if tokio::time::timeout(state.config.limits().drain, state.puts.wait()).await.is_err() {
        tracing::warn!(puts = state.puts.len(), "ending puts that are still open after the drain limit");
    }
}

impl Running {
    /// Returns when the first session has begun.
    async fn wait_ready(&self) -> Result<()> {
        let mut ready = self.ready.clone();
        tokio::select! {
            () = self.state.shutdown.cancelled() => self.wait().await,
            ready = ready.wait_for(|ready| *ready) => match ready {
                Ok(_) => Ok(()),
                // The session's end is on its way to `wait`, which knows why.
                Err(_) => self.wait().await,
            },
        }
    }

    /// What the node's tasks share, for tests and for `volley dev`.
    pub fn state(&self) -> &Arc<Shared> {
        &self.state
    }

    /// Drains and stops; returns when all is done.
    pub async fn shutdown(&self) {
        self.state.shutdown.cancel();
        self.tasks.wait().await;
        let store = self.state.store.clone();
        // Nothing is written any more: what was verified need not be read again after the next start.
        let _ = tokio::task::spawn_blocking(move || store.save_verification_log(true)).await;
    }

    /// Waits until the node stops by itself or by [`Running::shutdown`].
    ///
    /// # Errors
    /// What ended it, if it was not asked to.
    pub async fn wait(&self) -> Result<()> {
        self.state.shutdown.cancelled().await;
        self.tasks.wait().await;
        self.failure.lock().clone().map_or(Ok(()), Err)
    }
}
