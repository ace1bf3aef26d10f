//! Hash partitioning: which shard a row of a keyed table belongs to.
//!
//! `shard = xxh3_64(bytes of the key columns, seed 0) mod shards`: a frozen function that a client in any language can
//! compute. The bytes of a row are those of its key columns, concatenated in the order of `shard_by`. A column's bytes are
//! one byte 0 for null, or one byte 1 and then the value:
//!
//! | type | bytes of the value |
//! |---|---|
//! | int8 … int64, uint8 … uint64 | 8: the number, little-endian two's complement |
//! | float16, float32, float64 | 8: as a float64's bits, little-endian; -0.0 as 0.0, any NaN as `0x7ff8000000000000` |
//! | bool | 1: 0 or 1 |
//! | decimal32 … decimal256 | 32: the unscaled number, little-endian two's complement; then 1: the scale |
//! | date, time, timestamp, duration | 8: the number as stored, in the type's own unit, as an int64 |
//! | utf8, binary, their large, view and fixed-size forms | 8: the length in bytes, little-endian; then the bytes |
//! | interval year-month | 4: months |
//! | interval day-time | 4: days, 4: milliseconds |
//! | interval month-day-nano | 4: months, 4: days, 8: nanoseconds |
//! | null | (always null) |
//! | dictionary, run-end encoded | as their values |
//!
//! So the shard depends neither on the width of a number nor on the encoding of a column, and values of one type that are equal in
//! SQL have the same shard: queries join tables shard by shard (docs/adr/0013-distributed-queries.md). Lists, structs, maps and
//! unions cannot be keys. docs/partitioning.md has an example and golden values.

mod bytes;
#[cfg(test)]
mod tests;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use self::bytes::{KeyColumn, key_column};
use crate::ipc::dictionary_keys::dictionary_bytes;
use crate::ipc::size::data_bytes;
use crate::{Error, Result};

/// Version of the function above. A different function gets another number.
pub const ALGORITHM: u32 = 1;

/// From so many bytes for each shard on, a table without keys is distributed over all of them.
pub const MIN_SHARD_BYTES: u64 = 1 << 20;

/// Maximum bytes of the keys of a batch's rows, of several columns, as a multiple of the batch's own: rows may share values ...
const MAX_KEY_RATIO: u64 = 64;
/// ... plus this many.
const MAX_KEY_BYTES: u64 = 256 << 20;

/// Computes the shards of a table's rows.
///
/// ```
/// use std::sync::Arc;
/// use arrow::array::{Int64Array, RecordBatch};
/// use volley_common::partition::Partitioner;
///
/// let batch = RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(vec![1, 2])) as _)])?;
/// let partitioner = Partitioner::new(&batch.schema(), &["id".to_string()], 8)?;
/// assert_eq!(partitioner.shards_of(&batch)?.len(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Partitioner {
    /// Index, name and type of each key column, in the order of `shard_by`.
    keys: Vec<(usize, String, DataType)>,
    shards: u64,
}

impl Partitioner {
    /// For tables of this schema, with these top-level columns as keys and this many shards.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, naming the column: no column or more than one has this name, it is named twice, or its type cannot
    /// be hashed. Also for no columns and for 0 shards.
    pub fn new(schema: &Schema, shard_by: &[String], shards: u32) -> Result<Self> {
        if shard_by.is_empty() {
            return Err(Error::invalid("shard_by names no column: name at least one, or leave it out"));
        }
        if shards == 0 {
            return Err(Error::invalid("shards is 0: a table has at least one"));
        }
        let mut keys: Vec<(usize, String, DataType)> = Vec::with_capacity(shard_by.len());
        for name in shard_by {
            if keys.iter().any(|(_, earlier, _)| earlier == name) {
                return Err(Error::invalid(format!("shard_by names column {name:?} twice")));
            }
            keys.push(find_key(schema, name)?);
        }
        Ok(Partitioner { keys, shards: u64::from(shards) })
    }

    /// The shard of every row, each below the number of shards.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the batch does not have the partitioner's schema. RESOURCE_EXHAUSTED: its rows share values, and their
    /// keys have far more bytes than the batch.
    pub fn shards_of(&self, batch: &RecordBatch) -> Result<Vec<u32>> {
        let mut shards = Vec::with_capacity(batch.num_rows());
        // Below `self.shards`, which was a u32.
        self.for_each_hash(batch, |hash| shards.push((hash % self.shards) as u32))?;
        Ok(shards)
    }

    /// The hash of every row, of which [`Self::shards_of`] takes the remainder.
    pub fn hashes_of(&self, batch: &RecordBatch) -> Result<Vec<u64>> {
        let mut hashes = Vec::with_capacity(batch.num_rows());
        self.for_each_hash(batch, |hash| hashes.push(hash))?;
        Ok(hashes)
    }

    fn for_each_hash(&self, batch: &RecordBatch, mut visit: impl FnMut(u64)) -> Result<()> {
        let columns = self.columns(batch)?;
        // Reused for every row: it grows to the size of the largest key.
        let mut row_bytes = Vec::with_capacity(64);
        if let [single] = columns.as_slice() {
            single.for_each_hash(&mut row_bytes, &mut visit);
            return Ok(());
        }
        let (mut key_bytes, mut limit) = (0_u64, None);
        for row in 0..batch.num_rows() {
            row_bytes.clear();
            columns.iter().for_each(|column| column.append(row, &mut row_bytes));
            key_bytes += row_bytes.len() as u64;
            if key_bytes > MAX_KEY_BYTES && key_bytes > *limit.get_or_insert_with(|| key_limit(batch)) {
                return Err(Error::exhausted(format!(
                    "rows share values of the columns of shard_by, whose keys would have more than {key_bytes} bytes: send \
                     fewer rows in a batch, or name columns of shorter values"
                )));
            }
            visit(xxh3_64(&row_bytes));
        }
        Ok(())
    }

    fn columns<'a>(&self, batch: &'a RecordBatch) -> Result<Vec<Box<dyn KeyColumn + 'a>>> {
        let mut columns = Vec::with_capacity(self.keys.len());
        for (index, name, data_type) in &self.keys {
            let differs = || Error::invalid(format!("the batch has no column {name:?} of type {data_type} at {index}"));
            let array = batch.columns().get(*index).ok_or_else(differs)?;
            if array.data_type() != data_type {
                return Err(differs());
            }
            columns.push(key_column(array.as_ref()).ok_or_else(differs)?);
        }
        Ok(columns)
    }
}

/// The shard of the first block of a stream into a table without keys. Later blocks go to the next shards, round robin.
///
/// `xxh3_64(write id, seed stream) mod shards`, where stream is 0 except in a staged write: many small writes spread over the
/// shards. Only the writing node computes it; the catalog has the shard of every part.
pub fn first_shard(write: &str, stream: u64, shards: u32) -> u32 {
    (xxh3_64_with_seed(write.as_bytes(), stream) % u64::from(shards.max(1))) as u32
}

/// The share of one shard in a table without keys of so many bytes: a larger part would leave less than that for the others.
pub fn shard_bytes(table_bytes: u64, shards: u32) -> u64 {
    (table_bytes / u64::from(shards.max(1))).max(MIN_SHARD_BYTES)
}

/// Maximum bytes that are hashed for a batch.
fn key_limit(batch: &RecordBatch) -> u64 {
    let own = data_bytes(batch) + dictionary_bytes(batch).unwrap_or(0);
    (own as u64).saturating_mul(MAX_KEY_RATIO).saturating_add(MAX_KEY_BYTES)
}

/// Finds a key column and checks its type.
fn find_key(schema: &Schema, name: &str) -> Result<(usize, String, DataType)> {
    let mut found = schema.fields().iter().enumerate().filter(|(_, field)| field.name() == name);
    let Some((index, field)) = found.next() else {
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        return Err(Error::invalid(format!(
            "shard_by: there is no column {name:?}; there are: {}",
            list_names(&names)
        )));
    };
    if found.next().is_some() {
        return Err(Error::invalid(format!("shard_by: more than one column is named {name:?}")));
    }
    if !is_hashable(field.data_type()) {
        return Err(Error::invalid(format!(
            "shard_by: column {name:?} of type {} cannot be a key: numbers, times, strings and binary can",
            field.data_type()
        )));
    }
    Ok((index, name.to_string(), field.data_type().clone()))
}

/// The first names, for an error message: a table may have thousands of columns.
fn list_names(names: &[&str]) -> String {
    const SHOWN: usize = 20;
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}

/// Whether a column of this type can be a key.
pub fn is_hashable(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => is_hashable(values),
        DataType::RunEndEncoded(_, values) => is_hashable(values.data_type()),
        other => other.is_primitive() || other.is_null() || *other == DataType::Boolean || is_bytes(other),
    }
}

fn is_bytes(data_type: &DataType) -> bool {
    use DataType::{Binary, BinaryView, FixedSizeBinary, LargeBinary, LargeUtf8, Utf8, Utf8View};
    matches!(data_type, Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView | FixedSizeBinary(_))
}
