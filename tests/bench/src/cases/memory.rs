//! The anonymous memory of one node that serves many streams of a table much larger than it.

use serde_json::json;

use super::gets::{CHUNK_ROWS, about};
use crate::bench::{Bench, BenchTable, Contender, JobPlan};
use crate::jobs::RowSource;
use crate::report::{CaseReport, Goal};
use crate::systems::SystemKind;

const STREAMS: usize = 32;
/// Puts that make the table, so that the client need not hold it all.
const PUTS: u64 = 8;
const GOAL_MIB: f64 = 128.0;
/// How long the tickets are valid: a stream redeems its last one after reading its others, even from a slow disk.
const RETENTION_S: u64 = 3600;

pub(super) async fn memory(bench: &mut Bench) -> Result<(), String> {
    bench.stop_all().await?;
    if bench.kinds(&[SystemKind::Volley1]).is_empty() {
        return Ok(());
    }
    let system = bench.system(SystemKind::Volley1).await;
    let each = (bench.flags.memory_gb * 1e9) as u64 / PUTS / 512 * 512;
    let source = RowSource::Floats { columns: 64, bytes: each };
    for put in 0..PUTS {
        let options = json!({"mode": if put == 0 { "create" } else { "append" }, "retention_s": RETENTION_S});
        let new = BenchTable { name: "large", source: source.clone(), batch_rows: CHUNK_ROWS, options };
        bench.add_rows(system, &new).await?;
    }
    let endpoints = bench.running(system).fetches("large").await?.len();
    if endpoints < STREAMS {
        return Err(format!(
            "the table has {endpoints} endpoints, too few for {STREAMS} streams: give a larger --memory-gb"
        ));
    }
    let whole = RowSource::Floats { columns: 64, bytes: each * PUTS };
    let plan = JobPlan::Endpoints { table: "large".into(), source: whole.clone(), streams: STREAMS, keep: false };
    let series = bench.rounds_of(&[Contender { label: "volley1".into(), system, plan }], 1).await?;
    let mut case = CaseReport::new("memory", about(&whole, "32 streams at once from one node, one run"), series);
    let peak = case.of("volley1").map(|series| series.peak(|used| used.anonymous).largest);
    let peak = peak.map(|bytes| bytes as f64 / (1u64 << 20) as f64);
    case.goal(Goal::at_most("volley1: peak anonymous memory of the node, MiB", peak, GOAL_MIB));
    bench.report.add(case);
    bench.stop_all().await
}
