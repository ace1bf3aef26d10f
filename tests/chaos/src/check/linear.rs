//! Whether what clients saw of one table can have happened in some order that agrees with their clocks.
//!
//! The search is Wing and Gong's with Lowe's memory of states: an operation may come next if none that is
//! still missing ended before it began, and no state is looked at twice. stateright's tester has no such
//! memory, and needs time exponential in the operations at once; hence one of our own.

use std::collections::HashSet;

/// What an operation did, or may have done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Made the table's content this write alone.
    Replace {
        /// The write.
        write: u32,
        /// The version that was answered; none if the outcome is unknown.
        version: Option<u64>,
        /// Whether the table must not have been there.
        create: bool,
    },
    /// Added this write.
    Append {
        /// The write.
        write: u32,
        /// As in `Replace`.
        version: Option<u64>,
    },
    /// Dropped the table.
    Drop,
    /// Saw these writes.
    Read {
        /// The version that was answered, if one was.
        version: Option<u64>,
        /// The writes.
        writes: Vec<u32>,
        /// Whether their order means something.
        ordered: bool,
    },
    /// Saw that there is no table.
    Absent,
    /// Saw that there is one.
    Present,
}

/// An operation on the table.
#[derive(Clone, Debug)]
pub struct Call {
    /// When it began.
    pub begin: u64,
    /// When its answer came; none: it may take effect at any time, or never.
    pub end: Option<u64>,
    /// What it did.
    pub act: Act,
}

/// What the search says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is such an order.
    Linear,
    /// There is none. The longest order that could be made ended before one of these calls (by index).
    Broken(Vec<usize>),
    /// There are too many states to look at.
    Undecided,
}

/// States that are looked at, at most.
const MOST_STATES: usize = 3_000_000;

/// The table between two operations. Versions grow, but not by one: the cluster itself may make versions
/// whose rows are the same (when it merges parts).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
struct Table {
    version: u64,
    writes: Vec<u32>,
}

/// Which calls are done, and what the table is then.
#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    done: Vec<u64>,
    table: Option<Table>,
}

impl State {
    fn has(&self, call: usize) -> bool {
        self.done[call / 64] & (1 << (call % 64)) != 0
    }

    fn with(&self, call: usize, table: Option<Table>) -> State {
        let mut done = self.done.clone();
        done[call / 64] |= 1 << (call % 64);
        State { done, table }
    }
}

/// Searches for an order. A table that is not there yet is where it begins.
pub fn judge(calls: &[Call]) -> Verdict {
    let seen: HashSet<u32> = calls.iter().filter_map(reads).flatten().copied().collect();
    let begin = State { done: vec![0; calls.len().div_ceil(64).max(1)], table: None };
    let (mut known, mut open) = (HashSet::from([begin.clone()]), vec![begin]);
    let (mut furthest, mut stuck) = (0, Vec::new());
    while let Some(state) = open.pop() {
        let missing: Vec<usize> = (0..calls.len()).filter(|call| !state.has(*call)).collect();
        let Some(until) = missing.iter().filter_map(|call| calls[*call].end).min() else { return Verdict::Linear };
        let mut next: Vec<usize> = missing.iter().copied().filter(|call| calls[*call].begin <= until).collect();
        let done = calls.len() - missing.len();
        if done >= furthest {
            (furthest, stuck) = (done, next.clone());
        }
        // The last that is pushed is looked at first: the lowest version, the earliest end; what may never have been, last.
        next.sort_by_key(|call| {
            std::cmp::Reverse((calls[*call].end.is_none(), version(&calls[*call]), calls[*call].end))
        });
        for call in next {
            let Some(table) = step(&state.table, &calls[call], &seen) else { continue };
            let after = state.with(call, table);
            if known.insert(after.clone()) {
                open.push(after);
            }
        }
        if known.len() > MOST_STATES {
            return Verdict::Undecided;
        }
    }
    stuck.retain(|call| calls[*call].end.is_some());
    Verdict::Broken(stuck)
}

fn reads(call: &Call) -> Option<&Vec<u32>> {
    match &call.act {
        Act::Read { writes, .. } => Some(writes),
        _ => None,
    }
}

fn version(call: &Call) -> u64 {
    match call.act {
        Act::Replace { version, .. } | Act::Append { version, .. } | Act::Read { version, .. } => version.unwrap_or(0),
        Act::Drop | Act::Absent | Act::Present => 0,
    }
}

/// The table after the call; none if the call cannot come then, or if it would make no difference to anybody.
fn step(table: &Option<Table>, call: &Call, seen: &HashSet<u32>) -> Option<Option<Table>> {
    let current = table.as_ref().map_or(0, |table| table.version);
    let after = |version: Option<u64>| match version {
        Some(version) => (version > current).then_some(version),
        None => Some(current + 1),
    };
    match (&call.act, table) {
        (Act::Replace { create: true, .. }, Some(_)) => None,
        // Nobody saw it: all it can have done is to make the table.
        (Act::Replace { write, .. }, Some(_)) if call.end.is_none() && !seen.contains(write) => None,
        (Act::Replace { write, version, .. }, _) => {
            Some(Some(Table { version: after(*version)?, writes: vec![*write] }))
        }
        (Act::Append { write, .. }, _) if call.end.is_none() && !seen.contains(write) => None,
        (Act::Append { write, version }, Some(table)) => {
            let writes = table.writes.iter().copied().chain([*write]).collect();
            Some(Some(Table { version: after(*version)?, writes }))
        }
        (Act::Drop, Some(_)) => Some(None),
        (Act::Read { version, writes, ordered }, Some(table)) => {
            let version = version.unwrap_or(current);
            (version >= current && same(&table.writes, writes, *ordered))
                .then(|| Some(Table { version, writes: table.writes.clone() }))
        }
        (Act::Absent, None) => Some(None),
        (Act::Present, Some(table)) => Some(Some(table.clone())),
        (Act::Append { .. } | Act::Drop | Act::Read { .. } | Act::Present, None) | (Act::Absent, Some(_)) => None,
    }
}

fn same(there: &[u32], read: &[u32], ordered: bool) -> bool {
    if there.len() != read.len() {
        return false;
    }
    if ordered {
        return there == read;
    }
    let read: HashSet<&u32> = read.iter().collect();
    there.iter().all(|write| read.contains(write))
}
