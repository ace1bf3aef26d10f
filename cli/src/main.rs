//! `volley`: the command line client, a development cluster and a demonstration.
//!
//! | module | what it holds |
//! |---|---|
//! | [`args`], [`client_tls_args`], [`client_login_args`] | the command line |
//! | [`contexts`], [`cluster_choice`] | clusters that a user has logged in at, and which one a command uses |
//! | [`commands`] | one module a command |
//! | [`certificates`] | certificates for TLS: an authority, and what it issues |
//! | [`formats`] | Parquet, CSV, Arrow IPC, JSON lines: files to batches and back |
//! | [`http_get`] | calls of the HTTP ports of members |
//! | [`threads`] | threads for blocking readers and writers, with bounded queues to the runtime |
//! | [`output`], [`colours`], [`progress`] | tables and JSON on standard output; colours; progress bars |
//! | [`prompt`] | passwords and confirmations, asked at the terminal |
//! | [`secret_arguments`] | secrets in arguments, which are refused and not repeated |
#![forbid(unsafe_code)]

mod args;
mod certificates;
mod client_login_args;
mod client_tls_args;
mod cluster_choice;
mod colours;
mod column_list;
mod commands;
#[cfg(test)]
mod commands_page;
mod contexts;
#[cfg(test)]
mod documented_commands;
mod formats;
mod http_get;
mod output;
mod progress;
mod prompt;
mod secret_arguments;
mod threads;

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use volley_client::Client;
use volley_common::escape::escape_invisible;
use volley_common::server::log::{EscapedFields, filter_from_environment};
use volley_common::tls::ClientTls;
use volley_common::{Code, Error, Result};

use args::table_commands::TableCommand;
use args::{Args, CliCommand, ClusterCommand};
use client_login_args::ClientLoginArgs;
use cluster_choice::ClusterChoice;
use colours::Tone;

/// How long threads may take to remove their unfinished files after an interrupt.
const CANCEL_GRACE: Duration = Duration::from_secs(5);

/// One executable contains all three programs and runs the one that it is called as. An image contains it once, and the
/// servers are links to it.
fn main() -> ExitCode {
    // Before anything else: this program is started again to decode bodies in Parquet, also by `volley dev`.
    if let Some(code) = volley_formats::decode_process::run_if_requested() {
        return code;
    }
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
    args.color.apply();
    let logging = init_log(&args.command);
    // Of a comparison 1 is an answer.
    let failure = if matches!(args.command, CliCommand::Tables(TableCommand::Diff(_))) { 2 } else { 1 };
    // A panic is a bug: one line, no backtrace.
    std::panic::set_hook(Box::new(|panic| eprintln!("volley: internal error: {panic}")));
    let result = logging.and_then(|()| runtime()).and_then(|runtime| {
        let result = runtime.block_on(run(args));
        if result.as_ref().is_err_and(|error| error.code == Code::Cancelled) {
            // A thread that waits for the reader of a pipe never ends.
            runtime.shutdown_timeout(CANCEL_GRACE);
        }
        result
    });
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{} {}", Tone::Bad.err("volley:"), one_line(&error.to_string()));
            ExitCode::from(if error.code == Code::Cancelled { 130 } else { failure })
        }
    }
}

/// Logs to standard error: what `VOLLEY_LOG` selects, else the errors of a cluster in this process.
///
/// # Errors
/// INVALID_ARGUMENT names a directive of `VOLLEY_LOG` that is none.
fn init_log(command: &CliCommand) -> Result<()> {
    // A shell that completes a line shows nothing else.
    if matches!(command, CliCommand::CompleteTables { .. }) {
        return Ok(());
    }
    let default = if matches!(command, CliCommand::Dev(_)) { "error" } else { "off" };
    let filter = filter_from_environment(default)?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let log = log.with_ansi(colours::has_coloured_errors());
    log.fmt_fields(EscapedFields).init();
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::unavailable(format!("cannot start: {e}")))
}

/// Runs the command. An interrupt cancels it and rolls back its files and writes.
async fn run(mut args: Args) -> Result<ExitCode> {
    if let CliCommand::CompleteTables { prefix, words } = &args.command {
        commands::completions::tables(prefix, words).await;
    }
    let choice = ClusterChoice::of(&args)?;
    args.login.context = choice.login.clone();
    let (cluster, tls, login, json) = (&choice.cluster, &choice.tls, &args.login, args.json);
    let result = match args.command {
        // These commands handle interrupts themselves: the cluster shuts down, the drain continues.
        CliCommand::Dev(dev) => commands::dev::run(&dev).await.map(|()| ExitCode::SUCCESS),
        CliCommand::Drain(drain) => {
            commands::drain::run(&drain, cluster, tls, login, json).await.map(|()| ExitCode::SUCCESS)
        }
        // At its prompt an interrupt ends the statement, not the command.
        CliCommand::Sql(sql) if commands::sql::is_interactive(&sql) => {
            let connected = || commands::connect(cluster, tls, login);
            commands::sql::shell::run(&sql, connected, json).await.map(|()| ExitCode::SUCCESS)
        }
        CliCommand::Login(options) => {
            until_interrupted(commands::login::run(&options, &choice, login, json)).await.map(|()| ExitCode::SUCCESS)
        }
        CliCommand::Logout => {
            until_interrupted(commands::login::logout(&choice, json)).await.map(|()| ExitCode::SUCCESS)
        }
        CliCommand::Bench(bench) => match commands::connect(cluster, tls, login).await {
            Ok(client) => commands::bench::run(&bench, &client, json).await.map(|()| ExitCode::SUCCESS),
            Err(error) => Err(error),
        },
        CliCommand::Top(top) => {
            let connected = || commands::connect(cluster, tls, login);
            commands::top::run(&top, connected, tls, json).await.map(|()| ExitCode::SUCCESS)
        }
        command => {
            let used = OnceCell::new();
            let outcome = until_interrupted(interruptible(command, cluster, tls, login, json, &used)).await;
            match (outcome, used.get()) {
                (Err(error), Some(client)) => Err(commands::failure::explained(error, client, CANCEL_GRACE).await),
                (outcome, _) => outcome,
            }
        }
    };
    result.map_err(|error| match choice.login_remedy() {
        Some(remedy) if error.code == Code::Unauthenticated => {
            Error { message: format!("{}; {remedy}", error.message), ..error }
        }
        _ => error,
    })
}

async fn interruptible(
    command: CliCommand,
    cluster: &str,
    tls: &ClientTls,
    login: &ClientLoginArgs,
    json: bool,
    used: &OnceCell<Client>,
) -> Result<ExitCode> {
    use commands::{
        certs, completions, context, coordinators, demo, doctor, drop, explain, get, grants, health, info, ls, man,
        nodes, put, quota, remove, restore, sql, stats, tables, token, user, versions, whoami,
    };
    let connected = async || {
        let client = commands::connect(cluster, tls, login).await?;
        // It is set once: a command connects once.
        let _ = used.set(client.clone());
        Ok::<Client, Error>(client)
    };
    match command {
        CliCommand::Demo(demo) => demo::run(&demo).await?,
        CliCommand::Put(put) => put::run(&put, connected, json).await?,
        CliCommand::Get(get) => get::run(&get, connected, json).await?,
        CliCommand::Sql(statement) => sql::run(&statement, connected, json).await?,
        CliCommand::Ls { prefix } => ls::run(&connected().await?, &prefix, json).await?,
        CliCommand::Info { name, versions: true } => versions::run(&connected().await?, &name, json).await?,
        CliCommand::Info { name, versions: false } => info::run(&connected().await?, &name, json).await?,
        CliCommand::Explain { name, all } => explain::run(&connected().await?, &name, all, json).await?,
        CliCommand::Drop { name, yes } => drop::run(&connected().await?, &name, yes, json).await?,
        CliCommand::Restore { name, version } => restore::run(&connected().await?, &name, version, json).await?,
        CliCommand::Stats => stats::run(&connected().await?, json).await?,
        CliCommand::Health { http } => health::run(http.as_deref(), tls).await?,
        CliCommand::Certs(command) => certs::run(&command, json)?,
        CliCommand::User(command) => user::run(&connected().await?, &command, json).await?,
        CliCommand::Token(command) => token::run(&connected().await?, &command, json).await?,
        CliCommand::Grant(grant) => grants::grant(&grant, connected, json).await?,
        CliCommand::Revoke(revoke) => grants::revoke(&connected().await?, &revoke, json).await?,
        CliCommand::Grants { prefix, of } => {
            grants::list(&connected().await?, prefix.as_deref(), of.as_deref(), json).await?
        }
        CliCommand::Whoami => whoami::run(&connected().await?, json).await?,
        CliCommand::Quota(command) => quota::run(&connected().await?, &command, json).await?,
        CliCommand::Context(command) => context::run(&command, json)?,
        CliCommand::Completions { shell } => completions::run(shell)?,
        CliCommand::Man { dir } => man::run(&dir)?,
        CliCommand::Remove { node, yes } => remove::run(&connected().await?, &node, yes, json).await?,
        // The exit code of a comparison is its outcome, that of the following depends on the state of the cluster.
        CliCommand::Tables(command) => return tables::run(&command, connected, tls, login, json).await,
        CliCommand::Cluster(ClusterCommand::Status) | CliCommand::Status => {
            return commands::cluster::status(&connected().await?, json).await;
        }
        CliCommand::Cluster(ClusterCommand::RotateKeys(rotate)) => {
            commands::cluster::rotate_keys(&connected().await?, &rotate, json).await?
        }
        CliCommand::Nodes => return nodes::run(&connected().await?, json).await,
        CliCommand::Coordinators { change } => {
            return coordinators::run(&connected().await?, change.as_ref(), json).await;
        }
        CliCommand::Doctor => return doctor::run(&connected().await?, cluster, json).await,
        CliCommand::Dev(_)
        | CliCommand::Drain(_)
        | CliCommand::Bench(_)
        | CliCommand::Top(_)
        | CliCommand::Login(_)
        | CliCommand::Logout
        | CliCommand::CompleteTables { .. } => unreachable!("`run` handles them"),
    }
    Ok(ExitCode::SUCCESS)
}

async fn until_interrupted<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        result = work => result,
        result = commands::dev::interrupted() => Err(result.err().unwrap_or_else(|| Error::cancelled("interrupted"))),
    }
}

/// The message of an error on one line. It may contain names that somebody else chose.
fn one_line(text: &str) -> String {
    escape_invisible(&text.split_whitespace().collect::<Vec<_>>().join(" ")).into()
}
