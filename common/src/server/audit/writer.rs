//! The thread that writes the audit log, and its bounded queue: neither a slow disk nor a full one delays a call.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::line::AuditLine;
use super::recent::RecentLines;
use super::share::AuditShare;
use crate::{Error, Result};

/// Events that are not in the log.
const DROPPED: &str = "volley_audit_dropped_total";
/// Refusals of callers without identity that have no line of their own.
const SUPPRESSED: &str = "volley_audit_suppressed_total";
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

/// Boxed, because the queue has memory for all its places from the beginning.
type QueuedLine = (AuditShare, Box<AuditLine>);

/// The lines that wait to be written. When it is dropped, they are written.
pub(super) struct AuditQueue {
    /// `None` only while it is dropped. Bounded by the places of the shares.
    lines: Option<SyncSender<QueuedLine>>,
    capacity: usize,
    counts: Arc<AuditCounts>,
    recent: Arc<RecentLines>,
    /// Disconnected when the thread has ended.
    ended: Mutex<Receiver<()>>,
}

/// What the callers and the thread count together.
#[derive(Default)]
struct AuditCounts {
    /// Events since the last written line that are not in the log.
    dropped: AtomicU64,
    /// Refusals since the last written line that it only counts.
    suppressed: AtomicU64,
    /// Lines of each share that wait to be written.
    waiting: [AtomicUsize; AuditShare::ALL.len()],
}

impl AuditCounts {
    fn drop_events(&self, events: u64) {
        self.dropped.fetch_add(events, Ordering::Relaxed);
        metrics::counter!(DROPPED).increment(events);
    }
}

impl AuditQueue {
    /// Starts the thread. `capacity`: lines of principals that wait at most; other shares have places of their own.
    ///
    /// # Errors
    /// INTERNAL: the system refuses a thread.
    pub fn start(mut sink: Box<dyn AuditSink>, capacity: usize) -> Result<Self> {
        let places = AuditShare::ALL.map(|share| share.places(capacity));
        let (lines, waiting) = sync_channel(places.iter().sum());
        let (end, ended) = sync_channel(0);
        let counts = Arc::<AuditCounts>::default();
        let recent = Arc::<RecentLines>::default();
        let (counted, kept) = (counts.clone(), recent.clone());
        std::thread::Builder::new()
            .name("volley-audit".into())
            .spawn(move || {
                let _end: SyncSender<()> = end;
                write_lines(&waiting, &mut *sink, &counted, &kept);
            })
            .map_err(|e| Error::internal(format!("cannot start the thread of the audit log: {e}")))?;
        Ok(AuditQueue { lines: Some(lines), capacity, counts, recent, ended: Mutex::new(ended) })
    }

    /// Queues a line, or counts it if its share has no place.
    pub fn send(&self, share: AuditShare, line: impl FnOnce() -> AuditLine) {
        let places = share.places(self.capacity);
        let taken = self.counts.waiting[share as usize]
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| (waiting < places).then_some(waiting + 1));
        let queue = |lines: &SyncSender<QueuedLine>| lines.try_send((share, Box::new(line()))).is_ok();
        let is_queued = taken.is_ok() && self.lines.as_ref().is_some_and(queue);
        if !is_queued {
            self.counts.drop_events(1);
        }
    }

    /// The newest lines.
    pub fn recent(&self) -> &RecentLines {
        &self.recent
    }

    /// Counts a refusal that gets no line.
    pub fn suppress(&self) {
        self.counts.suppressed.fetch_add(1, Ordering::Relaxed);
        metrics::counter!(SUPPRESSED).increment(1);
    }
}

impl Drop for AuditQueue {
    fn drop(&mut self) {
        self.lines = None;
        // A disk that hangs must not keep the process.
        let _ = self.ended.get_mut().recv_timeout(FLUSH_TIMEOUT);
    }
}

/// Writes the lines until there are no more senders.
fn write_lines(waiting: &Receiver<QueuedLine>, sink: &mut dyn AuditSink, counts: &AuditCounts, recent: &RecentLines) {
    let mut logged: Option<Instant> = None;
    while let Ok((share, mut line)) = waiting.recv() {
        counts.waiting[share as usize].fetch_sub(1, Ordering::Relaxed);
        line.dropped = counts.dropped.swap(0, Ordering::Relaxed);
        line.suppressed = counts.suppressed.swap(0, Ordering::Relaxed);
        let text = line.to_json();
        let written = sink.write_line(text.as_bytes());
        recent.push(text);
        let Err(error) = written else { continue };
        // Those before are counted already.
        counts.dropped.fetch_add(line.dropped, Ordering::Relaxed);
        counts.suppressed.fetch_add(line.suppressed, Ordering::Relaxed);
        counts.drop_events(1);
        if logged.is_none_or(|logged| logged.elapsed() >= FAILURE_LOG_INTERVAL) {
            logged = Some(Instant::now());
            let missing = counts.dropped.load(Ordering::Relaxed);
            tracing::error!(%error, missing, "the audit log cannot be written");
        }
    }
}
