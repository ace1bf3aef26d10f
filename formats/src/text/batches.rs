//! Rows of text to record batches of a given schema, which are bounded in rows and bytes.

use std::collections::HashMap;
use std::path::PathBuf;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;
use volley_common::Result;

use super::bad_rows::BadRows;
use super::cells::Cells;
use super::columns::{column, struct_column};
use super::csv_rows::CsvRows;
use super::json_cells::{StructCells, finish_column};
use super::json_rows::JsonRows;
use super::{Input, TextOptions, TextRows, cut};
use crate::input::InputFile;
use crate::{BATCH_ROWS, Batches, ReadProgress, file_error};

/// Bytes of text after which a batch ends, and bytes that the nulls of its rows take at most.
const BATCH_BYTES: usize = 16 << 20;

/// Opens a file and returns its rows as batches of the schema. Advances the bar by the file's bytes.
///
/// # Errors
/// INVALID_ARGUMENT: the columns of CSV are not those of the schema, or a type has no text form.
pub fn open(input: &InputFile, schema: SchemaRef, options: &TextOptions, bar: ReadProgress) -> Result<Batches> {
    check_width(&schema, options).map_err(|e| file_error(&input.path, e))?;
    let batches = match TextRows::open(input, options, bar)? {
        TextRows::Csv(rows) => csv(rows, input.path.clone(), schema, options.clone()),
        TextRows::Json(rows) => json(rows, input.path.clone(), schema, options),
    };
    batches.map_err(|e| file_error(&input.path, e))
}

fn csv(rows: CsvRows<Input>, path: PathBuf, schema: SchemaRef, options: TextOptions) -> Result<Batches, ArrowError> {
    let mut batches = CsvBatches::new(rows, path, schema, options)?;
    Ok(Box::new(std::iter::from_fn(move || batches.next_batch().transpose())))
}

/// Refuses a schema whose rows are larger than a row of text may be.
fn check_width(schema: &Schema, options: &TextOptions) -> Result<(), ArrowError> {
    let (width, most) = (row_width(schema), options.limits.row_bytes);
    if width <= most {
        return Ok(());
    }
    let text = format!("a row of these columns has {width} bytes, and may have {most}: put them from Parquet or Arrow");
    Err(ArrowError::InvalidArgumentError(text))
}

/// Rows of a batch at most: a null takes the bytes of a value, and may have no text at all.
fn max_rows(schema: &Schema) -> usize {
    (BATCH_BYTES / row_width(schema).max(1)).clamp(1, BATCH_ROWS)
}

/// Bytes that a row of nulls takes.
fn row_width(schema: &Schema) -> usize {
    schema.fields().iter().map(|field| width(field.data_type())).fold(0, usize::saturating_add)
}

fn width(data_type: &DataType) -> usize {
    match data_type {
        DataType::FixedSizeBinary(bytes) => usize::try_from(*bytes).unwrap_or(0),
        DataType::FixedSizeList(item, size) => {
            width(item.data_type()).saturating_mul(usize::try_from(*size).unwrap_or(0))
        }
        DataType::Struct(fields) => fields.iter().map(|field| width(field.data_type())).fold(1, usize::saturating_add),
        DataType::Dictionary(_, values) => width(values),
        other => other.primitive_width().unwrap_or(size_of::<u64>()),
    }
}

fn csv_columns(schema: &Schema) -> Result<Vec<Box<dyn Cells>>, ArrowError> {
    schema.fields().iter().map(|field| column(field)).collect()
}

fn json(rows: JsonRows<Input>, path: PathBuf, schema: SchemaRef, options: &TextOptions) -> Result<Batches, ArrowError> {
    let columns = struct_column(schema.fields())?;
    let skipping = match &options.bad_rows {
        Some(bad_rows) => Some((bad_rows.clone(), struct_column(schema.fields())?)),
        None => None,
    };
    let max_rows = max_rows(&schema);
    let mut batches = JsonBatches { rows, path, columns, schema, max_rows, skipping };
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
    /// The file, for reports.
    path: PathBuf,
    /// The cell of each column.
    indexes: Vec<usize>,
    columns: Vec<Box<dyn Cells>>,
    /// Columns that meet the faults of a row before a part of it is added, if bad rows are skipped.
    probe: Vec<Box<dyn Cells>>,
    schema: SchemaRef,
    max_rows: usize,
    options: TextOptions,
}

impl CsvBatches {
    fn new(
        rows: CsvRows<Input>,
        path: PathBuf,
        schema: SchemaRef,
        options: TextOptions,
    ) -> Result<CsvBatches, ArrowError> {
        let indexes = columns_of(&rows, &schema)?;
        let (columns, probe, max_rows) = (csv_columns(&schema)?, Vec::new(), max_rows(&schema));
        Ok(CsvBatches { rows, path, indexes, columns, probe, schema, max_rows, options })
    }

    fn next_batch(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        if self.options.bad_rows.is_some() {
            self.probe = csv_columns(&self.schema)?;
        }
        let (mut rows, mut bytes, mut lines) = (0, 0, None);
        while rows < self.max_rows && bytes < BATCH_BYTES && self.next_row()? {
            add_row(&self.rows, &self.indexes, &mut self.columns, &self.schema, &self.options)?;
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

    /// Goes to the next row, or to the next good one if the others are skipped; `false` at the end.
    fn next_row(&mut self) -> Result<bool, ArrowError> {
        loop {
            let next = self.rows.next_row();
            let Some(bad_rows) = &self.options.bad_rows else { return next };
            let error = match next {
                Ok(true) => match add_row(&self.rows, &self.indexes, &mut self.probe, &self.schema, &self.options) {
                    Ok(()) => return Ok(true),
                    Err(error) => {
                        // A part of the row is in it. Of many bad rows that would be any amount of memory.
                        self.probe = csv_columns(&self.schema)?;
                        error
                    }
                },
                Err(e) if self.rows.can_continue() => e,
                other => return other,
            };
            bad_rows.add(&self.path, error);
        }
    }
}

/// Adds the current row to the columns.
fn add_row(
    rows: &CsvRows<Input>,
    indexes: &[usize],
    columns: &mut [Box<dyn Cells>],
    schema: &Schema,
    options: &TextOptions,
) -> Result<(), ArrowError> {
    for (index, (column, field)) in columns.iter_mut().zip(schema.fields()).enumerate() {
        let cell = rows.cell(indexes[index]);
        let added = if !options.is_null(cell) {
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

struct JsonBatches {
    rows: JsonRows<Input>,
    /// The file, for reports.
    path: PathBuf,
    columns: StructCells,
    schema: SchemaRef,
    max_rows: usize,
    /// Where bad rows go, if they are skipped, and columns that meet their faults before a part of one is added.
    skipping: Option<(BadRows, StructCells)>,
}

impl JsonBatches {
    fn next_batch(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        if let Some((_, probe)) = &mut self.skipping {
            *probe = struct_column(self.schema.fields())?;
        }
        let (mut rows, mut bytes, mut lines) = (0, 0, None);
        while rows < self.max_rows && bytes < BATCH_BYTES && self.next_row()? {
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

    /// Goes to the next row, or to the next good one if the others are skipped; `false` at the end.
    fn next_row(&mut self) -> Result<bool, ArrowError> {
        loop {
            let next = self.rows.next_row().map(|row| row.is_some());
            let Some((bad_rows, probe)) = &mut self.skipping else { return next };
            let error = match next {
                Ok(true) => match probe.add_json(self.rows.text()) {
                    Ok(()) => return Ok(true),
                    Err(fault) => {
                        // A part of the row may be in it.
                        *probe = struct_column(self.schema.fields())?;
                        self.rows.fault(&fault)
                    }
                },
                Err(e) if self.rows.can_continue() => e,
                other => return other,
            };
            bad_rows.add(&self.path, error);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::Field;

    use super::*;
    use crate::Format;

    #[test]
    fn batch_of_wide_rows_has_few() {
        let of = |kind: DataType, columns: usize| {
            let fields = (0..columns).map(|at| Field::new(format!("c{at}"), kind.clone(), true));
            max_rows(&Schema::new(fields.collect::<Vec<_>>()))
        };
        assert_eq!((of(DataType::Int64, 10), of(DataType::Int64, 0)), (BATCH_ROWS, BATCH_ROWS));
        assert_eq!((of(DataType::Int64, 65_536), of(DataType::FixedSizeBinary(1 << 22), 2)), (32, 2));
        let item = Arc::new(Field::new_list_field(DataType::FixedSizeBinary(1 << 20), true));
        assert_eq!(of(DataType::FixedSizeList(item, 1 << 20), 1), 1);
        let wide = Schema::new(vec![Field::new("b", DataType::FixedSizeBinary(i32::MAX), true)]);
        assert!(check_width(&wide, &TextOptions::default()).is_err());
    }

    #[test]
    fn bad_rows_of_csv_leave_nothing_in_memory() {
        let text = format!("t,n\nx,1\n{}y,2\n", "z,none\n".repeat(100));
        let (input, bad_rows): (Input, _) = (Box::new(std::io::Cursor::new(text)), BadRows::default());
        let options = TextOptions { bad_rows: Some(bad_rows.clone()), ..TextOptions::default() };
        let field = |name: &str, kind: DataType| Field::new(name, kind, true);
        let schema = Arc::new(Schema::new(vec![field("t", DataType::Utf8), field("n", DataType::Int64)]));
        let rows = CsvRows::new(input, options.dialect(Format::Csv)).unwrap();
        let mut batches = CsvBatches::new(rows, PathBuf::from("t.csv"), schema, options).unwrap();
        assert_eq!(batches.next_batch().unwrap().map(|batch| batch.num_rows()), Some(2));
        assert_eq!(bad_rows.report().skipped, 100);
        let probed: Vec<usize> = batches.probe.iter_mut().map(|cells| cells.finish().unwrap().len()).collect();
        assert_eq!(probed, [1, 1], "what follows the last bad row");
    }
}
