//! The page Activity: what this member does, and did in the last hour; the open writes of the cluster. It is for operators.

use std::collections::BTreeMap;
use std::sync::Arc;

use askama::Template;
use axum::response::Response;
use serde_json::{Value, json};
use volley_common::clock::{self, span};
use volley_common::telemetry::history::{MetricsSample, samples};
use volley_common::{Code, Result};

use super::charts::{ChartLine, ChartPicture};
use super::figures::{FigureTile, UNKNOWN, count, count_of, items, number, plural, scaled, size_of, text, utc};
use super::page_error::PageError;
use super::shell::PageShell;
use super::visitor::PageVisitor;
use crate::flight_calls::FlightCalls;

/// How many samples a latency is of: a minute.
const LATENCY_SAMPLES: usize = 4;
/// Units of bytes a second.
const BYTE_RATES: [&str; 5] = ["B/s", "kB/s", "MB/s", "GB/s", "TB/s"];
/// Units of calls a second.
const CALL_RATES: [&str; 2] = ["/s", "thousand/s"];
/// Units of microseconds.
const MICROSECONDS: [&str; 3] = ["µs", "ms", "s"];
/// Units of bytes.
const BYTES: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];

#[derive(Template)]
#[template(path = "activity.html")]
struct ActivityPage {
    shell: PageShell,
    view: ActivityView,
}

#[derive(Template)]
#[template(path = "activity_live.html")]
struct ActivityFragment {
    view: ActivityView,
}

struct ActivityView {
    tiles: Vec<FigureTile>,
    note: String,
    charts: Vec<ChartPicture>,
    writes_note: String,
    writes: Vec<OpenWriteRow>,
    errors: Vec<FailureRow>,
}

struct OpenWriteRow {
    id: String,
    table: String,
    mode: String,
    rows: String,
    bytes: String,
    lease: String,
}

struct FailureRow {
    method: String,
    code: String,
    tone: &'static str,
    count: String,
    last: String,
}

/// Shows the page.
pub(crate) async fn page(visitor: PageVisitor) -> Result<Response, PageError> {
    let visit = visitor.enter().await?;
    let view = view(&visit.calls).await?;
    visit.show(&ActivityPage { shell: visit.shell("Activity").live("/ui/live/activity"), view })
}

/// What follows the member, anew.
///
/// # Errors
/// PERMISSION_DENIED: the visitor is no operator any more.
pub(crate) async fn fragment(visitor: PageVisitor) -> Result<String, PageError> {
    let calls = visitor.caller.flight().await?;
    Ok(ActivityFragment { view: view(&calls).await? }.render()?)
}

/// The samples are shown to whom this call permits to see the open writes: an operator, as for `/metrics`.
async fn view(calls: &FlightCalls) -> Result<ActivityView> {
    let nothing = json!({});
    let (open, writes) = match calls.action("list_writes", &nothing).await {
        // A coordinator of an earlier version knows their number alone.
        Err(error) if error.code == Code::Unimplemented => {
            (calls.action("get_stats", &nothing).await?["open_writes"].clone(), Value::Null)
        }
        listed => {
            let listed = listed?;
            let open = items(&listed["writes"]).count() as u64 + number(&listed["more"]).unwrap_or_default();
            (open.into(), listed)
        }
    };
    let (samples, now_ms) = (samples(), clock::now_ms());
    Ok(ActivityView {
        tiles: tiles(&open, &samples),
        note: note(&samples),
        charts: charts(&samples),
        writes_note: writes_note(&open, &writes),
        writes: items(&writes["writes"]).map(|write| write_row(write, now_ms)).collect(),
        errors: failures(&samples),
    })
}

fn tiles(open: &Value, samples: &[Arc<MetricsSample>]) -> Vec<FigureTile> {
    let last = samples.last();
    let gauge = |of: fn(&MetricsSample) -> f64| last.map_or_else(|| UNKNOWN.into(), |last| count(of(last) as u64));
    let failed = growth(samples, |sample| sample.failed);
    vec![
        FigureTile::new("Open writes", count_of(open), "of the cluster"),
        FigureTile::new("Gets", gauge(|sample| sample.gets), "streams of this member"),
        FigureTile::new("Puts", gauge(|sample| sample.puts), "of this member"),
        FigureTile::new("Queries", gauge(|sample| sample.queries), "of this member"),
        FigureTile::new("Calls", count(growth(samples, |sample| sample.calls) as u64), "in the last hour"),
        FigureTile::new("Failed", count(failed as u64), "in the last hour").off_if(failed > 0.0, "warn"),
    ]
}

/// How much a counter has grown; a process that began anew counts from 0.
fn growth(samples: &[Arc<MetricsSample>], of: fn(&MetricsSample) -> f64) -> f64 {
    match samples {
        [first, .., last] => (of(last) - of(first)).max(0.0),
        _ => 0.0,
    }
}

fn note(samples: &[Arc<MetricsSample>]) -> String {
    match samples {
        [first, .., last] => format!(
            "Samples of {}, every 15 seconds. Prometheus has more, of all members.",
            span(last.at_ms.saturating_sub(first.at_ms))
        ),
        _ => "This member has just started: the first rates come after half a minute.".into(),
    }
}

fn charts(samples: &[Arc<MetricsSample>]) -> Vec<ChartPicture> {
    let [first, .., last] = samples else { return Vec::new() };
    let times = (first.at_ms, last.at_ms);
    let rate = |of: fn(&MetricsSample) -> f64| -> Vec<(u64, f64)> {
        let pairs = samples.iter().zip(samples.iter().skip(1));
        pairs.map(|(before, after)| (after.at_ms, per_second(before, after, of))).collect()
    };
    let latency = |share: f64| -> Vec<(u64, f64)> {
        let pairs = samples.iter().zip(samples.iter().skip(LATENCY_SAMPLES));
        let point = |(before, after): (&Arc<MetricsSample>, &Arc<MetricsSample>)| {
            Some((after.at_ms, after.quantile_since(before, share)? * 1e6))
        };
        pairs.filter_map(point).collect()
    };
    let mut charts = vec![
        ChartPicture::new(
            "Bytes",
            times,
            &BYTE_RATES,
            vec![
                ChartLine::new("sent", rate(|sample| sample.sent_bytes)),
                ChartLine::new("received", rate(|sample| sample.received_bytes)),
            ],
        ),
        ChartPicture::new(
            "Calls",
            times,
            &CALL_RATES,
            vec![
                ChartLine::new("all", rate(|sample| sample.calls)),
                ChartLine::new("failed", rate(|sample| sample.failed)),
            ],
        ),
        ChartPicture::new(
            "Latency of calls without rows",
            times,
            &MICROSECONDS,
            vec![ChartLine::new("median", latency(0.5)), ChartLine::new("99th percentile", latency(0.99))],
        ),
    ];
    let used = |sample: &Arc<MetricsSample>| {
        let used = sample.disk_total_bytes? - sample.disk_free_bytes?;
        Some((sample.at_ms, used.max(0.0)))
    };
    let used: Vec<(u64, f64)> = samples.iter().filter_map(used).collect();
    // A coordinator does not measure its disk.
    if let Some(total) = last.disk_total_bytes.filter(|total| *total > 0.0 && !used.is_empty()) {
        let all = samples.iter().map(|sample| (sample.at_ms, total)).collect();
        let lines = vec![ChartLine::new("used", used), ChartLine::new("all", all)];
        charts.push(ChartPicture::new("Disk", times, &BYTES, lines));
    }
    charts
}

fn per_second(before: &MetricsSample, after: &MetricsSample, of: fn(&MetricsSample) -> f64) -> f64 {
    let seconds = after.at_ms.saturating_sub(before.at_ms) as f64 / 1000.0;
    if seconds > 0.0 { ((of(after) - of(before)) / seconds).max(0.0) } else { 0.0 }
}

fn writes_note(open: &Value, writes: &Value) -> String {
    match (number(open), number(&writes["more"])) {
        (Some(0), _) => "None.".into(),
        (Some(open), None) => {
            format!("{}; the coordinator is of an earlier version, and does not list them.", plural(open, "write"))
        }
        (_, Some(more @ 1..)) => format!("{} more are not shown.", count(more)),
        _ => String::new(),
    }
}

fn write_row(write: &Value, now_ms: u64) -> OpenWriteRow {
    let is_staged = write["staged"] == true || number(&write["parts"]) > Some(0);
    OpenWriteRow {
        id: text(&write["write_id"]),
        table: text(&write["table"]),
        mode: text(&write["mode"]),
        // The parts of one put come with its commit.
        rows: if is_staged { count_of(&write["rows"]) } else { UNKNOWN.into() },
        bytes: if is_staged { size_of(&write["bytes"]) } else { UNKNOWN.into() },
        lease: match number(&write["lease_until_ms"]) {
            Some(until) => format!("in {}", span(until.saturating_sub(now_ms))),
            None => UNKNOWN.into(),
        },
    }
}

/// Failed calls by method and code, the latest first.
fn failures(samples: &[Arc<MetricsSample>]) -> Vec<FailureRow> {
    let mut found: BTreeMap<&(String, String), (f64, u64)> = BTreeMap::new();
    for (before, after) in samples.iter().zip(samples.iter().skip(1)) {
        for (key, count) in &after.failures {
            let more = count - before.failures.get(key).copied().unwrap_or_default();
            if more > 0.0 {
                let sum = found.entry(key).or_default();
                *sum = (sum.0 + more, after.at_ms);
            }
        }
    }
    let mut rows: Vec<_> = found.into_iter().collect();
    rows.sort_by_key(|(_, (_, last))| std::cmp::Reverse(*last));
    let row = |((method, code), (calls, last)): (&(String, String), (f64, u64))| FailureRow {
        method: method.clone(),
        code: code.clone(),
        tone: match code.as_str() {
            "INTERNAL" | "DATA_LOSS" | "UNKNOWN" => "bad",
            _ => "warn",
        },
        count: scaled(calls, &["", "thousand", "million"]),
        last: utc(last),
    };
    rows.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> Vec<Arc<MetricsSample>> {
        let sample = |at: u64, sent: f64, failed: f64| MetricsSample {
            at_ms: at,
            sent_bytes: sent,
            calls: 2.0 * failed,
            failed,
            failures: [(("DoGet".to_string(), "NOT_FOUND".to_string()), failed)].into(),
            ..MetricsSample::default()
        };
        vec![Arc::new(sample(0, 0.0, 0.0)), Arc::new(sample(10_000, 5e6, 3.0)), Arc::new(sample(20_000, 5e6, 3.0))]
    }

    #[test]
    fn rates_are_of_the_time_between_samples() {
        let charts = charts(&history());
        assert_eq!(
            charts.iter().map(|chart| chart.title).collect::<Vec<_>>(),
            ["Bytes", "Calls", "Latency of calls without rows"]
        );
        assert!(charts[0].description.contains("sent: now 0 B/s, at most 500 kB/s"), "{}", charts[0].description);
        assert!(super::charts(&history()[..1]).is_empty());
    }

    #[test]
    fn failures_have_their_last_time() {
        let rows = failures(&history());
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].count.as_str(), rows[0].last.as_str(), rows[0].tone), ("3", "1970-01-01 00:00:10", "warn"));
        assert_eq!(tiles(&json!(2), &history())[5].tone, "warn");
    }

    #[test]
    fn open_write_has_figures_once_it_is_staged() {
        let write = json!({ "write_id": "w", "table": "t", "mode": "append", "staged": false, "parts": 0, "rows": 0,
            "lease_until_ms": 61_000 });
        let row = write_row(&write, 1000);
        assert_eq!((row.rows.as_str(), row.lease.as_str()), ("–", "in 60 s"));
        assert_eq!(writes_note(&json!(0), &json!({ "more": 0 })), "None.");
        assert!(writes_note(&json!(3), &Value::Null).contains("earlier version"));
    }
}
