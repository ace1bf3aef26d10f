//! Coordinators under seeded faults, on one thread and in simulated time. A run depends on nothing but its seed.
//!
//! | module | what it holds |
//! |---|---|
//! | `cluster` | coordinators, each the real `Handle` on a simulated disk, network and clock |
//! | `disk`, `network` | a disk that loses what was not synced; a network that delays, loses and duplicates messages |
//! | `nemesis`, `workload`, `identity_commands` | the faults; the clients and their transactions, and some of their commands |
//! | `checks` | what is checked: `oracle` (the log and what follows from it), `invariants`, `table_history` |
//! | `seed_run` | one run of one seed |
//!
//! `VOLLEY_SIM_SEED=N` runs one seed and prints its events. `VOLLEY_SIM_FIRST`, `VOLLEY_SIM_SEEDS` and
//! `VOLLEY_SIM_SECONDS` set the first seed, the number of seeds, and the time limit.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod checks;
mod cluster;
mod disk;
mod identity_commands;
mod invariants;
mod nemesis;
mod network;
mod oracle;
// Shared with the tests in `coordinator/tests/raft/`, which are a crate of their own.
#[path = "../raft_support/mod.rs"]
mod raft_support;
mod rng;
mod seed_run;
mod table_history;
mod workload;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use disk::SyncBehavior;
use seed_run::{PANIC, SeedRun, run_seed};

/// Seeds that a plain `cargo test` runs.
const SEEDS: u64 = 1000;
/// Seconds after which no further seed is started.
const SECONDS: u64 = 120;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[test]
fn coordinators_keep_their_guarantees_under_faults() {
    if let Some(seed) = number("VOLLEY_SIM_SEED") {
        let run = run_seed(seed, SyncBehavior::Durable, true);
        println!("{} faults, {} commits, {} operations", run.faults, run.commits, run.operations);
        return run.expect_ok();
    }
    let seeds = number("VOLLEY_SIM_SEEDS").unwrap_or(SEEDS);
    let limit = Duration::from_secs(number("VOLLEY_SIM_SECONDS").unwrap_or(SECONDS));
    let first = number("VOLLEY_SIM_FIRST").unwrap_or(0);
    let (start, next, failed) = (Instant::now(), AtomicU64::new(first), Mutex::new(None::<SeedRun>));
    let (faults, commits, operations) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let work = || {
        while start.elapsed() < limit && failed.lock().unwrap().is_none() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds {
                return;
            }
            let run = run_seed(seed, SyncBehavior::Durable, false);
            faults.fetch_add(run.faults, Ordering::Relaxed);
            commits.fetch_add(run.commits, Ordering::Relaxed);
            operations.fetch_add(run.operations, Ordering::Relaxed);
            if run.violation.is_some() {
                failed.lock().unwrap().get_or_insert(run);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let done = next.into_inner().min(first + seeds) - first;
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{done} seeds in {seconds:.1} s ({:.1} per second): {faults:?} faults, {commits:?} commits, {operations:?} operations checked",
        done as f64 / seconds
    );
    if let Some(run) = failed.into_inner().unwrap() {
        run.expect_ok();
    }
}

#[test]
fn run_of_a_seed_is_deterministic() {
    for seed in [1, 2, 3] {
        let run = |seed| run_seed(seed, SyncBehavior::Durable, false);
        let (first, second) = (run(seed), run(seed));
        assert_eq!(first, second, "seed {seed}");
        assert_ne!(first.trace, run(seed + 100).trace);
    }
}

/// Returns the first of 40 seeds in which a violation is found on such disks. A panic of redb on a damaged file does
/// not count.
fn first_violation(disks: SyncBehavior) -> SeedRun {
    let is_found = |run: &SeedRun| run.violation.as_ref().is_some_and(|violation| !violation.starts_with(PANIC));
    let found = (0..40).map(|seed| run_seed(seed, disks, false)).find(is_found);
    let run = found.unwrap_or_else(|| panic!("40 seeds with disks of the kind {disks:?}, and no violation was found"));
    println!("seed {}: {}", run.seed, run.violation.clone().unwrap());
    run
}

/// Shows that the simulation can fail.
#[test]
fn disks_that_never_sync_are_detected() {
    first_violation(SyncBehavior::Never);
}

/// The disks are consistent, but lack the last acknowledged changes.
#[test]
fn acknowledgements_before_the_sync_are_detected() {
    first_violation(SyncBehavior::Delayed);
}
