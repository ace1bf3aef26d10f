//! One seed, from the beginning to the end.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::runtime::{Builder, RngSeed};
use tokio::time::{Instant, sleep};
use volley_coordinator::raft::runtime::simulate;

use crate::dice::Dice;
use crate::disk::Honesty;
use crate::nemesis::Nemesis;
use crate::oracle::Violation;
use crate::workload::{Client, NODES, register};
use crate::world::{Shape, World};

/// What must hold at every moment is looked at this often.
const STEP: Duration = Duration::from_millis(20);
/// How a violation begins that is a panic.
pub const PANIC: &str = "a panic: ";
/// Without faults all is well after this.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a seed went.
#[derive(Debug, PartialEq)]
pub struct Run {
    pub seed: u64,
    pub violation: Option<Violation>,
    pub faults: u64,
    pub commits: u64,
    pub operations: u64,
    /// Of all events.
    pub trace: u64,
    /// The last ones, if something was violated.
    pub last_events: String,
}

impl Run {
    /// Fails if something was violated.
    pub fn expect(self) {
        let Some(violation) = self.violation else { return };
        panic!(
            "seed {}: {violation}\n\nthe last events:\n{}\nagain with: VOLLEY_SIM_SEED={} cargo test -p volley-coordinator --test simulation coordinators_keep -- --nocapture\n",
            self.seed, self.last_events, self.seed
        );
    }
}

fn shape(seed: u64, disks: Honesty) -> Shape {
    let mut dice = Dice::new(seed, 1);
    Shape {
        coordinators: if dice.random_bool(0.2) { 5 } else { 3 },
        clients: dice.random_range(2..=4),
        tables: dice.random_range(1..=3),
        snapshot_logs: [20, 60, 1000][dice.random_range(0..3)],
        degraded_reason: Duration::from_millis(dice.random_range(3000..9000)),
        disks,
    }
}

/// Runs a seed on this thread; `aloud`: and prints what happens.
pub fn run(seed: u64, disks: Honesty, aloud: bool) -> Run {
    simulate(Some(seed));
    let mut builder = Builder::new_current_thread();
    builder.enable_time().start_paused(true).rng_seed(RngSeed::from_bytes(&seed.to_le_bytes()));
    let runtime = builder.build().unwrap();
    let all = async {
        let world = World::new(seed, shape(seed, disks), aloud);
        world.checks.event(format!("{:?}", world.shape));
        let mut nemesis = Nemesis::new(world.clone());
        tokio::select! {
            biased;
            () = world.checks.violated() => {}
            () = live(&world, &mut nemesis) => {}
        }
        outcome(&world, &nemesis)
    };
    let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(all)));
    drop(runtime);
    simulate(None);
    ended.unwrap_or_else(|panic| panicked(seed, &*panic))
}

fn panicked(seed: u64, panic: &(dyn Any + Send)) -> Run {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default();
    let violation = Some(format!("{PANIC}{text}"));
    Run { seed, violation, faults: 0, commits: 0, operations: 0, trace: 0, last_events: String::new() }
}

fn outcome(world: &World, nemesis: &Nemesis) -> Run {
    let checks = &world.checks;
    let violation = checks.violation();
    Run {
        seed: world.seed,
        faults: nemesis.faults as u64,
        commits: checks.oracle.lock().len() as u64,
        operations: checks.history.lock().len() as u64,
        trace: checks.trace_digest(),
        last_events: if violation.is_some() { checks.last_events() } else { String::new() },
        violation,
    }
}

async fn live(world: &Arc<World>, nemesis: &mut Nemesis) {
    let looking = async {
        loop {
            world.check();
            sleep(STEP).await;
        }
    };
    tokio::select! {
        biased;
        () = looking => {}
        () = story(world, nemesis) => {}
    }
    world.check();
}

async fn story(world: &Arc<World>, nemesis: &mut Nemesis) {
    for id in world.ids() {
        world.start(id, false).await;
    }
    until_together(world, "a new cluster").await;
    let up = world.all_up();
    for node in 1..=NODES {
        if let Err(error) = up[0].handle.propose(register(node, node)).await {
            world.checks.judge(Err(format!("a new cluster does not work: {error}")));
        }
    }
    let end = Instant::now() + world.shape.degraded_reason;
    let clients = (0..world.shape.clients).map(|number| Client::new(world.clone(), number, world.shape.tables));
    let clients: Vec<_> = clients.map(|client| tokio::spawn(client.run(end))).collect();
    nemesis.run(end).await;
    nemesis.relent().await;
    for client in clients {
        if let Err(error) = client.await {
            world.checks.judge(Err(format!("a client ended: {error}")));
        }
    }
    until_together(world, "all together again").await;
    afterwards(world).await;
}

async fn until_together(world: &World, what: &str) {
    let end = Instant::now() + PATIENCE;
    while !world.together() {
        if Instant::now() > end {
            let standing = world.standing();
            world.checks.judge(Err(format!("{what} did not come within {PATIENCE:?}:{standing}")));
            return;
        }
        sleep(STEP).await;
    }
    world.checks.event(what);
}

/// Everybody answers, and everything that was said was true.
async fn afterwards(world: &Arc<World>) {
    for up in world.all_up() {
        if let Err(error) = up.handle.propose(register(1, 1_000_000 + up.life.id)).await {
            world.checks.judge(Err(format!("coordinator {} changes nothing: {error}", up.life.id)));
        }
        if let Err(error) = up.handle.read().await.map(drop) {
            world.checks.judge(Err(format!("coordinator {} reads nothing: {error}", up.life.id)));
        }
    }
    Client::new(world.clone(), 99, world.shape.tables).read_all().await;
    let refused = world.checks.oracle.lock().check_refused();
    world.checks.judge(refused);
    let history = world.checks.history.lock().check();
    world.checks.judge(history);
}
