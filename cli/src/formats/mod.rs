//! Streams files to record batches and back: a reader holds one batch, a writer about one row group. [`exact`] says what
//! each format holds of each type; no value is changed.
//!
//! | extension | format | notes |
//! |---|---|---|
//! | `.parquet`, `.pq` | Parquet | Arrow types are restored from the file's own Arrow schema |
//! | `.csv`, `.tsv` | text with a header line | types inferred; an empty field is null; no nested types |
//! | `.arrow`, `.feather`, `.ipc` | Arrow IPC | reads files and streams; writes files |
//! | `.arrows` | Arrow IPC stream | |
//! | `.jsonl`, `.ndjson`, `.json` | one JSON object a line | types inferred; nested types; nulls are written |

use std::fs::File;
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use clap::ValueEnum;
use indicatif::ProgressBar;
use volley_common::{Error, Result};

mod delimited;
mod exact;
mod int96;
mod ipc;
mod leaves;
mod parquet;
mod target;
mod text;
mod text_values;
mod write;

pub use target::is_stdout;
pub use write::{create, json_lines};

/// Rows of a batch that a reader of a row format returns.
const BATCH_ROWS: usize = 8192;

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Apache Parquet.
    Parquet,
    /// Comma-separated values with a header.
    Csv,
    /// Tab-separated values with a header.
    Tsv,
    /// Arrow IPC file.
    Arrow,
    /// Arrow IPC stream.
    Arrows,
    /// One JSON object a line.
    Jsonl,
}

impl Format {
    /// The format that the path's extension names.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: an unknown extension, or none; the message lists the known ones.
    pub fn of(path: &Path) -> Result<Format> {
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        match extension.as_deref() {
            Some("parquet" | "pq") => Ok(Format::Parquet),
            Some("csv") => Ok(Format::Csv),
            Some("tsv") => Ok(Format::Tsv),
            Some("arrow" | "feather" | "ipc") => Ok(Format::Arrow),
            Some("arrows") => Ok(Format::Arrows),
            Some("jsonl" | "ndjson" | "json") => Ok(Format::Jsonl),
            _ => Err(Error::invalid(format!(
                "cannot tell the format of {}: known extensions are .parquet, .pq, .csv, .tsv, .arrow, .feather, .ipc, .arrows, .jsonl, .ndjson, .json; or give --format",
                path.display()
            ))),
        }
    }
}

/// The batches of a file.
pub type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>;

/// The schema of a file. For CSV and JSON it is inferred from the first `infer_rows` rows.
///
/// # Errors
/// NOT_FOUND: no such file. INVALID_ARGUMENT: not a file of the format. All name the file.
pub fn schema(path: &Path, format: Format, infer_rows: usize) -> Result<SchemaRef> {
    let file = open_file(path)?;
    match format {
        Format::Parquet => parquet::schema(file),
        Format::Csv => text::csv_schema(file, b',', infer_rows),
        Format::Tsv => text::csv_schema(file, b'\t', infer_rows),
        Format::Arrow | Format::Arrows => ipc::schema(file),
        Format::Jsonl => text::json_schema(file, infer_rows),
    }
    .map_err(|e| file_error(path, e))
}

/// Opens a file and returns its batches, which have the given schema (CSV and JSON are parsed by it). Advances the bar by
/// the file's bytes.
///
/// # Errors
/// As [`schema`].
pub fn open(path: &Path, format: Format, schema: SchemaRef, bar: ProgressBar) -> Result<Batches> {
    let file = open_file(path)?;
    match format {
        Format::Parquet => parquet::open(file, bar),
        Format::Csv => text::csv_open(file, b',', schema, bar),
        Format::Tsv => text::csv_open(file, b'\t', schema, bar),
        Format::Arrow | Format::Arrows => ipc::open(file, bar),
        Format::Jsonl => text::json_open(file, schema, bar),
    }
    .map_err(|e| file_error(path, e))
}

fn open_file(path: &Path) -> Result<File> {
    let file = File::open(path).map_err(|e| io_error(path, &e))?;
    let meta = file.metadata().map_err(|e| io_error(path, &e))?;
    if meta.is_dir() {
        return Err(Error::invalid(format!("{} is a folder: name its files", path.display())));
    }
    Ok(file)
}

/// An error of the operating system about a file.
pub fn io_error(path: &Path, error: &std::io::Error) -> Error {
    let text = format!("{}: {error}", path.display());
    match error.kind() {
        std::io::ErrorKind::NotFound => Error::not_found(text),
        std::io::ErrorKind::PermissionDenied => Error::denied(text),
        _ => Error::unavailable(text),
    }
}

/// An error of reading or writing a format.
pub fn file_error(path: &Path, error: ArrowError) -> Error {
    let text = match error {
        // Arrow's prefixes ("Parser error: ...") do not help the user.
        ArrowError::CsvError(text)
        | ArrowError::JsonError(text)
        | ArrowError::ParseError(text)
        | ArrowError::ParquetError(text)
        | ArrowError::IpcError(text)
        | ArrowError::SchemaError(text)
        | ArrowError::IoError(text, _)
        | ArrowError::InvalidArgumentError(text)
        | ArrowError::NotYetImplemented(text) => text,
        other => other.to_string(),
    };
    Error::invalid(format!("{}: {text}", path.display()))
}

/// Makes columns text for which inference saw only nulls: any later value can be read as text.
fn no_null_columns(schema: &Schema) -> Schema {
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| match field.data_type() {
            DataType::Null => field.as_ref().clone().with_data_type(DataType::Utf8),
            _ => field.as_ref().clone(),
        })
        .collect();
    Schema::new(fields)
}

#[cfg(test)]
mod tests;
