//! Conditions on the bounds of a column that hold wherever a comparison of its values can be true.
//!
//! A column may be compared after a cast. If the cast keeps the order of the values, those for which the comparison is true begin
//! or end at one value of the column, which is searched.

use arrow::array::{Array, ArrayRef};
use arrow::compute::cast;
use arrow::datatypes::DataType;

use super::bound::{Bound, BoundBytes, MAX_BOUND_BYTES, after_all_with};
use super::bound_filter::{BoundFilter, BoundOperator};
use super::column_values::{bounds_array, value_bounds};

/// How a value of a column compares with another value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueComparison {
    /// `=`
    Equal,
    /// `<>`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// A column, and a value that it is compared with.
struct ComparedColumn<'a> {
    column: usize,
    column_type: &'a DataType,
    /// What the column is cast to; `None`: its bounds and those of the value have the same encoding.
    cast_to: Option<&'a DataType>,
    /// The bounds of the value.
    lower: Bound,
    upper: Bound,
}

/// What holds wherever a value of the column of this index and type compares so with the one element of `value`, which is not
/// null. If the types differ, the column's values are cast: the cast must keep their order, and not fail. `None`: nothing is known.
pub fn compare(
    column: usize,
    column_type: &DataType,
    comparison: ValueComparison,
    value: &dyn Array,
) -> Option<BoundFilter> {
    let (lower, upper) = value_bounds(value);
    let cast_to = (!has_same_bounds(column_type, value.data_type())).then_some(value.data_type());
    let compared = ComparedColumn { column, column_type, cast_to, lower, upper };
    let condition = |operator| compared.condition(operator);
    match comparison {
        ValueComparison::Less => condition(BoundOperator::Less),
        ValueComparison::LessOrEqual => condition(BoundOperator::LessOrEqual),
        ValueComparison::Greater => condition(BoundOperator::Greater),
        ValueComparison::GreaterOrEqual => condition(BoundOperator::GreaterOrEqual),
        ValueComparison::Equal => {
            let both = [BoundOperator::GreaterOrEqual, BoundOperator::LessOrEqual];
            let known: Vec<BoundFilter> = both.into_iter().filter_map(condition).collect();
            (!known.is_empty()).then(|| BoundFilter::all(known))
        }
        ValueComparison::NotEqual => {
            Some(BoundFilter::any(vec![condition(BoundOperator::Less)?, condition(BoundOperator::Greater)?]))
        }
    }
}

/// Whether the bounds of values of both types have the same encoding.
fn has_same_bounds(one: &DataType, other: &DataType) -> bool {
    one == other || (one.is_string() && other.is_string())
}

/// What holds wherever a value of the column equals one of these, as by [`compare`]. Of more than `max_values` it is that there may
/// be a value between the least and the greatest, and nothing is known if the column is cast. Each array has one element, which is
/// not null.
pub fn one_of(column: usize, column_type: &DataType, values: &[ArrayRef], max_values: usize) -> Option<BoundFilter> {
    if values.len() <= max_values {
        let each = values.iter().map(|value| compare(column, column_type, ValueComparison::Equal, value));
        return each.collect::<Option<Vec<_>>>().map(BoundFilter::any);
    }
    let mut range: Option<(BoundBytes, BoundBytes)> = None;
    for value in values {
        let (Bound::Value(lower), Bound::Value(upper)) = value_bounds(value) else { return None };
        if !has_same_bounds(column_type, value.data_type()) {
            return None;
        }
        range = Some(match range {
            None => (lower, upper),
            Some((least, greatest)) => (
                if lower.as_slice() < least.as_slice() { lower } else { least },
                if upper.as_slice() > greatest.as_slice() { upper } else { greatest },
            ),
        });
    }
    let (least, greatest) = range?;
    Some(BoundFilter::all(vec![
        BoundFilter::compare(column, BoundOperator::GreaterOrEqual, least.as_slice()),
        BoundFilter::compare(column, BoundOperator::LessOrEqual, greatest.as_slice()),
    ]))
}

/// What holds wherever a text of the column begins with this one. `None`: nothing is known.
pub fn begins_with(column: usize, beginning: &str) -> Option<BoundFilter> {
    let bytes = &beginning.as_bytes()[..beginning.len().min(MAX_BOUND_BYTES)];
    if bytes.is_empty() {
        return None;
    }
    let from = BoundFilter::compare(column, BoundOperator::GreaterOrEqual, bytes);
    Some(match after_all_with(bytes) {
        Bound::Value(after) => {
            BoundFilter::all(vec![from, BoundFilter::compare(column, BoundOperator::Less, after.as_slice())])
        }
        Bound::NoValues | Bound::Unknown => from,
    })
}

/// What holds wherever a text of the column does not begin with this one. `None`: nothing is known.
pub fn begins_otherwise(column: usize, beginning: &str) -> Option<BoundFilter> {
    let bytes = beginning.as_bytes();
    if bytes.is_empty() || bytes.len() > MAX_BOUND_BYTES {
        return None;
    }
    let Bound::Value(after) = after_all_with(bytes) else { return None };
    Some(BoundFilter::any(vec![
        BoundFilter::compare(column, BoundOperator::Less, bytes),
        BoundFilter::compare(column, BoundOperator::GreaterOrEqual, after.as_slice()),
    ]))
}

impl ComparedColumn<'_> {
    /// What holds wherever a value of the column compares so.
    fn condition(&self, operator: BoundOperator) -> Option<BoundFilter> {
        let own = match operator {
            BoundOperator::Less | BoundOperator::LessOrEqual => self.upper,
            BoundOperator::Greater | BoundOperator::GreaterOrEqual => self.lower,
        };
        let Bound::Value(own) = own else { return None };
        let own = own.as_slice();
        let Some(to) = self.cast_to else { return Some(BoundFilter::compare(self.column, operator, own)) };
        match operator {
            BoundOperator::Greater => self.at_or_after_first(to, |_, upper| upper > own),
            BoundOperator::GreaterOrEqual => self.at_or_after_first(to, |_, upper| upper >= own),
            BoundOperator::Less => self.before_first(to, |lower, _| lower >= own),
            BoundOperator::LessOrEqual => self.before_first(to, |lower, _| lower > own),
        }
    }

    /// That there may be the first value for which `is_reached`, or a greater one.
    fn at_or_after_first(&self, to: &DataType, is_reached: impl Fn(&[u8], &[u8]) -> bool) -> Option<BoundFilter> {
        Some(match self.first(to, is_reached)? {
            Some(first) => BoundFilter::compare(self.column, BoundOperator::GreaterOrEqual, first.as_slice()),
            None => BoundFilter::never(),
        })
    }

    /// That there may be a lesser value than the first one for which `is_reached`.
    fn before_first(&self, to: &DataType, is_reached: impl Fn(&[u8], &[u8]) -> bool) -> Option<BoundFilter> {
        Some(match self.first(to, is_reached)? {
            Some(first) => BoundFilter::compare(self.column, BoundOperator::Less, first.as_slice()),
            None => BoundFilter::IsNotNull(self.column),
        })
    }

    /// The least value of the column's type for which `is_reached` is true of the bounds of what it is cast to; from it on it is
    /// true for all. Of values of one width their bounds, as numbers, are all numbers of this width. `None`: it is not known; the
    /// inner one: there is none.
    fn first(&self, to: &DataType, is_reached: impl Fn(&[u8], &[u8]) -> bool) -> Option<Option<BoundBytes>> {
        const MOST: usize = size_of::<u128>();
        let width = self.column_type.primitive_width().filter(|width| (1..=MOST).contains(width))?;
        let bound_of = |number: u128| BoundBytes::new(&number.to_be_bytes()[MOST - width..]);
        let reaches = |number: u128| -> Option<bool> {
            let value = bounds_array(self.column_type, &[Bound::Value(bound_of(number)?)])?;
            let (lower, upper) = value_bounds(&cast(&value, to).ok()?);
            match (lower, upper) {
                (Bound::Value(lower), Bound::Value(upper)) => Some(is_reached(lower.as_slice(), upper.as_slice())),
                _ => None,
            }
        };
        let (mut first, mut last) = (0, u128::MAX >> (8 * (MOST - width)));
        while first < last {
            let middle = first + (last - first) / 2;
            if reaches(middle)? {
                last = middle;
            } else {
                first = middle + 1;
            }
        }
        Some(if reaches(first)? { Some(bound_of(first)?) } else { None })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int32Array, Int64Array, StringArray};

    use super::*;
    use crate::ipc::statistics::bound_filter::ColumnRange;

    /// Whether a condition on column 0 holds for a batch that has these values.
    fn holds(filter: &BoundFilter, values: &ArrayRef) -> bool {
        let (lower, upper) = value_bounds(values);
        let range = ColumnRange::new(values.null_count() as u64, lower.listed(), upper.listed());
        filter.may_select(&|_| Some(range))
    }

    fn ints(values: &[i32]) -> ArrayRef {
        Arc::new(Int32Array::from(values.to_vec()))
    }

    #[test]
    fn comparison_after_a_cast_holds_from_the_right_value_on() {
        use ValueComparison::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};
        let value = Float64Array::from(vec![90.5]);
        for (comparison, values, expected) in [
            (Greater, vec![90], false),
            (Greater, vec![91], true),
            (GreaterOrEqual, vec![90], false),
            (Less, vec![91], false),
            (Less, vec![90], true),
            (LessOrEqual, vec![91, 90], true),
            (Equal, vec![90], false),
            (Equal, vec![91], false),
            (Equal, vec![90, 91], true),
            (NotEqual, vec![90], true),
        ] {
            let filter = compare(0, &DataType::Int32, comparison, &value).unwrap();
            assert_eq!(holds(&filter, &ints(&values)), expected, "{comparison:?} {values:?}");
        }
        let far = Float64Array::from(vec![1e30]);
        let extremes = ints(&[i32::MIN, i32::MAX]);
        for (comparison, expected) in [(Greater, false), (Equal, false), (Less, true), (NotEqual, true)] {
            let filter = compare(0, &DataType::Int32, comparison, &far).unwrap();
            assert_eq!(holds(&filter, &extremes), expected, "{comparison:?}");
        }
    }

    #[test]
    fn cast_that_rounds_finds_all_values_that_become_equal() {
        let value = Float64Array::from(vec![9_007_199_254_740_992.0]);
        let filter = compare(0, &DataType::Int64, ValueComparison::Equal, &value).unwrap();
        for (number, expected) in [(1_i64 << 53, true), ((1 << 53) + 1, true), ((1 << 53) + 2, false), (0, false)] {
            let values: ArrayRef = Arc::new(Int64Array::from(vec![number]));
            assert_eq!(holds(&filter, &values), expected, "{number}");
        }
    }

    #[test]
    fn zeros_and_nans_are_not_told_apart() {
        let equal = |value: f64| {
            compare(0, &DataType::Float64, ValueComparison::Equal, &Float64Array::from(vec![value])).unwrap()
        };
        let floats = |value: f64| Arc::new(Float64Array::from(vec![value])) as ArrayRef;
        assert!(holds(&equal(0.0), &floats(-0.0)) && holds(&equal(-0.0), &floats(0.0)));
        let other = f64::from_bits(f64::NAN.to_bits() + 1);
        assert!(holds(&equal(f64::NAN), &floats(other)) && holds(&equal(other), &floats(f64::NAN)));
        assert!(!holds(&equal(0.0), &floats(1.0)) && !holds(&equal(f64::NAN), &floats(-f64::NAN)));
    }

    #[test]
    fn long_texts_are_compared_by_their_beginnings() {
        let text = |end: &str| format!("{}{end}", "p".repeat(40));
        let array = |text: String| StringArray::from(vec![text]);
        let column: ArrayRef = Arc::new(array(text("b")));
        for (comparison, value) in [
            (ValueComparison::Equal, text("b")),
            (ValueComparison::Less, text("c")),
            (ValueComparison::Greater, text("a")),
            (ValueComparison::NotEqual, text("x")),
        ] {
            let filter = compare(0, &DataType::Utf8View, comparison, &array(value)).unwrap();
            assert!(holds(&filter, &column), "{comparison:?}");
        }
        let filter = compare(0, &DataType::Utf8, ValueComparison::Equal, &array("q".into())).unwrap();
        assert!(!holds(&filter, &column));
    }

    #[test]
    fn beginnings_of_texts_are_ranges() {
        let texts = |first: &str, last: &str| Arc::new(StringArray::from(vec![first, last])) as ArrayRef;
        let long = "p".repeat(50);
        for (beginning, first, last, begins, otherwise) in [
            ("ab", "ab", "abz", true, Some(false)),
            ("ab", "aa", "ac", true, Some(true)),
            ("ab", "ac", "b", false, Some(true)),
            ("ab", "a", "aaz", false, Some(true)),
            ("\u{10ffff}", "\u{10ffff}a", "\u{10ffff}b", true, Some(false)),
            (long.as_str(), "pp", "q", true, None),
            (long.as_str(), "a", "b", false, None),
        ] {
            let values = texts(first, last);
            assert_eq!(holds(&begins_with(0, beginning).unwrap(), &values), begins, "{beginning}: {first}, {last}");
            let found = begins_otherwise(0, beginning).map(|filter| holds(&filter, &values));
            assert_eq!(found, otherwise, "{beginning}: {first}, {last}");
        }
        assert_eq!((begins_with(0, ""), begins_otherwise(0, "")), (None, None));
    }

    #[test]
    fn long_list_of_values_is_a_range() {
        let values: Vec<ArrayRef> = [5, 50, 500].iter().map(|value| ints(&[*value])).collect();
        let (few, many) = (one_of(0, &DataType::Int32, &values, 3), one_of(0, &DataType::Int32, &values, 2));
        for (column, each, range) in [(5, true, true), (51, false, true), (4, false, false), (501, false, false)] {
            let found =
                (holds(few.as_ref().unwrap(), &ints(&[column])), holds(many.as_ref().unwrap(), &ints(&[column])));
            assert_eq!(found, (each, range), "{column}");
        }
        assert_eq!(one_of(0, &DataType::Int64, &values, 2), None, "of another type");
        assert_eq!(one_of(0, &DataType::Int32, &[], 2), Some(BoundFilter::never()));
    }
}
