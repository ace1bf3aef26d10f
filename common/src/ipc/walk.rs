//! The shape of a record batch message: which nodes and buffers each column has, in order.

use arrow::datatypes::{DataType, UnionMode};

use crate::Result;

/// One item of a message, in the order in which messages hold them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// A field node; what follows up to the next node belongs to it.
    Node,
    /// A variadic count, and so many buffers after the next two.
    Variadic,
    /// A validity bitmap (may be empty when the node has no nulls).
    Validity,
    /// A union's type ids, one byte a row.
    TypeIds,
    /// A dense union's offsets, four bytes a row.
    UnionOffsets,
    /// Any other buffer.
    Data,
}

/// Calls `each` for every item of a column. `v4` messages have a validity bitmap for unions.
pub(crate) fn walk(data_type: &DataType, v4: bool, each: &mut impl FnMut(Item) -> Result<()>) -> Result<()> {
    use DataType::*;
    each(Item::Node)?;
    match data_type {
        Null | RunEndEncoded(_, _) => {}
        Union(_, _) if !v4 => {}
        _ => each(Item::Validity)?,
    }
    match data_type {
        Null => Ok(()),
        Utf8 | LargeUtf8 | Binary | LargeBinary => {
            each(Item::Data)?;
            each(Item::Data)
        }
        Utf8View | BinaryView => {
            each(Item::Data)?;
            each(Item::Variadic)
        }
        List(field) | LargeList(field) | Map(field, _) => {
            each(Item::Data)?;
            walk(field.data_type(), v4, each)
        }
        ListView(field) | LargeListView(field) => {
            each(Item::Data)?;
            each(Item::Data)?;
            walk(field.data_type(), v4, each)
        }
        FixedSizeList(field, _) => walk(field.data_type(), v4, each),
        Struct(fields) => fields.iter().try_for_each(|field| walk(field.data_type(), v4, each)),
        RunEndEncoded(ends, values) => {
            walk(ends.data_type(), v4, each)?;
            walk(values.data_type(), v4, each)
        }
        Union(fields, mode) => {
            each(Item::TypeIds)?;
            if *mode == UnionMode::Dense {
                each(Item::UnionOffsets)?;
            }
            fields.iter().try_for_each(|(_, field)| walk(field.data_type(), v4, each))
        }
        // Fixed width, boolean, and a dictionary's keys.
        _ => each(Item::Data),
    }
}

/// Calls `each` for every dictionary of a type, in the order in which ids are given: inner before outer.
pub(crate) fn walk_dictionaries(data_type: &DataType, each: &mut impl FnMut()) {
    use DataType::*;
    match data_type {
        Dictionary(_, values) => {
            walk_dictionaries(values, each);
            each();
        }
        List(field) | LargeList(field) | ListView(field) | LargeListView(field) => {
            walk_dictionaries(field.data_type(), each);
        }
        FixedSizeList(field, _) | Map(field, _) | RunEndEncoded(_, field) => {
            walk_dictionaries(field.data_type(), each);
        }
        Struct(fields) => fields.iter().for_each(|field| walk_dictionaries(field.data_type(), each)),
        Union(fields, _) => fields.iter().for_each(|(_, field)| walk_dictionaries(field.data_type(), each)),
        _ => {}
    }
}
