//! Results: samples, the figures of a case, its goals; as tables and as JSON.

use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::jobs::JobOutcome;
use crate::machine::MachineInfo;
use crate::measure::{PeakMemory, ResourceUse, median, paired_ratio};
use crate::systems::SystemKind;

const MIB: f64 = (1u64 << 20) as f64;

/// One measured job.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// The outcome that the client reported.
    pub outcome: JobOutcome,
    /// CPU and memory of the servers meanwhile.
    pub used: ResourceUse,
}

/// The samples of one contender, one for each round.
#[derive(Clone, Debug, Serialize)]
pub struct Series {
    /// The name of its line.
    pub label: String,
    /// The system.
    pub kind: SystemKind,
    /// In the order of the rounds.
    pub samples: Vec<Sample>,
}

impl Series {
    fn each(&self, figure: impl Fn(&Sample) -> f64) -> Vec<f64> {
        self.samples.iter().map(figure).collect()
    }

    /// Bytes a second / 1e9.
    pub fn rates(&self) -> Vec<f64> {
        self.each(|sample| sample.outcome.bytes as f64 / sample.outcome.seconds / 1e9)
    }

    /// CPU seconds of the servers per GB, or per call where no bytes are counted.
    pub fn server_cpu(&self) -> Vec<f64> {
        self.each(|sample| sample.used.cpu / sample.outcome.amount())
    }

    /// CPU seconds of the client per GB, or per call.
    pub fn client_cpu(&self) -> Vec<f64> {
        self.each(|sample| sample.outcome.cpu / sample.outcome.amount())
    }

    /// CPU seconds of the client and the servers per GB, or per call.
    fn total_cpu(&self) -> Vec<f64> {
        self.each(|sample| (sample.used.cpu + sample.outcome.cpu) / sample.outcome.amount())
    }

    /// Calls a second.
    pub fn call_rates(&self) -> Vec<f64> {
        self.each(|sample| sample.outcome.calls as f64 / sample.outcome.seconds)
    }

    /// Medians of calls' times, and their 99th percentiles, milliseconds.
    pub fn call_times(&self) -> (Vec<f64>, Vec<f64>) {
        (self.each(|sample| sample.outcome.p50 * 1e3), self.each(|sample| sample.outcome.p99 * 1e3))
    }

    /// The highest of the samples' peaks.
    pub fn peak(&self, of: impl Fn(&ResourceUse) -> PeakMemory) -> PeakMemory {
        let peaks = self.samples.iter().map(|sample| of(&sample.used));
        peaks.fold(PeakMemory::default(), |high, peak| PeakMemory {
            largest: high.largest.max(peak.largest),
            sum: high.sum.max(peak.sum),
        })
    }
}

impl JobOutcome {
    /// GB moved, or calls where no bytes are counted.
    fn amount(&self) -> f64 {
        if self.bytes > 0 { self.bytes as f64 / 1e9 } else { self.calls as f64 }
    }
}

/// A goal, and the figure that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Goal {
    /// The name of the figure.
    pub what: String,
    /// The figure; none if one of the systems did not run.
    pub measured: Option<f64>,
    /// The bound.
    pub bound: f64,
    /// Whether the bound is a minimum or a maximum.
    pub at_least: bool,
}

impl Goal {
    /// No less than `bound`.
    pub fn at_least(what: &str, measured: Option<f64>, bound: f64) -> Goal {
        Goal { what: what.into(), measured, bound, at_least: true }
    }

    /// No more than `bound`.
    pub fn at_most(what: &str, measured: Option<f64>, bound: f64) -> Goal {
        Goal { what: what.into(), measured, bound, at_least: false }
    }

    /// Whether it was reached; none if nothing was measured.
    pub fn is_met(&self) -> Option<bool> {
        let measured = self.measured?;
        Some(if self.at_least { measured >= self.bound } else { measured <= self.bound })
    }
}

/// A case that was run.
#[derive(Clone, Debug, Serialize)]
pub struct CaseReport {
    /// Its name on the command line, and more if it has several tables.
    pub name: String,
    /// What it measured.
    pub about: String,
    /// One for each contender.
    pub series: Vec<Series>,
    /// Its goals.
    pub goals: Vec<Goal>,
}

impl CaseReport {
    /// A case with its results.
    pub fn new(name: &str, about: String, series: Vec<Series>) -> CaseReport {
        CaseReport { name: name.into(), about, series, goals: Vec::new() }
    }

    /// Adds a goal.
    pub fn goal(&mut self, goal: Goal) {
        self.goals.push(goal);
    }

    /// The contender of this label.
    pub fn of(&self, label: &str) -> Option<&Series> {
        self.series.iter().find(|series| series.label == label)
    }

    /// How many times as fast `one` was as `other`, pair by pair.
    pub fn rate_ratio(&self, one: &str, other: &str) -> Option<f64> {
        paired_ratio(&self.of(one)?.rates(), &self.of(other)?.rates())
    }

    /// How many times as many calls a second `one` answered as `other`, pair by pair.
    pub fn call_ratio(&self, one: &str, other: &str) -> Option<f64> {
        paired_ratio(&self.of(one)?.call_rates(), &self.of(other)?.call_rates())
    }

    /// How many times the servers' CPU per GB `one` took, pair by pair.
    pub fn cpu_ratio(&self, one: &str, other: &str) -> Option<f64> {
        paired_ratio(&self.of(one)?.server_cpu(), &self.of(other)?.server_cpu())
    }

    /// How many times the CPU per GB of client and servers together `one` took, pair by pair.
    pub fn total_cpu_ratio(&self, one: &str, other: &str) -> Option<f64> {
        paired_ratio(&self.of(one)?.total_cpu(), &self.of(other)?.total_cpu())
    }

    fn rates(&self, table: &mut Table) {
        table.set_header([
            "",
            "GB/s",
            "min–max",
            "× cpp",
            "server CPU s/GB",
            "× cpp",
            "client CPU s/GB",
            "anon MiB: one, all",
            "total MiB: one, all",
        ]);
        for series in &self.series {
            let (rates, label) = (series.rates(), series.label.as_str());
            table.add_row([
                label.to_string(),
                figure(median(&rates), 2),
                spread(&rates, 2),
                figure(self.rate_ratio(label, "cpp"), 2),
                figure(median(&series.server_cpu()), 3),
                figure(self.cpu_ratio(label, "cpp"), 2),
                figure(median(&series.client_cpu()), 3),
                mib(series.peak(|used| used.anonymous)),
                mib(series.peak(|used| used.total)),
            ]);
        }
    }

    fn calls(&self, table: &mut Table) {
        table.set_header([
            "",
            "calls/s",
            "min–max",
            "p50 ms",
            "p99 ms",
            "server CPU ms/call",
            "client CPU ms/call",
            "anon MiB: one, all",
        ]);
        for series in &self.series {
            let (rates, (p50, p99)) = (series.call_rates(), series.call_times());
            let milliseconds = |seconds: Vec<f64>| figure(median(&seconds).map(|seconds| seconds * 1e3), 3);
            table.add_row([
                series.label.clone(),
                figure(median(&rates), 0),
                spread(&rates, 0),
                figure(median(&p50), 2),
                figure(median(&p99), 2),
                milliseconds(series.server_cpu()),
                milliseconds(series.client_cpu()),
                mib(series.peak(|used| used.anonymous)),
            ]);
        }
    }

    /// The case as a table and a list of goals.
    pub fn text(&self, markdown: bool) -> String {
        let mut table = new_table(markdown);
        let counts_bytes = self.series.iter().flat_map(|series| &series.samples).any(|sample| sample.outcome.bytes > 0);
        if counts_bytes {
            self.rates(&mut table)
        } else {
            self.calls(&mut table)
        }
        let goals: String = self.goals.iter().map(|goal| goal_line(goal, markdown)).collect();
        format!("{}\n{goals}", titled(&self.name, &self.about, table, markdown))
    }
}

/// A table without rows.
pub fn new_table(markdown: bool) -> Table {
    let mut table = Table::new();
    table.load_preset(if markdown { presets::ASCII_MARKDOWN } else { presets::NOTHING });
    table.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
    table
}

/// A table of figures below its name.
pub fn titled(name: &str, about: &str, mut table: Table, markdown: bool) -> String {
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    match markdown {
        true => format!("### {name}\n\n{about}\n\n{table}"),
        false => format!("{name}: {about}\n{table}"),
    }
}

/// Writes figures as JSON.
///
/// # Errors
/// The file or its folder cannot be written.
pub fn write_json(figures: &impl Serialize, path: &Path) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("writing {}: {e}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let text = serde_json::to_string_pretty(figures).map_err(|e| format!("the figures as JSON: {e}"))?;
    std::fs::write(path, text).map_err(failed)
}

/// The line of a goal: what was measured, and whether the goal is met.
pub fn goal_line(goal: &Goal, markdown: bool) -> String {
    let word = match goal.is_met() {
        None => "not measured",
        Some(true) => "met",
        Some(false) => "missed",
    };
    let sign = if goal.at_least { "≥" } else { "≤" };
    let mark = if markdown { "- " } else { "   goal: " };
    format!("{mark}{} {sign} {}: {}, {word}\n", goal.what, goal.bound, figure(goal.measured, 2))
}

/// A figure with this many digits after the point, or `-`.
pub fn figure(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.digits$}"))
}

/// The lowest and the highest value.
pub fn spread(values: &[f64], digits: usize) -> String {
    let (low, high) =
        values.iter().fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(*value), high.max(*value)));
    if values.is_empty() { "-".into() } else { format!("{low:.digits$}–{high:.digits$}") }
}

fn mib(peak: PeakMemory) -> String {
    format!("{:.0}, {:.0}", peak.largest as f64 / MIB, peak.sum as f64 / MIB)
}

/// The results of a run.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// The machine.
    pub machine: MachineInfo,
    /// The command line.
    pub command: Vec<String>,
    /// The folders for data, each with the write rate of its disk in bytes a second.
    pub disks: Vec<(String, f64)>,
    /// In the order in which they ran.
    pub cases: Vec<CaseReport>,
    /// Whether cases are printed as Markdown.
    #[serde(skip)]
    pub markdown: bool,
}

impl BenchReport {
    /// Adds a case and prints it.
    pub fn add(&mut self, case: CaseReport) {
        println!("\n{}", case.text(self.markdown));
        self.cases.push(case);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(label: &str, seconds: &[f64], cpu: f64) -> Series {
        let sample = |seconds: &f64| Sample {
            outcome: JobOutcome { seconds: *seconds, bytes: 2_000_000_000, cpu: 1.0, ..JobOutcome::default() },
            used: ResourceUse {
                cpu,
                anonymous: PeakMemory { largest: 1 << 20, sum: 3 << 20 },
                total: PeakMemory::default(),
            },
        };
        Series { label: label.into(), kind: SystemKind::Cpp, samples: seconds.iter().map(sample).collect() }
    }

    #[test]
    fn figures_are_medians_and_ratios_of_rounds() {
        let both = vec![series("cpp", &[1.0, 2.0, 4.0], 0.5), series("volley1", &[0.5, 1.0, 1.0], 0.25)];
        let case = CaseReport::new("get", "about".into(), both);
        assert_eq!(case.rate_ratio("volley1", "cpp"), Some(2.0));
        assert_eq!(case.cpu_ratio("volley1", "cpp"), Some(0.5));
        assert_eq!(case.total_cpu_ratio("volley1", "cpp"), Some(1.25 / 1.5));
        assert_eq!(case.rate_ratio("volley1", "naive"), None);
        let text = case.text(false);
        let line = text.lines().find(|line| line.contains("volley1")).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words, ["volley1", "2.00", "2.00–4.00", "2.00", "0.125", "0.50", "0.500", "1,", "3", "0,", "0"]);
    }

    #[test]
    fn calls_count_where_no_bytes_do() {
        let mut one = series("volley4", &[2.0], 0.5);
        let calls = JobOutcome { seconds: 2.0, calls: 1000, p50: 0.004, p99: 0.02, cpu: 1.0, ..JobOutcome::default() };
        one.samples[0].outcome = calls;
        assert_eq!((one.call_rates(), one.call_times()), (vec![500.0], (vec![4.0], vec![20.0])));
        assert_eq!(one.server_cpu(), [0.0005]);
        let case = CaseReport::new("small", "about".into(), vec![one]);
        assert_eq!((case.call_ratio("volley4", "volley4"), case.call_ratio("volley4", "cpp")), (Some(1.0), None));
        let text = case.text(true);
        let line = text.lines().find(|line| line.contains("volley4")).unwrap();
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        assert_eq!(cells[1..8], ["volley4", "500", "500–500", "4.00", "20.00", "0.500", "1.000"]);
    }

    #[test]
    fn goal_is_met_missed_or_not_measured() {
        assert_eq!(Goal::at_least("x", Some(1.3), 1.3).is_met(), Some(true));
        assert_eq!(Goal::at_least("x", Some(1.29), 1.3).is_met(), Some(false));
        assert_eq!(Goal::at_most("x", Some(1.3), 1.0).is_met(), Some(false));
        assert_eq!(Goal::at_most("x", None, 1.0).is_met(), None);
        assert_eq!(goal_line(&Goal::at_most("x", Some(0.5), 1.0), true), "- x ≤ 1: 0.50, met\n");
    }
}
