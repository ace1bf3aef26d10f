//! The history of each table as clients saw it, and whether it is linearizable. Does not use the log.

use std::collections::BTreeMap;

use volley_linearizability::{CheckResult, Operation, TimedOperation, check};

use crate::oracle::SimViolation;

/// Maximum number of states of the search for one table; beyond them the table is undecided.
const MAX_STATES: usize = 2_000_000;

/// A table by name: none, or its version and a digest of the writes whose rows it holds.
pub type TableState = Option<(u64, u64)>;

/// What an operation did, if it took effect.
#[derive(Clone, Debug, PartialEq)]
pub enum TableEffect {
    /// Created a table.
    Create { write: u64 },
    /// Replaced a table, or created it.
    Replace { write: u64 },
    /// Added rows.
    Append { write: u64 },
    /// Dropped the table.
    Drop,
    /// Saw this state.
    Read(TableState),
    /// Saw that the table exists, or does not.
    Exists(bool),
}

#[derive(Clone, Debug)]
struct TableOperation {
    effect: TableEffect,
    /// The version in the answer.
    version: Option<u64>,
}

impl Operation for TableOperation {
    type State = TableState;

    fn apply(&self, state: &TableState) -> Option<TableState> {
        let after = match (&self.effect, *state) {
            (TableEffect::Create { write } | TableEffect::Replace { write }, None) => Some((1, *write)),
            (TableEffect::Create { .. }, Some(_)) => return None,
            (TableEffect::Replace { write }, Some((version, _))) => Some((version + 1, *write)),
            (TableEffect::Append { write }, Some((version, writes))) => Some((version + 1, writes ^ write)),
            (TableEffect::Drop, Some(_)) => None,
            (TableEffect::Append { .. } | TableEffect::Drop, None) => return None,
            (TableEffect::Read(seen), state) if *seen == state => state,
            (TableEffect::Exists(exists), state) if *exists == state.is_some() => state,
            (TableEffect::Read(_) | TableEffect::Exists(_), _) => return None,
        };
        match self.version {
            Some(version) if after.is_none_or(|(now, _)| now != version) => None,
            _ => Some(after),
        }
    }
}

/// The operations of all clients, by table name.
#[derive(Default)]
pub struct TableHistory {
    tables: BTreeMap<String, Vec<TimedOperation<TableOperation>>>,
}

impl TableHistory {
    /// Adds an operation. `returned` is none if its outcome is unknown.
    pub fn add(&mut self, table: &str, effect: TableEffect, invoked: u64, returned: Option<u64>, version: Option<u64>) {
        let operation = TableOperation { effect, version };
        self.tables.entry(table.into()).or_default().push(TimedOperation { invoked, returned, operation });
    }

    /// The number of operations.
    pub fn len(&self) -> usize {
        self.tables.values().map(Vec::len).sum()
    }

    /// Checks every table.
    pub fn check(&self) -> Result<(), SimViolation> {
        for (table, operations) in &self.tables {
            if let CheckResult::Illegal(blocked) = check(operations, MAX_STATES) {
                let lines: String = operations.iter().map(|op| format!("\n  {op:?}")).collect();
                return Err(format!("the history of table {table} is not linearizable, stuck at {blocked:?}:{lines}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_linearizable(operations: &[(TableEffect, u64, Option<u64>, Option<u64>)]) -> bool {
        let mut history = TableHistory::default();
        for (effect, invoked, returned, version) in operations {
            history.add("t", effect.clone(), *invoked, *returned, *version);
        }
        history.check().is_ok()
    }

    fn replace() -> (TableEffect, u64, Option<u64>, Option<u64>) {
        (TableEffect::Replace { write: 7 }, 0, Some(1), Some(1))
    }

    fn read(state: TableState) -> (TableEffect, u64, Option<u64>, Option<u64>) {
        (TableEffect::Read(state), 4, Some(5), None)
    }

    #[test]
    fn read_of_a_replaced_table_sees_its_writes() {
        assert!(is_linearizable(&[replace(), read(Some((1, 7)))]));
        assert!(!is_linearizable(&[replace(), read(None)]));
    }

    #[test]
    fn append_that_took_effect_twice_is_detected() {
        let append = (TableEffect::Append { write: 8 }, 2, Some(3), Some(2));
        assert!(is_linearizable(&[replace(), append.clone(), read(Some((2, 15)))]));
        assert!(!is_linearizable(&[replace(), append, read(Some((3, 7)))]));
    }

    #[test]
    fn answered_version_must_be_the_next_one() {
        let append = |version| (TableEffect::Append { write: 8 }, 2, Some(3), Some(version));
        assert!(is_linearizable(&[replace(), append(2)]));
        assert!(!is_linearizable(&[replace(), append(3)]));
    }

    #[test]
    fn create_and_drop_depend_on_the_table() {
        let create = (TableEffect::Create { write: 9 }, 2, Some(3), None);
        let drop = (TableEffect::Drop, 2, Some(3), None);
        assert!(is_linearizable(&[create.clone(), read(Some((1, 9)))]));
        assert!(!is_linearizable(&[replace(), create]));
        assert!(is_linearizable(&[replace(), drop.clone(), (TableEffect::Exists(false), 4, Some(5), None)]));
        assert!(!is_linearizable(&[drop]));
    }
}
