//! The least and the greatest value of an array, in one pass of few instructions for each value.
//!
//! Arrow's kernels take one pass for each of the two. They compare floats by the bits that give totalOrder, which takes about 12
//! instructions a value, and call `memcmp` for every text. Here floats are compared as such, and texts by their first bytes.

use std::ops::Range;

use arrow::array::{Array, PrimitiveArray};
use arrow::buffer::NullBuffer;
use arrow::compute::{max, min};
use arrow::datatypes::{ArrowNumericType, DataType};

use super::bound::OrderedValue;

/// The least and the greatest value of an array; `None`: there are no values. Of zeros either one may be given.
pub(super) fn value_extremes<T: ArrowNumericType>(array: &PrimitiveArray<T>) -> Option<(T::Native, T::Native)>
where
    T::Native: OrderedValue,
{
    // Such floats are compared and added by software.
    if T::DATA_TYPE != DataType::Float16 {
        let first = *array.values().get(valid_runs(array).next()?.start)?;
        let mut lanes = Lanes::of(first);
        for run in valid_runs(array) {
            lanes = lanes.with_values(array.values().get(run)?);
        }
        if !lanes.sum().is_unordered() {
            let all = lanes.extremes();
            return Some((all.least, all.greatest));
        }
    }
    min(array).zip(max(array))
}

/// Those of some values. They mean nothing if a value is a NaN.
#[derive(Clone, Copy)]
struct Extremes<V> {
    least: V,
    greatest: V,
}

impl<V: OrderedValue> Extremes<V> {
    fn of(value: V) -> Self {
        Extremes { least: value, greatest: value }
    }

    /// Of two equal values the new one is kept: so the processor's least and greatest of two need no copy of the old one.
    #[inline]
    fn add(&mut self, value: V) {
        self.least = if self.least < value { self.least } else { value };
        self.greatest = if self.greatest > value { self.greatest } else { value };
    }
}

/// Values take turns in four lanes: none waits for the one before it, and the compiler can use vectors. Two more have the sums,
/// which are NaN if a value is, see [`OrderedValue::plus`]: more would not fit into the registers.
#[derive(Clone, Copy)]
struct Lanes<V> {
    first: Extremes<V>,
    second: Extremes<V>,
    third: Extremes<V>,
    fourth: Extremes<V>,
    even: V,
    odd: V,
}

impl<V: OrderedValue> Lanes<V> {
    fn of(value: V) -> Self {
        let one = Extremes::of(value);
        Lanes { first: one, second: one, third: one, fourth: one, even: value, odd: value }
    }

    #[inline]
    fn add_four(&mut self, a: V, b: V, c: V, d: V) {
        self.first.add(a);
        self.second.add(b);
        self.third.add(c);
        self.fourth.add(d);
        self.even = self.even.plus(a.plus(c));
        self.odd = self.odd.plus(b.plus(d));
    }

    fn with_values(self, values: &[V]) -> Self {
        let mut lanes = self;
        let (chunks, rest) = values.as_chunks::<8>();
        for &[a, b, c, d, e, f, g, h] in chunks {
            lanes.add_four(a, b, c, d);
            lanes.add_four(e, f, g, h);
        }
        for &value in rest {
            lanes.first.add(value);
            lanes.even = lanes.even.plus(value);
        }
        lanes
    }

    fn extremes(self) -> Extremes<V> {
        let mut all = self.first;
        for lane in [self.second, self.third, self.fourth] {
            all.add(lane.least);
            all.add(lane.greatest);
        }
        all
    }

    fn sum(self) -> V {
        self.even.plus(self.odd)
    }
}

/// The positions of the least and of the greatest of texts or binary values, of which `bytes` has those of each position; `None`:
/// there are no values.
pub(super) fn extreme_positions<'a>(array: &dyn Array, bytes: impl Fn(usize) -> &'a [u8]) -> Option<(usize, usize)> {
    let first = valid_runs(array).next()?.start;
    let (mut least, mut greatest) = (first, first);
    let mut least_key = sort_key(bytes(first));
    let mut greatest_key = least_key;
    for run in valid_runs(array) {
        for at in run {
            let value = bytes(at);
            let key = sort_key(value);
            // Values of equal keys are rarely compared: there are few such, or they are short.
            let may_be_longer = key & LENGTH_MASK == KEY_BYTES as u64;
            if key < least_key || (key == least_key && may_be_longer && value < bytes(least)) {
                (least, least_key) = (at, key);
            }
            if key > greatest_key || (key == greatest_key && may_be_longer && value > bytes(greatest)) {
                (greatest, greatest_key) = (at, key);
            }
        }
    }
    Some((least, greatest))
}

/// Bytes of a [`sort_key`].
const KEY_BYTES: usize = 8;
/// Those of a key that are no bytes of the value.
const LENGTH_MASK: u64 = 0xff;

/// Of two values the one with the lesser key is the lesser one. The key has the value's first seven bytes, then its length, at
/// most 8: so of shorter values the keys are equal only if the values are.
#[inline]
fn sort_key(value: &[u8]) -> u64 {
    match value.first_chunk::<KEY_BYTES>() {
        Some(first) => (u64::from_be_bytes(*first) & !LENGTH_MASK) | KEY_BYTES as u64,
        None => first_bytes(value) | value.len() as u64,
    }
}

/// Less than eight bytes as the first ones of a number, without a loop: what is read twice is the same.
#[inline]
fn first_bytes(value: &[u8]) -> u64 {
    let length = value.len();
    match (value.first_chunk::<4>(), value.last_chunk::<4>()) {
        (Some(first), Some(last)) => {
            let [first, last] = [first, last].map(|bytes| u64::from(u32::from_be_bytes(*bytes)));
            first << 32 | last << (8 * (KEY_BYTES - length))
        }
        _ if length == 0 => 0,
        _ => [0, length / 2, length - 1].iter().fold(0, |bytes, at| bytes | u64::from(value[*at]) << (8 * (7 - at))),
    }
}

/// The positions of the values, which are not null: from each first one to the next null.
fn valid_runs(array: &dyn Array) -> impl Iterator<Item = Range<usize>> {
    let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
    let all = (nulls.is_none() && !array.is_empty()).then_some((0, array.len()));
    let runs = all.into_iter().chain(nulls.into_iter().flat_map(NullBuffer::valid_slices));
    runs.map(|(start, end)| start..end)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrow::array::{
        BinaryArray, BinaryViewArray, Decimal128Array, Float32Array, Float64Array, Int16Array, Int64Array,
    };
    use arrow::compute::{max_binary, min_binary};
    use proptest::prelude::*;

    use super::*;

    fn check_floats(values: Vec<Option<f64>>) {
        let array = Float64Array::from(values);
        let bits = |least: f64, greatest: f64| (least.lower().to_bits(), greatest.upper().to_bits());
        let found = value_extremes(&array).map(|(least, greatest)| bits(least, greatest));
        let expected = min(&array).zip(max(&array)).map(|(least, greatest)| bits(least, greatest));
        assert_eq!(found, expected, "{array:?}");
    }

    proptest! {
        #[test]
        fn extremes_of_numbers_are_those_of_arrow(values: Vec<Option<i16>>, bits: Vec<Option<u64>>) {
            let array = Int16Array::from(values);
            prop_assert_eq!(value_extremes(&array), min(&array).zip(max(&array)));
            check_floats(bits.iter().map(|bits| bits.map(f64::from_bits)).collect());
        }

        #[test]
        fn extremes_of_numbers_without_nulls_are_those_of_arrow(values: Vec<i64>, wide: Vec<i128>) {
            check_floats(values.iter().map(|value| Some(*value as f64)).collect());
            let array = Int64Array::from(values);
            prop_assert_eq!(value_extremes(&array), min(&array).zip(max(&array)));
            let array = Decimal128Array::from(wide);
            prop_assert_eq!(value_extremes(&array), min(&array).zip(max(&array)));
        }

        #[test]
        fn extremes_of_bytes_are_those_of_arrow(
            values in prop::collection::vec(prop::option::of(prop::collection::vec(0..3_u8, 0..12)), 0..20),
        ) {
            let (array, view) = (BinaryArray::from_iter(values.clone()), BinaryViewArray::from_iter(values));
            let expected = min_binary(&array).zip(max_binary(&array));
            let found = extreme_positions(&array, |at| array.value(at));
            let found = found.map(|(least, greatest)| (array.value(least), array.value(greatest)));
            prop_assert_eq!(found, expected);
            let found = extreme_positions(&view, |at| view.value(at));
            let found = found.map(|(least, greatest)| (view.value(least), view.value(greatest)));
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn keys_have_the_order_of_the_values(
            one in prop::collection::vec(0..3_u8, 0..10),
            two in prop::collection::vec(0..3_u8, 0..10),
        ) {
            let order = sort_key(&one).cmp(&sort_key(&two));
            prop_assert!(order == one.cmp(&two) || (order.is_eq() && one.len().min(two.len()) >= KEY_BYTES));
        }
    }

    #[test]
    fn single_extreme_is_found_at_every_position() {
        for rows in 1..30_i32 {
            for at in 0..rows {
                for value in [f64::NAN, -f64::NAN, 1000.0, -1000.0] {
                    check_floats((0..rows).map(|row| Some(if row == at { value } else { f64::from(row) })).collect());
                }
            }
        }
    }

    #[test]
    fn special_floats_are_ordered_as_by_arrow() {
        let special = [f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, f64::MAX, f64::MIN, 1.5];
        for one in special {
            for two in special {
                for at in 0..6 {
                    let mut values = vec![Some(1.0); 6];
                    values[at] = None;
                    values[(at + 1) % 6] = Some(one);
                    values[(at + 4) % 6] = Some(two);
                    check_floats(values);
                }
                check_floats(vec![Some(one), Some(two)]);
            }
        }
        let sums = Float32Array::from(vec![f32::MAX, f32::MAX, f32::MIN, 1.0, f32::MAX, f32::MAX, f32::MIN, 1.0]);
        assert_eq!(value_extremes(&sums), Some((f32::MIN, f32::MAX)));
    }
}
