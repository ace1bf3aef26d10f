//! The dictionaries of a part. A file has one dictionary for each id, which is written when the part is sealed and is one
//! message. A small one, and an ordered one of any size, is stored as it was put; of others only the values that the part's
//! rows use.

use ahash::HashMap;
use arrow::array::{
    Array, ArrayData, ArrayRef, AsArray, DictionaryArray, OffsetSizeTrait, RecordBatch, UInt64Array,
    downcast_dictionary_array, make_array, new_empty_array,
};
use arrow::datatypes::{ArrowDictionaryKeyType, ArrowNativeType, DataType, SchemaRef};
use arrow::error::ArrowError;
use volley_common::ipc::MAX_SPLIT_BYTES;
use volley_common::ipc::dictionary_keys::{dictionary_fields, keys_schema, replace_dictionaries};
use volley_common::ipc::shrink::shrink_to_fit;
use volley_common::ipc::size::array_bytes;
use volley_common::ipc::take::take_values;

/// A dictionary of at most this many bytes is stored with all its values, in their order.
pub const MAX_WHOLE_BYTES: usize = 64 << 10;
/// Maximum bytes of a batch that is stored whole, and of the values of a dictionary that it uses: a node that passes it on,
/// or compresses it, holds all of it in memory.
pub const MAX_WHOLE_BATCH_BYTES: usize = 64 << 20;
/// Memory of a value's new key, bytes, about.
const KEY_MEMORY: usize = 24;

/// The outermost dictionaries of a part. Those within the values of others are values like any other.
pub struct PartDictionaries {
    schema: SchemaRef,
    /// With the type of the keys in place of each dictionary.
    keys_schema: SchemaRef,
    /// In the order of their ids; empty until the first batch.
    dictionaries: Vec<PartDictionary>,
}

struct PartDictionary {
    /// All values, as the last batch had them.
    source: ArrayData,
    /// Its order has a meaning.
    is_ordered: bool,
    /// `None`: all values are stored.
    used: Option<UsedValues>,
    /// Bytes of all values if they are stored.
    whole_bytes: usize,
}

/// The values of `source` that rows use, in the order of their first use.
#[derive(Default)]
struct UsedValues {
    new_key_of: HashMap<usize, usize>,
    keys: Vec<u64>,
    bytes: usize,
}

impl PartDictionaries {
    /// Of a part without batches.
    pub fn new(schema: SchemaRef) -> Self {
        let keys_schema = keys_schema(&schema);
        PartDictionaries { schema, keys_schema, dictionaries: Vec::new() }
    }

    /// Adds the values that the batch uses. Returns the batch with the part's keys in place of its dictionaries; `None`,
    /// and nothing is changed, if it has another dictionary than the part, or if a dictionary would become too large for
    /// one message. The first batch is refused only if it can be split (`can_split`, and it has several rows), or uses
    /// more than [`MAX_WHOLE_BATCH_BYTES`].
    pub fn add(&mut self, batch: &RecordBatch, can_split: bool) -> Result<Option<RecordBatch>, ArrowError> {
        if self.schema == self.keys_schema {
            return Ok(Some(batch.clone()));
        }
        let found = dictionary_arrays(batch)?;
        if self.dictionaries.is_empty() {
            self.dictionaries = self.first(&found);
        } else if !self.dictionaries.iter().zip(&found).all(|(dictionary, array)| dictionary.fits(array)) {
            return Ok(None);
        }
        let before: Vec<usize> = self.dictionaries.iter().map(PartDictionary::used_len).collect();
        for (dictionary, array) in self.dictionaries.iter_mut().zip(&found) {
            dictionary.add(array);
        }
        let is_first = before.iter().all(|len| *len == 0);
        let most = match (is_first, can_split) {
            (true, true) if batch.num_rows() <= 1 => usize::MAX,
            (true, false) => MAX_WHOLE_BATCH_BYTES,
            _ => MAX_SPLIT_BYTES,
        };
        if self.dictionaries.iter().any(|dictionary| dictionary.used_bytes() > most) {
            self.dictionaries.iter_mut().zip(before).for_each(|(dictionary, len)| dictionary.truncate(len));
            return Ok(None);
        }
        let mut dictionaries = self.dictionaries.iter();
        let mut keys = |data| match dictionaries.next() {
            Some(dictionary) => dictionary.keys(data),
            None => Err(ArrowError::SchemaError("more dictionaries than the schema has".into())),
        };
        replace_dictionaries(batch, &self.keys_schema, &mut keys).map(Some)
    }

    fn first(&self, found: &[ArrayData]) -> Vec<PartDictionary> {
        let dictionary = |(array, is_ordered): (&ArrayData, bool)| {
            let source = array.child_data()[0].clone();
            let bytes = array_bytes(&make_array(source.clone()));
            let is_whole = is_ordered || bytes <= MAX_WHOLE_BYTES;
            let (used, whole_bytes) = if is_whole { (None, bytes) } else { (Some(UsedValues::default()), 0) };
            PartDictionary { source, is_ordered, used, whole_bytes }
        };
        let ordered = dictionary_fields(&self.schema).into_iter().map(|field| field.dict_is_ordered() == Some(true));
        found.iter().zip(ordered).map(dictionary).collect()
    }

    /// Bytes of the values that are not written yet.
    pub fn bytes(&self) -> usize {
        self.dictionaries.iter().map(PartDictionary::used_bytes).sum::<usize>() + self.whole_bytes()
    }

    /// Those of [`PartDictionaries::bytes`] that each part of the put has, whatever its rows use.
    pub fn whole_bytes(&self) -> usize {
        self.dictionaries.iter().map(|dictionary| dictionary.whole_bytes).sum()
    }

    /// Memory for new keys, bytes.
    pub fn memory(&self) -> usize {
        self.dictionaries.iter().map(|dictionary| dictionary.used_len() * KEY_MEMORY).sum()
    }

    /// A batch without rows that has the dictionaries; `None` if there are none.
    pub fn finish(&self) -> Result<Option<RecordBatch>, ArrowError> {
        if self.dictionaries.is_empty() {
            return Ok(None);
        }
        let mut dictionaries = self.dictionaries.iter();
        let mut with_values = |data: ArrayData| {
            let values = match dictionaries.next() {
                Some(dictionary) => dictionary.values()?,
                None => return Err(ArrowError::SchemaError("more dictionaries than the schema has".into())),
            };
            data.into_builder().child_data(vec![values]).build()
        };
        let columns = self.schema.fields().iter().map(|field| new_empty_array(field.data_type())).collect();
        let empty = RecordBatch::try_new(self.schema.clone(), columns)?;
        replace_dictionaries(&empty, &self.schema, &mut with_values).map(Some)
    }
}

/// The outermost dictionary arrays of a batch, in the order of their ids.
fn dictionary_arrays(batch: &RecordBatch) -> Result<Vec<ArrayData>, ArrowError> {
    let mut found = Vec::new();
    let mut collect = |data: ArrayData| {
        found.push(data.clone());
        Ok(data)
    };
    replace_dictionaries(batch, &batch.schema(), &mut collect)?;
    Ok(found)
}

impl PartDictionary {
    /// Whether the array's keys mean the same values here: its dictionary equals or extends this one.
    fn fits(&self, array: &ArrayData) -> bool {
        let (old, new) = (&self.source, &array.child_data()[0]);
        if old.ptr_eq(new) || array.len() == array.null_count() {
            return true;
        }
        match old.len().cmp(&new.len()) {
            std::cmp::Ordering::Greater => false,
            std::cmp::Ordering::Equal => old == new,
            std::cmp::Ordering::Less => {
                self.may_grow_to(new) && !has_nested_values(new.data_type()) && new.slice(0, old.len()) == *old
            }
        }
    }

    /// Whether the dictionary would be stored like this one if it were the part's first.
    fn may_grow_to(&self, new: &ArrayData) -> bool {
        self.used.is_some() || self.is_ordered || array_bytes(&make_array(new.clone())) <= MAX_WHOLE_BYTES
    }

    /// Adopts the array's dictionary, which fits, and the values that it uses.
    fn add(&mut self, array: &ArrayData) {
        if array.len() == array.null_count() {
            return;
        }
        // Of two equal dictionaries the newer is kept, because later batches most likely share it.
        let source = &array.child_data()[0];
        if self.used.is_none() && !self.source.ptr_eq(source) {
            self.whole_bytes = array_bytes(&make_array(source.clone()));
        }
        self.source = source.clone();
        if let Some(used) = &mut self.used {
            let array = &*make_array(array.clone());
            downcast_dictionary_array!(array => used.add(array), _ => {});
        }
    }

    fn used_len(&self) -> usize {
        self.used.as_ref().map_or(0, |used| used.keys.len())
    }

    fn used_bytes(&self) -> usize {
        self.used.as_ref().map_or(0, |used| used.bytes)
    }

    /// Forgets the values that were added last.
    fn truncate(&mut self, len: usize) {
        let Some(used) = &mut self.used else { return };
        let values = make_array(self.source.clone());
        for key in used.keys.drain(len..) {
            used.new_key_of.remove(&(key as usize));
            used.bytes -= value_bytes(&values, key as usize);
        }
    }

    /// The keys of a dictionary array, as the part has them.
    fn keys(&self, array: ArrayData) -> Result<ArrayData, ArrowError> {
        let DataType::Dictionary(key_type, _) = array.data_type().clone() else {
            return Err(ArrowError::SchemaError("not a dictionary".into()));
        };
        match &self.used {
            None => array.into_builder().data_type(*key_type).child_data(Vec::new()).build(),
            Some(used) => {
                let array = &*make_array(array);
                Ok(downcast_dictionary_array!(
                    array => used.new_keys(array),
                    _ => return Err(ArrowError::SchemaError("not a dictionary".into()))
                ))
            }
        }
    }

    /// The values to store.
    fn values(&self) -> Result<ArrayData, ArrowError> {
        let Some(used) = &self.used else { return Ok(self.source.clone()) };
        let values = take_values(&make_array(self.source.clone()), &UInt64Array::from(used.keys.clone()))?;
        let batch = RecordBatch::try_from_iter_with_nullable([("values", values, true)])?;
        Ok(shrink_to_fit(&batch).column(0).to_data())
    }
}

impl UsedValues {
    fn add<K: ArrowDictionaryKeyType>(&mut self, array: &DictionaryArray<K>) {
        let values = array.values();
        for key in array.keys().iter().flatten().map(ArrowNativeType::as_usize) {
            let next = self.keys.len();
            self.new_key_of.entry(key).or_insert_with(|| {
                self.keys.push(key as u64);
                self.bytes += value_bytes(values, key);
                next
            });
        }
    }

    fn new_keys<K: ArrowDictionaryKeyType>(&self, array: &DictionaryArray<K>) -> ArrayData {
        // The key of a null may have any value.
        let new_key = |key: K::Native| K::Native::usize_as(self.new_key_of.get(&key.as_usize()).copied().unwrap_or(0));
        array.keys().unary::<_, K>(new_key).into_data()
    }
}

/// Bytes of a value in the dictionary's message, at most.
fn value_bytes(values: &ArrayRef, at: usize) -> usize {
    use DataType::*;
    fn length<O: OffsetSizeTrait>(offsets: &[O], at: usize) -> usize {
        (offsets[at + 1] - offsets[at]).as_usize() + size_of::<O>() + 1
    }
    match values.data_type() {
        Utf8 => length(values.as_string::<i32>().value_offsets(), at),
        LargeUtf8 => length(values.as_string::<i64>().value_offsets(), at),
        Binary => length(values.as_binary::<i32>().value_offsets(), at),
        LargeBinary => length(values.as_binary::<i64>().value_offsets(), at),
        // With the whole value, also if it is shared.
        Utf8View => values.as_string_view().views()[at] as u32 as usize + 17,
        BinaryView => values.as_binary_view().views()[at] as u32 as usize + 17,
        other => other.primitive_width().map_or_else(|| array_bytes(&values.slice(at, 1)), |width| width + 1),
    }
}

/// Whether equality of slices must not be relied on: of dictionaries and unions.
fn has_nested_values(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, _) | DataType::Union(_, _) => true,
        DataType::RunEndEncoded(_, values) => has_nested_values(values.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_nested_values(field.data_type())),
        DataType::List(f) | DataType::LargeList(f) | DataType::ListView(f) | DataType::LargeListView(f) => {
            has_nested_values(f.data_type())
        }
        DataType::FixedSizeList(f, _) | DataType::Map(f, _) => has_nested_values(f.data_type()),
        _ => false,
    }
}
