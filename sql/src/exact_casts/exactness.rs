//! Which casts DataFusion moves in comparisons, and must not, and which give different values for different ones.

use arrow::datatypes::DataType::{
    Date32, Date64, Decimal32, Decimal64, Decimal128, Decimal256, Dictionary, Float64, Int32, Int64, Timestamp,
};
use arrow::datatypes::{DataType, TimeUnit};
use datafusion::logical_expr_common::casts::is_supported_type;

/// Names of the zone in which timestamps without a zone count as they are stored.
const UTC_NAMES: [&str; 3] = ["UTC", "+00:00", "Z"];

/// Numbers of so many digits become different doubles.
const DIGITS_OF_DOUBLE: i16 = 15;

/// Whether DataFusion may move a cast to the literal that it is compared with, and the comparison may then have another result.
pub(super) fn is_moved_wrongly(from: &DataType, to: &DataType, is_try: bool) -> bool {
    if from == to || !is_supported_type(from) || !is_supported_type(to) {
        return false;
    }
    !is_exact(from, to) || (is_try && !never_fails(from, to))
}

/// Whether a cast to a type with this zone changes the instants of a type with that zone.
pub(super) fn shifts(from_zone: Option<&str>, to_zone: Option<&str>) -> bool {
    from_zone.is_none() && to_zone.is_some_and(|zone| !UTC_NAMES.contains(&zone))
}

/// How many of a unit are in a second.
pub(super) fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

/// Whether the values for which a cast does not fail keep their order and their differences, and DataFusion casts literals back
/// exactly or not at all. Both types are among those that it moves casts of.
fn is_exact(from: &DataType, to: &DataType) -> bool {
    match (from, to) {
        // It checks that a text is the one that the number becomes. Texts are not compared with numbers otherwise.
        (from, to) if !is_number(from) || !is_number(to) => true,
        (from, to) if from.is_integer() && to.is_integer() => true,
        (Timestamp(from, from_zone), Timestamp(to, to_zone)) => {
            // It moves no casts to coarser units, and cuts literals off for finer ones.
            !shifts(from_zone.as_deref(), to_zone.as_deref()) && per_second(*to) <= per_second(*from)
        }
        (Timestamp(..), other) | (other, Timestamp(..)) if other.is_integer() => true,
        // It moves no casts between dates and timestamps, nor those to coarser dates.
        (Timestamp(..), Date32 | Date64) | (Date32 | Date64, Timestamp(..)) | (Date32 | Date64, Date32 | Date64) => {
            true
        }
        (Int32 | Int64, Date32) | (Int64, Date64) | (Date32 | Date64, Int32 | Int64) => true,
        (from, to) => match (scale(from), scale(to)) {
            (Some(from_scale), Some(to_scale)) => 0 <= from_scale && from_scale <= to_scale,
            _ => false,
        },
    }
}

/// Whether a cast that does not fail gives different values for different ones. Not for all types: false if it is not known.
pub(super) fn keeps_apart(from: &DataType, to: &DataType) -> bool {
    match (from, to) {
        (from, to) if from == to => true,
        (Dictionary(_, from), to) => keeps_apart(from, to),
        (from, Dictionary(_, to)) => keeps_apart(from, to),
        (from, to) if is_text(to) => is_text(from) || from.is_integer(),
        (from, to) if to.is_binary() => from.is_binary(),
        (Timestamp(from, _), Timestamp(to, _)) => per_second(*from) <= per_second(*to),
        (Date32, Date64 | Timestamp(..)) | (DataType::Float32, Float64) => true,
        (from, Float64) if from.is_integer() => integer_digits(from) <= DIGITS_OF_DOUBLE,
        (Decimal32(digits, _) | Decimal64(digits, _) | Decimal128(digits, _) | Decimal256(digits, _), Float64) => {
            i16::from(*digits) <= DIGITS_OF_DOUBLE
        }
        (from, to) => match (scale(from), scale(to)) {
            (Some(from_scale), Some(to_scale)) => from_scale <= to_scale,
            _ => false,
        },
    }
}

/// Whether a cast succeeds for all values. Not for all types: false if it is not known.
fn never_fails(from: &DataType, to: &DataType) -> bool {
    match (from, to) {
        (Dictionary(_, values), to) if **values == *to => true,
        (from, to) if is_text(to) => is_text(from) || from.is_integer(),
        (Timestamp(from, from_zone), Timestamp(to, to_zone)) => {
            !shifts(from_zone.as_deref(), to_zone.as_deref()) && per_second(*to) <= per_second(*from)
        }
        (Timestamp(..), Int64) | (Int64, Timestamp(..) | Date64) | (Date64, Int64) => true,
        (Date32, Int32 | Int64 | Date64) | (Int32, Date32) => true,
        (from, to) if from.is_integer() && to.is_integer() => {
            let (from_digits, to_digits) = (integer_digits(from), integer_digits(to));
            let is_same_sign = from.is_signed_integer() == to.is_signed_integer();
            (is_same_sign && from_digits <= to_digits) || (from.is_unsigned_integer() && from_digits < to_digits)
        }
        (from, Decimal32(precision, scale) | Decimal64(precision, scale) | Decimal128(precision, scale)) => {
            whole_digits(from).is_some_and(|digits| digits <= i16::from(*precision) - i16::from(*scale))
        }
        _ => false,
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// Whether a type's values are numbers to DataFusion when it moves casts.
fn is_number(data_type: &DataType) -> bool {
    scale(data_type).is_some() || matches!(data_type, Date32 | Date64 | Timestamp(..))
}

/// The digits after the point of integers and decimals.
fn scale(data_type: &DataType) -> Option<i8> {
    match data_type {
        Decimal32(_, scale) | Decimal64(_, scale) | Decimal128(_, scale) | Decimal256(_, scale) => Some(*scale),
        other => other.is_integer().then_some(0),
    }
}

/// The most digits before the point of integers and decimals.
fn whole_digits(data_type: &DataType) -> Option<i16> {
    match data_type {
        Decimal32(precision, scale) | Decimal64(precision, scale) | Decimal128(precision, scale) => {
            Some(i16::from(*precision) - i16::from(*scale))
        }
        other => other.is_integer().then(|| integer_digits(other)),
    }
}

/// The most digits of an integer type; more for a wider one.
fn integer_digits(data_type: &DataType) -> i16 {
    match data_type.primitive_width() {
        Some(1) => 3,
        Some(2) => 5,
        Some(4) => 10,
        _ => 20,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn casts_that_lose_or_shift_values_are_not_moved() {
        let seconds = |zone: Option<&str>| Timestamp(TimeUnit::Second, zone.map(Into::into));
        let nanos = |zone: Option<&str>| Timestamp(TimeUnit::Nanosecond, zone.map(Into::into));
        for (from, to) in [
            (seconds(None), nanos(None)),
            (seconds(None), seconds(Some("Europe/Berlin"))),
            (Decimal128(10, 2), Int64),
            (Decimal128(10, 2), Decimal128(10, 1)),
            (Decimal128(10, -2), Decimal128(20, 0)),
            (Decimal128(10, -2), Int64),
            (Int64, Decimal128(10, -2)),
            (Int32, Date64),
        ] {
            assert!(is_moved_wrongly(&from, &to, false), "{from} to {to}");
            assert!(is_moved_wrongly(&from, &to, true), "{from} to {to}");
        }
    }

    #[test]
    fn exact_casts_are_left_to_the_engine() {
        let nanos = |zone: Option<&str>| Timestamp(TimeUnit::Nanosecond, zone.map(Into::into));
        for (from, to) in [
            (Int32, Int64),
            (DataType::UInt32, Int64),
            (Int64, Decimal128(22, 2)),
            (Decimal128(15, 2), Decimal128(22, 4)),
            (Date32, Date64),
            (nanos(None), nanos(Some("UTC"))),
            (nanos(Some("UTC")), nanos(Some("Europe/Berlin"))),
            (nanos(None), Timestamp(TimeUnit::Second, None)),
            (DataType::Utf8, DataType::Utf8View),
            (Dictionary(Int32.into(), DataType::Utf8.into()), DataType::Utf8),
            (Float64, Int64),
        ] {
            assert!(!is_moved_wrongly(&from, &to, false), "{from} to {to}");
            assert!(!is_moved_wrongly(&from, &to, true), "{from} to {to}");
        }
    }

    #[test]
    fn casts_that_fail_for_some_values_are_moved_only_without_try() {
        for (from, to) in [
            (Int64, Int32),
            (DataType::UInt64, Int64),
            (Int32, DataType::UInt32),
            (Int64, Decimal128(10, 2)),
            (Decimal128(10, 2), Decimal128(10, 4)),
            (DataType::Utf8, Int64),
        ] {
            assert!(!is_moved_wrongly(&from, &to, false), "{from} to {to}");
            assert!(is_moved_wrongly(&from, &to, true), "{from} to {to}");
        }
    }
    #[test]
    fn casts_that_round_do_not_keep_values_apart() {
        let nanos = Timestamp(TimeUnit::Nanosecond, None);
        for (from, to) in [
            (Int32, Int64),
            (Int64, Int32),
            (Int64, Decimal128(22, 2)),
            (Decimal128(10, 2), Decimal256(50, 4)),
            (Decimal128(10, 2), Float64),
            (Timestamp(TimeUnit::Second, None), nanos.clone()),
            (Date32, nanos.clone()),
            (Int32, Float64),
            (Int64, DataType::Utf8),
            (DataType::Utf8, DataType::Utf8View),
            (Dictionary(Int32.into(), DataType::Utf8.into()), DataType::Utf8),
        ] {
            assert!(keeps_apart(&from, &to), "{from} to {to}");
        }
        for (from, to) in [
            (Decimal128(10, 2), Int64),
            (Decimal128(10, 2), Decimal128(10, 1)),
            (nanos.clone(), Timestamp(TimeUnit::Second, None)),
            (nanos, Date32),
            (Date64, Date32),
            (Float64, Int64),
            (Int64, Float64),
            (DataType::Utf8, Int64),
        ] {
            assert!(!keeps_apart(&from, &to), "{from} to {to}");
        }
    }
}
