//! The faults. Each seed has its own mixture of kinds.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use tokio::time::{Instant, sleep};

use crate::cluster::SimCluster;
use crate::network::NetworkConditions;
use crate::rng::SimRng;

/// Kinds of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SimFault {
    /// A process crashes; its machine keeps running.
    Crash,
    /// A machine loses power.
    PowerLoss,
    /// All machines lose power.
    ClusterPowerLoss,
    /// A disk fails during its operations.
    DiskFault,
    /// A disk is slow.
    SlowDisk,
    /// A coordinator shuts down cleanly.
    Shutdown,
    /// The network is partitioned in two.
    Partition,
    /// One coordinator, often the leader, is partitioned from all others.
    IsolateOne,
    /// One coordinator cannot send to the others, but receives from them; or the reverse.
    AsymmetricPartition,
    /// Messages are lost, duplicated and delayed.
    LossyNetwork,
    /// A clock is skewed.
    ClockSkew,
    /// A data folder is lost.
    FolderLoss,
}

const ALL: [SimFault; 12] = [
    SimFault::Crash,
    SimFault::PowerLoss,
    SimFault::ClusterPowerLoss,
    SimFault::DiskFault,
    SimFault::Shutdown,
    SimFault::Partition,
    SimFault::IsolateOne,
    SimFault::AsymmetricPartition,
    SimFault::LossyNetwork,
    SimFault::SlowDisk,
    SimFault::ClockSkew,
    SimFault::FolderLoss,
];

/// A normal disk takes up to this many microseconds.
const DISK_DELAY_US: u64 = 1000;
/// The time within which all coordinators are members again after a lost folder.
const REJOIN_TIMEOUT: Duration = Duration::from_secs(20);

/// Injects faults.
pub struct SimNemesis {
    cluster: Arc<SimCluster>,
    rng: SimRng,
    kinds: Vec<SimFault>,
    /// The number of faults injected.
    pub faults: usize,
}

impl SimNemesis {
    pub fn new(cluster: Arc<SimCluster>) -> SimNemesis {
        let mut rng = SimRng::new(cluster.seed, 3);
        let mut kinds = ALL.to_vec();
        kinds.shuffle(&mut rng);
        kinds.truncate(rng.random_range(1..=6));
        cluster.checks.event(format!("faults of this seed: {kinds:?}"));
        SimNemesis { cluster, rng, kinds, faults: 0 }
    }

    /// Injects one fault after another until `end`.
    pub async fn run(&mut self, end: Instant) {
        while Instant::now() < end {
            self.pause(20..800).await;
            if let Some(fault) = self.kinds.choose(&mut self.rng).copied() {
                self.faults += 1;
                self.inject(fault).await;
            }
        }
    }

    /// Ends all faults, and starts every coordinator that is down.
    pub async fn heal(&mut self) {
        self.cluster.checks.event("all faults end");
        self.cluster.network.change(|conditions| *conditions = NetworkConditions::normal());
        for id in self.cluster.ids() {
            self.cluster.set_disk_delay(id, DISK_DELAY_US);
            self.cluster.skew_clock(id, 0);
        }
        self.start_all(true).await;
    }

    async fn start_all(&mut self, power_lost: bool) {
        for id in self.cluster.ids() {
            self.cluster.start(id, power_lost).await;
        }
    }

    async fn pause(&mut self, ms: std::ops::Range<u64>) {
        let ms = self.rng.random_range(ms);
        sleep(Duration::from_millis(ms)).await;
    }

    /// Picks any coordinator, the leader more often.
    fn pick_coordinator(&mut self) -> u64 {
        let ids = self.cluster.ids();
        let running = self.cluster.all_running();
        let leader = running.iter().find(|process| process.handle.is_leader()).map(|process| process.incarnation.id);
        match leader.filter(|_| self.rng.random_bool(0.4)) {
            Some(leader) => leader,
            None => ids[self.rng.random_range(0..ids.len())],
        }
    }

    async fn inject(&mut self, fault: SimFault) {
        let id = self.pick_coordinator();
        match fault {
            SimFault::Crash | SimFault::PowerLoss => {
                self.cluster.crash(id);
                self.pause(0..2000).await;
                self.cluster.start(id, fault == SimFault::PowerLoss).await;
            }
            SimFault::ClusterPowerLoss => {
                self.cluster.ids().into_iter().for_each(|id| self.cluster.crash(id));
                self.pause(0..500).await;
                self.start_all(true).await;
            }
            SimFault::DiskFault => {
                let operations = self.rng.random_range(0..200);
                self.cluster.fail_disk_after(id, operations);
                self.pause(200..2000).await;
                self.cluster.crash(id);
                self.cluster.start(id, true).await;
            }
            SimFault::Shutdown => {
                self.cluster.shut_down(id).await;
                self.pause(0..1000).await;
                self.cluster.start(id, false).await;
            }
            SimFault::Partition | SimFault::IsolateOne | SimFault::AsymmetricPartition => {
                self.partition(fault, id).await
            }
            SimFault::LossyNetwork => self.degrade_network().await,
            SimFault::SlowDisk => {
                let us = self.rng.random_range(1000..500_000);
                self.cluster.set_disk_delay(id, us);
                self.pause(500..3000).await;
                self.cluster.set_disk_delay(id, DISK_DELAY_US);
            }
            SimFault::ClockSkew => {
                let ms = self.rng.random_range(-300_000..300_000);
                self.cluster.skew_clock(id, ms);
            }
            SimFault::FolderLoss => self.lose_folder(id).await,
        }
    }

    async fn partition(&mut self, fault: SimFault, id: u64) {
        let ids = self.cluster.ids();
        let side: Vec<u64> = match fault {
            SimFault::Partition => ids.iter().copied().filter(|_| self.rng.random_bool(0.5)).collect(),
            _ => vec![id],
        };
        let other: Vec<u64> = ids.iter().copied().filter(|id| !side.contains(id)).collect();
        let symmetric = fault != SimFault::AsymmetricPartition;
        let inward = self.rng.random_bool(0.5);
        let kind = if symmetric { "partition" } else { "asymmetric partition" };
        self.cluster.checks.event(format!("{kind}: {side:?} | {other:?}"));
        self.cluster.network.change(|conditions| {
            for a in &side {
                for b in &other {
                    conditions.cut_links.extend((symmetric || inward).then_some((*b, *a)));
                    conditions.cut_links.extend((symmetric || !inward).then_some((*a, *b)));
                }
            }
        });
        self.pause(200..4000).await;
        // Sometimes a partition continues while other faults are injected.
        if self.rng.random_bool(0.7) {
            self.cluster.checks.event("partitions end");
            self.cluster.network.change(|conditions| conditions.cut_links.clear());
        }
    }

    async fn degrade_network(&mut self) {
        let loss = self.rng.random_range(0.0..0.4);
        let duplication = self.rng.random_range(0.0..0.3);
        let delay_us = self.rng.random_range(1000..300_000);
        self.cluster
            .checks
            .event(format!("lossy network: {loss:.2} lost, {duplication:.2} duplicated, delays up to {delay_us} us"));
        self.cluster.network.change(|conditions| {
            (conditions.loss, conditions.duplication, conditions.delay_us) = (loss, duplication, delay_us)
        });
        self.pause(500..4000).await;
        self.cluster.network.change(|conditions| {
            *conditions = NetworkConditions { cut_links: conditions.cut_links.clone(), ..NetworkConditions::normal() }
        });
    }

    /// Loses one folder at a time: the next one only when all coordinators are members again.
    async fn lose_folder(&mut self, id: u64) {
        if !self.cluster.has_converged() {
            return;
        }
        self.cluster.crash(id);
        self.cluster.lose_folder(id);
        self.pause(0..1000).await;
        self.cluster.start(id, false).await;
        let end = Instant::now() + REJOIN_TIMEOUT;
        while Instant::now() < end && !self.cluster.has_converged() {
            self.pause(50..51).await;
        }
    }
}
