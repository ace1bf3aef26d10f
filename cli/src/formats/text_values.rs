//! Values that have no exact text: they are refused before arrow's formatters would write an error, `null` or a
//! rounded offset in their place.

use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray, downcast_primitive_array};
use arrow::compute::{max, min};
use arrow::datatypes::*;
use arrow::temporal_conversions::as_datetime_with_timezone;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::Format;
use super::leaves::ColumnError;

/// The last second in which a zone's offset had seconds (Liberia, 7 January 1972).
const LAST_OFFSET_SECONDS: i64 = 63_700_000;

/// Checks that every value of a leaf has an exact text in the format.
///
/// # Errors
/// A time that the calendar does not have; in JSON lines also a float that is not finite.
pub fn check_text(leaf: &ArrayRef, format: Format) -> Result<(), ColumnError> {
    match leaf.data_type() {
        DataType::Float16 if format == Format::Jsonl => finite(leaf.as_primitive::<Float16Type>(), |x| x.is_finite()),
        DataType::Float32 if format == Format::Jsonl => finite(leaf.as_primitive::<Float32Type>(), |x| x.is_finite()),
        DataType::Float64 if format == Format::Jsonl => finite(leaf.as_primitive::<Float64Type>(), |x| x.is_finite()),
        temporal if temporal.is_temporal() && !matches!(temporal, DataType::Interval(_)) => check_range(leaf),
        _ => Ok(()),
    }
}

fn finite<T: ArrowPrimitiveType>(
    array: &PrimitiveArray<T>,
    is_finite: impl Fn(T::Native) -> bool,
) -> Result<(), ColumnError> {
    match array.iter().flatten().find(|value| !is_finite(*value)) {
        Some(value) => Err(ColumnError::new(format!("has the value {value:?}, which JSON does not have"))),
        None => Ok(()),
    }
}

/// The calendar has the values between two values that it has, so the least and the greatest are tried.
fn check_range(leaf: &ArrayRef) -> Result<(), ColumnError> {
    let leaf = leaf.as_ref();
    let ends: ArrayRef = downcast_primitive_array!(
        leaf => { ends(leaf) }
        _ => return Ok(()),
    );
    let failed = |why: String| ColumnError::new(format!("has a time that has no text ({why})"));
    let formatter = ArrayFormatter::try_new(&ends, &FormatOptions::default()).map_err(|e| failed(e.to_string()))?;
    for row in (0..ends.len()).filter(|&row| ends.is_valid(row)) {
        let text = formatter.value(row).try_to_string().map_err(|e| failed(e.to_string()))?;
        if text.contains("<invalid>") {
            return Err(failed("out of range".into()));
        }
    }
    Ok(())
}

fn ends<T: ArrowPrimitiveType>(array: &PrimitiveArray<T>) -> ArrayRef
where
    T::Native: arrow::array::ArrowNativeTypeOp,
{
    let ends = PrimitiveArray::<T>::from_iter([min(array), max(array)]);
    Arc::new(ends.with_data_type(array.data_type().clone()))
}

/// Whether a timestamp's offset from UTC has seconds, as offsets before the time zones had. RFC 3339 has none, so that
/// the text would be another instant.
///
/// # Errors
/// The zone is unknown.
pub fn has_offset_seconds(leaf: &ArrayRef) -> Result<bool, ColumnError> {
    let DataType::Timestamp(unit, Some(zone)) = leaf.data_type() else { return Ok(false) };
    let zone: Tz = zone.parse().map_err(|e| ColumnError::new(format!("has an unknown time zone ({e})")))?;
    Ok(match unit {
        TimeUnit::Second => any_offset_seconds::<TimestampSecondType>(leaf, zone, 1),
        TimeUnit::Millisecond => any_offset_seconds::<TimestampMillisecondType>(leaf, zone, 1_000),
        TimeUnit::Microsecond => any_offset_seconds::<TimestampMicrosecondType>(leaf, zone, 1_000_000),
        TimeUnit::Nanosecond => any_offset_seconds::<TimestampNanosecondType>(leaf, zone, 1_000_000_000),
    })
}

fn any_offset_seconds<T: ArrowTimestampType>(leaf: &ArrayRef, zone: Tz, per_second: i64) -> bool {
    let old = leaf.as_primitive::<T>().iter().flatten().filter(|value| value / per_second < LAST_OFFSET_SECONDS);
    old.filter_map(|value| as_datetime_with_timezone::<T>(value, zone))
        // An offset is shown as +HH:MM, or as +HH:MM:SS.
        .any(|time| time.offset().to_string().len() > "+00:00".len())
}
