//! A checksum of rows that does not depend on their order or their batches.

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};
use volley_common::ipc::size::data_bytes;
use volley_common::{Error, Result};
use xxhash_rust::xxh3::xxh3_64;

/// The wrapping sum of the xxh3 of every row's encoding over all columns.
pub struct Checksum {
    converter: RowConverter,
    rows: Rows,
    total: RowChecksum,
}

/// The checksum of rows and their size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowChecksum {
    /// Number of rows.
    pub rows: u64,
    /// Bytes of their Arrow data.
    pub bytes: u64,
    /// The checksum.
    pub sum: u64,
}

impl Checksum {
    /// A checksum of no rows of the schema.
    pub fn new(schema: &Schema) -> Result<Self> {
        let fields = schema.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let converter = RowConverter::new(fields).map_err(internal)?;
        let rows = converter.empty_rows(0, 0);
        Ok(Checksum { converter, rows, total: RowChecksum::default() })
    }

    /// Adds the batch's rows.
    pub fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        self.rows.clear();
        self.converter.append(&mut self.rows, batch.columns()).map_err(internal)?;
        for row in self.rows.iter() {
            self.total.sum = self.total.sum.wrapping_add(xxh3_64(row.as_ref()));
        }
        self.total.bytes += data_bytes(batch) as u64;
        self.total.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// The checksum of all rows so far.
    pub fn sum(&self) -> RowChecksum {
        self.total
    }
}

fn internal(error: ArrowError) -> Error {
    Error::internal(format!("the checksum: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringArray};
    use std::sync::Arc;

    fn sum(batches: &[RecordBatch]) -> RowChecksum {
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
    fn checksum_depends_on_values_not_on_order_or_batches() {
        let all = sum(&[rows(&[1, 2, 3], &["a", "b", "c"])]);
        let other = sum(&[rows(&[3], &["c"]), rows(&[1, 2], &["a", "b"])]);
        assert_eq!((all.rows, all.sum), (other.rows, other.sum));
        assert_ne!(all.sum, sum(&[rows(&[1, 2, 3], &["a", "c", "b"])]).sum);
        assert_ne!(all.sum, sum(&[rows(&[1, 2], &["a", "b"])]).sum);
        // A repeated row changes the checksum.
        assert_ne!(all.sum, sum(&[rows(&[1, 2, 3, 3, 3], &["a", "b", "c", "c", "c"])]).sum);
    }
}
