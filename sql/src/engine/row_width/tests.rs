use arrow::array::{Int64Array, ListArray, StringArray};
use arrow::datatypes::Int64Type;

use super::*;
use crate::fault::from_datafusion;

fn texts(lengths: &[usize]) -> RecordBatch {
    let texts = StringArray::from_iter_values(lengths.iter().map(|length| "x".repeat(*length)));
    RecordBatch::try_from_iter([("text", Arc::new(texts) as ArrayRef)]).unwrap()
}

#[test]
fn wide_rows_need_batches_of_fewer_rows() {
    let batch = texts(&[10, 100_000, 20]);
    assert_eq!(widest_row(&batch), 100_000);
    check(&batch, 1000).unwrap();
    let error = from_datafusion(check(&batch, 8192).unwrap_err());
    assert_eq!(error.code, Code::ResourceExhausted);
    let rows = fitting_rows(&error.at("a task")).unwrap();
    assert_eq!(rows, 671);
    check(&batch, rows).unwrap();
    assert_eq!(fitting_rows(&Error::exhausted("no memory")), None);
}

#[test]
fn numbers_are_never_too_wide() {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
    let batch = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
    check(&batch, usize::MAX).unwrap();
    assert_eq!(widest_row(&batch), 8);
}

#[test]
fn small_batches_have_all_rows() {
    let batch = texts(&[1, 2, 3, 4, 5]);
    let pieces: Vec<RecordBatch> = small_batches(&batch, 2).into_iter().collect::<Result<_>>().unwrap();
    let lengths: Vec<usize> =
        pieces.iter().flat_map(|piece| piece.column(0).as_string::<i32>().iter().map(|t| t.unwrap().len())).collect();
    assert_eq!(lengths, [1, 2, 3, 4, 5]);
    assert_eq!(pieces.len(), 3);
}

#[test]
fn rows_beside_unnest_are_bounded() {
    let list = |lengths: &[usize]| {
        let rows = lengths.iter().map(|length| Some(vec![Some(1i64); *length]));
        Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(rows)) as ArrayRef
    };
    let batch = |lists: &[usize], width: usize| {
        let text: ArrayRef = Arc::new(StringArray::from_iter_values(lists.iter().map(|_| "x".repeat(width))));
        RecordBatch::try_from_iter([("list", list(lists)), ("text", text)]).unwrap()
    };
    let pieces = RowWidthExec::pieces(batch(&[10_000; 4], 10_000), 100, &[0]).unwrap();
    let rows: Vec<usize> = pieces.into_iter().map(|piece| piece.unwrap().num_rows()).collect();
    assert_eq!(rows, [1, 1, 1, 1]);
    let error = RowWidthExec::pieces(batch(&[20_000], 10_000), 100, &[0]).unwrap_err();
    let error = from_datafusion(error);
    assert_eq!((error.code, fitting_rows(&error)), (Code::ResourceExhausted, None));
}
