//! The public API of the replicated catalog.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use volley_common::net::Connector;
use volley_common::wire::MAX_PEER_MESSAGE;
use volley_common::wire::catalog::{Command, Reply, command, reply};
use volley_common::wire::cluster::Follower;
use volley_common::wire::raft::Identity;
use volley_common::wire::raft::raft_server::RaftServer;
use volley_common::{Error, Result};

use super::config::RaftConfig;
use super::context::{RaftContext, TlsFailures};
use super::environment::RaftEnvironment;
use super::gauges;
use super::log_comparison;
use super::membership::{bootstrap, decommission, leader_watch, membership_reconciler, peer_identity};
use super::progress::{ReplicationProgress, replication_progress};
use super::rpc::server::RaftService;
use super::runtime::blocking;
use super::storage::log::RaftLog;
use super::storage::state_machine::{CatalogStateMachine, CatalogView};
use super::storage::store::{OnFatalError, RaftStore};
use super::types::TypeConfig;

/// If a stopping coordinator becomes leader again, it keeps the leadership for this long before it transfers it again.
const TRANSFER_PAUSE: Duration = Duration::from_secs(5);

/// The replicated catalog; cheap to clone.
#[derive(Clone)]
pub struct Handle(Arc<RaftContext>);

impl Handle {
    /// Opens the data folder and starts Raft. The cluster is formed in the background, once [`Handle::service`] is served at
    /// this coordinator's address in the peer list.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the configuration is inconsistent. Others: the data folder cannot be used.
    pub async fn start(config: RaftConfig) -> Result<Handle> {
        Handle::start_dialling(config, Connector::Plaintext).await
    }

    /// [`Handle::start`] with other coordinators dialled in this way.
    pub async fn start_dialling(config: RaftConfig, connector: Connector) -> Result<Handle> {
        let env = RaftEnvironment::real(&config.data_dir, Arc::new(exit_process)).dialling(connector);
        Handle::start_in(config, env).await
    }

    /// [`Handle::start`] with another reaction to fatal errors: the default ends the process.
    pub async fn start_with(config: RaftConfig, on_fatal_error: OnFatalError) -> Result<Handle> {
        let env = RaftEnvironment::real(&config.data_dir, on_fatal_error);
        Handle::start_in(config, env).await
    }

    /// [`Handle::start`] in another environment.
    pub async fn start_in(config: RaftConfig, env: RaftEnvironment) -> Result<Handle> {
        if !config.peers.contains_key(&config.id) {
            return Err(Error::invalid(format!("the peer list does not name this coordinator, {}", config.id)));
        }
        let (id, for_opening) = (config.id, env.clone());
        let opened = blocking(move || open(for_opening, id)).await.map_err(|e| Error::internal(e.to_string()))?;
        let (store, log, state_machine) = opened?;
        let ctx = RaftContext::start(config, env, store, log, state_machine).await?;
        ctx.spawn(leader_watch::run(ctx.clone()));
        let for_comparison = ctx.clone();
        ctx.spawn(async move { log_comparison::run(&for_comparison).await });
        let for_tasks = ctx.clone();
        ctx.spawn(async move {
            bootstrap::run(&for_tasks).await;
            membership_reconciler::run(&for_tasks).await;
        });
        Ok(Handle(ctx))
    }

    /// The service for the peer port.
    pub fn service(&self) -> RaftServer<RaftService> {
        RaftServer::new(RaftService::new(&self.0))
            .max_decoding_message_size(2 * MAX_PEER_MESSAGE)
            .max_encoding_message_size(MAX_PEER_MESSAGE)
    }

    /// Transfers leadership away whenever this coordinator has it; never returns. For a coordinator that is about to stop.
    pub async fn transfer_leadership(&self) {
        let mut leader = self.watch_leader();
        loop {
            leader.mark_unchanged();
            self.0.transfer_leadership().await;
            // If all coordinators are about to stop, leadership would be transferred back immediately, and no write
            // would be committed in between.
            tokio::time::sleep(TRANSFER_PAUSE).await;
            if leader.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Transfers leadership, if this coordinator has it, and stops. Afterwards the data folder can be opened again.
    pub async fn shutdown(&self) {
        self.0.transfer_leadership().await;
        self.halt().await;
    }

    /// Stops without transferring leadership, as after a crash of the process.
    pub async fn halt(&self) {
        self.0.halt().await;
    }

    /// Changes the catalog, through the leader.
    ///
    /// # Errors
    /// The catalog's refusal, with its code. FAILED_PRECONDITION: a coordinator's version does not know the command.
    /// UNAVAILABLE: there was no leader within the timeout, or it was lost while it
    /// committed; only the message of the latter says that the change may have taken effect.
    pub async fn propose(&self, op: command::Op) -> Result<reply::Reply> {
        self.0.propose(op).await
    }

    /// [`Handle::propose`], but only if this coordinator leads; it is never forwarded. For decisions of the leader
    /// itself: from a former leader they would arrive late, when its successor has newer information.
    ///
    /// # Errors
    /// UNAVAILABLE: it does not lead, or reaches no majority. FAILED_PRECONDITION: a coordinator's version does not know the
    /// command. The catalog's refusal.
    pub async fn propose_if_leader(&self, op: command::Op) -> Result<reply::Reply> {
        self.0.propose_if_leader(op).await
    }

    /// Proposes a forwarded command if this coordinator leads, with the time of this coordinator's clock. The catalog's
    /// refusal is a reply.
    ///
    /// # Errors
    /// UNAVAILABLE: it does not lead.
    pub async fn propose_local(&self, command: Command) -> Result<Reply> {
        self.0.propose_local(command).await
    }

    /// The catalog with everything that any coordinator acknowledged before this call.
    ///
    /// # Errors
    /// UNAVAILABLE: no leader answered within the timeout. Never returns an older catalog.
    pub async fn read(&self) -> Result<CatalogView> {
        self.0.read().await
    }

    /// The result of `work` on the catalog that [`Handle::read`] would return.
    ///
    /// `work` runs on the local catalog while the leader is queried whether that is recent enough, and again if it was
    /// not. Other callers may wait for the same request to the leader, and so for `work`: keep it short.
    ///
    /// # Errors
    /// As [`Handle::read`].
    pub async fn read_with<T>(&self, work: impl Fn(CatalogView) -> T) -> Result<T> {
        self.0.read_with(work).await
    }

    /// The log index that a linearizable read must have applied, if this coordinator leads. `follower` is the follower
    /// that calls, if any, and the leader that it follows; the read began before that statement.
    ///
    /// # Errors
    /// UNAVAILABLE: it does not lead, or reaches no majority.
    pub async fn read_index_local(&self, follower: Option<Follower>) -> Result<u64> {
        self.0.read_index_local(follower).await
    }

    /// Adds a coordinator that was started with `join` at this peer address, and waits until it is a voter. Does nothing if
    /// it is one already.
    ///
    /// # Errors
    /// ALREADY_EXISTS: the id has another address, or the address another id. FAILED_PRECONDITION, PERMISSION_DENIED: the
    /// coordinator that answers there cannot join. UNAVAILABLE: none answers there, or it did not catch up in time.
    pub async fn add_coordinator(&self, id: u64, addr: &str) -> Result<()> {
        self.0.add_coordinator(id, addr).await
    }

    /// Removes a coordinator, and waits until the group is without it. Does nothing if it was removed already.
    ///
    /// # Errors
    /// NOT_FOUND: it never was a member. FAILED_PRECONDITION: it is the last one, or too few of the others are up.
    /// UNAVAILABLE: not done in time.
    pub async fn remove_coordinator(&self, id: u64) -> Result<()> {
        self.0.remove_coordinator(id).await
    }

    /// The catalog as this coordinator has it; it may lag.
    pub fn view(&self) -> CatalogView {
        self.0.view()
    }

    /// The time by which leases and retentions run, milliseconds since 1970: what a command would be stamped with if this
    /// coordinator led. After a leader whose clock was ahead, it is later than the system clock.
    pub fn now_ms(&self) -> u64 {
        self.0.now_ms()
    }

    /// This coordinator's id.
    pub fn id(&self) -> u64 {
        self.0.config.id
    }

    /// The leader's id, if one is known.
    pub fn leader(&self) -> Option<u64> {
        self.0.current_leader()
    }

    /// Whether this coordinator leads, as far as it knows.
    pub fn is_leader(&self) -> bool {
        self.0.is_leader()
    }

    /// Watches the leader's id.
    pub fn watch_leader(&self) -> watch::Receiver<Option<u64>> {
        self.0.leader.subscribe()
    }

    /// Watches the index of the last applied log entry.
    pub fn watch_applied(&self) -> watch::Receiver<u64> {
        self.0.applied.index.subscribe()
    }

    /// Watches whether this coordinator was removed from the cluster, or the cluster was recovered without it; the
    /// value is the reason.
    pub fn watch_decommissioned(&self) -> watch::Receiver<Option<Error>> {
        self.0.decommissioned.subscribe()
    }

    /// All coordinators' peer addresses, as the catalog lists them.
    pub fn peers(&self) -> BTreeMap<u64, String> {
        self.0.peers()
    }

    /// How far each member of the group is.
    pub fn progress(&self) -> BTreeMap<u64, ReplicationProgress> {
        replication_progress(&self.0)
    }

    /// Asks all coordinators for their identities; an error says why one does not answer within `timeout`.
    pub async fn identities(&self, timeout: Duration) -> BTreeMap<u64, Result<Identity>> {
        peer_identity::identities(&self.0, timeout).await
    }

    /// Sets what tells the other coordinators why this one cannot use changed TLS files. Only the first call has an effect.
    pub fn report_tls_failures(&self, failures: TlsFailures) {
        let _ = self.0.tls_failures.set(failures);
    }

    /// Sets what this coordinator reports that its settings leave open. Only the first call has an effect.
    pub fn report_exposures(&self, exposures: Vec<String>) {
        let _ = self.0.exposures.set(exposures);
    }

    /// The members whose logs differ from this leader's: a text for operators for each.
    pub fn diverged(&self) -> BTreeMap<u64, String> {
        self.0.diverged.lock().iter().map(|(id, (_, text))| (*id, text.clone())).collect()
    }

    /// Why there is no cluster yet, or why a change of its members is blocked; none if there is no such problem.
    pub fn fault(&self) -> Option<String> {
        self.0.fault()
    }

    /// openraft's metrics of this coordinator.
    pub fn metrics(&self) -> openraft::RaftMetrics<TypeConfig> {
        self.0.metrics()
    }

    /// Sets the gauges of this coordinator's Raft. Returns the lines of those whose series come and go. Blocks.
    pub fn update_gauges(&self) -> String {
        gauges::update(&self.0)
    }

    /// Log entries on this coordinator's disk.
    pub async fn log_len(&self) -> Result<u64> {
        let log = self.0.log.clone();
        let read = blocking(move || log.len_on_disk()).await;
        read.flatten().map_err(|e| Error::internal(format!("the Raft log: {e}")))
    }
}

/// Ends the process: after a failed write, memory may hold more than what is durable, and without Raft the coordinator can do nothing.
fn exit_process(why: &str) {
    tracing::error!("{why}");
    std::process::exit(74);
}

/// Opens the data folder. Blocks.
fn open(env: RaftEnvironment, id: u64) -> Result<(Arc<RaftStore>, RaftLog, CatalogStateMachine)> {
    let dir = env.data_dir.dir().to_path_buf();
    let damaged = |e: io::Error| Error::data_loss(format!("the data folder {}: {e}", dir.display()));
    decommission::check(&*env.data_dir)?;
    let store = RaftStore::open_in(env.data_dir, id, env.on_fatal_error, &env.writer_driver)?;
    let log = RaftLog::open(store.clone()).map_err(damaged)?;
    let state_machine = CatalogStateMachine::open_observed(store.clone(), env.apply_observer).map_err(damaged)?;
    Ok((store, log, state_machine))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn coordinator_ends_when_raft_panics() {
        let dir = tempfile::tempdir().unwrap();
        let config = RaftConfig::new(1, BTreeMap::from([(1, "127.0.0.1:1".into())]), dir.path().to_path_buf());
        let (sender, mut ended) = tokio::sync::mpsc::channel(1);
        let on_fatal_error = move |why: &str| sender.try_send(why.to_string()).unwrap();
        let raft = Handle::start_with(config, Arc::new(on_fatal_error)).await.unwrap();
        assert!(raft.0.raft.with_raft_state(|_| -> () { panic!("a fault of openraft") }).await.is_err());
        assert!(ended.recv().await.unwrap().contains("must be started again"));
        raft.halt().await;
    }
}
