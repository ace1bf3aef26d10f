//! The reference table, 64 float64 columns, read by pyarrow.

use serde_json::{Value, json};

use crate::bench::{Bench, BenchTable, CHUNK, Contender, JobPlan};
use crate::jobs::{RowSource, TicketFetch};
use crate::report::{CaseReport, Goal};
use crate::systems::SystemKind;

/// The table that several cases read.
pub(super) const REFERENCE: &str = "reference";
/// Its rows in a large batch.
pub(super) const CHUNK_ROWS: u64 = CHUNK / (64 * 8);
/// Rows of a batch of common size.
pub(super) const ROWS_64K: u64 = 65_536;
/// The goal for the rate through a proxy, as a share of the direct rate: more than a StarRocks proxy reaches.
const PROXIED: f64 = 0.7;
const PROJECTED: f64 = 1.3;
/// What a user pays for a get.
pub(super) const TOTAL_CPU: &str = "volley1: × CPU per GB of client and server of cpp";

/// The reference table as `write_table` puts it.
fn reference(bench: &Bench) -> BenchTable<'static> {
    BenchTable { name: REFERENCE, source: bench.reference(1.0), batch_rows: CHUNK_ROWS, options: json!({}) }
}

pub(super) async fn get_1(bench: &mut Bench) -> Result<(), String> {
    let mut case = get(bench, "get-1", &reference(bench), "put in batches of 256 MiB; 1 stream").await?;
    case.goal(Goal::at_least("volley1: × GB/s of cpp", case.rate_ratio("volley1", "cpp"), 1.3));
    case.goal(Goal::at_most("volley1: × server CPU per GB of cpp", case.cpu_ratio("volley1", "cpp"), 1.0));
    case.goal(Goal::at_most(TOTAL_CPU, case.total_cpu_ratio("volley1", "cpp"), 0.6));
    case.goal(Goal::at_least("volley1: × GB/s of naive", case.rate_ratio("volley1", "naive"), 2.5));
    case.goal(Goal::at_most("volley1: × server CPU per GB of naive", case.cpu_ratio("volley1", "naive"), 0.2));
    bench.report.add(case);
    Ok(())
}

pub(super) async fn get_1_64k(bench: &mut Bench) -> Result<(), String> {
    let source = bench.reference(0.5);
    let new = BenchTable { name: "reference-64k", source, batch_rows: ROWS_64K, options: json!({}) };
    let case = get(bench, "get-1-64k", &new, "put in batches of 65,536 rows; 1 stream").await?;
    bench.report.add(case);
    Ok(())
}

async fn get(bench: &mut Bench, name: &str, new: &BenchTable<'_>, how: &str) -> Result<CaseReport, String> {
    let contenders = getters(bench, new, &json!({})).await?;
    let series = bench.rounds(&contenders).await?;
    Ok(CaseReport::new(name, about(&new.source, how), series))
}

pub(super) async fn get_4(bench: &mut Bench) -> Result<(), String> {
    let new = reference(bench);
    let mut contenders = getters(bench, &new, &json!({})).await?;
    for contender in &mut contenders {
        let (table, source) = (new.name.into(), new.source.clone());
        contender.plan = JobPlan::Endpoints { table, source, streams: 4, keep: true };
    }
    let series = bench.rounds(&contenders).await?;
    let mut case =
        CaseReport::new("get-4", about(&new.source, "put in batches of 256 MiB; 4 streams of one client"), series);
    for label in ["volley1", "volley4"] {
        case.goal(Goal::at_least(&format!("{label}: × GB/s of cpp"), case.rate_ratio(label, "cpp"), 1.1));
        case.goal(Goal::at_most(&format!("{label}: × server CPU per GB of cpp"), case.cpu_ratio(label, "cpp"), 1.0));
    }
    bench.report.add(case);
    Ok(())
}

/// Three columns, compared with all: the CPU of both per byte sent.
pub(super) async fn project(bench: &mut Bench) -> Result<(), String> {
    let new = reference(bench);
    let mut contenders = getters(bench, &new, &json!({"columns": ["c1", "c30", "c60"]})).await?;
    if let Some(volley) = contenders.iter().find(|contender| contender.label == "volley1").cloned() {
        let address = &bench.running(volley.system).nodes()[0];
        let streams = vec![vec![TicketFetch::new(address, REFERENCE.as_bytes())]];
        let plan = JobPlan::Get { streams, source: new.source.clone() };
        contenders.push(Contender { label: "volley1: 64 columns".into(), plan, ..volley });
    }
    let series = bench.rounds(&contenders).await?;
    let mut case = CaseReport::new("project", about(&new.source, "3 of 64 columns; 1 stream"), series);
    let ratio = case.cpu_ratio("volley1", "volley1: 64 columns");
    case.goal(Goal::at_most("volley1: × server CPU per GB of all 64 columns", ratio, PROJECTED));
    bench.report.add(case);
    Ok(())
}

/// The same ticket redeemed at a holder and at other members. On four nodes the table is one shard with one copy.
pub(super) async fn proxy(bench: &mut Bench) -> Result<(), String> {
    let source = bench.reference(1.0);
    bench.keep_only(&[REFERENCE]).await?;
    let (mut contenders, mut pairs) = (Vec::new(), Vec::new());
    for kind in bench.kinds(&[SystemKind::Volley1, SystemKind::Volley4]) {
        let system = bench.system(kind).await;
        let (name, options) = match kind {
            SystemKind::Volley4 => ("held-once", json!({"replicas": 1, "shards": 1})),
            _ => (REFERENCE, json!({})),
        };
        let new = BenchTable { name, source: source.clone(), batch_rows: CHUNK_ROWS, options };
        bench.table(system, &new).await?;
        let through = routes(bench, system, name).await?;
        let direct = format!("{}: the holder", kind.name());
        for (route, address) in through {
            let label = format!("{}: {route}", kind.name());
            if label != direct {
                pairs.push((label.clone(), direct.clone()));
            }
            let (streams, source) = (vec![vec![TicketFetch::new(&address, name.as_bytes())]], source.clone());
            let plan = JobPlan::Get { streams, source };
            contenders.push(Contender { label, system, plan });
        }
    }
    let series = bench.rounds(&contenders).await?;
    let mut case = CaseReport::new("proxy", about(&source, "1 stream through different members"), series);
    for (proxied, direct) in pairs {
        let ratio = case.rate_ratio(&proxied, &direct);
        case.goal(Goal::at_least(&format!("{proxied}: × GB/s of {direct}"), ratio, PROXIED));
    }
    bench.report.add(case);
    Ok(())
}

/// The members through which to read a table that one node holds, and their addresses.
async fn routes(bench: &Bench, system: usize, table: &str) -> Result<Vec<(&'static str, String)>, String> {
    let running = bench.running(system);
    let holders: Vec<String> = running.fetches(table).await?.into_iter().map(|fetch| fetch.address).collect();
    let nodes = running.nodes();
    let holder = nodes.iter().find(|node| holders.contains(node)).ok_or("no node of the system holds the table")?;
    let other = nodes.iter().find(|node| !holders.contains(node));
    let mut routes = vec![("the holder", holder.clone()), ("a coordinator", running.coordinators()[0].clone())];
    routes.extend(other.map(|node| ("another node", node.clone())));
    Ok(routes)
}

/// A contender for each system that gets this table by one ticket from one node. `options` are those of the ticket.
pub(super) async fn getters(
    bench: &mut Bench,
    new: &BenchTable<'_>,
    options: &Value,
) -> Result<Vec<Contender>, String> {
    bench.keep_only(&[new.name]).await?;
    let mut contenders = Vec::new();
    for kind in bench.kinds(&SystemKind::ALL) {
        let system = bench.system(kind).await;
        bench.table(system, new).await?;
        let address = &bench.running(system).nodes()[0];
        let streams = vec![vec![TicketFetch::table(address, new.name, options)]];
        let plan = JobPlan::Get { streams, source: new.source.clone() };
        contenders.push(Contender { label: kind.name().into(), system, plan });
    }
    Ok(contenders)
}

pub(super) fn about(source: &RowSource, how: &str) -> String {
    format!("64 float64 columns, {:.2} GB, {how}", source.bytes() as f64 / 1e9)
}
