//! Values that have no exact text: they are refused before arrow's formatters would write an error, `null` or a
//! rounded offset in their place. HalfFloat floats, whose text arrow makes longer than needed, become floats with that text.

use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray, downcast_primitive_array, make_array,
};
use arrow::compute::{max, min};
use arrow::datatypes::*;
use arrow::temporal_conversions::as_datetime_with_timezone;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::Format;
use super::leaves::{ColumnError, map_leaves};

/// The last second in which a zone's offset had seconds (Liberia, 7 January 1972).
const LAST_OFFSET_SECONDS: i64 = 63_700_000;

/// Checks that every value of a leaf has an exact text in the format.
///
/// # Errors
/// A time that the calendar does not have; a zero that would be written as `000`; in JSON lines also a float that is not finite.
pub fn check_text(leaf: &ArrayRef, format: Format) -> Result<(), ColumnError> {
    match leaf.data_type() {
        DataType::Float16 if format == Format::Jsonl => finite(leaf.as_primitive::<Float16Type>(), |x| x.is_finite()),
        DataType::Float32 if format == Format::Jsonl => finite(leaf.as_primitive::<Float32Type>(), |x| x.is_finite()),
        DataType::Float64 if format == Format::Jsonl => finite(leaf.as_primitive::<Float64Type>(), |x| x.is_finite()),
        temporal if temporal.is_temporal() && !matches!(temporal, DataType::Interval(_)) => check_range(leaf),
        DataType::Decimal256(_, ..0)
            if leaf.as_primitive::<Decimal256Type>().iter().flatten().any(|n| n == i256::ZERO) =>
        {
            Err(ColumnError::new("has a zero in a decimal of more than 76 digits, which has no text"))
        }
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
    if !have_local_times(&ends) {
        return Err(failed("out of range in its time zone".into()));
    }
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

/// Whether the calendar has timestamps also as their zone shows them: the formatter panics where it ends before.
fn have_local_times(times: &ArrayRef) -> bool {
    let DataType::Timestamp(unit, Some(zone)) = times.data_type() else { return true };
    let Ok(zone) = zone.parse::<Tz>() else { return true };
    match unit {
        TimeUnit::Second => are_local::<TimestampSecondType>(times, zone),
        TimeUnit::Millisecond => are_local::<TimestampMillisecondType>(times, zone),
        TimeUnit::Microsecond => are_local::<TimestampMicrosecondType>(times, zone),
        TimeUnit::Nanosecond => are_local::<TimestampNanosecondType>(times, zone),
    }
}

fn are_local<T: ArrowTimestampType>(times: &ArrayRef, zone: Tz) -> bool {
    let times = times.as_primitive::<T>().iter().flatten();
    let mut times = times.filter_map(|value| as_datetime_with_timezone::<T>(value, zone));
    times.all(|time| {
        let time = time.fixed_offset();
        time.naive_utc().checked_add_offset(*time.offset()).is_some()
    })
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

type HalfFloat = <Float16Type as ArrowPrimitiveType>::Native;

/// The array with floats of 64 bit in place of half floats, whose texts are the shortest that read back as the same half
/// floats: 0.1 instead of 0.099975586.
pub fn with_short_halves(array: &ArrayRef) -> Result<ArrayRef, ColumnError> {
    let widened = map_leaves(array.data_type(), &mut |leaf| match leaf {
        DataType::Float16 => DataType::Float64,
        other => other.clone(),
    });
    if widened == *array.data_type() {
        return Ok(array.clone());
    }
    if let Some(halves) = array.as_primitive_opt::<Float16Type>() {
        let floats: PrimitiveArray<Float64Type> = halves.unary(short_half);
        return Ok(Arc::new(floats));
    }
    let data = array.to_data();
    let children = data.child_data().iter().map(|child| {
        let child = with_short_halves(&make_array(child.clone()))?;
        Ok::<_, ColumnError>(child.to_data())
    });
    let children = children.collect::<Result<Vec<_>, ColumnError>>()?;
    let built = data.into_builder().data_type(widened).child_data(children).build();
    built.map(make_array).map_err(|e| ColumnError::new(format!("has half floats that cannot be written ({e})")))
}

/// The float with the fewest digits that is this half float. Whole numbers stay as they are.
fn short_half(half: HalfFloat) -> f64 {
    let exact = half.to_f64();
    if !exact.is_finite() || exact.fract() == 0.0 {
        return exact;
    }
    // Five digits tell all half floats apart.
    let mut rounded = (0..4_usize).filter_map(|decimals| format!("{exact:.decimals$e}").parse::<f64>().ok());
    let same = |value: &f64| HalfFloat::from_f64(*value) == half;
    rounded.find(same).unwrap_or_else(|| format!("{exact:.4e}").parse().unwrap_or(exact))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_floats_have_their_shortest_text() {
        for (text, expected) in [("0.1", 0.1), ("-0.3333", -0.3333), ("65504", 65504.0), ("6e-8", 6e-8), ("1.5", 1.5)] {
            let half = HalfFloat::from_f64(text.parse().unwrap());
            assert_eq!(short_half(half), expected, "{text}");
        }
        for bits in 0..=u16::MAX {
            let half = HalfFloat::from_bits(bits);
            let back = HalfFloat::from_f64(short_half(half));
            assert!(back == half || (back.is_nan() && half.is_nan()), "{half}");
        }
    }

    #[test]
    fn half_floats_in_lists_become_floats() {
        let halves = PrimitiveArray::<Float16Type>::from_iter([Some(HalfFloat::from_f64(0.1)), None]);
        let item = Arc::new(Field::new_list_field(DataType::Float16, true));
        let offsets = arrow::buffer::OffsetBuffer::from_lengths([2]);
        let list: ArrayRef = Arc::new(arrow::array::ListArray::new(item, offsets, Arc::new(halves), None));
        let Ok(floats) = with_short_halves(&list) else { panic!("the list is refused") };
        let values = floats.as_list::<i32>().values().as_primitive::<Float64Type>().clone();
        assert_eq!(values.iter().collect::<Vec<_>>(), [Some(0.1), None]);
    }
}
