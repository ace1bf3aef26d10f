//! Bytes of each row of an array once it is copied alone, with the values that it shares with other rows.

use arrow::array::{
    Array, AsArray, DictionaryArray, GenericListViewArray, OffsetSizeTrait, RecordBatch, RunArray,
    downcast_dictionary_array, make_array,
};
use arrow::datatypes::{
    ArrowDictionaryKeyType, ArrowNativeType, DataType, Int16Type, Int32Type, Int64Type, RunEndIndexType, UnionMode,
};

/// The batch in slices of at most `max_bytes`, or of one row, counted with the values of its dictionaries and runs.
pub fn split_decoded(batch: &RecordBatch, max_bytes: u64) -> Vec<RecordBatch> {
    let columns = batch.columns().iter().map(|column| RowBytes::read(column, Encoded::Values));
    let (bytes, rows) = (sum(columns, 0, batch.num_rows()), batch.num_rows());
    if bytes.range(0, rows) <= max_bytes {
        return vec![batch.clone()];
    }
    let (mut slices, mut start) = (Vec::new(), 0);
    while start < rows {
        let slice = batch.slice(start, bytes.fitting(start, max_bytes).clamp(1, rows - start));
        start += slice.num_rows();
        slices.push(slice);
    }
    slices
}

/// What counts for a row of a dictionary or a run.
#[derive(Clone, Copy, PartialEq)]
enum Encoded {
    /// Its key, and each run once.
    Keys,
    /// Its value.
    Values,
}

/// Bytes of an array's rows, at most, without validity and padding.
pub(super) enum RowBytes {
    /// All rows have as many.
    Fixed(u64),
    /// Of all rows before each, and of all.
    Sums(Vec<u64>),
}

impl RowBytes {
    /// Of rows whose dictionaries and runs are kept. Visits each value once, however many rows share it.
    pub(super) fn of(array: &dyn Array) -> RowBytes {
        RowBytes::read(array, Encoded::Keys)
    }

    fn read(array: &dyn Array, encoded: Encoded) -> RowBytes {
        use DataType::*;
        match array.data_type() {
            Utf8 => texts(array.as_string::<i32>().value_offsets()),
            LargeUtf8 => texts(array.as_string::<i64>().value_offsets()),
            Binary => texts(array.as_binary::<i32>().value_offsets()),
            LargeBinary => texts(array.as_binary::<i64>().value_offsets()),
            List(_) => lists(array.as_list::<i32>().value_offsets(), array.as_list::<i32>().values(), encoded),
            LargeList(_) => lists(array.as_list::<i64>().value_offsets(), array.as_list::<i64>().values(), encoded),
            Map(_, _) => lists(array.as_map().value_offsets(), array.as_map().entries(), encoded),
            ListView(_) => list_views(array.as_list_view::<i32>(), encoded),
            LargeListView(_) => list_views(array.as_list_view::<i64>(), encoded),
            FixedSizeList(_, size) => {
                let size = *size as usize;
                match RowBytes::read(array.as_fixed_size_list().values(), encoded) {
                    RowBytes::Fixed(bytes) => RowBytes::Fixed(bytes.saturating_mul(size as u64)),
                    values => RowBytes::Sums((0..=array.len()).map(|row| values.range(0, row * size)).collect()),
                }
            }
            Struct(_) => {
                sum(array.as_struct().columns().iter().map(|column| RowBytes::read(column, encoded)), 0, array.len())
            }
            Union(fields, UnionMode::Sparse) => {
                sum(fields.iter().map(|(id, _)| RowBytes::read(array.as_union().child(id), encoded)), 1, array.len())
            }
            Union(_, UnionMode::Dense) => dense_union(array, encoded),
            Dictionary(_, _) if encoded == Encoded::Values => {
                let values = RowBytes::read(array.as_any_dictionary().values(), encoded);
                downcast_dictionary_array!(array => by_key(array, &values), _ => RowBytes::Fixed(0))
            }
            RunEndEncoded(ends, _) if encoded == Encoded::Values => match ends.data_type() {
                Int16 => by_run(array.as_run::<Int16Type>()),
                Int32 => by_run(array.as_run::<Int32Type>()),
                _ => by_run(array.as_run::<Int64Type>()),
            },
            // A copy of some rows has a run for each at most.
            RunEndEncoded(_, _) => {
                let values = make_array(array.to_data().child_data()[1].clone());
                let bytes = RowBytes::read(&values, encoded);
                let largest = (0..values.len()).map(|at| bytes.range(at, at + 1)).max();
                RowBytes::Fixed(largest.unwrap_or(0).saturating_add(size_of::<i64>() as u64))
            }
            other => RowBytes::Fixed(fixed_bytes(other)),
        }
    }

    /// How many rows from `start` on have at most so many bytes.
    fn fitting(&self, start: usize, max_bytes: u64) -> usize {
        match self {
            RowBytes::Fixed(bytes) => (max_bytes / (*bytes).max(1)) as usize,
            RowBytes::Sums(sums) => sums[start..].partition_point(|sum| sum - sums[start] <= max_bytes) - 1,
        }
    }

    /// Of the rows from `start` to before `end`.
    pub(super) fn range(&self, start: usize, end: usize) -> u64 {
        match self {
            RowBytes::Fixed(bytes) => bytes.saturating_mul(end.saturating_sub(start) as u64),
            RowBytes::Sums(sums) => sums[end].saturating_sub(sums[start]),
        }
    }
}

/// Bytes that a row of a type has without values of variable length; those of a null.
pub(super) fn fixed_bytes(data_type: &DataType) -> u64 {
    use DataType::*;
    let sum = |all: &mut dyn Iterator<Item = u64>| all.fold(0, u64::saturating_add);
    match data_type {
        Null | RunEndEncoded(_, _) => 0,
        Boolean => 1,
        FixedSizeBinary(width) => *width as u64,
        Utf8 | Binary | List(_) | Map(_, _) => 4,
        LargeUtf8 | LargeBinary | LargeList(_) | ListView(_) => 8,
        Utf8View | BinaryView | LargeListView(_) => 16,
        FixedSizeList(field, size) => fixed_bytes(field.data_type()).saturating_mul(*size as u64),
        Struct(fields) => sum(&mut fields.iter().map(|field| fixed_bytes(field.data_type()))),
        Union(fields, _) => sum(&mut fields.iter().map(|(_, field)| fixed_bytes(field.data_type())).chain([5])),
        Dictionary(keys, _) => fixed_bytes(keys),
        other => other.primitive_width().unwrap_or(32) as u64,
    }
}

/// Entries that all lists of a list view have together, and their bytes: what they need in lists that share nothing.
pub(super) fn unshared_entries<O: OffsetSizeTrait>(views: &GenericListViewArray<O>) -> (u64, u64) {
    let values = RowBytes::of(views.values());
    let valid = (0..views.len()).filter(|&row| views.is_valid(row));
    valid.fold((0, 0), |(entries, bytes), row| {
        let (start, size) = (views.value_offset(row).as_usize(), views.value_size(row).as_usize());
        (u64::saturating_add(entries, size as u64), u64::saturating_add(bytes, values.range(start, start + size)))
    })
}

fn texts<O: OffsetSizeTrait>(offsets: &[O]) -> RowBytes {
    let bytes = |(row, end): (usize, &O)| ((*end - offsets[0]).as_usize() + row * size_of::<O>()) as u64;
    RowBytes::Sums(offsets.iter().enumerate().map(bytes).collect())
}

fn lists<O: OffsetSizeTrait>(offsets: &[O], values: &dyn Array, encoded: Encoded) -> RowBytes {
    let (values, first) = (RowBytes::read(values, encoded), offsets[0].as_usize());
    let bytes =
        |(row, end): (usize, &O)| values.range(first, end.as_usize()).saturating_add((row * size_of::<O>()) as u64);
    RowBytes::Sums(offsets.iter().enumerate().map(bytes).collect())
}

fn list_views<O: OffsetSizeTrait>(views: &GenericListViewArray<O>, encoded: Encoded) -> RowBytes {
    let values = RowBytes::read(views.values(), encoded);
    let bytes = |row: usize| {
        let (start, size) = (views.value_offset(row).as_usize(), views.value_size(row).as_usize());
        let entries = if views.is_valid(row) { values.range(start, start + size) } else { 0 };
        entries.saturating_add(2 * size_of::<O>() as u64)
    };
    running(views.len(), bytes)
}

fn dense_union(array: &dyn Array, encoded: Encoded) -> RowBytes {
    let union = array.as_union();
    let mut children: Vec<Option<RowBytes>> = (0..=i8::MAX).map(|_| None).collect();
    for (id, _) in union.fields().iter() {
        children[id as usize] = Some(RowBytes::read(union.child(id), encoded));
    }
    running(array.len(), |row| {
        let at = union.value_offset(row);
        let entry = children[union.type_id(row) as usize].as_ref().map_or(0, |child| child.range(at, at + 1));
        entry.saturating_add(5)
    })
}

fn by_key<K: ArrowDictionaryKeyType>(array: &DictionaryArray<K>, values: &RowBytes) -> RowBytes {
    let keys = array.keys();
    running(array.len(), |row| {
        let key = keys.is_valid(row).then(|| keys.value(row)).map(ArrowNativeType::as_usize);
        key.map_or(0, |key| values.range(key, key + 1))
    })
}

fn by_run<R: RunEndIndexType>(runs: &RunArray<R>) -> RowBytes {
    let values = RowBytes::read(runs.values(), Encoded::Values);
    running(runs.len(), |row| {
        let run = runs.get_physical_index(row);
        values.range(run, run + 1)
    })
}

/// The sums of what each row has.
fn running(rows: usize, bytes: impl Fn(usize) -> u64) -> RowBytes {
    let mut sums = Vec::with_capacity(rows + 1);
    sums.push(0);
    let mut sum: u64 = 0;
    for row in 0..rows {
        sum = sum.saturating_add(bytes(row));
        sums.push(sum);
    }
    RowBytes::Sums(sums)
}

/// Of rows that have these columns and `own` bytes.
fn sum(columns: impl Iterator<Item = RowBytes>, own: u64, rows: usize) -> RowBytes {
    let mut fixed = own;
    let mut sums: Option<Vec<u64>> = None;
    for column in columns {
        match column {
            RowBytes::Fixed(bytes) => fixed = fixed.saturating_add(bytes),
            RowBytes::Sums(column) => match &mut sums {
                None => sums = Some(column),
                Some(sums) => sums.iter_mut().zip(column).for_each(|(sum, bytes)| *sum = sum.saturating_add(bytes)),
            },
        }
    }
    let Some(mut sums) = sums else { return RowBytes::Fixed(fixed) };
    let rows = sums.iter_mut().take(rows + 1).enumerate();
    rows.for_each(|(row, sum)| *sum = sum.saturating_add(fixed.saturating_mul(row as u64)));
    RowBytes::Sums(sums)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int8Array, StringArray};
    use arrow::datatypes::Int8Type;

    use super::*;
    use crate::ipc::size::array_bytes;
    use crate::ipc::test_data;

    #[test]
    fn bytes_of_every_type_add_up_and_are_near_its_message() {
        let mut rng = test_data::rng(11);
        for data_type in test_data::types() {
            let array = test_data::array(&mut rng, &data_type, 60);
            for array in [array.clone(), array.slice(7, 31)] {
                let bytes = RowBytes::of(&array);
                let each: u64 = (0..array.len()).map(|row| bytes.range(row, row + 1)).sum();
                assert_eq!(bytes.range(0, array.len()), each, "{data_type}");
                let sliced: u64 = (0..array.len()).map(|row| RowBytes::of(&array.slice(row, 1)).range(0, 1)).sum();
                let runs = data_type.to_string().contains("RunEnd");
                assert!(runs || each == sliced, "{data_type}: {each} {sliced}");
                let alone: usize = (0..array.len()).map(|row| array_bytes(&array.slice(row, 1))).sum();
                assert!(each <= alone as u64 || runs || data_type.is_nested(), "{data_type}: {each} {alone}");
            }
        }
    }

    #[test]
    fn decoded_slices_are_bounded_and_keep_all_rows() {
        let mut rng = test_data::rng(12);
        for data_type in test_data::types() {
            let batch = test_data::batch_of(&mut rng, std::slice::from_ref(&data_type), 60);
            for batch in [batch.clone(), batch.slice(9, 40), batch.slice(0, 0)] {
                let slices = split_decoded(&batch, 100);
                assert_eq!(slices.iter().map(RecordBatch::num_rows).sum::<usize>(), batch.num_rows(), "{data_type}");
                let bytes =
                    |slice: &RecordBatch| RowBytes::read(slice.column(0), Encoded::Values).range(0, slice.num_rows());
                assert!(slices.iter().all(|slice| slice.num_rows() <= 1 || bytes(slice) <= 100), "{data_type}");
            }
        }
        let keys = Int8Array::from(vec![0; 100]);
        let words = DictionaryArray::<Int8Type>::new(keys, Arc::new(StringArray::from(vec!["x".repeat(1000)])));
        let batch = RecordBatch::try_from_iter([("d", Arc::new(words) as ArrayRef)]).unwrap();
        assert_eq!(split_decoded(&batch, 10_100).iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [10; 10]);
    }
}
