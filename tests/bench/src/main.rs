//! `cargo bench-flight` compares Volley with other Flight servers in one run, `cargo bench-sql` with other engines of SQL. See
//! docs/performance.md.
//!
//! | module | what it holds |
//! |---|---|
//! | [`args`] | the command line |
//! | [`systems`], [`naive`], `python/server.py` | the servers that are compared |
//! | [`jobs`], [`clients`], [`client`], `python/client.py` | the jobs of clients, and the clients |
//! | [`mod@bench`] | rounds in which the systems take turns |
//! | [`cases`] | the cases |
//! | [`measure`], [`machine`] | CPU and memory of processes, medians and ratios; the machine |
//! | [`report`] | figures and goals, as tables and JSON |
//! | [`programs`] | builds what is measured |
//! | [`tpch`] | the tables of TPC-H |
//! | [`sql`] | `cargo bench-sql`: queries beside other engines |
#![allow(clippy::print_stdout, reason = "this program talks to a person")]

mod args;
mod bench;
mod cases;
mod client;
mod clients;
mod jobs;
mod machine;
mod measure;
mod naive;
mod programs;
mod raw;
mod report;
mod sql;
mod systems;
mod tpch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use volley_common::clock;
use volley_verify::Project;

use args::BenchFlags;
use bench::Bench;
use cases::{BenchCase, CASES};
use machine::MachineInfo;
use report::{BenchReport, write_json};
use sql::SqlFlags;

/// Memory to touch before the measurements, for each byte of the reference table: the table in the client, the rows that it
/// reads, and as much in each of the servers.
const TOUCH_FACTOR: f64 = 6.0;

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let ended = match words.get(1).map(String::as_str) {
        Some(systems::SERVE_NAIVE) => naive::serve(words.get(2).map_or("", String::as_str)).await,
        Some(clients::CLIENT) => client::run().await,
        Some(sql::SQL) => {
            let flags = ["cargo bench-sql"].into_iter().chain(words.iter().skip(2).map(String::as_str));
            unless_interrupted(sql::run(SqlFlags::parse_from(flags))).await
        }
        _ => unless_interrupted(all(BenchFlags::parse())).await,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Ends with an error on SIGINT and SIGTERM, so that processes end and folders are removed.
async fn unless_interrupted(work: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    tokio::select! {
        ended = work => ended,
        () = interrupted() => Err("interrupted".to_string()),
    }
}

async fn interrupted() {
    let Ok(mut term) = signal(SignalKind::terminate()) else { return };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = term.recv() => {}
    }
}

async fn all(flags: BenchFlags) -> Result<(), String> {
    if flags.list {
        CASES.iter().for_each(|case| println!("{:<12} {}", case.name, case.about));
        return Ok(());
    }
    let chosen = chosen(&flags.cases)?;
    let project = Project::find()?;
    let python =
        programs::build(&project, flags.no_build, chosen.iter().any(|case| cases::WITH_PACKAGE.contains(&case.name)))?;
    let out = flags.out.clone().unwrap_or_else(|| default_out(&project));
    let report = prepare(&flags, &project)?;
    let mut bench = Bench::new(flags, project, python, report)?;
    for case in chosen {
        let ended = (case.run)(&mut bench).await;
        write_json(&bench.report, &out)?;
        ended.map_err(|e| format!("{}: {e}", case.name))?;
    }
    println!("\nall figures: {}", out.display());
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<&'static BenchCase>, String> {
    if let Some(unknown) = names.iter().find(|name| CASES.iter().all(|case| case.name != **name)) {
        return Err(format!("there is no case {unknown:?}; --list names them"));
    }
    Ok(CASES.iter().filter(|case| names.is_empty() || names.iter().any(|name| name == case.name)).collect())
}

/// Describes the machine, touches its memory, and measures its disk.
fn prepare(flags: &BenchFlags, project: &Project) -> Result<BenchReport, String> {
    let machine = MachineInfo::describe(&project.root);
    println!("{machine}");
    if machine.congestion_control.starts_with("bbr") {
        println!(
            "TCP of the C++ server is paced by {}: `sysctl net.ipv4.tcp_congestion_control=reno` for a fair run",
            machine.congestion_control
        );
    }
    let bytes = (flags.gib * TOUCH_FACTOR * (1u64 << 30) as f64).min(machine::available() as f64 * 0.8) as u64;
    println!("{:.1} GiB of memory touched in {:.1} s", bytes as f64 / (1u64 << 30) as f64, machine::touch(bytes));
    let mut disks = Vec::new();
    let folder = flags.data.clone().unwrap_or_else(|| project.target.clone());
    let rate = machine::disk_rate(&folder).map_err(|e| format!("writing to {}: {e}", folder.display()))?;
    println!("{}: {:.2} GB/s written in writes of 1 MiB and fsynced", folder.display(), rate / 1e9);
    disks.push((folder.display().to_string(), rate));
    let command = std::env::args().skip(1).collect();
    Ok(BenchReport { machine, command, disks, cases: Vec::new(), markdown: flags.markdown })
}

fn default_out(project: &Project) -> PathBuf {
    project.target.join(format!("bench/flight-{}.json", clock::now_ms() / 1000))
}
