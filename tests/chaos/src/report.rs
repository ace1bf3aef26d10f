//! The report of a run, as tables.

use std::collections::BTreeMap;

use comfy_table::{Table, presets};

use crate::check;
use crate::history::{ClientHistory, ClientOperation, FaultEvent, OpOutcome, OpRequest, PutMode};
use crate::quantile::quantile;
use crate::run::ChaosOutcome;
use crate::table_query::TableQuery;

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table
}

/// The whole report.
pub fn text(ended: &ChaosOutcome) -> String {
    let mut text = format!("\n{}\n\n{}\n", faults(&ended.history, ended), operations(&ended.history));
    let beside = check::latency::calls_beside_a_hung_member(&ended.history);
    if let (Some(median), Some(p99)) = (quantile(&beside, 0.5), quantile(&beside, 0.99)) {
        let calls = beside.len();
        text +=
            &format!("\nwhile one member hung: {calls} calls through others, median {median:.2} s, p99 {p99:.2} s\n");
    }
    if let Some(time) = ended.repaired {
        text += &format!("\nall copies were repaired {:.1} s after the faults\n", time.as_secs_f64());
    }
    text += &format!("\nafter the faults the sums of {} tables ran on several nodes\n", ended.staged_tables);
    for (program, mib) in &ended.memory {
        text += &format!("{program}: at most {mib} MiB of anonymous memory\n");
    }
    if ended.violations.is_empty() {
        return text + "\nviolations: none\n";
    }
    text += "\nviolations:\n";
    for (kind, count) in check::counts(&ended.violations) {
        text += &format!("  {kind:?}: {count}\n");
    }
    for violation in ended.violations.iter().take(20) {
        let shown: String = violation.to_string().chars().take(1500).collect();
        text += &format!("- {shown}\n");
    }
    text
}

/// Faults by kind, and the time until the next successful operation.
fn faults(history: &ClientHistory, ended: &ChaosOutcome) -> Table {
    let mut kinds: BTreeMap<&str, Vec<&FaultEvent>> = BTreeMap::new();
    for fault in &history.faults {
        kinds.entry(&fault.kind).or_default().push(fault);
    }
    let mut table = table(&["fault", "done", "skipped", "next write: median", "max", "next read: median", "max"]);
    for kind in kinds.keys().copied().chain(ended.skipped.keys().copied().filter(|kind| !kinds.contains_key(kind))) {
        let done = kinds.get(kind).cloned().unwrap_or_default();
        let skipped = ended.skipped.get(kind).map_or(String::new(), |(count, why)| format!("{count} ({why})"));
        let mut row = vec![kind.to_string(), done.len().to_string(), skipped];
        for is_wanted in [is_write as fn(&ClientOperation) -> bool, is_read] {
            let times: Vec<f64> = done.iter().filter_map(|fault| recovery(history, fault, is_wanted)).collect();
            row.extend([seconds(quantile(&times, 0.5)), seconds(quantile(&times, 1.0))]);
        }
        table.add_row(row);
    }
    table.add_row([format!("all {}", kinds.len()), history.faults.len().to_string()]);
    table
}

fn is_write(operation: &ClientOperation) -> bool {
    matches!(operation.outcome, OpOutcome::Done { .. })
}

fn is_read(operation: &ClientOperation) -> bool {
    matches!(operation.outcome, OpOutcome::Content { .. })
}

/// Seconds from a fault to the end of the first successful operation that began after it.
fn recovery(history: &ClientHistory, fault: &FaultEvent, is_wanted: fn(&ClientOperation) -> bool) -> Option<f64> {
    let after = history.operations.values().filter(|operation| operation.begin >= fault.begin && is_wanted(operation));
    after.map(|operation| operation.end - fault.begin).min().map(|micros| micros as f64 / 1e6)
}

fn seconds(value: Option<f64>) -> String {
    value.map_or("-".into(), |value| format!("{value:.2} s"))
}

/// Operations by kind and outcome.
fn operations(history: &ClientHistory) -> Table {
    let mut counts: BTreeMap<&str, [usize; 5]> = BTreeMap::new();
    for operation in history.operations.values() {
        let column = match operation.outcome {
            OpOutcome::Done { .. } | OpOutcome::Content { .. } => 0,
            OpOutcome::Absent | OpOutcome::Present => 1,
            OpOutcome::Refused { .. } => 2,
            OpOutcome::Unknown { .. } => 3,
        };
        counts.entry(request_name(&operation.request)).or_default()[column] += 1;
    }
    let mut table = table(&["operation", "ok", "absent or present", "failed", "unknown", "all"]);
    for (name, row) in counts {
        let all: usize = row.iter().sum();
        let cells = row[..4].iter().chain([&all]).map(usize::to_string);
        table.add_row([name.to_string()].into_iter().chain(cells));
    }
    table
}

fn request_name(request: &OpRequest) -> &'static str {
    match request {
        OpRequest::Put { mode: PutMode::Append, .. } => "append",
        OpRequest::Put { mode: PutMode::Replace, .. } => "replace",
        OpRequest::Put { mode: PutMode::Create, .. } => "create",
        OpRequest::Drop => "drop",
        OpRequest::Read { endpoints: true } => "read all endpoints",
        OpRequest::Read { endpoints: false } => "read one stream",
        OpRequest::Query { query: TableQuery::Rows(_) } => "read with a filter",
        OpRequest::Query { query: TableQuery::Sums { .. } } => "sums by SQL",
        OpRequest::ReadPinned { .. } => "read a kept FlightInfo",
        OpRequest::ReadVersion { .. } => "read a version",
    }
}
