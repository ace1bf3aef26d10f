//! The checker: finds the violations in a history.
//!
//! `check_order` looks for an order of each table's operations that explains all answers; `anomalies` looks for
//! single answers that no order explains, and describes what is wrong with them. Both must find nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use volley_linearizability::CheckResult;

use crate::history::{ClientHistory, ClientOperation, OpOutcome, OpRequest, PutMode};
use table_model::ObservedEffect;

mod anomalies;
pub mod latency;
mod table_model;

/// Maximum number of states that the search for an order visits.
const MAX_STATES: usize = 3_000_000;

/// The kind of a violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ViolationKind {
    /// Part of a write is visible.
    Torn,
    /// Rows differ from those written, or appear twice or out of order.
    Corrupt,
    /// A write is visible that was refused, or not yet sent.
    Phantom,
    /// An acknowledged write is not visible.
    Lost,
    /// A read shows a version older than one acknowledged before it began.
    Stale,
    /// One version, or one FlightInfo, showed different rows at different times.
    Mixed,
    /// No order of the operations explains the answers.
    NotLinearizable,
    /// The search for such an order visited too many states.
    Undecided,
    /// An answer that no fault explains.
    Unexpected,
    /// Calls through sound members were slow while one member hung.
    Slow,
    /// A process exited by itself.
    Crashed,
    /// A member cannot be reached, or is not ready, after the faults.
    Unreachable,
    /// Copies are missing, or damaged, after the faults.
    NotRepaired,
    /// An unfinished file was left behind.
    LeftoverFile,
    /// A process had more memory than its bound.
    Memory,
}

/// A violation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChaosViolation {
    /// Its kind.
    pub kind: ViolationKind,
    /// What happened.
    pub what: String,
    /// The ids of the operations that show it.
    pub operations: Vec<u64>,
}

impl fmt::Display for ChaosViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.what)?;
        if !self.operations.is_empty() {
            write!(f, " (operations {:?})", self.operations)?;
        }
        Ok(())
    }
}

/// Checks a whole history.
pub fn check(history: &ClientHistory) -> Vec<ChaosViolation> {
    let mut tables: BTreeMap<&str, Vec<&ClientOperation>> = BTreeMap::new();
    for operation in history.operations.values() {
        tables.entry(&operation.table).or_default().push(operation);
    }
    let violations =
        |operations: &Vec<&ClientOperation>| anomalies::find(operations).into_iter().chain(check_order(operations));
    tables.values().flat_map(violations).chain(latency::check(history)).collect()
}

/// Whether one table's operations are linearizable.
fn check_order(operations: &[&ClientOperation]) -> Option<ChaosViolation> {
    let mut numbers = WriteNumbers::default();
    let (mut effects, mut ids) = (Vec::new(), Vec::new());
    for operation in operations {
        if let Some(effect) = timed_effect(operation, &mut numbers) {
            effects.push(effect);
            ids.push(operation.id);
        }
    }
    let (table, count) = (&operations[0].table, effects.len());
    let (kind, what, operations) = match volley_linearizability::check(&table_model::operations(effects), MAX_STATES) {
        CheckResult::Ok => return None,
        CheckResult::Illegal(stuck) => {
            let what = format!("table {table}: no order of its {count} operations explains the answers");
            (ViolationKind::NotLinearizable, what, stuck.into_iter().map(|at| ids[at]).collect())
        }
        CheckResult::Unknown => {
            (ViolationKind::Undecided, format!("table {table}: too many orders of its {count} operations"), Vec::new())
        }
    };
    Some(ChaosViolation { kind, what, operations })
}

/// Numbers for the ids of writes.
#[derive(Default)]
struct WriteNumbers<'a>(BTreeMap<&'a str, u32>);

impl<'a> WriteNumbers<'a> {
    fn of(&mut self, write: &'a str) -> u32 {
        let next = self.0.len() as u32;
        *self.0.entry(write).or_insert(next)
    }
}

/// What the checker must know of an operation: when it was invoked, when it returned, what it did. None if it reveals
/// nothing about the newest version.
fn timed_effect<'a>(
    operation: &'a ClientOperation,
    numbers: &mut WriteNumbers<'a>,
) -> Option<(u64, Option<u64>, ObservedEffect)> {
    let (begin, end) = (operation.begin, Some(operation.end));
    let effect = match (&operation.request, &operation.outcome) {
        (OpRequest::Put { mode, write, .. }, OpOutcome::Done { version }) => {
            put_effect(*mode, numbers.of(write), Some(*version))
        }
        (OpRequest::Put { mode, write, .. }, OpOutcome::Unknown { .. }) => {
            return Some((begin, None, put_effect(*mode, numbers.of(write), None)));
        }
        (OpRequest::Drop, OpOutcome::Done { .. }) => ObservedEffect::Drop,
        (OpRequest::Drop, OpOutcome::Unknown { .. }) => return Some((begin, None, ObservedEffect::Drop)),
        (OpRequest::Read { .. } | OpRequest::Query { .. }, OpOutcome::Content { version, ordered, content }) => {
            let writes = content.writes.iter().map(|write| numbers.of(write)).collect();
            ObservedEffect::Read { version: *version, writes, ordered: *ordered }
        }
        (
            OpRequest::Put { .. } | OpRequest::Drop | OpRequest::Read { .. } | OpRequest::Query { .. },
            OpOutcome::Absent,
        ) => ObservedEffect::Absent,
        (OpRequest::Put { .. }, OpOutcome::Present) => ObservedEffect::Present,
        _ => return None,
    };
    Some((begin, end, effect))
}

fn put_effect(mode: PutMode, write: u32, version: Option<u64>) -> ObservedEffect {
    match mode {
        PutMode::Append => ObservedEffect::Append { write, version },
        PutMode::Replace | PutMode::Create => {
            ObservedEffect::Replace { write, version, create: mode == PutMode::Create }
        }
    }
}

/// How often each kind was found.
pub fn counts(violations: &[ChaosViolation]) -> BTreeMap<ViolationKind, usize> {
    let kinds: BTreeSet<ViolationKind> = violations.iter().map(|violation| violation.kind).collect();
    kinds.into_iter().map(|kind| (kind, violations.iter().filter(|one| one.kind == kind).count())).collect()
}

#[cfg(test)]
mod tests;
