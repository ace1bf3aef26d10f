//! Coordinators, each with a disk and successive processes, on one network and one clock.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use volley_common::wire::cluster::coordinator_server::CoordinatorServer;
use volley_coordinator::raft::environment::RaftEnvironment;
use volley_coordinator::raft::storage::store::{StoreWriter, WriterDriver};
use volley_coordinator::raft::{Handle, RaftConfig};

use crate::checks::SimChecks;
use crate::disk::{SimDisk, SyncBehavior};
use crate::network::{Incarnation, SimNetwork, SimPeerService, address};
use crate::raft_support::LeaderService;
use crate::rng::SimRng;

/// The wall clock at the start.
const EPOCH_MS: u64 = 1_700_000_000_000;
/// After this time a started coordinator shows its vote in its metrics.
const STARTUP: Duration = Duration::from_millis(100);
/// The timeout of a shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);

/// The parameters of a run, chosen by its seed.
#[derive(Clone, Debug)]
pub struct SimConfig {
    pub coordinators: u64,
    pub clients: u64,
    pub tables: u64,
    pub snapshot_interval_entries: u64,
    /// How long faults are injected.
    pub fault_duration: Duration,
    pub disks: SyncBehavior,
}

/// The simulated cluster.
pub struct SimCluster {
    pub seed: u64,
    pub config: SimConfig,
    pub checks: Arc<SimChecks>,
    pub network: Arc<SimNetwork>,
    coordinators: BTreeMap<u64, SimCoordinator>,
    peers: BTreeMap<u64, String>,
    /// After how many entries a coordinator's catalog was last compared.
    compared: Mutex<BTreeMap<Incarnation, usize>>,
}

/// One coordinator, up or down.
struct SimCoordinator {
    disk: Mutex<Arc<SimDisk>>,
    incarnations: AtomicU64,
    process: Mutex<Option<SimProcess>>,
    clock_skew_ms: Arc<AtomicI64>,
    /// The longest delay of a disk operation.
    disk_delay_us: Arc<AtomicU64>,
    rng: Arc<Mutex<SimRng>>,
}

/// A coordinator's running process.
#[derive(Clone)]
pub struct SimProcess {
    pub incarnation: Incarnation,
    pub handle: Handle,
    /// Cancelled when the process ends.
    pub ended: CancellationToken,
    started_at: Instant,
    /// The highest vote that earlier processes granted.
    granted_vote: (u64, u64),
}

fn new_disk(seed: u64, id: u64, folder: u64, behavior: SyncBehavior) -> Arc<SimDisk> {
    SimDisk::new(PathBuf::from(format!("/c{id}")), SimRng::new(seed, 10_000 + id + 100 * folder), behavior)
}

impl SimCluster {
    pub fn new(seed: u64, config: SimConfig, verbose: bool) -> Arc<SimCluster> {
        let checks = SimChecks::new(verbose);
        let coordinator = |id| SimCoordinator {
            disk: Mutex::new(new_disk(seed, id, 0, config.disks)),
            incarnations: AtomicU64::new(0),
            process: Mutex::new(None),
            clock_skew_ms: Arc::default(),
            disk_delay_us: Arc::new(AtomicU64::new(1000)),
            rng: Arc::new(Mutex::new(SimRng::new(seed, 100 + id))),
        };
        let ids = 1..=config.coordinators;
        Arc::new(SimCluster {
            seed,
            network: SimNetwork::new(SimRng::new(seed, 2), checks.clone()),
            coordinators: ids.clone().map(|id| (id, coordinator(id))).collect(),
            peers: ids.map(|id| (id, address(id))).collect(),
            compared: Mutex::default(),
            checks,
            config,
        })
    }

    /// All coordinators' ids.
    pub fn ids(&self) -> Vec<u64> {
        self.coordinators.keys().copied().collect()
    }

    /// The wall clock without skew.
    pub fn now_ms(&self) -> u64 {
        EPOCH_MS + self.checks.now_us() / 1000
    }

    /// A coordinator's process, if it is up.
    fn process(&self, id: u64) -> Option<SimProcess> {
        self.coordinators[&id].process.lock().clone()
    }

    /// All running processes.
    pub fn all_running(&self) -> Vec<SimProcess> {
        self.coordinators.values().filter_map(|coordinator| coordinator.process.lock().clone()).collect()
    }

    /// Any running process.
    pub fn any_running(&self, rng: &mut SimRng) -> Option<SimProcess> {
        let running = self.all_running();
        let at = rng.random_range(0..running.len().max(1));
        running.into_iter().nth(at)
    }

    fn raft_config(&self, id: u64) -> RaftConfig {
        let mut config = RaftConfig::new(id, self.peers.clone(), PathBuf::from(format!("/c{id}")));
        config.heartbeat_interval = Duration::from_millis(100);
        config.election_timeout_min = Duration::from_millis(500);
        config.election_timeout_max = Duration::from_millis(1000);
        config.request_timeout = Duration::from_secs(3);
        config.snapshot_interval_entries = self.config.snapshot_interval_entries;
        config
    }

    fn environment(self: &Arc<Self>, incarnation: Incarnation, power_lost: bool) -> RaftEnvironment {
        let coordinator = &self.coordinators[&incarnation.id];
        let (cluster, clock, skew) = (self.clone(), self.clone(), coordinator.clock_skew_ms.clone());
        RaftEnvironment {
            data_dir: coordinator.disk.lock().recover(incarnation.number, power_lost),
            dial: self.network.dialer(incarnation),
            clock: Arc::new(move || clock.now_ms().saturating_add_signed(skew.load(Ordering::Relaxed))),
            on_fatal_error: Arc::new(move |why: &str| cluster.on_fatal_error(incarnation, why)),
            writer_driver: writer_task(coordinator.disk_delay_us.clone(), coordinator.rng.clone()),
            apply_observer: Some(self.checks.observer(incarnation)),
        }
    }

    /// Starts a coordinator that is down. After a power loss its disk has lost what was not synced.
    pub async fn start(self: &Arc<Self>, id: u64, power_lost: bool) {
        let coordinator = &self.coordinators[&id];
        if coordinator.process.lock().is_some() {
            return;
        }
        let number = coordinator.incarnations.fetch_add(1, Ordering::Relaxed) + 1;
        let incarnation = Incarnation { id, number };
        let after = if power_lost { " after a power loss" } else { "" };
        self.checks.event(format!("coordinator {id} starts{after}"));
        let granted_vote = self.checks.granted_vote(id);
        let result = Handle::start_in(self.raft_config(id), self.environment(incarnation, power_lost)).await;
        let disk_failed = coordinator.disk.lock().has_failed();
        match result {
            Err(error) if disk_failed => self.checks.event(format!("coordinator {id} did not start: {error}")),
            Err(error) => self.checks.record(Err(format!("coordinator {id} does not start again: {error}"))),
            Ok(handle) => {
                let leader_service = CoordinatorServer::new(LeaderService(handle.clone()));
                let routes = Routes::new(handle.service()).add_service(leader_service).prepare();
                self.network.serve(incarnation, SimPeerService::new(routes));
                let (ended, started_at) = (CancellationToken::new(), Instant::now());
                let process = SimProcess { incarnation, handle, ended, started_at, granted_vote };
                *coordinator.process.lock() = Some(process);
                if disk_failed {
                    self.crash(id);
                }
            }
        }
    }

    /// Ends the process whose disk failed.
    fn on_fatal_error(&self, incarnation: Incarnation, why: &str) {
        if self.process(incarnation.id).is_some_and(|process| process.incarnation == incarnation) {
            self.checks.event(format!("coordinator {}: {why}", incarnation.id));
            self.crash(incarnation.id);
        }
    }

    /// Ends a coordinator's process immediately.
    pub fn crash(&self, id: u64) {
        let coordinator = &self.coordinators[&id];
        let Some(process) = coordinator.process.lock().take() else { return };
        self.checks.event(format!("coordinator {id} crashes"));
        self.network.stop_serving(id);
        coordinator.disk.lock().disconnect();
        process.ended.cancel();
        // Its remaining tasks can use neither disk nor network.
        tokio::spawn(async move { timeout(SHUTDOWN_TIMEOUT, process.handle.halt()).await });
    }

    /// Shuts a coordinator down cleanly: it transfers leadership and stops.
    pub async fn shut_down(&self, id: u64) {
        let Some(process) = self.process(id) else { return };
        self.checks.event(format!("coordinator {id} shuts down"));
        let stopped = timeout(SHUTDOWN_TIMEOUT, process.handle.shutdown()).await.is_ok();
        if !stopped && self.process(id).is_some_and(|now| now.incarnation == process.incarnation) {
            self.checks.record(Err(format!("coordinator {id} does not stop")));
        }
        self.crash(id);
    }

    /// Gives a coordinator that is down an empty data folder.
    pub fn lose_folder(&self, id: u64) {
        self.checks.event(format!("coordinator {id} loses its data folder"));
        let coordinator = &self.coordinators[&id];
        let folder = 1 + coordinator.incarnations.load(Ordering::Relaxed);
        *coordinator.disk.lock() = new_disk(self.seed, id, folder, self.config.disks);
        self.checks.forget_votes(id);
    }

    /// Lets a coordinator's disk fail after this many operations.
    pub fn fail_disk_after(&self, id: u64, operations: u32) {
        self.checks.event(format!("coordinator {id}: its disk fails in {operations} operations"));
        self.coordinators[&id].disk.lock().fail_after(operations);
    }

    /// Sets the longest delay of a coordinator's disk.
    pub fn set_disk_delay(&self, id: u64, us: u64) {
        self.checks.event(format!("coordinator {id}: its disk takes up to {us} us"));
        self.coordinators[&id].disk_delay_us.store(us, Ordering::Relaxed);
    }

    /// Skews a coordinator's clock.
    pub fn skew_clock(&self, id: u64, ms: i64) {
        self.checks.event(format!("coordinator {id}: its clock is skewed by {ms} ms"));
        self.coordinators[&id].clock_skew_ms.store(ms, Ordering::Relaxed);
    }

    /// Checks the invariants that hold at every moment.
    pub fn check(&self) {
        self.checks.check_invariants();
        for process in self.all_running() {
            let (id, metrics) = (process.incarnation.id, process.handle.metrics());
            if process.started_at.elapsed() > STARTUP {
                let vote = metrics.vote.leader_id;
                self.checks.check_vote_remembered(id, process.granted_vote, (vote.term, vote.node_id));
            }
            let disk_failed = self.coordinators[&id].disk.lock().has_failed();
            if let Err(error) = &metrics.running_state
                && !disk_failed
            {
                self.checks.record(Err(format!("coordinator {id}: Raft stopped: {error}")));
            }
            if let Some(applied) = self.checks.applied(process.incarnation)
                && self.compared.lock().insert(process.incarnation, applied) != Some(applied)
            {
                let compared = self.checks.oracle.lock().compare(id, applied, &process.handle.view());
                self.checks.record(compared);
            }
        }
    }

    /// Whether all coordinators are up, are voters, and have applied every committed entry.
    pub fn has_converged(&self) -> bool {
        let running = self.all_running();
        let length = self.checks.oracle.lock().len();
        running.len() == self.coordinators.len()
            && running.iter().all(|process| {
                let metrics = process.handle.metrics();
                let mut voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
                voters.sort_unstable();
                metrics.current_leader.is_some()
                    && voters == self.ids()
                    && process.handle.view().cluster().is_some()
                    && self.checks.applied(process.incarnation) == Some(length)
            })
    }

    /// Describes the state of each running coordinator, for a failed run.
    pub fn describe(&self) -> String {
        let lines = self.all_running().into_iter().map(|process| {
            let (id, applied) = (process.incarnation.id, self.checks.applied(process.incarnation));
            let (fault, metrics) = (process.handle.fault(), process.handle.metrics());
            format!("\n  coordinator {id}, {applied:?} entries applied: {fault:?} {metrics}")
        });
        lines.collect()
    }
}

/// Runs a store's writer as a task, with a delay of the disk before and after a write becomes durable.
fn writer_task(disk_delay_us: Arc<AtomicU64>, rng: Arc<Mutex<SimRng>>) -> WriterDriver {
    Arc::new(move |mut writer: StoreWriter| {
        let (disk_delay_us, rng) = (disk_delay_us.clone(), rng.clone());
        let pause = move || {
            let us = rng.lock().random_range(0..=disk_delay_us.load(Ordering::Relaxed));
            sleep(Duration::from_micros(us))
        };
        tokio::spawn(async move {
            while let Some(batch) = writer.next_batch().await {
                pause().await;
                let outcome = writer.commit(batch);
                pause().await;
                outcome.complete();
            }
        });
        Ok(None)
    })
}
