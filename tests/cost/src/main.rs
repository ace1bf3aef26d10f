//! `cargo cost`: what it costs to serve or store a byte, checked against recorded bounds. See docs/performance.md.
//!
//! It measures work, not time, because work does not depend on the load of the machine: instructions in user space and bytes
//! copied by one member of a real cluster under valgrind.
//!
//! | module | what it holds |
//! |---|---|
//! | [`cases`] | the cases |
//! | [`cluster`] | the cluster that the cases run on |
//! | [`tool`] | valgrind |
//! | [`callgrind`], [`dhat`] | its output → [`profile`] |
//! | [`bounds`] | the recorded figures, and the bounds that follow |
//! | [`report`] | tables and failures |
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "this program talks to a person, and is a test")]

mod bounds;
mod callgrind;
mod cases;
mod cluster;
mod dhat;
mod profile;
mod report;
mod tool;

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Parser;

use bounds::{CostFigures, RecordedCosts};
use cases::{CASES, CostCase, CostMember};
use cluster::CostCluster;
use profile::CostProfile;
use report::MeasuredCase;
use tool::ValgrindTool;

/// Runs of which the highest figures are recorded.
const RECORDED_RUNS: usize = 5;

/// What it costs to serve or store a byte: instructions in user space and bytes copied, checked against the bounds in
/// tests/cost/bounds.toml. Needs valgrind, and the servers' binaries: `cargo build --workspace --bins`.
#[derive(Parser)]
#[command(name = "cargo cost")]
struct CostFlags {
    /// Only these cases.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Size of the tables, MiB.
    #[arg(long, default_value_t = 64)]
    mib: usize,
    /// Number of runs; each is checked.
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// For each case, show this many functions with the most instructions and call sites with the most copies.
    #[arg(long, default_value_t = 0)]
    top: usize,
    /// Measure 5 times, and write the highest figures into tests/cost/bounds.toml.
    #[arg(long, conflicts_with_all = ["runs", "mib"])]
    record: bool,
}

fn main() -> ExitCode {
    let flags = CostFlags::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match runtime.block_on(cost(&flags)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("\n{why}");
            ExitCode::FAILURE
        }
    }
}

async fn cost(flags: &CostFlags) -> Result<(), String> {
    let cases = chosen(&flags.only)?;
    tool::check()?;
    if flags.record {
        return record(flags, &cases).await;
    }
    let recorded = bounds::load()?;
    let mut failures = Vec::new();
    for _ in 0..flags.runs {
        let all = run(flags, &cases, &recorded).await;
        failures.extend(report::failures(&all, &recorded));
        let improved = report::improvements(&all, &recorded);
        if !improved.is_empty() {
            println!("\nmuch cheaper than recorded; `cargo cost --record` keeps the gain: {}", improved.join(", "));
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

fn chosen(only: &[String]) -> Result<Vec<CostCase>, String> {
    if let Some(unknown) = only.iter().find(|name| CASES.iter().all(|case| case.name != **name)) {
        let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
        return Err(format!("there is no case {unknown:?}; there are {}", names.join(", ")));
    }
    Ok(CASES.iter().filter(|case| only.is_empty() || only.iter().any(|name| name == case.name)).copied().collect())
}

/// Measures all cases once and prints the figures.
async fn run(flags: &CostFlags, cases: &[CostCase], recorded: &RecordedCosts) -> Vec<MeasuredCase> {
    let bytes = flags.mib << 20;
    // Each tool has a cluster of its own: a member under valgrind keeps one core busy.
    let (instructions, copied) =
        tokio::join!(profiles(ValgrindTool::Callgrind, bytes, cases), profiles(ValgrindTool::Dhat, bytes, cases));
    let both = cases.iter().zip(instructions).zip(copied);
    let all: Vec<MeasuredCase> = both
        .map(|((case, (instructions, counted)), (copied, moved))| MeasuredCase {
            case: *case,
            bytes: (counted, moved),
            instructions,
            copied,
        })
        .collect();
    println!("{}", report::table(&all, recorded));
    if flags.top > 0 {
        all.iter().for_each(|measured| show_top(measured, flags.top));
    }
    all
}

fn show_top(measured: &MeasuredCase, count: usize) {
    let name = measured.case.name;
    println!("\n{name}, instructions a byte:\n{}", report::top(&measured.instructions, measured.bytes.0, count));
    println!("\n{name}, bytes copied a byte:\n{}", report::top(&measured.copied, measured.bytes.1, count));
}

/// The profile of each case by one tool, and the bytes that were moved.
async fn profiles(tool: ValgrindTool, bytes: usize, cases: &[CostCase]) -> Vec<(CostProfile, u64)> {
    let mut cluster = CostCluster::start(tool, bytes, cases).await;
    let mut idle: Vec<(CostMember, CostProfile)> = Vec::new();
    let mut profiles = Vec::new();
    for case in cases {
        if idle.iter().all(|(member, _)| *member != case.measured) {
            idle.push((case.measured, cluster.measure(case.measured, None).await.0));
        }
        let base = idle.iter().find_map(|(member, profile)| (*member == case.measured).then_some(profile)).unwrap();
        let (profile, moved) = cluster.measure(case.measured, Some(case)).await;
        profiles.push((profile.without(base), moved));
    }
    profiles
}

async fn record(flags: &CostFlags, cases: &[CostCase]) -> Result<(), String> {
    let mut recorded = bounds::load().unwrap_or_default();
    recorded.retain(|name, _| CASES.iter().any(|case| case.name == name));
    let mut highest: BTreeMap<&str, CostFigures> = BTreeMap::new();
    for _ in 0..RECORDED_RUNS {
        for measured in run(flags, cases, &recorded).await {
            let figures = measured.figures();
            highest.entry(measured.case.name).and_modify(|before| *before = before.max(figures)).or_insert(figures);
        }
    }
    recorded.extend(highest.into_iter().map(|(case, figures)| (case.to_string(), figures)));
    let path = bounds::path();
    std::fs::write(&path, bounds::text(&recorded)).map_err(|e| format!("{}: {e}", path.display()))?;
    println!("\nrecorded in {}", path.display());
    Ok(())
}
