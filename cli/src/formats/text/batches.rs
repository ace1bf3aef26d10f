//! Rows of text to record batches of a given schema, which are bounded in rows and bytes.

use std::collections::HashMap;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use indicatif::ProgressBar;
use volley_common::Result;

use super::cells::Cells;
use super::columns::{column, struct_column};
use super::csv_rows::CsvRows;
use super::json_cells::{StructCells, finish_column};
use super::json_rows::JsonRows;
use super::{Input, TextOptions, TextRows, cut};
use crate::formats::input::InputFile;
use crate::formats::{BATCH_ROWS, Batches, file_error};

/// Bytes of text after which a batch ends.
const BATCH_BYTES: usize = 16 << 20;

/// Opens a file and returns its rows as batches of the schema. Advances the bar by the file's bytes.
///
/// # Errors
/// INVALID_ARGUMENT: the columns of CSV are not those of the schema, or a type has no text form.
pub fn open(input: &InputFile, schema: SchemaRef, options: &TextOptions, bar: ProgressBar) -> Result<Batches> {
    let batches = match TextRows::open(input, options, bar)? {
        TextRows::Csv(rows) => csv(rows, schema, options.clone()),
        TextRows::Json(rows) => json(rows, schema),
    };
    batches.map_err(|e| file_error(&input.path, e))
}

fn csv(rows: CsvRows<Input>, schema: SchemaRef, options: TextOptions) -> Result<Batches, ArrowError> {
    let indexes = columns_of(&rows, &schema)?;
    let columns = schema.fields().iter().map(|field| column(field)).collect::<Result<_, _>>()?;
    let mut batches = CsvBatches { rows, indexes, columns, schema, options };
    Ok(Box::new(std::iter::from_fn(move || batches.next_batch().transpose())))
}

fn json(rows: JsonRows<Input>, schema: SchemaRef) -> Result<Batches, ArrowError> {
    let columns = struct_column(schema.fields())?;
    let mut batches = JsonBatches { rows, columns, schema };
    Ok(Box::new(std::iter::from_fn(move || batches.next_batch().transpose())))
}

/// The index in the header of each column of the schema; they have the same names, in any order.
pub fn columns_of(rows: &CsvRows<Input>, schema: &Schema) -> Result<Vec<usize>, ArrowError> {
    let header = rows.header();
    let places: HashMap<&str, usize> = header.iter().enumerate().map(|(index, name)| (name.as_str(), index)).collect();
    let missing = schema.fields().iter().find(|field| !places.contains_key(field.name().as_str()));
    // The names of a header are unique.
    let same_number = header.len() == schema.fields().len();
    let known = |name: &&String| (missing.is_none() && same_number) || schema.index_of(name).is_ok();
    let extra = header.iter().find(|name| !known(name));
    let text = match (missing, extra) {
        (None, None) => return Ok(schema.fields().iter().map(|field| places[field.name().as_str()]).collect()),
        (Some(missing), None) => format!("the column {:?} is missing", cut(missing.name())),
        (None, Some(extra)) => format!("there is no column {:?} in the table or the other files", cut(extra)),
        (Some(missing), Some(extra)) => {
            format!("the column {:?} is missing, and there is one named {:?}", cut(missing.name()), cut(extra))
        }
    };
    Err(ArrowError::CsvError(format!("line 1: {text}")))
}

fn batch(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<Option<RecordBatch>, ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options).map(Some)
}

/// Names the lines of the rows of a column that cannot be finished.
fn in_lines(lines: Option<(u64, u64)>, error: &ArrowError) -> ArrowError {
    let (first, last) = lines.unwrap_or_default();
    let text = match error {
        ArrowError::CastError(text) => text.clone(),
        other => other.to_string(),
    };
    ArrowError::CsvError(format!("lines {first} to {last}: {text}"))
}

struct CsvBatches {
    rows: CsvRows<Input>,
    /// The cell of each column.
    indexes: Vec<usize>,
    columns: Vec<Box<dyn Cells>>,
    schema: SchemaRef,
    options: TextOptions,
}

impl CsvBatches {
    fn next_batch(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        let (mut rows, mut bytes, mut lines) = (0, 0, None);
        while rows < BATCH_ROWS && bytes < BATCH_BYTES && self.rows.next_row()? {
            self.add_row()?;
            let line = self.rows.cell(0).line;
            lines = Some((lines.map_or(line, |(first, _)| first), line));
            rows += 1;
            bytes += self.rows.row_bytes();
        }
        if rows == 0 {
            return Ok(None);
        }
        let columns = self.columns.iter_mut().zip(self.schema.fields());
        let columns = columns.map(|(column, field)| finish_column(&mut **column, field)).collect::<Result<_, _>>();
        let columns = columns.map_err(|e| in_lines(lines, &e))?;
        batch(&self.schema, columns, rows)
    }

    fn add_row(&mut self) -> Result<(), ArrowError> {
        for (index, (column, field)) in self.columns.iter_mut().zip(self.schema.fields()).enumerate() {
            let cell = self.rows.cell(self.indexes[index]);
            let added = if !self.options.is_null(cell) {
                column.add_text(cell.text)
            } else if field.is_nullable() {
                column.add_null();
                Ok(())
            } else {
                Err("null where the type allows none".to_string())
            };
            added.map_err(|text| {
                let name = cut(field.name());
                ArrowError::CsvError(format!("line {}: column {name:?}: {text}", cell.line))
            })?;
        }
        Ok(())
    }
}

struct JsonBatches {
    rows: JsonRows<Input>,
    columns: StructCells,
    schema: SchemaRef,
}

impl JsonBatches {
    fn next_batch(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        let (mut rows, mut bytes, mut lines) = (0, 0, None);
        while rows < BATCH_ROWS && bytes < BATCH_BYTES && self.rows.next_row()?.is_some() {
            let line = self.rows.line();
            lines = Some((lines.map_or(line, |(first, _)| first), line));
            let text = self.rows.text();
            self.columns.add_json(text).map_err(|fault| self.rows.fault(&fault))?;
            rows += 1;
            bytes += text.len();
        }
        if rows == 0 {
            return Ok(None);
        }
        let columns = self.columns.finish_columns().map_err(|e| in_lines(lines, &e))?;
        batch(&self.schema, columns, rows)
    }
}
