//! Coordinators under seeded faults, in one thread and in simulated time: a seed decides everything.
//!
//! | module | what it holds |
//! |---|---|
//! | `world` | coordinators, each the real `Handle` on a simulated disk, network and clock |
//! | `disk`, `network` | what forgets, and what loses |
//! | `nemesis`, `workload` | who does harm, who does work |
//! | `checks` | what is watched: `oracle` (the log and what follows from it), `rules`, `linear` |
//!
//! `VOLLEY_SIM_SEED=N` runs one seed, with its events; `VOLLEY_SIM_FIRST`, `VOLLEY_SIM_SEEDS` and
//! `VOLLEY_SIM_SECONDS` say where to begin, how many seeds to run, and for how long.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod checks;
mod dice;
mod disk;
mod linear;
mod nemesis;
mod network;
mod oracle;
#[path = "../raft_support/mod.rs"]
mod raft_support;
mod rules;
mod run;
mod workload;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use disk::Honesty;
use run::{PANIC, Run, run};

/// Seeds that a plain `cargo test` runs, and the time after which it begins no more.
const SEEDS: u64 = 1000;
const SECONDS: u64 = 120;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[test]
fn coordinators_keep_their_word_under_faults() {
    if let Some(seed) = number("VOLLEY_SIM_SEED") {
        let run = run(seed, Honesty::Honest, true);
        println!("{} faults, {} commits, {} operations", run.faults, run.commits, run.operations);
        return run.expect();
    }
    let seeds = number("VOLLEY_SIM_SEEDS").unwrap_or(SEEDS);
    let limit = Duration::from_secs(number("VOLLEY_SIM_SECONDS").unwrap_or(SECONDS));
    let first = number("VOLLEY_SIM_FIRST").unwrap_or(0);
    let (began, next, bad) = (Instant::now(), AtomicU64::new(first), Mutex::new(None::<Run>));
    let (faults, commits, operations) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let work = || {
        while began.elapsed() < limit && bad.lock().unwrap().is_none() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds {
                return;
            }
            let run = run(seed, Honesty::Honest, false);
            faults.fetch_add(run.faults, Ordering::Relaxed);
            commits.fetch_add(run.commits, Ordering::Relaxed);
            operations.fetch_add(run.operations, Ordering::Relaxed);
            if run.violation.is_some() {
                bad.lock().unwrap().get_or_insert(run);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let done = next.into_inner().min(first + seeds) - first;
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{done} seeds in {seconds:.1} s ({:.1} a second): {faults:?} faults, {commits:?} commits, {operations:?} operations checked",
        done as f64 / seconds
    );
    if let Some(run) = bad.into_inner().unwrap() {
        run.expect();
    }
}

#[test]
fn a_seed_decides_everything() {
    for seed in [1, 2, 3] {
        let (once, again) = (run(seed, Honesty::Honest, false), run(seed, Honesty::Honest, false));
        assert_eq!(once, again, "seed {seed}");
        assert_ne!(once.trace, run(seed + 100, Honesty::Honest, false).trace);
    }
}

/// The first of some seeds that finds these disks out. That redb panics at what they made of its file does not count.
fn found_out(disks: Honesty) -> Run {
    let noticed = |run: &Run| run.violation.as_ref().is_some_and(|violation| !violation.starts_with(PANIC));
    let found = (0..40).map(|seed| run(seed, disks, false)).find(noticed);
    let run = found.unwrap_or_else(|| panic!("40 seeds with disks of the kind {disks:?}, and nothing was noticed"));
    println!("seed {}: {}", run.seed, run.violation.clone().unwrap());
    run
}

/// The simulation can fail: disks that only say that they synced are found out.
#[test]
fn disks_that_never_sync_are_found_out() {
    found_out(Honesty::Lies);
}

/// The same with disks that look whole but have forgotten the end of what was acknowledged.
#[test]
fn changes_that_are_acknowledged_before_they_are_synced_are_found_out() {
    found_out(Honesty::Late);
}
