//! Many small calls: tables of 100 rows, appends, and plans of a table of 1,000 parts.

use serde_json::json;

use crate::bench::{Bench, BenchTable, Contender, JobPlan};
use crate::jobs::{ClientJob, FlightInfoJob, RowSource, SmallCall, SmallCallsJob};
use crate::measure::median;
use crate::report::{CaseReport, Goal};
use crate::systems::SystemKind;

/// Clients at once, and the goal for that number: acknowledged calls a second at least.
const CLIENTS: [(usize, f64); 2] = [(16, 1_500.0), (256, 5_000.0)];
/// The goal for the 99th percentile of acknowledged calls, milliseconds.
const ACKNOWLEDGED_MS: f64 = 60.0;
const ROWS: usize = 100;
/// Appends in all.
const APPENDS: usize = 4_000;
const PARTS: usize = 1_000;
/// Calls of `get_flight_info` a second, and for how long.
const RATE: u32 = 1_000;
const SECONDS: u32 = 5;

pub(super) async fn small(bench: &mut Bench) -> Result<(), String> {
    let tables = bench.flags.small;
    for (clients, acknowledged) in CLIENTS {
        // Their tables are new ones.
        bench.stop_all().await?;
        let about = format!("{tables} tables of 100 rows, {clients} clients in Rust, one run");
        let puts = callers(bench, &SystemKind::ALL, SmallCall::Put, tables, clients).await;
        let series = bench.rounds_of(&puts, 1).await?;
        let mut case = CaseReport::new(&named("small put", clients), about.clone(), series);
        add_goals(&mut case, acknowledged);
        bench.report.add(case);
        let gets = callers(bench, &SystemKind::ALL, SmallCall::Get, tables, clients).await;
        let series = bench.rounds_of(&gets, 1).await?;
        let mut case = CaseReport::new(&named("small get", clients), about, series);
        let ratio = case.call_ratio("volley1", "cpp");
        case.goal(Goal::at_least("volley1: × calls/s of cpp", ratio, 1.0));
        bench.report.add(case);
    }
    bench.stop_all().await
}

pub(super) async fn appends(bench: &mut Bench) -> Result<(), String> {
    for (clients, acknowledged) in CLIENTS {
        bench.stop_all().await?;
        let kinds = [SystemKind::Volley1, SystemKind::Volley4];
        let contenders = callers(bench, &kinds, SmallCall::Append, APPENDS, clients).await;
        let series = bench.rounds_of(&contenders, 1).await?;
        let about =
            format!("{APPENDS} appends of 100 rows, {clients} clients in Rust, each to a table of its own, one run");
        let mut case = CaseReport::new(&named("appends", clients), about, series);
        add_goals(&mut case, acknowledged);
        bench.report.add(case);
    }
    bench.stop_all().await
}

fn named(name: &str, clients: usize) -> String {
    format!("{name}, {clients} clients")
}

fn add_goals(case: &mut CaseReport, acknowledged: f64) {
    let rate = case.of("volley4").and_then(|series| series.call_rates().first().copied());
    let p99 = case.of("volley4").and_then(|series| series.call_times().1.first().copied());
    case.goal(Goal::at_least("volley4: acknowledged a second", rate, acknowledged));
    case.goal(Goal::at_most("volley4: p99, ms", p99, ACKNOWLEDGED_MS));
}

async fn callers(
    bench: &mut Bench,
    kinds: &[SystemKind],
    call: SmallCall,
    calls: usize,
    clients: usize,
) -> Vec<Contender> {
    let mut contenders = Vec::new();
    for kind in bench.kinds(kinds) {
        let system = bench.system(kind).await;
        let addresses = bench.running(system).nodes();
        let job = SmallCallsJob { addresses, call, calls, clients, rows: ROWS };
        contenders.push(Contender { label: kind.name().into(), system, plan: JobPlan::Job(ClientJob::Small(job)) });
    }
    contenders
}

/// The parts are shards of a keyed table, one each, so that none is compacted with another.
pub(super) async fn info(bench: &mut Bench) -> Result<(), String> {
    bench.keep_only(&[]).await?;
    let source = RowSource::Floats { columns: 2, bytes: 16 * 400 * PARTS as u64 };
    let options = json!({"shard_by": ["c0"], "shards": PARTS});
    let new = BenchTable { name: "parts", source, batch_rows: 65_536, options };
    let mut contenders = Vec::new();
    for kind in bench.kinds(&[SystemKind::Volley1, SystemKind::Volley4]) {
        let system = bench.system(kind).await;
        bench.table(system, &new).await?;
        let addresses = bench.running(system).coordinators();
        let parts = bench.running(system).fetches(new.name).await?.len();
        if parts != PARTS {
            return Err(format!("{}: the table has {parts} endpoints instead of {PARTS}", kind.name()));
        }
        let job = ClientJob::Infos(FlightInfoJob {
            addresses,
            table: new.name.into(),
            endpoints: PARTS,
            rate: RATE,
            seconds: SECONDS,
        });
        contenders.push(Contender { label: kind.name().into(), system, plan: JobPlan::Job(job) });
    }
    let series = bench.rounds(&contenders).await?;
    let about = format!("get_flight_info of {PARTS} parts, {RATE} calls a second from a client in Rust");
    let mut case = CaseReport::new("info", about, series);
    let (p50, p99) = case.of("volley4").map(|series| series.call_times()).unwrap_or_default();
    case.goal(Goal::at_most("volley4: p50, ms", median(&p50), 1.0));
    case.goal(Goal::at_most("volley4: p99, ms", median(&p99), 5.0));
    bench.report.add(case);
    Ok(())
}
