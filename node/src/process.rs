//! The `volley-node` process. It is a library's, for `volley` does the same when it is called by this name.

use std::io::Write;
use std::process::ExitCode;

use crate::config::{Config, Flags};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use volley_common::listen::host_port;
use volley_common::{Error, Result, config, log};

/// What `volley-node` does with its command line, to its end.
pub fn main() -> ExitCode {
    volley_common::memory::return_large_blocks();
    let flags = Flags::parse();
    log::init(flags.log_format, "info");
    match run(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "volley-node: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> Result<()> {
    if flags.print_config {
        return say(config::print::<Config, _>(flags.config.as_deref(), flags)?.trim_end());
    }
    let config = Config::load(flags)?;
    if flags.check_config {
        return Ok(());
    }
    raise_open_files();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::internal(format!("no threads: {e}")))?
        .block_on(serve(config))
}

async fn serve(config: Config) -> Result<()> {
    let mut term = signal(SignalKind::terminate()).map_err(|e| Error::internal(format!("no signals: {e}")))?;
    let starting = crate::start(config);
    let running = tokio::select! {
        running = starting => running?,
        _ = term.recv() => return Ok(()),
        _ = tokio::signal::ctrl_c() => return Ok(()),
    };
    say_ready(&running.flight_uri)?;
    tokio::select! {
        ended = running.wait() => return ended,
        _ = term.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    tracing::info!("stopping: open streams may end");
    // Who asks twice does not want to wait.
    tokio::select! {
        () = running.shutdown() => {}
        _ = term.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(())
}

/// The one line on standard output, for whoever waits for it.
fn say_ready(uri: &str) -> Result<()> {
    say(&format!("ready grpc://{}", host_port(uri)))
}

fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|e| Error::internal(format!("standard output: {e}")))
}

/// Every shard of a put has a file open: as many as the system allows.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
