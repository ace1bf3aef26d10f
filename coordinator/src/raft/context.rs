//! The state that the handle, the RPC server and the background tasks share.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use openraft::async_runtime::WatchReceiver;
use openraft::{Raft, RaftMetrics};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use volley_common::net::AddressMap;
use volley_common::wire::raft as wire;
use volley_common::wire::{FEATURES, PROTOCOL};
use volley_common::{Error, Result};

use super::config::RaftConfig;
use super::environment::RaftEnvironment;
use super::leader_clock::LeaderClock;
use super::read_index::ReadIndexBatcher;
use super::rpc::network::{PeerChannel, PeerNetwork};
use super::runtime::blocking;
use super::storage::log::RaftLog;
use super::storage::state_machine::{AppliedState, CatalogStateMachine, CatalogView};
use super::storage::store::RaftStore;
use super::types::{RaftMembership, TypeConfig};

/// Maximum number of channels to other coordinators that are kept.
const MAX_CHANNELS: usize = 64;

/// Why this process cannot use changed TLS files, one line for each.
pub type TlsFailures = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// What every part of a running coordinator's Raft needs.
pub struct RaftContext {
    pub config: RaftConfig,
    pub raft: Raft<TypeConfig, CatalogStateMachine>,
    pub store: Arc<RaftStore>,
    pub log: RaftLog,
    pub applied: Arc<AppliedState>,
    pub env: RaftEnvironment,
    pub read_index_batcher: ReadIndexBatcher,
    /// Stamps the commands that this coordinator proposes as the leader.
    pub leader_clock: Mutex<LeaderClock>,
    /// Who leads, as `leader_watch` sees it.
    pub leader: watch::Sender<Option<u64>>,
    /// Digest of the peer list that this coordinator was started with.
    pub peers_digest: String,
    /// Why this coordinator ended, once its data folder is marked: it was removed, or its cluster was recovered without it.
    pub decommissioned: watch::Sender<Option<Error>>,
    decommissioning: AtomicBool,
    /// The members whose logs differ from that of this leader: the id of the data folder, and a text for operators.
    pub diverged: Mutex<BTreeMap<u64, (u64, String)>>,
    /// Why there is no cluster yet, or why a change of its members is blocked.
    fault: Mutex<Option<String>>,
    /// Set once the process knows its TLS files.
    pub tls_failures: OnceLock<TlsFailures>,
    /// What the settings of this process leave open, once it is known.
    pub exposures: OnceLock<Vec<String>>,
    /// The `features` of the other coordinators that have answered, by id.
    pub features: Mutex<BTreeMap<u64, u32>>,
    channels: AddressMap<PeerChannel>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// A digest of a peer list.
fn digest_of(peers: &BTreeMap<u64, String>) -> String {
    let text: Vec<String> = peers.iter().map(|(id, addr)| format!("{id}={addr}")).collect();
    format!("{:08x}", crc32c::crc32c(text.join(",").as_bytes()))
}

impl RaftContext {
    /// Starts openraft on an open log and state machine.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the timings contradict each other. INTERNAL: openraft does not start.
    pub async fn start(
        config: RaftConfig,
        env: RaftEnvironment,
        store: Arc<RaftStore>,
        log: RaftLog,
        state_machine: CatalogStateMachine,
    ) -> Result<Arc<RaftContext>> {
        let applied = state_machine.applied();
        let network = PeerNetwork::new(config.id, env.dial.clone());
        let raft =
            Raft::new(config.id, config.openraft()?, network, log.clone(), state_machine).await.map_err(|e| {
                Error::internal(format!("Raft cannot start on the data folder {}: {e}", config.data_dir.display()))
            })?;
        Ok(Arc::new(RaftContext {
            peers_digest: digest_of(&config.peers),
            config,
            raft,
            store,
            log,
            applied,
            env,
            read_index_batcher: ReadIndexBatcher::default(),
            leader_clock: Mutex::default(),
            leader: watch::Sender::new(None),
            decommissioned: watch::Sender::new(None),
            decommissioning: AtomicBool::new(false),
            diverged: Mutex::default(),
            fault: Mutex::default(),
            tls_failures: OnceLock::new(),
            exposures: OnceLock::new(),
            features: Mutex::default(),
            channels: AddressMap::bounded(MAX_CHANNELS),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }))
    }

    /// Stops the background tasks and Raft, and closes the store.
    pub async fn halt(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!("Raft did not stop cleanly: {error}");
        }
        let store = self.store.clone();
        let _ = blocking(move || store.close()).await;
        self.leader.send_replace(None);
    }

    /// Whether [`RaftContext::halt`] was called.
    pub fn is_halting(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// What a call of openraft returns; `None` once [`RaftContext::halt`] is called: openraft logs an error for each call that its
    /// end leaves without an answer.
    pub async fn until_halt<T>(&self, call: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            result = call => Some(result),
        }
    }

    /// Runs a task until it ends or [`RaftContext::halt`] is called.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move { stop.run_until_cancelled(task).await });
    }

    /// This coordinator's identity, as it is sent to others.
    pub async fn identity(&self) -> Result<wire::Identity> {
        let peer = |(id, addr): (&u64, &String)| wire::Peer { id: *id, addr: addr.clone(), store: 0 };
        let initialized = self.is_initialized().await?;
        Ok(wire::Identity {
            id: self.config.id,
            peers: self.peers_digest.clone(),
            cluster: self.view().cluster().map(|c| c.id.clone()).unwrap_or_default(),
            initialized,
            protocol: PROTOCOL,
            store: self.store.id(),
            list: self.config.peers.iter().map(peer).collect(),
            status: wire::MembershipStatus::Unspecified as i32,
            features: FEATURES,
            tls_failures: self.tls_failures.get().map(|failures| failures()).unwrap_or_default(),
            exposures: self.exposures.get().cloned().unwrap_or_default(),
        })
    }

    /// Whether the data folder holds a vote or an entry of a cluster.
    pub async fn is_initialized(&self) -> Result<bool> {
        let failed = |why: String| Error::unavailable(format!("Raft is not running: {why}"));
        let initialized = self.until_halt(self.raft.is_initialized()).await;
        initialized.ok_or_else(|| failed("it stops".into()))?.map_err(|e| failed(e.to_string()))
    }

    /// The catalog as this coordinator has it; it may lag.
    pub fn view(&self) -> CatalogView {
        self.applied.view()
    }

    /// The time that a command would have if this coordinator led and proposed it now.
    pub fn now_ms(&self) -> u64 {
        let applied = self.view().clock_ms();
        self.leader_clock.lock().stamp((self.env.clock)(), applied)
    }

    /// The index of the last applied log entry.
    pub fn applied_index(&self) -> u64 {
        *self.applied.index.borrow()
    }

    /// The leader's id, if one is known.
    pub fn current_leader(&self) -> Option<u64> {
        *self.leader.borrow()
    }

    /// Whether this coordinator leads, as far as it knows.
    pub fn is_leader(&self) -> bool {
        self.current_leader() == Some(self.config.id)
    }

    /// openraft's metrics.
    pub fn metrics(&self) -> RaftMetrics<TypeConfig> {
        self.raft.metrics().borrow_watched().clone()
    }

    /// The coordinators' peer addresses: from the catalog; before it lists any, from the Raft group; before there is one, from
    /// the configuration.
    pub fn peers(&self) -> BTreeMap<u64, String> {
        let in_catalog = self.view().coordinators();
        if !in_catalog.is_empty() {
            return in_catalog;
        }
        let members = self.members();
        match members.nodes().next() {
            Some(_) => members.nodes().map(|(id, peer)| (*id, peer.addr.clone())).collect(),
            None => self.config.peers.clone(),
        }
    }

    /// The latest membership in this coordinator's log.
    pub fn members(&self) -> RaftMembership {
        self.raft.metrics().borrow_watched().membership_config.membership().clone()
    }

    /// The latest membership that is committed, as far as this coordinator knows.
    pub fn committed_members(&self) -> RaftMembership {
        self.raft.metrics().borrow_watched().committed_membership_config.membership().clone()
    }

    /// The channel to the coordinator with this id at an address, created at its first use.
    pub fn channel(&self, id: u64, addr: &str) -> Result<PeerChannel> {
        // Two ids may have one address: one that replaces another, or by mistake.
        self.channels.get_or_insert(&format!("{id}={addr}"), || (self.env.dial)(id, addr))
    }

    /// The channel to a coordinator, also to one that is being removed; none if its address is unknown.
    pub fn channel_to(&self, id: u64) -> Option<PeerChannel> {
        let addr = self.peers().remove(&id).or_else(|| self.members().get_node(&id).map(|peer| peer.addr.clone()))?;
        self.channel(id, &addr).ok()
    }

    /// Why there is no cluster yet, or why a change of its members is blocked; none if there is no such problem.
    pub fn fault(&self) -> Option<String> {
        self.fault.lock().clone()
    }

    /// Sets the fault, and logs it if it is new.
    pub fn set_fault(&self, error: Option<Error>) {
        let text = error.map(|e| e.message);
        let mut fault = self.fault.lock();
        if *fault != text {
            if let Some(text) = &text {
                tracing::warn!("{text}");
            }
            *fault = text;
        }
    }

    /// Whether this coordinator has been removed or superseded, and is ending.
    pub fn is_decommissioning(&self) -> bool {
        self.decommissioning.load(Ordering::Relaxed)
    }

    /// Notes that this coordinator is ending; returns whether that was known before.
    pub fn start_decommissioning(&self) -> bool {
        self.decommissioning.swap(true, Ordering::Relaxed)
    }

    /// Transfers leadership, if this coordinator has it, to the voter with the longest log, and waits until that one leads.
    pub async fn transfer_leadership(&self) {
        let target = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
            let others = metrics.replication.iter().flatten().filter(|(id, _)| voters.contains(id));
            others.max_by_key(|(_, matched)| matched.as_ref().map(|m| m.index)).map(|(id, _)| *id)
        };
        let Some(target) = target.filter(|_| self.is_leader()) else { return };
        if self.raft.trigger().transfer_leader(target).await.is_ok() {
            let mut leader = self.leader.subscribe();
            let transferred = leader.wait_for(|leader| *leader != Some(self.config.id));
            let _ = tokio::time::timeout(self.config.election_timeout_max, transferred).await;
        }
    }
}
