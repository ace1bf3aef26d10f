//! Coordinators, each with a disk and lives, on one network and one clock.

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
use volley_coordinator::raft::store::{Drive, Writer};
use volley_coordinator::raft::surroundings::Surroundings;
use volley_coordinator::raft::{Handle, RaftConfig};

use crate::checks::Checks;
use crate::dice::Dice;
use crate::disk::{Honesty, Platter};
use crate::network::{Life, Network, Server, address};
use crate::raft_support::Forward;

/// The wall clock at the beginning.
const EPOCH_MS: u64 = 1_700_000_000_000;
/// A coordinator that started tells its vote after this.
const SETTLED: Duration = Duration::from_millis(100);
/// What is stopped has so long.
const STOPPING: Duration = Duration::from_secs(30);

/// What a seed decides before anything happens.
#[derive(Clone, Debug)]
pub struct Shape {
    pub coordinators: u64,
    pub clients: u64,
    pub tables: u64,
    pub snapshot_logs: u64,
    /// How long there are faults.
    pub degraded_reason: Duration,
    pub disks: Honesty,
}

/// Everything there is.
pub struct World {
    pub seed: u64,
    pub shape: Shape,
    pub checks: Arc<Checks>,
    pub network: Arc<Network>,
    slots: BTreeMap<u64, Slot>,
    peers: BTreeMap<u64, String>,
    /// After how many entries a coordinator's catalog was last looked at.
    compared: Mutex<BTreeMap<Life, usize>>,
}

/// One coordinator, up or down.
struct Slot {
    platter: Mutex<Arc<Platter>>,
    lives: AtomicU64,
    up: Mutex<Option<Up>>,
    /// How far its clock is off.
    skew_ms: Arc<AtomicI64>,
    /// How long its disk takes at most.
    slow_us: Arc<AtomicU64>,
    dice: Arc<Mutex<Dice>>,
}

/// A coordinator that is up.
#[derive(Clone)]
pub struct Up {
    pub life: Life,
    pub handle: Handle,
    pub over: CancellationToken,
    since: Instant,
    /// The highest vote that it granted in earlier lives.
    granted: (u64, u64),
}

fn platter(seed: u64, id: u64, folder: u64, honesty: Honesty) -> Arc<Platter> {
    Platter::new(PathBuf::from(format!("/c{id}")), Dice::new(seed, 10_000 + id + 100 * folder), honesty)
}

impl World {
    pub fn new(seed: u64, shape: Shape, aloud: bool) -> Arc<World> {
        let checks = Checks::new(aloud);
        let slot = |id| Slot {
            platter: Mutex::new(platter(seed, id, 0, shape.disks)),
            lives: AtomicU64::new(0),
            up: Mutex::new(None),
            skew_ms: Arc::default(),
            slow_us: Arc::new(AtomicU64::new(1000)),
            dice: Arc::new(Mutex::new(Dice::new(seed, 100 + id))),
        };
        let ids = 1..=shape.coordinators;
        Arc::new(World {
            seed,
            network: Network::new(Dice::new(seed, 2), checks.clone()),
            slots: ids.clone().map(|id| (id, slot(id))).collect(),
            peers: ids.map(|id| (id, address(id))).collect(),
            compared: Mutex::default(),
            checks,
            shape,
        })
    }

    /// All coordinators' ids.
    pub fn ids(&self) -> Vec<u64> {
        self.slots.keys().copied().collect()
    }

    /// The true time.
    pub fn now_ms(&self) -> u64 {
        EPOCH_MS + self.checks.now_us() / 1000
    }

    /// A coordinator that is up.
    pub fn up(&self, id: u64) -> Option<Up> {
        self.slots[&id].up.lock().clone()
    }

    /// All that are up.
    pub fn all_up(&self) -> Vec<Up> {
        self.slots.values().filter_map(|slot| slot.up.lock().clone()).collect()
    }

    /// Any that is up.
    pub fn any(&self, dice: &mut Dice) -> Option<Up> {
        let up = self.all_up();
        let at = dice.random_range(0..up.len().max(1));
        up.into_iter().nth(at)
    }

    fn config(&self, id: u64) -> RaftConfig {
        let mut config = RaftConfig::new(id, self.peers.clone(), PathBuf::from(format!("/c{id}")));
        config.heartbeat = Duration::from_millis(100);
        config.election_min = Duration::from_millis(500);
        config.election_max = Duration::from_millis(1000);
        config.deadline = Duration::from_secs(3);
        config.snapshot_logs = self.shape.snapshot_logs;
        config
    }

    fn surroundings(self: &Arc<Self>, life: Life, power_lost: bool) -> Surroundings {
        let slot = &self.slots[&life.id];
        let (world, clock, skew) = (self.clone(), self.clone(), slot.skew_ms.clone());
        Surroundings {
            disk: slot.platter.lock().recover(life.life, power_lost),
            dial: self.network.dial(life),
            clock: Arc::new(move || clock.now_ms().saturating_add_signed(skew.load(Ordering::Relaxed))),
            on_failure: Arc::new(move |why: &str| world.failed(life, why)),
            drive: drive(slot.slow_us.clone(), slot.dice.clone()),
            witness: Some(self.checks.witness(life)),
        }
    }

    /// Starts a coordinator that is down, as it finds its disk.
    pub async fn start(self: &Arc<Self>, id: u64, power_lost: bool) {
        let slot = &self.slots[&id];
        if slot.up.lock().is_some() {
            return;
        }
        let life = Life { id, life: slot.lives.fetch_add(1, Ordering::Relaxed) + 1 };
        self.checks.event(format!("coordinator {id} starts{}", if power_lost { ": power was lost" } else { "" }));
        let granted = self.checks.granted(id);
        let started = Handle::start_in(self.config(id), self.surroundings(life, power_lost)).await;
        let broke = slot.platter.lock().failed();
        match started {
            Err(error) if broke => self.checks.event(format!("coordinator {id} did not start: {error}")),
            Err(error) => self.checks.judge(Err(format!("coordinator {id} does not come back: {error}"))),
            Ok(handle) => {
                let forward = CoordinatorServer::new(Forward(handle.clone()));
                let routes = Routes::new(handle.service()).add_service(forward).prepare();
                self.network.serve(life, Server::new(routes));
                let (over, since) = (CancellationToken::new(), Instant::now());
                *slot.up.lock() = Some(Up { life, handle, over, since, granted });
                if broke {
                    self.crash(id);
                }
            }
        }
    }

    /// The end of a process whose disk failed.
    fn failed(&self, life: Life, why: &str) {
        if self.up(life.id).is_some_and(|up| up.life == life) {
            self.checks.event(format!("coordinator {}: {why}", life.id));
            self.crash(life.id);
        }
    }

    /// The process of a coordinator is no more, from one moment to the next.
    pub fn crash(&self, id: u64) {
        let slot = &self.slots[&id];
        let Some(up) = slot.up.lock().take() else { return };
        self.checks.event(format!("coordinator {id} crashes"));
        self.network.vanish(id);
        slot.platter.lock().cut();
        up.over.cancel();
        // What is left of its tasks reaches neither disk nor network.
        tokio::spawn(async move { timeout(STOPPING, up.handle.halt()).await });
    }

    /// A coordinator hands over and stops.
    pub async fn stop(&self, id: u64) {
        let Some(up) = self.up(id) else { return };
        self.checks.event(format!("coordinator {id} stops"));
        if timeout(STOPPING, up.handle.shutdown()).await.is_err() && self.up(id).is_some_and(|now| now.life == up.life)
        {
            self.checks.judge(Err(format!("coordinator {id} does not stop")));
        }
        self.crash(id);
    }

    /// A coordinator that is down loses its folder.
    pub fn lose_folder(&self, id: u64) {
        self.checks.event(format!("coordinator {id} loses its folder"));
        let slot = &self.slots[&id];
        *slot.platter.lock() = platter(self.seed, id, 1 + slot.lives.load(Ordering::Relaxed), self.shape.disks);
        self.checks.forget(id);
    }

    /// A coordinator's disk fails after so many operations.
    pub fn burn(&self, id: u64, operations: u32) {
        self.checks.event(format!("coordinator {id}: its disk fails in {operations} operations"));
        self.slots[&id].platter.lock().burn(operations);
    }

    /// A coordinator's disk takes so long at most.
    pub fn slow(&self, id: u64, us: u64) {
        self.checks.event(format!("coordinator {id}: its disk takes up to {us} us"));
        self.slots[&id].slow_us.store(us, Ordering::Relaxed);
    }

    /// A coordinator's clock is off.
    pub fn skew(&self, id: u64, ms: i64) {
        self.checks.event(format!("coordinator {id}: its clock is off by {ms} ms"));
        self.slots[&id].skew_ms.store(ms, Ordering::Relaxed);
    }

    /// What must hold at every moment.
    pub fn check(&self) {
        self.checks.check_rules();
        for up in self.all_up() {
            let metrics = up.handle.metrics();
            if up.since.elapsed() > SETTLED {
                let vote = metrics.vote.leader_id;
                self.checks.remembers(up.life.id, up.granted, (vote.term, vote.node_id));
            }
            let broke = self.slots[&up.life.id].platter.lock().failed();
            if let Err(error) = &metrics.running_state
                && !broke
            {
                self.checks.judge(Err(format!("coordinator {}: Raft ended: {error}", up.life.id)));
            }
            if let Some(at) = self.checks.at(up.life)
                && self.compared.lock().insert(up.life, at) != Some(at)
            {
                let compared = self.checks.oracle.lock().compare(up.life.id, at, &up.handle.view());
                self.checks.judge(compared);
            }
        }
    }

    /// Whether all coordinators are up, vote, and have the same.
    pub fn together(&self) -> bool {
        let up = self.all_up();
        let length = self.checks.oracle.lock().len();
        up.len() == self.slots.len()
            && up.iter().all(|up| {
                let metrics = up.handle.metrics();
                let mut voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
                voters.sort_unstable();
                metrics.current_leader.is_some()
                    && voters == self.ids()
                    && up.handle.view().cluster().is_some()
                    && self.checks.at(up.life) == Some(length)
            })
    }

    /// How each coordinator stands, in words.
    pub fn standing(&self) -> String {
        let lines = self.all_up().into_iter().map(|up| {
            let (id, at) = (up.life.id, self.checks.at(up.life));
            format!("\n  coordinator {id} at {at:?}: {:?} {}", up.handle.trouble(), up.handle.metrics())
        });
        lines.collect()
    }
}

/// Drives a writer on this thread: the disk takes its time before and after what was written is durable.
fn drive(slow_us: Arc<AtomicU64>, dice: Arc<Mutex<Dice>>) -> Drive {
    Arc::new(move |mut writer: Writer| {
        let (slow_us, dice) = (slow_us.clone(), dice.clone());
        let pause = move || {
            let us = dice.lock().random_range(0..=slow_us.load(Ordering::Relaxed));
            sleep(Duration::from_micros(us))
        };
        tokio::spawn(async move {
            while let Some(batch) = writer.next().await {
                pause().await;
                let committed = writer.commit(batch);
                pause().await;
                committed.tell();
            }
        });
        Ok(None)
    })
}
