//! CSV and JSON. No value changes: types are inferred from all rows, and a value that its type cannot hold as it is, is an
//! error that names line and column.
//!
//! | module | what it holds |
//! |---|---|
//! | `csv_rows`, `json_rows`, `json` | text to cells and values, with their lines |
//! | `number`, `time` | what counts as a number, a date, a time, and which type holds it |
//! | `duration` | durations and intervals, which inference takes for text |
//! | `object_fields` | the fields of JSON objects by name |
//! | `inference` | types from rows, by one thread or several |
//! | `blocks` | blocks of a large text for several threads |
//! | `column_stats` | what inference knows of a column |
//! | `columns`, `cells`, `json_cells` | cells and values to arrays of a given type |
//! | `batches` | rows to record batches |
//! | `bad_rows` | rows that are skipped |
//! | `types` | types that the user names |

use std::io::{BufRead, BufReader, Read};

use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use volley_common::Result;

use super::csv_options::CsvOptions;
use super::encoding::{TextEncoding, Utf8Reader};
use super::input::InputFile;
use super::progress::ReadProgress;
use super::{Format, check_content, file_error};
use csv_rows::{ColumnNames, CsvCell, CsvDialect, CsvRows};
use json_rows::JsonRows;

mod bad_rows;
mod batches;
mod blocks;
mod cells;
mod column_stats;
mod columns;
mod csv_rows;
mod duration;
mod inference;
mod json;
mod json_cells;
mod json_rows;
mod number;
mod object_fields;
mod time;
mod types;

pub use bad_rows::{BadRowReport, BadRows, OnBadRow};
pub use batches::open;
pub use column_stats::FieldStats;
pub use columns::one_value;
pub use inference::{infer, infer_parallel, is_large};
pub use types::{ColumnType, schema_file};

/// The longest row, unless less is permitted.
const MAX_ROW_BYTES: usize = 256 << 20;
/// Arrays and objects within each other, of which inference makes types.
const MAX_NESTING: usize = 32;
/// Characters of a text that an error shows.
const SHOWN_CHARACTERS: usize = 60;
const READ_BYTES: usize = 1 << 20;

/// What reading text depends on, besides types.
#[derive(Clone, Debug, Default)]
pub struct TextOptions {
    /// Cells of CSV that are null, as they are written: `""` with its quotes is a quoted empty cell.
    pub nulls: Vec<String>,
    /// Rows of each file that inference reads; all without it.
    pub infer_rows: Option<u64>,
    /// Columns that are not inferred, because their types are known.
    pub typed: Vec<String>,
    /// Whether no column is inferred, because all are text.
    pub all_text: bool,
    /// How CSV is written.
    pub csv: CsvOptions,
    /// What a line of CSV begins with that is no row.
    pub comment: Option<u8>,
    /// The columns of CSV without a header, if they are known.
    pub names: Option<Vec<String>>,
    /// The rows that are skipped; without it they are errors.
    pub bad_rows: Option<BadRows>,
    /// How much of a text is held at once.
    pub limits: TextLimits,
}

/// How much of a text is held at once: for a process that reads what strangers send.
#[derive(Clone, Copy, Debug)]
pub struct TextLimits {
    /// The longest row, bytes.
    pub row_bytes: usize,
    /// The most columns, those within others included.
    pub columns: usize,
}

impl Default for TextLimits {
    /// As many columns as there are.
    fn default() -> Self {
        TextLimits { row_bytes: MAX_ROW_BYTES, columns: usize::MAX }
    }
}

impl TextOptions {
    /// The defaults with these limits.
    pub fn limited(limits: TextLimits) -> Self {
        TextOptions { limits, ..TextOptions::default() }
    }

    fn dialect(&self, format: Format) -> CsvDialect {
        let names = match &self.names {
            _ if !self.csv.no_header => ColumnNames::Header,
            None => ColumnNames::Numbered,
            Some(names) => ColumnNames::Known(names.clone()),
        };
        let (delimiter, quote) = (self.csv.delimiter(format), self.csv.quote());
        CsvDialect { delimiter, quote, comment: self.comment, names, limits: self.limits }
    }

    /// Whether a cell is null.
    fn is_null(&self, cell: CsvCell<'_>) -> bool {
        if self.nulls.is_empty() {
            return cell.text.is_empty() && !cell.quoted;
        }
        self.nulls.iter().any(|null| match null.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            Some(text) => cell.quoted && cell.text == text,
            None => !cell.quoted && cell.text == null,
        })
    }
}

/// The start of a text, for an error.
fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_string(),
    }
}

/// What is wrong with these bytes, and the first of them.
fn not_utf8(bytes: &[u8]) -> String {
    let (shown, rest) = bytes.split_at(bytes.len().min(SHOWN_CHARACTERS));
    format!("it is not UTF-8: \"{}{}\"", shown.escape_ascii(), if rest.is_empty() { "" } else { "..." })
}

/// A boolean, as JSON, Python or R write it.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

type Input = Box<dyn BufRead + Send>;

fn buffered(reader: impl Read + Send + 'static) -> Input {
    Box::new(BufReader::with_capacity(READ_BYTES, reader))
}

fn json_rows(reader: Input, options: &TextOptions) -> Result<JsonRows<Input>, ArrowError> {
    let rows = JsonRows::new(reader)?.with_max_bytes(options.limits.row_bytes);
    if options.bad_rows.is_some() { rows.one_a_line() } else { Ok(rows) }
}

/// The rows of a text file.
enum TextRows {
    Csv(CsvRows<Input>),
    Json(JsonRows<Input>),
}

impl TextRows {
    fn open(input: &InputFile, options: &TextOptions, bar: ReadProgress) -> Result<TextRows> {
        check_content(input)?;
        let reader = input.reader(bar)?;
        match (input.format, options.csv.encoding.unwrap_or_default()) {
            (Format::Jsonl, _) => json_rows(buffered(reader), options).map(TextRows::Json),
            (format, TextEncoding::Utf8) => CsvRows::new(buffered(reader), options.dialect(format)).map(TextRows::Csv),
            (format, encoding) => {
                let reader = Utf8Reader::new(reader, encoding);
                CsvRows::new(buffered(reader), options.dialect(format)).map(TextRows::Csv)
            }
        }
        .map_err(|e| file_error(&input.path, e))
    }
}

fn no_objects() -> ArrowError {
    ArrowError::JsonError(
        "no JSON objects with keys in it: it must have one object a line, or an array of objects".into(),
    )
}

/// Checks what can be known of a file before its rows are read: the types, the header of CSV, an object in JSON.
///
/// # Errors
/// INVALID_ARGUMENT, naming the file and the column.
pub fn check(input: &InputFile, schema: &Schema, options: &TextOptions) -> Result<()> {
    let types = schema.fields().iter().try_for_each(|field| columns::column(field).map(|_| ()));
    types.map_err(|e| file_error(&input.path, e))?;
    match TextRows::open(input, options, ReadProgress::default())? {
        TextRows::Csv(mut rows) => batches::columns_of(&rows, schema).and_then(|_| match rows.next_row() {
            Ok(false) if options.names.is_some() && input.is_copy() => {
                Err(ArrowError::CsvError("the file is empty: it has no row".into()))
            }
            _ => Ok(()),
        }),
        TextRows::Json(mut rows) => match rows.next_row().map(|row| row.is_some()) {
            // No row of a file is what `volley get` writes of an empty table. A pipe without one is more likely to be
            // that of a program that failed.
            Ok(false) if input.is_copy() => Err(no_objects()),
            Err(_) if rows.can_continue() => Ok(()),
            other => other.map(|_| ()),
        },
    }
    .map_err(|e| file_error(&input.path, e))
}

#[cfg(test)]
mod tests;
