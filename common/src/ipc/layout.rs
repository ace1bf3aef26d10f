//! The layout of a record batch message: which nodes, buffers and dictionaries a type has, in order.

use arrow::datatypes::{DataType, Field, UnionMode};

use crate::Result;

/// One element of a record batch message, in the order in which messages list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LayoutElement {
    /// A field node; the elements up to the next node belong to it.
    Node,
    /// A variadic buffer count, and that many buffers.
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

/// Calls `visit` for every element of a column. Messages of metadata version 4 (`v4`) have a validity bitmap for unions.
pub(super) fn visit_layout(
    data_type: &DataType,
    v4: bool,
    visit: &mut impl FnMut(LayoutElement) -> Result<()>,
) -> Result<()> {
    use DataType::*;
    visit(LayoutElement::Node)?;
    match data_type {
        Null | RunEndEncoded(_, _) => {}
        Union(_, _) if !v4 => {}
        _ => visit(LayoutElement::Validity)?,
    }
    match data_type {
        Null => Ok(()),
        Utf8 | LargeUtf8 | Binary | LargeBinary => {
            visit(LayoutElement::Data)?;
            visit(LayoutElement::Data)
        }
        Utf8View | BinaryView => {
            visit(LayoutElement::Data)?;
            visit(LayoutElement::Variadic)
        }
        List(field) | LargeList(field) | Map(field, _) => {
            visit(LayoutElement::Data)?;
            visit_layout(field.data_type(), v4, visit)
        }
        ListView(field) | LargeListView(field) => {
            visit(LayoutElement::Data)?;
            visit(LayoutElement::Data)?;
            visit_layout(field.data_type(), v4, visit)
        }
        FixedSizeList(field, _) => visit_layout(field.data_type(), v4, visit),
        Struct(fields) => fields.iter().try_for_each(|field| visit_layout(field.data_type(), v4, visit)),
        RunEndEncoded(ends, values) => {
            visit_layout(ends.data_type(), v4, visit)?;
            visit_layout(values.data_type(), v4, visit)
        }
        Union(fields, mode) => {
            visit(LayoutElement::TypeIds)?;
            if *mode == UnionMode::Dense {
                visit(LayoutElement::UnionOffsets)?;
            }
            fields.iter().try_for_each(|(_, field)| visit_layout(field.data_type(), v4, visit))
        }
        // Fixed width, boolean, and a dictionary's keys.
        _ => visit(LayoutElement::Data),
    }
}

/// Calls `visit` for every dictionary of a type, in the order of their ids: inner before outer.
pub(super) fn visit_dictionaries(data_type: &DataType, visit: &mut impl FnMut()) {
    use DataType::*;
    match data_type {
        Dictionary(_, values) => {
            visit_dictionaries(values, visit);
            visit();
        }
        List(field) | LargeList(field) | ListView(field) | LargeListView(field) => {
            visit_dictionaries(field.data_type(), visit);
        }
        FixedSizeList(field, _) | Map(field, _) | RunEndEncoded(_, field) => {
            visit_dictionaries(field.data_type(), visit);
        }
        Struct(fields) => fields.iter().for_each(|field| visit_dictionaries(field.data_type(), visit)),
        Union(fields, _) => fields.iter().for_each(|(_, field)| visit_dictionaries(field.data_type(), visit)),
        _ => {}
    }
}

/// A type's direct child fields; a dictionary's are those of its values.
pub fn child_fields(data_type: &DataType) -> Vec<&Field> {
    use DataType::*;
    match data_type {
        List(field) | LargeList(field) | ListView(field) | LargeListView(field) => vec![field],
        FixedSizeList(field, _) | Map(field, _) => vec![field],
        RunEndEncoded(ends, values) => vec![ends, values],
        Struct(fields) => fields.iter().map(|f| f.as_ref()).collect(),
        Union(fields, _) => fields.iter().map(|(_, f)| f.as_ref()).collect(),
        Dictionary(_, values) => child_fields(values),
        _ => Vec::new(),
    }
}
