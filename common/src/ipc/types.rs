//! Which types are taken: arrow's conversion panics on many malformed schemas, so they are looked at first.

use arrow::datatypes::{DataType, Field, UnionMode};
use arrow_ipc as ipc;
use ipc::{DateUnit, IntervalUnit, Precision, TimeUnit, Type};

use crate::{Error, Result};

/// Checks a verified schema flatbuffer: what arrow's conversion takes for granted.
pub(super) fn check_schema(schema: &ipc::Schema<'_>) -> Result<()> {
    if schema.endianness() != ipc::Endianness::Little {
        return Err(Error::invalid("the schema says that the data is big-endian: send little-endian data"));
    }
    let fields = schema.fields().ok_or_else(|| Error::invalid("the schema has no list of fields"))?;
    fields.iter().try_for_each(|field| check_fb(field, field.name().unwrap_or_default()))
}

fn bad<T>(path: &str, what: impl std::fmt::Display) -> Result<T> {
    Err(Error::invalid(format!("the schema's field {path:?} {what}")))
}

fn check_fb(field: ipc::Field<'_>, path: &str) -> Result<()> {
    if let Some(dictionary) = field.dictionary() {
        match dictionary.indexType() {
            Some(int) if good_int(&int) => {}
            _ => return bad(path, "has a dictionary without a proper index type"),
        }
    }
    if !good_type(&field) {
        let kind = field.type_type().variant_name().unwrap_or("unknown");
        return bad(path, format!("has a {kind} type that is malformed or not supported"));
    }
    let children = field.children();
    let count = children.map_or(0, |list| list.len());
    let wanted = match field.type_type() {
        Type::List | Type::LargeList | Type::ListView | Type::LargeListView => Some(1),
        Type::FixedSizeList | Type::Map => Some(1),
        Type::RunEndEncoded => Some(2),
        Type::Struct_ | Type::Union => None,
        _ => Some(0),
    };
    if wanted.is_some_and(|wanted| wanted != count) {
        return bad(path, format!("has {count} children, its type {}", wanted.unwrap_or(0)));
    }
    let mut children = children.into_iter().flatten();
    children.try_for_each(|child| check_fb(child, &format!("{path}.{}", child.name().unwrap_or_default())))
}

fn good_int(int: &ipc::Int<'_>) -> bool {
    matches!(int.bitWidth(), 8 | 16 | 32 | 64)
}

/// Whether the type's own table is there and says something that arrow knows.
fn good_type(field: &ipc::Field<'_>) -> bool {
    match field.type_type() {
        Type::Null | Type::Bool | Type::Binary | Type::BinaryView | Type::LargeBinary => true,
        Type::Utf8 | Type::Utf8View | Type::LargeUtf8 => true,
        Type::List | Type::LargeList | Type::ListView | Type::LargeListView => true,
        Type::Struct_ | Type::RunEndEncoded => true,
        Type::Int => field.type_as_int().is_some_and(|t| good_int(&t)),
        Type::FixedSizeBinary => field.type_as_fixed_size_binary().is_some_and(|t| t.byteWidth() >= 0),
        Type::FixedSizeList => field.type_as_fixed_size_list().is_some_and(|t| t.listSize() >= 0),
        Type::Map => field.type_as_map().is_some(),
        Type::FloatingPoint => field
            .type_as_floating_point()
            .is_some_and(|t| t.precision().0 <= Precision::DOUBLE.0 && t.precision().0 >= 0),
        Type::Date => field.type_as_date().is_some_and(|t| matches!(t.unit(), DateUnit::DAY | DateUnit::MILLISECOND)),
        Type::Time => field.type_as_time().is_some_and(|t| match t.bitWidth() {
            32 => matches!(t.unit(), TimeUnit::SECOND | TimeUnit::MILLISECOND),
            64 => matches!(t.unit(), TimeUnit::MICROSECOND | TimeUnit::NANOSECOND),
            _ => false,
        }),
        Type::Timestamp => field.type_as_timestamp().is_some_and(|t| good_unit(t.unit())),
        Type::Duration => field.type_as_duration().is_some_and(|t| good_unit(t.unit())),
        Type::Interval => field
            .type_as_interval()
            .is_some_and(|t| (IntervalUnit::YEAR_MONTH.0..=IntervalUnit::MONTH_DAY_NANO.0).contains(&t.unit().0)),
        Type::Decimal => field.type_as_decimal().is_some_and(|t| good_decimal(&t)),
        Type::Union => good_union(field),
        _ => false,
    }
}

fn good_unit(unit: TimeUnit) -> bool {
    matches!(unit, TimeUnit::SECOND | TimeUnit::MILLISECOND | TimeUnit::MICROSECOND | TimeUnit::NANOSECOND)
}

fn good_decimal(decimal: &ipc::Decimal<'_>) -> bool {
    let most = match decimal.bitWidth() {
        32 => 9,
        64 => 18,
        128 => 38,
        256 => 76,
        _ => return false,
    };
    (1..=most).contains(&decimal.precision()) && i8::try_from(decimal.scale()).is_ok()
}

/// A union's type ids: one a child, all different, 0 to 127.
fn good_union(field: &ipc::Field<'_>) -> bool {
    let Some(union) = field.type_as_union() else { return false };
    let children = field.children().map_or(0, |list| list.len());
    let mut seen = [false; 128];
    let mut fresh = |id: i32| {
        let slot = usize::try_from(id).ok().and_then(|id| seen.get_mut(id));
        slot.is_some_and(|slot| !std::mem::replace(slot, true))
    };
    let ids = union.typeIds().map_or(children <= 128, |ids| ids.len() == children && ids.iter().all(&mut fresh));
    ids && matches!(union.mode(), ipc::UnionMode::Sparse | ipc::UnionMode::Dense)
}

/// Checks a field of arrow's for what IPC cannot carry, and for types that contradict themselves.
pub(super) fn check_field(field: &Field, path: &str) -> Result<()> {
    check_type(field.data_type(), path)
}

fn check_type(data_type: &DataType, path: &str) -> Result<()> {
    match data_type {
        DataType::Dictionary(_, values) if matches!(**values, DataType::Dictionary(_, _)) => {
            return bad(path, "is a dictionary of a dictionary, which Arrow IPC cannot carry: decode one of them");
        }
        DataType::Dictionary(keys, values) => {
            if !keys.is_dictionary_key_type() {
                return bad(path, format!("is a dictionary with keys of type {keys}"));
            }
            return check_type(values, path);
        }
        DataType::RunEndEncoded(ends, _) if !ends.data_type().is_run_ends_type() => {
            return bad(path, format!("is run-end encoded with ends of type {}", ends.data_type()));
        }
        DataType::Map(entries, _) if !matches!(entries.data_type(), DataType::Struct(two) if two.len() == 2) => {
            return bad(path, "is a map whose entries are not a struct of keys and values");
        }
        DataType::Union(fields, UnionMode::Dense | UnionMode::Sparse) if fields.is_empty() => {
            return bad(path, "is a union of nothing");
        }
        _ => {}
    }
    children(data_type).into_iter().try_for_each(|child| check_field(child, &format!("{path}.{}", child.name())))
}

/// A type's direct child fields; a dictionary's are those of its values.
pub(super) fn children(data_type: &DataType) -> Vec<&Field> {
    use DataType::*;
    match data_type {
        List(field) | LargeList(field) | ListView(field) | LargeListView(field) => vec![field],
        FixedSizeList(field, _) | Map(field, _) => vec![field],
        RunEndEncoded(ends, values) => vec![ends, values],
        Struct(fields) => fields.iter().map(|f| f.as_ref()).collect(),
        Union(fields, _) => fields.iter().map(|(_, f)| f.as_ref()).collect(),
        Dictionary(_, values) => children(values),
        _ => Vec::new(),
    }
}
