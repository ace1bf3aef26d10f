//! Walks nested types and arrays: what is decided for a leaf holds at every depth.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, OffsetSizeTrait, make_array};
use arrow::datatypes::{DataType, Field, FieldRef};

/// What went wrong, and the path of the column (`a.b.item`), built on the way out of the recursion.
pub struct ColumnError {
    /// Names of the fields, the innermost last, joined by `.`.
    pub path: String,
    /// What is wrong with the column, to follow its name.
    pub text: String,
}

impl ColumnError {
    /// An error about the value itself; callers add names.
    pub fn new(text: impl Into<String>) -> Self {
        ColumnError { path: String::new(), text: text.into() }
    }

    /// The same error, seen from the field that contains it.
    pub fn within(mut self, name: &str) -> Self {
        self.path = if self.path.is_empty() { name.to_string() } else { format!("{name}.{}", self.path) };
        self
    }
}

/// A field with another type; the rest is kept.
pub fn with_type(field: &FieldRef, data_type: DataType) -> FieldRef {
    if *field.data_type() == data_type {
        return field.clone();
    }
    Arc::new(field.as_ref().clone().with_data_type(data_type))
}

/// The type with every child field changed by `change`. Types without child fields are returned as they are; unions,
/// dictionaries and run-end encoded types too.
pub fn map_children<E>(
    data_type: &DataType,
    change: &mut impl FnMut(&FieldRef) -> Result<FieldRef, E>,
) -> Result<DataType, E> {
    use DataType::*;
    Ok(match data_type {
        List(field) => List(change(field)?),
        LargeList(field) => LargeList(change(field)?),
        ListView(field) => ListView(change(field)?),
        LargeListView(field) => LargeListView(change(field)?),
        FixedSizeList(field, size) => FixedSizeList(change(field)?, *size),
        Map(field, sorted) => Map(change(field)?, *sorted),
        Struct(fields) => Struct(fields.iter().map(change).collect::<Result<_, E>>()?),
        other => other.clone(),
    })
}

/// The type with every leaf changed by `change`, in the order of the fields: a leaf is a type without child fields.
pub fn map_leaves(data_type: &DataType, change: &mut impl FnMut(&DataType) -> DataType) -> DataType {
    if !data_type.is_nested() {
        return change(data_type);
    }
    let mapped: Result<DataType, std::convert::Infallible> =
        map_children(data_type, &mut |field| Ok(with_type(field, map_leaves(field.data_type(), change))));
    match mapped {
        Ok(mapped) => mapped,
    }
}

/// Calls `visit` for every leaf array, without values that no row of a list refers to. Dictionaries and run-end encoded
/// arrays count as their values.
pub fn visit_leaves(
    array: &ArrayRef,
    visit: &mut impl FnMut(&ArrayRef) -> Result<(), ColumnError>,
) -> Result<(), ColumnError> {
    use DataType::*;
    let within = |field: &Field, result: Result<(), ColumnError>| result.map_err(|e| e.within(field.name()));
    match array.data_type() {
        Struct(fields) => {
            let mut columns = fields.iter().zip(array.as_struct().columns());
            columns.try_for_each(|(field, column)| within(field, visit_leaves(column, visit)))
        }
        List(field) => {
            let list = array.as_list::<i32>();
            within(field, visit_leaves(&used(list.values(), list.offsets()), visit))
        }
        LargeList(field) => {
            let list = array.as_list::<i64>();
            within(field, visit_leaves(&used(list.values(), list.offsets()), visit))
        }
        Map(_, _) => {
            let map = array.as_map();
            let entries = used(&(Arc::new(map.entries().clone()) as ArrayRef), map.offsets());
            visit_leaves(&entries, visit)
        }
        ListView(field) => within(field, visit_leaves(array.as_list_view::<i32>().values(), visit)),
        LargeListView(field) => within(field, visit_leaves(array.as_list_view::<i64>().values(), visit)),
        FixedSizeList(field, _) => within(field, visit_leaves(array.as_fixed_size_list().values(), visit)),
        Dictionary(_, _) => visit_leaves(array.as_any_dictionary().values(), visit),
        RunEndEncoded(_, _) => match array.to_data().child_data() {
            [_, values] => visit_leaves(&make_array(values.clone()), visit),
            _ => Ok(()),
        },
        _ => visit(array),
    }
}

/// The values between the first and the last offset.
fn used<O: OffsetSizeTrait>(values: &ArrayRef, offsets: &[O]) -> ArrayRef {
    match (offsets.first(), offsets.last()) {
        (Some(first), Some(last)) => values.slice(first.as_usize(), last.as_usize() - first.as_usize()),
        _ => values.slice(0, 0),
    }
}
