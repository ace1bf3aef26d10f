//! Gets with a filter, of nested columns and of batches that are kept whole.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, DictionaryArray, FixedSizeBinaryArray, FixedSizeListArray, Int64Array, ListArray,
    RecordBatch, StringArray, StringViewArray, StructArray,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type};
use bytes::Bytes;
use volley_common::PartId;
use volley_common::wire::catalog::Compression;
use volley_common::wire::cluster::Ticket;

use super::cluster::{TestNode, introduce, large, ticket};
use super::filtered::filtered;
use super::ids;
use crate::storage::{BatchWrite, PartSpec};

/// Columns of nested types and views; every value follows from the row's number.
fn nested(from: i64, rows: i64) -> RecordBatch {
    let ids: Vec<i64> = (from..from + rows).collect();
    let words = |keys: Vec<i32>| -> ArrayRef {
        let values: ArrayRef = Arc::new(StringArray::from(vec!["x", "y", "z"]));
        Arc::new(DictionaryArray::<Int32Type>::new(keys.into(), values))
    };
    let keys: Vec<i32> = ids.iter().map(|id| (id % 3) as i32).collect();
    let word = words(keys.clone());
    let item = Arc::new(Field::new_list_field(word.data_type().clone(), true));
    let lengths: Vec<usize> = ids.iter().map(|id| (id % 4) as usize).collect();
    let items = lengths.iter().zip(&keys).flat_map(|(length, key)| vec![*key; *length]).collect();
    let list = ListArray::new(item, OffsetBuffer::from_lengths(lengths), words(items), None);
    let group: ArrayRef = Arc::new(StructArray::from(vec![
        (Arc::new(Field::new("n", DataType::Int64, false)), Arc::new(Int64Array::from(ids.clone())) as ArrayRef),
        (Arc::new(Field::new("w", word.data_type().clone(), true)), word),
    ]));
    let view = StringViewArray::from_iter_values(ids.iter().map(|id| format!("a view of the number {id}")));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(ids))),
        ("list", Arc::new(list)),
        ("group_of_two", group),
        ("view", Arc::new(view)),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

#[tokio::test]
async fn nested_columns_and_views_are_filtered() {
    let (serving, holder) = (TestNode::start().await, TestNode::start().await);
    introduce(&[&serving, &holder]);
    let stored = [nested(0, 300), nested(300, 5), nested(305, 300)];
    let all = concat_batches(&stored[0].schema(), &stored).unwrap();
    type RowTest = fn(i64) -> bool;
    let is_selected: [(&str, RowTest); 3] = [
        ("id % 7 = 1", |id| id % 7 == 1),
        ("view = 'a view of the number 400' OR id < 3", |id| id == 400 || id < 3),
        ("id IS NOT NULL", |_| true),
    ];
    for (node, codec) in [(&serving, Compression::None), (&serving, Compression::Lz4), (&holder, Compression::None)] {
        let part = node.write_compressed(&stored, codec);
        let whole = Ticket { schema: Bytes::new(), ..ticket(&[(part, &[&serving, &holder])]) };
        for (filter, is_selected) in is_selected {
            let mask: BooleanArray =
                all.column(0).as_primitive::<Int64Type>().values().iter().map(|id| Some(is_selected(*id))).collect();
            let expected = filter_record_batch(&all, &mask).unwrap();
            let got = serving.get(&filtered(&whole, filter)).await.unwrap();
            assert_eq!(concat_batches(&all.schema(), &got).unwrap(), expected, "{filter}, {codec:?}");
        }
    }
}

/// Columns whose values have no bytes, with nulls and without.
fn without_bytes(from: i64, rows: i64) -> RecordBatch {
    let ids: Vec<i64> = (from..from + rows).collect();
    let nulls = || Some(NullBuffer::from_iter(ids.iter().map(|id| id % 5 != 2)));
    let binary = |nulls| FixedSizeBinaryArray::try_new_with_len(0, Buffer::default(), nulls, ids.len()).unwrap();
    let item = Arc::new(Field::new_list_field(DataType::Int64, true));
    let no_items: ArrayRef = Arc::new(Int64Array::from(Vec::<i64>::new()));
    let list = FixedSizeListArray::try_new_with_length(item, 0, no_items, nulls(), ids.len()).unwrap();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(ids.clone()))),
        ("binary", Arc::new(binary(None))),
        ("binary_or_null", Arc::new(binary(nulls()))),
        ("list", Arc::new(list)),
        ("struct", Arc::new(StructArray::new_empty_fields(ids.len(), nulls()))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

#[tokio::test]
async fn values_without_bytes_are_filtered() {
    let node = TestNode::start().await;
    let (stored, all) = ([without_bytes(0, 300), without_bytes(300, 300)], without_bytes(0, 600));
    let part = node.write_compressed(&stored, Compression::None);
    let whole = Ticket { schema: Bytes::new(), ..ticket(&[(part, &[])]) };
    for (filter, expected) in [("id > 250 AND id < 400", 251..400), ("id = 3", 3..4), ("id < 0", 0..0)] {
        let got = node.get(&filtered(&whole, filter)).await.unwrap();
        let expected = all.slice(expected.start, expected.len());
        assert_eq!(concat_batches(&all.schema(), &got).unwrap(), expected, "{filter}");
    }
}

/// Writes a part of one batch, which is kept whole.
fn write_whole(node: &TestNode, rows: &RecordBatch, compression: Compression) -> PartId {
    let table = "t/1".parse().unwrap();
    let spec = PartSpec { table, shard: 0, write: "w".into(), seq: 0, schema: rows.schema(), compression };
    let mut writer = node.context.store.create(spec).unwrap();
    assert_eq!(writer.write_whole(rows, b"kept with the batch").unwrap(), BatchWrite::Written);
    writer.seal().unwrap().id
}

#[tokio::test]
async fn large_batch_is_sent_in_small_messages_without_metadata() {
    let node = TestNode::start().await;
    let rows = concat_batches(&large(1)[0].schema(), &large(20)).unwrap();
    for codec in [Compression::None, Compression::Zstd] {
        let part = write_whole(&node, &rows, codec);
        let whole = Ticket { schema: Bytes::new(), ..ticket(&[(part, &[])]) };
        for (filter, expected) in [("id >= 0", 0..2560), ("id > 700 AND id < 1900", 701..1900), ("id < 0", 0..0)] {
            let wanted = filtered(&whole, filter);
            assert_eq!(
                ids(&node.get(&wanted).await.unwrap(), 0),
                expected.collect::<Vec<i64>>(),
                "{filter}, {codec:?}"
            );
            for data in node.stream(&wanted).await.unwrap() {
                assert!(data.app_metadata.is_empty() && data.data_body.len() < 4 << 20, "{filter}, {codec:?}");
            }
        }
        let some = Ticket { limit: Some(1000), ..filtered(&whole, "id % 2 = 1") };
        assert_eq!(ids(&node.get(&some).await.unwrap(), 0), (1..2000).step_by(2).collect::<Vec<i64>>());
    }
}
