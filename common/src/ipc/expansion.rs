//! Bounds what widening allocates. Rows may share values (of views, dictionaries or list views) that the wider type
//! repeats for each, and a null has no bytes until it gets a type: a small message can need more memory than there is.

use arrow::array::{
    Array, AsArray, DictionaryArray, GenericByteArray, OffsetSizeTrait, RecordBatch, downcast_dictionary_array,
};
use arrow::datatypes::{ArrowDictionaryKeyType, ArrowNativeType, ByteArrayType, DataType, Field};

use super::dictionary_keys::dictionary_bytes;
use super::row_bytes::{fixed_bytes, unshared_entries};
use super::size::data_bytes;
use crate::{Error, Result};

/// Maximum bytes of a batch's widened columns, as a multiple of the batch's own ...
const MAX_EXPANSION: u64 = 16;
/// ... plus this many.
const MAX_EXPANSION_BYTES: u64 = 64 << 20;

/// What may still be allocated for one batch.
pub(super) struct ExpansionLimit<'a> {
    batch: &'a RecordBatch,
    /// `None` until the first column is widened: most batches need no sizes.
    left: Option<u64>,
}

impl<'a> ExpansionLimit<'a> {
    pub(super) fn new(batch: &'a RecordBatch) -> Self {
        ExpansionLimit { batch, left: None }
    }

    /// Reserves the bytes of the array under the type `to`, one step of a cast, before it is cast.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED names the field: too many bytes, or more than its offsets can count.
    pub(super) fn reserve(&mut self, array: &dyn Array, to: &DataType, field: &Field) -> Result<()> {
        let left = match self.left {
            Some(left) => left,
            None => limit(self.batch)?,
        };
        let repeated = repeated_entries(array, to);
        let bytes = fixed_bytes(to).saturating_mul(array.len() as u64).saturating_add(repeated.bytes);
        let refused = |reason: String| {
            let (name, from) = (field.name(), array.data_type());
            let remedy = "send fewer rows in a batch, or the table's type";
            Err(Error::exhausted(format!("field {name:?} has the type {from}, which becomes {to}: {reason}; {remedy}")))
        };
        if has_short_offsets(to) && repeated.entries > i32::MAX as u64 {
            return refused(format!("it has {} entries or bytes, and 32-bit offsets end before", repeated.entries));
        }
        if bytes > left {
            return refused(format!("its rows share values, need {bytes} bytes without that, and may have {left}"));
        }
        self.left = Some(left - bytes);
        Ok(())
    }
}

fn limit(batch: &RecordBatch) -> Result<u64> {
    let dictionaries = dictionary_bytes(batch).map_err(|e| Error::internal(format!("a dictionary: {e}")))?;
    Ok((data_bytes(batch) + dictionaries) as u64 * MAX_EXPANSION + MAX_EXPANSION_BYTES)
}

/// What all rows have together if none is shared.
#[derive(Default)]
struct RepeatedEntries {
    /// What offsets count: bytes of texts, or entries of lists.
    entries: u64,
    bytes: u64,
}

impl RepeatedEntries {
    fn texts(bytes: u64) -> Self {
        RepeatedEntries { entries: bytes, bytes }
    }
}

fn repeated_entries(array: &dyn Array, to: &DataType) -> RepeatedEntries {
    use DataType::*;
    let lists = |(entries, bytes): (u64, u64)| {
        // The cast has an index for each entry.
        RepeatedEntries { entries, bytes: bytes.saturating_add(entries.saturating_mul(size_of::<u64>() as u64)) }
    };
    match (array.data_type(), to) {
        (Utf8View, Utf8 | LargeUtf8) => RepeatedEntries::texts(view_lengths(array.as_string_view().views())),
        (BinaryView, Binary | LargeBinary) => RepeatedEntries::texts(view_lengths(array.as_binary_view().views())),
        (ListView(_), List(_) | LargeList(_)) => lists(unshared_entries(array.as_list_view::<i32>())),
        (LargeListView(_), List(_) | LargeList(_)) => lists(unshared_entries(array.as_list_view::<i64>())),
        (Dictionary(_, _), Dictionary(_, _)) => RepeatedEntries::default(),
        (Dictionary(_, values), _) => RepeatedEntries::texts(match values.as_ref() {
            Utf8 => lengths_by_key(array, values_of(array).as_string::<i32>()),
            LargeUtf8 => lengths_by_key(array, values_of(array).as_string::<i64>()),
            Binary => lengths_by_key(array, values_of(array).as_binary::<i32>()),
            LargeBinary => lengths_by_key(array, values_of(array).as_binary::<i64>()),
            _ => 0,
        }),
        _ => RepeatedEntries::default(),
    }
}

fn has_short_offsets(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::Binary | DataType::List(_))
}

/// The length of a view is its lowest 32 bits.
fn view_lengths(views: &[u128]) -> u64 {
    views.iter().map(|view| u64::from(*view as u32)).sum()
}

fn values_of(array: &dyn Array) -> &dyn Array {
    array.as_any_dictionary().values()
}

fn lengths_by_key<T: ByteArrayType>(array: &dyn Array, values: &GenericByteArray<T>) -> u64 {
    fn sum<K: ArrowDictionaryKeyType, O: OffsetSizeTrait>(array: &DictionaryArray<K>, offsets: &[O]) -> u64 {
        let keys = array.keys().iter().flatten().map(ArrowNativeType::as_usize);
        keys.map(|key| (offsets[key + 1] - offsets[key]).as_usize() as u64).fold(0, u64::saturating_add)
    }
    let offsets = values.value_offsets();
    downcast_dictionary_array!(array => sum(array, offsets), _ => 0)
}
