//! Times, CPU and ratios of queries, as tables and as JSON.

use comfy_table::Table;
use serde::Serialize;

use super::query_result::QueryResult;
use crate::machine::MachineInfo;
use crate::measure::{median, paired_ratio};
use crate::report::{Goal, figure, goal_line, new_table, spread, titled};

/// The systems that the others are compared with.
const BASES: [&str; 2] = ["datafusion", "duckdb"];
/// The goal for the CPU of a cluster in all queries together, × that of DataFusion in one process over the same rows in memory. All
/// nodes share the machine, so it bounds what distribution costs.
const CPU_GOAL: f64 = 1.5;

/// The rounds of one system with one query.
#[derive(Clone, Debug, Serialize)]
pub struct QuerySeries {
    /// The name of its line.
    pub label: String,
    /// Seconds of each round.
    pub seconds: Vec<f64>,
    /// CPU seconds of each round.
    pub cpu: Vec<f64>,
}

impl QuerySeries {
    /// Without rounds.
    pub fn new(label: String) -> QuerySeries {
        QuerySeries { label, seconds: Vec::new(), cpu: Vec::new() }
    }

    /// Adds a round.
    pub fn add(&mut self, result: &QueryResult) {
        self.seconds.push(result.seconds);
        self.cpu.push(result.cpu);
    }
}

/// All systems with one query.
#[derive(Clone, Debug, Serialize)]
pub struct QueryFigures {
    /// The query's name.
    pub query: String,
    /// Rows of its result.
    pub rows: usize,
    /// One for each system.
    pub series: Vec<QuerySeries>,
}

impl QueryFigures {
    fn of(&self, label: &str) -> Option<&QuerySeries> {
        self.series.iter().find(|series| series.label == label)
    }

    /// How many times the seconds of `base` a system took, round by round; and how many times its CPU.
    fn ratios(&self, series: &QuerySeries, base: &str) -> (Option<f64>, Option<f64>) {
        let Some(base) = self.of(base) else { return (None, None) };
        (paired_ratio(&series.seconds, &base.seconds), paired_ratio(&series.cpu, &base.cpu))
    }

    fn text(&self, markdown: bool) -> String {
        let mut table = new_table(markdown);
        table.set_header(header("min–max"));
        for series in &self.series {
            let (of_datafusion, cpu_of_datafusion) = self.ratios(series, BASES[0]);
            let (of_duckdb, cpu_of_duckdb) = self.ratios(series, BASES[1]);
            table.add_row([
                series.label.clone(),
                figure(median(&series.seconds), 3),
                spread(&series.seconds, 3),
                figure(of_datafusion, 2),
                figure(of_duckdb, 2),
                figure(median(&series.cpu), 3),
                figure(cpu_of_datafusion, 2),
                figure(cpu_of_duckdb, 2),
            ]);
        }
        titled(&self.query, &format!("{} rows", self.rows), table, markdown)
    }
}

fn header(second: &str) -> [&str; 8] {
    ["", "s", second, "× datafusion", "× duckdb", "CPU s", "× datafusion", "× duckdb"]
}

/// The results of a run.
#[derive(Clone, Debug, Serialize)]
pub struct SqlReport {
    machine: MachineInfo,
    command: Vec<String>,
    scale: f64,
    /// Of the values of all tables.
    bytes: u64,
    queries: Vec<QueryFigures>,
    /// Of the queries so far.
    goals: Vec<Goal>,
    #[serde(skip)]
    markdown: bool,
}

impl SqlReport {
    /// Without queries.
    pub fn new(machine: MachineInfo, command: Vec<String>, scale: f64, bytes: u64, markdown: bool) -> SqlReport {
        SqlReport { machine, command, scale, bytes, queries: Vec::new(), goals: Vec::new(), markdown }
    }

    /// Adds a query and prints it.
    pub fn add(&mut self, figures: QueryFigures) {
        println!("\n{}", figures.text(self.markdown));
        self.queries.push(figures);
        self.goals = goals(&self.queries);
    }

    /// All queries together: sums of the medians, geometric means of the ratios, and the goals.
    pub fn summary(&self) -> String {
        let mut table = new_table(self.markdown);
        table.set_header(header("queries"));
        let labels = self.queries.first().map(|query| query.series.iter().map(|series| series.label.as_str()));
        for label in labels.into_iter().flatten() {
            self.add_sum(&mut table, label);
        }
        let about = "sums of the medians, and geometric means of the ratios";
        let mut text = titled("all", about, table, self.markdown);
        text.push('\n');
        text.extend(self.goals.iter().map(|goal| goal_line(goal, self.markdown)));
        text
    }

    fn add_sum(&self, table: &mut Table, label: &str) {
        let all: Vec<(&QueryFigures, &QuerySeries)> =
            self.queries.iter().filter_map(|query| Some((query, query.of(label)?))).collect();
        let sum = |figures: fn(&QuerySeries) -> &[f64]| -> Option<f64> {
            all.iter().map(|(_, series)| median(figures(series))).sum()
        };
        let ratios = |base: &str| -> (Option<f64>, Option<f64>) {
            let (seconds, cpu): (Vec<_>, Vec<_>) = all.iter().map(|(query, series)| query.ratios(series, base)).unzip();
            (geometric_mean(&seconds), geometric_mean(&cpu))
        };
        let ((of_datafusion, cpu_of_datafusion), (of_duckdb, cpu_of_duckdb)) = (ratios(BASES[0]), ratios(BASES[1]));
        table.add_row([
            label.to_string(),
            figure(sum(|series| series.seconds.as_slice()), 2),
            all.len().to_string(),
            figure(of_datafusion, 2),
            figure(of_duckdb, 2),
            figure(sum(|series| series.cpu.as_slice()), 2),
            figure(cpu_of_datafusion, 2),
            figure(cpu_of_duckdb, 2),
        ]);
    }
}

/// That of the CPU of each cluster.
fn goals(queries: &[QueryFigures]) -> Vec<Goal> {
    let labels = queries.first().into_iter().flat_map(|query| &query.series).map(|series| series.label.as_str());
    let base = total_cpu(queries, BASES[0]);
    labels
        .filter(|label| !BASES.contains(label))
        .map(|label| {
            let ratio = total_cpu(queries, label).zip(base).map(|(cluster, base)| cluster / base);
            Goal::at_most(&format!("{label}: × CPU of {} in all queries", BASES[0]), ratio, CPU_GOAL)
        })
        .collect()
}

/// CPU seconds of a system in all queries together, by their medians; none if it did not run one of them.
fn total_cpu(queries: &[QueryFigures], label: &str) -> Option<f64> {
    queries.iter().map(|query| median(&query.of(label)?.cpu)).sum()
}

/// None without values, or if one is missing.
fn geometric_mean(values: &[Option<f64>]) -> Option<f64> {
    let logarithms: Vec<f64> = values.iter().map(|value| value.map(f64::ln)).collect::<Option<_>>()?;
    let mean = logarithms.iter().sum::<f64>() / logarithms.len() as f64;
    (!logarithms.is_empty()).then(|| mean.exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(series: &[(&str, &[f64])]) -> QueryFigures {
        let series = series.iter().map(|(label, seconds)| QuerySeries {
            label: label.to_string(),
            seconds: seconds.to_vec(),
            cpu: seconds.iter().map(|seconds| 2.0 * seconds).collect(),
        });
        QueryFigures { query: "q01".into(), rows: 4, series: series.collect() }
    }

    #[test]
    fn ratios_are_those_of_the_same_round() {
        let figures = query(&[("datafusion", &[1.0, 2.0, 4.0]), ("volley2", &[2.0, 4.0, 8.0])]);
        assert_eq!(figures.ratios(&figures.series[1], "datafusion"), (Some(2.0), Some(2.0)));
        assert_eq!(figures.ratios(&figures.series[1], "duckdb"), (None, None));
        let text = figures.text(false);
        let line: Vec<&str> = text.lines().find(|line| line.contains("volley2")).unwrap().split_whitespace().collect();
        assert_eq!(line, ["volley2", "4.000", "2.000–8.000", "2.00", "-", "8.000", "2.00", "-"]);
    }

    #[test]
    fn goal_counts_the_cpu_of_all_queries_together() {
        let queries = [
            query(&[("datafusion", &[1.0]), ("duckdb", &[9.0]), ("volley1", &[1.0]), ("volley4", &[4.0])]),
            query(&[("datafusion", &[3.0]), ("duckdb", &[9.0]), ("volley1", &[5.0]), ("volley4", &[4.0])]),
        ];
        let goals = goals(&queries);
        let found: Vec<_> = goals.iter().map(|goal| (goal.measured, goal.is_met())).collect();
        assert_eq!(found, [(Some(1.5), Some(true)), (Some(2.0), Some(false))]);
        assert_eq!(
            goal_line(&goals[1], false),
            "   goal: volley4: × CPU of datafusion in all queries ≤ 1.5: 2.00, missed\n"
        );
        let alone = super::goals(&[query(&[("volley1", &[1.0])])]);
        assert_eq!(alone[0].measured, None, "nothing to compare with");
    }

    #[test]
    fn mean_of_ratios_is_geometric() {
        let mean = geometric_mean(&[Some(2.0), Some(8.0)]).unwrap();
        assert!((mean - 4.0).abs() < 1e-9, "{mean}");
        assert_eq!((geometric_mean(&[]), geometric_mean(&[Some(1.0), None])), (None, None));
    }
}
