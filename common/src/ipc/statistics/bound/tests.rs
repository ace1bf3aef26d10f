//! Bounds have the order of their values, and hold after they are joined, truncated and listed.
#![allow(clippy::unwrap_used)]

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
fn truncated_bounds_admit_the_same_values() {
    let bound = |bytes: &[u8]| Bound::Value(BoundBytes::new(bytes).unwrap());
    assert_eq!(bound(b"abcd").truncated(4, BoundSide::Maximum), bound(b"abcd"));
    assert_eq!(bound(b"abcde").truncated(4, BoundSide::Minimum), bound(b"abcd"));
    assert_eq!(bound(b"abcde").truncated(4, BoundSide::Maximum), bound(b"abce"));
    assert_eq!(bound(&[1, 255, 255, 0]).truncated(3, BoundSide::Maximum), bound(&[2]));
    assert_eq!(bound(&[255; 5]).truncated(4, BoundSide::Maximum), Bound::Unknown);
    assert_eq!(bound(&[255; 5]).truncated(4, BoundSide::Minimum), bound(&[255; 4]));
    assert_eq!(Bound::NoValues.truncated(4, BoundSide::Maximum), Bound::NoValues);
}

#[test]
fn bounds_of_a_list_are_found_by_their_positions() {
    let (lengths, bounds) = ([1, 254, 0, 255, 2], b"abc");
    let found: Vec<_> = (0..5).map(|at| bound_at(&lengths, bounds, at).unwrap()).collect();
    let value = ListedBound::Value;
    assert_eq!(found, [value(b"a"), ListedBound::NoValues, value(b""), ListedBound::Unknown, value(b"bc")]);
    assert_eq!(bound_at(&lengths, bounds, 5), None);
    assert_eq!(bound_at(&lengths, b"ab", 4), None);
}

#[test]
fn malformed_list_is_refused() {
    assert!(decode_bounds(&[2], b"ab").is_some());
    assert!(decode_bounds(&[3], b"ab").is_none());
    assert!(decode_bounds(&[1], b"ab").is_none());
    assert!(decode_bounds(&[33], &[0; 33]).is_none());
}
