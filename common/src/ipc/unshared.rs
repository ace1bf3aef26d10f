//! How much rows grow when arrow copies them one by one: values that they share are then repeated.

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray, GenericListViewArray, OffsetSizeTrait, RecordBatch, make_array};
use arrow::datatypes::{DataType, UnionMode};

use super::layout::child_fields;
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

fn overlaps<O: OffsetSizeTrait>(lists: &GenericListViewArray<O>) -> usize {
    let all: usize = lists.sizes().iter().map(|size| size.as_usize()).sum();
    if all <= lists.values().len() {
        return 0;
    }
    let bytes = (0..lists.len()).map(|row| array_bytes(&lists.value(row)));
    bytes.fold(0, usize::saturating_add)
}
