//! [`super::shrink`] for types whose rows may share values: views, list views and dense unions. A value that several rows
//! share is kept once.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ByteView, GenericByteViewArray, GenericListViewArray, Int32Array, OffsetSizeTrait, UInt64Array,
    UnionArray,
};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::datatypes::{ByteViewType, UnionFields};
use arrow::error::ArrowError;

use super::take::take_values;
use super::used_ranges::UsedRanges;

pub(super) type ArrowResult<T> = Result<T, ArrowError>;
/// Shrinks the children.
type ShrinkChild = fn(&ArrayRef) -> ArrowResult<ArrayRef>;

/// Longer values of a view array are in a buffer.
const MAX_INLINE: u32 = 12;

pub(super) fn shrink_views<T: ByteViewType>(rows: &GenericByteViewArray<T>) -> ArrowResult<ArrayRef> {
    let owned = rows.data_buffers().iter().map(|buffer| buffer.len() as u64).sum::<u64>();
    let needed = rows.total_buffer_bytes_used() as u64;
    // Without garbage; if rows share values it is more.
    if owned == needed {
        return Ok(Arc::new(rows.clone()));
    }
    let in_buffer =
        |row: usize| Some(ByteView::from(rows.views()[row])).filter(|v| v.length > MAX_INLINE && rows.is_valid(row));
    let used = UsedRanges::of((0..rows.len()).filter_map(in_buffer).map(|v| (position(&v), v.length.into())));
    if used.total() == owned || used.total() > i32::MAX as u64 {
        return Ok(Arc::new(rows.clone()));
    }
    if used.total() == needed {
        return Ok(Arc::new(rows.gc()));
    }
    let mut bytes = Vec::with_capacity(used.total() as usize);
    for (start, end) in used.iter() {
        let buffer = &rows.data_buffers()[(start >> 32) as usize];
        bytes.extend_from_slice(&buffer[start as u32 as usize..][..(end - start) as usize]);
    }
    let moved = (0..rows.len()).map(|row| match in_buffer(row) {
        Some(view) => ByteView { buffer_index: 0, offset: used.moved(position(&view)) as u32, ..view }.as_u128(),
        None if rows.is_valid(row) => rows.views()[row],
        None => 0,
    });
    let buffers: Vec<Buffer> = vec![bytes.into()];
    Ok(Arc::new(GenericByteViewArray::<T>::try_new(moved.collect(), buffers, rows.nulls().cloned())?))
}

/// The position of a value in all buffers. Buffers never touch, because each has less than 4 GiB.
fn position(view: &ByteView) -> u64 {
    u64::from(view.buffer_index) << 32 | u64::from(view.offset)
}

pub(super) fn shrink_list_view<O: OffsetSizeTrait>(
    rows: &GenericListViewArray<O>,
    shrink_array: ShrinkChild,
) -> ArrowResult<ArrayRef> {
    let (field, offsets, sizes, values, nulls) = rows.clone().into_parts();
    // A null's or an empty row's offset may have any value.
    let has_values = |row: usize| nulls.as_ref().is_none_or(|n| n.is_valid(row)) && sizes[row] > O::zero();
    let range = |row: usize| match has_values(row) {
        true => (offsets[row].as_usize() as u64, sizes[row].as_usize() as u64),
        false => (0, 0),
    };
    let used = UsedRanges::of((0..rows.len()).map(range));
    let moved = |row: usize| if has_values(row) { used.moved(range(row).0) } else { 0 };
    let new_offsets: ScalarBuffer<O> = (0..rows.len()).map(|row| O::usize_as(moved(row) as usize)).collect();
    let new_sizes: ScalarBuffer<O> = (0..rows.len()).map(|row| O::usize_as(range(row).1 as usize)).collect();
    let values = shrink_array(&take_ranges(&values, &used)?)?;
    Ok(Arc::new(GenericListViewArray::try_new(field, new_offsets, new_sizes, values, nulls)?))
}

/// The values of the ranges: a slice if it is one range.
fn take_ranges(values: &ArrayRef, used: &UsedRanges) -> ArrowResult<ArrayRef> {
    let mut ranges = used.iter();
    let (start, end) = ranges.next().unwrap_or_default();
    if ranges.next().is_none() {
        return Ok(values.slice(start as usize, (end - start) as usize));
    }
    take_values(values, &UInt64Array::from_iter_values(used.iter().flat_map(|(start, end)| start..end)))
}

pub(super) fn shrink_dense_union(
    fields: &UnionFields,
    rows: &UnionArray,
    shrink_array: ShrinkChild,
) -> ArrowResult<ArrayRef> {
    let mut entries: Vec<Vec<i32>> = vec![Vec::new(); 128];
    for (row, &id) in rows.type_ids().iter().enumerate() {
        entries[id as usize].push(rows.value_offset(row) as i32);
    }
    let mut offsets: Vec<std::vec::IntoIter<i32>> = Vec::with_capacity(entries.len());
    let mut children = Vec::new();
    for entries in &mut entries {
        let kept = distinct(entries);
        offsets.push(std::mem::take(entries).into_iter());
        children.push(kept);
    }
    let columns = fields.iter().map(|(id, _)| shrink_array(&take_entries(rows.child(id), &children[id as usize])?));
    let columns = columns.collect::<ArrowResult<Vec<_>>>()?;
    let offsets = rows.type_ids().iter().map(|&id| offsets[id as usize].next().unwrap_or_default()).collect();
    Ok(Arc::new(UnionArray::try_new(fields.clone(), rows.type_ids().clone(), Some(offsets), columns)?))
}

/// The entries of a child that rows refer to, each once; replaces `entries` by their positions in the result. Entries are
/// in the order of the rows, unless rows share one.
fn distinct(entries: &mut [i32]) -> Vec<i32> {
    let mut kept = entries.to_vec();
    let ascending = kept.windows(2).all(|pair| pair[0] < pair[1]);
    let mut seen = HashSet::new();
    if ascending || kept.iter().all(|entry| seen.insert(*entry)) {
        entries.iter_mut().zip(0..).for_each(|(entry, position)| *entry = position);
        return kept;
    }
    kept.sort_unstable();
    kept.dedup();
    entries.iter_mut().for_each(|entry| *entry = kept.partition_point(|other| other < entry) as i32);
    kept
}

/// These entries of an array: a slice if they are consecutive.
fn take_entries(values: &ArrayRef, indices: &[i32]) -> ArrowResult<ArrayRef> {
    let first = indices.first().copied().unwrap_or(0);
    if indices.iter().zip(first..).all(|(&at, next)| at == next) {
        return Ok(values.slice(first as usize, indices.len()));
    }
    take_values(values, &Int32Array::from(indices.to_vec()))
}
