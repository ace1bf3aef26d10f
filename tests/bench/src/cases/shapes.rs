//! Other tables: strings, decimals and dates; compressed; very many columns.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use arrow::ipc::writer::FileWriter;
use serde_json::json;
use tpchgen_arrow::LineItemArrow;

use super::gets::{ROWS_64K, TOTAL_CPU, getters};
use super::puts::{PutCaseOptions, labels, putters};
use crate::bench::{Bench, BenchTable, CHUNK};
use crate::jobs::RowSource;
use crate::report::{CaseReport, Goal};
use crate::systems::SystemKind;
use crate::tpch::{self, plain, plain_schema, value_bytes};

/// The scale of TPC-H that makes about this many GB of lineitem.
const SCALE_PER_GIB: f64 = 0.5;
const COLUMNS: usize = 1000;
/// The goal for the CPU of client and server together, × that of the C++ server and its client.
const CPU: f64 = 0.8;

pub(super) async fn lineitem(bench: &mut Bench) -> Result<(), String> {
    let source = generated(bench)?;
    let put_options = PutCaseOptions { source: source.clone(), batch_rows: ROWS_64K, streams: 1, options: json!({}) };
    let contenders = putters(bench, &put_options, &[SystemKind::Cpp, SystemKind::Naive, SystemKind::Volley1]).await?;
    let series = bench.rounds(&contenders).await?;
    bench.report.add(CaseReport::new(
        "lineitem put",
        about("put in batches of 65,536 rows, 1 stream", &source),
        series,
    ));
    let new = BenchTable { name: "lineitem", source, batch_rows: ROWS_64K, options: json!({}) };
    let contenders = getters(bench, &new, &json!({})).await?;
    let series = bench.rounds(&contenders).await?;
    let mut case = CaseReport::new("lineitem get", about("1 stream", &new.source), series);
    case.goal(Goal::at_most(TOTAL_CPU, case.total_cpu_ratio("volley1", "cpp"), CPU));
    bench.report.add(case);
    Ok(())
}

/// Volley stores the table compressed; the others compress it for each get.
pub(super) async fn lz4(bench: &mut Bench) -> Result<(), String> {
    let source = generated(bench)?;
    let options = json!({"compression": "lz4"});
    let new = BenchTable { name: "lineitem-lz4", source, batch_rows: ROWS_64K, options };
    let contenders = getters(bench, &new, &json!({"compression": "lz4"})).await?;
    let series = bench.rounds(&contenders).await?;
    bench.report.add(CaseReport::new(
        "lz4",
        about("sent compressed by LZ4, counted as it is without; 1 stream", &new.source),
        series,
    ));
    Ok(())
}

pub(super) async fn wide(bench: &mut Bench) -> Result<(), String> {
    let bytes = bench.reference(0.25).bytes() / (8 * COLUMNS as u64) * (8 * COLUMNS as u64);
    let source = RowSource::Floats { columns: COLUMNS, bytes };
    let batch_rows = CHUNK / (8 * COLUMNS as u64);
    let put_options = PutCaseOptions { source: source.clone(), batch_rows, streams: 1, options: json!({}) };
    let contenders = putters(bench, &put_options, &[SystemKind::Cpp, SystemKind::Naive, SystemKind::Volley1]).await?;
    let series = bench.rounds(&contenders).await?;
    let what = |how: &str| format!("{COLUMNS} float64 columns, {:.2} GB, {how}", bytes as f64 / 1e9);
    let mut case = CaseReport::new("wide put", what("in batches of 256 MiB, 1 stream"), series);
    for label in labels(&case, "volley1") {
        case.goal(Goal::at_least(&format!("{label}: × GB/s of cpp"), case.rate_ratio(&label, "cpp"), 0.9));
    }
    bench.report.add(case);
    let new = BenchTable { name: "wide", source, batch_rows, options: json!({}) };
    let contenders = getters(bench, &new, &json!({})).await?;
    let series = bench.rounds(&contenders).await?;
    let mut case = CaseReport::new("wide get", what("put in batches of 256 MiB, 1 stream"), series);
    case.goal(Goal::at_least("volley1: × GB/s of cpp", case.rate_ratio("volley1", "cpp"), 1.0));
    case.goal(Goal::at_most(TOTAL_CPU, case.total_cpu_ratio("volley1", "cpp"), CPU));
    bench.report.add(case);
    Ok(())
}

fn about(how: &str, source: &RowSource) -> String {
    format!("TPC-H lineitem, {} rows, {:.2} GB, {how}", source.rows(), source.bytes() as f64 / 1e9)
}

/// TPC-H lineitem of about half the size of the reference table, as a file; made once in a run.
pub(super) fn generated(bench: &mut Bench) -> Result<RowSource, String> {
    if let Some(made) = &bench.lineitem {
        return Ok(made.clone());
    }
    let path = bench.folder().join("lineitem.arrow");
    let made = generate(&path, bench.flags.gib * SCALE_PER_GIB).map_err(|e| format!("{}: {e}", path.display()))?;
    bench.lineitem = Some(made.clone());
    Ok(made)
}

fn generate(path: &Path, scale: f64) -> Result<RowSource, Box<dyn std::error::Error>> {
    let schema = plain_schema(&LineItemArrow::schema_ref());
    let mut writer = FileWriter::try_new(BufWriter::new(File::create(path)?), &schema)?;
    let (mut rows, mut bytes) = (0, 0);
    for batch in tpch::lineitem(scale) {
        let batch = plain(&batch?, &schema)?;
        rows += batch.num_rows() as u64;
        bytes += value_bytes(&batch)?;
        writer.write(&batch)?;
    }
    writer.finish()?;
    Ok(RowSource::File { path: path.display().to_string(), rows, bytes })
}
