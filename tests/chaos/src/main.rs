//! `cargo chaos`: a cluster of real processes under faults, its history checked. See docs/chaos.md.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "it prints its report, and is a test")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use volley_chaos::history::ClientHistory;
use volley_chaos::run::{ChaosOptions, run};
use volley_chaos::{check, faults, figures, report};

/// Faults in a cluster of real processes: 3 coordinators, 5 nodes, clients that check what they read, and a
/// checker of their history. Needs the servers' binaries: `cargo build --workspace --bins`.
#[derive(Parser)]
#[command(name = "cargo chaos")]
struct ChaosFlags {
    /// Faults to inject [default: 25, or as many as fit into --seconds].
    #[arg(long)]
    faults: Option<usize>,
    /// Seconds for which to inject faults.
    #[arg(long)]
    seconds: Option<u64>,
    /// The longest time for which a member is paused or cut off with its connections open, in seconds.
    #[arg(long, default_value_t = 15)]
    longest_pause: u64,
    /// The seed of the faults; the same seed chooses the same faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only these kinds of faults.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// More lines for the coordinators' configuration, as "election_ms = 500".
    #[arg(long, default_value = "")]
    coordinator_config: String,
    /// Keep history and logs even if no violation is found.
    #[arg(long)]
    keep: bool,
    /// List the kinds of faults, and exit.
    #[arg(long)]
    kinds: bool,
    /// Check the history in this file again, and exit.
    #[arg(long)]
    check: Option<PathBuf>,
    /// Measure how long recovery takes instead. One or more of leader, node, repair, restart; all if none is named.
    #[arg(long, value_delimiter = ',', num_args = 0..)]
    figures: Option<Vec<String>>,
}

fn main() -> ExitCode {
    let flags = ChaosFlags::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if flags.kinds {
        faults::kinds().iter().for_each(|kind| println!("{kind}"));
        return ExitCode::SUCCESS;
    }
    if let Some(path) = &flags.check {
        return check_again(path);
    }
    if let Some(names) = &flags.figures {
        return runtime.block_on(figures::measure(names, &flags.coordinator_config));
    }
    if let Some(unknown) = flags.only.iter().find(|kind| !faults::kinds().contains(kind.as_str())) {
        println!("there is no fault {unknown:?}; --kinds names them");
        return ExitCode::FAILURE;
    }
    runtime.block_on(chaos(&flags))
}

async fn chaos(flags: &ChaosFlags) -> ExitCode {
    let wanted = ChaosOptions {
        seed: flags.seed,
        faults: flags.faults.unwrap_or(if flags.seconds.is_some() { usize::MAX } else { 25 }),
        time: flags.seconds.map_or(Duration::MAX, Duration::from_secs),
        longest_pause: Duration::from_secs(flags.longest_pause),
        only: flags.only.clone(),
        keep: flags.keep,
        coordinator_config: flags.coordinator_config.clone(),
    };
    println!("seed {}: 3 coordinators, 5 nodes, 6 clients", wanted.seed);
    let ended = run(&wanted).await;
    println!("{}", report::text(&ended));
    if let Some(folder) = &ended.kept {
        println!("history, logs and data: {}", folder.display());
    }
    if ended.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn check_again(path: &Path) -> ExitCode {
    let history = match ClientHistory::load(path) {
        Ok(history) => history,
        Err(error) => {
            println!("{} is not a history: {error}", path.display());
            return ExitCode::FAILURE;
        }
    };
    let violations = check::check(&history);
    violations.iter().for_each(|violation| println!("- {violation}"));
    println!("{} operations, {} violations", history.operations.len(), violations.len());
    if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
