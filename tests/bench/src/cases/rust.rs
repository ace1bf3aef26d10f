//! The reference table with Volley's client in Rust, which works with every Flight server.

use serde_json::json;

use super::gets::{CHUNK_ROWS, REFERENCE, ROWS_64K, about, getters};
use super::puts::{PutCaseOptions, putters};
use crate::bench::{Bench, BenchTable, Contender, JobPlan};
use crate::jobs::{ClientJob, RustGetJob, RustPutJob};
use crate::report::{CaseReport, Goal};
use crate::systems::SystemKind;

/// Endpoints at once.
const STREAMS: usize = 4;
/// The line of one endpoint after the other.
const ONE_STREAM: &str = "volley1: 1 stream";

pub(super) async fn get(bench: &mut Bench) -> Result<(), String> {
    let source = bench.reference(1.0);
    let new = BenchTable { name: REFERENCE, source, batch_rows: CHUNK_ROWS, options: json!({}) };
    let mut contenders = getters(bench, &new, &json!({})).await?;
    let rows = new.source.rows();
    for contender in &mut contenders {
        contender.plan = plan_of(bench, contender.system, STREAMS, rows);
    }
    if let Some(volley) = contenders.iter().find(|contender| contender.label == "volley1").cloned() {
        let plan = plan_of(bench, volley.system, 1, rows);
        contenders.push(Contender { label: ONE_STREAM.into(), plan, ..volley });
    }
    let series = bench.rounds(&contenders).await?;
    let mut case = CaseReport::new("rust-get", about(&new.source, "Volley's client in Rust, 4 streams"), series);
    for (label, goal) in [(ONE_STREAM, 1.0), ("volley4", 1.3)] {
        case.goal(Goal::at_least(&format!("{label}: × GB/s of cpp"), case.rate_ratio(label, "cpp"), goal));
    }
    bench.report.add(case);
    Ok(())
}

fn plan_of(bench: &Bench, system: usize, streams: usize, rows: u64) -> JobPlan {
    let address = bench.running(system).coordinators()[0].clone();
    JobPlan::Job(ClientJob::RustGet(RustGetJob { address, table: REFERENCE.into(), streams, rows, plain: false }))
}

pub(super) async fn put(bench: &mut Bench) -> Result<(), String> {
    let put_options =
        PutCaseOptions { source: bench.reference(0.5), batch_rows: ROWS_64K, streams: 1, options: json!({}) };
    let mut contenders = putters(bench, &put_options, &SystemKind::ALL).await?;
    for contender in &mut contenders {
        let address = bench.running(contender.system).nodes()[0].clone();
        let (source, batch_rows) = (put_options.source.clone(), put_options.batch_rows);
        contender.plan =
            JobPlan::Job(ClientJob::RustPut(RustPutJob { address, table: "put".into(), source, batch_rows }));
    }
    let series = bench.rounds(&contenders).await?;
    bench.report.add(CaseReport::new(
        "rust-put",
        about(&put_options.source, "Volley's client in Rust, 1 stream"),
        series,
    ));
    Ok(())
}
