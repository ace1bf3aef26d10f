//! A get on the node's machine by the files of parts, beside the same get by the wire and the C++ server's over loopback. All but one
//! sum a column up, so that its values are read. Then many small gets by files, one after the other.

use serde_json::json;

use super::gets::{CHUNK_ROWS, REFERENCE, about};
use crate::bench::{Bench, BenchTable, Contender, JobPlan};
use crate::jobs::{ClientJob, GetJob, PackageGetJob, SmallCall, SmallCallsJob, TicketFetch};
use crate::measure::median;
use crate::report::{CaseReport, Goal};
use crate::systems::SystemKind;

/// The column that is summed up.
const SUMMED: &str = "c1";
const FILES: &str = "volley1: files";
const FILES_ALONE: &str = "volley1: files, no sum";
const WIRE: &str = "volley1: wire";
/// The longest time of a get by files, seconds, whatever the size.
const SECONDS: f64 = 0.02;
/// The most anonymous memory that it takes of the client, MiB.
const MEMORY_MIB: f64 = 16.0;
/// Tables of small gets, and the rows of each.
const SMALL_TABLES: usize = 1_000;
const SMALL_ROWS: usize = 100;
/// The goal for the median of small gets, milliseconds.
const SMALL_MS: f64 = 0.5;

pub(super) async fn get(bench: &mut Bench) -> Result<(), String> {
    let source = bench.reference(1.0);
    let new = BenchTable { name: REFERENCE, source: source.clone(), batch_rows: CHUNK_ROWS, options: json!({}) };
    bench.keep_only(&[REFERENCE]).await?;
    let (mut contenders, mut volley) = (Vec::new(), None);
    for kind in bench.kinds(&[SystemKind::Cpp, SystemKind::Volley1]) {
        let folder = bench.folder().to_path_buf();
        let flags = ["--local-socket".to_string(), format!("{}/{{name}}.sock", folder.display())];
        let system = bench.system_of(kind, folder, &flags).await;
        bench.table(system, &new).await?;
        if kind == SystemKind::Cpp {
            let ticket = TicketFetch::table(&bench.running(system).nodes()[0], REFERENCE, &json!({}));
            let job = GetJob { streams: vec![vec![ticket]], expect: None, sum: Some(SUMMED.into()) };
            contenders.push(Contender { label: kind.name().into(), system, plan: JobPlan::Job(ClientJob::Get(job)) });
            continue;
        }
        volley = Some(system);
        for (label, local, sum) in
            [(FILES, "auto", Some(SUMMED)), (FILES_ALONE, "auto", None), (WIRE, "never", Some(SUMMED))]
        {
            let job = PackageGetJob {
                addresses: bench.running(system).coordinators(),
                table: REFERENCE.into(),
                rows: source.rows(),
                local: local.into(),
                sum: sum.map(String::from),
            };
            let plan = JobPlan::Job(ClientJob::PackageGet(job));
            contenders.push(Contender { label: label.into(), system, plan });
        }
    }
    let series = bench.rounds(&contenders).await?;
    let mut case =
        CaseReport::new("local", about(&source, "put in batches of 256 MiB; with the sum of a column"), series);
    case.goal(Goal::at_least("volley1: files: × GB/s of cpp", case.rate_ratio(FILES, "cpp"), 20.0));
    case.goal(Goal::at_least("volley1: files: × GB/s of the wire", case.rate_ratio(FILES, WIRE), 10.0));
    let alone = case.of(FILES_ALONE).map(|series| series.samples.clone()).unwrap_or_default();
    let seconds: Vec<f64> = alone.iter().map(|sample| sample.outcome.seconds).collect();
    case.goal(Goal::at_most("volley1: files, no sum: seconds", median(&seconds), SECONDS));
    let memory = alone.iter().map(|sample| sample.outcome.anonymous as f64 / f64::from(1 << 20)).reduce(f64::max);
    case.goal(Goal::at_most("volley1: files, no sum: MiB of the client", memory, MEMORY_MIB));
    bench.report.add(case);
    match volley {
        Some(system) => small_gets(bench, system).await,
        None => Ok(()),
    }
}

/// Gets of small tables by FlightInfo and files, one at a time.
async fn small_gets(bench: &mut Bench, system: usize) -> Result<(), String> {
    let addresses = bench.running(system).coordinators();
    let mut series = Vec::new();
    // The first ones make the tables.
    for call in [SmallCall::Put, SmallCall::Fetch] {
        let addresses = addresses.clone();
        let job = SmallCallsJob { addresses, call, calls: SMALL_TABLES, clients: 1, rows: SMALL_ROWS };
        let plan = JobPlan::Job(ClientJob::Small(job));
        series = bench.rounds_of(&[Contender { label: FILES.into(), system, plan }], 1).await?;
    }
    let about = format!("{SMALL_TABLES} gets of {SMALL_ROWS} rows by FlightInfo and files, one at a time, in Rust");
    let mut case = CaseReport::new("local small", about, series);
    let p50 = case.of(FILES).and_then(|series| median(&series.call_times().0));
    case.goal(Goal::at_most("volley1: files: p50, ms", p50, SMALL_MS));
    bench.report.add(case);
    Ok(())
}
