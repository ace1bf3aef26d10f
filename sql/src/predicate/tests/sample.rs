//! A table with the values that filters get wrong.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, DictionaryArray, Float64Array, Int32Array, Int64Array, ListArray,
    RecordBatch, StringArray, StringViewArray, StructArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int32Type, SchemaRef};

/// Rows of the sample. Columns have their values in turn, with different periods, so that their combinations differ.
const ROWS: usize = 126;

/// The value of each row, in turn.
fn turn<T: Clone>(values: &[T]) -> Vec<T> {
    (0..ROWS).map(|row| values[row % values.len()].clone()).collect()
}

/// One batch with a row number `id` and a column of each kind.
pub(super) fn sample() -> RecordBatch {
    let text = [Some(""), Some("a"), Some("A"), None, Some("ab"), Some("ü"), Some("it's")];
    let floats = [
        Some(f64::NAN),
        Some(-0.0),
        Some(0.0),
        None,
        Some(1.5),
        Some(-1.5),
        Some(f64::INFINITY),
        Some(f64::MIN_POSITIVE),
        Some(-f64::NAN),
    ];
    // The end of daylight saving time in Europe, its beginning, before 1970, and the first of a year.
    let times = [Some(1_792_891_800_000_000), Some(1_774_747_800_000_000), None, Some(-1), Some(1_767_225_600_000_000)];
    let decimals = [Some(110), Some(-110), None, Some(250), Some(0), Some(9_999_999_999), Some(111)];
    let integers = [
        Some(1),
        Some(0),
        Some(-1),
        None,
        Some(7),
        Some(i32::MAX),
        Some(i32::MIN),
        Some(2),
        Some(3),
        Some(1),
        Some(299),
    ];
    let numbers = || Int32Array::from(turn(&integers));
    let strings = || StringArray::from(turn(&text));
    let nested = StructArray::from(vec![
        (Arc::new(Field::new("x", DataType::Int32, true)), Arc::new(numbers()) as ArrayRef),
        (Arc::new(Field::new("y", DataType::Utf8, true)), Arc::new(strings()) as ArrayRef),
    ]);
    let lists = [Some(vec![Some(1), Some(2)]), None, Some(vec![]), Some(vec![None, Some(2)])];
    let decimals = Decimal128Array::from(turn(&decimals)).with_precision_and_scale(10, 2).unwrap();
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(0..ROWS as i64)), false),
        ("i", Arc::new(numbers()), true),
        ("f", Arc::new(Float64Array::from(turn(&floats))), true),
        ("s", Arc::new(strings()), true),
        ("v", Arc::new(StringViewArray::from(turn(&text))), true),
        ("t", Arc::new(TimestampMicrosecondArray::from(turn(&times)).with_timezone("Europe/Berlin")), true),
        ("d", Arc::new(decimals), true),
        ("k", Arc::new(turn(&text).into_iter().collect::<DictionaryArray<Int32Type>>()), true),
        ("n", Arc::new(nested), true),
        ("l", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(turn(&lists))), true),
        ("b", Arc::new(BooleanArray::from(turn(&[Some(true), Some(false), None, Some(true)]))), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

pub(super) fn schema() -> SchemaRef {
    sample().schema()
}

/// The indexes of all columns of a batch.
pub(super) fn columns(batch: &RecordBatch) -> Vec<usize> {
    (0..batch.num_columns()).collect()
}
