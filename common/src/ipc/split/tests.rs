#![allow(clippy::unwrap_used)]
use arrow::compute::concat_batches;
use arrow::datatypes::DataType;
use rand::Rng;

use super::*;
use crate::ipc::encode::encode_batch;
use crate::ipc::test_data;

/// Checks that the split batches have all rows in order, and that each is small enough unless it has one row.
fn check_split(batch: &RecordBatch, target: usize) {
    let batches: Vec<_> = split(&shrink_to_fit(batch), target).collect();
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
    let batches: Vec<_> = split(&batch, 1 << 20).collect();
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
    let batch = RecordBatch::try_from_iter([("c", std::sync::Arc::new(array) as _)]).unwrap();
    let sizes: Vec<_> = split(&batch, 1 << 20).map(|p| (p.num_rows(), data_bytes(&p))).collect();
    assert_eq!(sizes.iter().filter(|(_, bytes)| *bytes > MAX_SPLIT_BYTES).count(), 1);
    assert!(sizes.iter().all(|(rows, bytes)| *bytes <= 2 << 20 || *rows == 1));
    assert_eq!(sizes.iter().map(|(rows, _)| rows).sum::<usize>(), 1000);
}

#[test]
fn batches_without_data_are_split_by_rows() {
    let mut rng = test_data::rng(5);
    assert_eq!(split(&test_data::batch_of(&mut rng, &[], 0), 1 << 20).count(), 1);
    assert_eq!(split(&test_data::batch(&mut rng, 0), 1 << 20).count(), 1);
    let rows: usize = split(&test_data::batch_of(&mut rng, &[], 100 << 20), 1 << 20).map(|p| p.num_rows()).sum();
    assert_eq!(rows, 100 << 20);
}
