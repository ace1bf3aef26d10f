//! The rows of an INSERT in the columns of its table: in the table's order, null where the statement gives no value, and cast where
//! that changes no value.
//!
//! | from | to |
//! |---|---|
//! | number | any number type that holds the values exactly |
//! | text | text; number, boolean, date, time or timestamp that it spells |
//! | binary | binary |
//! | date, timestamp, time, duration | the same in another unit that holds the values exactly; a date as a timestamp and back |
//! | list | list whose elements may be cast so |
//! | null | everything that may be null |
//!
//! What else differs must be what a put may append (`volley_common::ipc::conform`), or is refused.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::{CastOptions, can_cast_types, cast_with_options};
use arrow::datatypes::{DECIMAL256_MAX_PRECISION, DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use arrow::util::display::array_value_to_string;
use volley_common::ipc::conform::conform;
use volley_common::suggestion::did_you_mean;
use volley_common::{Error, Result};
use volley_sql::predicate::check_type;

/// How the columns of a query become those of a table.
pub struct InsertPlan {
    /// The table's schema.
    schema: SchemaRef,
    /// For each column of the table that of the query; `None`: null.
    sources: Vec<Option<usize>>,
}

/// Types between which values are cast.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TypeFamily {
    Number,
    Decimal,
    Boolean,
    Text,
    Binary,
    Temporal,
    Other,
}

impl InsertPlan {
    /// The rows of a query with `given` columns go to these columns of the table, or to all if none are named.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a column that the table does not have, or that is named twice; another number of values than columns;
    /// no value for a column that cannot be null; a column whose values, and nulls, are too large.
    pub fn new(schema: SchemaRef, columns: Option<&[String]>, given: usize) -> Result<Self> {
        // A null takes as much as a value.
        for field in schema.fields() {
            check_type(field.data_type()).map_err(|e| e.at(format_args!("column {:?}", field.name())))?;
        }
        let wanted = columns.map_or(schema.fields().len(), <[String]>::len);
        if wanted != given {
            return Err(Error::invalid(format!(
                "the statement gives {given} values for {wanted} columns: give one for each, or name the columns, as in INSERT INTO t (a, b)"
            )));
        }
        let Some(columns) = columns else {
            let sources = (0..given).map(Some).collect();
            return Ok(InsertPlan { schema, sources });
        };
        let mut sources = vec![None; schema.fields().len()];
        for (from, name) in columns.iter().enumerate() {
            let at = schema.index_of(name).map_err(|_| missing_column(&schema, name))?;
            if sources[at].replace(from).is_some() {
                return Err(Error::invalid(format!("column {name:?} is named twice: leave one out")));
            }
        }
        let unset = schema.fields().iter().zip(&sources).find(|(field, from)| from.is_none() && !field.is_nullable());
        match unset {
            None => Ok(InsertPlan { schema, sources }),
            Some((field, _)) => Err(Error::invalid(format!(
                "column {:?} cannot be null, and the statement gives no value for it",
                field.name()
            ))),
        }
    }

    /// The table's schema.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// A batch of the query as one of the table.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, naming the column: a value does not fit its type without loss, or is null and must not be.
    pub fn conform(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let column = |(field, from): (&Arc<Field>, &Option<usize>)| match from {
            Some(from) => cast_exactly(batch.column(*from), field),
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
        };
        let columns: Vec<ArrayRef> =
            self.schema.fields().iter().zip(&self.sources).map(column).collect::<Result<_>>()?;
        let typed = self.schema.fields().iter().zip(&columns);
        let typed = typed.map(|(field, column)| field.as_ref().clone().with_data_type(column.data_type().clone()));
        let schema = Schema::new_with_metadata(typed.collect::<Vec<_>>(), self.schema.metadata().clone());
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let rows = RecordBatch::try_new_with_options(Arc::new(schema), columns, &options)
            .map_err(|e| Error::invalid(format!("the rows do not fit the table: {e}")))?;
        conform(&rows, &self.schema)
    }
}

/// The error for a column that a table does not have.
pub fn missing_column(schema: &Schema, name: &str) -> Error {
    let hint = did_you_mean(name, schema.fields().iter().map(|field| field.name().as_str()));
    Error::invalid(format!("the table has no column {name:?}{hint}"))
}

/// The values under the type of `field`; unchanged if no cast between the types is exact for any value.
fn cast_exactly(column: &ArrayRef, field: &Field) -> Result<ArrayRef> {
    let cast = exact(column, field.data_type()).map_err(|misfit| match misfit {
        Misfit::Value(value) => Error::invalid(format!(
            "column {:?} has type {}, which does not hold the value {value} exactly: cast it in the statement, as in CAST(x AS ...)",
            field.name(),
            field.data_type()
        )),
        Misfit::Cast(error) => Error::invalid(format!("column {:?}: {error}", field.name())),
    })?;
    // Of a type whose nulls are not in a validity bitmap nothing is nullable but the type itself.
    match cast.logical_null_count() > 0 && !field.is_nullable() {
        true => {
            Err(Error::invalid(format!("column {:?} cannot be null, and a row gives no value for it", field.name())))
        }
        false => Ok(cast),
    }
}

/// Why values cannot be of a type.
enum Misfit {
    /// This value would change.
    Value(String),
    /// A value cannot be cast at all.
    Cast(ArrowError),
}

fn exact(column: &ArrayRef, to: &DataType) -> Result<ArrayRef, Misfit> {
    let from = column.data_type();
    match (from, to) {
        (from, to) if from == to => Ok(column.clone()),
        (DataType::Null, to) => Ok(new_null_array(to, column.len())),
        (DataType::Dictionary(_, values), to) if !matches!(to, DataType::Dictionary(..)) => {
            exact(&cast(column, values)?, to)
        }
        (_, DataType::Dictionary(_, values)) if !matches!(from, DataType::Dictionary(..)) => {
            cast(&exact(column, values)?, to)
        }
        (DataType::List(_), DataType::List(item)) => exact_list(column, item),
        _ => exact_in_families(column, to),
    }
}

fn exact_in_families(column: &ArrayRef, to: &DataType) -> Result<ArrayRef, Misfit> {
    use TypeFamily::{Binary, Boolean, Decimal, Number, Temporal, Text};
    let from = column.data_type();
    match (family(from), family(to)) {
        (Text, Text) => cast(column, to),
        (Text, Number | Boolean) if can_cast_types(from, to) => cast(column, to),
        (Text, Decimal) => spelled_decimal(column, to),
        (Text, Temporal) => match spelled_as(to) {
            // Its parser would drop what the type does not hold.
            Some(finer) => exact(&cast(column, &finer)?, to),
            None => Ok(column.clone()),
        },
        (Number | Decimal, Number | Decimal) | (Binary, Binary) => round_trip(column, to),
        (Temporal, Temporal) if has_zone(from) == has_zone(to) => round_trip(column, to),
        _ => Ok(column.clone()),
    }
}

/// The type by which text is parsed that is to be of this temporal type.
fn spelled_as(to: &DataType) -> Option<DataType> {
    Some(match to {
        DataType::Timestamp(TimeUnit::Nanosecond, zone) => DataType::Timestamp(TimeUnit::Nanosecond, zone.clone()),
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
        DataType::Date32 | DataType::Date64 => DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Time32(_) | DataType::Time64(_) => DataType::Time64(TimeUnit::Nanosecond),
        _ => return None,
    })
}

/// Text as a decimal, unless it has digits that the type does not hold: its parser would round, or wrap around.
fn spelled_decimal(column: &ArrayRef, to: &DataType) -> Result<ArrayRef, Misfit> {
    let scale = match to {
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale)
        | DataType::Decimal256(_, scale) => usize::try_from(*scale).ok(),
        _ => None,
    };
    let Some(scale) = scale else { return Ok(column.clone()) };
    let texts = cast(column, &DataType::LargeUtf8)?;
    let is_inexact = |text: &&str| {
        let (whole, digits) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
        let whole = whole.trim_start_matches(['+', '-', '0']);
        digits.trim_end_matches('0').len() > scale || whole.len() + scale > usize::from(DECIMAL256_MAX_PRECISION)
    };
    match texts.as_string::<i64>().iter().flatten().find(is_inexact) {
        Some(text) => Err(Misfit::Value(text.into())),
        None => cast(&texts, to),
    }
}

/// A list with its elements under the type of `item`; unchanged if no cast of them is exact for any value.
fn exact_list(column: &ArrayRef, item: &FieldRef) -> Result<ArrayRef, Misfit> {
    let list = column.as_list::<i32>();
    let elements = exact(list.values(), item.data_type())?;
    if elements.data_type() != item.data_type() {
        return Ok(column.clone());
    }
    let list = ListArray::try_new(item.clone(), list.offsets().clone(), elements, list.nulls().cloned());
    list.map(|list| Arc::new(list) as ArrayRef).map_err(Misfit::Cast)
}

/// Casts there and back, and compares.
fn round_trip(column: &ArrayRef, to: &DataType) -> Result<ArrayRef, Misfit> {
    let from = column.data_type();
    if !can_cast_types(from, to) || !can_cast_types(to, from) {
        return Ok(column.clone());
    }
    let there = cast(column, to)?;
    // What does not come back is null, and differs.
    let back = cast_with_options(&there, from, &CastOptions::default()).map_err(Misfit::Cast)?;
    let differs = distinct(column, &back).map_err(Misfit::Cast)?;
    match differs.values().set_indices().next() {
        None => Ok(there),
        Some(row) => Err(Misfit::Value(array_value_to_string(column, row).map_err(Misfit::Cast)?)),
    }
}

fn cast(column: &ArrayRef, to: &DataType) -> Result<ArrayRef, Misfit> {
    if column.data_type() == to {
        return Ok(column.clone());
    }
    cast_with_options(column, to, &CastOptions { safe: false, ..CastOptions::default() }).map_err(Misfit::Cast)
}

fn has_zone(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Timestamp(_, Some(_)))
}

fn family(data_type: &DataType) -> TypeFamily {
    match data_type {
        DataType::Boolean => TypeFamily::Boolean,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => TypeFamily::Text,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            TypeFamily::Binary
        }
        DataType::Date32
        | DataType::Date64
        | DataType::Timestamp(..)
        | DataType::Time32(_)
        | DataType::Time64(_)
        | DataType::Duration(_) => TypeFamily::Temporal,
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => {
            TypeFamily::Decimal
        }
        other if other.is_numeric() => TypeFamily::Number,
        _ => TypeFamily::Other,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
