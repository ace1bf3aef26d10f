#![allow(clippy::unwrap_used)]
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, StringArray};
use arrow::datatypes::{Field, Int64Type};

use super::*;
use crate::Code;
use crate::ipc::test_data;

/// Statistics of these batches, encoded and decoded.
fn statistics_of(batches: &[RecordBatch]) -> MessageStatistics {
    MessageStatistics::decode(&encoded(batches)).unwrap()
}

fn encoded(batches: &[RecordBatch]) -> String {
    let mut builder = StatisticsBuilder::new(batches[0].schema_ref());
    batches.iter().for_each(|batch| builder.add(batch));
    builder.finish().unwrap()
}

fn numbers(values: Vec<Option<i64>>) -> RecordBatch {
    let values: ArrayRef = Arc::new(Int64Array::from(values));
    RecordBatch::try_from_iter_with_nullable([("n", values, true)]).unwrap()
}

#[test]
fn each_batch_has_nulls_and_bounds() {
    let batches = [
        numbers(vec![Some(3), None, Some(-7)]),
        numbers(vec![]),
        numbers(vec![None, None]),
        numbers(vec![Some(i64::MAX), Some(i64::MIN)]),
    ];
    let statistics = statistics_of(&batches);
    let entries: Vec<(u32, u64)> = statistics.entries().map(|entry| (entry.messages, entry.rows)).collect();
    assert_eq!(entries, [(1, 3), (1, 0), (1, 2), (1, 2)]);
    let column = statistics.column(0, &DataType::Int64).unwrap();
    assert_eq!(column.nulls.values(), &[1, 0, 2, 0]);
    let values = |array: &ArrayRef| array.as_primitive::<Int64Type>().iter().collect::<Vec<_>>();
    assert_eq!(values(&column.minimums), [Some(-7), None, None, Some(i64::MIN)]);
    assert_eq!(values(&column.maximums), [Some(3), None, None, Some(i64::MAX)]);
    assert!(statistics.column(1, &DataType::Int64).is_none());
    assert!(statistics.column(0, &DataType::Int32).is_none(), "of another width");
    assert!(statistics.column(0, &DataType::Null).is_none());
}

#[test]
fn columns_without_an_order_have_no_statistics() {
    let mut rng = test_data::rng(51);
    let types = [DataType::Null, DataType::new_list(DataType::Int32, true), DataType::FixedSizeBinary(5)];
    let batch = test_data::batch_of(&mut rng, &types, 10);
    let mut builder = StatisticsBuilder::new(batch.schema_ref());
    builder.add(&batch);
    assert_eq!(builder.finish(), None);
    let empty = StatisticsBuilder::new(numbers(vec![]).schema_ref());
    assert_eq!(empty.finish(), None, "a part without batches");
}

#[test]
fn only_the_first_columns_have_statistics() {
    let types = vec![DataType::Int8; MAX_STATISTICS_COLUMNS + 3];
    let statistics = statistics_of(&[test_data::batch_of(&mut test_data::rng(52), &types, 5)]);
    assert!(statistics.column(MAX_STATISTICS_COLUMNS - 1, &DataType::Int8).is_some());
    assert!(statistics.column(MAX_STATISTICS_COLUMNS, &DataType::Int8).is_none());
}

#[test]
fn chosen_columns_have_statistics_in_their_order() {
    let types = [DataType::Int8, DataType::Int64, DataType::new_list(DataType::Int32, true), DataType::Utf8];
    let batch = test_data::batch_of(&mut test_data::rng(53), &types, 5);
    let mut builder = StatisticsBuilder::of_columns(batch.schema_ref(), [3, 2, 0, 9]);
    builder.add(&batch);
    let bounds = crate::wire::statistics::PartBounds::decode(builder.part_bounds(&[])).unwrap();
    assert_eq!(bounds.columns, [3, 0]);
    let statistics = MessageStatistics::decode(&builder.finish().unwrap()).unwrap();
    let has = |column: usize| statistics.column(column, &types[column]).is_some();
    assert_eq!([0, 1, 2, 3].map(has), [true, false, false, true]);
}

/// Texts of 40 bytes that begin with the number of their batch.
fn wide(columns: usize, at: u64) -> RecordBatch {
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values([format!("{at:06}{}", "x".repeat(34))]));
    let fields: Vec<Field> = (0..columns).map(|at| Field::new(format!("c{at}"), DataType::Utf8, true)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![texts; columns]).unwrap()
}

#[test]
fn neighbours_share_entries_when_there_are_many() {
    for (columns, count) in [(64, 1000), (1, 20_000)] {
        let batch = wide(columns, 0);
        let mut builder = StatisticsBuilder::new(batch.schema_ref());
        for at in 0..count {
            builder.add(&wide(columns, at));
            assert!(builder.encoded_bytes() <= MAX_MESSAGE_BYTES);
        }
        let text = builder.finish().unwrap();
        assert!(text.len() <= MAX_STATISTICS_BYTES && text.len() > MAX_STATISTICS_BYTES / 4, "{} bytes", text.len());
        let statistics = MessageStatistics::decode(&text).unwrap();
        assert_eq!(statistics.entries().map(|entry| u64::from(entry.messages)).sum::<u64>(), count);
        let column = statistics.column(columns - 1, &DataType::Utf8).unwrap();
        let (minimums, maximums) = (column.minimums.as_string::<i32>(), column.maximums.as_string::<i32>());
        let mut at = 0;
        for (entry, statistics) in statistics.entries().enumerate() {
            assert_eq!(u64::from(statistics.messages), statistics.rows);
            assert_eq!(minimums.value(entry)[..6], format!("{at:06}"));
            at += statistics.rows;
            assert_eq!(maximums.value(entry)[..6], format!("{:06}", at - 1));
        }
    }
}

#[test]
fn limited_statistics_keep_at_least_one_entry() {
    for limit in [0, 1000, 10_000] {
        let mut builder = StatisticsBuilder::new(wide(3, 0).schema_ref());
        builder.limit(limit);
        for at in 0..777 {
            builder.add(&wide(3, at));
            assert!(builder.encoded_bytes() <= limit || builder.messages.len() == 1);
        }
        let statistics = MessageStatistics::decode(&builder.finish().unwrap()).unwrap();
        let entries: Vec<StatisticsEntry> = statistics.entries().collect();
        assert_eq!(entries.iter().map(|entry| entry.messages).sum::<u32>(), 777);
        assert!((limit == 0) == (entries.len() == 1), "{limit}: {} entries", entries.len());
        let column = statistics.column(2, &DataType::Utf8).unwrap();
        let (minimums, maximums) = (column.minimums.as_string::<i32>(), column.maximums.as_string::<i32>());
        assert_eq!((&minimums.value(0)[..6], &maximums.value(entries.len() - 1)[..6]), ("000000", "000776"));
    }
}

#[test]
fn damaged_or_unknown_values_are_refused() {
    let text = encoded(&[numbers(vec![Some(1), Some(1000)])]);
    for value in ["", "1", "2:AAAA", &text[1..]] {
        assert_eq!(MessageStatistics::decode(value).unwrap_err().code, Code::Unimplemented, "{value}");
    }
    for value in ["1:", "1:AAAA", "1:AAAAAAAA!", &text[..text.len() - 4]] {
        assert_eq!(MessageStatistics::decode(value).unwrap_err().code, Code::DataLoss, "{value}");
    }
    for at in VERSION.len()..text.len() {
        let mut damaged = text.clone().into_bytes();
        damaged[at] = if damaged[at] == b'A' { b'B' } else { b'A' };
        let damaged = String::from_utf8(damaged).unwrap();
        assert!(MessageStatistics::decode(&damaged).is_err(), "byte {at}");
    }
    let long = format!("1:{}", "A".repeat(MAX_STATISTICS_BYTES));
    assert_eq!(MessageStatistics::decode(&long).unwrap_err().code, Code::DataLoss);
}

#[test]
fn malformed_columns_say_nothing() {
    let decode = |column: ColumnStatistics| {
        let decoded = PartStatistics { messages: vec![1], rows: vec![2], columns: vec![column] };
        MessageStatistics { decoded }.column(0, &DataType::Int8)
    };
    let bytes = Bytes::from_static;
    let sound = ColumnStatistics {
        column: 0,
        nulls: vec![0],
        minimum_lengths: bytes(&[1]),
        minimums: bytes(&[7]),
        maximum_lengths: bytes(&[255]),
        maximums: bytes(&[]),
    };
    assert!(decode(sound.clone()).is_some_and(|column| column.maximums.is_null(0)));
    assert!(decode(ColumnStatistics { nulls: vec![], ..sound.clone() }).is_none());
    assert!(decode(ColumnStatistics { minimum_lengths: bytes(&[2]), ..sound.clone() }).is_none());
    assert!(decode(ColumnStatistics { minimums: bytes(&[7, 7]), ..sound.clone() }).is_none());
    assert!(decode(ColumnStatistics { maximum_lengths: bytes(&[255, 255]), ..sound }).is_none());
}
