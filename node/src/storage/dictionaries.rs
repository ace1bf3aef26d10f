//! Whether a batch can go into a part: an Arrow file has one dictionary an id, which later ones may only extend.

use arrow::array::{Array, ArrayData, ArrayRef, AsArray, RecordBatch, make_array};
use arrow::datatypes::DataType;

/// The dictionaries that a part has so far, in the order of their ids.
#[derive(Default)]
pub struct Dictionaries(Vec<ArrayData>);

impl Dictionaries {
    /// Takes the batch's dictionaries, if all of them are the part's or extend them; otherwise changes nothing.
    ///
    /// Mirrors arrow's `DictionaryTracker`, which finds a replacement only when it has written half of a batch.
    pub fn take(&mut self, batch: &RecordBatch) -> bool {
        let mut found = Vec::new();
        batch.columns().iter().for_each(|column| collect(column, &mut found));
        if self.0.is_empty() {
            self.0 = found;
            return true;
        }
        let fits = self.0.len() == found.len() && self.0.iter().zip(&found).all(|(old, new)| fits(old, new));
        if fits {
            for (old, new) in self.0.iter_mut().zip(found) {
                // Of equals the newer is kept: the batches to come share it most likely.
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
        // Few readers take a delta of values that are dictionaries themselves, and arrow writes a part of a union wrong.
        std::cmp::Ordering::Less => !whole_only(new.data_type()) && new.slice(0, old.len()) == *old,
    }
}

fn whole_only(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, _) | DataType::Union(_, _) => true,
        DataType::RunEndEncoded(_, values) => whole_only(values.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| whole_only(field.data_type())),
        DataType::List(f) | DataType::LargeList(f) | DataType::ListView(f) | DataType::LargeListView(f) => {
            whole_only(f.data_type())
        }
        DataType::FixedSizeList(f, _) | DataType::Map(f, _) => whole_only(f.data_type()),
        _ => false,
    }
}

/// Every dictionary of an array, inner before outer: the order in which ids are given.
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
