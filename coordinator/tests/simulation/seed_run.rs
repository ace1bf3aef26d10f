//! One run of one seed.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::runtime::{Builder, RngSeed};
use tokio::time::{Instant, sleep};
use volley_coordinator::raft::runtime::simulate;

use crate::cluster::{SimCluster, SimConfig};
use crate::disk::SyncBehavior;
use crate::nemesis::SimNemesis;
use crate::oracle::SimViolation;
use crate::rng::SimRng;
use crate::workload::{NODES, SimClient, register};

/// Interval of the checks.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// Prefix of a violation that is a panic.
pub const PANIC: &str = "a panic: ";
/// Without faults the cluster is complete and up to date within this time.
const CONVERGENCE_TIMEOUT: Duration = Duration::from_secs(60);

/// The result of a run.
#[derive(Debug, PartialEq)]
pub struct SeedRun {
    pub seed: u64,
    pub violation: Option<SimViolation>,
    pub faults: u64,
    pub commits: u64,
    pub operations: u64,
    /// Digest of all events.
    pub trace: u64,
    /// The last events, if there was a violation.
    pub last_events: String,
}

impl SeedRun {
    /// Panics if there was a violation.
    pub fn expect_ok(self) {
        let Some(violation) = self.violation else { return };
        panic!(
            "seed {}: {violation}\n\nthe last events:\n{}\nto repeat: VOLLEY_SIM_SEED={} cargo test -p volley-coordinator --test simulation coordinators_keep -- --nocapture\n",
            self.seed, self.last_events, self.seed
        );
    }
}

fn config_of(seed: u64, disks: SyncBehavior) -> SimConfig {
    let mut rng = SimRng::new(seed, 1);
    SimConfig {
        coordinators: if rng.random_bool(0.2) { 5 } else { 3 },
        clients: rng.random_range(2..=4),
        tables: rng.random_range(1..=3),
        snapshot_interval_entries: [20, 60, 1000][rng.random_range(0..3)],
        fault_duration: Duration::from_millis(rng.random_range(3000..9000)),
        disks,
    }
}

/// Runs a seed on this thread. `verbose` prints every event.
pub fn run_seed(seed: u64, disks: SyncBehavior, verbose: bool) -> SeedRun {
    simulate(Some(seed));
    let mut builder = Builder::new_current_thread();
    builder.enable_time().start_paused(true).rng_seed(RngSeed::from_bytes(&seed.to_le_bytes()));
    let runtime = builder.build().unwrap();
    let run = async {
        let cluster = SimCluster::new(seed, config_of(seed, disks), verbose);
        cluster.checks.event(format!("{:?}", cluster.config));
        let mut nemesis = SimNemesis::new(cluster.clone());
        tokio::select! {
            biased;
            () = cluster.checks.violated() => {}
            () = run_checked(&cluster, &mut nemesis) => {}
        }
        outcome(&cluster, &nemesis)
    };
    let result = catch_unwind(AssertUnwindSafe(|| runtime.block_on(run)));
    drop(runtime);
    simulate(None);
    result.unwrap_or_else(|panic| panicked(seed, &*panic))
}

fn panicked(seed: u64, panic: &(dyn Any + Send)) -> SeedRun {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default();
    let violation = Some(format!("{PANIC}{text}"));
    SeedRun { seed, violation, faults: 0, commits: 0, operations: 0, trace: 0, last_events: String::new() }
}

fn outcome(cluster: &SimCluster, nemesis: &SimNemesis) -> SeedRun {
    let checks = &cluster.checks;
    let violation = checks.violation();
    SeedRun {
        seed: cluster.seed,
        faults: nemesis.faults as u64,
        commits: checks.oracle.lock().len() as u64,
        operations: checks.history.lock().len() as u64,
        trace: checks.trace_digest(),
        last_events: if violation.is_some() { checks.last_events() } else { String::new() },
        violation,
    }
}

/// Runs the scenario, with checks all the time.
async fn run_checked(cluster: &Arc<SimCluster>, nemesis: &mut SimNemesis) {
    let checking = async {
        loop {
            cluster.check();
            sleep(CHECK_INTERVAL).await;
        }
    };
    tokio::select! {
        biased;
        () = checking => {}
        () = scenario(cluster, nemesis) => {}
    }
    cluster.check();
}

/// Forms a cluster, runs clients and faults, and waits until it has converged without faults.
async fn scenario(cluster: &Arc<SimCluster>, nemesis: &mut SimNemesis) {
    for id in cluster.ids() {
        cluster.start(id, false).await;
    }
    wait_converged(cluster, "the cluster has formed").await;
    let running = cluster.all_running();
    for node in 1..=NODES {
        if let Err(error) = running[0].handle.propose(register(node, node)).await {
            cluster.checks.record(Err(format!("a new cluster accepts no change: {error}")));
        }
    }
    let end = Instant::now() + cluster.config.fault_duration;
    let clients =
        (0..cluster.config.clients).map(|number| SimClient::new(cluster.clone(), number, cluster.config.tables));
    let clients: Vec<_> = clients.map(|client| tokio::spawn(client.run(end))).collect();
    nemesis.run(end).await;
    nemesis.heal().await;
    for client in clients {
        if let Err(error) = client.await {
            cluster.checks.record(Err(format!("a client panicked: {error}")));
        }
    }
    wait_converged(cluster, "the cluster has converged").await;
    final_checks(cluster).await;
}

async fn wait_converged(cluster: &SimCluster, what: &str) {
    let end = Instant::now() + CONVERGENCE_TIMEOUT;
    while !cluster.has_converged() {
        if Instant::now() > end {
            cluster.checks.record(Err(format!("{what}: not within {CONVERGENCE_TIMEOUT:?}:{}", cluster.describe())));
            return;
        }
        sleep(CHECK_INTERVAL).await;
    }
    cluster.checks.event(what);
}

/// Every coordinator answers, and every check on the whole run passes.
async fn final_checks(cluster: &Arc<SimCluster>) {
    for process in cluster.all_running() {
        if let Err(error) = process.handle.propose(register(1, 1_000_000 + process.incarnation.id)).await {
            cluster.checks.record(Err(format!("coordinator {} accepts no change: {error}", process.incarnation.id)));
        }
        if let Err(error) = process.handle.read().await.map(drop) {
            cluster.checks.record(Err(format!("coordinator {} answers no read: {error}", process.incarnation.id)));
        }
    }
    SimClient::new(cluster.clone(), 99, cluster.config.tables).read_all().await;
    let not_proposed = cluster.checks.oracle.lock().check_not_proposed();
    cluster.checks.record(not_proposed);
    let history = cluster.checks.history.lock().check();
    cluster.checks.record(history);
}
