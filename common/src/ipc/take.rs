//! Picks values of arrays by position or by a mask, for every type.

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, BooleanArray, MutableArrayData, PrimitiveArray, RecordBatch,
    RecordBatchOptions, UInt64Array, make_array,
};
use arrow::compute::{filter_record_batch, take};
use arrow::datatypes::{ArrowNativeType, DataType};
use arrow::error::ArrowError;

use super::layout::child_fields;

/// The values at these positions, in this order. `positions` has no nulls.
///
/// # Errors
/// Offsets or keys that overflow.
pub fn take_values<I: ArrowPrimitiveType>(
    values: &ArrayRef,
    positions: &PrimitiveArray<I>,
) -> Result<ArrayRef, ArrowError> {
    if !has_zero_width(values.data_type()) {
        return take(values, positions, None);
    }
    // Arrow derives the length of its result from bytes, of which these types have none.
    let data = values.to_data();
    let mut copy = MutableArrayData::new(vec![&data], false, positions.len());
    let mut positions = positions.values().iter().map(|position| position.as_usize()).peekable();
    while let Some(first) = positions.next() {
        let mut end = first + 1;
        while positions.next_if_eq(&end).is_some() {
            end += 1;
        }
        copy.try_extend(0, first, end)?;
    }
    Ok(make_array(copy.freeze()))
}

/// The rows of a batch that a mask selects. A null selects nothing.
///
/// # Errors
/// The mask has another length, or offsets or keys overflow.
pub fn filter_rows(batch: &RecordBatch, mask: &BooleanArray) -> Result<RecordBatch, ArrowError> {
    if !batch.columns().iter().any(|column| has_zero_width(column.data_type())) {
        return filter_record_batch(batch, mask);
    }
    if mask.len() != batch.num_rows() {
        let text = format!("a mask of {} rows is for {} rows", mask.len(), batch.num_rows());
        return Err(ArrowError::InvalidArgumentError(text));
    }
    let is_selected = |row: &usize| mask.is_valid(*row) && mask.value(*row);
    let positions = UInt64Array::from_iter_values((0..mask.len()).filter(is_selected).map(|row| row as u64));
    let columns = batch.columns().iter().map(|column| take_values(column, &positions)).collect::<Result<_, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(positions.len()));
    RecordBatch::try_new_with_options(batch.schema(), columns, &options)
}

/// Whether an array of the type has fixed-size values of no bytes, at any depth outside of dictionaries.
pub fn has_zero_width(data_type: &DataType) -> bool {
    match data_type {
        DataType::FixedSizeBinary(0) | DataType::FixedSizeList(_, 0) => true,
        DataType::Dictionary(_, _) => false,
        other => child_fields(other).into_iter().any(|child| has_zero_width(child.data_type())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::UInt32Array;
    use arrow::datatypes::{Field, Schema};

    use super::*;
    use crate::ipc::test_data;

    #[test]
    fn values_of_every_type_are_taken() {
        let mut rng = test_data::rng(21);
        for data_type in test_data::types() {
            let values = test_data::array(&mut rng, &data_type, 40);
            let positions = [3, 4, 5, 0, 39, 7, 7];
            let taken = take_values(&values, &UInt32Array::from(positions.to_vec())).unwrap();
            let expected: Vec<ArrayRef> = positions.iter().map(|at| values.slice(*at as usize, 1)).collect();
            let found: Vec<ArrayRef> = (0..taken.len()).map(|at| taken.slice(at, 1)).collect();
            assert_eq!(found, expected, "{data_type}");
            assert_eq!(take_values(&values, &UInt32Array::from(Vec::<u32>::new())).unwrap().len(), 0, "{data_type}");
        }
    }

    #[test]
    fn rows_of_every_type_are_filtered() {
        let mut rng = test_data::rng(22);
        let mask = BooleanArray::from_iter((0..40).map(|row| (row % 7 != 6).then_some(row % 3 == 1)));
        let expected: Vec<usize> = (0..40).filter(|row| row % 7 != 6 && row % 3 == 1).collect();
        for data_type in test_data::types() {
            let values = test_data::array(&mut rng, &data_type, 40);
            let schema = Schema::new(vec![Field::new("x", data_type.clone(), true)]);
            let batch = RecordBatch::try_new(schema.into(), vec![values.clone()]).unwrap();
            let filtered = filter_rows(&batch, &mask).unwrap();
            assert_eq!(filtered.num_rows(), expected.len(), "{data_type}");
            for (found, row) in expected.iter().enumerate() {
                assert_eq!(&filtered.column(0).slice(found, 1), &values.slice(*row, 1), "{data_type}");
            }
            let none = BooleanArray::from(vec![false; 40]);
            assert_eq!(filter_rows(&batch, &none).unwrap().column(0).len(), 0, "{data_type}");
        }
    }
}
