//! Validates schemas before arrow converts them: its conversion panics on many malformed ones.

use arrow::datatypes::{DataType, Field, UnionMode};
use arrow_ipc as ipc;
use ipc::{DateUnit, IntervalUnit, Precision, TimeUnit, Type};

use super::field_path::FieldPath;
use super::layout::child_fields;
use crate::{Error, Result};

/// The longest name of a field, bytes.
const MAX_FIELD_NAME: usize = 64 << 10;

/// Checks a verified schema flatbuffer for everything that arrow's conversion assumes.
pub(super) fn validate_schema(schema: &ipc::Schema<'_>) -> Result<()> {
    if schema.endianness() != ipc::Endianness::Little {
        return Err(Error::invalid("the schema says that the data is big-endian: send little-endian data"));
    }
    let fields = schema.fields().ok_or_else(|| Error::invalid("the schema has no list of fields"))?;
    fields
        .iter()
        .try_for_each(|field| validate_flatbuffer_field(field, FieldPath::new(field.name().unwrap_or_default())))
}

fn invalid_field<T>(path: FieldPath<'_>, what: impl std::fmt::Display) -> Result<T> {
    Err(Error::invalid(format!("the schema's field {:?} {what}", path.to_string())))
}

/// Checks a field and all below it; `path` names it in errors.
fn validate_flatbuffer_field(field: ipc::Field<'_>, path: FieldPath<'_>) -> Result<()> {
    let name_length = field.name().map_or(0, str::len);
    if name_length > MAX_FIELD_NAME {
        return invalid_field(path, format!("has a name of {name_length} bytes, over the limit of {MAX_FIELD_NAME}"));
    }
    if let Some(dictionary) = field.dictionary() {
        match dictionary.indexType() {
            Some(int) if is_valid_int(&int) => {}
            _ => return invalid_field(path, "has a dictionary without a valid index type"),
        }
    }
    if !is_valid_type(&field) {
        let kind = field.type_type().variant_name().unwrap_or("unknown");
        return invalid_field(path, format!("has a {kind} type that is malformed or not supported"));
    }
    let children = field.children();
    let count = children.map_or(0, |list| list.len());
    let required = match field.type_type() {
        Type::List | Type::LargeList | Type::ListView | Type::LargeListView => Some(1),
        Type::FixedSizeList | Type::Map => Some(1),
        Type::RunEndEncoded => Some(2),
        Type::Struct_ | Type::Union => None,
        _ => Some(0),
    };
    if required.is_some_and(|required| required != count) {
        return invalid_field(path, format!("has {count} children, its type requires {}", required.unwrap_or(0)));
    }
    let mut children = children.into_iter().flatten();
    children.try_for_each(|child| validate_flatbuffer_field(child, path.child(child.name().unwrap_or_default())))
}

fn is_valid_int(int: &ipc::Int<'_>) -> bool {
    matches!(int.bitWidth(), 8 | 16 | 32 | 64)
}

/// Whether the type's own table is present and has values that arrow knows.
fn is_valid_type(field: &ipc::Field<'_>) -> bool {
    match field.type_type() {
        Type::Null | Type::Bool | Type::Binary | Type::BinaryView | Type::LargeBinary => true,
        Type::Utf8 | Type::Utf8View | Type::LargeUtf8 => true,
        Type::List | Type::LargeList | Type::ListView | Type::LargeListView => true,
        Type::Struct_ | Type::RunEndEncoded => true,
        Type::Int => field.type_as_int().is_some_and(|t| is_valid_int(&t)),
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
        Type::Timestamp => field.type_as_timestamp().is_some_and(|t| is_valid_unit(t.unit())),
        Type::Duration => field.type_as_duration().is_some_and(|t| is_valid_unit(t.unit())),
        Type::Interval => field
            .type_as_interval()
            .is_some_and(|t| (IntervalUnit::YEAR_MONTH.0..=IntervalUnit::MONTH_DAY_NANO.0).contains(&t.unit().0)),
        Type::Decimal => field.type_as_decimal().is_some_and(|t| is_valid_decimal(&t)),
        Type::Union => is_valid_union(field),
        _ => false,
    }
}

fn is_valid_unit(unit: TimeUnit) -> bool {
    matches!(unit, TimeUnit::SECOND | TimeUnit::MILLISECOND | TimeUnit::MICROSECOND | TimeUnit::NANOSECOND)
}

fn is_valid_decimal(decimal: &ipc::Decimal<'_>) -> bool {
    let max_precision = match decimal.bitWidth() {
        32 => 9,
        64 => 18,
        128 => 38,
        256 => 76,
        _ => return false,
    };
    (1..=max_precision).contains(&decimal.precision()) && i8::try_from(decimal.scale()).is_ok()
}

/// Whether a union has one type id a child, all different, 0 to 127.
fn is_valid_union(field: &ipc::Field<'_>) -> bool {
    let Some(union) = field.type_as_union() else { return false };
    let children = field.children().map_or(0, |list| list.len());
    let mut seen = [false; 128];
    let mut unused = |id: i32| {
        let slot = usize::try_from(id).ok().and_then(|id| seen.get_mut(id));
        slot.is_some_and(|slot| !std::mem::replace(slot, true))
    };
    let ids = union.typeIds().map_or(children <= 128, |ids| ids.len() == children && ids.iter().all(&mut unused));
    ids && matches!(union.mode(), ipc::UnionMode::Sparse | ipc::UnionMode::Dense)
}

/// Checks an arrow field and all below it for types that IPC cannot encode or that are inconsistent; `path` names it in
/// errors.
pub(super) fn validate_field(field: &Field, path: FieldPath<'_>) -> Result<()> {
    validate_type(field.data_type(), path)
}

fn validate_type(data_type: &DataType, path: FieldPath<'_>) -> Result<()> {
    match data_type {
        DataType::Dictionary(_, values) if matches!(**values, DataType::Dictionary(_, _)) => {
            return invalid_field(
                path,
                "is a dictionary of a dictionary, which Arrow IPC cannot encode: decode one of them",
            );
        }
        DataType::Dictionary(keys, values) => {
            if !keys.is_dictionary_key_type() {
                return invalid_field(path, format!("is a dictionary with keys of type {keys}"));
            }
            return validate_type(values, path);
        }
        DataType::RunEndEncoded(ends, _) if !ends.data_type().is_run_ends_type() => {
            return invalid_field(path, format!("is run-end encoded with ends of type {}", ends.data_type()));
        }
        DataType::Map(entries, _) if !matches!(entries.data_type(), DataType::Struct(two) if two.len() == 2) => {
            return invalid_field(path, "is a map whose entries are not a struct of keys and values");
        }
        DataType::Timestamp(_, Some(zone)) if zone.is_empty() => {
            // Arrow's encoder would leave it out.
            return invalid_field(path, "has an empty time zone: name one, as UTC, or send none");
        }
        DataType::Union(fields, UnionMode::Dense | UnionMode::Sparse) if fields.is_empty() => {
            return invalid_field(path, "is a union without children");
        }
        _ => {}
    }
    child_fields(data_type).into_iter().try_for_each(|child| validate_field(child, path.child(child.name())))
}
