//! The Python package `volley` beside pyarrow, over four nodes: gets of the reference table, puts of it and of lineitem by its key; and its
//! shuffled batches.

use serde_json::json;
use volley_common::options::MIN_RETENTION_S;

use super::gets::{CHUNK_ROWS, REFERENCE, ROWS_64K, about};
use super::puts::{PutCaseOptions, putters};
use super::{shapes, training};
use crate::bench::{Bench, BenchTable, Contender, JobPlan, with};
use crate::jobs::{ClientJob, PackageGetJob, PackagePutJob, TicketFetch};
use crate::report::{CaseReport, Goal};
use crate::systems::SystemKind;

/// Threads of the loops of pyarrow; the fastest loop counts.
const LOOP_THREADS: [usize; 3] = [2, 4, 8];
/// The line of the package.
const PACKAGE: &str = "volley4: volley";

pub(super) async fn all(bench: &mut Bench) -> Result<(), String> {
    get(bench).await?;
    let put_options =
        PutCaseOptions { source: bench.reference(0.5), batch_rows: ROWS_64K, streams: 1, options: json!({}) };
    let how = about(&put_options.source, "in batches of 65,536 rows");
    put(bench, "python put", put_options, how).await?;
    let source = shapes::generated(bench)?;
    let how = format!("TPC-H lineitem, {:.2} GB, 8 shards by l_orderkey, two copies", source.bytes() as f64 / 1e9);
    let options = json!({"shard_by": ["l_orderkey"], "shards": 8, "replicas": 2});
    put(bench, "python put-keyed", PutCaseOptions { source, batch_rows: ROWS_64K, streams: 1, options }, how).await?;
    training::all(bench).await
}

fn loop_of(threads: usize) -> String {
    format!("volley4: pyarrow, {threads} threads")
}

/// One stream of the server in C++, loops of pyarrow over all endpoints of the cluster, and the package.
async fn get(bench: &mut Bench) -> Result<(), String> {
    let source = bench.reference(1.0);
    let new = BenchTable { name: REFERENCE, source: source.clone(), batch_rows: CHUNK_ROWS, options: json!({}) };
    bench.keep_only(&[REFERENCE]).await?;
    let mut contenders = Vec::new();
    for kind in bench.kinds(&[SystemKind::Cpp, SystemKind::Volley4]) {
        let system = bench.system(kind).await;
        bench.table(system, &new).await?;
        if kind == SystemKind::Cpp {
            let ticket = TicketFetch::table(&bench.running(system).nodes()[0], REFERENCE, &json!({}));
            let plan = JobPlan::Get { streams: vec![vec![ticket]], source: source.clone() };
            contenders.push(Contender { label: kind.name().into(), system, plan });
            continue;
        }
        for threads in LOOP_THREADS {
            let (table, source) = (REFERENCE.into(), source.clone());
            let plan = JobPlan::Endpoints { table, source, streams: threads, keep: true };
            contenders.push(Contender { label: loop_of(threads), system, plan });
        }
        let addresses = bench.running(system).coordinators();
        let job =
            PackageGetJob { addresses, table: REFERENCE.into(), rows: source.rows(), local: "never".into(), sum: None };
        contenders.push(Contender { label: PACKAGE.into(), system, plan: JobPlan::Job(ClientJob::PackageGet(job)) });
    }
    let series = bench.rounds(&contenders).await?;
    let mut case = CaseReport::new("python get", about(&source, "put in batches of 256 MiB"), series);
    let ratios = LOOP_THREADS.iter().filter_map(|threads| case.rate_ratio(PACKAGE, &loop_of(*threads)));
    let fastest = ratios.reduce(f64::min);
    case.goal(Goal::at_least("volley4: volley: × GB/s of the fastest loop of pyarrow", fastest, 1.5));
    case.goal(Goal::at_least("volley4: volley: × GB/s of cpp", case.rate_ratio(PACKAGE, "cpp"), 2.0));
    let cpu = case.total_cpu_ratio(PACKAGE, "cpp");
    case.goal(Goal::at_most("volley4: volley: × CPU per GB of client and server of cpp", cpu, 0.7));
    bench.report.add(case);
    Ok(())
}

/// The package and `do_put` of pyarrow on the same cluster.
async fn put(bench: &mut Bench, name: &str, put: PutCaseOptions, how: String) -> Result<(), String> {
    let mut contenders = Vec::new();
    for pyarrow in putters(bench, &put, &[SystemKind::Volley4]).await? {
        let job = PackagePutJob {
            addresses: bench.running(pyarrow.system).coordinators(),
            table: "put".into(),
            source: put.source.clone(),
            batch_rows: put.batch_rows,
            options: with(put.options.clone(), "retention_s", MIN_RETENTION_S),
        };
        contenders.push(Contender {
            label: format!("{}: volley", pyarrow.label),
            system: pyarrow.system,
            plan: JobPlan::Job(ClientJob::PackagePut(job)),
        });
        contenders.push(Contender { label: format!("{}: pyarrow", pyarrow.label), ..pyarrow });
    }
    let series = bench.rounds(&contenders).await?;
    let mut case = CaseReport::new(name, how, series);
    for pair in contenders.chunks_exact(2) {
        let ratio = case.rate_ratio(&pair[0].label, &pair[1].label);
        case.goal(Goal::at_least(&format!("{}: × GB/s of pyarrow", pair[0].label), ratio, 1.3));
    }
    bench.report.add(case);
    Ok(())
}
