//! The checks of a run, and its trace of events.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use volley_coordinator::raft::storage::state_machine::ApplyObserver;
use volley_coordinator::raft::types::{LogId, RaftLogEntry};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::invariants::CatalogInvariants;
use crate::network::Incarnation;
use crate::oracle::{Oracle, SimViolation};
use crate::table_history::TableHistory;

/// The number of last events that a failed run shows.
const SHOWN_EVENTS: usize = 60;

/// The state of the checks of a run.
pub struct SimChecks {
    start: Instant,
    pub oracle: Mutex<Oracle>,
    pub history: Mutex<TableHistory>,
    /// The invariants, and after how many entries they were last checked.
    invariants: Mutex<(CatalogInvariants, usize)>,
    /// The leader of a term.
    leaders: Mutex<BTreeMap<u64, u64>>,
    /// The highest vote that a coordinator granted: term and candidate.
    granted_votes: Mutex<BTreeMap<u64, (u64, u64)>>,
    /// How many entries a coordinator has applied.
    applied: Mutex<BTreeMap<u64, (Incarnation, usize)>>,
    trace: Mutex<EventTrace>,
    violated: Notify,
    ticks: AtomicU64,
    verbose: bool,
}

#[derive(Default)]
struct EventTrace {
    last: VecDeque<String>,
    digest: u64,
    violation: Option<SimViolation>,
}

impl SimChecks {
    /// `verbose` prints every event.
    pub fn new(verbose: bool) -> Arc<SimChecks> {
        Arc::new(SimChecks {
            start: Instant::now(),
            oracle: Mutex::default(),
            history: Mutex::default(),
            invariants: Mutex::default(),
            leaders: Mutex::default(),
            granted_votes: Mutex::default(),
            applied: Mutex::default(),
            trace: Mutex::default(),
            violated: Notify::new(),
            ticks: AtomicU64::new(0),
            verbose,
        })
    }

    /// Microseconds since the run started.
    pub fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    /// A logical time that is never returned twice.
    pub fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::Relaxed)
    }

    /// Adds an event to the trace.
    #[allow(clippy::print_stdout)]
    pub fn event(&self, text: impl Into<String>) {
        let now = self.now_us();
        let line = format!("{:>6}.{:03} ms  {}", now / 1000, now % 1000, text.into());
        if self.verbose {
            println!("{line}");
        }
        let mut trace = self.trace.lock();
        trace.digest = xxh3_64_with_seed(line.as_bytes(), trace.digest);
        if trace.last.len() == SHOWN_EVENTS {
            trace.last.pop_front();
        }
        trace.last.push_back(line);
    }

    /// A digest of all events.
    pub fn trace_digest(&self) -> u64 {
        self.trace.lock().digest
    }

    /// The last events, one per line.
    pub fn last_events(&self) -> String {
        self.trace.lock().last.iter().map(|line| format!("  {line}\n")).collect()
    }

    /// Records the outcome of a check. The first violation ends the run.
    pub fn record(&self, outcome: Result<(), SimViolation>) {
        if let Err(violation) = outcome {
            self.event(format!("VIOLATION: {violation}"));
            self.trace.lock().violation.get_or_insert(violation);
            self.violated.notify_one();
        }
    }

    /// The first violation.
    pub fn violation(&self) -> Option<SimViolation> {
        self.trace.lock().violation.clone()
    }

    /// Waits for a violation.
    pub async fn violated(&self) {
        while self.violation().is_none() {
            self.violated.notified().await;
        }
    }

    /// Checks that only one leader commits entries in a term. Two may lead in one term, because votes are ordered by
    /// term and candidate; but then the earlier one commits nothing any more, and the later one has no entries of the
    /// earlier.
    fn committed_by(&self, term: u64, node: u64) {
        let known = *self.leaders.lock().entry(term).or_insert_with(|| {
            self.event(format!("coordinator {node} commits in term {term}"));
            node
        });
        if known != node {
            self.record(Err(format!("two leaders commit in term {term}: {known} and {node}")));
        }
    }

    /// Notes that a coordinator granted a vote.
    pub fn vote_granted(&self, id: u64, vote: (u64, u64)) {
        let mut granted = self.granted_votes.lock();
        let known = granted.entry(id).or_default();
        *known = (*known).max(vote);
    }

    /// Discards the recorded votes of a coordinator that lost its folder.
    pub fn forget_votes(&self, id: u64) {
        self.granted_votes.lock().remove(&id);
    }

    /// The highest vote that a coordinator granted.
    pub fn granted_vote(&self, id: u64) -> (u64, u64) {
        self.granted_votes.lock().get(&id).copied().unwrap_or_default()
    }

    /// Checks that a restarted coordinator still has the vote that it had granted.
    pub fn check_vote_remembered(&self, id: u64, granted: (u64, u64), vote: (u64, u64)) {
        if vote < granted {
            self.record(Err(format!("coordinator {id} lost its vote: it has {vote:?}, but granted {granted:?}")));
        }
    }

    /// How many entries this incarnation of a coordinator has applied.
    pub fn applied(&self, incarnation: Incarnation) -> Option<usize> {
        self.applied.lock().get(&incarnation.id).filter(|(now, _)| *now == incarnation).map(|(_, count)| *count)
    }

    /// Observes the state machine of this incarnation, and no longer that of an earlier one.
    pub fn observer(self: &Arc<Self>, incarnation: Incarnation) -> Arc<dyn ApplyObserver> {
        self.applied.lock().insert(incarnation.id, (incarnation, 0));
        Arc::new(SimApplyObserver { checks: self.clone(), incarnation })
    }

    /// Checks the invariants of the catalog after what is committed now.
    pub fn check_invariants(&self) {
        let oracle = self.oracle.lock();
        let mut invariants = self.invariants.lock();
        if invariants.1 != oracle.len() {
            invariants.1 = oracle.len();
            self.record(invariants.0.check(oracle.catalog()));
        }
    }
}

struct SimApplyObserver {
    checks: Arc<SimChecks>,
    incarnation: Incarnation,
}

impl SimApplyObserver {
    fn set_applied(&self, count: Result<usize, SimViolation>) {
        let mut applied = self.checks.applied.lock();
        if let Some((_, known)) = applied.get_mut(&self.incarnation.id).filter(|(now, _)| *now == self.incarnation) {
            *known = count.as_ref().copied().unwrap_or(*known);
        }
        drop(applied);
        self.checks.record(count.map(drop));
    }
}

impl ApplyObserver for SimApplyObserver {
    fn restored(&self, last: Option<LogId>) {
        if self.checks.applied(self.incarnation).is_some() {
            let count = self.checks.oracle.lock().restored(self.incarnation.id, last);
            self.checks.event(format!("coordinator {} is restored to {count:?} entries", self.incarnation.id));
            self.set_applied(count);
        }
    }

    fn applying(&self, entry: &RaftLogEntry) {
        let Some(count) = self.checks.applied(self.incarnation) else { return };
        self.checks.committed_by(entry.log_id.leader_id.term, entry.log_id.leader_id.node_id);
        let mut oracle = self.checks.oracle.lock();
        let known = oracle.len();
        let outcome = oracle.applying(self.incarnation.id, count, entry);
        if oracle.len() > known {
            self.checks.event(format!("coordinator {} is the first to apply {entry}", self.incarnation.id));
        }
        drop(oracle);
        self.set_applied(outcome.map(|()| count + 1));
    }
}
