#![allow(clippy::unwrap_used)]
use arrow::compute::concat_batches;
use arrow::datatypes::DataType;
use rand::Rng;

use super::*;
use crate::ipc::encode::encode_batch;
use crate::ipc::samples;

/// The pieces are the rows, in order; each is small enough unless it is one row.
fn check(batch: &RecordBatch, target: usize) {
    let pieces: Vec<_> = split(batch, target).collect();
    let mut at = 0;
    for piece in &pieces {
        assert_eq!(*piece, batch.slice(at, piece.num_rows()), "at row {at}");
        assert!(piece.num_rows() <= 1 || data_bytes(piece) <= 2 * target);
        at += piece.num_rows();
    }
    assert_eq!(at, batch.num_rows());
}

#[test]
fn pieces_of_every_type_are_the_rows() {
    let mut rng = samples::rng(1);
    for data_type in samples::types() {
        for _ in 0..4 {
            let rows = rng.random_range(0..400);
            let whole = samples::batch_of(&mut rng, std::slice::from_ref(&data_type), rows + 20);
            check(&whole.slice(rng.random_range(0..20), rows), rng.random_range(300..5000));
        }
    }
}

#[test]
fn pieces_of_all_types_together_are_the_rows() {
    let mut rng = samples::rng(2);
    let whole = samples::batch(&mut rng, 300);
    check(&whole, 1 << 20);
    check(&whole.slice(7, 200), 40_000);
}

#[test]
fn sizes_are_those_of_the_messages() {
    let mut rng = samples::rng(3);
    for data_type in samples::types() {
        let whole = samples::batch_of(&mut rng, std::slice::from_ref(&data_type), 500);
        let slice = compact(&whole.slice(100, 300));
        let (_, message) = encode_batch(&slice).unwrap();
        let (real, said) = (message.body.len(), data_bytes(&slice));
        assert!(said >= real && said <= real + 2048, "{data_type}: {said} for {real}");
    }
}

#[test]
fn pieces_are_near_the_target() {
    let mut rng = samples::rng(4);
    let types = [DataType::Int64, DataType::Utf8, DataType::Utf8View, DataType::Float64];
    let batch = samples::batch_of(&mut rng, &types, 200_000);
    let pieces: Vec<_> = split(&batch, 1 << 20).collect();
    assert_eq!(pieces.len(), data_bytes(&batch).div_ceil(1 << 20));
    let largest = pieces.iter().map(|piece| encode_batch(piece).unwrap().1.body.len()).max().unwrap();
    assert!((900_000..1_200_000).contains(&largest), "{largest}");
    assert_eq!(concat_batches(&batch.schema(), &pieces).unwrap(), batch);
}

#[test]
fn one_large_row_is_one_piece_and_the_others_are_small() {
    let mut words = vec!["x".to_string(); 1000];
    words[500] = "y".repeat(6 << 20);
    let array = arrow::array::StringArray::from(words);
    let batch = RecordBatch::try_from_iter([("c", std::sync::Arc::new(array) as _)]).unwrap();
    let sizes: Vec<_> = split(&batch, 1 << 20).map(|p| (p.num_rows(), data_bytes(&p))).collect();
    assert_eq!(sizes.iter().filter(|(_, bytes)| *bytes > MAX_CUT_BYTES).count(), 1);
    assert!(sizes.iter().all(|(rows, bytes)| *bytes <= 2 << 20 || *rows == 1));
    assert_eq!(sizes.iter().map(|(rows, _)| rows).sum::<usize>(), 1000);
}

#[test]
fn batches_of_nothing_are_cut_by_rows() {
    let mut rng = samples::rng(5);
    assert_eq!(split(&samples::batch_of(&mut rng, &[], 0), 1 << 20).count(), 1);
    assert_eq!(split(&samples::batch(&mut rng, 0), 1 << 20).count(), 1);
    let rows: usize = split(&samples::batch_of(&mut rng, &[], 100 << 20), 1 << 20).map(|p| p.num_rows()).sum();
    assert_eq!(rows, 100 << 20);
}
