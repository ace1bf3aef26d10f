//! Picks values of an array by position, for every type.

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, MutableArrayData, PrimitiveArray, make_array};
use arrow::compute::take;
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

/// Whether an array of the type has fixed-size values of no bytes, at any depth outside of dictionaries.
fn has_zero_width(data_type: &DataType) -> bool {
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
}
