//! What is told: a table, and a sentence for each figure that is over its bound.

use comfy_table::{CellAlignment, Table, presets};

use crate::bounds::{Figures, Recorded};
use crate::cases::Case;
use crate::profile::Profile;

/// Places that are named for a figure over its bound.
const NAMED: usize = 5;
/// A figure below this share of what was recorded is an improvement that should be kept.
const IMPROVED: f64 = 0.8;
/// Copies per byte below which there is nothing to improve.
const FEW_COPIES: f64 = 0.05;

/// What a case cost, apart from what its member does when nobody asks for anything.
pub struct Measured {
    /// The case.
    pub case: Case,
    /// Bytes that were moved while instructions were counted, and while copies were.
    pub bytes: (u64, u64),
    /// Instructions by function.
    pub instructions: Profile,
    /// Bytes copied, by call site.
    pub copied: Profile,
}

impl Measured {
    /// For each byte.
    pub fn figures(&self) -> Figures {
        Figures {
            instructions: self.instructions.total() as f64 / self.bytes.0 as f64,
            copied: self.copied.total() as f64 / self.bytes.1 as f64,
        }
    }
}

/// All figures beside their bounds.
pub fn table(all: &[Measured], recorded: &Recorded) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["case", "", "MiB", "instructions a byte", "at most", "bytes copied a byte", "at most"]);
    for measured in all {
        let figures = measured.figures();
        let bound = recorded.get(measured.case.name).map(|figures| figures.bound(measured.case.measured));
        let at_most = |of: fn(Figures) -> f64| bound.map_or("-".into(), |bound| format!("{:.3}", of(bound)));
        table.add_row([
            measured.case.name.to_string(),
            measured.case.about.to_string(),
            (measured.bytes.0 >> 20).to_string(),
            format!("{:.3}", figures.instructions),
            at_most(|bound| bound.instructions),
            format!("{:.3}", figures.copied),
            at_most(|bound| bound.copied),
        ]);
    }
    (2..7).filter_map(|at| table.column_mut(at).map(|c| c.set_cell_alignment(CellAlignment::Right))).for_each(drop);
    table
}

/// One sentence for each figure over its bound, with the places that did most.
pub fn failures(all: &[Measured], recorded: &Recorded) -> Vec<String> {
    all.iter().flat_map(|measured| failures_of(measured, recorded.get(measured.case.name))).collect()
}

fn failures_of(measured: &Measured, recorded: Option<&Figures>) -> Vec<String> {
    let name = measured.case.name;
    let Some(recorded) = recorded else {
        return vec![format!("{name} has no recorded figures: `cargo cost --record` measures them")];
    };
    let (is, bound) = (measured.figures(), recorded.bound(measured.case.measured));
    let mut failures = Vec::new();
    if is.instructions > bound.instructions {
        failures.push(format!(
            "{name} takes {:.3} instructions a byte, its bound is {:.3} (recorded: {:.3}); most of them:\n{}",
            is.instructions,
            bound.instructions,
            recorded.instructions,
            top(&measured.instructions, measured.bytes.0, NAMED)
        ));
    }
    if is.copied > bound.copied {
        failures.push(format!(
            "{name} copies {:.3} bytes a byte, its bound is {:.3} (recorded: {:.3}); most of them:\n{}",
            is.copied,
            bound.copied,
            recorded.copied,
            top(&measured.copied, measured.bytes.1, NAMED)
        ));
    }
    failures
}

/// Cases that became so much cheaper that their bounds no longer guard them.
pub fn improvements(all: &[Measured], recorded: &Recorded) -> Vec<&'static str> {
    let improved = |measured: &&Measured| {
        let (is, was) = (measured.figures(), recorded.get(measured.case.name));
        was.is_some_and(|was| {
            is.instructions < was.instructions * IMPROVED || is.copied < was.copied * IMPROVED - FEW_COPIES
        })
    };
    all.iter().filter(improved).map(|measured| measured.case.name).collect()
}

/// The places that did most, one a line, with their share for each byte.
pub fn top(profile: &Profile, bytes: u64, count: usize) -> String {
    let lines =
        profile.top(count).into_iter().map(|(place, did)| format!("  {:>8.4} {place}", did as f64 / bytes as f64));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::CASES;

    fn measured(instructions: i64, copied: i64) -> Measured {
        let mut one = Measured {
            case: CASES[0],
            bytes: (1000, 2000),
            instructions: Profile::default(),
            copied: Profile::default(),
        };
        one.instructions.add("serve", instructions);
        one.copied.add("copy, under frame (common/src/ipc/frame.rs:33)", copied);
        one
    }

    fn recorded() -> Recorded {
        Recorded::from([(CASES[0].name.to_string(), Figures { instructions: 1.0, copied: 0.5 })])
    }

    #[test]
    fn a_figure_over_its_bound_is_named_with_what_did_it() {
        assert_eq!(failures(&[measured(1279, 1000)], &recorded()), [""; 0]);
        let failures = failures(&[measured(1281, 3000)], &recorded());
        assert_eq!(failures.len(), 2);
        assert!(failures[0].starts_with("get takes 1.281 instructions a byte, its bound is 1.280"), "{}", failures[0]);
        assert!(failures[0].ends_with("  1.2810 serve"));
        assert!(failures[1].starts_with("get copies 1.500 bytes a byte, its bound is 0.875"), "{}", failures[1]);
        assert!(failures[1].ends_with("  1.5000 copy, under frame (common/src/ipc/frame.rs:33)"));
    }

    #[test]
    fn a_case_without_recorded_figures_fails() {
        assert!(failures(&[measured(0, 0)], &Recorded::new())[0].contains("--record"));
    }

    #[test]
    fn a_bound_that_guards_nothing_any_more_is_told() {
        assert_eq!(improvements(&[measured(900, 900)], &recorded()), [""; 0]);
        assert_eq!(improvements(&[measured(700, 1000)], &recorded()), ["get"]);
        assert_eq!(improvements(&[measured(1000, 100)], &recorded()), ["get"]);
    }
}
