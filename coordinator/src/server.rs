//! Wiring: the parts of a coordinator put together and started.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use volley_common::listen::{self, Bound, local_addr};
use volley_common::proxy::Relay;
use volley_common::serve::{self, Limits};
use volley_common::{Error, Result, health, reflection};

use crate::config::Config;
use crate::flight::Flight;
use crate::flight::route::Edge;
use crate::http;
use crate::membership::Membership;
use crate::peer::Peer;
use crate::raft::{Handle, RaftConfig};
use crate::service::Service;
use crate::service::via::{Entry, Locations};

/// A coordinator that runs in this process.
pub struct Running {
    /// Where Flight is served.
    pub flight_addr: SocketAddr,
    /// Where members are served.
    pub peer_addr: SocketAddr,
    /// Where health and metrics are served.
    pub http_addr: SocketAddr,
    /// Where clients are told to reach it: `grpc+tcp://HOST:PORT`.
    pub flight_uri: String,
    raft: Handle,
    stop: CancellationToken,
    /// Ends the members' service, which the hand-over of leadership still needs.
    stop_peers: CancellationToken,
    clients: TaskTracker,
    peers: TaskTracker,
    /// Held while it stops, so that all who wait for that wait for the end of it.
    stopped: tokio::sync::Mutex<bool>,
}

/// Sockets bound beforehand, for a caller that must know the ports of several coordinators before it starts the first.
/// What is `None` is bound as the configuration says.
#[derive(Default)]
pub struct Listeners {
    /// For Flight clients, of the first listener.
    pub flight: Option<TcpListener>,
    /// For members.
    pub peer: Option<TcpListener>,
    /// For health and metrics.
    pub http: Option<TcpListener>,
}

/// Binds the ports, starts Raft and serves. Returns when a leader is known, so that clients can be answered.
///
/// # Errors
/// One sentence that says why it cannot start: a port, the folder, the configuration.
pub async fn start(config: Config) -> Result<Running> {
    start_with_listeners(config, Listeners::default()).await
}

/// [`start`] on sockets that are bound already. Port 0 in the configuration stands for the bound one. Without `peers`
/// the coordinator is alone, whatever its peer port.
///
/// # Errors
/// As [`start`].
pub async fn start_with_listeners(config: Config, listeners: Listeners) -> Result<Running> {
    config.check()?;
    let sockets = Sockets::bind(&config, listeners).await?;
    let locations = config.locations_of(&config.listeners()?)?;
    let entry = |(bound, locations): (&Bound, Locations)| Entry {
        name: bound.name.as_str().into(),
        uri: bound.uri.clone(),
        locations,
    };
    let entries = sockets.flight.iter().zip(locations).map(entry).collect();
    let mut raft_config = RaftConfig::new(config.id, sockets.peers(&config)?, config.data_dir.clone());
    raft_config.request_timeout = config.deadline();
    raft_config.set_election_timeout(config.election());
    raft_config.quorum_ack_timeout = config.unanswered();
    raft_config.join = config.join;
    let raft = Handle::start(raft_config).await?;
    let stop = CancellationToken::new();
    let service = Arc::new(Service::new(config, raft, Relay::new(), entries, stop));
    let running = serve_all(service, sockets).await?;
    if let Err(error) = running.wait_ready().await {
        running.shutdown().await;
        return Err(error);
    }
    Ok(running)
}

struct Sockets {
    /// At least one.
    flight: Vec<Bound>,
    peer: TcpListener,
    http: TcpListener,
}

impl Sockets {
    async fn bind(config: &Config, given: Listeners) -> Result<Self> {
        Ok(Sockets {
            flight: Bound::all(&config.listeners()?, given.flight).await?,
            peer: listen::bound(given.peer, &config.peer_listen).await?,
            http: listen::bound(given.http, &config.http_listen).await?,
        })
    }

    /// The listener of clients that need no other.
    fn first(&self) -> Result<&Bound> {
        self.flight.first().ok_or_else(|| Error::internal("there is no listener"))
    }

    /// All coordinators; without a list only this one, where nobody else need dial it but its nodes.
    fn peers(&self, config: &Config) -> Result<std::collections::BTreeMap<u64, String>> {
        let mut peers = config.peer_map()?;
        if peers.is_empty() {
            let (host, _) = listen::split_host_port(listen::check_advertise(&self.first()?.uri)?)?;
            let port = local_addr(&self.peer)?.port();
            // Where it listens everywhere, members reach it by the host that clients are told.
            let advertised = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
            let listen = &config.peer_listen;
            let addr = listen::reachable_at("--peers", listen, None, local_addr(&self.peer)?).unwrap_or(advertised);
            peers.insert(config.id, addr);
        }
        Ok(peers)
    }
}

async fn serve_all(service: Arc<Service>, sockets: Sockets) -> Result<Running> {
    let (stop, raft) = (service.stop.clone(), service.raft.clone());
    let running = Running {
        flight_addr: local_addr(&sockets.first()?.socket)?,
        peer_addr: local_addr(&sockets.peer)?,
        http_addr: local_addr(&sockets.http)?,
        flight_uri: service.flight_uri().to_string(),
        raft: raft.clone(),
        stop: stop.clone(),
        stop_peers: CancellationToken::new(),
        clients: TaskTracker::new(),
        peers: TaskTracker::new(),
        stopped: tokio::sync::Mutex::new(false),
    };
    let membership = Membership::new(service.clone());
    let flight = Flight::new(service.clone());
    let (reporter, health) = health::service().await;
    let client_routes = Routes::new(flight.clone().server()).add_service(health.clone());
    let client_routes = reflection::add_to(client_routes)?;
    // Members find everything on the peer port, Flight too: so they need only one address of a coordinator.
    let peer_routes = Routes::new(Peer::server(service.clone(), membership.clone()))
        .add_service(raft.service())
        .add_service(health)
        .add_service(flight.server());
    let (clients, peers) = (&running.clients, &running.peers);
    for listener in sockets.flight {
        let edge = Edge::for_clients(service.clone(), client_routes.clone(), &listener.name.into());
        clients.spawn(serve::serve(listener.socket, edge, stop.clone(), service.config.limits()));
    }
    let edge = Edge::for_members(service.clone(), peer_routes);
    peers.spawn(serve::serve(sockets.peer, edge, running.stop_peers.clone(), Limits::default()));
    clients.spawn(membership.clone().run());
    clients.spawn(report_health(service.clone(), reporter));
    peers.spawn(http::serve(sockets.http, service, membership, running.stop_peers.clone()));
    Ok(running)
}

/// gRPC health: serving while there is a leader, and until it is to stop.
async fn report_health(service: Arc<Service>, reporter: health::Reporter) {
    let mut leader = service.raft.watch_leader();
    while !service.stop.is_cancelled() {
        let serves = leader.borrow_and_update().is_some();
        reporter.set(serves).await;
        tokio::select! {
            () = service.stop.cancelled() => {}
            // Raft is gone: it is about to stop.
            changed = leader.changed() => if changed.is_err() { service.stop.cancelled().await },
        }
    }
    reporter.end().await;
}

/// Why this coordinator is none any more, once that is so.
async fn end_of(ended: &mut watch::Receiver<Option<Error>>) -> Error {
    match ended.wait_for(Option::is_some).await.map(|why| why.clone()) {
        Ok(Some(error)) => error,
        // Raft is gone: whoever stopped it knows why.
        Ok(None) | Err(_) => std::future::pending().await,
    }
}

impl Running {
    /// Returns when there is a leader and a formed cluster, or when it is to stop; why it is no coordinator any more.
    async fn wait_ready(&self) -> Result<()> {
        let mut ended = self.raft.watch_decommissioned();
        let mut applied = self.raft.watch_applied();
        let mut leader = self.raft.watch_leader();
        loop {
            let formed = self.raft.view().cluster().is_some();
            if formed && leader.borrow_and_update().is_some() {
                return Ok(());
            }
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                error = end_of(&mut ended) => return Err(error),
                changed = applied.changed() => if changed.is_err() { return Ok(()) },
                changed = leader.changed() => if changed.is_err() { return Ok(()) },
            }
        }
    }

    /// Drains and stops; returns when all is done.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        let mut stopped = self.stopped.lock().await;
        if *stopped {
            return;
        }
        self.clients.close();
        // What the leader does each second ended with `stop`: another coordinator leads while the clients' streams end.
        tokio::select! {
            () = self.clients.wait() => {}
            () = self.raft.transfer_leadership() => {}
        }
        self.raft.shutdown().await;
        self.stop_peers.cancel();
        self.peers.close();
        self.peers.wait().await;
        *stopped = true;
    }

    /// Waits until it stops by itself (the action `shutdown`) or by [`Running::shutdown`].
    ///
    /// # Errors
    /// What ended it, if it was not asked to: it was removed from the cluster.
    pub async fn wait(&self) -> Result<()> {
        let mut ended = self.raft.watch_decommissioned();
        let outcome = tokio::select! {
            () = self.stop.cancelled() => Ok(()),
            error = end_of(&mut ended) => Err(error),
        };
        self.shutdown().await;
        outcome
    }
}
