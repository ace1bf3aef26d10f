//! How much rows grow when arrow copies them one by one: values that they share are then repeated.

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray, GenericListViewArray, OffsetSizeTrait, RecordBatch, make_array};
use arrow::datatypes::{DataType, UnionMode};

use super::layout::child_fields;
use super::row_bytes::{RowBytes, unshared_entries};
use super::size::array_bytes;

/// At least the bytes that are added to a batch's column when its rows are picked or joined with others, with the column's
/// number; the largest of all columns. Views, list views and runs at the top level stay shared. Batches must be compact
/// (see [`super::shrink`]).
pub fn repeated_bytes(batch: &RecordBatch) -> (usize, usize) {
    let columns = batch.columns().iter().enumerate().filter(|(_, column)| may_repeat(column.data_type(), false));
    columns.map(|(at, column)| (at, repeated(column, false))).max_by_key(|(_, bytes)| *bytes).unwrap_or((0, 0))
}

/// Whether copies of such rows repeat shared values. `in_list`: rows of a list are copied one list at a time.
fn may_repeat(data_type: &DataType, in_list: bool) -> bool {
    use DataType::*;
    match data_type {
        Dictionary(_, _) => false,
        Union(_, UnionMode::Dense) => true,
        RunEndEncoded(_, _) | ListView(_) | LargeListView(_) if in_list => true,
        List(field) | LargeList(field) | FixedSizeList(field, _) | Map(field, _) => may_repeat(field.data_type(), true),
        other => child_fields(other).into_iter().any(|child| may_repeat(child.data_type(), in_list)),
    }
}

fn repeated(array: &ArrayRef, in_list: bool) -> usize {
    use DataType::*;
    if !may_repeat(array.data_type(), in_list) {
        return 0;
    }
    match array.data_type() {
        Union(fields, mode) => {
            let own = if *mode == UnionMode::Dense { union_entries(array) } else { 0 };
            fields.iter().fold(own, |sum, (id, _)| sum.saturating_add(repeated(array.as_union().child(id), in_list)))
        }
        ListView(_) if in_list => overlaps::<i32>(array.as_list_view()),
        LargeListView(_) if in_list => overlaps::<i64>(array.as_list_view()),
        RunEndEncoded(_, _) if in_list => {
            // A run that covers several lists is repeated for each, at most once for each of its rows.
            let values = make_array(array.to_data().child_data()[1].clone());
            let largest = (0..values.len()).map(|at| array_bytes(&values.slice(at, 1))).max().unwrap_or(0);
            largest.saturating_mul(array.len().saturating_sub(values.len()))
        }
        _ => {
            let is_list = matches!(array.data_type(), List(_) | LargeList(_) | FixedSizeList(_, _) | Map(_, _));
            let data = array.to_data();
            let children = data.child_data().iter().map(|child| make_array(child.clone()));
            children.fold(0, |sum, child| sum.saturating_add(repeated(&child, in_list || is_list)))
        }
    }
}

/// Bytes of the entries of a dense union that several rows refer to, for each row after the first.
fn union_entries(array: &ArrayRef) -> usize {
    let union = array.as_union();
    let entries: usize = union.fields().iter().map(|(id, _)| union.child(id).len()).sum();
    if entries >= union.len() {
        return 0;
    }
    let mut rows_of: HashMap<(i8, usize), usize> = HashMap::new();
    for (row, id) in union.type_ids().iter().enumerate() {
        *rows_of.entry((*id, union.value_offset(row))).or_default() += 1;
    }
    let shared = rows_of.into_iter().filter(|(_, rows)| *rows > 1);
    let bytes = shared.map(|((id, at), rows)| array_bytes(&union.child(id).slice(at, 1)).saturating_mul(rows - 1));
    bytes.fold(0, usize::saturating_add)
}

/// Bytes of the entries of all lists, without those that are there.
fn overlaps<O: OffsetSizeTrait>(lists: &GenericListViewArray<O>) -> usize {
    let own = RowBytes::of(lists.values()).range(0, lists.values().len());
    let (_, all) = unshared_entries(lists);
    usize::try_from(all.saturating_sub(own)).unwrap_or(usize::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ListArray, ListViewArray, StringArray};
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::Field;

    use super::*;

    /// One list of `lists`, each of one text.
    fn nested(texts: Vec<String>, lists: Vec<i32>) -> RecordBatch {
        let item = |data_type: &DataType| Arc::new(Field::new("item", data_type.clone(), true));
        let (texts, sizes) = (Arc::new(StringArray::from(texts)), vec![1i32; lists.len()]);
        let views = ListViewArray::new(item(texts.data_type()), lists.into(), sizes.into(), texts, None);
        let offsets = OffsetBuffer::from_lengths([views.len()]);
        let list = ListArray::new(item(views.data_type()), offsets, Arc::new(views), None);
        RecordBatch::try_from_iter([("l", Arc::new(list) as ArrayRef)]).unwrap()
    }

    #[test]
    fn list_views_that_share_one_large_text_grow_by_it() {
        let texts = || [vec!["x".repeat(1 << 20)], vec![String::new(); 999]].concat();
        assert_eq!(repeated_bytes(&nested(texts(), (0..1000).collect())), (0, 0));
        // As many entries as before, all of them the large one.
        assert!(repeated_bytes(&nested(texts(), vec![0; 1000])).1 > 900 << 20);
    }
}
