//! Checks docs/metrics.md against the table of metrics, and the table against what the servers record. With `VOLLEY_UPDATE_DOCS=1` it
//! writes the page instead:
//!
//! ```text
//! VOLLEY_UPDATE_DOCS=1 cargo test -p volley --test cli metrics::
//! ```

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use volley_common::telemetry::definitions::{self, MetricOwner, SECTIONS};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const PAGE: &str = "docs/metrics.md";
/// Where metrics are recorded.
const SERVERS: [&str; 5] = ["common/src", "coordinator/src", "http/src", "node/src", "sql/src"];

const INTRODUCTION: &str = "\
# Metrics

For those who monitor a cluster: what every member serves at `/metrics` of its HTTP port, for Prometheus. With users in the cluster a scraper needs the role `operator`, unless `public_metrics` is set ([security.md](security.md)). Alert rules and what to do
about each are in [operations.md](operations.md#alerts), a dashboard for Grafana in `deploy/helm/volley/files/`.

Counters (`_total`) begin with 0 at the start of a member; gauges are as of the scrape. Histograms have buckets from 100 µs to 52 s, each twice as wide as the one before: `NAME_bucket`, `NAME_sum` and `NAME_count`. A series
appears when something is recorded for the first time: a counter that is missing is 0. Labels have few values, and none is a text of a client: names of tables appear only with `metrics_tables`, those of the largest ones.
`volley dev` runs several servers in one process, which share what they count.

A test generates this page from the table in `common/src/telemetry/definitions/` (`cli/tests/cli/metrics.rs`).
";

fn page() -> String {
    let mut text = String::from(INTRODUCTION);
    for (title, metrics) in SECTIONS {
        let head = "| name | type | unit | labels | of | meaning | when to worry |\n|---|---|---|---|---|---|---|";
        writeln!(text, "\n## {title}\n\n{head}").unwrap();
        for metric in metrics {
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let owner = match metric.owner {
                MetricOwner::Members => "all members",
                MetricOwner::Coordinators => "coordinators",
                MetricOwner::Nodes => "nodes",
            };
            let (name, kind, unit, labels) = (metric.name, metric.kind.name(), metric.unit, labels.join(", "));
            writeln!(
                text,
                "| `{name}` | {kind} | {unit} | {labels} | {owner} | {} | {} |",
                metric.meaning, metric.worry
            )
            .unwrap();
        }
    }
    text
}

#[test]
fn metrics_reference_is_up_to_date() {
    let (page, path) = (page(), Path::new(ROOT).join(PAGE));
    if std::env::var_os("VOLLEY_UPDATE_DOCS").is_some() {
        fs::write(path, page).unwrap();
        return;
    }
    let written = fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == page,
        "docs/metrics.md is out of date: VOLLEY_UPDATE_DOCS=1 cargo test -p volley --test cli metrics::"
    );
}

/// The text of every Rust file below a folder, except the table itself.
fn sources(folder: &Path, texts: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("telemetry/definitions") {
            sources(&path, texts);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            texts.push(fs::read_to_string(path).unwrap());
        }
    }
}

/// The texts between quotes in Rust source that can be names of metrics.
fn quoted_names(source: &str) -> impl Iterator<Item = &str> {
    source.split('"').filter(|text| {
        let is_name = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        is_name && (text.starts_with("volley_") || text.starts_with("process_"))
    })
}

#[test]
fn table_has_what_is_recorded_and_nothing_else() {
    let mut texts = Vec::new();
    SERVERS.iter().for_each(|folder| sources(&Path::new(ROOT).join(folder), &mut texts));
    let defined: BTreeSet<&str> = definitions::all().map(|metric| metric.name).collect();
    let quoted: BTreeSet<&str> = texts.iter().flat_map(|text| quoted_names(text)).collect();
    let missing: Vec<_> = defined.difference(&quoted).collect();
    assert!(missing.is_empty(), "nothing records {missing:?}");
    for text in &texts {
        for call in ["counter!(", "gauge!(", "histogram!("].iter().flat_map(|name| text.split(name).skip(1)) {
            let Some(rest) = call.trim_start().strip_prefix('"') else { continue };
            let name = rest.split('"').next().unwrap();
            // A test of the recorder itself names one of its own.
            assert!(defined.contains(name) || name == "open", "the table of metrics lacks {name}");
        }
    }
}
