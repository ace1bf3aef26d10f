//! What was asked, when, and what came of it; and what was done to the cluster meanwhile.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::rows::Content;

/// How a put changes its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PutMode {
    /// The table is these rows from then on.
    Replace,
    /// The same, but the table must not have been there.
    Create,
    /// These rows come after those that are there.
    Append,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// A write, repeated under its id until its outcome is known or patience ends.
    Put {
        /// What it does to the table.
        mode: PutMode,
        /// Its id.
        write: String,
        /// How many rows it has.
        rows: i64,
    },
    /// Drops the table.
    Drop,
    /// Reads the newest version: all endpoints of its FlightInfo in parallel, or one stream by the table's name.
    Read {
        /// Whether by FlightInfo.
        endpoints: bool,
    },
    /// Reads what an earlier FlightInfo pinned.
    Pinned {
        /// What that gave when it was new.
        was: Content,
    },
    /// Reads a version by its number.
    Version {
        /// Its number.
        version: u64,
    },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A write that took effect and made this version; a drop says 0.
    Done {
        /// The version.
        version: u64,
    },
    /// What a read gave.
    Content {
        /// The version, if the answer named one.
        version: Option<u64>,
        /// Whether the order of `writes` means something.
        ordered: bool,
        /// The rows.
        #[serde(flatten)]
        content: Content,
    },
    /// There is no such table (or version, or ticket).
    Absent,
    /// There is such a table already.
    Present,
    /// An error after which it certainly had no effect.
    Refused {
        /// gRPC's code.
        code: String,
        /// The message.
        message: String,
    },
    /// An error that leaves open whether it took, or will take, effect.
    Unknown {
        /// gRPC's code.
        code: String,
        /// The message.
        message: String,
    },
}

/// One operation of a client. Times are microseconds since the run began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its number; a line with the same number corrects the earlier one.
    pub id: u64,
    /// On which table.
    pub table: String,
    /// What was asked.
    pub ask: Ask,
    /// When it was first asked.
    pub begin: u64,
    /// When the last answer came.
    pub end: u64,
    /// What came of it.
    pub outcome: Outcome,
}

/// One fault. Times as in [`Event`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FaultEvent {
    /// What kind.
    pub kind: String,
    /// To whom, and how.
    pub what: String,
    /// When it was done.
    pub begin: u64,
    /// When it was undone.
    pub end: u64,
}

/// A line of a history.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// An operation.
    Event(Event),
    /// A fault.
    Fault(FaultEvent),
}

/// A whole run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// By number.
    pub events: BTreeMap<u64, Event>,
    /// In their order.
    pub faults: Vec<FaultEvent>,
}

impl History {
    fn add(&mut self, line: Line) {
        match line {
            Line::Event(event) => drop(self.events.insert(event.id, event)),
            Line::Fault(fault) => self.faults.push(fault),
        }
    }

    /// Reads JSON lines.
    ///
    /// # Errors
    /// If the file cannot be read, or a line is none of a history.
    pub fn load(path: &Path) -> io::Result<History> {
        let mut history = History::default();
        for line in BufReader::new(File::open(path)?).lines() {
            history.add(serde_json::from_str(&line?)?);
        }
        Ok(history)
    }
}

/// Takes down a run, in memory and in a file.
pub struct Recorder {
    start: Instant,
    next: AtomicU64,
    kept: Mutex<(File, History)>,
}

impl Recorder {
    /// Begins; this is time 0.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn new(path: &Path) -> io::Result<Recorder> {
        let kept = Mutex::new((File::create(path)?, History::default()));
        Ok(Recorder { start: Instant::now(), next: AtomicU64::new(1), kept })
    }

    /// Microseconds since the run began.
    pub fn now(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    /// How long the run has lasted.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// A number for an event.
    pub fn id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes down a line.
    pub fn add(&self, line: Line) {
        let mut text = serde_json::to_vec(&line).unwrap();
        text.push(b'\n');
        let (file, history) = &mut *self.kept.lock();
        file.write_all(&text).unwrap();
        history.add(line);
    }

    /// All that was taken down so far.
    pub fn history(&self) -> History {
        self.kept.lock().1.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_read_back_as_it_was_and_later_lines_correct_earlier_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        let recorder = Recorder::new(&path).unwrap();
        let content = Content { writes: vec!["w".into()], flaws: vec![] };
        let event = |outcome| Event { id: 1, table: "t".into(), ask: Ask::Drop, begin: 1, end: 2, outcome };
        recorder.add(Line::Event(event(Outcome::Unknown { code: "c".into(), message: "m".into() })));
        recorder.add(Line::Event(event(Outcome::Content { version: Some(3), ordered: true, content })));
        let fault = FaultEvent { kind: "kill".into(), what: "node1".into(), begin: 1, end: 2 };
        recorder.add(Line::Fault(fault.clone()));
        let read = History::load(&path).unwrap();
        assert_eq!(read.events, recorder.history().events);
        assert!(matches!(read.events[&1].outcome, Outcome::Content { version: Some(3), .. }));
        assert_eq!(read.faults, [fault]);
    }
}
