//! Batches whose dictionary columns are replaced by their keys: what a record batch message contains of them.

use std::sync::Arc;

use arrow::array::{ArrayData, RecordBatch, RecordBatchOptions, make_array};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, UnionFields};
use arrow::error::ArrowError;

use super::layout::child_fields;
use super::size::array_bytes;

/// Whether a type has a dictionary at any depth.
pub fn has_dictionary(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Dictionary(_, _))
        || child_fields(data_type).into_iter().any(|child| has_dictionary(child.data_type()))
}

/// The fields of the outermost dictionaries, in the order of their ids. A dictionary within the values of another is not
/// outermost.
pub fn dictionary_fields(schema: &Schema) -> Vec<&Field> {
    fn add<'a>(field: &'a Field, found: &mut Vec<&'a Field>) {
        match field.data_type() {
            DataType::Dictionary(_, _) => found.push(field),
            other => child_fields(other).into_iter().for_each(|child| add(child, found)),
        }
    }
    let mut found = Vec::new();
    schema.fields().iter().for_each(|field| add(field, &mut found));
    found
}

/// The schema with the type of the keys in place of each outermost dictionary; the same schema if it has none.
pub fn keys_schema(schema: &SchemaRef) -> SchemaRef {
    if !schema.fields().iter().any(|field| has_dictionary(field.data_type())) {
        return schema.clone();
    }
    let fields: Fields = schema.fields().iter().map(keys_field).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

fn keys_field(field: &FieldRef) -> FieldRef {
    if !has_dictionary(field.data_type()) {
        return field.clone();
    }
    use DataType::*;
    let keys = match field.data_type() {
        Dictionary(keys, _) => keys.as_ref().clone(),
        List(child) => List(keys_field(child)),
        LargeList(child) => LargeList(keys_field(child)),
        ListView(child) => ListView(keys_field(child)),
        LargeListView(child) => LargeListView(keys_field(child)),
        FixedSizeList(child, size) => FixedSizeList(keys_field(child), *size),
        Map(child, sorted) => Map(keys_field(child), *sorted),
        Struct(fields) => Struct(fields.iter().map(keys_field).collect()),
        RunEndEncoded(ends, values) => RunEndEncoded(ends.clone(), keys_field(values)),
        Union(fields, mode) => {
            let fields: UnionFields = fields.iter().map(|(id, field)| (id, keys_field(field))).collect();
            Union(fields, *mode)
        }
        other => other.clone(),
    };
    Arc::new(field.as_ref().clone().with_data_type(keys))
}

/// The batch under `schema`, with each outermost dictionary array replaced by what `replace` makes of it, in the order of
/// their ids.
///
/// # Errors
/// Those of `replace`; arrays that are not of the schema's types.
pub fn replace_dictionaries(
    batch: &RecordBatch,
    schema: &SchemaRef,
    replace: &mut impl FnMut(ArrayData) -> Result<ArrayData, ArrowError>,
) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| match has_dictionary(column.data_type()) {
        true => replace_in(column.to_data(), field.data_type(), replace).map(make_array),
        false => Ok(column.clone()),
    });
    let columns = columns.collect::<Result<_, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
}

/// Bytes of the values of all outermost dictionaries.
///
/// # Errors
/// As [`replace_dictionaries`].
pub fn dictionary_bytes(batch: &RecordBatch) -> Result<usize, ArrowError> {
    let mut bytes = 0;
    let mut add = |data: ArrayData| {
        bytes += array_bytes(&make_array(data.child_data()[0].clone()));
        Ok(data)
    };
    replace_dictionaries(batch, &batch.schema(), &mut add)?;
    Ok(bytes)
}

fn replace_in(
    data: ArrayData,
    to: &DataType,
    replace: &mut impl FnMut(ArrayData) -> Result<ArrayData, ArrowError>,
) -> Result<ArrayData, ArrowError> {
    if matches!(data.data_type(), DataType::Dictionary(_, _)) {
        return replace(data);
    }
    if !has_dictionary(data.data_type()) {
        return Ok(data);
    }
    let children = data.child_data().iter().zip(child_fields(to));
    let children = children.map(|(child, to)| replace_in(child.clone(), to.data_type(), replace));
    let children = children.collect::<Result<_, _>>()?;
    data.into_builder().data_type(to.clone()).child_data(children).build()
}
