//! Replaces the schema of a batch by that of its table, which may differ in metadata at any depth.

use arrow::array::{Array, ArrayData, RecordBatch, RecordBatchOptions, make_array};
use arrow::datatypes::{DataType, Field, SchemaRef};
use arrow::error::ArrowError;

use super::layout::child_fields;
use super::schema::check_appendable;
use crate::{Error, Result};

/// The batch's rows under `schema`; no data is copied.
///
/// # Errors
/// INVALID_ARGUMENT names the first field that differs, see [`check_appendable`].
pub fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if batch.schema_ref() == schema {
        return Ok(batch.clone());
    }
    check_appendable(schema, batch.schema_ref())?;
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| match column.data_type() == field.data_type() {
        true => Ok(column.clone()),
        false => retype(column.to_data(), field.data_type()).map(make_array),
    });
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    columns
        .collect::<Result<Vec<_>, ArrowError>>()
        .and_then(|columns| RecordBatch::try_new_with_options(schema.clone(), columns, &options))
        .map_err(|e| Error::invalid(format!("the rows do not fit the table's schema: {e}")))
}

/// The same data under a type whose child fields have other metadata.
fn retype(data: ArrayData, to: &DataType) -> Result<ArrayData, ArrowError> {
    if data.data_type() == to {
        return Ok(data);
    }
    let types: Vec<&DataType> = match to {
        DataType::Dictionary(_, values) => vec![values],
        other => child_fields(other).into_iter().map(Field::data_type).collect(),
    };
    let children = data.child_data().iter().zip(types);
    let children = children.map(|(child, to)| retype(child.clone(), to)).collect::<Result<_, _>>()?;
    data.into_builder().data_type(to.clone()).child_data(children).build()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;
    use std::sync::Arc;

    use arrow::datatypes::Schema;

    use super::*;
    use crate::ipc::test_data;

    /// The field without metadata, at any depth.
    fn without_metadata(field: &Field) -> Field {
        let child = |field: &Field| Arc::new(without_metadata(field));
        let data_type = match field.data_type() {
            DataType::List(f) => DataType::List(child(f)),
            DataType::ListView(f) => DataType::ListView(child(f)),
            DataType::FixedSizeList(f, n) => DataType::FixedSizeList(child(f), *n),
            DataType::Struct(fields) => DataType::Struct(fields.iter().map(|f| without_metadata(f)).collect()),
            other => other.clone(),
        };
        field.clone().with_data_type(data_type).with_metadata(HashMap::new())
    }

    #[test]
    fn conform_replaces_metadata_at_every_depth_but_no_types() {
        let batch = test_data::batch(&mut test_data::rng(1), 40);
        let fields: Vec<Field> = batch.schema().fields().iter().map(|f| without_metadata(f)).collect();
        let table = Arc::new(Schema::new(fields));
        let conformed = conform(&batch, &table).unwrap();
        assert_eq!(conformed.schema(), table);
        assert_eq!(conform(&conformed, &batch.schema()).unwrap(), batch);
        let other = Arc::new(Schema::new(vec![Field::new("c0", DataType::Int8, true)]));
        assert!(conform(&batch, &other).unwrap_err().message.contains("c0"));
    }
}
