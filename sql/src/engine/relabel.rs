//! Batches with the schema that was promised: names, nullability and metadata included.

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use volley_common::{Error, Result};

/// How the columns of a stream become those of a promised schema.
pub(super) struct Relabel {
    schema: SchemaRef,
    /// Indexes of the columns whose type differs.
    casts: Vec<usize>,
}

impl Relabel {
    /// # Errors
    /// INTERNAL: a column is missing, or has a type whose values may not be those of the promised one.
    pub(super) fn new(from: &Schema, to: &SchemaRef) -> Result<Self> {
        if from.fields().len() != to.fields().len() {
            let (given, promised) = (from.fields().len(), to.fields().len());
            return Err(Error::internal(format!("the query has {given} columns, but {promised} were promised")));
        }
        let mut casts = Vec::new();
        for (at, (given, promised)) in from.fields().iter().zip(to.fields()).enumerate() {
            if given.data_type() == promised.data_type() {
                continue;
            }
            if !is_same_kind(given.data_type(), promised.data_type()) {
                let (name, given, promised) = (promised.name(), given.data_type(), promised.data_type());
                return Err(Error::internal(format!(
                    "column {name:?} of the query has the type {given}, but {promised} was promised"
                )));
            }
            casts.push(at);
        }
        Ok(Relabel { schema: to.clone(), casts })
    }

    /// The batch with the promised schema.
    ///
    /// # Errors
    /// INTERNAL: a column that was promised to have no null has one, or a value cannot be cast.
    pub(super) fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let mut columns = batch.columns().to_vec();
        for at in &self.casts {
            let options = CastOptions { safe: false, ..CastOptions::default() };
            let cast = cast_with_options(&columns[*at], self.schema.field(*at).data_type(), &options);
            columns[*at] = cast.map_err(|error| broken_promise(&error))?;
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|error| broken_promise(&error))
    }
}

fn broken_promise(error: &arrow::error::ArrowError) -> Error {
    Error::internal(format!("the rows have another schema than was promised: {error}"))
}

/// Whether both types have the same values.
fn is_same_kind(a: &DataType, b: &DataType) -> bool {
    let is_text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let is_bytes = |t: &DataType| matches!(t, DataType::Binary | DataType::LargeBinary | DataType::BinaryView);
    (is_text(a) && is_text(b)) || (is_bytes(a) && is_bytes(b))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use arrow::array::{Array, Int64Array, StringArray};
    use arrow::datatypes::Field;
    use volley_common::Code;

    use super::*;

    fn schema(fields: Vec<Field>) -> SchemaRef {
        Arc::new(Schema::new(fields))
    }

    fn batch() -> RecordBatch {
        let columns = vec![
            Arc::new(Int64Array::from(vec![Some(1), None])) as Arc<dyn Array>,
            Arc::new(StringArray::from(vec!["x", "y"])),
        ];
        let fields = vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Utf8, true)];
        RecordBatch::try_new(schema(fields), columns).unwrap()
    }

    #[test]
    fn names_nullability_and_metadata_become_the_promised_ones() {
        let metadata = HashMap::from([("k".to_string(), "v".to_string())]);
        let promised = schema(vec![
            Field::new("n", DataType::Int64, true).with_metadata(metadata),
            Field::new("s", DataType::Utf8View, false),
        ]);
        let relabel = Relabel::new(&batch().schema(), &promised).unwrap();
        let relabelled = relabel.apply(&batch()).unwrap();
        assert_eq!(relabelled.schema(), promised);
        assert_eq!(relabelled.num_rows(), 2);
    }

    #[test]
    fn null_in_a_promised_column_without_nulls_is_refused() {
        let fields = vec![Field::new("a", DataType::Int64, false), Field::new("b", DataType::Utf8, true)];
        let relabel = Relabel::new(&batch().schema(), &schema(fields)).unwrap();
        assert_eq!(relabel.apply(&batch()).unwrap_err().code, Code::Internal);
    }

    #[test]
    fn types_with_other_values_are_refused() {
        let fields = vec![Field::new("a", DataType::Int32, true), Field::new("b", DataType::Utf8, true)];
        assert_eq!(Relabel::new(&batch().schema(), &schema(fields)).err().unwrap().code, Code::Internal);
        assert!(Relabel::new(&batch().schema(), &schema(Vec::new())).is_err());
    }

    #[test]
    fn rows_without_columns_keep_their_number() {
        let none = schema(Vec::new());
        let options = RecordBatchOptions::new().with_row_count(Some(3));
        let batch = RecordBatch::try_new_with_options(none.clone(), Vec::new(), &options).unwrap();
        assert_eq!(Relabel::new(&none, &none).unwrap().apply(&batch).unwrap().num_rows(), 3);
    }
}
