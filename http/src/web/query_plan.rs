//! How a query ran, from the text of EXPLAIN ANALYZE: its stages, and their operators with rows, time and bytes.

use super::figures::{plural, scaled, size};

/// The deepest place of an operator that is shown by its indent.
const MAX_DEPTH: usize = 6;
/// What a part of the plan is called that runs where the query came to.
const HEAD: &str = "The node that got the query";

/// What runs together, in tasks on one node or on several.
pub(crate) struct PlanStage {
    pub title: String,
    /// Bytes that came from other nodes.
    pub moved: String,
    pub operators: Vec<PlanOperator>,
}

/// A step of a stage.
pub(crate) struct PlanOperator {
    pub depth: usize,
    pub name: String,
    /// Rows, time and bytes.
    pub figures: String,
    pub detail: String,
    /// Its share of the time of the slowest operator, percent.
    pub share: u64,
    /// Whether its rows come from another stage.
    pub exchange: bool,
    seconds: f64,
    received: f64,
}

/// The stages of a plan as text; none of a text that is no plan.
pub(crate) fn stages(text: &str) -> Vec<PlanStage> {
    let mut stages: Vec<PlanStage> = Vec::new();
    let stage = |title: String| PlanStage { title, moved: String::new(), operators: Vec::new() };
    for line in text.lines() {
        let trimmed = line.trim_start();
        if let Some(title) = trimmed.strip_prefix('┌') {
            stages.push(stage(stage_title(title)));
        } else if !trimmed.is_empty() && !trimmed.starts_with('└') {
            let (line, first) = match trimmed.strip_prefix('│') {
                Some(rest) => (rest, 1),
                None => (line, 0),
            };
            if stages.is_empty() {
                stages.push(stage(HEAD.into()));
            }
            if let Some(stage) = stages.last_mut()
                && let Some(operator) = operator(line, first)
            {
                stage.operators.push(operator);
            }
        }
    }
    stages.retain(|stage| !stage.operators.is_empty());
    let slowest = stages.iter().flat_map(|stage| &stage.operators).map(|one| one.seconds).fold(0.0, f64::max);
    for stage in &mut stages {
        let received: f64 = stage.operators.iter().map(|one| one.received).sum();
        if received > 0.0 {
            stage.moved = format!("{} came from other nodes", size(received as u64));
        }
        for one in &mut stage.operators {
            one.share = if slowest > 0.0 { (one.seconds / slowest * 100.0) as u64 } else { 0 };
        }
    }
    stages
}

/// `───── Stage 1 ── tasks=3, partitions=9` without its lines, and without the metrics that may follow.
fn stage_title(text: &str) -> String {
    let mut parts = text.split('─').map(str::trim).filter(|part| !part.is_empty());
    match (parts.next(), parts.next()) {
        (Some(name), _) if name.starts_with("DistributedExec") => HEAD.into(),
        (Some(name), Some(tasks)) => {
            let counts: Vec<&str> = tasks.split_whitespace().take(2).collect();
            format!("{name}: {}", counts.join(" "))
        }
        (Some(name), None) => name.to_string(),
        (None, _) => "Stage".into(),
    }
}

/// `first`: the indent of the first operator.
fn operator(line: &str, first: usize) -> Option<PlanOperator> {
    let body = line.trim();
    let indent = line.len() - line.trim_start().len();
    let (exchange, body) = match body.strip_prefix("[Stage ").and_then(|rest| rest.split_once("] => ")) {
        Some((stage, rest)) => (Some(stage), rest),
        None => (None, body),
    };
    // A leaf has a line for each of its tasks: `t0: PartScanExec: table=...`.
    let (task, body) = match body.strip_prefix('t').and_then(|rest| rest.split_once(": ")) {
        Some((task, rest)) if !task.is_empty() && task.bytes().all(|digit| digit.is_ascii_digit()) => {
            (Some(task), rest)
        }
        _ => (None, body),
    };
    let (description, metrics) = match body.rsplit_once("metrics=[") {
        Some((description, metrics)) => (description.trim_end_matches([' ', ',']), metrics.trim_end_matches(']')),
        None => (body, ""),
    };
    let end = description.find([':', ',', ' ']).unwrap_or(description.len());
    let (name, detail) = description.split_at(end);
    if name.is_empty() {
        return None;
    }
    let of = |key: &str| metric(metrics, key);
    let (rows, seconds, received) = (of("output_rows"), of("elapsed_compute"), of("bytes_received"));
    let mut figures = Vec::new();
    figures.extend(rows.map(|rows| plural(rows as u64, "row")));
    figures.extend(seconds.map(seconds_text));
    figures.extend(received.map(|bytes| format!("{} received", size(bytes as u64))));
    Some(PlanOperator {
        depth: (indent.saturating_sub(first) / 2).min(MAX_DEPTH),
        name: match (exchange, task) {
            (Some(stage), _) => format!("{name} from stage {stage}"),
            (None, Some(task)) => format!("{name} of task {task}"),
            (None, None) => name.to_string(),
        },
        figures: figures.join(" · "),
        detail: detail.trim_start_matches([':', ',', ' ']).chars().take(300).collect(),
        share: 0,
        exchange: exchange.is_some(),
        seconds: seconds.unwrap_or_default(),
        received: received.unwrap_or_default(),
    })
}

fn seconds_text(seconds: f64) -> String {
    match seconds {
        seconds if seconds >= 1.0 => scaled(seconds, &["s"]),
        seconds => scaled(seconds * 1e9, &["ns", "µs", "ms", "s"]),
    }
}

/// A metric of an operator, summed over its tasks: `key=7`, or `key={0:7, 1:8}`.
fn metric(metrics: &str, key: &str) -> Option<f64> {
    let start = metrics.match_indices(key).find(|(at, _)| {
        let is_begin = metrics[..*at].is_empty() || metrics[..*at].ends_with([' ', ',', '[']);
        is_begin && metrics[at + key.len()..].starts_with('=')
    });
    let rest = &metrics[start?.0 + key.len() + 1..];
    match rest.strip_prefix('{') {
        Some(tasks) => {
            let tasks = tasks.split('}').next().unwrap_or_default().split(',');
            let values: Vec<f64> = tasks.filter_map(|task| amount(task.split_once(':')?.1)).collect();
            (!values.is_empty()).then(|| values.iter().sum())
        }
        None => amount(rest.split(',').next().unwrap_or_default()),
    }
}

/// A number with its unit: counts as they are, also those of bytes, whose `B` is a billion; times in seconds.
fn amount(text: &str) -> Option<f64> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let scale = match unit.trim() {
        "" | "s" => 1.0,
        "ns" => 1e-9,
        "µs" | "μs" | "us" => 1e-6,
        "ms" => 1e-3,
        "m" => 60.0,
        "K" => 1e3,
        "M" => 1e6,
        "B" => 1e9,
        "T" => 1e12,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAGED: &str = "\
┌───── DistributedExec
│ CoalescePartitionsExec, metrics=[output_rows=3, elapsed_compute=10.5µs]
│   [Stage 1] => NetworkShuffleExec: output_partitions=4, input_tasks=2, metrics=[output_rows={0:1, 1:2}, elapsed_compute={0:1ms, 1:2ms}, bytes_received={0:500, 1:600}]
└──────────────────────────────────────────────────
  ┌───── Stage 1 ── tasks=2, partitions=9
  │ PartScanExec: table=\"a/<b>\" version=3, metrics=[output_rows={0:700, 1:300}, elapsed_compute={0:3ms, 1:3ms}]
  └──────────────────────────────────────────────────
";

    #[test]
    fn plan_has_stages_with_what_they_moved() {
        let stages = stages(STAGED);
        assert_eq!(
            stages.iter().map(|stage| stage.title.as_str()).collect::<Vec<_>>(),
            [HEAD, "Stage 1: tasks=2, partitions=9"]
        );
        assert_eq!(stages[0].moved, "1.10 kB came from other nodes");
        let exchange = &stages[0].operators[1];
        assert_eq!(
            (exchange.name.as_str(), exchange.depth, exchange.exchange),
            ("NetworkShuffleExec from stage 1", 1, true)
        );
        assert_eq!((exchange.figures.as_str(), exchange.share), ("3 rows · 3.00 ms · 1.10 kB received", 50));
        let scan = &stages[1].operators[0];
        assert_eq!((scan.figures.as_str(), scan.share, scan.depth), ("1,000 rows · 6.00 ms", 100, 0));
        assert_eq!(scan.detail, "table=\"a/<b>\" version=3");
    }

    #[test]
    fn leaf_has_a_step_for_each_task() {
        let text = "\
  ┌───── Stage 1 ── tasks=2, partitions=9 plan_bytes={0:5, 1:6}
  │ DistributedLeafExec:
  │   t0: PartScanExec: table=t, metrics=[output_rows=1.20 B, bytes_received=2.00 T]
";
        let stages = stages(text);
        assert_eq!(stages[0].title, "Stage 1: tasks=2, partitions=9");
        let scan = &stages[0].operators[1];
        assert_eq!((scan.name.as_str(), scan.depth, scan.detail.as_str()), ("PartScanExec of task 0", 1, "table=t"));
        assert_eq!(scan.figures, "1,200,000,000 rows · 2.00 TB received");
    }

    #[test]
    fn plan_of_one_node_is_one_stage() {
        let text =
            "ProjectionExec: expr=[a], metrics=[output_rows=2.5 K, elapsed_compute=1.2s]\n  PartScanExec, metrics=[]\n";
        let stages = stages(text);
        assert_eq!((stages.len(), stages[0].operators.len()), (1, 2));
        assert_eq!(stages[0].operators[0].figures, "2,500 rows · 1.20 s");
        assert_eq!((stages[0].operators[1].depth, stages[0].operators[1].figures.as_str()), (1, ""));
        assert!(super::stages("\n└─\n").is_empty());
    }
}
