//! CSV and JSON lines: types are inferred from the first rows; a later row that does not match is an error.

use std::fs::File;
use std::io::{BufReader, Seek};
use std::sync::Arc;

use arrow::csv;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::json;
use indicatif::ProgressBar;

use super::{BATCH_ROWS, Batches, no_null_columns};
use crate::progress::ProgressReader;

fn csv_format(delimiter: u8) -> csv::reader::Format {
    csv::reader::Format::default().with_header(true).with_delimiter(delimiter)
}

pub fn csv_schema(file: File, delimiter: u8, infer_rows: usize) -> Result<SchemaRef, ArrowError> {
    let (schema, _) = csv_format(delimiter).infer_schema(BufReader::new(file), Some(infer_rows))?;
    if schema.fields().is_empty() {
        return Err(ArrowError::CsvError("the file is empty: its first line must name the columns".into()));
    }
    Ok(Arc::new(no_null_columns(&schema)))
}

pub fn csv_open(file: File, delimiter: u8, schema: SchemaRef, bar: ProgressBar) -> Result<Batches, ArrowError> {
    let reader = csv::ReaderBuilder::new(schema)
        .with_format(csv_format(delimiter))
        .with_batch_size(BATCH_ROWS)
        .build(ProgressReader::new(BufReader::new(file), bar))?;
    Ok(Box::new(reader))
}

pub fn json_schema(mut file: File, infer_rows: usize) -> Result<SchemaRef, ArrowError> {
    file.rewind()?;
    let (schema, _) = json::reader::infer_json_schema(BufReader::new(file), Some(infer_rows))?;
    if schema.fields().is_empty() {
        return Err(ArrowError::JsonError("no JSON objects in it: it must have one object a line".into()));
    }
    Ok(Arc::new(no_null_columns(&schema)))
}

/// A key that is not in the schema is an error, so that no value is lost.
pub fn json_open(file: File, schema: SchemaRef, bar: ProgressBar) -> Result<Batches, ArrowError> {
    let reader = json::ReaderBuilder::new(schema)
        .with_strict_mode(true)
        .with_batch_size(BATCH_ROWS)
        .build(BufReader::new(ProgressReader::new(file, bar)))?;
    Ok(Box::new(reader))
}
