//! Whether compression pays for rows, decided by samples of them.

use arrow::array::{Array, ArrayData, RecordBatch};
use arrow::datatypes::DataType;
use lz4_flex::block::{compress_into, get_maximum_output_size};

/// Bytes of all samples of a batch together, about ...
const SAMPLED_BYTES: usize = 1 << 20;
/// ... but at least this many of each buffer: fewer say little.
const MIN_SAMPLE: usize = 4 << 10;
/// A sample of a buffer has at most so many bytes, LZ4's window.
const MAX_SAMPLE: usize = 64 << 10;

/// The share of a batch's bytes that LZ4 would leave, about: above 1 if it would make them more. Takes some milliseconds, however
/// large the batch is. The values of dictionaries, which a part has once, do not count. 1 for a batch without bytes.
pub fn lz4_share(batch: &RecordBatch) -> f64 {
    let columns: Vec<ArrayData> = batch.columns().iter().map(|column| column.to_data()).collect();
    let mut buffers = Vec::new();
    columns.iter().for_each(|column| collect_buffers(column, &mut buffers));
    let all: usize = buffers.iter().map(|buffer| buffer.len()).sum();
    if all == 0 {
        return 1.0;
    }
    let mut output = vec![0; get_maximum_output_size(MAX_SAMPLE)];
    let left: f64 = buffers.iter().map(|buffer| buffer.len() as f64 * share_of(buffer, all, &mut output)).sum();
    left / all as f64
}

/// The share that LZ4 leaves of a buffer's middle; `all`: bytes of all buffers.
fn share_of(buffer: &[u8], all: usize, output: &mut [u8]) -> f64 {
    if buffer.is_empty() {
        return 1.0;
    }
    let fair = (buffer.len() as u128 * SAMPLED_BYTES as u128 / all as u128) as usize;
    let length = fair.clamp(MIN_SAMPLE, MAX_SAMPLE).min(buffer.len());
    let start = (buffer.len() - length) / 2;
    // It fits: the output has room for the largest sample.
    compress_into(&buffer[start..start + length], output).map_or(1.0, |left| left as f64 / length as f64)
}

fn collect_buffers<'a>(data: &'a ArrayData, buffers: &mut Vec<&'a [u8]>) {
    if let Some(nulls) = data.nulls() {
        buffers.push(nulls.buffer().as_slice());
    }
    buffers.extend(data.buffers().iter().map(|buffer| buffer.as_slice()));
    if !matches!(data.data_type(), DataType::Dictionary(..)) {
        data.child_data().iter().for_each(|child| collect_buffers(child, buffers));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, DictionaryArray, Int64Array, ListArray, StringArray};
    use arrow::datatypes::{Int32Type, Int64Type};
    use rand::Rng;

    use super::*;
    use crate::ipc::test_data;

    fn share(column: ArrayRef) -> f64 {
        lz4_share(&RecordBatch::try_from_iter([("c", column)]).unwrap())
    }

    #[test]
    fn repetition_leaves_little_and_random_numbers_all() {
        let repeated = share(Arc::new(Int64Array::from_iter_values((0..1_000_000).map(|n| n % 10))));
        assert!(repeated < 0.1, "{repeated}");
        let nested = (0..1000).map(|_| Some((0..100).map(Some)));
        let nested = share(Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(nested)));
        assert!(nested < 0.5, "{nested}");
        let mut rng = test_data::rng(63);
        let random = share(Arc::new(Int64Array::from_iter_values((0..1_000_000).map(|_| rng.random::<i64>()))));
        assert!(random > 0.95, "{random}");
        assert_eq!(share(Arc::new(Int64Array::from_iter_values([]))), 1.0);
    }

    #[test]
    fn values_of_dictionaries_do_not_count() {
        let mut rng = test_data::rng(64);
        let values: Vec<String> = (0..1000).map(|_| rng.random::<u128>().to_string()).collect();
        let values: ArrayRef = Arc::new(StringArray::from(values));
        let keys = (0..1000).map(|_| Some(7_i32)).collect();
        let words = share(Arc::new(DictionaryArray::<Int32Type>::new(keys, values)));
        assert!(words < 0.1, "{words}");
    }

    #[test]
    fn every_type_has_a_share() {
        let mut rng = test_data::rng(65);
        for data_type in test_data::types() {
            for rows in [0, 1, 500] {
                let batch = test_data::batch_of(&mut rng, std::slice::from_ref(&data_type), rows);
                let share = lz4_share(&batch);
                assert!((0.0..10.0).contains(&share), "{data_type}: {share}");
            }
        }
    }
}
