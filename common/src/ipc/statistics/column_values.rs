//! The bounds of an array's values, and arrays of bounds, for every type that has an order.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayAccessor, ArrayRef, AsArray, BinaryArray, BinaryViewArray, BooleanArray, GenericByteArray,
    LargeBinaryArray, LargeStringArray, PrimitiveArray, StringArray, StringViewArray,
};
use arrow::compute::{max_boolean, min_boolean};
use arrow::datatypes::*;

use super::bound::{Bound, BoundBytes, MAX_BOUND_BYTES, OrderedValue, after_all_with};
use super::extremes::{extreme_positions, value_extremes};

/// The result of a function for the primitive type of a data type; `$other` for types that are not primitive or have no order.
macro_rules! for_primitive_type {
    ($data_type:expr, $function:ident($($argument:expr),*), $other:expr) => {
        match $data_type {
            DataType::Int8 => $function::<Int8Type>($($argument),*),
            DataType::Int16 => $function::<Int16Type>($($argument),*),
            DataType::Int32 => $function::<Int32Type>($($argument),*),
            DataType::Int64 => $function::<Int64Type>($($argument),*),
            DataType::UInt8 => $function::<UInt8Type>($($argument),*),
            DataType::UInt16 => $function::<UInt16Type>($($argument),*),
            DataType::UInt32 => $function::<UInt32Type>($($argument),*),
            DataType::UInt64 => $function::<UInt64Type>($($argument),*),
            DataType::Float16 => $function::<Float16Type>($($argument),*),
            DataType::Float32 => $function::<Float32Type>($($argument),*),
            DataType::Float64 => $function::<Float64Type>($($argument),*),
            DataType::Decimal32(_, _) => $function::<Decimal32Type>($($argument),*),
            DataType::Decimal64(_, _) => $function::<Decimal64Type>($($argument),*),
            DataType::Decimal128(_, _) => $function::<Decimal128Type>($($argument),*),
            DataType::Decimal256(_, _) => $function::<Decimal256Type>($($argument),*),
            DataType::Date32 => $function::<Date32Type>($($argument),*),
            DataType::Date64 => $function::<Date64Type>($($argument),*),
            DataType::Time32(TimeUnit::Second) => $function::<Time32SecondType>($($argument),*),
            DataType::Time32(TimeUnit::Millisecond) => $function::<Time32MillisecondType>($($argument),*),
            DataType::Time64(TimeUnit::Microsecond) => $function::<Time64MicrosecondType>($($argument),*),
            DataType::Time64(TimeUnit::Nanosecond) => $function::<Time64NanosecondType>($($argument),*),
            DataType::Timestamp(TimeUnit::Second, _) => $function::<TimestampSecondType>($($argument),*),
            DataType::Timestamp(TimeUnit::Millisecond, _) => $function::<TimestampMillisecondType>($($argument),*),
            DataType::Timestamp(TimeUnit::Microsecond, _) => $function::<TimestampMicrosecondType>($($argument),*),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => $function::<TimestampNanosecondType>($($argument),*),
            DataType::Duration(TimeUnit::Second) => $function::<DurationSecondType>($($argument),*),
            DataType::Duration(TimeUnit::Millisecond) => $function::<DurationMillisecondType>($($argument),*),
            DataType::Duration(TimeUnit::Microsecond) => $function::<DurationMicrosecondType>($($argument),*),
            DataType::Duration(TimeUnit::Nanosecond) => $function::<DurationNanosecondType>($($argument),*),
            _ => $other,
        }
    };
}

/// Whether columns of a type have statistics: its values have an order, which SQL compares by.
pub fn is_orderable(data_type: &DataType) -> bool {
    #[expect(clippy::extra_unused_type_parameters, reason = "one list of the types serves all functions")]
    fn primitive<T: ArrowPrimitiveType>() -> bool {
        true
    }
    match data_type {
        DataType::Boolean => true,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => true,
        other => for_primitive_type!(other, primitive(), false),
    }
}

/// The bounds of an array's values: none is less than the first, and none greater than the second. Unknown for types that are
/// not [orderable](is_orderable).
pub(super) fn value_bounds(array: &dyn Array) -> (Bound, Bound) {
    if array.null_count() == array.len() {
        return (Bound::NoValues, Bound::NoValues);
    }
    match array.data_type() {
        DataType::Boolean => {
            let array = array.as_boolean();
            (ordered(min_boolean(array)), ordered(max_boolean(array)))
        }
        DataType::Utf8 => text_bounds(array.as_string::<i32>(), offset_values(array.as_string::<i32>())),
        DataType::LargeUtf8 => text_bounds(array.as_string::<i64>(), offset_values(array.as_string::<i64>())),
        DataType::Utf8View => {
            let array = array.as_string_view();
            text_bounds(array, |at| array.value(at).as_bytes())
        }
        DataType::Binary => binary_bounds(array.as_binary::<i32>(), offset_values(array.as_binary::<i32>())),
        DataType::LargeBinary => binary_bounds(array.as_binary::<i64>(), offset_values(array.as_binary::<i64>())),
        DataType::BinaryView => {
            let array = array.as_binary_view();
            binary_bounds(array, |at| array.value(at))
        }
        other => for_primitive_type!(other, primitive_bounds(array), (Bound::Unknown, Bound::Unknown)),
    }
}

fn primitive_bounds<T: ArrowNumericType>(array: &dyn Array) -> (Bound, Bound)
where
    T::Native: OrderedValue,
{
    let (least, greatest) = value_extremes(array.as_primitive::<T>()).unzip();
    (ordered(least.map(OrderedValue::lower)), ordered(greatest.map(OrderedValue::upper)))
}

fn ordered<T: OrderedValue>(value: Option<T>) -> Bound {
    value.map_or(Bound::NoValues, OrderedValue::to_ordered)
}

/// The bytes at each position. Arrow's own access to one value is not always inlined, and then costs as much as its comparison.
fn offset_values<'a, T: ByteArrayType>(array: &'a GenericByteArray<T>) -> impl Fn(usize) -> &'a [u8] {
    let (offsets, values) = (array.value_offsets(), array.value_data());
    move |at| &values[offsets[at].as_usize()..offsets[at + 1].as_usize()]
}

fn text_bounds<'a>(array: impl ArrayAccessor<Item = &'a str>, bytes: impl Fn(usize) -> &'a [u8]) -> (Bound, Bound) {
    let found = extreme_positions(&array, bytes).map(|(least, greatest)| (array.value(least), array.value(greatest)));
    found.map_or((Bound::NoValues, Bound::NoValues), |(least, greatest)| (lower_text(least), upper_text(greatest)))
}

fn binary_bounds<'a>(array: impl ArrayAccessor<Item = &'a [u8]>, bytes: impl Fn(usize) -> &'a [u8]) -> (Bound, Bound) {
    let found = extreme_positions(&array, bytes).map(|(least, greatest)| (array.value(least), array.value(greatest)));
    found.map_or((Bound::NoValues, Bound::NoValues), |(least, greatest)| (lower_binary(least), upper_binary(greatest)))
}

fn bound(bytes: &[u8]) -> Bound {
    BoundBytes::new(bytes).map_or(Bound::Unknown, Bound::Value)
}

/// The beginning of a text, as far as it has whole characters.
fn lower_text(text: &str) -> Bound {
    bound(&text.as_bytes()[..text.floor_char_boundary(MAX_BOUND_BYTES)])
}

/// The text, or the least one that is greater than all texts with its beginning; unknown if there is none.
fn upper_text(text: &str) -> Bound {
    if text.len() <= MAX_BOUND_BYTES {
        return bound(text.as_bytes());
    }
    let beginning = &text[..text.floor_char_boundary(MAX_BOUND_BYTES)];
    for (at, last) in beginning.char_indices().rev() {
        // Surrogates, which are no characters, lie between these two.
        let next = if last == '\u{d7ff}' { Some('\u{e000}') } else { char::from_u32(u32::from(last) + 1) };
        if let Some(next) = next.filter(|next| at + next.len_utf8() <= MAX_BOUND_BYTES) {
            let mut upper = [0; MAX_BOUND_BYTES];
            upper[..at].copy_from_slice(&beginning.as_bytes()[..at]);
            let end = at + next.encode_utf8(&mut upper[at..]).len();
            return bound(&upper[..end]);
        }
    }
    Bound::Unknown
}

fn lower_binary(value: &[u8]) -> Bound {
    bound(&value[..value.len().min(MAX_BOUND_BYTES)])
}

/// The value, or the least one that is greater than all values with its beginning; unknown if there is none.
fn upper_binary(value: &[u8]) -> Bound {
    let Some(beginning) = value.get(..MAX_BOUND_BYTES).filter(|_| value.len() > MAX_BOUND_BYTES) else {
        return bound(value);
    };
    after_all_with(beginning)
}

/// The bounds as an array of the column's type, with null where there is none; `None` if one is no value of the type.
pub(super) fn bounds_array(data_type: &DataType, bounds: &[Bound]) -> Option<ArrayRef> {
    let array: ArrayRef = match data_type {
        DataType::Boolean => Arc::new(BooleanArray::from(values_of::<bool>(bounds)?)),
        DataType::Utf8 => Arc::new(StringArray::from(texts_of(bounds)?)),
        DataType::LargeUtf8 => Arc::new(LargeStringArray::from(texts_of(bounds)?)),
        DataType::Utf8View => Arc::new(StringViewArray::from(texts_of(bounds)?)),
        DataType::Binary => Arc::new(BinaryArray::from(bytes_of(bounds))),
        DataType::LargeBinary => Arc::new(LargeBinaryArray::from(bytes_of(bounds))),
        DataType::BinaryView => Arc::new(BinaryViewArray::from(bytes_of(bounds))),
        other => for_primitive_type!(other, primitive_array(other, bounds), None)?,
    };
    Some(array)
}

fn primitive_array<T: ArrowPrimitiveType>(data_type: &DataType, bounds: &[Bound]) -> Option<ArrayRef>
where
    T::Native: OrderedValue,
{
    let values = values_of::<T::Native>(bounds)?;
    let array: PrimitiveArray<T> = PrimitiveArray::from_iter(values);
    Some(Arc::new(array.with_data_type(data_type.clone())))
}

fn values_of<T: OrderedValue>(bounds: &[Bound]) -> Option<Vec<Option<T>>> {
    let value = |bound: &Bound| match bound {
        Bound::Value(bytes) => T::from_ordered(bytes.as_slice()).map(Some),
        Bound::NoValues | Bound::Unknown => Some(None),
    };
    bounds.iter().map(value).collect()
}

fn bytes_of(bounds: &[Bound]) -> Vec<Option<&[u8]>> {
    fn value(bound: &Bound) -> Option<&[u8]> {
        match bound {
            Bound::Value(bytes) => Some(bytes.as_slice()),
            Bound::NoValues | Bound::Unknown => None,
        }
    }
    bounds.iter().map(value).collect()
}

fn texts_of(bounds: &[Bound]) -> Option<Vec<Option<&str>>> {
    bytes_of(bounds).into_iter().map(|value| value.map(str::from_utf8).transpose().ok()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use arrow::array::Int64Array;

    use super::*;
    use crate::ipc::test_data;

    fn bytes(bound: Bound) -> Option<Vec<u8>> {
        match bound {
            Bound::Value(bytes) => Some(bytes.as_slice().to_vec()),
            Bound::NoValues | Bound::Unknown => None,
        }
    }

    fn text(bound: Bound) -> String {
        String::from_utf8(bytes(bound).unwrap()).unwrap()
    }

    #[test]
    fn long_texts_are_cut_and_the_greatest_is_increased() {
        let prefix = "p".repeat(40);
        assert_eq!(text(lower_text(&prefix)), "p".repeat(32));
        assert_eq!(text(upper_text(&prefix)), format!("{}q", "p".repeat(31)));
        assert_eq!(text(upper_text(&"p".repeat(32))), "p".repeat(32));
        // Two bytes of the last character do not fit; without it the one before is increased.
        let wide = format!("{}ü{}", "p".repeat(31), "p");
        assert_eq!(text(lower_text(&wide)), "p".repeat(31));
        assert_eq!(text(upper_text(&wide)), format!("{}q", "p".repeat(30)));
        // The next character takes one byte more.
        assert_eq!(text(upper_text(&format!("{}\u{7f}x", "p".repeat(31)))), format!("{}q", "p".repeat(30)));
        assert_eq!(text(upper_text(&format!("{}\u{d7ff}x", "p".repeat(29)))), format!("{}\u{e000}", "p".repeat(29)));
        assert_eq!(text(upper_text(&format!("a{}", "\u{10ffff}".repeat(9)))), "b");
        assert_eq!(upper_text(&"\u{10ffff}".repeat(9)), Bound::Unknown);
    }

    #[test]
    fn long_binary_values_are_cut_and_the_greatest_is_increased() {
        let value = [7; 40];
        assert_eq!(bytes(lower_binary(&value)).unwrap(), [7; 32]);
        assert_eq!(bytes(upper_binary(&value)).unwrap(), [&[7; 31][..], &[8]].concat());
        assert_eq!(bytes(upper_binary(&[&[1][..], &[255; 40]].concat())).unwrap(), [2]);
        assert_eq!(upper_binary(&[255; 33]), Bound::Unknown);
        assert_eq!(bytes(upper_binary(&[255; 32])).unwrap(), [255; 32]);
    }

    #[test]
    fn array_without_values_has_no_bounds() {
        let empty = StringArray::from(Vec::<&str>::new());
        let nulls = Int64Array::from(vec![None, None]);
        for array in [&empty as &dyn Array, &nulls] {
            assert_eq!(value_bounds(array), (Bound::NoValues, Bound::NoValues));
        }
    }

    #[test]
    fn bounds_of_every_orderable_type_come_back() {
        let mut rng = test_data::rng(41);
        let types = test_data::types();
        let orderable: Vec<&DataType> = types.iter().filter(|data_type| is_orderable(data_type)).collect();
        assert!(orderable.len() > 20, "{orderable:?}");
        for data_type in types.iter().filter(|data_type| !is_orderable(data_type)) {
            assert!(bounds_array(data_type, &[Bound::NoValues]).is_none(), "{data_type}");
        }
        for data_type in orderable {
            let array = test_data::array(&mut rng, data_type, 1).slice(0, 1);
            let (lower, upper) = value_bounds(&array);
            let back = bounds_array(data_type, &[lower, upper, Bound::Unknown]).unwrap();
            assert_eq!((back.data_type(), back.len()), (data_type, 3));
            assert!(back.is_null(2));
            let is_short = !matches!(lower, Bound::Value(bytes) if bytes.as_slice().len() == MAX_BOUND_BYTES);
            let is_zero = data_type.is_floating();
            if is_short && !is_zero {
                assert_eq!(&back.slice(0, 1), &array, "{data_type}");
                assert_eq!(&back.slice(1, 1), &array, "{data_type}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_text_is_within_its_bounds(texts in prop::collection::vec("[a\u{7f}\u{d7ff}\u{10ffff}]{0,14}", 1..8)) {
            let array = StringViewArray::from_iter_values(&texts);
            let (lower, upper) = value_bounds(&array);
            for text in &texts {
                prop_assert!(bytes(lower).unwrap().as_slice() <= text.as_bytes());
                prop_assert!(bytes(upper).is_none_or(|upper| text.as_bytes() <= upper.as_slice()));
            }
            prop_assert!(bounds_array(&DataType::Utf8, &[lower, upper]).is_some());
        }
    }
}
