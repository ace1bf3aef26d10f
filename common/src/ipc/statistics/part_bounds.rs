//! Bounds of the columns of a whole part, as its row in the catalog has them.
//!
//! A catalog has them for every part, in the memory of each coordinator, so they are few bytes: of ten million parts they take
//! up to 2.6 GB. They are read while the catalog is locked, for every part of a table: so the message is not decoded, but its
//! fields are found in its bytes.

use std::array::from_fn;
use std::cell::Cell;

use bytes::Bytes;
use prost::{Message, decode_length_delimiter};

use super::bound::{Bound, BoundList, BoundSide, MAX_PART_BOUND_BYTES, bound_at};
use super::bound_filter::{BoundFilter, ColumnRange, MAX_COLUMNS};
use crate::wire::statistics::PartBounds;

/// Maximum bytes of a part's bounds in the catalog.
pub const MAX_PART_BOUNDS_BYTES: usize = 256;
/// Fields of [`PartBounds`], whose numbers begin with 1. All are length-delimited, which is this type of protobuf.
const FIELDS: usize = 6;
const LENGTH_DELIMITED: usize = 2;

/// What is known of one column of a part.
pub(super) struct ColumnTotals {
    pub(super) column: usize,
    pub(super) nulls: u64,
    pub(super) minimum: Bound,
    pub(super) maximum: Bound,
}

/// The bounds of the first of these columns, as many as fit. Empty: nothing is known.
pub(super) fn encode(columns: impl Iterator<Item = ColumnTotals>) -> Bytes {
    let mut fitting: Vec<ColumnTotals> = Vec::new();
    for column in columns {
        let minimum = column.minimum.truncated(MAX_PART_BOUND_BYTES, BoundSide::Minimum);
        let maximum = column.maximum.truncated(MAX_PART_BOUND_BYTES, BoundSide::Maximum);
        fitting.push(ColumnTotals { minimum, maximum, ..column });
        if message(&fitting).encoded_len() > MAX_PART_BOUNDS_BYTES {
            fitting.pop();
        }
    }
    message(&fitting).encode_to_vec().into()
}

fn message(columns: &[ColumnTotals]) -> PartBounds {
    let (mut minimums, mut maximums) = (BoundList::default(), BoundList::default());
    for column in columns {
        minimums.push(column.minimum);
        maximums.push(column.maximum);
    }
    PartBounds {
        columns: columns.iter().map(|column| column.column as u32).collect(),
        nulls: columns.iter().map(|column| column.nulls).collect(),
        minimum_lengths: minimums.lengths.into(),
        minimums: minimums.bounds.into(),
        maximum_lengths: maximums.lengths.into(),
        maximums: maximums.bounds.into(),
    }
}

/// Whether a part can have a row that a filter selects. `bounds`: those of its row in the catalog; what is empty, damaged or of a
/// later version says nothing. The filter's columns are indexes in the part's schema.
pub fn part_may_match(filter: &BoundFilter, bounds: &[u8]) -> bool {
    if bounds.is_empty() {
        return true;
    }
    match fields(bounds) {
        Some(fields) => {
            let columns = SearchedColumns { fields, found: from_fn(|_| Cell::new(None)) };
            filter.may_select(&|column: usize| columns.range(column))
        }
        None => true,
    }
}

/// The columns of a part that a filter reads. Each is searched once, however many conditions read it.
struct SearchedColumns<'a> {
    fields: [&'a [u8]; FIELDS],
    found: [Cell<Option<FoundColumn<'a>>>; MAX_COLUMNS],
}

#[derive(Clone, Copy)]
struct FoundColumn<'a> {
    column: usize,
    /// `None`: nothing is known of it.
    range: Option<ColumnRange<'a>>,
}

impl<'a> SearchedColumns<'a> {
    fn range(&self, column: usize) -> Option<ColumnRange<'a>> {
        for found in &self.found {
            match found.get() {
                Some(known) if known.column == column => return known.range,
                Some(_) => {}
                None => {
                    let range = range_of(&self.fields, column);
                    found.set(Some(FoundColumn { column, range }));
                    return range;
                }
            }
        }
        range_of(&self.fields, column)
    }
}

/// The contents of the fields; empty for those that the message does not have. `None` if it is no such message.
fn fields(mut message: &[u8]) -> Option<[&[u8]; FIELDS]> {
    let mut fields: [&[u8]; FIELDS] = [&[]; FIELDS];
    while !message.is_empty() {
        let key = decode_length_delimiter(&mut message).ok()?;
        if key % 8 != LENGTH_DELIMITED {
            return None;
        }
        let length = decode_length_delimiter(&mut message).ok()?;
        let (content, rest) = message.split_at_checked(length)?;
        message = rest;
        // A later version may have more.
        if (1..=FIELDS).contains(&(key / 8)) {
            fields[key / 8 - 1] = content;
        }
    }
    Some(fields)
}

fn range_of<'a>(fields: &[&'a [u8]; FIELDS], column: usize) -> Option<ColumnRange<'a>> {
    let [columns, nulls, minimum_lengths, minimums, maximum_lengths, maximums] = *fields;
    let at = numbers(columns).position(|known| known == column)?;
    let nulls = numbers(nulls).nth(at)? as u64;
    let minimum = bound_at(minimum_lengths, minimums, at)?;
    let maximum = bound_at(maximum_lengths, maximums, at)?;
    Some(ColumnRange::new(nulls, minimum, maximum))
}

/// The numbers of a packed field.
fn numbers(mut packed: &[u8]) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || match packed.is_empty() {
        true => None,
        false => decode_length_delimiter(&mut packed).ok(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ipc::statistics::bound::BoundBytes;
    use crate::ipc::statistics::bound_filter::BoundOperator;

    fn bound(bytes: &[u8]) -> Bound {
        Bound::Value(BoundBytes::new(bytes).unwrap())
    }

    fn totals(column: usize, minimum: &[u8], maximum: &[u8]) -> ColumnTotals {
        ColumnTotals { column, nulls: 3, minimum: bound(minimum), maximum: bound(maximum) }
    }

    fn compare(column: usize, operator: BoundOperator, value: &[u8]) -> BoundFilter {
        BoundFilter::compare(column, operator, value)
    }

    #[test]
    fn bounds_of_a_part_come_back() {
        let nulls = ColumnTotals { column: 300, nulls: 9, minimum: Bound::NoValues, maximum: Bound::NoValues };
        let bounds = encode([totals(7, b"b", b"dd"), nulls, totals(0, b"", b"x")].into_iter());
        let matches = |filter: BoundFilter| part_may_match(&filter, &bounds);
        assert!(matches(compare(7, BoundOperator::GreaterOrEqual, b"dd")));
        assert!(!matches(compare(7, BoundOperator::Greater, b"dd")));
        assert!(!matches(compare(7, BoundOperator::Less, b"b")));
        assert!(matches(compare(0, BoundOperator::LessOrEqual, b"")));
        assert!(!matches(BoundFilter::IsNotNull(300)) && matches(BoundFilter::IsNull(300)));
        assert!(matches(compare(1, BoundOperator::Less, b"b")), "a column of which nothing is known");
    }

    #[test]
    fn each_condition_sees_the_bounds_of_its_column() {
        let columns = MAX_COLUMNS + 3;
        let bounds = encode((0..columns).map(|column| totals(column, &[column as u8], &[column as u8])));
        let equal = |column: usize, value: u8| {
            let compared = |operator| compare(column, operator, &[value]);
            BoundFilter::all(vec![compared(BoundOperator::GreaterOrEqual), compared(BoundOperator::LessOrEqual)])
        };
        // Twice, so that each column is read again after all others.
        let each = |more: usize| {
            (0..2 * columns).map(|at| equal(at % columns, (at % columns + more) as u8)).collect::<Vec<_>>()
        };
        assert!(part_may_match(&BoundFilter::all(each(0)), &bounds));
        assert!(!part_may_match(&BoundFilter::any(each(1)), &bounds));
    }

    #[test]
    fn long_bounds_are_cut_and_admit_the_same_values() {
        let (minimum, maximum) = ([7; 32], [9; 32]);
        let bounds = encode([totals(0, &minimum, &maximum)].into_iter());
        for (operator, value) in [(BoundOperator::LessOrEqual, minimum), (BoundOperator::GreaterOrEqual, maximum)] {
            assert!(part_may_match(&compare(0, operator, &value), &bounds));
        }
        assert!(!part_may_match(&compare(0, BoundOperator::Greater, &[10]), &bounds));
        assert!(bounds.len() < 50, "{} bytes", bounds.len());
    }

    #[test]
    fn bounds_of_many_columns_are_limited() {
        let bounds = encode((0..64).map(|column| totals(column, &[1; 32], &[2; 32])));
        assert!(bounds.len() <= MAX_PART_BOUNDS_BYTES && bounds.len() > MAX_PART_BOUNDS_BYTES - 40);
        let columns = PartBounds::decode(&bounds[..]).unwrap().columns;
        assert_eq!(columns, (0..columns.len() as u32).collect::<Vec<_>>(), "the first ones");
        let numbers = encode((0..64).map(|column| totals(column, &[1; 8], &[2; 8])));
        assert!(PartBounds::decode(&numbers[..]).unwrap().columns.len() >= 11);
    }

    #[test]
    fn unknown_or_damaged_bounds_exclude_nothing() {
        let never = compare(0, BoundOperator::Less, b"");
        let bounds = encode([totals(0, b"b", b"c")].into_iter());
        assert!(!part_may_match(&never, &bounds));
        for damaged in [&b""[..], &[0xff; 9], &[8, 0], &bounds[..bounds.len() - 1]] {
            assert!(part_may_match(&never, damaged), "{damaged:?}");
        }
        let with_more = [&bounds[..], &[58, 1, 9]].concat();
        assert!(!part_may_match(&never, &with_more), "a field of a later version");
        let odd = PartBounds { columns: vec![0], nulls: vec![0], ..PartBounds::default() };
        assert!(part_may_match(&never, &odd.encode_to_vec()));
        assert!(encode(std::iter::empty()).is_empty());
    }
}
