//! What an operation on a table does to it, for the linearizability checker.

use std::collections::HashSet;

use volley_linearizability::{Operation, TimedOperation};

/// What an operation did, or may have done, and what its client saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObservedEffect {
    /// Made this write the only content of the table.
    Replace {
        /// The write.
        write: u32,
        /// The version in the answer; none if the outcome is unknown.
        version: Option<u64>,
        /// Whether the table must not exist before.
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
        /// The version in the answer, if there was one.
        version: Option<u64>,
        /// The writes.
        writes: Vec<u32>,
        /// Whether their order is significant.
        ordered: bool,
    },
    /// Saw that the table does not exist.
    Absent,
    /// Saw that the table exists.
    Present,
}

/// An operation on a table.
#[derive(Clone, Debug)]
pub struct ObservedOperation {
    effect: ObservedEffect,
    /// The outcome is unknown and no read shows the write: leaving it out changes nothing for any client.
    unobserved: bool,
}

/// A table between two operations. Versions grow, but not by one: the cluster itself makes versions with the same rows when
/// it compacts parts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct ObservedTable {
    version: u64,
    writes: Vec<u32>,
}

/// The operations on one table as input of the checker: for each, when it was invoked, when it returned if its outcome
/// is known, and its effect.
pub fn operations(effects: Vec<(u64, Option<u64>, ObservedEffect)>) -> Vec<TimedOperation<ObservedOperation>> {
    let read: HashSet<u32> =
        effects.iter().filter_map(|(_, _, effect)| writes_read(effect)).flatten().copied().collect();
    let operation = |(invoked, returned, effect): (u64, Option<u64>, ObservedEffect)| {
        let unobserved = match effect {
            ObservedEffect::Replace { write, .. } | ObservedEffect::Append { write, .. } => {
                returned.is_none() && !read.contains(&write)
            }
            _ => false,
        };
        TimedOperation { invoked, returned, operation: ObservedOperation { effect, unobserved } }
    };
    effects.into_iter().map(operation).collect()
}

fn writes_read(effect: &ObservedEffect) -> Option<&Vec<u32>> {
    match effect {
        ObservedEffect::Read { writes, .. } => Some(writes),
        _ => None,
    }
}

impl Operation for ObservedOperation {
    /// None: the table does not exist, which is the initial state.
    type State = Option<ObservedTable>;

    fn apply(&self, table: &Option<ObservedTable>) -> Option<Option<ObservedTable>> {
        let current = table.as_ref().map_or(0, |table| table.version);
        let after = |version: Option<u64>| match version {
            Some(version) => (version > current).then_some(version),
            None => Some(current + 1),
        };
        match (&self.effect, table) {
            (ObservedEffect::Replace { create: true, .. }, Some(_)) => None,
            // No read shows it: it can only have created the table.
            (ObservedEffect::Replace { .. }, Some(_)) if self.unobserved => None,
            (ObservedEffect::Replace { write, version, .. }, _) => {
                Some(Some(ObservedTable { version: after(*version)?, writes: vec![*write] }))
            }
            (ObservedEffect::Append { .. }, _) if self.unobserved => None,
            (ObservedEffect::Append { write, version }, Some(table)) => {
                let writes = table.writes.iter().copied().chain([*write]).collect();
                Some(Some(ObservedTable { version: after(*version)?, writes }))
            }
            (ObservedEffect::Drop, Some(_)) => Some(None),
            (ObservedEffect::Read { version, writes, ordered }, Some(table)) => {
                let version = version.unwrap_or(current);
                (version >= current && same_writes(&table.writes, writes, *ordered))
                    .then(|| Some(ObservedTable { version, writes: table.writes.clone() }))
            }
            (ObservedEffect::Absent, None) => Some(None),
            (ObservedEffect::Present, Some(table)) => Some(Some(table.clone())),
            (
                ObservedEffect::Append { .. }
                | ObservedEffect::Drop
                | ObservedEffect::Read { .. }
                | ObservedEffect::Present,
                None,
            )
            | (ObservedEffect::Absent, Some(_)) => None,
        }
    }

    fn search_rank(&self) -> u64 {
        match self.effect {
            ObservedEffect::Replace { version, .. }
            | ObservedEffect::Append { version, .. }
            | ObservedEffect::Read { version, .. } => version.unwrap_or(0),
            ObservedEffect::Drop | ObservedEffect::Absent | ObservedEffect::Present => 0,
        }
    }
}

fn same_writes(stored: &[u32], read: &[u32], ordered: bool) -> bool {
    if stored.len() != read.len() {
        return false;
    }
    if ordered {
        return stored == read;
    }
    let read: HashSet<&u32> = read.iter().collect();
    stored.iter().all(|write| read.contains(write))
}
