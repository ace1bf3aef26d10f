//! Whether what clients saw of a table could have come from one table that does one thing at a time.
//!
//! The search of Wing and Gong (1993) with the memory of Lowe (2017), per table name. It knows nothing of the log.

use std::collections::{BTreeMap, HashSet};

use crate::oracle::Violation;

/// So many steps at most for one name; beyond them nothing is said.
const STEPS: usize = 2_000_000;

/// A table by name: none, or its version and a digest of the writes whose rows it has.
pub type State = Option<(u64, u64)>;

/// What an operation did, if it took effect.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// A table was made where none was.
    Create { write: u64 },
    /// A table was replaced, or made.
    Replace { write: u64 },
    /// Rows were added.
    Append { write: u64 },
    /// The table went.
    Drop,
    /// The state was seen.
    Read(State),
    /// That there is a table, or none, was seen.
    Is(bool),
}

#[derive(Clone, Debug)]
struct Operation {
    effect: Effect,
    began: u64,
    /// None: nobody knows whether it took effect.
    ended: Option<u64>,
    /// The version that the answer named.
    version: Option<u64>,
}

impl Operation {
    /// The state afterwards, if it may take effect now.
    fn apply(&self, state: State) -> Option<State> {
        let after = match (&self.effect, state) {
            (Effect::Create { write } | Effect::Replace { write }, None) => Some((1, *write)),
            (Effect::Create { .. }, Some(_)) => return None,
            (Effect::Replace { write }, Some((version, _))) => Some((version + 1, *write)),
            (Effect::Append { write }, Some((version, writes))) => Some((version + 1, writes ^ write)),
            (Effect::Drop, Some(_)) => None,
            (Effect::Append { .. } | Effect::Drop, None) => return None,
            (Effect::Read(seen), _) if *seen == state => state,
            (Effect::Is(there), _) if *there == state.is_some() => state,
            (Effect::Read(_) | Effect::Is(_), _) => return None,
        };
        match self.version {
            Some(version) if after.is_none_or(|(now, _)| now != version) => None,
            _ => Some(after),
        }
    }
}

/// What clients did, by table name.
#[derive(Default)]
pub struct History {
    names: BTreeMap<String, Vec<Operation>>,
    /// Names whose search was too long.
    pub undecided: usize,
}

impl History {
    /// An operation began at `began`, and was answered at `ended`; none: nobody knows.
    pub fn add(&mut self, name: &str, effect: Effect, began: u64, ended: Option<u64>, version: Option<u64>) {
        self.names.entry(name.into()).or_default().push(Operation { effect, began, ended, version });
    }

    /// How many operations there are.
    pub fn len(&self) -> usize {
        self.names.values().map(Vec::len).sum()
    }

    /// Checks every name.
    pub fn check(&mut self) -> Result<(), Violation> {
        for (name, operations) in &mut self.names {
            operations.sort_by_key(|op| op.began);
            match linearizable(operations) {
                Some(true) => {}
                Some(false) => {
                    let lines: String = operations.iter().map(|op| format!("\n  {op:?}")).collect();
                    return Err(format!("the history of table {name} is not linearizable:{lines}"));
                }
                None => self.undecided += 1,
            }
        }
        Ok(())
    }
}

/// Which operations were put in order so far.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Chosen(Vec<u64>);

impl Chosen {
    fn has(&self, at: usize) -> bool {
        self.0[at / 64] & (1 << (at % 64)) != 0
    }

    fn with(&self, at: usize) -> Chosen {
        let mut more = self.clone();
        more.0[at / 64] |= 1 << (at % 64);
        more
    }
}

/// None: the search was too long.
fn linearizable(operations: &[Operation]) -> Option<bool> {
    let mut seen = HashSet::new();
    let mut open = vec![(Chosen(vec![0; operations.len().div_ceil(64)]), 0, None)];
    while let Some((chosen, first, state)) = open.pop() {
        if seen.len() > STEPS {
            return None;
        }
        let first = (first..operations.len()).find(|at| !chosen.has(*at)).unwrap_or(operations.len());
        let left = || (first..operations.len()).filter(|at| !chosen.has(*at));
        // Whatever is next began before anything that is left ended.
        let Some(end) = left().filter_map(|at| operations[at].ended).min() else { return Some(true) };
        for at in left().take_while(|at| operations[*at].began <= end) {
            if let Some(after) = operations[at].apply(state) {
                let next = chosen.with(at);
                if seen.insert((next.clone(), after)) {
                    open.push((next, first, after));
                }
            }
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(operations: &[(Effect, u64, Option<u64>)]) -> bool {
        let mut history = History::default();
        for (effect, began, ended) in operations {
            history.add("t", effect.clone(), *began, *ended, None);
        }
        history.check().is_ok()
    }

    #[test]
    fn what_is_in_order_passes_and_a_stale_read_does_not() {
        let put = (Effect::Replace { write: 7 }, 0, Some(1));
        assert!(history(&[put.clone(), (Effect::Read(Some((1, 7))), 2, Some(3))]));
        assert!(!history(&[put.clone(), (Effect::Read(None), 2, Some(3))]));
        assert!(history(&[put, (Effect::Read(None), 1, Some(3))]), "at the same time either is right");
    }

    #[test]
    fn an_append_that_took_effect_twice_is_noticed() {
        let put = (Effect::Replace { write: 7 }, 0, Some(1));
        let append = (Effect::Append { write: 8 }, 2, Some(3));
        assert!(history(&[put.clone(), append.clone(), (Effect::Read(Some((2, 15))), 4, Some(5))]));
        assert!(!history(&[put, append, (Effect::Read(Some((3, 7))), 4, Some(5))]));
    }

    #[test]
    fn what_nobody_knows_may_take_effect_late_or_never_but_not_come_and_go() {
        let put = (Effect::Replace { write: 7 }, 0, None);
        let read = |state, at| (Effect::Read(state), at, Some(at + 1));
        assert!(history(&[put.clone(), read(None, 2), read(None, 4)]));
        assert!(history(&[put.clone(), read(None, 2), read(Some((1, 7)), 4)]));
        assert!(!history(&[put, read(Some((1, 7)), 2), read(None, 4)]));
    }
}
