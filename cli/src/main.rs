//! `volley`: a development cluster, a demonstration, and tables in and out.
//!
//! | module | what it holds |
//! |---|---|
//! | [`args`] | the command line |
//! | [`commands`] | one file a command |
//! | [`formats`] | Parquet, CSV, Arrow IPC, JSON lines: files to batches and back |
//! | [`threads`] | blocking readers and writers beside the runtime, over bounded queues |
//! | [`output`], [`progress`] | what people and machines get to see |

mod args;
mod commands;
mod formats;
mod output;
mod progress;
mod threads;

use std::ffi::OsStr;
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use volley_common::{Code, Error, Result};

use args::{Args, Command};

/// One file can be all three programs: an image holds it once, and the servers are links to it.
fn main() -> ExitCode {
    let called = std::env::args_os().next();
    match called.as_deref().map(Path::new).and_then(Path::file_name).and_then(OsStr::to_str) {
        Some("volley-node") => volley_node::process::main(),
        Some("volley-coordinator") => volley_coordinator::process::main(),
        _ => volley(),
    }
}

fn volley() -> ExitCode {
    volley_common::memory::return_large_blocks();
    let args = Args::parse();
    log(&args.command);
    // A panic is a fault of ours: one line, no backtrace.
    std::panic::set_hook(Box::new(|panic| eprintln!("volley: a fault of its own: {panic}")));
    let result = runtime().and_then(|runtime| runtime.block_on(run(args)));
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("volley: {}", one_line(&error.message));
            ExitCode::from(if error.code == Code::Cancelled { 130 } else { 1 })
        }
    }
}

/// To standard error: what `VOLLEY_LOG` asks for, else the errors of a cluster that runs here.
fn log(command: &Command) {
    let otherwise = if matches!(command, Command::Dev(_)) { "error" } else { "off" };
    let filter = tracing_subscriber::EnvFilter::try_from_env("VOLLEY_LOG").unwrap_or_else(|_| otherwise.into());
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    if matches!(command, Command::Dev(_) | Command::Demo(_)) {
        volley_common::memory::return_large_blocks();
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::unavailable(format!("cannot start: {e}")))
}

/// Runs the command; an interrupt ends it with its files and writes undone.
async fn run(args: Args) -> Result<ExitCode> {
    let (cluster, json) = (&args.cluster, args.json);
    let done = match args.command {
        Command::Dev(dev) => commands::dev::run(&dev).await,
        Command::Drain(drain) => commands::drain::run(&drain, cluster, json).await,
        Command::Demo(demo) => until_interrupted(commands::demo::run(&demo)).await,
        Command::Cluster(args::Cluster::Status) => {
            return until_interrupted(async {
                commands::cluster::status(&commands::connect(cluster).await?, json).await
            })
            .await;
        }
        Command::Doctor => {
            return until_interrupted(async {
                commands::doctor::run(&commands::connect(cluster).await?, cluster, json).await
            })
            .await;
        }
        command => until_interrupted(client_command(command, cluster, json)).await,
    };
    done.map(|()| ExitCode::SUCCESS)
}

async fn client_command(command: Command, cluster: &str, json: bool) -> Result<()> {
    use commands::{coordinators, drop, explain, get, health, info, ls, nodes, put, remove, stats, versions};
    let connected = || commands::connect(cluster);
    match command {
        Command::Put(put) => put::run(&put, connected, json).await,
        Command::Get(get) => get::run(&get, connected, json).await,
        Command::Ls { prefix } => ls::run(&connected().await?, &prefix, json).await,
        Command::Info { name, versions: true } => versions::run(&connected().await?, &name, json).await,
        Command::Info { name, versions: false } => info::run(&connected().await?, &name, json).await,
        Command::Explain { name, all } => explain::run(&connected().await?, &name, all, json).await,
        Command::Drop { name } => drop::run(&connected().await?, &name, json).await,
        Command::Stats => stats::run(&connected().await?, json).await,
        Command::Health { http } => health::run(http.as_deref()).await,
        Command::Nodes => nodes::run(&connected().await?, json).await,
        Command::Remove { node } => remove::run(&connected().await?, &node, json).await,
        Command::Coordinators { change } => coordinators::run(&connected().await?, change.as_ref(), json).await,
        Command::Dev(_) | Command::Demo(_) | Command::Drain(_) | Command::Cluster(_) | Command::Doctor => Ok(()),
    }
}

async fn until_interrupted<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        result = work => result,
        result = commands::dev::interrupted() => Err(result.err().unwrap_or_else(|| Error::cancelled("interrupted"))),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
