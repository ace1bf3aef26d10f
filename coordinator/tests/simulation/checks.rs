//! What is watched during a run, and its trace.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use volley_coordinator::raft::machine::Witness;
use volley_coordinator::raft::types::{Entry, LogId};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::linear::History;
use crate::network::Life;
use crate::oracle::{Oracle, Violation};
use crate::rules::Rules;

/// So many of the last events are shown.
const SHOWN: usize = 60;

/// Everything that is known of a run.
pub struct Checks {
    began: Instant,
    pub oracle: Mutex<Oracle>,
    pub history: Mutex<History>,
    rules: Mutex<(Rules, usize)>,
    /// Who leads in a term.
    leaders: Mutex<BTreeMap<u64, u64>>,
    /// The highest vote that a coordinator granted: term and node.
    promises: Mutex<BTreeMap<u64, (u64, u64)>>,
    /// After how many entries a coordinator stands.
    at: Mutex<BTreeMap<u64, (Life, usize)>>,
    trace: Mutex<Trace>,
    violated: Notify,
    ticks: AtomicU64,
    aloud: bool,
}

#[derive(Default)]
struct Trace {
    last: VecDeque<String>,
    digest: u64,
    violation: Option<Violation>,
}

impl Checks {
    /// `aloud`: every event is printed as it comes.
    pub fn new(aloud: bool) -> Arc<Checks> {
        Arc::new(Checks {
            began: Instant::now(),
            oracle: Mutex::default(),
            history: Mutex::default(),
            rules: Mutex::default(),
            leaders: Mutex::default(),
            promises: Mutex::default(),
            at: Mutex::default(),
            trace: Mutex::default(),
            violated: Notify::new(),
            ticks: AtomicU64::new(0),
            aloud,
        })
    }

    /// Microseconds since the run began.
    pub fn now_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    /// A moment that is no other.
    pub fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::Relaxed)
    }

    /// Something happened.
    #[allow(clippy::print_stdout)]
    pub fn event(&self, text: impl Into<String>) {
        let now = self.now_us();
        let line = format!("{:>6}.{:03} ms  {}", now / 1000, now % 1000, text.into());
        if self.aloud {
            println!("{line}");
        }
        let mut trace = self.trace.lock();
        trace.digest = xxh3_64_with_seed(line.as_bytes(), trace.digest);
        if trace.last.len() == SHOWN {
            trace.last.pop_front();
        }
        trace.last.push_back(line);
    }

    /// A digest of all events.
    pub fn trace_digest(&self) -> u64 {
        self.trace.lock().digest
    }

    /// The last events, a line each.
    pub fn last_events(&self) -> String {
        self.trace.lock().last.iter().map(|line| format!("  {line}\n")).collect()
    }

    /// Notes a violation; the first one counts.
    pub fn judge(&self, outcome: Result<(), Violation>) {
        if let Err(violation) = outcome {
            self.event(format!("VIOLATION: {violation}"));
            self.trace.lock().violation.get_or_insert(violation);
            self.violated.notify_one();
        }
    }

    /// What was violated.
    pub fn violation(&self) -> Option<Violation> {
        self.trace.lock().violation.clone()
    }

    /// Waits for a violation.
    pub async fn violated(&self) {
        while self.violation().is_none() {
            self.violated.notified().await;
        }
    }

    /// What a coordinator proposed as the leader of a term is committed. Two may lead in one term, for votes are ordered by
    /// term and candidate; but the earlier of them commits nothing any more, and the later one had nothing of the earlier.
    pub fn commits(&self, term: u64, node: u64) {
        let known = *self.leaders.lock().entry(term).or_insert_with(|| {
            self.event(format!("coordinator {node} commits in term {term}"));
            node
        });
        if known != node {
            self.judge(Err(format!("two leaders commit in term {term}: {known} and {node}")));
        }
    }

    /// A coordinator granted a vote.
    pub fn promised(&self, id: u64, vote: (u64, u64)) {
        let mut promises = self.promises.lock();
        let known = promises.entry(id).or_default();
        *known = (*known).max(vote);
    }

    /// A coordinator lost its folder: what it promised is void.
    pub fn forget(&self, id: u64) {
        self.promises.lock().remove(&id);
    }

    /// The highest vote that it granted.
    pub fn granted(&self, id: u64) -> (u64, u64) {
        self.promises.lock().get(&id).copied().unwrap_or_default()
    }

    /// A coordinator that is back remembers what it granted.
    pub fn remembers(&self, id: u64, granted: (u64, u64), vote: (u64, u64)) {
        if vote < granted {
            self.judge(Err(format!("coordinator {id} forgot its vote: it is at {vote:?}, and granted {granted:?}")));
        }
    }

    /// After how many entries a coordinator stands in this life.
    pub fn at(&self, life: Life) -> Option<usize> {
        self.at.lock().get(&life.id).filter(|(now, _)| *now == life).map(|(_, at)| *at)
    }

    /// What a life's state machine does is seen from now on, and no earlier life's any more.
    pub fn witness(self: &Arc<Self>, life: Life) -> Arc<dyn Witness> {
        self.at.lock().insert(life.id, (life, 0));
        Arc::new(Seen { checks: self.clone(), life })
    }

    /// The rules of the catalog, after what is committed now.
    pub fn check_rules(&self) {
        let oracle = self.oracle.lock();
        let mut rules = self.rules.lock();
        if rules.1 != oracle.len() {
            rules.1 = oracle.len();
            self.judge(rules.0.check(oracle.catalog()));
        }
    }
}

struct Seen {
    checks: Arc<Checks>,
    life: Life,
}

impl Seen {
    fn stand(&self, to: Result<usize, Violation>) {
        if let Some((_, at)) = self.checks.at.lock().get_mut(&self.life.id).filter(|(now, _)| *now == self.life) {
            *at = to.as_ref().copied().unwrap_or(*at);
        }
        self.checks.judge(to.map(drop));
    }
}

impl Witness for Seen {
    fn stands_at(&self, last: Option<LogId>) {
        if self.checks.at(self.life).is_some() {
            let at = self.checks.oracle.lock().stands_at(self.life.id, last);
            self.checks.event(format!("coordinator {} stands at {at:?}", self.life.id));
            self.stand(at);
        }
    }

    fn applies(&self, entry: &Entry) {
        let Some(at) = self.checks.at(self.life) else { return };
        self.checks.commits(entry.log_id.leader_id.term, entry.log_id.leader_id.node_id);
        let mut oracle = self.checks.oracle.lock();
        let known = oracle.len();
        let outcome = oracle.applies(self.life.id, at, entry);
        if oracle.len() > known {
            self.checks.event(format!("coordinator {} is the first to apply {entry}", self.life.id));
        }
        drop(oracle);
        self.stand(outcome.map(|()| at + 1));
    }
}
