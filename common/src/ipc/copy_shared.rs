//! Rows whose memory is not their own, such as that of a mapped file, as copies.
#![allow(unsafe_code, reason = "a valid array moves without being validated again")]

use arrow::array::{Array, ArrayData, ArrayRef, RecordBatch, RecordBatchOptions, make_array};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};

use super::shrink::copy_array;

/// Whether the bytes of a buffer are memory that the rows must not use.
pub type IsShared<'a> = &'a dyn Fn(&[u8]) -> bool;

/// The same rows without any buffer that is shared. Only the rows of columns that have one are copied. `batch` must own no more
/// than its rows (see [`super::shrink`]).
pub fn copy_shared(batch: &RecordBatch, is_shared: IsShared<'_>) -> RecordBatch {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let columns = batch.columns().iter().map(|column| copy_column(column, is_shared)).collect();
    RecordBatch::try_new_with_options(batch.schema(), columns, &options)
        .expect("copies of a valid batch's columns make one of the same schema")
}

fn copy_column(column: &ArrayRef, is_shared: IsShared<'_>) -> ArrayRef {
    let data = column.to_data();
    if !has_shared(&data, is_shared) {
        return column.clone();
    }
    // Of a slice this copies the rows, and not the buffers of the whole.
    let copy = copy_array(&data).expect("rows of a valid array are copied to a valid array").to_data();
    match has_shared(&copy, is_shared) {
        true => make_array(copy_buffers(&copy, is_shared)),
        false => make_array(copy),
    }
}

fn has_shared(data: &ArrayData, is_shared: IsShared<'_>) -> bool {
    let nulls = data.nulls().map(NullBuffer::buffer);
    nulls.into_iter().chain(data.buffers()).any(|buffer| is_shared(buffer))
        || data.child_data().iter().any(|child| has_shared(child, is_shared))
}

fn copy_buffers(data: &ArrayData, is_shared: IsShared<'_>) -> ArrayData {
    let copy = |buffer: &Buffer| match is_shared(buffer) {
        true => Buffer::from_slice_ref(buffer.as_slice()),
        false => buffer.clone(),
    };
    let nulls = data.nulls().map(|nulls| {
        let bits = BooleanBuffer::new(copy(nulls.buffer()), nulls.offset(), nulls.len());
        NullBuffer::new(bits)
    });
    let buffers = data.buffers().iter().map(copy).collect();
    let children = data.child_data().iter().map(|child| copy_buffers(child, is_shared)).collect();
    let builder = data.clone().into_builder().nulls(nulls).buffers(buffers).child_data(children);
    // SAFETY: type, length and offset are those of a valid array, and all buffers have the same bytes at an alignment that is at
    // least as large.
    unsafe { builder.build_unchecked() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::ipc::shrink::shrink_to_fit;
    use crate::ipc::test_data;

    fn add_addresses(data: &ArrayData, found: &mut HashSet<usize>) {
        let nulls = data.nulls().map(NullBuffer::buffer);
        let buffers = nulls.into_iter().chain(data.buffers()).filter(|buffer| !buffer.is_empty());
        found.extend(buffers.map(|buffer| buffer.as_ptr() as usize));
        data.child_data().iter().for_each(|child| add_addresses(child, found));
    }

    fn addresses(batch: &RecordBatch) -> HashSet<usize> {
        let mut found = HashSet::new();
        batch.columns().iter().for_each(|column| add_addresses(&column.to_data(), &mut found));
        found
    }

    #[test]
    fn copies_of_every_type_are_equal_and_share_nothing() {
        let batch = test_data::batch(&mut test_data::rng(41), 90);
        for batch in [batch.clone(), batch.slice(13, 50), batch.slice(0, 0)].map(|batch| shrink_to_fit(&batch)) {
            let shared = addresses(&batch);
            let copy = copy_shared(&batch, &|bytes| shared.contains(&(bytes.as_ptr() as usize)));
            assert_eq!(copy, batch);
            assert!(addresses(&copy).is_disjoint(&shared));
            copy.columns().iter().for_each(|column| column.to_data().validate_full().unwrap());
        }
    }

    #[test]
    fn rows_in_their_own_memory_are_not_copied() {
        let batch = test_data::batch(&mut test_data::rng(42), 90);
        assert_eq!(addresses(&copy_shared(&batch, &|_| false)), addresses(&batch));
    }
}
