//! Checks whether a history of concurrent operations on one object is linearizable.
//!
//! The simulation of the coordinators (`coordinator/tests/simulation`) and the chaos tests (`tests/chaos`) use it, each
//! with its own model of a table. Histories of different objects are checked separately: linearizability is local.
//!
//! The algorithm is the search of Wing and Gong (1993) with the state cache of Lowe (2017): an operation may come next
//! if no remaining operation returned before it was invoked, and no pair of (operations done, state) is visited twice.
//! The names are those of the checker Porcupine. stateright's checker has no state cache and needs time that is
//! exponential in the number of concurrent operations.
#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::HashSet;
use std::hash::Hash;

/// A sequential operation on the object that is checked, with the answer that the client saw.
pub trait Operation {
    /// The object's state between two operations. The history begins in the default state.
    type State: Clone + Eq + Hash + Default;

    /// Returns the state after the operation, or `None` if the operation cannot have given its answer in `state`.
    fn apply(&self, state: &Self::State) -> Option<Self::State>;

    /// Orders candidates: the search tries the lowest rank first. It affects speed only.
    fn search_rank(&self) -> u64 {
        0
    }
}

/// An operation and when it ran, in any unit that grows.
#[derive(Clone, Debug)]
pub struct TimedOperation<O> {
    /// When the client sent it.
    pub invoked: u64,
    /// When the answer arrived. `None`: the outcome is unknown, so it may take effect at any later time, or never.
    pub returned: Option<u64>,
    /// What it did.
    pub operation: O,
}

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckResult {
    /// The history is linearizable.
    Ok,
    /// It is not. The longest valid order found cannot be continued with any of these operations (by index).
    Illegal(Vec<usize>),
    /// The search was stopped because it visited too many states.
    Unknown,
}

/// The set of operations (by index) that are already in the order.
#[derive(Clone, PartialEq, Eq, Hash)]
struct DoneSet(Vec<u64>);

impl DoneSet {
    fn empty(length: usize) -> DoneSet {
        DoneSet(vec![0; length.div_ceil(64)])
    }

    fn contains(&self, index: usize) -> bool {
        self.0[index / 64] & (1 << (index % 64)) != 0
    }

    fn with(&self, index: usize) -> DoneSet {
        let mut set = self.clone();
        set.0[index / 64] |= 1 << (index % 64);
        set
    }
}

/// A node of the search.
struct SearchNode<S> {
    done: DoneSet,
    done_count: usize,
    /// Every operation before this position in the order of invocation is done.
    first_open: usize,
    state: S,
}

/// Searches for an order of the operations that explains every answer and agrees with their times.
///
/// Operations may come in any order. Two operations of which one returned at the moment when the other was invoked
/// count as concurrent. `max_states` bounds the memory: beyond it the result is [`CheckResult::Unknown`].
pub fn check<O: Operation>(history: &[TimedOperation<O>], max_states: usize) -> CheckResult {
    let mut by_invocation: Vec<usize> = (0..history.len()).collect();
    by_invocation.sort_by_key(|index| history[*index].invoked);
    let done = DoneSet::empty(history.len());
    let mut visited = HashSet::new();
    let mut open = vec![SearchNode { done, done_count: 0, first_open: 0, state: O::State::default() }];
    let (mut longest, mut blocked) = (0, Vec::new());
    while let Some(node) = open.pop() {
        let SearchNode { done, done_count, first_open, state } = node;
        let is_open = |at: &usize| !done.contains(by_invocation[*at]);
        let first_open = (first_open..history.len()).find(is_open).unwrap_or(history.len());
        let remaining = || (first_open..history.len()).filter(is_open).map(|at| by_invocation[at]);
        // The next operation was invoked before any remaining one returned.
        let Some(earliest_return) = remaining().filter_map(|index| history[index].returned).min() else {
            return CheckResult::Ok;
        };
        let mut candidates: Vec<usize> =
            remaining().take_while(|index| history[*index].invoked <= earliest_return).collect();
        if done_count >= longest {
            (longest, blocked) = (done_count, candidates.clone());
        }
        // The last node pushed is visited first. Operations of unknown outcome come last.
        candidates.sort_by_key(|index| {
            let timed = &history[*index];
            Reverse((timed.returned.is_none(), timed.operation.search_rank(), timed.returned))
        });
        for index in candidates {
            let Some(state) = history[index].operation.apply(&state) else { continue };
            let done = done.with(index);
            if visited.insert((done.clone(), state.clone())) {
                open.push(SearchNode { done, done_count: done_count + 1, first_open, state });
            }
        }
        if visited.len() > max_states {
            return CheckResult::Unknown;
        }
    }
    blocked.retain(|index| history[*index].returned.is_some());
    CheckResult::Illegal(blocked)
}

#[cfg(test)]
mod tests;
