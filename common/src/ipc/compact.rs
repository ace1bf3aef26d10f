//! Slices that own no more than they show.
//!
//! A sliced view array keeps all its data buffers, a sliced list-view or dense union its whole children, and arrow's
//! IPC writer would write them all (and gets unions and run-ends below a sliced list wrong). Here they are copied
//! down to what the rows need; other types are left as they are, for the writer cuts those itself.

use std::sync::Arc;

use arrow::array::MutableArrayData;
use arrow::array::{
    Array, ArrayData, ArrayRef, AsArray, FixedSizeListArray, GenericListArray, GenericListViewArray, Int32Array,
    MapArray, OffsetSizeTrait, PrimitiveArray, RecordBatch, RecordBatchOptions, RunArray, StructArray, UInt64Array,
    UnionArray, make_array,
};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::take;
use arrow::datatypes::{
    ArrowNativeType, DataType, Int16Type, Int32Type, Int64Type, RunEndIndexType, UnionFields, UnionMode,
};
use arrow::error::ArrowError;

use super::split::data_bytes;
use super::types::children;

/// Memory may be so many times what rows show, and ...
const ROOMY: usize = 4;
/// ... this much more, bytes, before they are copied out of it.
const SMALL: usize = 64 << 10;

type Arrow<T> = Result<T, ArrowError>;

/// The same rows, in columns that own just what they show. Cheap when there is nothing to do.
pub fn compact(batch: &RecordBatch) -> RecordBatch {
    if !batch.schema_ref().fields().iter().any(|field| drags(field.data_type())) {
        return batch.clone();
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let columns: Arrow<Vec<_>> = batch.columns().iter().map(array).collect();
    columns
        .and_then(|columns| RecordBatch::try_new_with_options(batch.schema(), columns, &options))
        .expect("copying rows of a valid batch gives a valid batch of the same schema")
}

/// The same rows, copied if what lies around them in memory is far more than they are: whoever keeps them for a while keeps
/// that too. A writer that sends no more than it must is never copied.
pub fn detach(batch: &RecordBatch) -> RecordBatch {
    let batch = compact(batch);
    let pinned = batch.columns().iter().map(|column| largest_owner(&column.to_data())).max();
    if pinned.unwrap_or(0) <= data_bytes(&batch) * ROOMY + SMALL {
        return batch;
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let columns: Arrow<Vec<_>> = batch.columns().iter().map(|column| copied(&column.to_data())).collect();
    let copy = columns.and_then(|columns| RecordBatch::try_new_with_options(batch.schema(), columns, &options));
    compact(&copy.expect("copies of a valid batch's columns make one of the same schema"))
}

/// The most memory that one buffer keeps; a dictionary's values are shared and do not count.
fn largest_owner(data: &ArrayData) -> usize {
    let own = data.buffers().iter().chain(data.nulls().map(|nulls| nulls.buffer())).map(Buffer::capacity);
    let children = data.child_data().iter().filter(|_| !matches!(data.data_type(), DataType::Dictionary(_, _)));
    own.chain(children.map(largest_owner)).max().unwrap_or(0)
}

fn copied(data: &ArrayData) -> Arrow<ArrayRef> {
    let mut copy = MutableArrayData::new(vec![data], false, data.len());
    copy.try_extend(0, 0, data.len())?;
    Ok(make_array(copy.freeze()))
}

/// Whether slices of the type drag along what they do not show.
pub(super) fn drags(data_type: &DataType) -> bool {
    use DataType::*;
    match data_type {
        Utf8View | BinaryView | ListView(_) | LargeListView(_) | Union(_, _) | RunEndEncoded(_, _) => true,
        // A dictionary's values are sent once, whole.
        Dictionary(_, _) => false,
        other => children(other).into_iter().any(|child| drags(child.data_type())),
    }
}

fn array(array: &ArrayRef) -> Arrow<ArrayRef> {
    use DataType::*;
    if !drags(array.data_type()) {
        return Ok(Arc::clone(array));
    }
    Ok(match array.data_type() {
        Utf8View => {
            let views = array.as_string_view();
            let owned = views.data_buffers().iter().map(|b| b.len()).sum::<usize>();
            if owned <= views.total_buffer_bytes_used() { Arc::clone(array) } else { Arc::new(views.gc()) }
        }
        BinaryView => {
            let views = array.as_binary_view();
            let owned = views.data_buffers().iter().map(|b| b.len()).sum::<usize>();
            if owned <= views.total_buffer_bytes_used() { Arc::clone(array) } else { Arc::new(views.gc()) }
        }
        Struct(_) => structs(array.as_struct())?,
        List(_) => list::<i32>(array.as_list())?,
        LargeList(_) => list::<i64>(array.as_list())?,
        Map(_, _) => map(array.as_map())?,
        FixedSizeList(_, _) => fixed_size_list(array.as_fixed_size_list())?,
        ListView(_) => list_view::<i32>(array.as_list_view())?,
        LargeListView(_) => list_view::<i64>(array.as_list_view())?,
        Union(fields, UnionMode::Sparse) => sparse(fields, array.as_union())?,
        Union(fields, UnionMode::Dense) => dense(fields, array.as_union())?,
        RunEndEncoded(ends, _) => match ends.data_type() {
            Int16 => run::<Int16Type>(array)?,
            Int32 => run::<Int32Type>(array)?,
            _ => run::<Int64Type>(array)?,
        },
        _ => Arc::clone(array),
    })
}

fn structs(rows: &StructArray) -> Arrow<ArrayRef> {
    let columns = rows.columns().iter().map(array).collect::<Arrow<Vec<_>>>()?;
    Ok(Arc::new(StructArray::try_new(rows.fields().clone(), columns, rows.nulls().cloned())?))
}

/// Offsets that begin at 0, and the values that they show.
fn rebase<O: OffsetSizeTrait>(offsets: &OffsetBuffer<O>, values: &dyn Array) -> (OffsetBuffer<O>, ArrayRef) {
    let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
    let values = values.slice(first.as_usize(), (last - first).as_usize());
    if first == O::zero() {
        return (offsets.clone(), values);
    }
    (OffsetBuffer::new(offsets.iter().map(|&at| at - first).collect()), values)
}

fn list<O: OffsetSizeTrait>(rows: &GenericListArray<O>) -> Arrow<ArrayRef> {
    let (field, offsets, values, nulls) = rows.clone().into_parts();
    let (offsets, values) = rebase(&offsets, &values);
    Ok(Arc::new(GenericListArray::try_new(field, offsets, array(&values)?, nulls)?))
}

fn map(rows: &MapArray) -> Arrow<ArrayRef> {
    let (field, offsets, entries, nulls, ordered) = rows.clone().into_parts();
    let (offsets, entries) = rebase(&offsets, &entries);
    let entries = array(&entries)?.as_struct().clone();
    Ok(Arc::new(MapArray::try_new(field, offsets, entries, nulls, ordered)?))
}

fn fixed_size_list(rows: &FixedSizeListArray) -> Arrow<ArrayRef> {
    let (field, size, values, nulls) = rows.clone().into_parts();
    let values = array(&values.slice(0, rows.len() * size as usize))?;
    Ok(Arc::new(FixedSizeListArray::try_new_with_length(field, size, values, nulls, rows.len())?))
}

fn list_view<O: OffsetSizeTrait>(rows: &GenericListViewArray<O>) -> Arrow<ArrayRef> {
    let (field, offsets, sizes, values, nulls) = rows.clone().into_parts();
    // A null's or an empty row's offset may be anything.
    let shown = |row: usize| nulls.as_ref().is_none_or(|n| n.is_valid(row)) && sizes[row] > O::zero();
    let ranges: Vec<(usize, usize)> = (0..rows.len())
        .map(|row| if shown(row) { (offsets[row].as_usize(), sizes[row].as_usize()) } else { (0, 0) })
        .collect();
    let filled = || ranges.iter().filter(|(_, size)| *size > 0);
    let first = filled().map(|(at, _)| *at).min().unwrap_or(0);
    let last = filled().map(|(at, size)| at + size).max().unwrap_or(0);
    let gathered: usize = ranges.iter().map(|(_, size)| size).sum();
    let sizes: ScalarBuffer<O> = ranges.iter().map(|(_, size)| O::usize_as(*size)).collect();
    let (offsets, values) = if last - first <= gathered {
        // Rows that share values go on sharing them.
        let moved = ranges.iter().map(|(at, _)| O::usize_as(at.saturating_sub(first)));
        (moved.collect(), values.slice(first, last - first))
    } else {
        gather(&ranges, gathered, &values)?
    };
    Ok(Arc::new(GenericListViewArray::try_new(field, offsets, sizes, array(&values)?, nulls)?))
}

fn gather<O: OffsetSizeTrait>(
    ranges: &[(usize, usize)],
    total: usize,
    values: &ArrayRef,
) -> Arrow<(ScalarBuffer<O>, ArrayRef)> {
    let mut offsets = Vec::with_capacity(ranges.len());
    let mut wanted = Vec::with_capacity(total);
    for &(at, size) in ranges {
        offsets.push(O::usize_as(wanted.len()));
        wanted.extend((at..at + size).map(|at| at as u64));
    }
    Ok((offsets.into(), take(values, &UInt64Array::from(wanted), None)?))
}

fn sparse(fields: &UnionFields, rows: &UnionArray) -> Arrow<ArrayRef> {
    let columns = fields.iter().map(|(id, _)| array(rows.child(id))).collect::<Arrow<Vec<_>>>()?;
    Ok(Arc::new(UnionArray::try_new(fields.clone(), rows.type_ids().clone(), None, columns)?))
}

fn dense(fields: &UnionFields, rows: &UnionArray) -> Arrow<ArrayRef> {
    let mut wanted: Vec<Vec<i32>> = vec![Vec::new(); 128];
    let mut offsets = Vec::with_capacity(rows.len());
    for (row, &id) in rows.type_ids().iter().enumerate() {
        let of_child = &mut wanted[id as usize];
        offsets.push(of_child.len() as i32);
        of_child.push(rows.value_offset(row) as i32);
    }
    let child = |id: i8| array(&pick(rows.child(id), &wanted[id as usize])?);
    let columns = fields.iter().map(|(id, _)| child(id)).collect::<Arrow<Vec<_>>>()?;
    Ok(Arc::new(UnionArray::try_new(fields.clone(), rows.type_ids().clone(), Some(offsets.into()), columns)?))
}

/// These entries of an array: a slice if they are a run.
fn pick(values: &ArrayRef, wanted: &[i32]) -> Arrow<ArrayRef> {
    let first = wanted.first().copied().unwrap_or(0);
    if wanted.iter().zip(first..).all(|(&at, run)| at == run) {
        return Ok(values.slice(first as usize, wanted.len()));
    }
    take(values, &Int32Array::from(wanted.to_vec()), None)
}

fn run<R: RunEndIndexType>(rows: &ArrayRef) -> Arrow<ArrayRef> {
    let runs: &RunArray<R> = rows.as_run();
    let ends = runs.run_ends();
    let (first, count) = match runs.len() {
        0 => (0, 0),
        _ => (ends.get_start_physical_index(), ends.get_end_physical_index() - ends.get_start_physical_index() + 1),
    };
    // Ends count from the slice's first row, and the last is its last row.
    let moved: ScalarBuffer<R::Native> = ends.values()[first..first + count]
        .iter()
        .map(|end| R::Native::usize_as((end.as_usize() - ends.offset()).min(runs.len())))
        .collect();
    let moved = PrimitiveArray::<R>::try_new(moved, None)?;
    let values = array(&runs.values().slice(first, count))?;
    let data = ArrayData::builder(rows.data_type().clone())
        .len(runs.len())
        .add_child_data(moved.into_data())
        .add_child_data(values.into_data())
        .build()?;
    Ok(make_array(data))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrow::array::{Int64Array, ListArray, StringArray};
    use bytes::Bytes;

    use super::*;

    fn held(batch: &RecordBatch) -> usize {
        batch.columns().iter().map(|column| largest_owner(&column.to_data())).max().unwrap()
    }

    /// Eight bytes of a body of many.
    fn of_a_large_body() -> Int64Array {
        let body = Buffer::from(Bytes::from(vec![7; 1 << 20]));
        Int64Array::new(ScalarBuffer::new(body, 100, 1), None)
    }

    #[test]
    fn few_rows_do_not_hold_a_large_body() {
        let list = ListArray::try_new(
            Arc::new(arrow::datatypes::Field::new_list_field(DataType::Int64, true)),
            OffsetBuffer::from_lengths([1]),
            Arc::new(of_a_large_body()),
            None,
        );
        let words: ArrayRef = Arc::new(StringArray::from(vec!["word"]));
        for column in [Arc::new(of_a_large_body()) as ArrayRef, Arc::new(list.unwrap())] {
            let batch = RecordBatch::try_from_iter([("n", column), ("w", words.clone())]).unwrap();
            assert!(held(&batch) >= 1 << 20);
            let small = detach(&batch);
            assert!(held(&small) < SMALL, "{}", held(&small));
            assert_eq!(small, batch);
        }
    }

    #[test]
    fn what_fills_its_memory_is_not_copied() {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100_000));
        let batch = RecordBatch::try_from_iter([("n", column.clone())]).unwrap();
        let at = |array: &ArrayRef| array.to_data().buffers()[0].as_ptr();
        assert_eq!(at(detach(&batch).column(0)), at(&column));
        assert_eq!(at(detach(&batch.slice(0, 50_000)).column(0)), at(&column));
    }
}
