//! The thread that writes the audit log, and its bounded queue: neither a slow disk nor a full one delays a call.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::line::AuditLine;
use crate::{Error, Result};

/// Events that are not in the log.
const DROPPED: &str = "volley_audit_dropped_total";
/// Failures of the disk are logged at most once in this time.
const FAILURE_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// How long the end of the log waits for its last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Where lines go.
pub(super) trait AuditSink: Send {
    /// Writes one line, which ends in a newline, whole or not at all as far as possible.
    fn write_line(&mut self, line: &[u8]) -> io::Result<()>;
}

/// Standard error.
pub(super) struct StandardErrorSink;

impl AuditSink for StandardErrorSink {
    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        // Locked, and in one write: the lines of the log are between those of the audit log, not within.
        io::stderr().lock().write_all(line)
    }
}

/// The lines that wait to be written. When it is dropped, they are written.
pub(super) struct AuditQueue {
    /// `None` only while it is dropped.
    lines: Option<SyncSender<AuditLine>>,
    /// Events since the last written line that are not in the log.
    dropped: Arc<AtomicU64>,
    /// Disconnected when the thread has ended.
    ended: Mutex<Receiver<()>>,
}

impl AuditQueue {
    /// Starts the thread. `capacity`: lines that wait at most.
    ///
    /// # Errors
    /// INTERNAL: the system refuses a thread.
    pub fn start(mut sink: Box<dyn AuditSink>, capacity: usize) -> Result<Self> {
        let (lines, waiting) = sync_channel(capacity);
        let (end, ended) = sync_channel(0);
        let dropped = Arc::<AtomicU64>::default();
        let lost = dropped.clone();
        std::thread::Builder::new()
            .name("volley-audit".into())
            .spawn(move || {
                let _end: SyncSender<()> = end;
                write_lines(&waiting, &mut *sink, &lost);
            })
            .map_err(|e| Error::internal(format!("cannot start the thread of the audit log: {e}")))?;
        Ok(AuditQueue { lines: Some(lines), dropped, ended: Mutex::new(ended) })
    }

    /// Queues a line, or counts it if the queue is full.
    pub fn send(&self, line: AuditLine) {
        let is_queued = self.lines.as_ref().is_some_and(|lines| lines.try_send(line).is_ok());
        if !is_queued {
            drop_events(&self.dropped, 1);
        }
    }
}

impl Drop for AuditQueue {
    fn drop(&mut self) {
        self.lines = None;
        // A disk that hangs must not keep the process.
        let _ = self.ended.get_mut().recv_timeout(FLUSH_TIMEOUT);
    }
}

fn drop_events(dropped: &AtomicU64, events: u64) {
    dropped.fetch_add(events, Ordering::Relaxed);
    metrics::counter!(DROPPED).increment(events);
}

/// Writes the lines until there are no more senders.
fn write_lines(waiting: &Receiver<AuditLine>, sink: &mut dyn AuditSink, dropped: &AtomicU64) {
    let mut logged: Option<Instant> = None;
    while let Ok(mut line) = waiting.recv() {
        line.dropped = dropped.swap(0, Ordering::Relaxed);
        let Err(error) = sink.write_line(line.to_json().as_bytes()) else { continue };
        // Those before are counted already.
        dropped.fetch_add(line.dropped, Ordering::Relaxed);
        drop_events(dropped, 1);
        if logged.is_none_or(|logged| logged.elapsed() >= FAILURE_LOG_INTERVAL) {
            logged = Some(Instant::now());
            let missing = dropped.load(Ordering::Relaxed);
            tracing::error!(%error, missing, "the audit log cannot be written");
        }
    }
}
