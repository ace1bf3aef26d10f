#![allow(clippy::unwrap_used)]
use std::sync::Arc;

use arrow::array::{
    Array, ArrayData, ArrayRef, BinaryArray, Int32Array, ListViewArray, StringViewArray, UInt8Array, UnionArray,
    make_array,
};
use arrow::buffer::Buffer;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, UnionFields};
use rand::Rng;

use super::*;
use crate::ipc::encode::encode_batch;
use crate::ipc::test_data;

fn split_all(batch: &RecordBatch, target: usize) -> Vec<RecordBatch> {
    split(batch, target).collect::<Result<_>>().unwrap()
}

/// Checks that the split batches have all rows in order, and that each is small enough unless it has one row.
fn check_split(batch: &RecordBatch, target: usize) {
    let batches = split_all(&shrink_to_fit(batch), target);
    let mut at = 0;
    for part in &batches {
        assert_eq!(*part, batch.slice(at, part.num_rows()), "at row {at}");
        assert!(part.num_rows() <= 1 || data_bytes(part) <= 2 * target);
        at += part.num_rows();
    }
    assert_eq!(at, batch.num_rows());
}

#[test]
fn split_of_every_type_keeps_the_rows() {
    let mut rng = test_data::rng(1);
    for data_type in test_data::types() {
        for _ in 0..4 {
            let rows = rng.random_range(0..400);
            let whole = test_data::batch_of(&mut rng, std::slice::from_ref(&data_type), rows + 20);
            check_split(&whole.slice(rng.random_range(0..20), rows), rng.random_range(300..5000));
        }
    }
}

#[test]
fn split_of_all_types_together_keeps_the_rows() {
    let mut rng = test_data::rng(2);
    let whole = test_data::batch(&mut rng, 300);
    check_split(&whole, 1 << 20);
    check_split(&whole.slice(7, 200), 40_000);
}

#[test]
fn split_batches_are_near_the_target_size() {
    let mut rng = test_data::rng(4);
    let types = [DataType::Int64, DataType::Utf8, DataType::Utf8View, DataType::Float64];
    let batch = test_data::batch_of(&mut rng, &types, 200_000);
    let batches = split_all(&batch, 1 << 20);
    assert_eq!(batches.len(), data_bytes(&batch).div_ceil(1 << 20));
    let largest = batches.iter().map(|part| encode_batch(part).unwrap().1.body.len()).max().unwrap();
    assert!((900_000..1_200_000).contains(&largest), "{largest}");
    assert_eq!(concat_batches(&batch.schema(), &batches).unwrap(), batch);
}

#[test]
fn large_row_is_alone_and_others_are_small() {
    let mut words = vec!["x".to_string(); 1000];
    words[500] = "y".repeat(6 << 20);
    let array = arrow::array::StringArray::from(words);
    let batch = RecordBatch::try_from_iter([("c", Arc::new(array) as _)]).unwrap();
    let sizes: Vec<_> = split_all(&batch, 1 << 20).iter().map(|p| (p.num_rows(), data_bytes(p))).collect();
    assert_eq!(sizes.iter().filter(|(_, bytes)| *bytes > MAX_SPLIT_BYTES).count(), 1);
    assert!(sizes.iter().all(|(rows, bytes)| *bytes <= 2 << 20 || *rows == 1));
    assert_eq!(sizes.iter().map(|(rows, _)| rows).sum::<usize>(), 1000);
}

#[test]
fn batches_without_data_are_split_by_rows() {
    let mut rng = test_data::rng(5);
    assert_eq!(split(&test_data::batch_of(&mut rng, &[], 0), 1 << 20).count(), 1);
    assert_eq!(split(&test_data::batch(&mut rng, 0), 1 << 20).count(), 1);
    let rows: usize =
        split_all(&test_data::batch_of(&mut rng, &[], 100 << 20), 1 << 20).iter().map(RecordBatch::num_rows).sum();
    assert_eq!(rows, 100 << 20);
}

/// Columns of `rows` rows that share values of `bytes` bytes: each value is that of `rows / values` consecutive rows, or
/// with `mixed` of every `values`-th row.
fn sharing(rows: usize, values: usize, bytes: usize, mixed: bool) -> Vec<(&'static str, ArrayRef)> {
    let value_of = |row: usize| if mixed { row % values } else { row * values / rows };
    let texts: Vec<Vec<u8>> = (0..values).map(|at| vec![b'a' + (at % 26) as u8; bytes]).collect();
    let child: ArrayRef = Arc::new(BinaryArray::from_iter_values(&texts));

    let buffer = Buffer::from(texts.concat());
    let mut views = arrow::array::StringViewBuilder::new();
    let block = views.append_block(buffer.clone());
    (0..rows).for_each(|row| views.try_append_view(block, (value_of(row) * bytes) as u32, bytes as u32).unwrap());

    let offsets: Vec<i32> = (0..rows).map(|row| (value_of(row) * bytes) as i32).collect();
    let lists = ListViewArray::new(
        Arc::new(Field::new_list_field(DataType::UInt8, false)),
        offsets.into(),
        vec![bytes as i32; rows].into(),
        Arc::new(UInt8Array::new(buffer.into(), None)),
        None,
    );
    let fields = UnionFields::try_new([5], [Field::new("b", DataType::Binary, true)]).unwrap();
    let offsets: Vec<i32> = (0..rows).map(|row| value_of(row) as i32).collect();
    let union = UnionArray::try_new(fields, vec![5; rows].into(), Some(offsets.into()), vec![child.clone()]).unwrap();
    let ends = |name: &str, data_type| Arc::new(Field::new(name, data_type, name == "values"));
    let run_type = DataType::RunEndEncoded(ends("run_ends", DataType::Int32), ends("values", DataType::Binary));
    let (run_ends, run_values) = match mixed {
        false => (Int32Array::from_iter_values((1..=values).map(|at| (at * rows / values) as i32)), child),
        true => {
            let repeated =
                arrow::array::UInt64Array::from_iter_values((0..4.min(rows)).map(|row| value_of(row) as u64));
            let mut ends: Vec<i32> = (1..=repeated.len() as i32).collect();
            *ends.last_mut().unwrap() = rows as i32;
            (ends.into(), arrow::compute::take(&child, &repeated, None).unwrap())
        }
    };
    let runs = ArrayData::builder(run_type).len(rows).add_child_data(run_ends.to_data());
    let runs = make_array(runs.add_child_data(run_values.to_data()).build().unwrap());
    vec![
        ("views", Arc::new(views.finish()) as ArrayRef),
        ("list views", Arc::new(lists)),
        ("union", Arc::new(union)),
        ("runs", runs),
    ]
}

fn total_bytes(batches: &[RecordBatch]) -> usize {
    batches.iter().map(data_bytes).sum()
}

#[test]
fn value_shared_by_all_rows_is_not_multiplied() {
    for bytes in [3 << 20, 10 << 20] {
        for (name, column) in sharing(40, 1, bytes, false) {
            let batch = shrink_to_fit(&RecordBatch::try_from_iter([("c", column)]).unwrap());
            let batches = split_all(&batch, 1 << 20);
            assert!(total_bytes(&batches) < bytes + (64 << 10), "{name}: {} batches", batches.len());
            assert_eq!(concat_batches(&batch.schema(), &batches).unwrap(), batch, "{name}");
        }
    }
}

#[test]
fn values_shared_by_consecutive_rows_are_kept_about_once() {
    for (name, column) in sharing(4000, 30, 1 << 20, false) {
        let batch = shrink_to_fit(&RecordBatch::try_from_iter([("c", column)]).unwrap());
        let batches = split_all(&batch, 1 << 20);
        let (found, sent) = (total_bytes(&batches), data_bytes(&batch));
        assert!(found < 2 * sent, "{name}: {found} for {sent}");
        assert!(batches.iter().all(|batch| data_bytes(batch) <= MAX_SPLIT_BYTES), "{name}");
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 4000);
    }
}

#[test]
fn rows_that_would_multiply_their_values_are_refused() {
    for (name, column) in sharing(2000, 6, 1 << 20, true).into_iter().filter(|(name, _)| *name != "runs") {
        let batch = shrink_to_fit(&RecordBatch::try_from_iter([("c", column)]).unwrap());
        let mut written = 0;
        let error = split(&batch, 1 << 20).find_map(|piece| piece.map(|piece| written += data_bytes(&piece)).err());
        let error = error.unwrap_or_else(|| panic!("{name}: {written} bytes"));
        assert_eq!(error.code, crate::Code::ResourceExhausted, "{name}");
        assert!(error.message.contains("dictionary") && written < 200 << 20, "{name}: {error}");
    }
}

#[test]
fn slices_keep_only_the_shared_values_that_they_use() {
    for (name, column) in sharing(4000, 30, 100 << 10, true).into_iter().filter(|(name, _)| *name != "runs") {
        let batch = RecordBatch::try_from_iter([("c", column)]).unwrap();
        let slice = shrink_to_fit(&batch.slice(29, 3));
        assert!(data_bytes(&slice) < 320 << 10, "{name}: {}", data_bytes(&slice));
        assert_eq!(slice, batch.slice(29, 3), "{name}");
    }
    let column = Arc::new(StringViewArray::from_iter_values(["short", "longer than twelve bytes"])) as ArrayRef;
    let batch = RecordBatch::try_from_iter([("c", column)]).unwrap();
    assert_eq!(shrink_to_fit(&batch.slice(0, 1)), batch.slice(0, 1));
}
