//! The one way into the replicated catalog.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::{Config, Raft, SnapshotPolicy};
use parking_lot::{ArcRwLockReadGuard, Mutex, RawRwLock};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use volley_common::net::AddressMap;
use volley_common::wire::raft as wire;
use volley_common::wire::raft::raft_server::RaftServer;
use volley_common::wire::{MAX_PEER_MESSAGE, PROTOCOL};
use volley_common::{Error, Result};

use super::log::Log;
use super::machine::{Machine, Shared};
use super::network::{Link, Network};
use super::rounds::Rounds;
use super::runtime::blocking;
use super::server::RaftService;
use super::store::{OnFailure, Store};
use super::surroundings::Surroundings;
use super::types::{Membership, TypeConfig};
use super::{following, formation, retired};
use crate::catalog::Catalog;

/// For so long a coordinator that is about to stop keeps a leadership that came back to it.
const HELD: Duration = Duration::from_secs(5);

/// Ways to other coordinators that are kept.
const LINKS: usize = 64;

/// How a coordinator takes part in the Raft group.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    /// This coordinator's id: one of `peers`.
    pub id: u64,
    /// The coordinators that form the cluster, with their peer addresses, HOST:PORT: the same list everywhere. Once there
    /// is a cluster, its catalog says who they are.
    pub peers: BTreeMap<u64, String>,
    /// It forms no cluster, but waits to be added to one.
    pub join: bool,
    /// Where the catalog is kept.
    pub data_dir: PathBuf,
    /// How long a proposal or a read waits for a leader and its answer.
    pub deadline: Duration,
    /// How often the leader is heard.
    pub heartbeat: Duration,
    /// Silence after which a new leader is elected, at least.
    pub election_min: Duration,
    /// The same, at most.
    pub election_max: Duration,
    /// A leader that no majority has answered for so long counts as none: the others may have another by then.
    pub unanswered: Duration,
    /// Log entries between two snapshots.
    pub snapshot_logs: u64,
}

impl RaftConfig {
    /// The defaults around what has none.
    pub fn new(id: u64, peers: BTreeMap<u64, String>, data_dir: PathBuf) -> Self {
        RaftConfig {
            id,
            peers,
            join: false,
            data_dir,
            deadline: Duration::from_secs(5),
            heartbeat: Duration::from_millis(200),
            election_min: Duration::from_millis(1000),
            election_max: Duration::from_millis(2000),
            unanswered: Duration::from_secs(5),
            snapshot_logs: 10_000,
        }
    }

    /// Sets the timings so that a silent leader is stood against after `longest`, or up to a quarter of it sooner.
    ///
    /// openraft waits for the lease of the leader, which is `election_max`, and then for a random time between
    /// `election_min` and `election_max`.
    pub fn elect_within(&mut self, longest: Duration) {
        (self.heartbeat, self.election_min, self.election_max) = (longest / 10, longest / 4, longest / 2);
    }

    fn openraft(&self) -> Result<Arc<Config>> {
        let millis = |d: Duration| d.as_millis() as u64;
        let config = Config {
            cluster_name: "volley".into(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_logs),
            replication_lag_threshold: self.snapshot_logs.saturating_mul(2),
            max_in_snapshot_log_to_keep: self.snapshot_logs / 10,
            // A large catalog takes its time to travel and to be installed.
            install_snapshot_timeout: 600_000,
            enable_pre_vote: Some(true),
            // Only while it is a member with the folder that it has: see `tending::may_stand`.
            enable_elect: false,
            // A leader that restarts stands for election like everybody else: its rows may lag its log.
            enable_leader_restore: Some(false),
            ..Config::default()
        };
        let config = config.validate().map_err(|e| Error::invalid(format!("bad Raft timings: {e}")))?;
        Ok(Arc::new(config))
    }
}

/// The catalog as this coordinator has it, locked for reading: not to be held over an await.
pub struct CatalogView(ArcRwLockReadGuard<RawRwLock, Catalog>);

impl Deref for CatalogView {
    type Target = Catalog;

    fn deref(&self) -> &Catalog {
        &self.0
    }
}

/// What the handle, the server and the tasks share.
pub(super) struct Inner {
    pub(super) config: RaftConfig,
    pub(super) raft: Raft<TypeConfig, Machine>,
    pub(super) store: Arc<Store>,
    pub(super) shared: Arc<Shared>,
    pub(super) leader: watch::Sender<Option<u64>>,
    links: AddressMap<Link>,
    pub(super) around: Surroundings,
    pub(super) digest: String,
    /// Why there is no cluster yet, or what is wrong with it.
    pub(super) trouble: Mutex<Option<String>>,
    /// Whether this coordinator is none any more.
    pub(super) ending: AtomicBool,
    /// ... and why, once its folder says so.
    pub(super) ended: watch::Sender<Option<Error>>,
    /// Askings of the leader.
    pub(super) rounds: Rounds,
    pub(super) log: Log,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Inner {
    /// Who this coordinator is, for the others.
    pub(super) async fn identity(&self) -> Result<wire::Identity> {
        let peer = |(id, addr): (&u64, &String)| wire::Peer { id: *id, addr: addr.clone(), store: 0 };
        let initialized = self.initialized().await?;
        Ok(wire::Identity {
            id: self.config.id,
            peers: self.digest.clone(),
            cluster: self.view().cluster().map(|c| c.id.clone()).unwrap_or_default(),
            initialized,
            protocol: PROTOCOL,
            store: self.store.id(),
            list: self.config.peers.iter().map(peer).collect(),
            status: wire::MembershipStatus::Unspecified as i32,
        })
    }

    /// Whether this folder holds a vote or an entry of a cluster.
    pub(super) async fn initialized(&self) -> Result<bool> {
        self.raft.is_initialized().await.map_err(|e| Error::unavailable(format!("Raft is not running: {e}")))
    }

    pub(super) fn view(&self) -> CatalogView {
        CatalogView(self.shared.catalog.read_arc_recursive())
    }

    pub(super) fn current_leader(&self) -> Option<u64> {
        *self.leader.borrow()
    }

    /// The coordinators: those that the catalog wants; before that the Raft group; before that those that form it.
    pub(super) fn peers(&self) -> BTreeMap<u64, String> {
        let wanted = self.view().coordinators();
        if !wanted.is_empty() {
            return wanted;
        }
        let members = self.members();
        match members.nodes().next() {
            Some(_) => members.nodes().map(|(id, peer)| (*id, peer.addr.clone())).collect(),
            None => self.config.peers.clone(),
        }
    }

    /// The Raft group as it is here.
    pub(super) fn members(&self) -> Membership {
        self.raft.metrics().borrow_watched().membership_config.membership().clone()
    }

    /// The Raft group as a majority agreed on it, as far as it is known here.
    pub(super) fn committed_members(&self) -> Membership {
        self.raft.metrics().borrow_watched().committed_membership_config.membership().clone()
    }

    /// The way to a coordinator, made when it is first used.
    pub(super) fn link(&self, addr: &str) -> Result<Link> {
        self.links.get_or_insert(addr, || (self.around.dial)(addr))
    }

    /// The way to the coordinator with this id, which may be about to leave; none: nobody knows it.
    pub(super) fn link_to(&self, id: u64) -> Option<Link> {
        let addr = self.peers().remove(&id).or_else(|| self.members().get_node(&id).map(|peer| peer.addr.clone()))?;
        self.link(&addr).ok()
    }

    /// Logs what is wrong, once.
    pub(super) fn report(&self, error: Option<Error>) {
        let text = error.map(|e| e.message);
        let mut trouble = self.trouble.lock();
        if *trouble != text {
            if let Some(text) = &text {
                tracing::warn!("{text}");
            }
            *trouble = text;
        }
    }
}

/// The replicated catalog; cheap to clone.
#[derive(Clone)]
pub struct Handle(pub(super) Arc<Inner>);

/// Digest of a peer list.
fn digest(peers: &BTreeMap<u64, String>) -> String {
    let text: Vec<String> = peers.iter().map(|(id, addr)| format!("{id}={addr}")).collect();
    format!("{:08x}", crc32c::crc32c(text.join(",").as_bytes()))
}

impl Handle {
    /// Opens the data folder and starts Raft; the cluster is formed in the background, once
    /// [`Handle::service`] is served at this coordinator's address in the peer list.
    ///
    /// # Errors
    /// If the configuration makes no sense or the data folder cannot be used.
    pub async fn start(config: RaftConfig) -> Result<Handle> {
        Handle::start_with(config, Arc::new(exit)).await
    }

    /// The same with something else to do than to exit when the catalog cannot be written.
    pub async fn start_with(config: RaftConfig, on_failure: OnFailure) -> Result<Handle> {
        let around = Surroundings::real(&config.data_dir, on_failure);
        Handle::start_in(config, around).await
    }

    /// The same with everything around it given.
    pub async fn start_in(config: RaftConfig, around: Surroundings) -> Result<Handle> {
        if !config.peers.contains_key(&config.id) {
            return Err(Error::invalid(format!("the peer list does not name this coordinator, {}", config.id)));
        }
        let (id, for_opening) = (config.id, around.clone());
        let opening = blocking(move || open(for_opening, id));
        let (store, log, machine) = opening.await.map_err(|e| Error::internal(e.to_string()))??;
        let shared = machine.shared();
        // Members are where the Raft group says, not where this one's list says.
        let network = Network::new(id, Arc::default(), around.dial.clone());
        let raft = Raft::new(id, config.openraft()?, network, log.clone(), machine).await.map_err(|e| {
            Error::internal(format!("Raft cannot start on the data folder {}: {e}", config.data_dir.display()))
        })?;
        let inner = Inner {
            around,
            digest: digest(&config.peers),
            config,
            raft,
            store,
            shared,
            leader: watch::Sender::new(None),
            links: AddressMap::bounded(LINKS),
            trouble: Mutex::default(),
            ending: AtomicBool::new(false),
            ended: watch::Sender::new(None),
            rounds: Rounds::default(),
            log,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let inner = Arc::new(inner);
        inner.spawn(following::run(inner.clone()));
        inner.spawn(formation::run(inner.clone()));
        Ok(Handle(inner))
    }

    /// What to serve on the peer port.
    pub fn service(&self) -> RaftServer<RaftService> {
        RaftServer::new(RaftService(Arc::downgrade(&self.0)))
            .max_decoding_message_size(2 * MAX_PEER_MESSAGE)
            .max_encoding_message_size(MAX_PEER_MESSAGE)
    }

    /// Hands leadership over whenever this coordinator has it, for ever: it is about to stop, and leads badly until then.
    pub async fn hand_on(&self) {
        let mut leader = self.watch_leader();
        loop {
            leader.mark_unchanged();
            self.0.hand_over().await;
            // Where all are about to stop, it would come back at once, and no write would be committed in between.
            tokio::time::sleep(HELD).await;
            if leader.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Hands leadership over, if this coordinator has it, and stops. The data folder is free afterwards.
    pub async fn shutdown(&self) {
        self.0.hand_over().await;
        self.halt().await;
    }

    /// Stops without handing over, as after a crash of the process.
    pub async fn halt(&self) {
        let inner = &self.0;
        inner.stop.cancel();
        inner.tasks.close();
        inner.tasks.wait().await;
        if let Err(error) = inner.raft.shutdown().await {
            tracing::warn!("Raft did not stop as it should: {error}");
        }
        let store = inner.store.clone();
        let _ = blocking(move || store.close()).await;
        inner.leader.send_replace(None);
    }

    /// The catalog as it is here: it may lag.
    pub fn view(&self) -> CatalogView {
        self.0.view()
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
        self.leader() == Some(self.id())
    }

    /// Follows the leader's id.
    pub fn watch_leader(&self) -> watch::Receiver<Option<u64>> {
        self.0.leader.subscribe()
    }

    /// Follows the index of the last applied log entry.
    pub fn watch_applied(&self) -> watch::Receiver<u64> {
        self.0.shared.applied.subscribe()
    }

    /// All coordinators' peer addresses, as the catalog has them.
    pub fn peers(&self) -> BTreeMap<u64, String> {
        self.0.peers()
    }

    /// Follows whether this coordinator was removed from the cluster, or left behind by a recovery of it: why it ends.
    pub fn watch_ended(&self) -> watch::Receiver<Option<Error>> {
        self.0.ended.subscribe()
    }

    /// Why there is no cluster yet, or what is wrong with it; none: all is well.
    pub fn trouble(&self) -> Option<String> {
        self.0.trouble.lock().clone()
    }

    /// openraft's metrics of this coordinator.
    pub fn metrics(&self) -> openraft::RaftMetrics<TypeConfig> {
        self.0.raft.metrics().borrow_watched().clone()
    }

    /// Log entries that stand on this coordinator's disk.
    pub async fn log_len(&self) -> Result<u64> {
        let log = self.0.log.clone();
        let read = blocking(move || log.len_on_disk()).await;
        read.flatten().map_err(|e| Error::internal(format!("the Raft log: {e}")))
    }
}

impl Inner {
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move { stop.run_until_cancelled(task).await });
    }

    /// Gives leadership to the member that is furthest, and waits until it took it.
    pub(super) async fn hand_over(&self) {
        let target = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
            let others = metrics.replication.iter().flatten().filter(|(id, _)| voters.contains(id));
            others.max_by_key(|(_, matched)| matched.as_ref().map(|m| m.index)).map(|(id, _)| *id)
        };
        let Some(target) = target.filter(|_| self.current_leader() == Some(self.config.id)) else { return };
        if self.raft.trigger().transfer_leader(target).await.is_ok() {
            let mut leader = self.leader.subscribe();
            let taken = leader.wait_for(|leader| *leader != Some(self.config.id));
            let _ = tokio::time::timeout(self.config.election_max, taken).await;
        }
    }
}

/// The default when the catalog cannot be written: what is in memory may be more than what is durable.
fn exit(why: &str) {
    tracing::error!("{why}");
    std::process::exit(74);
}

fn open(around: Surroundings, id: u64) -> Result<(Arc<Store>, Log, Machine)> {
    let dir = around.disk.dir().to_path_buf();
    let at = |e: std::io::Error| Error::data_loss(format!("the data folder {}: {e}", dir.display()));
    retired::check(&*around.disk)?;
    let store = Store::open_on(around.disk, id, around.on_failure, &around.drive)?;
    let log = Log::open(store.clone()).map_err(at)?;
    let machine = Machine::open_before(store.clone(), around.witness).map_err(at)?;
    Ok((store, log, machine))
}
