//! Messages of different sizes, end to end.

use serde_json::json;
use volley_common::options::MIN_RETENTION_S;

use super::gets::CHUNK_ROWS;
use super::gets::ROWS_64K;
use super::shapes::generated;
use crate::bench::{Bench, BenchTable, Contender, JobPlan};
use crate::jobs::{RowSource, TicketFetch};
use crate::report::CaseReport;
use crate::systems::SystemKind;

/// KiB of a message; the last is the most that a node accepts.
const SIZES: [usize; 4] = [512, 1024, 2048, 4032];

pub(super) async fn sweep(bench: &mut Bench) -> Result<(), String> {
    bench.stop_all().await?;
    let reference = bench.reference(0.5);
    sweep_of(bench, "reference", reference, CHUNK_ROWS).await?;
    let lineitem = generated(bench)?;
    sweep_of(bench, "lineitem", lineitem, ROWS_64K).await?;
    bench.stop_all().await
}

async fn sweep_of(bench: &mut Bench, table: &str, source: RowSource, batch_rows: u64) -> Result<(), String> {
    bench.keep_only(&[]).await?;
    let places = bench.places(source.bytes() * SIZES.len() as u64 / 2)?;
    let Some((within, mark)) = places.last() else { return Ok(()) };
    let (mut puts, mut gets) = (Vec::new(), Vec::new());
    for size in SIZES {
        let flags = ["--message-bytes".to_string(), (size << 10).to_string()];
        let system = bench.system_of(SystemKind::Volley1, within.clone(), &flags).await;
        let (label, address) = (format!("{size} KiB{mark}"), bench.running(system).nodes()[0].clone());
        let plan = JobPlan::Put {
            table: "put".into(),
            source: source.clone(),
            batch_rows,
            streams: 1,
            options: json!({"retention_s": MIN_RETENTION_S}),
        };
        puts.push(Contender { label: label.clone(), system, plan });
        let (streams, source) = (vec![vec![TicketFetch::new(&address, table.as_bytes())]], source.clone());
        let plan = JobPlan::Get { streams, source };
        gets.push(Contender { label, system, plan });
    }
    let what = format!("{table}, {:.2} GB, volley1, messages of so many bytes; 1 stream", source.bytes() as f64 / 1e9);
    let series = bench.rounds(&puts).await?;
    bench.report.add(CaseReport::new(&format!("sweep put {table}"), what.clone(), series));
    for contender in &gets {
        let new = BenchTable { name: table, source: source.clone(), batch_rows, options: json!({}) };
        bench.table(contender.system, &new).await?;
    }
    let series = bench.rounds(&gets).await?;
    bench.report.add(CaseReport::new(&format!("sweep get {table}"), what, series));
    Ok(())
}
