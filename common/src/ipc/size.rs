//! The size of a batch as an IPC message, computed without encoding it.

use arrow::array::{Array, AsArray, OffsetSizeTrait, RecordBatch, RunArray};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Int16Type, Int32Type, Int64Type, RunEndIndexType};

/// Buffers are padded to this many bytes in a message.
const ALIGNMENT: usize = 64;
/// Bytes of a field node or of a buffer's entry in a message's header.
const HEADER_ENTRY: usize = 16;

/// Bytes of the batch's rows as an IPC message, before compression. A slice counts only its own rows.
///
/// A row counts as one bit at least, so that rows without data (nulls, no columns) are bounded too.
pub fn data_bytes(batch: &RecordBatch) -> usize {
    let columns: usize = batch.columns().iter().map(|column| array_size(column)).sum();
    columns.max(batch.num_rows() / 8)
}

/// Bytes of one array's rows in a message.
pub fn array_bytes(array: &dyn Array) -> usize {
    array_size(array)
}

/// Bytes of one buffer, with its entry and padding.
fn buffer_size(bytes: usize) -> usize {
    HEADER_ENTRY + bytes.next_multiple_of(ALIGNMENT)
}

/// Bytes of an array and all its children: mirrors what arrow's IPC writer writes.
fn array_size(array: &dyn Array) -> usize {
    use DataType::*;
    let rows = array.len();
    let validity = match array.data_type() {
        Null | Union(_, _) | RunEndEncoded(_, _) => 0,
        _ => buffer_size(if array.null_count() > 0 { rows.div_ceil(8) } else { 0 }),
    };
    let own = match array.data_type() {
        Null => 0,
        Boolean => buffer_size(rows.div_ceil(8)),
        Utf8 => variable_size(array.as_string::<i32>().value_offsets()),
        LargeUtf8 => variable_size(array.as_string::<i64>().value_offsets()),
        Binary => variable_size(array.as_binary::<i32>().value_offsets()),
        LargeBinary => variable_size(array.as_binary::<i64>().value_offsets()),
        Utf8View => {
            view_size(rows, array.as_string_view().data_buffers(), array.as_string_view().total_buffer_bytes_used())
        }
        BinaryView => {
            view_size(rows, array.as_binary_view().data_buffers(), array.as_binary_view().total_buffer_bytes_used())
        }
        FixedSizeBinary(width) => buffer_size(rows * *width as usize),
        Dictionary(keys, _) => buffer_size(rows * keys.primitive_width().unwrap_or(8)),
        List(_) => list_size(array.as_list::<i32>().value_offsets(), array.as_list::<i32>().values()),
        LargeList(_) => list_size(array.as_list::<i64>().value_offsets(), array.as_list::<i64>().values()),
        Map(_, _) => list_size(array.as_map().value_offsets(), array.as_map().entries()),
        ListView(_) => 2 * buffer_size(rows * 4) + array_size(array.as_list_view::<i32>().values()),
        LargeListView(_) => 2 * buffer_size(rows * 8) + array_size(array.as_list_view::<i64>().values()),
        FixedSizeList(_, size) => array_size(&array.as_fixed_size_list().values().slice(0, rows * *size as usize)),
        Struct(_) => array.as_struct().columns().iter().map(|column| array_size(column)).sum(),
        Union(fields, _) => {
            let offsets = if array.as_union().is_dense() { buffer_size(rows * 4) } else { 0 };
            let child = |id: i8| array_size(array.as_union().child(id));
            buffer_size(rows) + offsets + fields.iter().map(|(id, _)| child(id)).sum::<usize>()
        }
        RunEndEncoded(ends, _) => run_end_size(array, ends.data_type()),
        fixed => buffer_size(rows * fixed.primitive_width().unwrap_or(32)),
    };
    HEADER_ENTRY + validity + own
}

fn variable_size<O: OffsetSizeTrait>(offsets: &[O]) -> usize {
    buffer_size(size_of_val(offsets)) + buffer_size((offsets[offsets.len() - 1] - offsets[0]).as_usize())
}

fn view_size(rows: usize, buffers: &[Buffer], used: usize) -> usize {
    let owned = buffers.iter().map(|data| data.len()).sum::<usize>();
    buffer_size(rows * 16) + buffers.len() * buffer_size(0) + owned.min(used).next_multiple_of(ALIGNMENT)
}

fn list_size<O: OffsetSizeTrait>(offsets: &[O], values: &dyn Array) -> usize {
    let (first, last) = (offsets[0].as_usize(), offsets[offsets.len() - 1].as_usize());
    buffer_size(size_of_val(offsets)) + array_size(&values.slice(first, last - first))
}

fn run_end_size(array: &dyn Array, ends: &DataType) -> usize {
    let width = ends.primitive_width().unwrap_or(8);
    let (count, values) = match ends {
        DataType::Int16 => run_count_and_size(array.as_run::<Int16Type>()),
        DataType::Int32 => run_count_and_size(array.as_run::<Int32Type>()),
        _ => run_count_and_size(array.as_run::<Int64Type>()),
    };
    HEADER_ENTRY + buffer_size(0) + buffer_size(count * width) + values
}

/// How many runs a slice has, and the bytes of their values.
fn run_count_and_size<R: RunEndIndexType>(runs: &RunArray<R>) -> (usize, usize) {
    if runs.is_empty() {
        return (0, 0);
    }
    let first = runs.get_start_physical_index();
    let count = runs.get_end_physical_index() - first + 1;
    (count, array_size(&runs.values().slice(first, count)))
}

#[cfg(test)]
mod tests;
