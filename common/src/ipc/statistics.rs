//! Statistics of a part's record batches, by which a scan leaves out those that have no row that it wants.
//!
//! They are computed while the part is written: for each batch and each of its orderable top-level columns the number of nulls,
//! and a lower and an upper bound of the values. The part keeps them in the custom metadata of its footer, as
//! [`STATISTICS_KEY`]: a version, a colon, and base64 of a CRC-32C (little-endian) and the message
//! [`PartStatistics`]. A value that is damaged, or of another version, is not used.
//!
//! | module | what it has |
//! |---|---|
//! | `column_values` | bounds of arrays, and arrays of bounds |
//! | `extremes` | the least and the greatest value of an array |
//! | `bound` | bounds as bytes that have their order, and lists of them |
//! | `bound_filter`, [`comparison`] | conditions on bounds, which hold wherever a filter can select a row |
//! | `value_range` | ranges of values, to which long lists of them are shortened |
//! | `part_bounds` | bounds of a whole part, for the catalog |

mod bound;
mod bound_filter;
mod column_values;
pub mod comparison;
mod extremes;
mod part_bounds;
mod value_range;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Schema};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use prost::Message;

use crate::wire::statistics::{ColumnStatistics, PartStatistics};
use crate::{Error, Result};
use bound::{Bound, BoundList, BoundSide, decode_bounds};
pub use bound_filter::{BoundFilter, BoundOperator, ColumnRange, schema_checksum};
pub use column_values::is_orderable;
use column_values::{bounds_array, value_bounds};
use part_bounds::ColumnTotals;
pub use part_bounds::{MAX_PART_BOUNDS_BYTES, part_may_match};

/// The key of the statistics in the custom metadata of a part's footer.
pub const STATISTICS_KEY: &str = "volley.statistics";
/// Maximum bytes of the value of [`STATISTICS_KEY`].
pub const MAX_STATISTICS_BYTES: usize = 256 << 10;
/// Maximum number of columns of a part with statistics: those that its table names, or the first ones of its schema that are
/// orderable.
pub const MAX_STATISTICS_COLUMNS: usize = 64;

/// What the value begins with.
const VERSION: &str = "1:";
/// Bytes of the checksum before the message.
const CHECKSUM_BYTES: usize = 4;
/// Maximum bytes of the message.
const MAX_MESSAGE_BYTES: usize = (MAX_STATISTICS_BYTES - VERSION.len()) / 4 * 3 - CHECKSUM_BYTES;
/// Bytes of an encoded number of nulls or rows, about.
const NUMBER_BYTES: usize = 5;

/// The statistics of a part that is being written. Its memory is bounded: when there are too many batches, neighbours share one
/// entry.
#[derive(Debug)]
pub struct StatisticsBuilder {
    columns: Vec<ColumnEntries>,
    /// Batches and rows of each entry.
    messages: Vec<u32>,
    rows: Vec<u64>,
    /// Batches that share an entry.
    span: u32,
    /// Maximum bytes of the message, unless a single entry takes more.
    max_bytes: usize,
}

/// The entries of one column.
#[derive(Debug)]
struct ColumnEntries {
    column: usize,
    nulls: Vec<u64>,
    minimums: BoundList,
    maximums: BoundList,
}

impl StatisticsBuilder {
    /// Of a part without batches: of the first columns.
    pub fn new(schema: &Schema) -> Self {
        Self::of_columns(schema, 0..schema.fields().len())
    }

    /// Of a part without batches: of these columns, in this order, without those that have none.
    pub fn of_columns(schema: &Schema, columns: impl IntoIterator<Item = usize>) -> Self {
        let has_order =
            |column: &usize| schema.fields().get(*column).is_some_and(|field| is_orderable(field.data_type()));
        let orderable = columns.into_iter().filter(has_order);
        let columns = orderable.take(MAX_STATISTICS_COLUMNS).map(ColumnEntries::new).collect();
        StatisticsBuilder { columns, messages: Vec::new(), rows: Vec::new(), span: 1, max_bytes: MAX_MESSAGE_BYTES }
    }

    /// Keeps statistics of about this many bytes, and at least one entry.
    pub fn limit(&mut self, bytes: usize) {
        self.max_bytes = bytes.min(MAX_MESSAGE_BYTES);
    }

    /// Adds a batch of the schema.
    pub fn add(&mut self, batch: &RecordBatch) {
        let rows = batch.num_rows() as u64;
        let shares = match (self.messages.last_mut(), self.rows.last_mut()) {
            (Some(last), Some(last_rows)) if *last < self.span => {
                *last += 1;
                *last_rows += rows;
                true
            }
            _ => {
                self.messages.push(1);
                self.rows.push(rows);
                false
            }
        };
        for entries in &mut self.columns {
            entries.add(batch.column(entries.column), shares);
        }
        if self.messages.len() > 1 && self.encoded_bytes() > self.max_bytes {
            self.join_pairs();
        }
    }

    /// Bytes of the message, about.
    fn encoded_bytes(&self) -> usize {
        let of_entries = 2 * NUMBER_BYTES * self.messages.len();
        self.columns.iter().map(ColumnEntries::encoded_bytes).sum::<usize>() + of_entries
    }

    /// Makes one entry of each two neighbours.
    fn join_pairs(&mut self) {
        self.span = self.span.saturating_mul(2);
        self.messages = self.messages.chunks(2).map(|pair| pair.iter().sum()).collect();
        self.rows = self.rows.chunks(2).map(|pair| pair.iter().sum()).collect();
        self.columns.iter_mut().for_each(ColumnEntries::join_pairs);
    }

    /// Nulls and bounds of all batches, for the part's row in the catalog: of the columns `first`, then of the others, as far as
    /// they fit into [`MAX_PART_BOUNDS_BYTES`]. Empty: of none.
    pub fn part_bounds(&self, first: &[usize]) -> Bytes {
        let (first, others): (Vec<&ColumnEntries>, Vec<&ColumnEntries>) =
            self.columns.iter().partition(|entries| first.contains(&entries.column));
        part_bounds::encode(first.into_iter().chain(others).map(ColumnEntries::totals))
    }

    /// The value of [`STATISTICS_KEY`]; `None` if there is nothing to say, and the part has none.
    pub fn finish(mut self) -> Option<String> {
        if self.columns.is_empty() || self.messages.is_empty() {
            return None;
        }
        // The numbers may have taken more bytes than expected.
        while self.message().encoded_len() > MAX_MESSAGE_BYTES {
            if self.messages.len() == 1 {
                return None;
            }
            self.join_pairs();
        }
        let message = self.message().encode_to_vec();
        let checked = [&crc32c::crc32c(&message).to_le_bytes()[..], &message].concat();
        Some(format!("{VERSION}{}", STANDARD.encode(checked)))
    }

    fn message(&self) -> PartStatistics {
        let columns = self.columns.iter().map(ColumnEntries::message).collect();
        PartStatistics { messages: self.messages.clone(), rows: self.rows.clone(), columns }
    }
}

impl ColumnEntries {
    fn new(column: usize) -> Self {
        ColumnEntries { column, nulls: Vec::new(), minimums: BoundList::default(), maximums: BoundList::default() }
    }

    /// Adds the values of a batch; to the last entry, if they share one with those before.
    fn add(&mut self, array: &ArrayRef, shares: bool) {
        let nulls = array.null_count() as u64;
        let (minimum, maximum) = value_bounds(array);
        match self.nulls.last_mut() {
            Some(last) if shares => {
                *last += nulls;
                self.minimums.join_last(minimum, BoundSide::Minimum);
                self.maximums.join_last(maximum, BoundSide::Maximum);
            }
            _ => {
                self.nulls.push(nulls);
                self.minimums.push(minimum);
                self.maximums.push(maximum);
            }
        }
    }

    fn join_pairs(&mut self) {
        self.nulls = self.nulls.chunks(2).map(|pair| pair.iter().sum()).collect();
        self.minimums.join_pairs(BoundSide::Minimum);
        self.maximums.join_pairs(BoundSide::Maximum);
    }

    fn totals(&self) -> ColumnTotals {
        ColumnTotals {
            column: self.column,
            nulls: self.nulls.iter().sum(),
            minimum: self.minimums.joined(BoundSide::Minimum),
            maximum: self.maximums.joined(BoundSide::Maximum),
        }
    }

    fn encoded_bytes(&self) -> usize {
        self.minimums.encoded_bytes() + self.maximums.encoded_bytes() + NUMBER_BYTES * self.nulls.len()
    }

    fn message(&self) -> ColumnStatistics {
        ColumnStatistics {
            column: self.column as u32,
            nulls: self.nulls.clone(),
            minimum_lengths: self.minimums.lengths.clone().into(),
            minimums: self.minimums.bounds.clone().into(),
            maximum_lengths: self.maximums.lengths.clone().into(),
            maximums: self.maximums.bounds.clone().into(),
        }
    }
}

/// The statistics of a part: of runs of consecutive record batches, its entries.
#[derive(Clone, Debug)]
pub struct MessageStatistics {
    decoded: PartStatistics,
}

/// One run of consecutive record batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatisticsEntry {
    /// How many.
    pub messages: u32,
    /// Their rows.
    pub rows: u64,
}

/// What the entries say of one column: one element for each entry.
#[derive(Clone, Debug)]
pub struct ColumnBounds {
    /// Numbers of nulls.
    pub nulls: UInt64Array,
    /// Values of the column's type that no value is less than; null: not known, or all are null.
    pub minimums: ArrayRef,
    /// Values of the column's type that no value is greater than; null: not known, or all are null.
    pub maximums: ArrayRef,
    least: Vec<Bound>,
    greatest: Vec<Bound>,
}

impl ColumnBounds {
    /// What an entry says, for a [`BoundFilter`]; `None`: there is no such entry.
    pub fn range(&self, entry: usize) -> Option<ColumnRange<'_>> {
        let nulls = *self.nulls.values().get(entry)?;
        Some(ColumnRange::new(nulls, self.least.get(entry)?.listed(), self.greatest.get(entry)?.listed()))
    }
}

impl MessageStatistics {
    /// Reads the value of [`STATISTICS_KEY`].
    ///
    /// # Errors
    /// UNIMPLEMENTED: another version wrote it. DATA_LOSS: it is damaged.
    pub fn decode(value: &str) -> Result<Self> {
        let unknown = || Error::unimplemented("statistics of an unknown version");
        let damaged = |why: &str| Error::data_loss(format!("the statistics are damaged: {why}"));
        let encoded = value.strip_prefix(VERSION).ok_or_else(unknown)?;
        if value.len() > MAX_STATISTICS_BYTES {
            return Err(damaged("too long"));
        }
        let bytes = STANDARD.decode(encoded).map_err(|_| damaged("no base64"))?;
        let (checksum, message) = bytes.split_first_chunk().ok_or_else(|| damaged("too short"))?;
        if crc32c::crc32c(message) != u32::from_le_bytes(*checksum) {
            return Err(damaged("another checksum"));
        }
        let decoded = PartStatistics::decode(message).map_err(|_| damaged("no statistics"))?;
        if decoded.rows.len() != decoded.messages.len() || decoded.messages.contains(&0) {
            return Err(damaged("entries without batches or rows"));
        }
        Ok(MessageStatistics { decoded })
    }

    /// The entries, in the order of the batches.
    pub fn entries(&self) -> impl Iterator<Item = StatisticsEntry> {
        let entries = self.decoded.messages.iter().zip(&self.decoded.rows);
        entries.map(|(messages, rows)| StatisticsEntry { messages: *messages, rows: *rows })
    }

    /// What is known of a column of this type; `None`: nothing.
    pub fn column(&self, column: usize, data_type: &DataType) -> Option<ColumnBounds> {
        let found = self.decoded.columns.iter().find(|found| found.column as usize == column)?;
        let least = decode_bounds(&found.minimum_lengths, &found.minimums)?;
        let greatest = decode_bounds(&found.maximum_lengths, &found.maximums)?;
        let (minimums, maximums) = (bounds_array(data_type, &least)?, bounds_array(data_type, &greatest)?);
        let lengths = [found.nulls.len(), minimums.len(), maximums.len()];
        if lengths.iter().any(|length| *length != self.decoded.messages.len()) {
            return None;
        }
        Some(ColumnBounds { nulls: UInt64Array::from(found.nulls.clone()), minimums, maximums, least, greatest })
    }
}

#[cfg(test)]
mod tests;
