//! The report: a table, and a sentence for each figure above its bound.

use comfy_table::{CellAlignment, Table, presets};

use crate::bounds::{CostFigures, RecordedCosts};
use crate::cases::CostCase;
use crate::profile::CostProfile;

/// Places that a failure names.
const NAMED: usize = 5;
/// A figure below this share of the recorded one is an improvement to keep.
const IMPROVED: f64 = 0.8;
/// Copies per byte below which there is nothing to improve.
const FEW_COPIES: f64 = 0.05;

/// What a case cost, without the cost of an idle member.
pub struct MeasuredCase {
    /// The case.
    pub case: CostCase,
    /// Bytes that were moved while instructions were counted, and while copies were.
    pub bytes: (u64, u64),
    /// Instructions by function.
    pub instructions: CostProfile,
    /// Bytes copied, by call site.
    pub copied: CostProfile,
}

impl MeasuredCase {
    /// For each byte.
    pub fn figures(&self) -> CostFigures {
        CostFigures {
            instructions: self.instructions.total() as f64 / self.bytes.0 as f64,
            copied: self.copied.total() as f64 / self.bytes.1 as f64,
        }
    }
}

/// All figures beside their bounds.
pub fn table(all: &[MeasuredCase], recorded: &RecordedCosts) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["case", "", "MiB", "instructions a byte", "at most", "bytes copied a byte", "at most"]);
    for measured in all {
        let figures = measured.figures();
        let bound = recorded.get(measured.case.name).map(|figures| figures.bound(measured.case.measured));
        let at_most = |of: fn(CostFigures) -> f64| bound.map_or("-".into(), |bound| format!("{:.3}", of(bound)));
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

/// One sentence for each figure above its bound, with the places that cost most.
pub fn failures(all: &[MeasuredCase], recorded: &RecordedCosts) -> Vec<String> {
    all.iter().flat_map(|measured| failures_of(measured, recorded.get(measured.case.name))).collect()
}

fn failures_of(measured: &MeasuredCase, recorded: Option<&CostFigures>) -> Vec<String> {
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

/// Cases that became so much cheaper that their bounds no longer protect them.
pub fn improvements(all: &[MeasuredCase], recorded: &RecordedCosts) -> Vec<&'static str> {
    let improved = |measured: &&MeasuredCase| {
        let (is, was) = (measured.figures(), recorded.get(measured.case.name));
        was.is_some_and(|was| {
            is.instructions < was.instructions * IMPROVED || is.copied < was.copied * IMPROVED - FEW_COPIES
        })
    };
    all.iter().filter(improved).map(|measured| measured.case.name).collect()
}

/// The places that cost most, one a line, with their cost for each byte.
pub fn top(profile: &CostProfile, bytes: u64, count: usize) -> String {
    let lines =
        profile.top(count).into_iter().map(|(place, did)| format!("  {:>8.4} {place}", did as f64 / bytes as f64));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::CASES;

    fn measured(instructions: i64, copied: i64) -> MeasuredCase {
        let mut one = MeasuredCase {
            case: CASES[0],
            bytes: (1000, 2000),
            instructions: CostProfile::default(),
            copied: CostProfile::default(),
        };
        one.instructions.add("serve", instructions);
        one.copied.add("copy, under frame (common/src/ipc/frame.rs:33)", copied);
        one
    }

    fn recorded() -> RecordedCosts {
        RecordedCosts::from([(CASES[0].name.to_string(), CostFigures { instructions: 1.0, copied: 0.5 })])
    }

    #[test]
    fn figure_above_its_bound_fails_with_its_top_places() {
        assert_eq!(failures(&[measured(1279, 1000)], &recorded()), [""; 0]);
        let failures = failures(&[measured(1281, 3000)], &recorded());
        assert_eq!(failures.len(), 2);
        assert!(failures[0].starts_with("get takes 1.281 instructions a byte, its bound is 1.280"), "{}", failures[0]);
        assert!(failures[0].ends_with("  1.2810 serve"));
        assert!(failures[1].starts_with("get copies 1.500 bytes a byte, its bound is 0.875"), "{}", failures[1]);
        assert!(failures[1].ends_with("  1.5000 copy, under frame (common/src/ipc/frame.rs:33)"));
    }

    #[test]
    fn case_without_recorded_figures_fails() {
        assert!(failures(&[measured(0, 0)], &RecordedCosts::new())[0].contains("--record"));
    }

    #[test]
    fn large_improvement_is_reported() {
        assert_eq!(improvements(&[measured(900, 900)], &recorded()), [""; 0]);
        assert_eq!(improvements(&[measured(700, 1000)], &recorded()), ["get"]);
        assert_eq!(improvements(&[measured(1000, 100)], &recorded()), ["get"]);
    }
}
