//! The process of a server: flags, log, configuration, the start, signals, the stop.

use std::any::TypeId;
use std::io::Write;
use std::process::ExitCode;

use clap::{Arg, CommandFactory, FromArgMatches, Parser};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::trace_export::{self, TraceExport};
use super::{ServerArgs, ServerConfig, config, log};
use crate::listen::host_port;
use crate::{Error, Result, memory};

/// What a coordinator and a node add to the process.
pub trait ServerRole {
    /// The name of the program.
    const NAME: &'static str;
    /// The log filter if `VOLLEY_LOG` is not set.
    const LOG_FILTER: &'static str;
    /// The command line.
    type Args: Parser + Serialize + AsRef<ServerArgs>;
    /// The configuration.
    type Config: Default + Serialize + DeserializeOwned;
    /// The running server.
    type Server: RunningServer;

    /// Runs the subcommand in place of the server, if there is one, and returns its output.
    fn run_subcommand(_args: &Self::Args) -> Option<Result<String>> {
        None
    }

    /// Checks the values and combinations of a configuration.
    ///
    /// # Errors
    /// One sentence that names the wrong value or combination.
    fn check(config: &Self::Config) -> Result<()>;

    /// Reads the files that the configuration names, as `start` does. Stricter in one point: a certificate must be valid now, with
    /// which a server starts all the same, since a member that stays down helps nobody.
    ///
    /// # Errors
    /// One sentence that names the file that cannot be used, and the remedy.
    fn check_files(config: &Self::Config) -> Result<()>;

    /// What the configuration has in common with that of the other role.
    fn server_config(config: &Self::Config) -> &ServerConfig;

    /// Starts the server; returns when it can answer clients.
    fn start(config: Self::Config) -> impl Future<Output = Result<Self::Server>>;
}

/// A server that runs in this process.
pub trait RunningServer {
    /// Where clients reach it: `grpc+tcp://HOST:PORT`, or `grpc+tls://HOST:PORT`.
    fn flight_uri(&self) -> &str;

    /// Waits until the server stops by itself or by [`RunningServer::shutdown`].
    ///
    /// # Errors
    /// Why it stopped by itself, unless a client requested the stop.
    fn wait(&self) -> impl Future<Output = Result<()>>;

    /// Drains and stops; returns when all tasks have ended.
    fn shutdown(&self) -> impl Future<Output = ()>;
}

/// Runs the process of a server to its end.
pub fn main<R: ServerRole>() -> ExitCode {
    memory::return_large_blocks();
    let args = parse_args::<R>();
    let logging = log::init(args.as_ref().log_format, R::LOG_FILTER);
    match logging.and_then(|()| run::<R>(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{}: {error}", R::NAME);
            ExitCode::FAILURE
        }
    }
}

fn parse_args<R: ServerRole>() -> R::Args {
    let matches = command_line::<R::Args, R::Config>().get_matches();
    R::Args::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// The command line, with the defaults of the configuration in its help. They are not defaults of clap: a flag that is not
/// given must leave the value to the environment and the file.
pub fn command_line<A: CommandFactory, C: Default + Serialize>() -> clap::Command {
    let defaults = serde_json::to_value(C::default()).unwrap_or_default();
    A::command().mut_args(with_whole_numbers).mut_args(|arg| {
        let default = defaults.get(arg.get_id().as_str()).and_then(default_text);
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        match default {
            Some(default) if !help.contains("[default:") => arg.help(format!("{help} [default: {default}]")),
            _ => arg,
        }
    })
}

/// The flag with an error that says what a whole number is, if it has one.
fn with_whole_numbers(arg: Arg) -> Arg {
    let value = arg.get_value_parser().type_id();
    if value == TypeId::of::<u64>() {
        arg.value_parser(config::whole_number::<u64>)
    } else if value == TypeId::of::<u32>() {
        arg.value_parser(config::whole_number::<u32>)
    } else if value == TypeId::of::<usize>() {
        arg.value_parser(config::whole_number::<usize>)
    } else {
        arg
    }
}

/// A default as `--help` shows it; `None` for false, zero and what is empty.
fn default_text(default: &Value) -> Option<String> {
    let text = match default {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.as_f64().filter(|number| *number != 0.0)?.to_string(),
        Value::Array(texts) => texts.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
        _ => return None,
    };
    Some(text).filter(|text| !text.is_empty())
}

fn run<R: ServerRole>(args: &R::Args) -> Result<()> {
    let common = args.as_ref();
    if let Some(output) = R::run_subcommand(args) {
        return print_line(&output?);
    }
    if common.print_config {
        return print_line(config::print::<R::Config, _>(common.config.as_deref(), args)?.trim_end());
    }
    let config: R::Config = config::load(common.config.as_deref(), args)?;
    R::check(&config)?;
    if common.check_config {
        R::check_files(&config)?;
        trace_export::check_files(&R::server_config(&config).otlp)?;
        return print_line("the configuration is valid");
    }
    raise_open_files();
    runtime(&mut Builder::new_multi_thread())?.block_on(serve::<R>(config))
}

/// Builds a tokio runtime.
///
/// # Errors
/// INTERNAL: the system refuses to create a thread.
pub fn runtime(builder: &mut Builder) -> Result<Runtime> {
    builder.enable_all().build().map_err(|e| Error::internal(format!("cannot start the async runtime: {e}")))
}

async fn serve<R: ServerRole>(config: R::Config) -> Result<()> {
    let mut signals = StopSignals::new()?;
    tokio::spawn(memory::return_free_memory());
    let common = R::server_config(&config);
    let traces = TraceExport::start(&common.otlp, R::NAME, &common.peer_listen)?;
    let outcome = serve_until_stopped::<R>(config, &mut signals).await;
    tokio::select! {
        () = traces.flush() => {}
        () = signals.next() => {}
    }
    outcome
}

async fn serve_until_stopped<R: ServerRole>(config: R::Config, signals: &mut StopSignals) -> Result<()> {
    let server = tokio::select! {
        server = R::start(config) => server?,
        () = signals.next() => return Ok(()),
    };
    // The one line on standard output, for scripts that wait for it.
    let uri = server.flight_uri();
    let scheme = if uri.starts_with("grpc+tls://") { "grpc+tls" } else { "grpc" };
    print_line(&format!("ready {scheme}://{}", host_port(uri)))?;
    tokio::select! {
        ended = server.wait() => return ended,
        () = signals.next() => {}
    }
    tracing::info!("stopping: waiting for open streams");
    tokio::select! {
        () = server.shutdown() => {}
        () = signals.next() => tracing::warn!("second signal: stopping immediately"),
    }
    Ok(())
}

/// SIGTERM and SIGINT (Ctrl-C), received since this value was created.
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Replaces the default handling of both signals, which ends the process.
    ///
    /// # Errors
    /// INTERNAL: the system refuses.
    pub fn new() -> Result<Self> {
        let listen = |kind| signal(kind).map_err(|e| Error::internal(format!("cannot wait for signals: {e}")));
        Ok(StopSignals { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn print_line(text: &str) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|e| Error::internal(format!("standard output: {e}")))
}

/// Raises the limit of open files as far as the system allows: a node has one file open for every shard of every put.
pub fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}
