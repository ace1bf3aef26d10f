//! The servers' log on standard error, as text for people or as JSON for machines.
//!
//! Events name tables, principals and addresses as clients sent them: [`EscapedFields`] keeps such a text within its line, and
//! visible. A line that belongs to a call ends with the call's name, and with its trace if that is sampled ([`super::log_format`]).

use std::fmt::{self, Write};
use std::io::IsTerminal;

use clap::ValueEnum;
use tracing::field::{Field, Visit};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::{MakeVisitor, VisitFmt, VisitOutput};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{DefaultVisitor, Writer};

use super::log_format::WithCall;
use crate::escape::EscapingWriter;
use crate::{Error, Result};

/// The environment variable with the log filter: `info`, `volley_node=debug`, ...
const FILTER_VARIABLE: &str = "VOLLEY_LOG";

/// The crates of this project that log. A directive of another one that begins as they do is misspelt.
const OWN_CRATES: [&str; 8] = [
    "volley",
    "volley_client",
    "volley_common",
    "volley_coordinator",
    "volley_formats",
    "volley_http",
    "volley_node",
    "volley_sql",
];

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
        LogFormat::Text => log.fmt_fields(EscapedFields).map_event_format(WithCall::text).init(),
        LogFormat::Json => log.json().map_event_format(WithCall::json).init(),
    }
    Ok(())
}

/// The fields of the events and spans of a text log, the message included, as `tracing_subscriber` writes them by default, but
/// with all characters escaped that are not visible or would begin a line.
#[derive(Clone, Copy, Debug)]
pub struct EscapedFields;

impl<'a> MakeVisitor<Writer<'a>> for EscapedFields {
    type Visitor = EscapingVisitor<'a>;

    fn make_visitor(&self, writer: Writer<'a>) -> Self::Visitor {
        EscapingVisitor(DefaultVisitor::new(writer, true))
    }
}

/// Writes [`EscapedFields`].
#[derive(Debug)]
pub struct EscapingVisitor<'a>(DefaultVisitor<'a>);

impl Visit for EscapingVisitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.record_debug(field, &format_args!("{value}")),
            _ => self.record_debug(field, &value),
        }
    }

    /// With its sources.
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(error) = source {
            text += &format!(": {error}");
            source = error.source();
        }
        self.record_debug(field, &format_args!("{text}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.record_debug(field, &Escaped(value));
    }
}

impl VisitOutput<fmt::Result> for EscapingVisitor<'_> {
    fn finish(self) -> fmt::Result {
        self.0.finish()
    }
}

impl VisitFmt for EscapingVisitor<'_> {
    fn writer(&mut self) -> &mut dyn Write {
        self.0.writer()
    }
}

/// A value of a field, escaped.
struct Escaped<'a>(&'a dyn fmt::Debug);

impl fmt::Debug for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(EscapingWriter(f), "{:?}", self.0)
    }
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
/// INVALID_ARGUMENT names the directive: not a level, which would be taken for a target and silence all others; or a target of
/// this project that does not exist.
fn filter(text: &str) -> Result<EnvFilter> {
    for directive in text.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
        // Spans have further syntax, with '[', which the parser below checks.
        let (target, level) =
            directive.rsplit_once('=').map_or((None, directive), |(target, level)| (Some(target), level));
        let level = level.trim();
        // Nothing and digits are levels of the parser too, and hardly meant.
        let is_level = level.parse::<LevelFilter>().is_ok() && level.starts_with(|c: char| c.is_ascii_alphabetic());
        if !directive.contains('[') && !is_level {
            return Err(Error::invalid(format!(
                "{FILTER_VARIABLE}: {directive:?} is not off, error, warn, info, debug or trace, nor TARGET=LEVEL, for example volley_node=debug"
            )));
        }
        if let Some(target) = target.filter(|target| !directive.contains('[') && is_misspelt(target)) {
            return Err(Error::invalid(format!(
                "{FILTER_VARIABLE}: {directive:?}: nothing logs as {target:?}: the targets of Volley are {}",
                OWN_CRATES.join(", ")
            )));
        }
    }
    EnvFilter::try_new(text).map_err(|error| Error::invalid(format!("{FILTER_VARIABLE}={text:?}: {error}")))
}

/// Whether a target is meant to be one of this project and is none. The start of a target stands for all that begin so.
fn is_misspelt(target: &str) -> bool {
    let is_within =
        |name: &&str| target.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    target.starts_with("volley") && !OWN_CRATES.iter().any(|name| name.starts_with(target) || is_within(name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct WrittenLog(Arc<Mutex<Vec<u8>>>);

    impl io::Write for WrittenLog {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn hostile_names_cannot_hide_in_the_log_or_forge_a_line() {
        let hostile = "\u{202e}gnp\u{2066}a\u{200b}b\u{feff}\u{1b}[2J\n2026-01-31T12:00:00Z  INFO forged\r\u{9b}2J";
        let written = WrittenLog::default();
        let writer = written.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
        tracing::subscriber::with_default(log.fmt_fields(EscapedFields).finish(), || {
            let span = tracing::info_span!("put", name = %hostile);
            let _entered = span.enter();
            let error: &(dyn std::error::Error + 'static) = &Error::invalid(hostile);
            tracing::info!(table = %hostile, text = hostile, debug = ?[hostile], error, "message of {hostile}");
            tracing::info!(name = "Käse", rows = 7, "visible");
        });
        let text = String::from_utf8(written.0.lock().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(!lines.iter().any(|line| line.contains(crate::escape::is_invisible)), "{text:?}");
        assert_eq!(lines[0].matches("\\u{202e}gnp\\u{2066}a\\u{200b}b\\u{feff}\\u{1b}[2J\\n2026").count(), 6, "{text}");
        assert!(lines[0].contains(" table=\\u{202e}gnp"), "{text}");
        assert!(lines[1].ends_with(": visible name=\"Käse\" rows=7"), "{text}");
    }

    #[test]
    fn filter_without_a_level_is_refused_by_name() {
        for good in ["info", "INFO", "off", "warn,volley_node=debug", "openraft=off, info", "[put{id=7}]=trace"] {
            filter(good).unwrap();
        }
        for good in ["volley=debug", "volley_c=debug,info", "volley_common::server::log=trace", "hyper=info"] {
            filter(good).unwrap();
        }
        for (bad, named) in [
            ("inof", "inof"),
            ("info,volley_node", "volley_node"),
            ("warn,volley_node=debgu", "debgu"),
            ("volley_node=", "volley_node="),
            ("5", "\"5\""),
            ("info,volley_ndoe=debug", "volley_ndoe"),
            ("volley_nodes::get=debug", "volley_nodes::get"),
        ] {
            let error = filter(bad).unwrap_err();
            assert!(error.message.contains(named) && error.message.contains("VOLLEY_LOG"), "{error}");
        }
    }
}
