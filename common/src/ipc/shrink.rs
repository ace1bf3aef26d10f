//! Shrinks sliced batches to the memory that their rows need.
//!
//! A sliced view array keeps all its data buffers, a sliced list view or dense union its whole children. Arrow's IPC
//! writer would write them all, and writes unions and run ends below a sliced list wrongly. Here the rows of such types
//! are copied; other types are left alone, because the writer slices those itself.
//!
//! Rows that share values (views of the same bytes, list views that overlap, dense unions with equal offsets) continue to
//! share them: see `shrink_shared`.
//!
//! A batch is compacted once, where it enters (a put's rows by [`detach`], a client's by [`shrink_to_fit`]). Afterwards only
//! slices and picked rows are compacted, where they are made; joining compact batches gives a compact batch.

use std::sync::Arc;

use arrow::array::MutableArrayData;
use arrow::array::{
    Array, ArrayData, ArrayRef, AsArray, FixedSizeListArray, GenericListArray, MapArray, OffsetSizeTrait,
    PrimitiveArray, RecordBatch, RecordBatchOptions, RunArray, StructArray, UnionArray, make_array,
};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowNativeType, DataType, Int16Type, Int32Type, Int64Type, RunEndIndexType, UnionFields, UnionMode,
};

use super::layout::child_fields;
use super::shrink_shared::{ArrowResult, shrink_dense_union, shrink_list_view, shrink_views};
use super::size::data_bytes;

/// [`detach`] copies rows if a buffer is larger than this many times their size ...
const MAX_OVERHEAD_FACTOR: usize = 4;
/// ... plus this many bytes.
const MAX_OVERHEAD_BYTES: usize = 64 << 10;

/// The same rows, in columns that own no more than their rows. Cheap when there is nothing to do.
pub fn shrink_to_fit(batch: &RecordBatch) -> RecordBatch {
    if !batch.schema_ref().fields().iter().any(|field| retains_unused(field.data_type())) {
        return batch.clone();
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let columns: ArrowResult<Vec<_>> = batch.columns().iter().map(shrink_array).collect();
    columns
        .and_then(|columns| RecordBatch::try_new_with_options(batch.schema(), columns, &options))
        .expect("copying rows of a valid batch gives a valid batch of the same schema")
}

/// The same rows, copied if their buffers are far larger than the rows, because retained rows retain their whole
/// buffers. Rows that fill their buffers are never copied.
pub fn detach(batch: &RecordBatch) -> RecordBatch {
    let batch = shrink_to_fit(batch);
    let largest = batch.columns().iter().map(|column| largest_buffer(&column.to_data())).max();
    if largest.unwrap_or(0) <= data_bytes(&batch) * MAX_OVERHEAD_FACTOR + MAX_OVERHEAD_BYTES {
        return batch;
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let columns: ArrowResult<Vec<_>> = batch.columns().iter().map(|column| copy_array(&column.to_data())).collect();
    let copy = columns.and_then(|columns| RecordBatch::try_new_with_options(batch.schema(), columns, &options));
    copy.expect("copies of a valid batch's columns make one of the same schema")
}

/// Bytes of the largest buffer; a dictionary's values are shared and do not count.
fn largest_buffer(data: &ArrayData) -> usize {
    let own = data.buffers().iter().chain(data.nulls().map(|nulls| nulls.buffer())).map(Buffer::capacity);
    let children = data.child_data().iter().filter(|_| !matches!(data.data_type(), DataType::Dictionary(_, _)));
    own.chain(children.map(largest_buffer)).max().unwrap_or(0)
}

/// A copy of the rows; views continue to share their buffers, and keys their dictionary.
pub(super) fn copy_array(data: &ArrayData) -> ArrowResult<ArrayRef> {
    let mut copy = MutableArrayData::new(vec![data], false, data.len());
    copy.try_extend(0, 0, data.len())?;
    Ok(make_array(copy.freeze()))
}

/// Whether a slice of the type retains memory that its rows do not use.
fn retains_unused(data_type: &DataType) -> bool {
    use DataType::*;
    match data_type {
        Utf8View | BinaryView | ListView(_) | LargeListView(_) | Union(_, _) | RunEndEncoded(_, _) => true,
        // A dictionary's values are sent once and complete.
        Dictionary(_, _) => false,
        other => child_fields(other).into_iter().any(|child| retains_unused(child.data_type())),
    }
}

fn shrink_array(array: &ArrayRef) -> ArrowResult<ArrayRef> {
    use DataType::*;
    if !retains_unused(array.data_type()) {
        return Ok(Arc::clone(array));
    }
    Ok(match array.data_type() {
        Utf8View => shrink_views(array.as_string_view())?,
        BinaryView => shrink_views(array.as_binary_view())?,
        Struct(_) => shrink_struct(array.as_struct())?,
        List(_) => shrink_list::<i32>(array.as_list())?,
        LargeList(_) => shrink_list::<i64>(array.as_list())?,
        Map(_, _) => shrink_map(array.as_map())?,
        FixedSizeList(_, _) => shrink_fixed_size_list(array.as_fixed_size_list())?,
        ListView(_) => shrink_list_view::<i32>(array.as_list_view(), shrink_array)?,
        LargeListView(_) => shrink_list_view::<i64>(array.as_list_view(), shrink_array)?,
        Union(fields, UnionMode::Sparse) => shrink_sparse_union(fields, array.as_union())?,
        Union(fields, UnionMode::Dense) => shrink_dense_union(fields, array.as_union(), shrink_array)?,
        RunEndEncoded(ends, _) => match ends.data_type() {
            Int16 => shrink_runs::<Int16Type>(array)?,
            Int32 => shrink_runs::<Int32Type>(array)?,
            _ => shrink_runs::<Int64Type>(array)?,
        },
        _ => Arc::clone(array),
    })
}

fn shrink_struct(rows: &StructArray) -> ArrowResult<ArrayRef> {
    let columns = rows.columns().iter().map(shrink_array).collect::<ArrowResult<Vec<_>>>()?;
    Ok(Arc::new(StructArray::try_new(rows.fields().clone(), columns, rows.nulls().cloned())?))
}

/// Offsets that begin at 0, and the values that they refer to.
fn rebase<O: OffsetSizeTrait>(offsets: &OffsetBuffer<O>, values: &dyn Array) -> (OffsetBuffer<O>, ArrayRef) {
    let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
    let values = values.slice(first.as_usize(), (last - first).as_usize());
    if first == O::zero() {
        return (offsets.clone(), values);
    }
    (OffsetBuffer::new(offsets.iter().map(|&at| at - first).collect()), values)
}

fn shrink_list<O: OffsetSizeTrait>(rows: &GenericListArray<O>) -> ArrowResult<ArrayRef> {
    let (field, offsets, values, nulls) = rows.clone().into_parts();
    let (offsets, values) = rebase(&offsets, &values);
    Ok(Arc::new(GenericListArray::try_new(field, offsets, shrink_array(&values)?, nulls)?))
}

fn shrink_map(rows: &MapArray) -> ArrowResult<ArrayRef> {
    let (field, offsets, entries, nulls, ordered) = rows.clone().into_parts();
    let (offsets, entries) = rebase(&offsets, &entries);
    let entries = shrink_array(&entries)?.as_struct().clone();
    Ok(Arc::new(MapArray::try_new(field, offsets, entries, nulls, ordered)?))
}

fn shrink_fixed_size_list(rows: &FixedSizeListArray) -> ArrowResult<ArrayRef> {
    let (field, size, values, nulls) = rows.clone().into_parts();
    let values = shrink_array(&values.slice(0, rows.len() * size as usize))?;
    Ok(Arc::new(FixedSizeListArray::try_new_with_length(field, size, values, nulls, rows.len())?))
}

fn shrink_sparse_union(fields: &UnionFields, rows: &UnionArray) -> ArrowResult<ArrayRef> {
    let columns = fields.iter().map(|(id, _)| shrink_array(rows.child(id))).collect::<ArrowResult<Vec<_>>>()?;
    Ok(Arc::new(UnionArray::try_new(fields.clone(), rows.type_ids().clone(), None, columns)?))
}

fn shrink_runs<R: RunEndIndexType>(rows: &ArrayRef) -> ArrowResult<ArrayRef> {
    let runs: &RunArray<R> = rows.as_run();
    let ends = runs.run_ends();
    let (first, count) = match runs.len() {
        0 => (0, 0),
        _ => (ends.get_start_physical_index(), ends.get_end_physical_index() - ends.get_start_physical_index() + 1),
    };
    // Ends count from the slice's first row, and the last one is its length.
    let moved: ScalarBuffer<R::Native> = ends.values()[first..first + count]
        .iter()
        .map(|end| R::Native::usize_as((end.as_usize() - ends.offset()).min(runs.len())))
        .collect();
    let moved = PrimitiveArray::<R>::try_new(moved, None)?;
    let values = shrink_array(&runs.values().slice(first, count))?;
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

    fn largest_buffer_of(batch: &RecordBatch) -> usize {
        batch.columns().iter().map(|column| largest_buffer(&column.to_data())).max().unwrap()
    }

    /// One value in a body of 1 MiB.
    fn in_a_large_body() -> Int64Array {
        let body = Buffer::from(Bytes::from(vec![7; 1 << 20]));
        Int64Array::new(ScalarBuffer::new(body, 100, 1), None)
    }

    #[test]
    fn detached_rows_do_not_keep_a_large_body() {
        let list = ListArray::try_new(
            Arc::new(arrow::datatypes::Field::new_list_field(DataType::Int64, true)),
            OffsetBuffer::from_lengths([1]),
            Arc::new(in_a_large_body()),
            None,
        );
        let words: ArrayRef = Arc::new(StringArray::from(vec!["word"]));
        for column in [Arc::new(in_a_large_body()) as ArrayRef, Arc::new(list.unwrap())] {
            let batch = RecordBatch::try_from_iter([("n", column), ("w", words.clone())]).unwrap();
            assert!(largest_buffer_of(&batch) >= 1 << 20);
            let small = detach(&batch);
            assert!(largest_buffer_of(&small) < MAX_OVERHEAD_BYTES, "{}", largest_buffer_of(&small));
            assert_eq!(small, batch);
        }
    }

    #[test]
    fn rows_that_fill_their_buffer_are_not_copied() {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100_000));
        let batch = RecordBatch::try_from_iter([("n", column.clone())]).unwrap();
        let at = |array: &ArrayRef| array.to_data().buffers()[0].as_ptr();
        assert_eq!(at(detach(&batch).column(0)), at(&column));
        assert_eq!(at(detach(&batch.slice(0, 50_000)).column(0)), at(&column));
    }
}
