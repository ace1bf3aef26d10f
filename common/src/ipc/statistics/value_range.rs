//! Ranges of values, as bytes whose order is that of the values.

/// A range of values, with both ends. It has no end where it has no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ValueRange<'a> {
    least: Option<&'a [u8]>,
    greatest: Option<&'a [u8]>,
}

impl<'a> ValueRange<'a> {
    /// From this value on.
    pub(super) fn at_least(value: &'a [u8]) -> Self {
        ValueRange { least: Some(value), greatest: None }
    }

    /// Up to this value.
    pub(super) fn at_most(value: &'a [u8]) -> Self {
        ValueRange { least: None, greatest: Some(value) }
    }

    /// The least value.
    pub(super) fn least(&self) -> Option<&'a [u8]> {
        self.least
    }

    /// The greatest value.
    pub(super) fn greatest(&self) -> Option<&'a [u8]> {
        self.greatest
    }

    /// Leaves what both ranges have.
    pub(super) fn narrow(&mut self, other: ValueRange<'a>) {
        // None is less than any.
        self.least = self.least.max(other.least);
        self.greatest = match (self.greatest, other.greatest) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        };
    }

    /// Adds what the other range has, and what is between them. Returns whether there is a bound.
    pub(super) fn widen(&mut self, other: ValueRange<'a>) -> bool {
        self.least = self.least.min(other.least);
        self.greatest = self.greatest.zip(other.greatest).map(|(one, two)| one.max(two));
        self.least.is_some() || self.greatest.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_narrowed_and_widened_at_both_ends() {
        let between = |least, greatest| ValueRange { least: Some(least), greatest: Some(greatest) };
        let mut range = ValueRange::default();
        range.narrow(ValueRange::at_least(b"b"));
        range.narrow(ValueRange::at_most(b"d"));
        assert_eq!(range, between(b"b", b"d"));
        range.narrow(between(b"a", b"c"));
        assert_eq!((range.least(), range.greatest()), (Some(&b"b"[..]), Some(&b"c"[..])));
        assert!(range.widen(between(b"x", b"y")));
        assert_eq!(range, between(b"b", b"y"));
        assert!(range.widen(ValueRange::at_most(b"z")));
        assert_eq!(range, ValueRange::at_most(b"z"));
        assert!(!range.widen(ValueRange::at_least(b"a")));
    }
}
