//! Small gets beside bulk gets and puts: how much later they are answered while others move much data.

use serde_json::json;

use super::gets::{CHUNK_ROWS, REFERENCE, ROWS_64K};
use crate::bench::{Bench, BenchTable, Contender, JobPlan};
use crate::jobs::{ClientJob, MixedLoadJob, SmallCall, SmallCallsJob};
use crate::measure::paired_ratio;
use crate::report::{CaseReport, Goal};
use crate::systems::SystemKind;

/// Bulk gets and bulk puts at once.
const GETS: usize = 4;
const PUTS: usize = 2;
/// Small gets a second, and for how long, seconds.
const RATE: u32 = 200;
const SECONDS: u32 = 10;
/// The tables that they read, and the rows of each.
const TABLES: usize = 200;
const ROWS: usize = 100;
/// Clients that put them.
const CLIENTS: usize = 16;
/// The share of the reference table that a bulk put has.
const PUT_SHARE: f64 = 0.05;
/// The most rounds: what bulk puts replace stays on the disk for a while.
const MAX_RUNS: usize = 3;
/// The goal: the 99th percentile, × that of small gets alone.
const DISTURBED: f64 = 5.0;

pub(super) async fn small_gets(bench: &mut Bench) -> Result<(), String> {
    bench.stop_all().await?;
    let new = BenchTable { name: REFERENCE, source: bench.reference(1.0), batch_rows: CHUNK_ROWS, options: json!({}) };
    let kinds = bench.kinds(&[SystemKind::Volley1, SystemKind::Volley4]);
    let mut contenders = Vec::new();
    for kind in &kinds {
        let system = bench.system(*kind).await;
        bench.table(system, &new).await?;
        put_small_tables(bench, *kind, system).await?;
        for (label, gets, puts) in [(alone(*kind), 0, 0), (beside(*kind), GETS, PUTS)] {
            let job = MixedLoadJob {
                addresses: bench.running(system).nodes(),
                table: REFERENCE.into(),
                gets,
                puts: (0..puts).map(|at| format!("bulk{at}")).collect(),
                source: bench.reference(PUT_SHARE),
                batch_rows: ROWS_64K as usize,
                tables: TABLES,
                rows: ROWS,
                rate: RATE,
                seconds: SECONDS,
            };
            contenders.push(Contender { label, system, plan: JobPlan::Job(ClientJob::Mixed(job)) });
        }
    }
    let runs = bench.flags.runs.min(MAX_RUNS);
    let series = bench.rounds_of(&contenders, runs).await?;
    let about = format!(
        "{RATE} gets a second of tables of {ROWS} rows, alone, and beside {GETS} bulk gets and {PUTS} bulk puts"
    );
    let mut case = CaseReport::new("mixed", about, series);
    for kind in kinds {
        let ratio = p99_ratio(&case, &beside(kind), &alone(kind));
        case.goal(Goal::at_most(&format!("{}: × p99 of small gets alone", kind.name()), ratio, DISTURBED));
    }
    bench.report.add(case);
    bench.stop_all().await
}

fn alone(kind: SystemKind) -> String {
    format!("{}: alone", kind.name())
}

fn beside(kind: SystemKind) -> String {
    format!("{}: beside bulk", kind.name())
}

fn p99_ratio(case: &CaseReport, one: &str, other: &str) -> Option<f64> {
    paired_ratio(&case.of(one)?.call_times().1, &case.of(other)?.call_times().1)
}

async fn put_small_tables(bench: &mut Bench, kind: SystemKind, system: usize) -> Result<(), String> {
    let addresses = bench.running(system).nodes();
    let job = SmallCallsJob { addresses, call: SmallCall::Put, calls: TABLES, clients: CLIENTS, rows: ROWS };
    let put = Contender { label: kind.name().into(), system, plan: JobPlan::Job(ClientJob::Small(job)) };
    bench.rounds_of(&[put], 1).await.map(|_| ())
}
