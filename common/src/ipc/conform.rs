//! Replaces the schema of a batch by that of its table, which may differ in metadata and have wider types, at any depth.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowNativeTypeOp, AsArray, RecordBatch, RecordBatchOptions, make_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, SchemaRef, Time64MicrosecondType, Time64NanosecondType, TimeUnit};
use arrow::error::ArrowError;

use super::expansion::ExpansionLimit;
use super::layout::child_fields;
use super::schema::{check_appendable, same_type};
use crate::{Code, Error, Result};

/// The batch's rows under `schema`. Only columns of narrower types are copied, and every value stays the same.
///
/// # Errors
/// INVALID_ARGUMENT names the first field that differs, see [`check_appendable`], or that has a value that overflows.
/// RESOURCE_EXHAUSTED: rows share values that the wider type repeats, far more than the batch has bytes.
pub fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if batch.schema_ref() == schema {
        return Ok(batch.clone());
    }
    check_appendable(schema, batch.schema_ref())?;
    let mut limit = ExpansionLimit::new(batch);
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| conform_column(column, field, &mut limit)).collect::<Result<_>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options).map_err(misfit)
}

/// As [`conform`], in as many batches as its limit requires, for rows that are trusted. After an error the iterator must
/// not be used again.
///
/// # Errors
/// Those of [`conform`]; RESOURCE_EXHAUSTED only for a single row.
pub fn conform_split(batch: &RecordBatch, schema: &SchemaRef) -> impl Iterator<Item = Result<RecordBatch>> {
    let mut rest = vec![batch.clone()];
    std::iter::from_fn(move || {
        loop {
            let batch = rest.pop()?;
            match conform(&batch, schema) {
                Err(e) if e.code == Code::ResourceExhausted && batch.num_rows() > 1 => {
                    let half = batch.num_rows() / 2;
                    rest.push(batch.slice(half, batch.num_rows() - half));
                    rest.push(batch.slice(0, half));
                }
                conformed => return Some(conformed),
            }
        }
    })
}

/// The same values under the type of `to`. Of nested types only the children that differ are changed.
fn conform_column(column: &ArrayRef, to: &Field, limit: &mut ExpansionLimit<'_>) -> Result<ArrayRef> {
    if column.data_type() == to.data_type() {
        return Ok(column.clone());
    }
    let same_keys = match (column.data_type(), to.data_type()) {
        (DataType::Dictionary(keys, _), DataType::Dictionary(wide_keys, _)) => keys == wide_keys,
        _ => false,
    };
    if !same_keys && !same_type(to.data_type(), column.data_type()) {
        return widen(column, to, limit);
    }
    let data = column.to_data();
    let mut child = |(index, field): (usize, &Field)| {
        conform_column(&make_array(data.child_data()[index].clone()), field, limit).map(|child| child.to_data())
    };
    let children = match to.data_type() {
        DataType::Dictionary(_, values) => {
            vec![child((0, &Field::new(to.name(), values.as_ref().clone(), true)))?]
        }
        other => child_fields(other).into_iter().enumerate().map(child).collect::<Result<_>>()?,
    };
    data.into_builder().data_type(to.data_type().clone()).child_data(children).build().map(make_array).map_err(misfit)
}

/// The array's values under the type of `to`, which must hold them ([`super::widen`]).
///
/// # Errors
/// Names the field with a value that overflows the finer unit, or text that is too large for the layout or the limit.
fn widen(array: &ArrayRef, to: &Field, limit: &mut ExpansionLimit<'_>) -> Result<ArrayRef> {
    // Arrow's cast does not check this one for overflow.
    if let (DataType::Time64(TimeUnit::Nanosecond), DataType::Time64(TimeUnit::Microsecond)) =
        (to.data_type(), array.data_type())
    {
        let micros = array.as_primitive::<Time64MicrosecondType>();
        let nanos = micros.try_unary::<_, Time64NanosecondType, _>(|time| time.mul_checked(1000));
        return nanos.map(|nanos| Arc::new(nanos) as ArrayRef).map_err(|e| at_field(to, &e));
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let step = match (array.data_type(), to.data_type()) {
        (DataType::Dictionary(_, values), DataType::Dictionary(keys, _)) => {
            Some(DataType::Dictionary(keys.clone(), values.clone()))
        }
        (DataType::Dictionary(_, values), _) => Some(values.as_ref().clone()),
        (other, wide) => relaid(wide, other),
    };
    // One step at a time, so that the values of a dictionary or a list are checked as any others.
    let step = step.unwrap_or_else(|| to.data_type().clone());
    limit.reserve(array, &step, to)?;
    let array = cast_with_options(array, &step, &options).map_err(|e| at_field(to, &e))?;
    conform_column(&array, to, limit)
}

/// A list of `narrow`'s elements in the layout of `wide`, which has the same or other elements; `None` if one is no list.
fn relaid(wide: &DataType, narrow: &DataType) -> Option<DataType> {
    use DataType::*;
    let (List(item) | LargeList(item) | ListView(item) | LargeListView(item) | FixedSizeList(item, _)) = narrow else {
        return None;
    };
    match wide {
        List(_) => Some(List(item.clone())),
        LargeList(_) => Some(LargeList(item.clone())),
        ListView(_) => Some(ListView(item.clone())),
        LargeListView(_) => Some(LargeListView(item.clone())),
        _ => None,
    }
}

fn at_field(field: &Field, error: &ArrowError) -> Error {
    misfit(ArrowError::CastError(format!("field {:?}: {error}", field.name())))
}

fn misfit(error: ArrowError) -> Error {
    Error::invalid(format!("the rows do not fit the table's schema: {error}"))
}

#[cfg(test)]
mod tests;
