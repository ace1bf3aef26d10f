//! The log: to standard error, as text for people or as JSON for machines.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// The variable that says what is logged: `info`, `volley_node=debug`, ...
const FILTER: &str = "VOLLEY_LOG";

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// Begins to log; `otherwise` is what is logged if `VOLLEY_LOG` does not say.
pub fn init(format: LogFormat, otherwise: &str) {
    let filter = EnvFilter::try_from_env(FILTER).unwrap_or_else(|_| otherwise.into());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}
