//! The reference table, put by pyarrow. Volley fsyncs it before it answers; the others keep it in memory.

use serde_json::{Value, json};
use volley_common::options::MIN_RETENTION_S;

use super::gets::{CHUNK_ROWS, ROWS_64K, about};
use crate::bench::{Bench, Contender, JobPlan, with};
use crate::jobs::RowSource;
use crate::report::{CaseReport, Goal};
use crate::systems::SystemKind;

/// The rows and options of a put.
#[derive(Clone)]
pub(super) struct PutCaseOptions {
    pub(super) source: RowSource,
    pub(super) batch_rows: u64,
    pub(super) streams: usize,
    pub(super) options: Value,
}

pub(super) async fn put_1(bench: &mut Bench) -> Result<(), String> {
    let mut case = put(bench, "put-1", CHUNK_ROWS, 1, "in batches of 256 MiB, 1 stream").await?;
    add_goals(&mut case);
    bench.report.add(case);
    Ok(())
}

pub(super) async fn put_1_64k(bench: &mut Bench) -> Result<(), String> {
    let mut case = put(bench, "put-1-64k", ROWS_64K, 1, "in batches of 65,536 rows, 1 stream").await?;
    add_goals(&mut case);
    bench.report.add(case);
    Ok(())
}

pub(super) async fn put_4(bench: &mut Bench) -> Result<(), String> {
    let case = put(bench, "put-4", CHUNK_ROWS, 4, "in batches of 256 MiB, 4 streams of one client").await?;
    bench.report.add(case);
    Ok(())
}

async fn put(bench: &mut Bench, name: &str, batch_rows: u64, streams: usize, what: &str) -> Result<CaseReport, String> {
    let put = PutCaseOptions { source: bench.reference(0.5), batch_rows, streams, options: json!({}) };
    let contenders = putters(bench, &put, &SystemKind::ALL).await?;
    let series = bench.rounds(&contenders).await?;
    Ok(CaseReport::new(name, about(&put.source, what), series))
}

/// Two copies of eight shards by a key, compared with a server that keeps one copy in insertion order.
pub(super) async fn keyed(bench: &mut Bench) -> Result<(), String> {
    let options = json!({"shard_by": ["c0"], "shards": 8, "replicas": 2});
    let put = PutCaseOptions { source: bench.reference(0.5), batch_rows: CHUNK_ROWS, streams: 1, options };
    let contenders = putters(bench, &put, &[SystemKind::Cpp, SystemKind::Volley4]).await?;
    let series = bench.rounds(&contenders).await?;
    let about = about(&put.source, "in batches of 256 MiB, 1 stream; Volley: 8 shards by c0, two copies");
    let mut case = CaseReport::new("put-keyed", about, series);
    for label in labels(&case, "volley4") {
        case.goal(Goal::at_least(&format!("{label}: × GB/s of cpp"), case.rate_ratio(&label, "cpp"), 0.5));
        case.goal(Goal::at_most(&server_cpu(&label), case.cpu_ratio(&label, "cpp"), 3.5));
    }
    bench.report.add(case);
    Ok(())
}

/// Adds the goals of a put with one copy.
fn add_goals(case: &mut CaseReport) {
    for label in labels(case, "volley1") {
        case.goal(Goal::at_least(&format!("{label}: × GB/s of cpp"), case.rate_ratio(&label, "cpp"), 1.0));
        case.goal(Goal::at_most(&server_cpu(&label), case.cpu_ratio(&label, "cpp"), 1.1));
    }
}

fn server_cpu(label: &str) -> String {
    format!("{label}: × server CPU per GB of cpp")
}

/// The lines of a system, for each place of its data.
pub(super) fn labels(case: &CaseReport, system: &str) -> Vec<String> {
    case.series.iter().map(|series| series.label.clone()).filter(|label| label.starts_with(system)).collect()
}

/// A contender for each system that puts this; for Volley one on the disk, and one in memory if that has space.
pub(super) async fn putters(
    bench: &mut Bench,
    put: &PutCaseOptions,
    kinds: &[SystemKind],
) -> Result<Vec<Contender>, String> {
    bench.keep_only(&[]).await?;
    let places = bench.places(put.source.bytes())?;
    let mut contenders = Vec::new();
    for kind in bench.kinds(kinds) {
        let places = if kind.is_volley() { &places[..] } else { &places[..1] };
        for (within, mark) in places {
            let system = bench.system_of(kind, within.clone(), &[]).await;
            let plan = JobPlan::Put {
                table: "put".into(),
                source: put.source.clone(),
                batch_rows: put.batch_rows,
                streams: put.streams,
                options: with(put.options.clone(), "retention_s", MIN_RETENTION_S),
            };
            contenders.push(Contender { label: format!("{}{mark}", kind.name()), system, plan });
        }
    }
    Ok(contenders)
}
