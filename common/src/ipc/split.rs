//! Record batches of about 1 MiB.

use arrow::array::{Array, AsArray, OffsetSizeTrait, RecordBatch};
use arrow::datatypes::{DataType, Int16Type, Int32Type, Int64Type};

use super::MAX_CUT_BYTES;
use super::compact::compact;

/// Buffers are padded to this many bytes in a message.
const ALIGNMENT: usize = 64;
/// Bytes of a field node or of a buffer's place in a message's header.
const HEADER_ENTRY: usize = 16;
/// Pieces begin at a multiple of so many rows, so that bitmaps and values are cut without being shifted.
const ROW_STEP: usize = 64;

/// Cuts a batch into consecutive pieces of about `target_bytes` of Arrow data each (see [`super::MESSAGE_BYTES`]).
///
/// A piece is over [`super::MAX_CUT_BYTES`] only if it is one row. A batch without rows comes back as it is.
/// Pieces own just what they show.
pub fn split(batch: &RecordBatch, target_bytes: usize) -> impl Iterator<Item = RecordBatch> + Send + use<> {
    let batch = compact(batch);
    let rows = batch.num_rows();
    let pieces = data_bytes(&batch).div_ceil(target_bytes.max(1)).max(1);
    let step = rows.div_ceil(pieces).max(1);
    let step = if step > ROW_STEP { step.next_multiple_of(ROW_STEP) } else { step };
    let most = MAX_CUT_BYTES.min(target_bytes.saturating_mul(2)).max(1);
    Pieces { batch, step, next: 0, most, split: Vec::new() }
}

struct Pieces {
    batch: RecordBatch,
    /// Rows of a piece, if the rows are alike.
    step: usize,
    next: usize,
    /// A larger piece is split further.
    most: usize,
    /// Ranges that are still to come before `next`, the next one last.
    split: Vec<(usize, usize)>,
}

impl Iterator for Pieces {
    type Item = RecordBatch;

    fn next(&mut self) -> Option<RecordBatch> {
        loop {
            let (at, rows) = self.range()?;
            let piece = match rows == self.batch.num_rows() {
                true => self.batch.clone(),
                false => compact(&self.batch.slice(at, rows)),
            };
            if rows <= 1 || data_bytes(&piece) <= self.most {
                return Some(piece);
            }
            let half = rows / 2;
            self.split.push((at + half, rows - half));
            self.split.push((at, half));
        }
    }
}

impl Pieces {
    /// The rows to try next.
    fn range(&mut self) -> Option<(usize, usize)> {
        let all = self.batch.num_rows();
        if let Some(range) = self.split.pop() {
            return Some(range);
        }
        // An empty batch is one piece.
        if self.next >= all.max(1) {
            return None;
        }
        let at = self.next;
        self.next = at + self.step;
        Some((at, self.step.min(all - at)))
    }
}

/// Bytes that the batch's rows take as an IPC message, before compression; slices count what they show.
///
/// A row counts as a bit at least, so that rows of nothing (nulls, no columns) are bounded too.
pub fn data_bytes(batch: &RecordBatch) -> usize {
    let columns: usize = batch.columns().iter().map(|column| array_bytes(column)).sum();
    columns.max(batch.num_rows() / 8)
}

fn buffer(bytes: usize) -> usize {
    HEADER_ENTRY + bytes.next_multiple_of(ALIGNMENT)
}

/// Bytes of an array and all below it: mirrors what arrow's IPC writer writes.
fn array_bytes(array: &dyn Array) -> usize {
    use DataType::*;
    let rows = array.len();
    let validity = match array.data_type() {
        Null | Union(_, _) | RunEndEncoded(_, _) => 0,
        _ => buffer(if array.null_count() > 0 { rows.div_ceil(8) } else { 0 }),
    };
    let own = match array.data_type() {
        Null => 0,
        Boolean => buffer(rows.div_ceil(8)),
        Utf8 => variable(array.as_string::<i32>().value_offsets()),
        LargeUtf8 => variable(array.as_string::<i64>().value_offsets()),
        Binary => variable(array.as_binary::<i32>().value_offsets()),
        LargeBinary => variable(array.as_binary::<i64>().value_offsets()),
        Utf8View => {
            views(rows, array.as_string_view().data_buffers(), array.as_string_view().total_buffer_bytes_used())
        }
        BinaryView => {
            views(rows, array.as_binary_view().data_buffers(), array.as_binary_view().total_buffer_bytes_used())
        }
        FixedSizeBinary(width) => buffer(rows * *width as usize),
        Dictionary(keys, _) => buffer(rows * keys.primitive_width().unwrap_or(8)),
        List(_) => list(array.as_list::<i32>().value_offsets(), array.as_list::<i32>().values()),
        LargeList(_) => list(array.as_list::<i64>().value_offsets(), array.as_list::<i64>().values()),
        Map(_, _) => list(array.as_map().value_offsets(), array.as_map().entries()),
        ListView(_) => 2 * buffer(rows * 4) + array_bytes(array.as_list_view::<i32>().values()),
        LargeListView(_) => 2 * buffer(rows * 8) + array_bytes(array.as_list_view::<i64>().values()),
        FixedSizeList(_, size) => array_bytes(&array.as_fixed_size_list().values().slice(0, rows * *size as usize)),
        Struct(_) => array.as_struct().columns().iter().map(|column| array_bytes(column)).sum(),
        Union(fields, _) => {
            let offsets = if array.as_union().is_dense() { buffer(rows * 4) } else { 0 };
            let child = |id: i8| array_bytes(array.as_union().child(id));
            buffer(rows) + offsets + fields.iter().map(|(id, _)| child(id)).sum::<usize>()
        }
        RunEndEncoded(ends, _) => runs(array, ends.data_type()),
        fixed => buffer(rows * fixed.primitive_width().unwrap_or(32)),
    };
    HEADER_ENTRY + validity + own
}

fn variable<O: OffsetSizeTrait>(offsets: &[O]) -> usize {
    buffer(size_of_val(offsets)) + buffer((offsets[offsets.len() - 1] - offsets[0]).as_usize())
}

fn views(rows: usize, buffers: &[arrow::buffer::Buffer], used: usize) -> usize {
    let owned = buffers.iter().map(|data| data.len()).sum::<usize>();
    buffer(rows * 16) + buffers.len() * buffer(0) + owned.min(used).next_multiple_of(ALIGNMENT)
}

fn list<O: OffsetSizeTrait>(offsets: &[O], values: &dyn Array) -> usize {
    let (first, last) = (offsets[0].as_usize(), offsets[offsets.len() - 1].as_usize());
    buffer(size_of_val(offsets)) + array_bytes(&values.slice(first, last - first))
}

fn runs(array: &dyn Array, ends: &DataType) -> usize {
    let width = ends.primitive_width().unwrap_or(8);
    let (count, values) = match ends {
        DataType::Int16 => physical(array.as_run::<Int16Type>()),
        DataType::Int32 => physical(array.as_run::<Int32Type>()),
        _ => physical(array.as_run::<Int64Type>()),
    };
    HEADER_ENTRY + buffer(0) + buffer(count * width) + values
}

/// How many runs a slice shows, and the bytes of their values.
fn physical<R: arrow::datatypes::RunEndIndexType>(runs: &arrow::array::RunArray<R>) -> (usize, usize) {
    if runs.is_empty() {
        return (0, 0);
    }
    let first = runs.get_start_physical_index();
    let count = runs.get_end_physical_index() - first + 1;
    (count, array_bytes(&runs.values().slice(first, count)))
}

#[cfg(test)]
mod tests;
