//! The `volley-coordinator` process. It is a library's, for `volley` does the same when it is called by this name.

use std::io::Write;
use std::process::ExitCode;

use crate::config::{Command, Config, Flags};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use volley_common::listen::host_port;
use volley_common::{Error, Result, config, log};

/// What `volley-coordinator` does with its command line, to its end.
pub fn main() -> ExitCode {
    volley_common::memory::return_large_blocks();
    let flags = Flags::parse();
    log::init(flags.log_format, "info,openraft=warn");
    match run(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "volley-coordinator: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> Result<()> {
    if let Some(Command::Recover(command)) = &flags.command {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Error::internal(format!("no threads: {e}")))?;
        return say(&runtime.block_on(crate::recover::run(command))?);
    }
    if flags.print_config {
        return say(config::print::<Config, _>(flags.config.as_deref(), flags)?.trim_end());
    }
    let config = Config::load(flags)?;
    if flags.check_config {
        return Ok(());
    }
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
