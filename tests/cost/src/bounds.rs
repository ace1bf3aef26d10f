//! The recorded figures, and the bounds that follow from them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use figment::providers::{Format, Toml};
use serde::Deserialize;

use crate::cases::CostMember;

/// A case may take this many times the recorded figure: how often a member wakes up, and how its input is split, differs from
/// run to run and from machine to machine.
const MARGIN: f64 = 1.25;
/// An additional allowance for each byte moved, because small differences are large relative to a figure near zero. One
/// more copy of all bytes is 1.0 copied, and 0.06 instructions or more.
const NODE_SLACK: CostFigures = CostFigures { instructions: 0.03, copied: 0.25 };
/// A coordinator works at every Raft tick, whether bytes pass through it or not.
const COORDINATOR_SLACK: CostFigures = CostFigures { instructions: 0.1, copied: 0.25 };

const HEAD: &str = "\
# The cost of each case of `cargo cost` for each byte moved: instructions in user space, and bytes copied.
# Written by `cargo cost --record`: the highest of 5 runs of the binaries of `cargo build --workspace --bins`.
# docs/performance.md explains the figures, and how the bounds follow from them.
";

/// The cost of a byte moved.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct CostFigures {
    /// Instructions in user space.
    pub instructions: f64,
    /// Bytes copied.
    pub copied: f64,
}

impl CostFigures {
    /// The bound for `member` that follows from this recorded figure.
    pub fn bound(self, member: CostMember) -> CostFigures {
        let slack = if member == CostMember::Coordinator { COORDINATOR_SLACK } else { NODE_SLACK };
        CostFigures {
            instructions: self.instructions * MARGIN + slack.instructions,
            copied: self.copied * MARGIN + slack.copied,
        }
    }

    /// The higher of each figure.
    pub fn max(self, other: CostFigures) -> CostFigures {
        CostFigures { instructions: self.instructions.max(other.instructions), copied: self.copied.max(other.copied) }
    }
}

/// The recorded figures, by case.
pub type RecordedCosts = BTreeMap<String, CostFigures>;

/// The file that holds them.
pub fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("bounds.toml")
}

/// Reads the file.
///
/// # Errors
/// One sentence that names the file.
pub fn load() -> Result<RecordedCosts, String> {
    let path = path();
    Toml::from_path(&path).map_err(|e| format!("{}: {e}; `cargo cost --record` writes it", path.display()))
}

/// The file's text.
pub fn text(recorded: &RecordedCosts) -> String {
    recorded.iter().fold(HEAD.to_string(), |text, (case, figures)| {
        format!("{text}\n[{case}]\ninstructions = {:.4}\ncopied = {:.4}\n", figures.instructions, figures.copied)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::CASES;

    #[test]
    fn written_bounds_are_read_back() {
        let figures = CostFigures { instructions: 1.25, copied: 0.0625 };
        let recorded = RecordedCosts::from([("get".into(), figures), ("put-1mib".into(), figures)]);
        assert_eq!(Toml::from_str::<RecordedCosts>(&text(&recorded)).unwrap(), recorded);
    }

    #[test]
    fn one_more_copy_exceeds_every_bound() {
        for (case, figures) in load().unwrap() {
            let bound = figures.bound(CostMember::Node);
            assert!(figures.copied + 1.0 > bound.copied, "{case}: too many copies for a further one to be seen");
        }
    }

    #[test]
    fn every_case_has_recorded_figures() {
        let recorded: Vec<String> = load().unwrap().into_keys().collect();
        let mut cases: Vec<&str> = CASES.iter().map(|case| case.name).collect();
        cases.sort_unstable();
        assert_eq!(recorded, cases);
    }
}
