//! Streams files to record batches and back: a reader holds one batch, a writer about one row group. `exact` says what
//! each format holds of each type; no value is changed.
//!
//! | extension | format | notes |
//! |---|---|---|
//! | `.parquet`, `.pq` | Parquet | Arrow types are restored from the file's own Arrow schema |
//! | `.csv`, `.tsv` | text with a header line | types inferred from all rows; an empty field is null; no nested types |
//! | `.arrow`, `.feather`, `.ipc` | Arrow IPC | reads files and streams; writes files |
//! | `.arrows` | Arrow IPC stream | |
//! | `.jsonl`, `.ndjson`, `.json` | one JSON object a line, or an array of objects | types inferred from all rows; nested types; nulls are written |
//!
//! Each of them may be compressed as a whole (`.gz`, `.zst`). The command line reads and writes files with them, and the HTTP port of
//! a member bodies of requests and responses.
#![forbid(unsafe_code)]

use std::path::Path;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use clap::ValueEnum;
use volley_common::{Error, Result};

use text::TextOptions;

mod compression;
mod content;
mod csv_options;
pub mod decode_process;
mod delimited;
mod encoder;
mod encoding;
mod exact;
mod input;
mod int96;
mod interval;
mod ipc;
mod leaves;
mod message_path;
mod parquet;
mod progress;
#[cfg(test)]
mod testing;
pub mod text;
mod text_values;

pub use compression::FileCompression;
pub use csv_options::{CsvOptions, CsvQuote, ascii_character};
pub use encoder::{OutputOptions, TableEncoder, json_lines};
pub use encoding::TextEncoding;
pub use input::InputFile;
pub use int96::Int96Needs;
pub use message_path::message_path;
pub use progress::ReadProgress;

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
    #[value(alias = "json")]
    Jsonl,
}

impl Format {
    /// Whether it is text, which has no types.
    pub fn is_text(self) -> bool {
        matches!(self, Format::Csv | Format::Tsv | Format::Jsonl)
    }

    /// The format that the path's extension names.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: an unknown extension, or none; the message lists the known ones.
    pub fn of(path: &Path) -> Result<Format> {
        let path = &message_path(path);
        let uncompressed = FileCompression::strip(path);
        let extension = uncompressed.extension().map(|e| e.to_string_lossy().to_lowercase());
        match extension.as_deref() {
            Some("parquet" | "pq") => Ok(Format::Parquet),
            Some("csv") => Ok(Format::Csv),
            Some("tsv") => Ok(Format::Tsv),
            Some("arrow" | "feather" | "ipc") => Ok(Format::Arrow),
            Some("arrows") => Ok(Format::Arrows),
            Some("jsonl" | "ndjson" | "json") => Ok(Format::Jsonl),
            _ if path.is_dir() => Err(Error::invalid(format!("{} is a folder: name a file", path.display()))),
            _ => Err(Error::invalid(format!(
                "cannot tell the format of {}: known extensions are .parquet, .pq, .csv, .tsv, .arrow, .feather, .ipc, .arrows, .jsonl, .ndjson, .json, and each of them with .gz or .zst; or give --format",
                path.display()
            ))),
        }
    }
}

/// The batches of a file.
pub type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>;

/// The schema of a file that has one: Parquet and Arrow. That of text is inferred: see [`text::infer`].
///
/// # Errors
/// NOT_FOUND: no such file. INVALID_ARGUMENT: not a file of the format. All name the file.
pub fn schema(input: &InputFile) -> Result<SchemaRef> {
    match input.format {
        Format::Parquet => parquet::schema(input.open()?, input.int96.as_deref()),
        Format::Arrow | Format::Arrows if input.is_compressed() => {
            ipc::stream_schema(input.reader(ReadProgress::default())?)
        }
        Format::Arrow | Format::Arrows => ipc::schema(input.open()?),
        Format::Csv | Format::Tsv | Format::Jsonl => return Err(Error::internal("text has no schema")),
    }
    .map_err(|e| typed_file_error(input, e))
}

/// What the INT96 columns of a file need; nothing for other formats.
///
/// # Errors
/// As [`schema`].
pub fn int96_needs(input: &InputFile) -> Result<Int96Needs> {
    match input.format {
        Format::Parquet => Int96Needs::of(&input.open()?).map_err(|e| typed_file_error(input, e)),
        _ => Ok(Int96Needs::default()),
    }
}

/// Opens a file and returns its batches, which have the given schema if the file is text. Advances the bar by the file's
/// bytes.
///
/// # Errors
/// As [`schema`].
pub fn open(input: &InputFile, schema: SchemaRef, options: &TextOptions, bar: ReadProgress) -> Result<Batches> {
    if input.format.is_text() {
        return text::open(input, schema, options, bar);
    }
    match input.format {
        Format::Parquet => parquet::open(input.open()?, input.int96.as_deref(), bar),
        _ if input.is_compressed() => ipc::open_stream(input.reader(bar)?),
        _ => ipc::open(input.open()?, bar),
    }
    .map_err(|e| typed_file_error(input, e))
}

/// Refuses a file whose first bytes say that it is of another format.
///
/// # Errors
/// INVALID_ARGUMENT: names what it is, and what helps.
pub fn check_content(input: &InputFile) -> Result<()> {
    match content::mismatch(input.reader(ReadProgress::default())?, input.format) {
        Some(text) => Err(Error::invalid(format!("{}: {text}", input.path.display()))),
        None => Ok(()),
    }
}

/// Refuses a file that only its name makes CSV or TSV, and that begins as JSON, HTML or XML.
///
/// # Errors
/// INVALID_ARGUMENT: names what it is, and what helps.
pub fn check_named_text(input: &InputFile) -> Result<()> {
    match content::other_than_delimited(input.reader(ReadProgress::default())?, input.format) {
        Some(text) => Err(Error::invalid(format!("{}: {text}", input.path.display()))),
        None => Ok(()),
    }
}

/// An error of a Parquet or Arrow file, which may be none.
fn typed_file_error(input: &InputFile, error: ArrowError) -> Error {
    if let Err(other) = check_content(input) {
        return other;
    }
    let cut_off = match &error {
        ArrowError::ParquetError(text) => text.contains("Invalid Parquet file") || text.contains("EOF:"),
        ArrowError::IoError(_, error) => error.kind() == std::io::ErrorKind::UnexpectedEof,
        _ => false,
    };
    let error = file_error(&input.path, error);
    if cut_off {
        Error { message: format!("{}: the file is damaged, or not complete", error.message), ..error }
    } else {
        error
    }
}

/// An error of the operating system about a file.
pub fn io_error(path: &Path, error: &std::io::Error) -> Error {
    let text = format!("{}: {error}", message_path(path).display());
    match error.kind() {
        std::io::ErrorKind::NotFound => Error::not_found(text),
        std::io::ErrorKind::PermissionDenied => Error::denied(text),
        std::io::ErrorKind::InvalidData => Error::invalid(text),
        _ => Error::unavailable(text),
    }
}

/// An error of reading or writing a format.
pub fn file_error(path: &Path, error: ArrowError) -> Error {
    Error::invalid(format!("{}: {}", message_path(path).display(), error_text(error)))
}

/// What is wrong: Arrow's prefixes ("Parser error: ...") do not help the user.
pub fn error_text(error: ArrowError) -> String {
    match error {
        ArrowError::ParquetError(text) if text.contains("CRC checksum mismatch") => {
            "the checksum of a page differs: the file is damaged, so copy or write it again".into()
        }
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
    }
}
