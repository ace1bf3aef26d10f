//! `cargo cost`: what serving and taking in a byte costs, held against recorded bounds. See docs/performance.md.
//!
//! Not time is measured but work, which does not depend on the machine's mood: instructions in user space, and bytes
//! copied, of one member of a real cluster under valgrind.
//!
//! | module | what it holds |
//! |---|---|
//! | [`cases`] | what is measured |
//! | [`site`] | the cluster in which it happens |
//! | [`tool`] | valgrind |
//! | [`callgrind`], [`dhat`] | its output → [`profile`] |
//! | [`bounds`] | what was recorded, and the bounds that follow |
//! | [`report`] | what is told |
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "this program talks to a person, and is a test")]

mod bounds;
mod callgrind;
mod cases;
mod dhat;
mod profile;
mod report;
mod site;
mod tool;

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Parser;

use bounds::{Figures, Recorded};
use cases::{CASES, Case, Member};
use profile::Profile;
use report::Measured;
use site::Site;
use tool::Tool;

/// Runs of which the highest figures are recorded.
const RECORDED_RUNS: usize = 5;

/// What it costs to serve a byte and to take one in: instructions in user space and bytes copied, against the bounds in
/// tests/cost/bounds.toml. Needs valgrind, and the servers' binaries: `cargo build --workspace --bins`.
#[derive(Parser)]
#[command(name = "cargo cost")]
struct Flags {
    /// Only these cases.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Size of the tables, MiB.
    #[arg(long, default_value_t = 64)]
    mib: usize,
    /// Measure so often; each run is judged.
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// For each case the functions with the most instructions and the call sites with the most copies: so many.
    #[arg(long, default_value_t = 0)]
    top: usize,
    /// Measure 5 times, and write the highest figures into tests/cost/bounds.toml.
    #[arg(long, conflicts_with_all = ["runs", "mib"])]
    record: bool,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match runtime.block_on(cost(&flags)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("\n{why}");
            ExitCode::FAILURE
        }
    }
}

async fn cost(flags: &Flags) -> Result<(), String> {
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
            println!("\nmuch cheaper than recorded; keep it so by `cargo cost --record`: {}", improved.join(", "));
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

fn chosen(only: &[String]) -> Result<Vec<Case>, String> {
    if let Some(unknown) = only.iter().find(|name| CASES.iter().all(|case| case.name != **name)) {
        let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
        return Err(format!("there is no case {unknown:?}; there are {}", names.join(", ")));
    }
    Ok(CASES.iter().filter(|case| only.is_empty() || only.iter().any(|name| name == case.name)).copied().collect())
}

/// Measures all cases once, and shows the figures.
async fn run(flags: &Flags, cases: &[Case], recorded: &Recorded) -> Vec<Measured> {
    let bytes = flags.mib << 20;
    // Each tool has a cluster of its own: a member under valgrind keeps one core busy.
    let (instructions, copied) =
        tokio::join!(profiles(Tool::Callgrind, bytes, cases), profiles(Tool::Dhat, bytes, cases));
    let both = cases.iter().zip(instructions).zip(copied);
    let all: Vec<Measured> = both
        .map(|((case, (instructions, counted)), (copied, moved))| Measured {
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

fn show_top(measured: &Measured, count: usize) {
    let name = measured.case.name;
    println!("\n{name}, instructions a byte:\n{}", report::top(&measured.instructions, measured.bytes.0, count));
    println!("\n{name}, bytes copied a byte:\n{}", report::top(&measured.copied, measured.bytes.1, count));
}

/// What each case cost by one tool, with the bytes that were moved.
async fn profiles(tool: Tool, bytes: usize, cases: &[Case]) -> Vec<(Profile, u64)> {
    let mut site = Site::start(tool, bytes, cases).await;
    let mut idle: Vec<(Member, Profile)> = Vec::new();
    let mut profiles = Vec::new();
    for case in cases {
        if idle.iter().all(|(member, _)| *member != case.measured) {
            idle.push((case.measured, site.measure(case.measured, None).await.0));
        }
        let base = idle.iter().find_map(|(member, profile)| (*member == case.measured).then_some(profile)).unwrap();
        let (profile, moved) = site.measure(case.measured, Some(case)).await;
        profiles.push((profile.without(base), moved));
    }
    profiles
}

async fn record(flags: &Flags, cases: &[Case]) -> Result<(), String> {
    let mut recorded = bounds::load().unwrap_or_default();
    recorded.retain(|name, _| CASES.iter().any(|case| case.name == name));
    let mut highest: BTreeMap<&str, Figures> = BTreeMap::new();
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
