//! Other tables: strings, decimals and dates; compressed; very many columns.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::writer::FileWriter;
use serde_json::json;
use tpchgen::generators::LineItemGenerator;
use tpchgen_arrow::LineItemArrow;

use super::gets::{ROWS_64K, getters};
use super::puts::{PutCaseOptions, putters};
use crate::bench::{Bench, BenchTable, CHUNK};
use crate::jobs::RowSource;
use crate::report::CaseReport;
use crate::systems::SystemKind;

/// The scale of TPC-H that makes about this many GB of lineitem.
const SCALE_PER_GIB: f64 = 0.5;
const COLUMNS: usize = 1000;

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
    bench.report.add(CaseReport::new("lineitem get", about("1 stream", &new.source), series));
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
    bench.report.add(CaseReport::new("wide put", what("in batches of 256 MiB, 1 stream"), series));
    let new = BenchTable { name: "wide", source, batch_rows, options: json!({}) };
    let contenders = getters(bench, &new, &json!({})).await?;
    let series = bench.rounds(&contenders).await?;
    bench.report.add(CaseReport::new("wide get", what("put in batches of 256 MiB, 1 stream"), series));
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
    let generator = LineItemArrow::new(LineItemGenerator::new(scale, 1, 1)).with_batch_size(ROWS_64K as usize);
    let schema = plain_schema(&LineItemArrow::schema_ref());
    let mut writer = FileWriter::try_new(BufWriter::new(File::create(path)?), &schema)?;
    let (mut rows, mut bytes) = (0, 0);
    for batch in generator {
        let batch = plain(&batch?, &schema)?;
        rows += batch.num_rows() as u64;
        for column in batch.columns() {
            bytes += column.to_data().get_slice_memory_size()? as u64;
        }
        writer.write(&batch)?;
    }
    writer.finish()?;
    Ok(RowSource::File { path: path.display().to_string(), rows, bytes })
}

/// The schema with strings that have offsets instead of views, as most programs write them.
fn plain_schema(schema: &SchemaRef) -> SchemaRef {
    let field = |field: &Arc<Field>| match field.data_type() {
        DataType::Utf8View => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8)),
        _ => field.clone(),
    };
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
}

fn plain(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, arrow::error::ArrowError> {
    let pairs = batch.columns().iter().zip(schema.fields());
    let columns = pairs.map(|(column, field)| cast(column, field.data_type())).collect::<Result<_, _>>()?;
    RecordBatch::try_new(schema.clone(), columns)
}
