//! Whether a batch fits into a part: an Arrow file has one dictionary per id, which later batches may only extend.

use arrow::array::{Array, ArrayData, ArrayRef, AsArray, RecordBatch, make_array};
use arrow::datatypes::DataType;

/// The current dictionaries of a part, in the order of their ids.
#[derive(Default)]
pub struct PartDictionaries(Vec<ArrayData>);

impl PartDictionaries {
    /// Adopts the batch's dictionaries if each equals or extends the part's; otherwise changes nothing and returns
    /// false.
    ///
    /// Mirrors arrow's `DictionaryTracker`, which detects a replacement only after it has written half of a batch.
    pub fn extend(&mut self, batch: &RecordBatch) -> bool {
        let mut found = Vec::new();
        batch.columns().iter().for_each(|column| collect(column, &mut found));
        if self.0.is_empty() {
            self.0 = found;
            return true;
        }
        let fits = self.0.len() == found.len() && self.0.iter().zip(&found).all(|(old, new)| fits(old, new));
        if fits {
            for (old, new) in self.0.iter_mut().zip(found) {
                // Of two equal dictionaries the newer is kept, because later batches most likely share it.
                *old = new;
            }
        }
        fits
    }
}

fn fits(old: &ArrayData, new: &ArrayData) -> bool {
    if old.ptr_eq(new) {
        return true;
    }
    match old.len().cmp(&new.len()) {
        std::cmp::Ordering::Greater => false,
        std::cmp::Ordering::Equal => old == new,
        // Few readers support a delta whose values are dictionaries themselves, and arrow writes slices of unions wrong.
        std::cmp::Ordering::Less => !forbids_delta(new.data_type()) && new.slice(0, old.len()) == *old,
    }
}

fn forbids_delta(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, _) | DataType::Union(_, _) => true,
        DataType::RunEndEncoded(_, values) => forbids_delta(values.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| forbids_delta(field.data_type())),
        DataType::List(f) | DataType::LargeList(f) | DataType::ListView(f) | DataType::LargeListView(f) => {
            forbids_delta(f.data_type())
        }
        DataType::FixedSizeList(f, _) | DataType::Map(f, _) => forbids_delta(f.data_type()),
        _ => false,
    }
}

/// Every dictionary of an array, inner before outer: the order in which ids are assigned.
fn collect(array: &ArrayRef, found: &mut Vec<ArrayData>) {
    match array.data_type() {
        DataType::Dictionary(_, _) => {
            let values = array.as_any_dictionary().values();
            collect(values, found);
            found.push(values.to_data());
        }
        DataType::RunEndEncoded(_, _) => collect(&make_array(array.to_data().child_data()[1].clone()), found),
        DataType::Struct(_) => array.as_struct().columns().iter().for_each(|column| collect(column, found)),
        DataType::Union(fields, _) => {
            fields.iter().for_each(|(id, _)| collect(array.as_union().child(id), found));
        }
        DataType::List(_) => collect(array.as_list::<i32>().values(), found),
        DataType::LargeList(_) => collect(array.as_list::<i64>().values(), found),
        DataType::ListView(_) => collect(array.as_list_view::<i32>().values(), found),
        DataType::LargeListView(_) => collect(array.as_list_view::<i64>().values(), found),
        DataType::FixedSizeList(_, _) => collect(array.as_fixed_size_list().values(), found),
        DataType::Map(_, _) => {
            collect(array.as_map().keys(), found);
            collect(array.as_map().values(), found);
        }
        _ => {}
    }
}
