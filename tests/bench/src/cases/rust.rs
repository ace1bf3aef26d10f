//! The reference table by Volley's client in Rust, which every Flight server understands.

use serde_json::json;

use super::gets::{CHUNK_ROWS, REFERENCE, ROWS_64K, about, getters};
use super::puts::{How, putters};
use crate::bench::{Bench, NewTable, Plan};
use crate::jobs::{Job, RustGet, RustPut};
use crate::report::Case;
use crate::systems::Kind;

/// Endpoints at once.
const STREAMS: usize = 4;

pub(super) async fn get(bench: &mut Bench) -> Result<(), String> {
    let source = bench.reference(1.0);
    let new = NewTable { name: REFERENCE, source, batch_rows: CHUNK_ROWS, options: json!({}) };
    let mut contenders = getters(bench, &new, &json!({})).await?;
    for contender in &mut contenders {
        let address = bench.running(contender.system).coordinators()[0].clone();
        let rows = new.source.rows();
        contender.plan = Plan::Job(Job::RustGet(RustGet { address, table: REFERENCE.into(), streams: STREAMS, rows }));
    }
    let series = bench.rounds(&contenders).await?;
    bench.report.add(Case::new("rust-get", about(&new.source, "Volley's client in Rust, 4 streams"), series));
    Ok(())
}

pub(super) async fn put(bench: &mut Bench) -> Result<(), String> {
    let how = How { source: bench.reference(0.5), batch_rows: ROWS_64K, streams: 1, options: json!({}) };
    let mut contenders = putters(bench, &how, &Kind::ALL).await?;
    for contender in &mut contenders {
        let address = bench.running(contender.system).nodes()[0].clone();
        let (source, batch_rows) = (how.source.clone(), how.batch_rows);
        contender.plan = Plan::Job(Job::RustPut(RustPut { address, table: "put".into(), source, batch_rows }));
    }
    let series = bench.rounds(&contenders).await?;
    bench.report.add(Case::new("rust-put", about(&how.source, "Volley's client in Rust, 1 stream"), series));
    Ok(())
}
