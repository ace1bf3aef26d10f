//! Results without Arrow's view types, which many clients cannot read, JDBC's driver among them: text and binary take their place.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use volley_common::ipc::MESSAGE_BYTES;
use volley_common::ipc::conform::conform_split;
use volley_common::ipc::shrink::shrink_to_fit;
use volley_common::ipc::split::split;
use volley_common::{Code, Error, Result};

/// The schema with Utf8 and Binary for their views, at any depth; the same one if it has none. The storage of an extension type
/// stays, since it is a part of the type.
pub(super) fn without_views(schema: &SchemaRef) -> SchemaRef {
    let fields: Vec<FieldRef> = schema.fields().iter().map(field_without_views).collect();
    match fields.iter().zip(schema.fields()).all(|(plain, field)| Arc::ptr_eq(plain, field)) {
        true => schema.clone(),
        false => Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone())),
    }
}

/// The same field if it has no view.
fn field_without_views(field: &FieldRef) -> FieldRef {
    if field.extension_type_name().is_some() {
        return field.clone();
    }
    match type_without_views(field.data_type()) {
        plain if plain == *field.data_type() => field.clone(),
        plain => Arc::new(field.as_ref().clone().with_data_type(plain)),
    }
}

fn type_without_views(data_type: &DataType) -> DataType {
    use DataType::*;
    match data_type {
        Utf8View => Utf8,
        BinaryView => Binary,
        List(field) => List(field_without_views(field)),
        LargeList(field) => LargeList(field_without_views(field)),
        ListView(field) => ListView(field_without_views(field)),
        LargeListView(field) => LargeListView(field_without_views(field)),
        FixedSizeList(field, size) => FixedSizeList(field_without_views(field), *size),
        Map(field, sorted) => Map(field_without_views(field), *sorted),
        Struct(fields) => Struct(fields.iter().map(field_without_views).collect()),
        Union(fields, mode) => {
            Union(fields.iter().map(|(id, field)| (id, field_without_views(field))).collect(), *mode)
        }
        Dictionary(keys, values) => Dictionary(keys.clone(), Box::new(type_without_views(values))),
        RunEndEncoded(ends, values) => RunEndEncoded(ends.clone(), field_without_views(values)),
        other => other.clone(),
    }
}

/// The rows of a batch in pieces that are small enough for [`relaid`].
///
/// # Errors
/// RESOURCE_EXHAUSTED: rows share values that would be repeated far too often.
pub(super) fn pieces(batch: &RecordBatch) -> impl Iterator<Item = Result<RecordBatch>> + Send + use<> {
    split(&shrink_to_fit(batch), MESSAGE_BYTES)
}

/// The rows of one of the [`pieces`] under `schema`, its own [`without_views`]. Views may share their bytes, and text repeats
/// them: one piece may become many batches, of which each has a bounded size.
///
/// # Errors
/// RESOURCE_EXHAUSTED: one row shares values that would be repeated far too often. INTERNAL: the batch has another schema.
pub(super) fn relaid<'a>(
    piece: &'a RecordBatch,
    schema: &'a SchemaRef,
) -> impl Iterator<Item = Result<RecordBatch>> + Send + 'a {
    let misfit = |error: Error| match error.code {
        Code::ResourceExhausted => error.at("a row of the result"),
        _ => Error::internal(format!("the rows cannot be sent without views: {error}")),
    };
    conform_split(piece, schema).map(move |batch| batch.map_err(misfit))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrow::array::{Array, ArrayRef, AsArray, ListArray, StringViewArray, StringViewBuilder, StructArray};
    use arrow::buffer::OffsetBuffer;
    use arrow::util::display::array_value_to_string;

    use arrow::datatypes::Field;

    use super::*;

    fn of(data_type: DataType) -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("c", data_type, true)]))
    }

    fn item(data_type: DataType) -> FieldRef {
        Arc::new(Field::new("item", data_type, true))
    }

    fn all(batch: &RecordBatch, schema: &SchemaRef) -> Vec<RecordBatch> {
        pieces(batch).flat_map(|piece| relaid(&piece.unwrap(), schema).collect::<Result<Vec<_>>>().unwrap()).collect()
    }

    #[test]
    fn schema_has_no_view_at_any_depth() {
        use DataType::{
            Binary, BinaryView, Dictionary, Int8, Int32, LargeList, List, ListView, Struct, Utf8, Utf8View,
        };
        let keyed = |values: DataType| Dictionary(Box::new(Int8), Box::new(values));
        let both = |text: DataType, bytes: DataType| Struct(vec![item(text), item(bytes)].into());
        for (from, to) in [
            (Utf8View, Utf8),
            (BinaryView, Binary),
            (List(item(Utf8View)), List(item(Utf8))),
            (LargeList(item(both(Utf8View, BinaryView))), LargeList(item(both(Utf8, Binary)))),
            (ListView(item(keyed(Utf8View))), ListView(item(keyed(Utf8)))),
            (DataType::FixedSizeList(item(BinaryView), 2), DataType::FixedSizeList(item(Binary), 2)),
            (DataType::RunEndEncoded(item(Int32), item(Utf8View)), DataType::RunEndEncoded(item(Int32), item(Utf8))),
        ] {
            assert_eq!(without_views(&of(from)), of(to));
        }
    }

    #[test]
    fn other_types_and_extension_types_stay() {
        for data_type in [DataType::Int64, DataType::LargeUtf8, DataType::List(item(DataType::Utf8))] {
            let schema = of(data_type);
            assert!(Arc::ptr_eq(&without_views(&schema), &schema));
        }
        let named = [("ARROW:extension:name".to_string(), "arrow.json".to_string())];
        let field = Field::new("c", DataType::Utf8View, true).with_metadata(named.into());
        let schema = Arc::new(Schema::new(vec![field]));
        assert_eq!(without_views(&schema), schema);
    }

    #[test]
    fn rows_keep_their_values_nulls_and_order() {
        let texts: StringViewArray =
            [Some("short"), None, Some("longer than twelve bytes"), Some("")].into_iter().collect();
        let texts: ArrayRef = Arc::new(texts);
        let list =
            ListArray::new(item(DataType::Utf8View), OffsetBuffer::from_lengths([1, 0, 2, 1]), texts.clone(), None);
        let fields = vec![Arc::new(Field::new("l", list.data_type().clone(), false))];
        let lists: ArrayRef = Arc::new(StructArray::new(fields.into(), vec![Arc::new(list)], None));
        let batch = RecordBatch::try_from_iter_with_nullable([("t", texts, true), ("s", lists, false)]).unwrap();
        for batch in [batch.clone(), batch.slice(1, 3)] {
            let schema = without_views(&batch.schema());
            let relaid = all(&batch, &schema);
            assert_eq!((relaid.len(), relaid[0].schema()), (1, schema));
            for (plain, view) in relaid[0].columns().iter().zip(batch.columns()) {
                let text = |column: &ArrayRef, row| (array_value_to_string(column, row).unwrap(), column.is_null(row));
                (0..batch.num_rows()).for_each(|row| assert_eq!(text(plain, row), text(view, row)));
            }
        }
    }

    #[test]
    fn views_that_share_their_bytes_become_many_batches() {
        let text = "x".repeat(1 << 20);
        let mut views = StringViewBuilder::new();
        let block = views.append_block(text.as_bytes().into());
        (0..300).for_each(|_| views.try_append_view(block, 0, text.len() as u32).unwrap());
        let batch = RecordBatch::try_from_iter([("t", Arc::new(views.finish()) as ArrayRef)]).unwrap();
        let schema = without_views(&batch.schema());
        let mut rows = 0;
        for piece in pieces(&batch) {
            for batch in relaid(&piece.unwrap(), &schema) {
                let batch = batch.unwrap();
                let bytes = batch.column(0).as_string::<i32>().value_data().len();
                assert!(bytes <= 128 << 20, "{bytes}");
                rows += batch.num_rows();
            }
        }
        assert_eq!(rows, 300);
    }
}
