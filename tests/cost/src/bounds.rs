//! The recorded figures, and what may be at most.

use std::collections::BTreeMap;
use std::path::PathBuf;

use figment::providers::{Format, Toml};
use serde::Deserialize;

use crate::cases::Member;

/// A case may take this many times what was recorded: how often a member is woken, and in what pieces it gets its bytes,
/// differs from run to run and from machine to machine.
const MARGIN: f64 = 1.25;
/// What it may take beyond that for each byte moved: in a figure near zero little things weigh much. One more copy of
/// all bytes is 1.0 copied, and 0.06 instructions or more.
const NODE_SLACK: Figures = Figures { instructions: 0.03, copied: 0.25 };
/// A coordinator does something at every tick of its clock, whether bytes pass through it or not.
const COORDINATOR_SLACK: Figures = Figures { instructions: 0.1, copied: 0.25 };

const HEAD: &str = "\
# What each case of `cargo cost` costs for a byte that is moved: instructions in user space, and bytes copied.
# Written by `cargo cost --record`: the highest of 5 runs of the binaries of `cargo build --workspace --bins`.
# docs/performance.md says what the figures mean, and how the bounds follow from them.
";

/// What a byte that is moved costs.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    /// Instructions in user space.
    pub instructions: f64,
    /// Bytes copied.
    pub copied: f64,
}

impl Figures {
    /// What `member` may take at most where this was recorded.
    pub fn bound(self, member: Member) -> Figures {
        let slack = if member == Member::Coordinator { COORDINATOR_SLACK } else { NODE_SLACK };
        Figures {
            instructions: self.instructions * MARGIN + slack.instructions,
            copied: self.copied * MARGIN + slack.copied,
        }
    }

    /// The higher of each.
    pub fn max(self, other: Figures) -> Figures {
        Figures { instructions: self.instructions.max(other.instructions), copied: self.copied.max(other.copied) }
    }
}

/// The recorded figures, by case.
pub type Recorded = BTreeMap<String, Figures>;

/// Where they are.
pub fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("bounds.toml")
}

/// Reads them.
///
/// # Errors
/// One sentence that names the file.
pub fn load() -> Result<Recorded, String> {
    let path = path();
    Toml::from_path(&path).map_err(|e| format!("{}: {e}; `cargo cost --record` writes it", path.display()))
}

/// The file's text.
pub fn text(recorded: &Recorded) -> String {
    recorded.iter().fold(HEAD.to_string(), |text, (case, figures)| {
        format!("{text}\n[{case}]\ninstructions = {:.4}\ncopied = {:.4}\n", figures.instructions, figures.copied)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::CASES;

    #[test]
    fn what_is_written_is_read() {
        let figures = Figures { instructions: 1.25, copied: 0.0625 };
        let recorded = Recorded::from([("get".into(), figures), ("put-1mib".into(), figures)]);
        assert_eq!(Toml::from_str::<Recorded>(&text(&recorded)).unwrap(), recorded);
    }

    #[test]
    fn a_further_copy_is_over_every_bound() {
        for (case, figures) in load().unwrap() {
            let bound = figures.bound(Member::Node);
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
