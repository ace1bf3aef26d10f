//! Bounds of values, as bytes whose order is that of the values, and lists of them.

use arrow::datatypes::i256;
use half::f16;

/// Most bytes of a bound. Longer texts and binary values are shortened; every other value fits.
pub(super) const MAX_BOUND_BYTES: usize = 32;
/// Most bytes of a bound of a whole part, of whatever type.
pub(super) const MAX_PART_BOUND_BYTES: usize = 16;

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

/// A bound as it is in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListedBound<'a> {
    /// As [`Bound::NoValues`].
    NoValues,
    /// As [`Bound::Unknown`].
    Unknown,
    /// As [`Bound::Value`].
    Value(&'a [u8]),
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

    /// A bound of the same values in at most `most` bytes.
    pub(super) fn truncated(self, most: usize, side: BoundSide) -> Bound {
        let Bound::Value(value) = &self else { return self };
        let Some(beginning) = value.as_slice().get(..most).filter(|beginning| beginning.len() < value.as_slice().len())
        else {
            return self;
        };
        match side {
            BoundSide::Minimum => BoundBytes::new(beginning).map_or(Bound::Unknown, Bound::Value),
            BoundSide::Maximum => after_all_with(beginning),
        }
    }

    /// The bound as a list has it.
    pub(super) fn listed(&self) -> ListedBound<'_> {
        match self {
            Bound::NoValues => ListedBound::NoValues,
            Bound::Unknown => ListedBound::Unknown,
            Bound::Value(value) => ListedBound::Value(value.as_slice()),
        }
    }
}

/// The least bytes that are greater than all that begin with these, which are at most [`MAX_BOUND_BYTES`]; unknown if there are
/// none.
pub(super) fn after_all_with(beginning: &[u8]) -> Bound {
    let last = beginning.iter().rposition(|byte| *byte < u8::MAX);
    let after = last.and_then(|last| {
        let mut after = BoundBytes::new(&beginning[..=last])?;
        after.bytes[last] += 1;
        Some(after)
    });
    after.map_or(Bound::Unknown, Bound::Value)
}

/// Bounds, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct BoundList {
    /// Bytes of each, or [`NO_VALUES`] or [`UNKNOWN`].
    pub(super) lengths: Vec<u8>,
    pub(super) bounds: Vec<u8>,
}

/// Bytes of the bound that has this length in a list.
fn listed_bytes(length: u8) -> usize {
    if usize::from(length) <= MAX_BOUND_BYTES { length.into() } else { 0 }
}

/// The bound at a position of a list; `None` if it is malformed, or has no such position.
pub(super) fn bound_at<'a>(lengths: &[u8], bounds: &'a [u8], at: usize) -> Option<ListedBound<'a>> {
    match *lengths.get(at)? {
        NO_VALUES => Some(ListedBound::NoValues),
        length if usize::from(length) > MAX_BOUND_BYTES => Some(ListedBound::Unknown),
        length => {
            let start: usize = lengths[..at].iter().copied().map(listed_bytes).sum();
            bounds.get(start..start + listed_bytes(length)).map(ListedBound::Value)
        }
    }
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

    /// The bound of the values of all of them.
    pub(super) fn joined(&self, side: BoundSide) -> Bound {
        let Some(bounds) = decode_bounds(&self.lengths, &self.bounds) else { return Bound::Unknown };
        bounds.into_iter().fold(Bound::NoValues, |bound, next| bound.join(next, side))
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
mod tests;
