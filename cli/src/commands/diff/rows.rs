//! Rows as hashes, and those that have not met their equal in the other table.

use std::collections::HashMap;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};
use volley_common::{Error, Result};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Rows that wait for their equal at most, or differ: some 700 MB of memory. docs/table-commands.md names the number.
const MAX_UNMATCHED: usize = 10_000_000;

/// Computes the hashes of rows, and of their keys. Values are equal if their bytes are: of numbers NaN is equal to itself, and -0.0
/// differs from 0.0.
pub struct RowHasher {
    rows: ColumnEncoder,
    /// None: rows have no keys.
    keys: Option<ColumnEncoder>,
}

/// Encodes some columns of batches as bytes.
struct ColumnEncoder {
    columns: Vec<usize>,
    converter: RowConverter,
    rows: Rows,
}

impl ColumnEncoder {
    fn new(columns: Vec<(usize, &DataType)>) -> Result<Self> {
        let fields = columns.iter().map(|(_, kind)| SortField::new((*kind).clone())).collect();
        let converter = RowConverter::new(fields).map_err(internal)?;
        let rows = converter.empty_rows(0, 0);
        Ok(ColumnEncoder { columns: columns.into_iter().map(|(at, _)| at).collect(), converter, rows })
    }

    fn encode(&mut self, batch: &RecordBatch) -> Result<&Rows> {
        let columns: Vec<ArrayRef> = self.columns.iter().map(|at| batch.column(*at).clone()).collect();
        self.rows.clear();
        self.converter.append(&mut self.rows, &columns).map_err(internal)?;
        Ok(&self.rows)
    }
}

impl RowHasher {
    /// For batches with these columns, of which `key` are the keys.
    ///
    /// # Errors
    /// UNIMPLEMENTED: values of a type cannot be compared.
    pub fn new(columns: &[(&str, &DataType)], key: &[String]) -> Result<Self> {
        for (name, kind) in columns {
            if !RowConverter::supports_fields(&[SortField::new((*kind).clone())]) {
                return Err(Error::unimplemented(format!(
                    "values of column {name:?} ({kind}) cannot be compared: leave it out, with --columns"
                )));
            }
        }
        let of = |name: &String| columns.iter().position(|(column, _)| column == name).map(|at| (at, columns[at].1));
        let keys: Vec<(usize, &DataType)> = key.iter().filter_map(of).collect();
        let rows = ColumnEncoder::new(columns.iter().enumerate().map(|(at, (_, kind))| (at, *kind)).collect())?;
        let keys = if keys.is_empty() { None } else { Some(ColumnEncoder::new(keys)?) };
        Ok(RowHasher { rows, keys })
    }

    /// Calls `each` with the hashes of each row and of its key.
    ///
    /// # Errors
    /// Those of `each`.
    pub fn for_each(&mut self, batch: &RecordBatch, mut each: impl FnMut(u128, u64) -> Result<()>) -> Result<()> {
        if self.rows.columns.is_empty() {
            return Ok(());
        }
        let rows = self.rows.encode(batch)?;
        match &mut self.keys {
            None => rows.iter().try_for_each(|row| each(xxh3_128(row.as_ref()), 0)),
            Some(keys) => {
                let keys = keys.encode(batch)?;
                rows.iter()
                    .zip(keys.iter())
                    .try_for_each(|(row, key)| each(xxh3_128(row.as_ref()), xxh3_64(key.as_ref())))
            }
        }
    }
}

fn internal(error: ArrowError) -> Error {
    Error::internal(format!("rows cannot be compared: {error}"))
}

/// How many rows differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowDifferences {
    /// Rows that only the second table has.
    pub added: u64,
    /// Rows that only the first table has.
    pub removed: u64,
    /// Rows of the same key that differ.
    pub changed: u64,
}

/// The rows that only one of the tables has so far: how often more the first has them, which is negative if the second does.
#[derive(Default)]
pub struct UnmatchedRows(HashMap<u128, (u64, i64)>);

impl UnmatchedRows {
    /// Adds a row of the first table (`sign` 1), or of the second (-1).
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: there are too many.
    pub fn add(&mut self, row: u128, key: u64, sign: i64) -> Result<()> {
        self.add_up_to(MAX_UNMATCHED, row, key, sign)
    }

    fn add_up_to(&mut self, most: usize, row: u128, key: u64, sign: i64) -> Result<()> {
        let entry = self.0.entry(row).or_insert((key, 0));
        entry.1 += sign;
        if entry.1 == 0 {
            self.0.remove(&row);
        } else if self.0.len() > most {
            return Err(Error::exhausted(format!(
                "more than {most} rows differ, or have their equal far behind in the other table: compare some of the rows, with --where, or compare by `volley sql`"
            )));
        }
        Ok(())
    }

    /// What is different once all rows were added. With keys, rows of one key that only one table each has are changed ones.
    pub fn differences(self, has_keys: bool) -> RowDifferences {
        let mut by_key: HashMap<u64, (u64, u64)> = HashMap::new();
        for (key, surplus) in self.0.into_values() {
            let (removed, added) = by_key.entry(key).or_default();
            *(if surplus > 0 { removed } else { added }) += surplus.unsigned_abs();
        }
        by_key.into_values().fold(RowDifferences::default(), |sum, (removed, added)| {
            let changed = if has_keys { removed.min(added) } else { 0 };
            RowDifferences {
                added: sum.added + added - changed,
                removed: sum.removed + removed - changed,
                changed: sum.changed + changed,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{DictionaryArray, Float64Array, Int64Array, StringArray};
    use arrow::datatypes::Int8Type;

    use super::*;

    fn rows(numbers: &[i64], words: &[&str]) -> RecordBatch {
        let number: ArrayRef = Arc::new(Int64Array::from(numbers.to_vec()));
        let word: ArrayRef = Arc::new(StringArray::from(words.to_vec()));
        RecordBatch::try_from_iter([("n", number), ("w", word)]).unwrap()
    }

    fn difference(key: &[&str], first: &[RecordBatch], second: &[RecordBatch]) -> RowDifferences {
        let key: Vec<String> = key.iter().map(|name| name.to_string()).collect();
        let schema = first[0].schema();
        let columns: Vec<(&str, &DataType)> =
            schema.fields().iter().map(|field| (field.name().as_str(), field.data_type())).collect();
        let mut hasher = RowHasher::new(&columns, &key).unwrap();
        let mut unmatched = UnmatchedRows::default();
        for (batches, sign) in [(first, 1), (second, -1)] {
            for batch in batches {
                hasher.for_each(batch, |row, key| unmatched.add(row, key, sign)).unwrap();
            }
        }
        unmatched.differences(!key.is_empty())
    }

    #[test]
    fn rows_are_a_multiset_without_keys() {
        let first = [rows(&[1, 2, 2, 3], &["a", "b", "b", "c"])];
        let same = [rows(&[3, 2], &["c", "b"]), rows(&[2, 1], &["b", "a"])];
        assert_eq!(difference(&[], &first, &same), RowDifferences::default());
        let other = [rows(&[1, 2, 3, 3], &["a", "b", "c", "x"])];
        assert_eq!(difference(&[], &first, &other), RowDifferences { added: 1, removed: 1, changed: 0 });
    }

    #[test]
    fn rows_of_a_key_are_added_removed_or_changed() {
        let first = [rows(&[1, 2, 3, 4], &["a", "b", "c", "d"])];
        let second = [rows(&[1, 2, 4, 5, 6], &["a", "B", "d", "e", "f"])];
        let expected = RowDifferences { added: 2, removed: 1, changed: 1 };
        assert_eq!(difference(&["n"], &first, &second), expected);
        // A key with several rows: one is changed, and one more.
        let (first, second) = ([rows(&[1, 1], &["x", "y"])], [rows(&[1, 1, 1], &["y", "z", "z"])]);
        let expected = RowDifferences { added: 1, removed: 0, changed: 1 };
        assert_eq!(difference(&["n"], &first, &second), expected);
    }

    #[test]
    fn values_are_compared_whatever_holds_them() {
        let words: DictionaryArray<Int8Type> = ["a", "b", "a"].into_iter().collect();
        let others: DictionaryArray<Int8Type> = ["b", "a", "a"].into_iter().collect();
        let batch = |words: DictionaryArray<Int8Type>| RecordBatch::try_from_iter([("w", Arc::new(words) as ArrayRef)]);
        let (first, second) = ([batch(words).unwrap()], [batch(others).unwrap()]);
        assert_eq!(difference(&[], &first, &second), RowDifferences::default());
        let floats = |values: Vec<f64>| {
            let column: ArrayRef = Arc::new(Float64Array::from(values));
            [RecordBatch::try_from_iter([("f", column)]).unwrap()]
        };
        let nan = f64::NAN;
        assert_eq!(difference(&[], &floats(vec![nan, 0.0]), &floats(vec![0.0, nan])), RowDifferences::default());
        assert_eq!(difference(&[], &floats(vec![0.0]), &floats(vec![-0.0])).added, 1);
    }

    #[test]
    fn rows_that_wait_are_bounded() {
        let mut unmatched = UnmatchedRows::default();
        for row in 0..3 {
            unmatched.add_up_to(3, row, 0, 1).unwrap();
        }
        unmatched.add_up_to(3, 1, 0, -1).unwrap();
        unmatched.add_up_to(3, 3, 0, 1).unwrap();
        let error = unmatched.add_up_to(3, 4, 0, 1).unwrap_err();
        assert!(error.message.starts_with("more than 3 rows differ") && error.message.contains("--where"), "{error}");
    }
}
