//! The reference table, put by pyarrow. Volley has it fsynced before it answers; the others keep it in memory.

use serde_json::{Value, json};

use super::gets::{CHUNK_ROWS, ROWS_64K, about};
use crate::bench::{Bench, Contender, Plan, with};
use crate::jobs::Source;
use crate::report::{Case, Goal};
use crate::systems::Kind;

/// A put: of what, and how.
#[derive(Clone)]
pub(super) struct How {
    pub(super) source: Source,
    pub(super) batch_rows: u64,
    pub(super) streams: usize,
    pub(super) options: Value,
}

pub(super) async fn put_1(bench: &mut Bench) -> Result<(), String> {
    let mut case = put(bench, "put-1", CHUNK_ROWS, 1, "in batches of 256 MiB, 1 stream").await?;
    one_copy(&mut case);
    bench.report.add(case);
    Ok(())
}

pub(super) async fn put_1_64k(bench: &mut Bench) -> Result<(), String> {
    let mut case = put(bench, "put-1-64k", ROWS_64K, 1, "in batches of 65,536 rows, 1 stream").await?;
    one_copy(&mut case);
    bench.report.add(case);
    Ok(())
}

pub(super) async fn put_4(bench: &mut Bench) -> Result<(), String> {
    let case = put(bench, "put-4", CHUNK_ROWS, 4, "in batches of 256 MiB, 4 streams of one client").await?;
    bench.report.add(case);
    Ok(())
}

async fn put(bench: &mut Bench, name: &str, batch_rows: u64, streams: usize, what: &str) -> Result<Case, String> {
    let how = How { source: bench.reference(0.5), batch_rows, streams, options: json!({}) };
    let contenders = putters(bench, &how, &Kind::ALL).await?;
    let series = bench.rounds(&contenders).await?;
    Ok(Case::new(name, about(&how.source, what), series))
}

/// Two copies of eight shards by a key, beside a server that keeps one copy of rows as they come.
pub(super) async fn keyed(bench: &mut Bench) -> Result<(), String> {
    let options = json!({"shard_by": ["c0"], "shards": 8, "replicas": 2});
    let how = How { source: bench.reference(0.5), batch_rows: CHUNK_ROWS, streams: 1, options };
    let contenders = putters(bench, &how, &[Kind::Cpp, Kind::Volley4]).await?;
    let series = bench.rounds(&contenders).await?;
    let about = about(&how.source, "in batches of 256 MiB, 1 stream; Volley: 8 shards by c0, two copies");
    let mut case = Case::new("put-keyed", about, series);
    for label in labels(&case, "volley4") {
        case.goal(Goal::at_least(&format!("{label}: × GB/s of cpp"), case.rate_ratio(&label, "cpp"), 0.5));
    }
    bench.report.add(case);
    Ok(())
}

/// The goals of a put of one copy.
fn one_copy(case: &mut Case) {
    for label in labels(case, "volley1") {
        case.goal(Goal::at_least(&format!("{label}: × GB/s of cpp"), case.rate_ratio(&label, "cpp"), 1.0));
        case.goal(Goal::at_most(&format!("{label}: × server CPU per GB of cpp"), case.cpu_ratio(&label, "cpp"), 1.0));
    }
}

/// The lines of a system, wherever its data is.
pub(super) fn labels(case: &Case, system: &str) -> Vec<String> {
    case.series.iter().map(|series| series.label.clone()).filter(|label| label.starts_with(system)).collect()
}

/// Who puts this into each system; into Volley on the disk, and in memory if that has room.
pub(super) async fn putters(bench: &mut Bench, how: &How, kinds: &[Kind]) -> Result<Vec<Contender>, String> {
    bench.keep_only(&[]).await?;
    let places = bench.places(how.source.bytes())?;
    let mut contenders = Vec::new();
    for kind in bench.kinds(kinds) {
        let places = if kind.is_volley() { &places[..] } else { &places[..1] };
        for (within, mark) in places {
            let system = bench.system_of(kind, within.clone(), &[]).await;
            let plan = Plan::Put {
                table: "put".into(),
                source: how.source.clone(),
                batch_rows: how.batch_rows,
                streams: how.streams,
                options: with(how.options.clone(), "retention_s", 0),
            };
            contenders.push(Contender { label: format!("{}{mark}", kind.name()), system, plan });
        }
    }
    Ok(contenders)
}
