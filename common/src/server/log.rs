//! The servers' log on standard error, as text for people or as JSON for machines.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::{Error, Result};

/// The environment variable with the log filter: `info`, `volley_node=debug`, ...
const FILTER_VARIABLE: &str = "VOLLEY_LOG";

/// The format of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line of text per event.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts the log; `default_filter` applies if `VOLLEY_LOG` is not set. Colours are for terminals only.
///
/// # Errors
/// As `filter`.
pub fn init(format: LogFormat, default_filter: &str) -> Result<()> {
    let filter = filter_from_environment(default_filter)?;
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

/// The filter in `VOLLEY_LOG`, or `default_filter` if it is not set or empty.
///
/// # Errors
/// As `filter`.
pub fn filter_from_environment(default_filter: &str) -> Result<EnvFilter> {
    match std::env::var(FILTER_VARIABLE) {
        Ok(text) if !text.trim().is_empty() => filter(&text),
        Ok(_) | Err(std::env::VarError::NotPresent) => Ok(EnvFilter::new(default_filter)),
        Err(error) => Err(Error::invalid(format!("{FILTER_VARIABLE}: {error}"))),
    }
}

/// A filter of directives: levels, and `TARGET=LEVEL`.
///
/// # Errors
/// INVALID_ARGUMENT names the directive: not a level, which would be taken for a target and silence all others.
fn filter(text: &str) -> Result<EnvFilter> {
    for directive in text.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
        // Spans have further syntax, with '[', which the parser below checks.
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
        if !directive.contains('[') && level.trim().parse::<LevelFilter>().is_err() {
            return Err(Error::invalid(format!(
                "{FILTER_VARIABLE}: {directive:?} is not off, error, warn, info, debug or trace, nor TARGET=LEVEL, for example volley_node=debug"
            )));
        }
    }
    EnvFilter::try_new(text).map_err(|error| Error::invalid(format!("{FILTER_VARIABLE}={text:?}: {error}")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn filter_without_a_level_is_refused_by_name() {
        for good in ["info", "INFO", "off", "warn,volley_node=debug", "openraft=off, info", "[put{id=7}]=trace"] {
            filter(good).unwrap();
        }
        for (bad, named) in [("inof", "inof"), ("info,volley_node", "volley_node"), ("warn,volley_node=debgu", "debgu")]
        {
            let error = filter(bad).unwrap_err();
            assert!(error.message.contains(named) && error.message.contains("VOLLEY_LOG"), "{error}");
        }
    }
}
