//! What a file format can hold: a table's columns are kept as they are, changed to a type that has the same values, or
//! refused with the column's name. No value is changed.
//!
//! | type | Parquet | CSV, TSV | JSON lines |
//! |---|---|---|---|
//! | timestamp, time in seconds | in milliseconds | text | text |
//! | date64 | date32; a time of day is refused | text | text |
//! | dictionary | kept for text and binary, else its values | its values | its values |
//! | run-end encoded | its values | its values | its values |
//! | fixed-size binary of width 0 | binary | text | text |
//! | decimal with a negative scale | with scale 0 | text | number |
//! | interval of months, days and nanoseconds | refused | text | text |
//! | binary | kept | hexadecimal | hexadecimal |
//! | NaN and infinite floats | kept | text | refused |
//! | list, struct, map | kept; a struct without fields is refused | refused | kept; keys of a map must be text |
//! | union | refused | refused | refused |
//!
//! Arrow IPC holds every type.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::*;
use arrow::error::ArrowError;
use volley_common::ipc::dictionary_keys::has_dictionary;
use volley_common::ipc::row_bytes::split_decoded;
use volley_common::ipc::shrink::shrink_to_fit;

use super::Format;
use super::leaves::{ColumnError, map_children, map_leaves, visit_leaves, with_type};
use super::text_values::{check_text, has_offset_seconds, with_short_halves};

/// Rows are converted a slice at a time, of at most this many bytes with the values of dictionaries and runs.
const MAX_DECODED_BYTES: u64 = 32 << 20;
/// How an error ends whose remedy is not another format than Arrow's.
const ONLY_ARROW: &str = "which only Arrow files hold";
/// Maximum number of digits of a decimal.
const MAX_PRECISION: u8 = 76;

/// The columns of a table as one format holds them.
pub struct ExactColumns {
    format: Format,
    schema: SchemaRef,
    /// Whether dictionaries or runs may become their values.
    decodes: bool,
}

impl ExactColumns {
    /// Decides for every column of `schema`.
    ///
    /// # Errors
    /// Names the first column that the format cannot hold, why, and the formats that can.
    pub fn new(format: Format, schema: &SchemaRef) -> Result<Self, ArrowError> {
        let fields = schema.fields().iter().map(|field| held_field(format, field).map_err(|e| refusal(format, e)));
        let fields: Vec<FieldRef> = fields.collect::<Result<_, _>>()?;
        check_names(format, &fields)?;
        let encoded = |field: &FieldRef| has_dictionary(field.data_type()) || has_runs(field.data_type());
        let decodes = !matches!(format, Format::Arrow | Format::Arrows) && schema.fields().iter().any(encoded);
        let schema = Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()));
        Ok(ExactColumns { format, schema, decodes })
    }

    /// The file's schema.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The batch in slices of which [`ExactColumns::convert`] makes a bounded size: a message of keys can become any,
    /// because rows share the values of a dictionary.
    pub fn slices(&self, batch: &RecordBatch) -> Vec<RecordBatch> {
        let slices = if self.decodes { split_decoded(batch, MAX_DECODED_BYTES) } else { vec![batch.clone()] };
        match slices.len() {
            1 => slices,
            // Casts convert also the values of a list that a slice does not refer to.
            _ => slices.iter().map(shrink_to_fit).collect(),
        }
    }

    /// The same values in the file's types. In text formats a timestamp whose offset has seconds is in UTC.
    ///
    /// # Errors
    /// Names the column of the first value that the format cannot hold.
    pub fn convert(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        if matches!(self.format, Format::Arrow | Format::Arrows) {
            // Arrow's writer writes unions and run ends below a sliced list wrongly.
            return Ok(shrink_to_fit(batch));
        }
        let mut columns = Vec::with_capacity(batch.num_columns());
        let mut fields = Vec::with_capacity(batch.num_columns());
        for (column, field) in batch.columns().iter().zip(self.schema.fields()) {
            let column = self.column(column, field).map_err(|e| refusal(self.format, e.within(field.name())))?;
            fields.push(with_type(field, column.data_type().clone()));
            columns.push(column);
        }
        let schema = Arc::new(Schema::new_with_metadata(fields, self.schema.metadata().clone()));
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(schema, columns, &options)
    }

    fn column(&self, column: &ArrayRef, field: &Field) -> Result<ArrayRef, ColumnError> {
        if self.format == Format::Parquet {
            visit_leaves(column, &mut check_parquet)?;
            return cast(column, field.data_type());
        }
        let column = cast(column, field.data_type())?;
        let mut utc = false;
        visit_leaves(&column, &mut |leaf| {
            utc |= has_offset_seconds(leaf)?;
            check_text(leaf, self.format)
        })?;
        if self.format == Format::Jsonl {
            check_keys(&column)?;
        }
        let column = match utc {
            true => cast(&column, &map_leaves(field.data_type(), &mut in_utc))?,
            false => column,
        };
        with_short_halves(&column)
    }
}

fn refusal(format: Format, error: ColumnError) -> ArrowError {
    let remedy = match format {
        _ if error.text.ends_with(ONLY_ARROW) => "use .arrow",
        Format::Parquet => "use .arrow",
        Format::Csv | Format::Tsv => "use .parquet or .arrow",
        _ => "use .arrow, or .parquet if it has no union",
    };
    ArrowError::InvalidArgumentError(format!("the column {:?} {}: {remedy}", error.path, error.text))
}

/// A JSON object cannot have two values of one name; a CSV file needs a column.
fn check_names(format: Format, fields: &[FieldRef]) -> Result<(), ArrowError> {
    let text = matches!(format, Format::Csv | Format::Tsv);
    if text && fields.is_empty() {
        return Err(ArrowError::InvalidArgumentError("a table without columns cannot be CSV: use .arrow".into()));
    }
    match repeated(fields.iter()) {
        Some(name) if format == Format::Jsonl => {
            let error = ColumnError::new("exists twice, and a JSON object has a name once");
            Err(refusal(format, error.within(name)))
        }
        _ => Ok(()),
    }
}

fn repeated<'a>(mut fields: impl Iterator<Item = &'a FieldRef>) -> Option<&'a str> {
    let mut seen = HashSet::new();
    fields.find(|field| !seen.insert(field.name())).map(|field| field.name().as_str())
}

fn held_field(format: Format, field: &FieldRef) -> Result<FieldRef, ColumnError> {
    let held = match format {
        Format::Arrow | Format::Arrows => return Ok(field.clone()),
        _ if has_runs_of_nothing(field.data_type()) => {
            Err(ColumnError::new(format!("has runs of values without bytes, {ONLY_ARROW}")))
        }
        Format::Parquet => parquet_type(field.data_type()),
        Format::Csv | Format::Tsv => csv_type(field.data_type()),
        Format::Jsonl => json_type(field.data_type()),
    };
    held.map(|held| with_type(field, held)).map_err(|e| e.within(field.name()))
}

fn has_runs(data_type: &DataType) -> bool {
    match data_type {
        DataType::RunEndEncoded(_, _) => true,
        nested => {
            let runs = |field: &FieldRef| if has_runs(field.data_type()) { Err(()) } else { Ok(field.clone()) };
            map_children(nested, &mut |field| runs(field)).is_err()
        }
    }
}

fn has_union(data_type: &DataType) -> bool {
    match data_type {
        DataType::Union(_, _) => true,
        nested => {
            let union = |field: &FieldRef| if has_union(field.data_type()) { Err(()) } else { Ok(field.clone()) };
            map_children(nested, &mut |field| union(field)).is_err()
        }
    }
}

/// Whether it is run-end encoded with values of no bytes: arrow loses their number when it expands the runs.
fn has_runs_of_nothing(data_type: &DataType) -> bool {
    let DataType::RunEndEncoded(_, values) = data_type else { return false };
    matches!(values.data_type(), DataType::FixedSizeBinary(0) | DataType::FixedSizeList(_, 0))
}

fn parquet_type(data_type: &DataType) -> Result<DataType, ColumnError> {
    use DataType::*;
    Ok(match data_type {
        Timestamp(TimeUnit::Second, zone) => Timestamp(TimeUnit::Millisecond, zone.clone()),
        Time32(TimeUnit::Second) => Time32(TimeUnit::Millisecond),
        Date64 => Date32,
        FixedSizeBinary(0) => Binary,
        Interval(IntervalUnit::MonthDayNano) => {
            return Err(ColumnError::new("is an interval with nanoseconds, which Parquet does not have"));
        }
        Union(_, _) => return Err(ColumnError::new("is a union, which Parquet does not have")),
        Struct(fields) if fields.is_empty() => {
            return Err(ColumnError::new("is a struct without fields, which Parquet does not have"));
        }
        Decimal32(p, s) | Decimal64(p, s) | Decimal128(p, s) | Decimal256(p, s) if *s < 0 => whole_decimal(*p, *s)?,
        RunEndEncoded(_, values) => parquet_type(values.data_type())?,
        Dictionary(_, values) => match values.as_ref() {
            Utf8 | LargeUtf8 | Binary | LargeBinary => data_type.clone(),
            other => parquet_type(other)?,
        },
        other => map_children(other, &mut |field| held_field(Format::Parquet, field))?,
    })
}

/// The same type, but decimals of a negative scale with scale 0, if it has the digits: arrow writes their zeros as `000`.
fn text_decimal(data_type: &DataType) -> DataType {
    use DataType::*;
    match data_type {
        Decimal32(p, s) | Decimal64(p, s) | Decimal128(p, s) | Decimal256(p, s) if *s < 0 => {
            whole_decimal(*p, *s).unwrap_or_else(|_| data_type.clone())
        }
        other => other.clone(),
    }
}

/// Parquet has no negative scales: the same numbers with scale 0.
fn whole_decimal(precision: u8, scale: i8) -> Result<DataType, ColumnError> {
    match precision.saturating_add(scale.unsigned_abs()) {
        digits @ ..=38 => Ok(DataType::Decimal128(digits, 0)),
        digits @ ..=MAX_PRECISION => Ok(DataType::Decimal256(digits, 0)),
        digits => Err(ColumnError::new(format!("has numbers of {digits} digits, and Parquet at most {MAX_PRECISION}"))),
    }
}

fn csv_type(data_type: &DataType) -> Result<DataType, ColumnError> {
    match data_type {
        DataType::RunEndEncoded(_, values) => csv_type(values.data_type()),
        DataType::Dictionary(_, values) => csv_type(values),
        nested if has_union(nested) => Err(ColumnError::new(format!("has a union, {ONLY_ARROW}"))),
        nested if nested.is_nested() => Err(ColumnError::new("is nested, which CSV does not support")),
        other => Ok(text_decimal(other)),
    }
}

fn json_type(data_type: &DataType) -> Result<DataType, ColumnError> {
    use DataType::*;
    match data_type {
        RunEndEncoded(_, values) => json_type(values.data_type()),
        Dictionary(_, values) => json_type(values),
        Union(_, _) => Err(ColumnError::new(format!("is a union, {ONLY_ARROW}"))),
        other => {
            let held = map_children(other, &mut |field| held_field(Format::Jsonl, field))?;
            check_json_names(&held)?;
            Ok(text_decimal(&held))
        }
    }
}

fn check_json_names(data_type: &DataType) -> Result<(), ColumnError> {
    match data_type {
        DataType::Struct(fields) => match repeated(fields.iter()) {
            Some(name) => Err(ColumnError::new(format!("has two fields named {name:?}, and a JSON object only one"))),
            None => Ok(()),
        },
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.first().is_some_and(|key| !key.data_type().is_string()) => {
                Err(ColumnError::new("is a map whose keys are not text, which JSON does not have"))
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// A map with a key twice would lose a value to every reader of JSON.
fn check_keys(array: &ArrayRef) -> Result<(), ColumnError> {
    use DataType::*;
    match array.data_type() {
        Struct(fields) => {
            let mut columns = fields.iter().zip(array.as_struct().columns());
            columns.try_for_each(|(field, column)| check_keys(column).map_err(|e| e.within(field.name())))
        }
        List(_) => check_keys(array.as_list::<i32>().values()),
        LargeList(_) => check_keys(array.as_list::<i64>().values()),
        ListView(_) => check_keys(array.as_list_view::<i32>().values()),
        LargeListView(_) => check_keys(array.as_list_view::<i64>().values()),
        FixedSizeList(_, _) => check_keys(array.as_fixed_size_list().values()),
        Map(_, _) => {
            let map = array.as_map();
            let keys = cast(map.keys(), &Utf8)?;
            let (keys, mut seen) = (keys.as_string::<i32>(), HashSet::new());
            for row in (0..map.len()).filter(|&row| map.is_valid(row)) {
                let entries = map.value_offsets()[row] as usize..map.value_offsets()[row + 1] as usize;
                seen.clear();
                if let Some(twice) = entries.map(|at| keys.value(at)).find(|key| !seen.insert(*key)) {
                    let text = format!("has a map with the key {twice:?} twice, which JSON does not have");
                    return Err(ColumnError::new(text));
                }
            }
            check_keys(map.values())
        }
        _ => Ok(()),
    }
}

/// Values that the Parquet writer would truncate. Decimals of negative scale are checked when they are cast.
fn check_parquet(leaf: &ArrayRef) -> Result<(), ColumnError> {
    let digits = |result: Result<(), ArrowError>| result.map_err(|e| ColumnError::new(format!("is not valid ({e})")));
    match leaf.data_type() {
        DataType::Date64 => {
            let days = leaf.as_primitive::<Date64Type>();
            match days.iter().flatten().find(|ms| ms % 86_400_000 != 0) {
                Some(ms) => Err(ColumnError::new(format!(
                    "is date64 and has a time of day ({ms} ms since 1970), which Parquet's date does not have"
                ))),
                None => Ok(()),
            }
        }
        DataType::Decimal32(p, 0..) => digits(leaf.as_primitive::<Decimal32Type>().validate_decimal_precision(*p)),
        DataType::Decimal64(p, 0..) => digits(leaf.as_primitive::<Decimal64Type>().validate_decimal_precision(*p)),
        DataType::Decimal128(p, 0..) => digits(leaf.as_primitive::<Decimal128Type>().validate_decimal_precision(*p)),
        DataType::Decimal256(p, 0..) => digits(leaf.as_primitive::<Decimal256Type>().validate_decimal_precision(*p)),
        _ => Ok(()),
    }
}

fn in_utc(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Timestamp(unit, Some(_)) => DataType::Timestamp(*unit, Some("UTC".into())),
        other => other.clone(),
    }
}

/// The array under another type; an overflow is an error.
fn cast(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ColumnError> {
    if array.data_type() == to {
        return Ok(array.clone());
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(array, to, &options).map_err(|e| ColumnError::new(format!("has a value that does not fit ({e})")))
}

#[cfg(test)]
mod tests;
