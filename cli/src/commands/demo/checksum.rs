//! A checksum of rows that does not depend on their order or batches.

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};
use volley_common::ipc::split::data_bytes;
use volley_common::{Error, Result};
use xxhash_rust::xxh3::xxh3_64;

/// Sums the xxh3 of every row's comparable encoding over all columns, wrapping.
pub struct Checksum {
    converter: RowConverter,
    rows: Rows,
    summed: Summed,
}

/// What was summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summed {
    /// Rows.
    pub rows: u64,
    /// Bytes of their Arrow buffers.
    pub bytes: u64,
    /// The checksum.
    pub sum: u64,
}

impl Checksum {
    /// A checksum of no rows of the schema.
    pub fn new(schema: &Schema) -> Result<Self> {
        let fields = schema.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let converter = RowConverter::new(fields).map_err(fault)?;
        let rows = converter.empty_rows(0, 0);
        Ok(Checksum { converter, rows, summed: Summed::default() })
    }

    /// Adds the batch's rows.
    pub fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        self.rows.clear();
        self.converter.append(&mut self.rows, batch.columns()).map_err(fault)?;
        for row in self.rows.iter() {
            self.summed.sum = self.summed.sum.wrapping_add(xxh3_64(row.as_ref()));
        }
        self.summed.bytes += data_bytes(batch) as u64;
        self.summed.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// What was added so far.
    pub fn sum(&self) -> Summed {
        self.summed
    }
}

fn fault(error: ArrowError) -> Error {
    Error::internal(format!("the checksum: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringArray};
    use std::sync::Arc;

    fn sum(batches: &[RecordBatch]) -> Summed {
        let mut checksum = Checksum::new(&batches[0].schema()).unwrap();
        batches.iter().for_each(|batch| checksum.add(batch).unwrap());
        checksum.sum()
    }

    fn rows(numbers: &[i64], words: &[&str]) -> RecordBatch {
        let number: arrow::array::ArrayRef = Arc::new(Int64Array::from(numbers.to_vec()));
        let word: arrow::array::ArrayRef = Arc::new(StringArray::from(words.to_vec()));
        RecordBatch::try_from_iter([("n", number), ("w", word)]).unwrap()
    }

    #[test]
    fn order_and_batches_do_not_matter_values_do() {
        let all = sum(&[rows(&[1, 2, 3], &["a", "b", "c"])]);
        let other = sum(&[rows(&[3], &["c"]), rows(&[1, 2], &["a", "b"])]);
        assert_eq!((all.rows, all.sum), (other.rows, other.sum));
        assert_ne!(all.sum, sum(&[rows(&[1, 2, 3], &["a", "c", "b"])]).sum);
        assert_ne!(all.sum, sum(&[rows(&[1, 2], &["a", "b"])]).sum);
        // A row twice is not a row not at all.
        assert_ne!(all.sum, sum(&[rows(&[1, 2, 3, 3, 3], &["a", "b", "c", "c", "c"])]).sum);
    }
}
