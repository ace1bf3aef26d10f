//! The history of a run: every operation with its outcome and times, and every fault.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::rows::TableContent;
use crate::table_query::TableQuery;

/// How a put changes its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PutMode {
    /// The table consists of only these rows afterwards.
    Replace,
    /// The same, but the table must not exist before.
    Create,
    /// These rows are added to the table.
    Append,
}

/// What a client requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpRequest {
    /// A write, repeated under its id until its outcome is known or the attempts are used up.
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
    /// Reads the newest version by SQL.
    Query {
        /// What was asked.
        query: TableQuery,
    },
    /// Reads the version that an earlier FlightInfo pinned.
    ReadPinned {
        /// Its content when it was new.
        was: TableContent,
    },
    /// Reads a version by its number.
    ReadVersion {
        /// Its number.
        version: u64,
    },
}

/// The outcome of an operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpOutcome {
    /// A write that took effect and made this version; a drop says 0.
    Done {
        /// The version.
        version: u64,
    },
    /// What a read returned.
    Content {
        /// The version, if the answer named one.
        version: Option<u64>,
        /// Whether the order of `writes` is significant.
        ordered: bool,
        /// The rows.
        #[serde(flatten)]
        content: TableContent,
    },
    /// The table (or version, or ticket) does not exist.
    Absent,
    /// The table exists already.
    Present,
    /// An error that means that it had no effect.
    Refused {
        /// The gRPC code.
        code: String,
        /// The message.
        message: String,
    },
    /// An error that leaves unknown whether it took effect, or still will.
    Unknown {
        /// The gRPC code.
        code: String,
        /// The message.
        message: String,
    },
}

/// One operation of a client. Times are microseconds since the run began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientOperation {
    /// Its id; a later line with the same id replaces the earlier one.
    pub id: u64,
    /// The table.
    pub table: String,
    /// What was requested.
    pub request: OpRequest,
    /// When it was first sent.
    pub begin: u64,
    /// When the last answer arrived.
    pub end: u64,
    /// Its outcome.
    pub outcome: OpOutcome,
}

/// One fault. Times as in [`ClientOperation`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FaultEvent {
    /// Its kind.
    pub kind: String,
    /// Which members it hit, and how.
    pub what: String,
    /// When it was injected.
    pub begin: u64,
    /// When it was undone.
    pub end: u64,
    /// The one member that did not answer meanwhile, though connections to it stayed open; none for other faults.
    #[serde(default)]
    pub hung: Option<String>,
}

/// One call of a client to a member, with whatever outcome. Times as in [`ClientOperation`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberCall {
    /// The client.
    pub client: u64,
    /// The member that was called.
    pub member: String,
    /// When it began.
    pub begin: u64,
    /// When it ended.
    pub end: u64,
}

/// A line of a history.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HistoryLine {
    /// An operation.
    Operation(ClientOperation),
    /// A fault.
    Fault(FaultEvent),
    /// A call.
    Call(MemberCall),
}

/// The history of a whole run.
#[derive(Clone, Debug, Default)]
pub struct ClientHistory {
    /// By id.
    pub operations: BTreeMap<u64, ClientOperation>,
    /// In the order in which they were injected.
    pub faults: Vec<FaultEvent>,
    /// In the order in which they ended.
    pub calls: Vec<MemberCall>,
}

impl ClientHistory {
    fn add(&mut self, line: HistoryLine) {
        match line {
            HistoryLine::Operation(operation) => drop(self.operations.insert(operation.id, operation)),
            HistoryLine::Fault(fault) => self.faults.push(fault),
            HistoryLine::Call(call) => self.calls.push(call),
        }
    }

    /// Reads JSON lines.
    ///
    /// # Errors
    /// If the file cannot be read, or a line cannot be parsed.
    pub fn load(path: &Path) -> io::Result<ClientHistory> {
        let mut history = ClientHistory::default();
        for line in BufReader::new(File::open(path)?).lines() {
            history.add(serde_json::from_str(&line?)?);
        }
        Ok(history)
    }
}

/// Records a history, in memory and in a file.
pub struct HistoryRecorder {
    start: Instant,
    next: AtomicU64,
    kept: Mutex<(File, ClientHistory)>,
}

impl HistoryRecorder {
    /// Begins a history at time 0.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub fn new(path: &Path) -> io::Result<HistoryRecorder> {
        let kept = Mutex::new((File::create(path)?, ClientHistory::default()));
        Ok(HistoryRecorder { start: Instant::now(), next: AtomicU64::new(1), kept })
    }

    /// Microseconds since the run began.
    pub fn now(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    /// How long the run has lasted.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// A new id for an operation.
    pub fn id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Adds a line.
    pub fn add(&self, line: HistoryLine) {
        let mut text = serde_json::to_vec(&line).unwrap();
        text.push(b'\n');
        let (file, history) = &mut *self.kept.lock();
        file.write_all(&text).unwrap();
        history.add(line);
    }

    /// The history so far.
    pub fn history(&self) -> ClientHistory {
        self.kept.lock().1.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_read_back_keeps_the_last_line_of_each_id() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        let recorder = HistoryRecorder::new(&path).unwrap();
        let content = TableContent { writes: vec!["w".into()], flaws: vec![] };
        let operation =
            |outcome| ClientOperation { id: 1, table: "t".into(), request: OpRequest::Drop, begin: 1, end: 2, outcome };
        recorder.add(HistoryLine::Operation(operation(OpOutcome::Unknown { code: "c".into(), message: "m".into() })));
        recorder.add(HistoryLine::Operation(operation(OpOutcome::Content {
            version: Some(3),
            ordered: true,
            content,
        })));
        let fault = FaultEvent { kind: "crash-node".into(), what: "node1".into(), begin: 1, end: 2, hung: None };
        recorder.add(HistoryLine::Fault(fault.clone()));
        let read = ClientHistory::load(&path).unwrap();
        assert_eq!(read.operations, recorder.history().operations);
        assert!(matches!(read.operations[&1].outcome, OpOutcome::Content { version: Some(3), .. }));
        assert_eq!(read.faults, [fault]);
    }
}
