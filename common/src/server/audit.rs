//! The audit log: who called what, from where and with which result, one line of JSON each.
//!
//! Recorded are every refused call, every call of an administrator and every login; reads and writes if the settings ask for
//! them. In an open cluster nobody has proved who it is, so only administration and refusals are recorded.
//!
//! | module | what it holds |
//! |---|---|
//! | `line` | one line: its values, their limits, its JSON |
//! | `share` | how many lines each kind of caller may have in the queue |
//! | `writer` | the thread that writes the lines, and its queue |
//! | `recent` | the newest lines, in memory |
//! | `rotation` | the file, and its change when it is full |
//!
//! A call never waits for the log: what the queue does not take, or the disk, is counted (`volley_audit_dropped_total`), and
//! the next line says how many events are missing before it. Of callers without identity 100 lines a second are written; the
//! others are counted likewise (`volley_audit_suppressed_total`, `suppressed`).

mod line;
mod recent;
mod rotation;
mod share;
#[cfg(test)]
mod tests;
mod writer;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use http::HeaderMap;
use serde::{Deserialize, Serialize};

use self::line::AuditLine;
use self::rotation::RotatingFile;
use self::share::{AuditShare, UnidentifiedRate};
use self::writer::{AuditQueue, AuditSink, StandardErrorSink};
use crate::error::code_name;
use crate::identity::Access;
pub use crate::telemetry::trace::REQUEST_ID_HEADER;
use crate::{Code, Error, Result, clock};

/// Events of principals that wait to be written; further ones are dropped and counted. Those of administration, and of callers
/// without identity, have places of their own.
const QUEUED_EVENTS: usize = 10_000;

/// Where the audit log is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditTarget {
    /// Nowhere.
    Off,
    /// Standard error, between the lines of the log.
    StandardError,
    /// A file, which only its owner can read.
    File(PathBuf),
}

/// Which calls on data are recorded, besides those that are refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum AuditData {
    /// None.
    #[default]
    None,
    /// Writes.
    Writes,
    /// Reads and writes.
    All,
}

/// The settings of the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditSettings {
    /// Where it is written.
    pub target: AuditTarget,
    /// Which calls on data are recorded.
    pub data: AuditData,
    /// A file of this size is renamed to `FILE.1`, and a new one begins; bytes.
    pub file_bytes: u64,
    /// How many renamed files are kept.
    pub files: u64,
}

/// The kind of a recorded call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditKind {
    /// It reads tables, or what is known about them.
    Read,
    /// It changes tables.
    Write,
    /// It changes users, rights or members, or is an operator's.
    Admin,
    /// It exchanges a password or token for a session.
    Login,
}

impl AuditKind {
    fn as_str(self) -> &'static str {
        match self {
            AuditKind::Read => "read",
            AuditKind::Write => "write",
            AuditKind::Admin => "admin",
            AuditKind::Login => "login",
        }
    }
}

/// A call of an identified caller, as it ended.
#[derive(Clone, Copy)]
pub struct AuditEvent<'a> {
    /// Who called, from where.
    pub access: &'a Access,
    /// What kind of call it is.
    pub kind: AuditKind,
    /// The method or action: `DoGet`, `drop_table`.
    pub operation: &'a str,
    /// The table that it is about, if it is about one.
    pub table: Option<&'a [String]>,
    /// What [`request_id`] gives.
    pub request_id: Option<&'a str>,
    /// How it ended.
    pub result: Result<(), &'a Error>,
}

/// A call that is refused because its caller could not be identified, so that there is no [`Access`].
#[derive(Clone, Copy)]
pub struct UnidentifiedCall<'a> {
    /// Where it came from; the port is not recorded, as in [`Access::client_address`].
    pub address: Option<SocketAddr>,
    /// The user that the caller claims to be; never a password or token.
    pub claimed: Option<&'a str>,
    /// What kind of call it is.
    pub kind: AuditKind,
    /// The method or action.
    pub operation: &'a str,
    /// What [`request_id`] gives.
    pub request_id: Option<&'a str>,
    /// Why it is refused.
    pub error: &'a Error,
}

/// Records calls; cheap to clone. When the last clone is dropped, the queued lines are written, for at most five seconds.
#[derive(Clone)]
pub struct AuditLog(Option<Arc<OpenLog>>);

struct OpenLog {
    data: AuditData,
    queue: AuditQueue,
    unidentified: UnidentifiedRate,
}

impl AuditLog {
    /// Opens the log and starts its thread.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the file cannot be opened, or is no regular file. INTERNAL: the system refuses a thread.
    pub fn new(settings: &AuditSettings) -> Result<Self> {
        let sink: Box<dyn AuditSink> = match &settings.target {
            AuditTarget::Off => return Ok(AuditLog::off()),
            AuditTarget::StandardError => Box::new(StandardErrorSink),
            AuditTarget::File(path) => Box::new(RotatingFile::open(path, settings.file_bytes, settings.files)?),
        };
        AuditLog::writing_to(sink, settings.data, QUEUED_EVENTS)
    }

    /// Checks that [`AuditLog::new`] can open the file, if the log has one, without creating it.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the file cannot be opened, or is no regular file.
    pub fn check(settings: &AuditSettings) -> Result<()> {
        match &settings.target {
            AuditTarget::Off | AuditTarget::StandardError => Ok(()),
            AuditTarget::File(path) => RotatingFile::check(path),
        }
    }

    /// Records nothing.
    pub fn off() -> Self {
        AuditLog(None)
    }

    fn writing_to(sink: Box<dyn AuditSink>, data: AuditData, queued: usize) -> Result<Self> {
        let queue = AuditQueue::start(sink, queued)?;
        Ok(AuditLog(Some(Arc::new(OpenLog { data, queue, unidentified: UnidentifiedRate::default() }))))
    }

    /// The newest lines, the newest first, each as JSON; none if the log is off. They are of this process.
    pub fn newest_lines(&self) -> Option<Vec<String>> {
        self.0.as_ref().map(|log| log.queue.recent().newest_first())
    }

    /// Records a call, if calls like it are to be recorded. Never waits.
    pub fn record(&self, event: AuditEvent<'_>) {
        self.record_about(event, None);
    }

    /// The same, of a call about something else than a table: a user, the id of a token, a grant, a member.
    pub fn record_about(&self, event: AuditEvent<'_>, target: Option<&str>) {
        let Some(log) = self.0.as_ref().filter(|log| is_recorded(&event, log.data)) else { return };
        let (principal, time_ms) = (event.access.principal(), clock::now_ms());
        let share = AuditShare::of(&event);
        if share == AuditShare::Unidentified && !log.admits_unidentified(time_ms) {
            return;
        }
        log.queue.send(share, || AuditLine {
            kind: event.kind.as_str(),
            time_ms,
            principal: principal.map(|principal| line::bounded(&principal.name)),
            method: principal.map(|principal| principal.method.as_str()),
            credential: principal.map(|principal| line::bounded(&principal.proof())),
            claimed: None,
            address: event.access.client_address().map(line::bounded),
            operation: line::bounded(event.operation),
            table: event.table.map(|table| line::bounded(&table.join("/"))),
            target: target.map(line::bounded),
            result: code_name(event.result.map_or_else(|error| error.code, |()| Code::Ok)),
            reason: event.result.err().map(|error| line::bounded(&error.message)),
            request_id: event.request_id.map(line::bounded),
            dropped: 0,
            suppressed: 0,
        });
    }

    /// Records a call whose caller could not be identified, unless a member was not reachable: that is not the caller's fault.
    /// Never waits.
    pub fn record_unidentified(&self, call: UnidentifiedCall<'_>) {
        let is_members_fault = matches!(call.error.code, Code::Unavailable | Code::DeadlineExceeded);
        let Some(log) = self.0.as_ref().filter(|_| !is_members_fault) else { return };
        let time_ms = clock::now_ms();
        if !log.admits_unidentified(time_ms) {
            return;
        }
        log.queue.send(AuditShare::Unidentified, || AuditLine {
            kind: call.kind.as_str(),
            time_ms,
            principal: None,
            method: None,
            credential: None,
            claimed: call.claimed.map(line::bounded),
            address: call.address.map(|address| address.ip().to_canonical().to_string()),
            operation: line::bounded(call.operation),
            table: None,
            target: None,
            result: code_name(call.error.code),
            reason: Some(line::bounded(&call.error.message)),
            request_id: call.request_id.map(line::bounded),
            dropped: 0,
            suppressed: 0,
        });
    }
}

impl OpenLog {
    /// Whether one more line of a caller without identity may be written; if not, it is counted.
    fn admits_unidentified(&self, now_ms: u64) -> bool {
        let admits = self.unidentified.admits(now_ms);
        if !admits {
            self.queue.suppress();
        }
        admits
    }
}

impl AuditEvent<'_> {
    /// Whether the call is refused for want of identity or rights. A table that its caller may not read is NOT_FOUND.
    pub fn is_refusal(&self) -> bool {
        match self.result.map_err(|error| error.code) {
            Err(Code::Unauthenticated | Code::PermissionDenied) => true,
            Err(Code::NotFound) => self.table.is_some_and(|table| !self.access.can_read(table)),
            _ => false,
        }
    }
}

/// Whether a call is to be recorded.
fn is_recorded(event: &AuditEvent<'_>, data: AuditData) -> bool {
    event.is_refusal()
        || match event.kind {
            AuditKind::Admin => true,
            // Without identity there is nobody to name; the cluster's own reads and writes are open too.
            _ if event.access.is_open() => false,
            AuditKind::Login => true,
            AuditKind::Write => data != AuditData::None,
            AuditKind::Read => data == AuditData::All,
        }
}

/// The name that a client gave its call, by the header [`REQUEST_ID_HEADER`]; `None` if there is none, or no ASCII text.
pub fn request_id(headers: &HeaderMap) -> Option<&str> {
    headers.get(REQUEST_ID_HEADER)?.to_str().ok()
}
