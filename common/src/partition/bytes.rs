//! The canonical bytes of values, which are hashed: see the table in [`super`].

use std::collections::HashMap;

use arrow::array::{
    Array, ArrowPrimitiveType, AsArray, DictionaryArray, PrimitiveArray, RunArray, downcast_dictionary_array,
    downcast_integer_array, downcast_run_array, downcast_temporal_array,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    ArrowDictionaryKeyType, ArrowNativeType, DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type,
    DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType, Float16Type,
    Float32Type, Float64Type, IntervalDayTimeType, IntervalMonthDayNanoType, IntervalUnit, IntervalYearMonthType,
    RunEndIndexType, TimeUnit, i256,
};
use xxhash_rust::xxh3::xxh3_64;

/// A value that rows share is hashed once for all of them if it has more bytes than this.
const MAX_REPEATED: usize = 256;
/// The byte of a null.
const NULL: u8 = 0;
/// The byte before a value.
const VALUE: u8 = 1;
/// The bits that stand for every NaN.
const NAN: u64 = 0x7ff8_0000_0000_0000;

/// A key column of one batch.
pub(super) trait KeyColumn {
    /// Appends the bytes of one row.
    fn append(&self, row: usize, to: &mut Vec<u8>);

    /// Calls `visit` with the hash of every row's bytes in order; `buffer` is scratch space.
    ///
    /// One virtual call a column, so that the compiler can inline `append` in the loop.
    fn for_each_hash(&self, buffer: &mut Vec<u8>, visit: &mut dyn FnMut(u64));

    /// Where the row's value is among those that rows share; `None`: the row is null.
    fn shared_row(&self, row: usize) -> Option<usize>;
}

/// A column whose values `append_value(row, to)` turns into bytes.
struct ValueColumn<F> {
    rows: usize,
    nulls: Option<NullBuffer>,
    append_value: F,
}

impl<F: Fn(usize, &mut Vec<u8>)> KeyColumn for ValueColumn<F> {
    #[inline]
    fn append(&self, row: usize, to: &mut Vec<u8>) {
        if self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            to.push(NULL);
        } else {
            to.push(VALUE);
            (self.append_value)(row, to);
        }
    }

    fn for_each_hash(&self, buffer: &mut Vec<u8>, visit: &mut dyn FnMut(u64)) {
        for row in 0..self.rows {
            buffer.clear();
            self.append(row, buffer);
            visit(xxh3_64(buffer));
        }
    }

    fn shared_row(&self, row: usize) -> Option<usize> {
        Some(row)
    }
}

/// A column whose row `row` is the row `index(row)` of another column, or null.
struct IndirectColumn<'a, F> {
    rows: usize,
    index: F,
    target: Box<dyn KeyColumn + 'a>,
}

impl<F: Fn(usize) -> Option<usize>> KeyColumn for IndirectColumn<'_, F> {
    fn append(&self, row: usize, to: &mut Vec<u8>) {
        match (self.index)(row) {
            None => to.push(NULL),
            Some(index) => self.target.append(index, to),
        }
    }

    fn for_each_hash(&self, buffer: &mut Vec<u8>, visit: &mut dyn FnMut(u64)) {
        let mut long: HashMap<usize, u64> = HashMap::new();
        for row in 0..self.rows {
            let shared = || self.shared_row(row);
            let known = if long.is_empty() { None } else { shared().and_then(|shared| long.get(&shared).copied()) };
            let hash = known.unwrap_or_else(|| {
                buffer.clear();
                self.append(row, buffer);
                xxh3_64(buffer)
            });
            if known.is_none()
                && buffer.len() > MAX_REPEATED
                && let Some(shared) = shared()
            {
                long.insert(shared, hash);
            }
            visit(hash);
        }
    }

    fn shared_row(&self, row: usize) -> Option<usize> {
        (self.index)(row).and_then(|index| self.target.shared_row(index))
    }
}

/// The key column of an array; `None` for a type that cannot be hashed.
pub(super) fn key_column(array: &dyn Array) -> Option<Box<dyn KeyColumn + '_>> {
    let column = match array.data_type() {
        DataType::Null => values(array, |_, _| {}),
        DataType::Boolean => {
            let bools = array.as_boolean();
            values(array, |row, to| to.push(u8::from(bools.value(row))))
        }
        DataType::Float16 => primitive(array.as_primitive::<Float16Type>(), |value| float(value.to_f64())),
        DataType::Float32 => primitive(array.as_primitive::<Float32Type>(), |value| float(f64::from(value))),
        DataType::Float64 => primitive(array.as_primitive::<Float64Type>(), float),
        DataType::Decimal32(_, scale) => decimal(array.as_primitive::<Decimal32Type>(), *scale),
        DataType::Decimal64(_, scale) => decimal(array.as_primitive::<Decimal64Type>(), *scale),
        DataType::Decimal128(_, scale) => decimal(array.as_primitive::<Decimal128Type>(), *scale),
        DataType::Decimal256(_, scale) => decimal(array.as_primitive::<Decimal256Type>(), *scale),
        DataType::Interval(unit) => interval(array, *unit),
        DataType::Duration(unit) => duration(array, *unit),
        DataType::Dictionary(_, _) => return downcast_dictionary_array!(array => dictionary(array), _ => None),
        DataType::RunEndEncoded(_, _) => return downcast_run_array!(array => runs(array), _ => None),
        kind if kind.is_integer() => downcast_integer_array!(array => number(array), _ => return None),
        kind if kind.is_temporal() => downcast_temporal_array!(array => number(array), _ => return None),
        _ => return strings(array),
    };
    Some(column)
}

fn values<'a>(array: &dyn Array, append_value: impl Fn(usize, &mut Vec<u8>) + 'a) -> Box<dyn KeyColumn + 'a> {
    // Logical nulls, because an array of the null type has no null buffer.
    Box::new(ValueColumn { rows: array.len(), nulls: array.logical_nulls(), append_value })
}

fn primitive<'a, T: ArrowPrimitiveType, const N: usize>(
    array: &'a PrimitiveArray<T>,
    bytes: impl Fn(T::Native) -> [u8; N] + 'a,
) -> Box<dyn KeyColumn + 'a> {
    let numbers = array.values();
    values(array, move |row, to| to.extend_from_slice(&bytes(numbers[row])))
}

/// Integers and times of any width: 64 bits, two's complement.
fn number<T>(array: &PrimitiveArray<T>) -> Box<dyn KeyColumn + '_>
where
    T: ArrowPrimitiveType,
    T::Native: Into<i128>,
{
    // The low 64 bits of an i128 are the two's complement of both an i64 and a u64.
    primitive(array, |value| (Into::<i128>::into(value) as u64).to_le_bytes())
}

fn float(value: f64) -> [u8; 8] {
    let bits = if value.is_nan() {
        NAN
    } else if value == 0.0 {
        0
    } else {
        value.to_bits()
    };
    bits.to_le_bytes()
}

fn decimal<T>(array: &PrimitiveArray<T>, scale: i8) -> Box<dyn KeyColumn + '_>
where
    T: ArrowPrimitiveType,
    T::Native: Into<i256>,
{
    primitive(array, move |value| {
        let mut bytes = [0; 33];
        bytes[..32].copy_from_slice(&Into::<i256>::into(value).to_le_bytes());
        bytes[32] = scale.to_le_bytes()[0];
        bytes
    })
}

/// `downcast_temporal_array` does not include durations.
fn duration(array: &dyn Array, unit: TimeUnit) -> Box<dyn KeyColumn + '_> {
    match unit {
        TimeUnit::Second => number(array.as_primitive::<DurationSecondType>()),
        TimeUnit::Millisecond => number(array.as_primitive::<DurationMillisecondType>()),
        TimeUnit::Microsecond => number(array.as_primitive::<DurationMicrosecondType>()),
        TimeUnit::Nanosecond => number(array.as_primitive::<DurationNanosecondType>()),
    }
}

fn interval(array: &dyn Array, unit: IntervalUnit) -> Box<dyn KeyColumn + '_> {
    match unit {
        IntervalUnit::YearMonth => primitive(array.as_primitive::<IntervalYearMonthType>(), i32::to_le_bytes),
        IntervalUnit::DayTime => primitive(array.as_primitive::<IntervalDayTimeType>(), |value| {
            let mut bytes = [0; 8];
            bytes[..4].copy_from_slice(&value.days.to_le_bytes());
            bytes[4..].copy_from_slice(&value.milliseconds.to_le_bytes());
            bytes
        }),
        IntervalUnit::MonthDayNano => primitive(array.as_primitive::<IntervalMonthDayNanoType>(), |value| {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&value.months.to_le_bytes());
            bytes[4..8].copy_from_slice(&value.days.to_le_bytes());
            bytes[8..].copy_from_slice(&value.nanoseconds.to_le_bytes());
            bytes
        }),
    }
}

fn strings(array: &dyn Array) -> Option<Box<dyn KeyColumn + '_>> {
    // A column of one string or binary type.
    macro_rules! typed_column {
        ($array:expr) => {{
            let typed = $array;
            values(array, move |row, to| append_sized(AsRef::<[u8]>::as_ref(typed.value(row)), to))
        }};
    }
    Some(match array.data_type() {
        DataType::Utf8 => typed_column!(array.as_string::<i32>()),
        DataType::LargeUtf8 => typed_column!(array.as_string::<i64>()),
        DataType::Utf8View => typed_column!(array.as_string_view()),
        DataType::Binary => typed_column!(array.as_binary::<i32>()),
        DataType::LargeBinary => typed_column!(array.as_binary::<i64>()),
        DataType::BinaryView => typed_column!(array.as_binary_view()),
        DataType::FixedSizeBinary(_) => typed_column!(array.as_fixed_size_binary()),
        _ => return None,
    })
}

/// Appends the length and the bytes.
fn append_sized(bytes: &[u8], to: &mut Vec<u8>) {
    to.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    to.extend_from_slice(bytes);
}

fn dictionary<K: ArrowDictionaryKeyType>(array: &DictionaryArray<K>) -> Option<Box<dyn KeyColumn + '_>> {
    let keys = array.keys();
    let target = key_column(array.values().as_ref())?;
    let index = move |row| keys.is_valid(row).then(|| keys.value(row).as_usize());
    Some(Box::new(IndirectColumn { rows: array.len(), index, target }))
}

fn runs<R: RunEndIndexType>(array: &RunArray<R>) -> Option<Box<dyn KeyColumn + '_>> {
    let target = key_column(array.values().as_ref())?;
    let index = move |row| Some(array.get_physical_index(row));
    Some(Box::new(IndirectColumn { rows: array.len(), index, target }))
}
