//! Exact widening: which types a table's type holds without changing a value. [`super::conform`] has the cast.
//!
//! | from | to |
//! |---|---|
//! | integer | a wider integer, a float or decimal that holds every value |
//! | float | a wider float |
//! | decimal | at least as many digits before and after the point |
//! | text, binary | the same in another layout (large, view); fixed-size binary to binary |
//! | date32 | date64; timestamp without zone |
//! | timestamp, time, duration | the same in a finer unit, if every value fits; a timestamp keeps its zone |
//! | null | any nullable type |
//! | dictionary | its values' type; a dictionary of wider keys and values |
//! | list | a list of wider values, in another layout |
//! | struct, map | the same fields with wider types |

use arrow::datatypes::{DataType, TimeUnit};

/// Whether `wide` holds every value of `narrow`, apart from their child fields, which callers compare one by one, and
/// from values of a unit that overflow a finer one, which the cast refuses.
pub(super) fn holds(wide: &DataType, narrow: &DataType) -> bool {
    use DataType::*;
    match (wide, narrow) {
        (wide, narrow) if wide == narrow => true,
        (_, Null) => true,
        (wide, Dictionary(_, values)) if !wide.is_nested() && !matches!(wide, Dictionary(_, _)) => holds(wide, values),
        (Dictionary(wide_keys, wide), Dictionary(keys, values)) => {
            holds(wide_keys, keys) && holds(wide, values) && (wide == values || !wide.is_temporal())
        }
        (Utf8 | LargeUtf8 | Utf8View, Utf8 | LargeUtf8 | Utf8View) => true,
        (Binary | LargeBinary | BinaryView, Binary | LargeBinary | BinaryView | FixedSizeBinary(_)) => true,
        (Date64, Date32) | (Timestamp(_, None), Date32) => true,
        (Timestamp(to, zone), Timestamp(from, other)) => zone == other && is_finer(*to, *from),
        (Time32(to) | Time64(to), Time32(from) | Time64(from)) => is_finer(*to, *from),
        (Duration(to), Duration(from)) => is_finer(*to, *from),
        (
            List(_) | LargeList(_) | ListView(_) | LargeListView(_),
            List(_) | LargeList(_) | ListView(_) | LargeListView(_) | FixedSizeList(_, _),
        ) => true,
        (wide, narrow) => holds_number(wide, narrow),
    }
}

fn is_finer(to: TimeUnit, from: TimeUnit) -> bool {
    let rank = |unit| match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 1,
        TimeUnit::Microsecond => 2,
        TimeUnit::Nanosecond => 3,
    };
    rank(to) >= rank(from)
}

/// Whether a number type holds every number of another.
fn holds_number(wide: &DataType, narrow: &DataType) -> bool {
    let (Some(wide_bits), Some(narrow_bits)) = (integer_bits(wide), integer_bits(narrow)) else {
        return match (decimal_digits(wide), decimal_digits(narrow), integer_bits(narrow)) {
            (Some((whole, after)), Some((narrow_whole, narrow_after)), _) => {
                whole >= narrow_whole && after >= narrow_after
            }
            // 2^bits has at most bits * log10(2) + 1 digits.
            (Some((whole, after)), None, Some(bits)) => after >= 0 && whole > bits.magnitude * 30103 / 100_000,
            _ => holds_float(wide, narrow),
        };
    };
    match (wide_bits.signed, narrow_bits.signed) {
        (false, true) => false,
        _ => wide_bits.magnitude >= narrow_bits.magnitude,
    }
}

fn holds_float(wide: &DataType, narrow: &DataType) -> bool {
    // The digits of a float's significand.
    let significand = |data_type: &DataType| match data_type {
        DataType::Float16 => Some(11),
        DataType::Float32 => Some(24),
        DataType::Float64 => Some(53),
        _ => None,
    };
    match (significand(wide), significand(narrow), integer_bits(narrow)) {
        (Some(wide), Some(narrow), _) => wide >= narrow,
        (Some(wide), None, Some(bits)) => wide >= bits.magnitude,
        _ => false,
    }
}

/// An integer type: whether it is signed, and its bits without the sign.
struct IntegerBits {
    signed: bool,
    magnitude: i32,
}

fn integer_bits(data_type: &DataType) -> Option<IntegerBits> {
    use DataType::*;
    let (signed, magnitude) = match data_type {
        Int8 => (true, 7),
        Int16 => (true, 15),
        Int32 => (true, 31),
        Int64 => (true, 63),
        UInt8 => (false, 8),
        UInt16 => (false, 16),
        UInt32 => (false, 32),
        UInt64 => (false, 64),
        _ => return None,
    };
    Some(IntegerBits { signed, magnitude })
}

/// A decimal's digits before and after the point.
fn decimal_digits(data_type: &DataType) -> Option<(i32, i32)> {
    use DataType::*;
    match data_type {
        Decimal32(p, s) | Decimal64(p, s) | Decimal128(p, s) | Decimal256(p, s) => {
            Some((i32::from(*p) - i32::from(*s), i32::from(*s)))
        }
        _ => None,
    }
}
