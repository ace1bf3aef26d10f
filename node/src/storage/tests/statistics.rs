//! Statistics are in the footer of each part that is written, and come back when it is opened.

use std::fs::File;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StructArray};
use arrow::datatypes::{DataType, Float64Type};
use arrow_ipc::reader::FileReader;
use volley_common::ipc::statistics::{MAX_STATISTICS_BYTES, STATISTICS_KEY, StatisticsEntry};
use volley_common::wire::catalog::Compression;

use super::{batch, only_file, open, put};

#[test]
fn statistics_of_a_part_come_back() {
    for compression in [Compression::None, Compression::Zstd] {
        let dir = tempfile::tempdir().unwrap();
        let batches = [batch(), batch().slice(3, 500), batch().slice(0, 0)];
        let sealed = put(&open(dir.path()), &batches, compression);
        let part = open(dir.path()).part(sealed.id).unwrap().unwrap();
        let statistics = part.statistics().unwrap().unwrap();
        let entries: Vec<_> = statistics.entries().collect();
        assert_eq!(entries, [1000, 500, 0].map(|rows| StatisticsEntry { messages: 1, rows }));
        let texts = statistics.column(0, &DataType::Utf8).unwrap();
        assert_eq!(texts.nulls.values(), &[334, 167, 0]);
        assert_eq!(texts.minimums.as_string::<i32>().iter().collect::<Vec<_>>(), [Some("row 1"), Some("row 10"), None]);
        let numbers = statistics.column(1, &DataType::Float64).unwrap();
        assert_eq!(
            numbers.maximums.as_primitive::<Float64Type>().iter().collect::<Vec<_>>(),
            [Some(999.0), Some(502.0), None]
        );
        assert!(numbers.minimums.is_null(2));
    }
}

#[test]
fn part_without_orderable_columns_has_no_statistics() {
    let dir = tempfile::tempdir().unwrap();
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let nested = StructArray::try_from(vec![("n", numbers)]).unwrap();
    let rows = RecordBatch::try_from_iter([("s", Arc::new(nested) as ArrayRef)]).unwrap();
    let store = open(dir.path());
    let sealed = put(&store, &[rows], Compression::None);
    assert!(store.part(sealed.id).unwrap().unwrap().statistics().unwrap().is_none());
}

#[test]
fn statistics_of_many_batches_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let rows = batch();
    let batches: Vec<RecordBatch> = (0..20_000).map(|at| rows.slice(at % 990, 2)).collect();
    let sealed = put(&store, &batches, Compression::None);
    let statistics = store.part(sealed.id).unwrap().unwrap().statistics().unwrap().unwrap();
    assert_eq!(statistics.entries().map(|entry| entry.messages).sum::<u32>(), 20_000);
    assert!(statistics.entries().count() < 20_000);
    let reader = FileReader::try_new(File::open(only_file(dir.path())).unwrap(), None).unwrap();
    assert!(reader.custom_metadata()[STATISTICS_KEY].len() <= MAX_STATISTICS_BYTES);
}
