//! Conditions hold where they may, and what is sent of them follows from them.
#![allow(clippy::unwrap_used)]

use super::*;

fn less(column: usize, value: &[u8]) -> BoundFilter {
    BoundFilter::compare(column, BoundOperator::Less, value)
}

fn range<'a>(nulls: u64, minimum: &'a [u8], maximum: &'a [u8]) -> ColumnRange<'a> {
    ColumnRange::new(nulls, ListedBound::Value(minimum), ListedBound::Value(maximum))
}

fn may_select(filter: &BoundFilter, column: ColumnRange<'_>) -> bool {
    filter.may_select(&|at| (at == 0).then_some(column))
}

/// What a coordinator gets of a condition.
fn sent(filter: BoundFilter) -> Option<BoundFilter> {
    filter.to_wire().and_then(|message| BoundFilter::from_wire(&message))
}

#[test]
fn comparisons_hold_where_a_value_may_compare_so() {
    use BoundOperator::{Greater, GreaterOrEqual, Less, LessOrEqual};
    let column = range(0, b"b", b"d");
    for (operator, holds) in [
        (Less, [false, false, true, true, true]),
        (LessOrEqual, [false, true, true, true, true]),
        (Greater, [true, true, true, false, false]),
        (GreaterOrEqual, [true, true, true, true, false]),
    ] {
        for (value, holds) in [b"a", b"b", b"c", b"d", b"e"].into_iter().zip(holds) {
            let filter = BoundFilter::compare(0, operator, value);
            assert_eq!(may_select(&filter, column), holds, "{filter:?}");
            let unknown = ColumnRange::new(0, ListedBound::Unknown, ListedBound::Unknown);
            assert!(may_select(&filter, unknown) && filter.may_select(&|_| None));
            let none = ColumnRange::new(3, ListedBound::NoValues, ListedBound::NoValues);
            assert!(!may_select(&filter, none), "only nulls");
        }
    }
}

#[test]
fn nulls_and_values_are_told_apart() {
    let (mixed, full) = (range(1, b"a", b"b"), range(0, b"a", b"b"));
    let nulls = ColumnRange::new(2, ListedBound::NoValues, ListedBound::NoValues);
    let held = |filter: BoundFilter| [mixed, full, nulls].map(|column| may_select(&filter, column));
    assert_eq!(held(BoundFilter::IsNull(0)), [true, false, true]);
    assert_eq!(held(BoundFilter::IsNotNull(0)), [true, true, false]);
    assert_eq!(held(BoundFilter::never()), [false; 3]);
    assert_eq!(held(BoundFilter::all(Vec::new())), [true; 3]);
    let either = BoundFilter::any(vec![less(0, b"a"), BoundFilter::IsNull(0)]);
    assert_eq!(held(either.clone()), [true, false, true]);
    assert_eq!(held(BoundFilter::all(vec![either, less(0, b"b")])), [true, false, false]);
}

#[test]
fn conditions_come_back_from_their_message() {
    let filter = BoundFilter::all(vec![
        BoundFilter::any(vec![less(7, b"x"), BoundFilter::IsNull(7)]),
        BoundFilter::compare(1, BoundOperator::GreaterOrEqual, b""),
        BoundFilter::IsNotNull(2),
    ]);
    assert_eq!(BoundFilter::from_wire(&filter.to_wire().unwrap()).unwrap(), filter);
    assert_eq!(filter.columns(), BTreeSet::from([1, 2, 7]));
    let moved = filter.map_columns(&|column| (column < 9).then_some(column + 10)).unwrap();
    assert_eq!(moved.columns(), BTreeSet::from([11, 12, 17]));
    assert_eq!(filter.map_columns(&|column| (column < 7).then_some(column)), None);
    let never = BoundFilter::never();
    assert_eq!(BoundFilter::from_wire(&never.to_wire().unwrap()), Some(never));
}

#[test]
fn large_condition_is_sent_as_what_follows_from_it() {
    let many = |count: usize| (0..count).map(|at| less(at % 3, &[7; 16])).collect::<Vec<_>>();
    let BoundFilter::All(some) = sent(BoundFilter::All(many(100))).unwrap() else { panic!("another condition") };
    assert!(some.len() > 20 && some == many(100)[..some.len()]);
    assert_eq!(sent(BoundFilter::Any(many(100))), None);
    let both = BoundFilter::All(vec![BoundFilter::Any(many(100)), less(1, b"a")]);
    assert_eq!(sent(both), Some(BoundFilter::All(vec![less(1, b"a")])));
    let deep =
        |inner: BoundFilter| (0..40).fold(inner, |inner, _| BoundFilter::Any(vec![BoundFilter::All(vec![inner])]));
    assert_eq!(sent(deep(BoundFilter::IsNull(0))), None);
    let range_of_deep = sent(deep(less(0, b"c"))).unwrap();
    assert!(may_select(&range_of_deep, range(0, b"c", b"d")) && !may_select(&range_of_deep, range(0, b"d", b"e")));
}

#[test]
fn long_values_are_sent_by_their_beginnings() {
    use BoundOperator::{Greater, GreaterOrEqual, Less, LessOrEqual};
    let (beginning, mut after) = ([7; 16], [7; 16]);
    after[15] = 8;
    for (operator, expected) in [
        (Less, less(0, &after)),
        (LessOrEqual, less(0, &after)),
        (Greater, BoundFilter::compare(0, GreaterOrEqual, &beginning)),
        (GreaterOrEqual, BoundFilter::compare(0, GreaterOrEqual, &beginning)),
    ] {
        assert_eq!(sent(BoundFilter::compare(0, operator, &[7; 17])), Some(expected), "{operator:?}");
    }
    assert_eq!(sent(less(0, &[255; 32])), Some(BoundFilter::IsNotNull(0)));
}

#[test]
fn list_of_long_values_excludes_what_is_not_between_them() {
    let value = |at: usize| format!("{at:04}{}", "x".repeat(40));
    let equal = |at: usize| {
        let compare = |operator| BoundFilter::compare(0, operator, value(at).as_bytes());
        BoundFilter::all(vec![compare(BoundOperator::GreaterOrEqual), compare(BoundOperator::LessOrEqual)])
    };
    for (count, has_gaps) in [(3, true), (20, true), (60, false)] {
        let list = sent(BoundFilter::any((0..count).map(|at| equal(2 * at)).collect())).unwrap();
        let held = |value: String| may_select(&list, range(0, value.as_bytes(), value.as_bytes()));
        assert!((0..count).all(|at| held(value(2 * at))), "{count} values");
        assert_eq!(held(value(1)), !has_gaps, "{count} values");
        assert!(!held(value(2 * count)) && !held("0".into()), "{count} values");
    }
}

#[test]
fn too_many_alternatives_leave_the_ranges_of_common_columns() {
    let of = |number: u8| {
        let equal = BoundFilter::compare(1, BoundOperator::GreaterOrEqual, &[number]);
        BoundFilter::all(vec![equal, less(usize::from(number) + 2, b"a"), less(0, &[number; 12])])
    };
    let mut alternatives: Vec<BoundFilter> = (10..60).map(of).collect();
    let ranges = BoundFilter::all(vec![
        BoundFilter::compare(0, BoundOperator::LessOrEqual, &[59; 12]),
        BoundFilter::compare(1, BoundOperator::GreaterOrEqual, &[10]),
    ]);
    assert_eq!(sent(BoundFilter::Any(alternatives.clone())), Some(ranges));
    alternatives.push(BoundFilter::IsNull(0));
    assert_eq!(sent(BoundFilter::Any(alternatives)), None);
}

#[test]
fn conditions_on_too_many_columns_are_not_read() {
    let columns = |count: usize| (0..count).map(|column| less(column, b"a")).collect::<Vec<_>>();
    let more = [columns(MAX_COLUMNS + 3), vec![BoundFilter::IsNull(0)]].concat();
    let fewer = [columns(MAX_COLUMNS), vec![BoundFilter::IsNull(0)]].concat();
    assert_eq!(sent(BoundFilter::All(more)), Some(BoundFilter::All(fewer)));
    assert_eq!(sent(BoundFilter::Any(columns(MAX_COLUMNS + 1))), None);
    assert!(sent(BoundFilter::Any(columns(MAX_COLUMNS))).is_some());
    // The columns of what is not read leave room for others.
    let both = BoundFilter::All(vec![BoundFilter::Any(columns(MAX_COLUMNS + 1)), less(30, b"a")]);
    assert_eq!(sent(both), Some(BoundFilter::All(vec![less(30, b"a")])));
}

#[test]
fn conditions_of_later_versions_may_hold() {
    let known = less(0, b"a").to_wire().unwrap();
    let later = BoundCondition { test: 99, ..known.clone() };
    let of = |test: BoundTest| BoundCondition {
        test: test as i32,
        conditions: vec![later.clone(), known.clone()],
        ..BoundCondition::default()
    };
    assert_eq!(BoundFilter::from_wire(&later), None);
    assert_eq!(BoundFilter::from_wire(&of(BoundTest::Any)), None);
    assert_eq!(BoundFilter::from_wire(&of(BoundTest::All)), Some(BoundFilter::All(vec![less(0, b"a")])));
    let many = BoundCondition { conditions: vec![known.clone(); 1000], ..of(BoundTest::All) };
    let BoundFilter::All(read) = BoundFilter::from_wire(&many).unwrap() else { panic!("another condition") };
    assert!(read.len() < MAX_CONDITIONS);
}
