//! Bounds of values, as bytes whose order is that of the values, and lists of them.

use arrow::datatypes::i256;
use half::f16;

/// Most bytes of a bound. Longer texts and binary values are shortened; every other value fits.
pub(super) const MAX_BOUND_BYTES: usize = 32;

/// The length in a list that says that there are no values.
const NO_VALUES: u8 = 254;
/// The length in a list that says that the bound is not known.
const UNKNOWN: u8 = 255;

/// What is known of the least or of the greatest value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// There are no values.
    NoValues,
    /// Any value is possible.
    Unknown,
    /// No value is beyond this one.
    Value(BoundBytes),
}

/// A value whose order as bytes is that of the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BoundBytes {
    length: u8,
    /// Zero after `length`.
    bytes: [u8; MAX_BOUND_BYTES],
}

impl BoundBytes {
    /// `None` for more than [`MAX_BOUND_BYTES`].
    pub(super) fn new(value: &[u8]) -> Option<Self> {
        let mut bytes = [0; MAX_BOUND_BYTES];
        bytes.get_mut(..value.len())?.copy_from_slice(value);
        Some(BoundBytes { length: value.len() as u8, bytes })
    }

    /// The bytes.
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// Which of two bounds holds for the values of both.
#[derive(Clone, Copy, Debug)]
pub(super) enum BoundSide {
    /// Bounds that no value is less than.
    Minimum,
    /// Bounds that no value is greater than.
    Maximum,
}

impl Bound {
    /// The bound of the values of both.
    pub(super) fn join(self, other: Bound, side: BoundSide) -> Bound {
        match (self, other) {
            (Bound::NoValues, known) | (known, Bound::NoValues) => known,
            (Bound::Unknown, _) | (_, Bound::Unknown) => Bound::Unknown,
            (Bound::Value(one), Bound::Value(two)) => Bound::Value(match (side, one.as_slice() <= two.as_slice()) {
                (BoundSide::Minimum, true) | (BoundSide::Maximum, false) => one,
                (BoundSide::Minimum, false) | (BoundSide::Maximum, true) => two,
            }),
        }
    }
}

/// Bounds, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct BoundList {
    /// Bytes of each, or [`NO_VALUES`] or [`UNKNOWN`].
    pub(super) lengths: Vec<u8>,
    pub(super) bounds: Vec<u8>,
}

/// The bounds of a list; `None` if it is malformed.
pub(super) fn decode_bounds(lengths: &[u8], mut bounds: &[u8]) -> Option<Vec<Bound>> {
    let mut decoded = Vec::with_capacity(lengths.len());
    for &length in lengths {
        decoded.push(match length {
            NO_VALUES => Bound::NoValues,
            UNKNOWN => Bound::Unknown,
            length => {
                let (value, after) = bounds.split_at_checked(usize::from(length))?;
                bounds = after;
                Bound::Value(BoundBytes::new(value)?)
            }
        });
    }
    bounds.is_empty().then_some(decoded)
}

impl BoundList {
    /// Their bytes when they are encoded.
    pub(super) fn encoded_bytes(&self) -> usize {
        self.lengths.len() + self.bounds.len()
    }

    /// Appends a bound.
    pub(super) fn push(&mut self, bound: Bound) {
        match bound {
            Bound::NoValues => self.lengths.push(NO_VALUES),
            Bound::Unknown => self.lengths.push(UNKNOWN),
            Bound::Value(value) => {
                self.lengths.push(value.length);
                self.bounds.extend_from_slice(value.as_slice());
            }
        }
    }

    /// Joins a bound to the last one, which there must be.
    pub(super) fn join_last(&mut self, bound: Bound, side: BoundSide) {
        let last = match self.lengths.pop() {
            None | Some(NO_VALUES) => Bound::NoValues,
            Some(length) if usize::from(length) > MAX_BOUND_BYTES => Bound::Unknown,
            Some(length) => {
                let start = self.bounds.len().saturating_sub(usize::from(length));
                let value = BoundBytes::new(&self.bounds[start..]);
                self.bounds.truncate(start);
                value.map_or(Bound::Unknown, Bound::Value)
            }
        };
        self.push(last.join(bound, side));
    }

    /// Joins each two neighbours.
    pub(super) fn join_pairs(&mut self, side: BoundSide) {
        let Some(bounds) = decode_bounds(&self.lengths, &self.bounds) else { return };
        *self = BoundList::default();
        for pair in bounds.chunks(2) {
            self.push(pair.iter().fold(Bound::NoValues, |bound, next| bound.join(*next, side)));
        }
    }
}

/// A value with a bound of its own.
pub(super) trait OrderedValue: Copy + PartialOrd {
    /// The bytes whose order is that of the values.
    fn to_ordered(self) -> Bound;

    /// The value of [`OrderedValue::to_ordered`]; `None` if the bytes are none.
    fn from_ordered(bytes: &[u8]) -> Option<Self>;

    /// The value, or a lesser one that is a bound also after casts and by SQL's comparison.
    fn lower(self) -> Self {
        self
    }

    /// The value, or a greater one that is a bound also after casts and by SQL's comparison.
    fn upper(self) -> Self {
        self
    }

    /// Of floats the sum: a NaN if either one is, or if they are both infinities. Of others any value.
    fn plus(self, _other: Self) -> Self {
        self
    }

    /// Whether it is a NaN, which `<` and `>` do not order.
    fn is_unordered(self) -> bool {
        false
    }
}

macro_rules! ordered_integers {
    ($($native:ty, $sign:expr;)*) => {$(
        impl OrderedValue for $native {
            fn to_ordered(self) -> Bound {
                let mut bytes = self.to_be_bytes();
                bytes[0] ^= $sign;
                BoundBytes::new(&bytes).map_or(Bound::Unknown, Bound::Value)
            }

            fn from_ordered(bytes: &[u8]) -> Option<Self> {
                let mut bytes: [u8; size_of::<$native>()] = bytes.try_into().ok()?;
                bytes[0] ^= $sign;
                Some(<$native>::from_be_bytes(bytes))
            }
        }
    )*};
}

ordered_integers! {
    u8, 0;
    u16, 0;
    u32, 0;
    u64, 0;
    i8, 0x80;
    i16, 0x80;
    i32, 0x80;
    i64, 0x80;
    i128, 0x80;
    i256, 0x80;
}

/// Of zeros SQL's comparison distinguishes no signs, and casts reorder NaNs: so a bound that is a zero is that of both zeros,
/// and one that is a NaN is that of all NaNs of its sign.
macro_rules! ordered_floats {
    ($($float:ty, $bits:ty;)*) => {$(
        impl OrderedValue for $float {
            fn to_ordered(self) -> Bound {
                const SIGN: $bits = 1 << (<$bits>::BITS - 1);
                let bits = self.to_bits();
                let ordered = if bits & SIGN == 0 { bits | SIGN } else { !bits };
                ordered.to_ordered()
            }

            fn from_ordered(bytes: &[u8]) -> Option<Self> {
                const SIGN: $bits = 1 << (<$bits>::BITS - 1);
                let ordered = <$bits>::from_ordered(bytes)?;
                Some(<$float>::from_bits(if ordered & SIGN == 0 { !ordered } else { ordered & !SIGN }))
            }

            fn lower(self) -> Self {
                const SIGN: $bits = 1 << (<$bits>::BITS - 1);
                match (self.is_nan(), self.is_sign_negative()) {
                    (true, true) => <$float>::from_bits(<$bits>::MAX),
                    (true, false) => <$float>::INFINITY,
                    (false, _) if self.to_bits() == 0 => <$float>::from_bits(SIGN),
                    (false, _) => self,
                }
            }

            fn upper(self) -> Self {
                const SIGN: $bits = 1 << (<$bits>::BITS - 1);
                match (self.is_nan(), self.is_sign_negative()) {
                    (true, true) => <$float>::NEG_INFINITY,
                    (true, false) => <$float>::from_bits(!SIGN),
                    (false, _) if self.to_bits() == SIGN => <$float>::from_bits(0),
                    (false, _) => self,
                }
            }

            fn plus(self, other: Self) -> Self {
                self + other
            }

            fn is_unordered(self) -> bool {
                self.is_nan()
            }
        }
    )*};
}

ordered_floats! {
    f16, u16;
    f32, u32;
    f64, u64;
}

impl OrderedValue for bool {
    fn to_ordered(self) -> Bound {
        u8::from(self).to_ordered()
    }

    fn from_ordered(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fmt::Debug;

    use proptest::prelude::*;

    use super::*;

    fn bytes<T: OrderedValue + Debug>(value: T) -> Vec<u8> {
        let Bound::Value(bytes) = value.to_ordered() else { panic!("{value:?} has no bound") };
        bytes.as_slice().to_vec()
    }

    fn decoded(list: &BoundList) -> Vec<Bound> {
        decode_bounds(&list.lengths, &list.bounds).unwrap()
    }

    fn check<T: OrderedValue + Debug>(one: T, two: T, order: std::cmp::Ordering) {
        assert_eq!(bytes(one).cmp(&bytes(two)), order, "{one:?} and {two:?}");
        let back = T::from_ordered(&bytes(one)).unwrap();
        assert_eq!(bytes(back), bytes(one), "{one:?}");
        assert!(T::from_ordered(&[7; 33]).is_none());
        for value in [one, two] {
            assert!(bytes(value.lower()) <= bytes(value) && bytes(value) <= bytes(value.upper()), "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn bytes_have_the_order_of_the_values(a: i64, b: i64, c: u128, d: u128) {
            check(a, b, a.cmp(&b));
            check(a as i8, b as i8, (a as i8).cmp(&(b as i8)));
            check(a as u16, b as u16, (a as u16).cmp(&(b as u16)));
            check(c as i128, d as i128, (c as i128).cmp(&(d as i128)));
            let wide = |low, high| i256::from_parts(low, high);
            check(wide(c, a.into()), wide(d, b.into()), wide(c, a.into()).cmp(&wide(d, b.into())));
            let (x, y) = (f64::from_bits(a as u64), f64::from_bits(b as u64));
            check(x, y, x.total_cmp(&y));
            let (x, y) = (f32::from_bits(a as u32), f32::from_bits(b as u32));
            check(x, y, x.total_cmp(&y));
        }

        #[test]
        fn joined_bounds_hold_for_all(values: Vec<Option<i16>>) {
            let bound = |value: &Option<i16>| value.map_or(Bound::NoValues, OrderedValue::to_ordered);
            let mut list = BoundList::default();
            values.iter().for_each(|value| list.push(bound(value)));
            prop_assert_eq!(decoded(&list), values.iter().map(bound).collect::<Vec<_>>());
            while list.lengths.len() > 1 {
                list.join_pairs(BoundSide::Maximum);
            }
            if !values.is_empty() {
                prop_assert_eq!(decoded(&list), [bound(&values.iter().copied().max().unwrap())]);
            }
        }
    }

    #[test]
    fn extreme_floats_have_bounds_of_their_kind() {
        let extremes = [-f64::NAN, f64::NEG_INFINITY, f64::MIN, -0.0, 0.0, f64::MAX, f64::INFINITY, f64::NAN];
        for pair in extremes.windows(2) {
            check(pair[0], pair[1], std::cmp::Ordering::Less);
        }
        assert_eq!(0.0_f64.lower().to_bits(), (-0.0_f64).to_bits());
        assert_eq!((-0.0_f64).upper().to_bits(), 0);
        assert_eq!(f32::NAN.upper().to_bits(), 0x7fff_ffff);
        assert_eq!((-f32::NAN).lower().to_bits(), 0xffff_ffff);
        assert_eq!((f32::NAN.lower(), (-f32::NAN).upper()), (f32::INFINITY, f32::NEG_INFINITY));
    }

    #[test]
    fn unknown_bound_stays_unknown() {
        let one = 1_i32.to_ordered();
        for side in [BoundSide::Minimum, BoundSide::Maximum] {
            assert_eq!(one.join(Bound::Unknown, side), Bound::Unknown);
            assert_eq!(Bound::NoValues.join(Bound::Unknown, side), Bound::Unknown);
            assert_eq!(Bound::NoValues.join(one, side), one);
        }
        let mut list = BoundList::default();
        [one, Bound::Unknown, Bound::NoValues].into_iter().for_each(|bound| list.push(bound));
        list.join_last(one, BoundSide::Minimum);
        assert_eq!(decoded(&list), [one, Bound::Unknown, one]);
    }

    #[test]
    fn malformed_list_is_refused() {
        assert!(decode_bounds(&[2], b"ab").is_some());
        assert!(decode_bounds(&[3], b"ab").is_none());
        assert!(decode_bounds(&[1], b"ab").is_none());
        assert!(decode_bounds(&[33], &[0; 33]).is_none());
    }
}
