//! The judge: a history → what should not have happened.
//!
//! [`linear`] looks for an order of each table's operations; `data` looks for single things that no order
//! can excuse, and can say what they are. Both must find nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::history::{Ask, Event, History, Outcome, PutMode};
use linear::{Act, Call, Verdict};

mod data;
pub mod linear;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Part of a write is visible.
    Torn,
    /// Rows that nobody wrote so, or twice, or in another order.
    Corrupt,
    /// A write is visible that was refused, or not yet asked for.
    Phantom,
    /// An acknowledged write is not visible.
    Lost,
    /// A read shows an older version than was acknowledged before it began.
    Stale,
    /// One version, or one FlightInfo, showed different rows at different times.
    Mixed,
    /// No order of the operations explains the answers.
    NotLinear,
    /// The search for such an order was given up.
    Undecided,
    /// An answer that a fault does not explain.
    Unexpected,
    /// A process ended by itself.
    Died,
    /// A member cannot be reached, or is not ready, after the faults.
    Unreachable,
    /// Copies are missing, or damaged, after the faults.
    NotRepaired,
    /// Something was left behind.
    Litter,
}

/// Something that should not have happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// What kind.
    pub kind: Kind,
    /// What exactly.
    pub what: String,
    /// Numbers of the events that show it.
    pub events: Vec<u64>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.what)?;
        if !self.events.is_empty() {
            write!(f, " (events {:?})", self.events)?;
        }
        Ok(())
    }
}

/// Judges a whole history.
pub fn judge(history: &History) -> Vec<Violation> {
    let mut tables: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
    for event in history.events.values() {
        tables.entry(&event.table).or_default().push(event);
    }
    tables.values().flat_map(|events| data::judge(events).into_iter().chain(order(events))).collect()
}

/// The search for an order of one table's operations.
fn order(events: &[&Event]) -> Option<Violation> {
    let mut names = Names::default();
    let mut calls: Vec<(Call, u64)> =
        events.iter().filter_map(|event| Some((call(event, &mut names)?, event.id))).collect();
    calls.sort_by_key(|(call, _)| call.begin);
    let (calls, ids): (Vec<Call>, Vec<u64>) = calls.into_iter().unzip();
    let table = &events[0].table;
    let (kind, what, events) = match linear::judge(&calls) {
        Verdict::Linear => return None,
        Verdict::Broken(stuck) => {
            let what = format!("table {table}: no order of its {} operations explains the answers", calls.len());
            (Kind::NotLinear, what, stuck.into_iter().map(|at| ids[at]).collect())
        }
        Verdict::Undecided => {
            (Kind::Undecided, format!("table {table}: too many orders of its {} operations", calls.len()), Vec::new())
        }
    };
    Some(Violation { kind, what, events })
}

/// Numbers for the writes' ids.
#[derive(Default)]
struct Names<'a>(BTreeMap<&'a str, u32>);

impl<'a> Names<'a> {
    fn of(&mut self, write: &'a str) -> u32 {
        let next = self.0.len() as u32;
        *self.0.entry(write).or_insert(next)
    }
}

/// What the search should know of an event; none if it says nothing of the newest version.
fn call<'a>(event: &'a Event, names: &mut Names<'a>) -> Option<Call> {
    let (begin, end) = (event.begin, Some(event.end));
    let act = match (&event.ask, &event.outcome) {
        (Ask::Put { mode, write, .. }, Outcome::Done { version }) => put(*mode, names.of(write), Some(*version)),
        (Ask::Put { mode, write, .. }, Outcome::Unknown { .. }) => {
            return Some(Call { begin, end: None, act: put(*mode, names.of(write), None) });
        }
        (Ask::Drop, Outcome::Done { .. }) => Act::Drop,
        (Ask::Drop, Outcome::Unknown { .. }) => return Some(Call { begin, end: None, act: Act::Drop }),
        (Ask::Read { .. }, Outcome::Content { version, ordered, content }) => {
            let writes = content.writes.iter().map(|write| names.of(write)).collect();
            Act::Read { version: *version, writes, ordered: *ordered }
        }
        (Ask::Put { .. } | Ask::Drop | Ask::Read { .. }, Outcome::Absent) => Act::Absent,
        (Ask::Put { .. }, Outcome::Present) => Act::Present,
        _ => return None,
    };
    Some(Call { begin, end, act })
}

fn put(mode: PutMode, write: u32, version: Option<u64>) -> Act {
    match mode {
        PutMode::Append => Act::Append { write, version },
        PutMode::Replace | PutMode::Create => Act::Replace { write, version, create: mode == PutMode::Create },
    }
}

/// How often each kind was found.
pub fn counts(violations: &[Violation]) -> BTreeMap<Kind, usize> {
    let kinds: BTreeSet<Kind> = violations.iter().map(|violation| violation.kind).collect();
    kinds.into_iter().map(|kind| (kind, violations.iter().filter(|one| one.kind == kind).count())).collect()
}

#[cfg(test)]
mod tests;
