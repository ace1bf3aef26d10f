//! Wiring: builds the parts of a coordinator and starts them.

use std::collections::BTreeMap;

use tokio::sync::watch;
use tonic::service::Routes;
use volley_common::listen::{self, join_host_port};
use volley_common::net::{ConnectionPool, Connector};
use volley_common::server::data_folder::{FolderLock, FolderRole, claim};
use volley_common::server::http::HttpPages;
use volley_common::server::{
    BoundListener, Lifecycle, PreboundSockets, RunningServer, ServerAddresses, ServerSockets, health, reflection,
};
use volley_common::tls::MemberRole;
use volley_common::{Error, Result};
use volley_http::HttpState;

use crate::admin_reset;
use crate::administrator_file;
use crate::client_listener::ClientListener;
use crate::config::CoordinatorConfig;
use crate::directory_updates;
use crate::flight::CoordinatorFlight;
use crate::flight::router::CoordinatorRouter;
use crate::http::CoordinatorHttpStatus;
use crate::membership::NodeMembership;
use crate::node_probes;
use crate::peer::CoordinatorPeerService;
use crate::raft::{Handle, RaftConfig};
use crate::raft_threads::RaftThreads;
use crate::service::{CallerPolicy, Services};

/// A coordinator that runs in this process.
pub struct RunningCoordinator {
    /// Its addresses.
    pub addresses: ServerAddresses,
    raft: Handle,
    lifecycle: Lifecycle,
    /// Whether it knows who may do what.
    directory_known: watch::Receiver<bool>,
    _raft_threads: RaftThreads,
    /// The lock of the data folder.
    _folder: FolderLock,
}

/// Binds the ports, starts Raft and serves. Returns when a leader is known, so that clients can be answered.
///
/// # Errors
/// One sentence that says why it cannot start: a port, the folder, the configuration.
pub async fn start(config: CoordinatorConfig) -> Result<RunningCoordinator> {
    start_with_sockets(config, PreboundSockets::default()).await
}

/// Does what [`start`] does, on sockets that may be bound already. Port 0 in the configuration means the bound port.
/// Without `peers` the coordinator is the only one, independent of its peer port.
///
/// # Errors
/// As [`start`].
pub async fn start_with_sockets(config: CoordinatorConfig, prebound: PreboundSockets) -> Result<RunningCoordinator> {
    config.check()?;
    let tls = config.server.load_tls(MemberRole::Coordinator, Some(config.id))?;
    let callers = CallerPolicy::of(&config.server)?;
    let oidc = callers.rules.oidc.clone();
    let connector = Connector::to_members(tls.peers());
    let sockets = ServerSockets::bind(&config.server, prebound).await?;
    let addresses = sockets.addresses()?;
    let (lifecycle, http_status) = (Lifecycle::default(), CoordinatorHttpStatus::default());
    let ServerSockets { flight, peer, http } = sockets;
    let pages = HttpState::new(&config.server);
    let served = HttpPages { routes: volley_http::router(pages.clone()), has_history: !config.server.http.no_web_page };
    let start_failed = lifecycle.serve_http(http, tls.http(), http_status.clone(), served);

    let dir = config.server.data_dir.clone();
    let folder = tokio::task::spawn_blocking(move || claim(&dir, FolderRole::Coordinator))
        .await
        .map_err(|e| Error::internal(format!("opening the data folder: {e}")))??;
    let raft_threads = RaftThreads::start()?;
    let raft = raft_threads.run(Handle::start_dialling(raft_config(&config, &addresses)?, connector.clone())).await?;
    if let Err(error) = check_administrator_files(&config, &raft).await {
        raft.shutdown().await;
        return Err(error);
    }
    let entry = |(listener, locations): (&BoundListener, _)| ClientListener {
        name: listener.name.as_str().into(),
        uri: listener.uri.clone(),
        is_advertised: listener.is_advertised,
        locations,
        client_tls: false,
    };
    let entries = flight.iter().zip(config.locations()?).map(entry).collect();
    let stop = lifecycle.stop_token().clone();
    let pool = ConnectionPool::new().limit_relay_memory(config.server.relay_memory_bytes).with_connector(connector);
    let services = Services::new(config, raft.clone(), pool, entries, tls.clone(), callers, stop);
    let membership = NodeMembership::new(
        services.config.clone(),
        raft.clone(),
        services.node_reports.clone(),
        services.stop.clone(),
    );
    http_status.set(services.clone(), membership.clone());

    let flight_service = CoordinatorFlight::new(&services);
    let (reporter, health) = health::service().await;
    let client_routes = Routes::new(flight_service.clone().server()).add_service(health.clone());
    let client_routes = match services.config.server.identity.public_reflection {
        true => reflection::add_public_to(client_routes)?,
        false => reflection::add_to(client_routes, &services.audit)?,
    };
    // The peer port serves Flight too, so that members need only one address of a coordinator.
    let peer_routes = Routes::new(CoordinatorPeerService::server(&services, membership.clone()))
        .add_service(raft.service())
        .add_service(health)
        .add_service(flight_service.server());
    for listener in flight {
        let listener_tls = tls.flight(&listener.name);
        let limits = services.config.server.limits().named(&listener.name);
        let router = CoordinatorRouter::for_clients(&services, client_routes.clone(), &listener.name.into());
        // The first listener's: pages have no listener of their own.
        pages.connect(lifecycle.serve_in_process(router.clone(), limits));
        lifecycle.serve_clients(listener.socket, listener_tls, router, limits);
    }
    let router = CoordinatorRouter::for_members(&services, peer_routes);
    raft_threads.serve_peers(&lifecycle, peer, tls.peer(), router)?;
    lifecycle.spawn_client_task(tls.watch_files(services.stop.clone()));
    if let Some(oidc) = oidc {
        lifecycle.spawn_client_task(oidc.refresh_loop(services.stop.clone()));
    }
    lifecycle.spawn_client_task(membership.run());
    let known = watch::Sender::new(false);
    let directory_known = known.subscribe();
    lifecycle.spawn_client_task(directory_updates::run(
        raft.clone(),
        services.config.clone(),
        services.directory.clone(),
        known,
        services.stop.clone(),
    ));
    lifecycle.spawn_client_task(admin_reset::run(
        raft.clone(),
        services.config.clone(),
        services.audit.clone(),
        services.stop.clone(),
    ));
    lifecycle.spawn_client_task(node_probes::run(raft.clone(), services.pool.clone(), services.stop.clone()));
    lifecycle.report_health(reporter, raft.watch_leader(), Option::is_some);
    start_failed.disarm();

    let running = RunningCoordinator {
        addresses,
        raft,
        lifecycle,
        directory_known,
        _raft_threads: raft_threads,
        _folder: folder,
    };
    if let Err(error) = running.wait_ready().await {
        running.shutdown().await;
        return Err(error);
    }
    Ok(running)
}

/// Checks the files that name an administrator, if this coordinator's catalog still needs them.
async fn check_administrator_files(config: &CoordinatorConfig, raft: &Handle) -> Result<()> {
    let (has_administrators, was_reset) = {
        let catalog = raft.view();
        (catalog.has_identities(), !catalog.administrator_resets().is_empty())
    };
    let (bootstrap, reset) = (config.bootstrap_admin_file.as_deref(), config.reset_admin_file.as_deref());
    administrator_file::check_at_start(bootstrap, reset, has_administrators, was_reset).await
}

fn raft_config(config: &CoordinatorConfig, addresses: &ServerAddresses) -> Result<RaftConfig> {
    let mut raft = RaftConfig::new(config.id, peers(config, addresses)?, config.server.data_dir.clone());
    raft.request_timeout = config.server.request_timeout();
    raft.set_election_timeout(config.election_timeout());
    raft.quorum_ack_timeout = config.quorum_timeout();
    raft.join = config.join;
    Ok(raft)
}

/// The peer addresses of all coordinators; without `peers` only that of this one, which only its nodes dial.
fn peers(config: &CoordinatorConfig, addresses: &ServerAddresses) -> Result<BTreeMap<u64, String>> {
    let mut peers = config.peer_map()?;
    if peers.is_empty() {
        let (host, _) = listen::split_host_port(listen::check_advertise(&addresses.flight_uri)?)?;
        // If the peer port listens on every interface, members reach it by the host of the Flight address.
        let advertised = join_host_port(host, addresses.peer.port());
        let listen = &config.server.peer_listen;
        let addr = listen::reachable_at("--peers", listen, None, addresses.peer).unwrap_or(advertised);
        peers.insert(config.id, addr);
    }
    Ok(peers)
}

/// Waits until this coordinator cannot continue (for example because it was removed from the cluster), and returns the
/// reason.
async fn ended_reason(ended: &mut watch::Receiver<Option<Error>>) -> Error {
    match ended.wait_for(Option::is_some).await.map(|reason| reason.clone()) {
        Ok(Some(error)) => error,
        // Raft was stopped: the caller of the stop returns the reason.
        Ok(None) | Err(_) => std::future::pending().await,
    }
}

impl RunningCoordinator {
    /// Returns when the cluster is formed and has a leader, and this coordinator can identify clients, or when the stop
    /// begins.
    ///
    /// # Errors
    /// Why this coordinator cannot continue.
    async fn wait_ready(&self) -> Result<()> {
        let mut ended = self.raft.watch_decommissioned();
        let mut applied = self.raft.watch_applied();
        let mut leader = self.raft.watch_leader();
        let mut directory_known = self.directory_known.clone();
        loop {
            let formed = self.raft.view().cluster().is_some() && *directory_known.borrow_and_update();
            if formed && leader.borrow_and_update().is_some() {
                return Ok(());
            }
            tokio::select! {
                () = self.lifecycle.stop_token().cancelled() => return Ok(()),
                error = ended_reason(&mut ended) => return Err(error),
                changed = applied.changed() => if changed.is_err() { return Ok(()) },
                changed = leader.changed() => if changed.is_err() { return Ok(()) },
                changed = directory_known.changed() => if changed.is_err() { return Ok(()) },
            }
        }
    }
}

impl RunningServer for RunningCoordinator {
    fn flight_uri(&self) -> &str {
        &self.addresses.flight_uri
    }

    /// Also returns after the action `shutdown`.
    async fn wait(&self) -> Result<()> {
        let mut ended = self.raft.watch_decommissioned();
        let outcome = tokio::select! {
            () = self.lifecycle.stop_token().cancelled() => Ok(()),
            error = ended_reason(&mut ended) => Err(error),
        };
        self.shutdown().await;
        outcome
    }

    async fn shutdown(&self) {
        let first_stage = async {
            // The leader's duties end when the stop begins, so another coordinator leads while the streams of clients drain.
            tokio::select! {
                () = self.lifecycle.clients_ended() => {}
                () = self.raft.transfer_leadership() => {}
            }
            self.raft.shutdown().await;
        };
        self.lifecycle.shutdown(first_stage).await;
    }
}
