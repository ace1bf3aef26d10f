//! Nulls in nested fields that cannot be null. When arrow decodes a batch it looks for them in bitmaps, and not at all in list views;
//! when it builds an array it counts those of dictionaries, runs and unions, too. What only the first accepts could not be copied.

use arrow::array::{Array, ArrayData, RecordBatch, make_array};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

use super::layout::child_fields;

/// Checks a batch that was decoded. Costs nothing for types where arrow's two ways agree.
///
/// # Errors
/// Names the field.
pub(super) fn check_item_nulls(batch: &RecordBatch) -> Result<(), ArrowError> {
    let columns = batch.columns().iter().filter(|column| is_unchecked(column.data_type()));
    columns.into_iter().try_for_each(|column| check(&column.to_data()))
}

/// Whether there is a field in the type whose nulls arrow does not see when it decodes.
fn is_unchecked(data_type: &DataType) -> bool {
    use DataType::*;
    if matches!(data_type, Dictionary(_, _)) {
        // Its values are decoded as a batch of their own.
        return false;
    }
    let is_list_view = matches!(data_type, ListView(_) | LargeListView(_));
    let hides_nulls = |child: &DataType| matches!(child, Dictionary(_, _) | RunEndEncoded(_, _) | Union(_, _) | Null);
    child_fields(data_type).into_iter().any(|child| {
        (!child.is_nullable() && (is_list_view || hides_nulls(child.data_type()))) || is_unchecked(child.data_type())
    })
}

fn check(data: &ArrayData) -> Result<(), ArrowError> {
    if !is_unchecked(data.data_type()) {
        return Ok(());
    }
    for (field, child) in child_fields(data.data_type()).into_iter().zip(data.child_data()) {
        if !field.is_nullable() && has_nulls(data, child) {
            let text = format!("the nested field {:?} cannot be null, and has nulls", field.name());
            return Err(ArrowError::InvalidArgumentError(text));
        }
        check(child)?;
    }
    Ok(())
}

/// Whether a child has nulls where its parent has none.
fn has_nulls(parent: &ArrayData, child: &ArrayData) -> bool {
    use DataType::*;
    let child = make_array(child.clone());
    let above = match parent.data_type() {
        List(_) | LargeList(_) | ListView(_) | LargeListView(_) | Map(_, _) => return child.is_nullable(),
        FixedSizeList(_, length) => parent.nulls().map(|nulls| nulls.expand(*length as usize)),
        Struct(_) => parent.nulls().cloned(),
        _ => return false,
    };
    match (child.logical_nulls(), above) {
        (None, _) => false,
        (Some(nulls), None) => nulls.null_count() > 0,
        (Some(nulls), Some(above)) => !above.contains(&nulls),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, DictionaryArray, Int32Array, ListArray, ListViewArray, RunArray, StructArray};
    use arrow::buffer::{NullBuffer, OffsetBuffer};
    use arrow::datatypes::{Field, Int32Type};

    use super::*;

    /// The same rows with this type, as arrow decodes them.
    fn decoded_as(array: &dyn Array, data_type: DataType) -> ArrayData {
        array.to_data().into_builder().data_type(data_type).build().unwrap()
    }

    fn item(values: &ArrayRef, nullable: bool) -> Arc<Field> {
        Arc::new(Field::new("item", values.data_type().clone(), nullable))
    }

    #[test]
    fn nulls_that_arrow_does_not_see_are_found() {
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None]));
        let ends = Int32Array::from(vec![1, 2]);
        let runs: ArrayRef = Arc::new(RunArray::<Int32Type>::try_new(&ends, &numbers).unwrap());
        let keys = Int32Array::from(vec![0, 1]);
        let words: ArrayRef = Arc::new(DictionaryArray::<Int32Type>::try_new(keys, numbers.clone()).unwrap());
        let views = ListViewArray::new(item(&numbers, true), vec![0].into(), vec![2].into(), numbers.clone(), None);
        for (nullable, found) in [(true, false), (false, true)] {
            let data = decoded_as(&views, DataType::ListView(item(&numbers, nullable)));
            assert_eq!(check(&data).is_err(), found);
            for values in [&runs, &words] {
                let lists = ListArray::new(item(values, true), OffsetBuffer::from_lengths([2]), values.clone(), None);
                let data = decoded_as(&lists, DataType::List(item(values, nullable)));
                assert_eq!(check(&data).is_err(), found, "{values:?}");
            }
        }
    }

    #[test]
    fn nulls_below_a_null_are_no_fault() {
        let keys = Int32Array::from(vec![0, 1]);
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None]));
        let words: ArrayRef = Arc::new(DictionaryArray::<Int32Type>::try_new(keys, numbers).unwrap());
        for (nulls, found) in [(None, true), (Some(NullBuffer::from(vec![true, false])), false)] {
            let rows = StructArray::new(vec![item(&words, true)].into(), vec![words.clone()], nulls);
            let data = decoded_as(&rows, DataType::Struct(vec![item(&words, false)].into()));
            assert_eq!(check(&data).is_err(), found);
        }
    }
}
