//! Conditions on the bounds of columns, which hold wherever a filter can select a row.
//!
//! A filter is SQL, which only nodes know. They make a [`BoundFilter`] of it, and leave out what has bounds that do not meet it:
//! record batches by the statistics of their part, and parts, for which a coordinator evaluates it by those of the catalog. It
//! says nothing of types: values are bytes whose order is that of the values.

use std::collections::{BTreeMap, BTreeSet};

use xxhash_rust::xxh3::xxh3_64;

use super::bound::{Bound, ListedBound, MAX_PART_BOUND_BYTES, after_all_with};
use super::value_range::ValueRange;
use crate::wire::cluster::{BoundCondition, BoundTest};

/// Bytes that a condition takes in a message, at most, without its value: of a column below two million.
const CONDITION_BYTES: usize = 12;
/// Maximum bytes of a condition that is sent, about. In base64 it fits into the least header list that a member can be set to
/// accept, beside the call's other headers.
const MAX_SENT_BYTES: usize = 1536;
/// Maximum number of conditions that a coordinator evaluates for each part, of the columns that they read, and of their levels:
/// the catalog is locked meanwhile.
const MAX_CONDITIONS: usize = 128;
pub(super) const MAX_COLUMNS: usize = 16;
const MAX_LEVELS: usize = 16;

/// A condition on the bounds of columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BoundFilter {
    /// All of these hold.
    All(Vec<BoundFilter>),
    /// One of these holds. Without any it never does.
    Any(Vec<BoundFilter>),
    /// The column may have a null.
    IsNull(usize),
    /// The column may have a value that is not null.
    IsNotNull(usize),
    /// The column may have a value that compares so with this one.
    Compare {
        /// The column's index, in what its user says.
        column: usize,
        /// How the column's value compares with `value`.
        operator: BoundOperator,
        /// Bytes in the encoding of bounds.
        value: Box<[u8]>,
    },
}

/// How a value of a column compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoundOperator {
    /// It is less.
    Less,
    /// It is less or equal.
    LessOrEqual,
    /// It is greater.
    Greater,
    /// It is greater or equal.
    GreaterOrEqual,
}

/// What is known of the values of one column in some rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnRange<'a> {
    nulls: u64,
    has_values: bool,
    /// `None`: not known.
    minimum: Option<&'a [u8]>,
    maximum: Option<&'a [u8]>,
}

impl<'a> ColumnRange<'a> {
    pub(super) fn new(nulls: u64, minimum: ListedBound<'a>, maximum: ListedBound<'a>) -> Self {
        let value = |bound: ListedBound<'a>| match bound {
            ListedBound::Value(value) => Some(value),
            ListedBound::NoValues | ListedBound::Unknown => None,
        };
        let has_values = (minimum, maximum) != (ListedBound::NoValues, ListedBound::NoValues);
        ColumnRange { nulls, has_values, minimum: value(minimum), maximum: value(maximum) }
    }

    fn may_compare(&self, operator: BoundOperator, value: &[u8]) -> bool {
        let is_possible = match operator {
            BoundOperator::Less => self.minimum.is_none_or(|minimum| minimum < value),
            BoundOperator::LessOrEqual => self.minimum.is_none_or(|minimum| minimum <= value),
            BoundOperator::Greater => self.maximum.is_none_or(|maximum| maximum > value),
            BoundOperator::GreaterOrEqual => self.maximum.is_none_or(|maximum| maximum >= value),
        };
        self.has_values && is_possible
    }
}

impl BoundFilter {
    /// A condition that never holds.
    pub fn never() -> Self {
        BoundFilter::Any(Vec::new())
    }

    /// All of these conditions.
    pub fn all(conditions: Vec<BoundFilter>) -> Self {
        let inner = |condition| match condition {
            BoundFilter::All(inner) => inner,
            other => vec![other],
        };
        BoundFilter::joined(conditions.into_iter().flat_map(inner).collect(), BoundFilter::All)
    }

    /// One of these conditions.
    pub fn any(conditions: Vec<BoundFilter>) -> Self {
        let inner = |condition| match condition {
            BoundFilter::Any(inner) => inner,
            other => vec![other],
        };
        BoundFilter::joined(conditions.into_iter().flat_map(inner).collect(), BoundFilter::Any)
    }

    /// The only one of these conditions, or else all of them in one.
    fn joined(mut conditions: Vec<BoundFilter>, join: fn(Vec<BoundFilter>) -> BoundFilter) -> Self {
        match conditions.pop() {
            Some(only) if conditions.is_empty() => only,
            last => {
                conditions.extend(last);
                join(conditions)
            }
        }
    }

    pub(super) fn compare(column: usize, operator: BoundOperator, value: &[u8]) -> Self {
        BoundFilter::Compare { column, operator, value: value.into() }
    }

    /// Whether it holds for rows of which this is known of their columns; `None`: nothing.
    pub fn may_select<'a>(&self, range: &impl Fn(usize) -> Option<ColumnRange<'a>>) -> bool {
        match self {
            BoundFilter::All(conditions) => conditions.iter().all(|condition| condition.may_select(range)),
            BoundFilter::Any(conditions) => conditions.iter().any(|condition| condition.may_select(range)),
            BoundFilter::IsNull(column) => range(*column).is_none_or(|range| range.nulls > 0),
            BoundFilter::IsNotNull(column) => range(*column).is_none_or(|range| range.has_values),
            BoundFilter::Compare { column, operator, value } => {
                range(*column).is_none_or(|range| range.may_compare(*operator, value))
            }
        }
    }

    /// The columns that it reads.
    pub fn columns(&self) -> BTreeSet<usize> {
        match self {
            BoundFilter::All(conditions) | BoundFilter::Any(conditions) => {
                conditions.iter().flat_map(BoundFilter::columns).collect()
            }
            BoundFilter::IsNull(column) | BoundFilter::IsNotNull(column) | BoundFilter::Compare { column, .. } => {
                BTreeSet::from([*column])
            }
        }
    }

    /// The same condition on other columns; `None` if one of them has no other.
    pub fn map_columns(&self, map: &impl Fn(usize) -> Option<usize>) -> Option<BoundFilter> {
        let all = |conditions: &[BoundFilter]| -> Option<Vec<BoundFilter>> {
            conditions.iter().map(|condition| condition.map_columns(map)).collect()
        };
        Some(match self {
            BoundFilter::All(conditions) => BoundFilter::All(all(conditions)?),
            BoundFilter::Any(conditions) => BoundFilter::Any(all(conditions)?),
            BoundFilter::IsNull(column) => BoundFilter::IsNull(map(*column)?),
            BoundFilter::IsNotNull(column) => BoundFilter::IsNotNull(map(*column)?),
            BoundFilter::Compare { column, operator, value } => {
                BoundFilter::Compare { column: map(*column)?, operator: *operator, value: value.clone() }
            }
        })
    }

    /// The message that says the same of parts, or, of a condition that is too large, what follows from it; `None`: nothing does.
    /// It has at most about 1.5 KiB.
    pub fn to_wire(&self) -> Option<BoundCondition> {
        let mut bytes = MAX_SENT_BYTES;
        self.shortened().limited(&mut bytes, MAX_LEVELS).map(|limited| limited.condition())
    }

    /// The condition with the beginnings of long values, from which it follows. Bounds of parts have no more bytes, so that it
    /// excludes the same parts, but for those whose greatest value is such a beginning.
    fn shortened(&self) -> BoundFilter {
        let all = |conditions: &[BoundFilter]| conditions.iter().map(BoundFilter::shortened).collect();
        match self {
            BoundFilter::All(conditions) => BoundFilter::All(all(conditions)),
            BoundFilter::Any(conditions) => BoundFilter::Any(all(conditions)),
            BoundFilter::Compare { column, operator, value } if value.len() > MAX_PART_BOUND_BYTES => {
                let beginning = &value[..MAX_PART_BOUND_BYTES];
                match (operator, after_all_with(beginning)) {
                    (BoundOperator::Greater | BoundOperator::GreaterOrEqual, _) => {
                        BoundFilter::compare(*column, BoundOperator::GreaterOrEqual, beginning)
                    }
                    (BoundOperator::Less | BoundOperator::LessOrEqual, Bound::Value(after)) => {
                        BoundFilter::compare(*column, BoundOperator::Less, after.as_slice())
                    }
                    (BoundOperator::Less | BoundOperator::LessOrEqual, _) => BoundFilter::IsNotNull(*column),
                }
            }
            other => other.clone(),
        }
    }

    /// What follows for the values of each column; `None`: the condition never holds.
    fn ranges(&self) -> Option<BTreeMap<usize, ValueRange<'_>>> {
        match self {
            BoundFilter::All(conditions) => {
                let mut ranges = BTreeMap::<usize, ValueRange<'_>>::new();
                for condition in conditions {
                    for (column, range) in condition.ranges()? {
                        ranges.entry(column).or_default().narrow(range);
                    }
                }
                Some(ranges)
            }
            BoundFilter::Any(conditions) => {
                let mut possible = conditions.iter().filter_map(BoundFilter::ranges);
                let mut ranges = possible.next()?;
                for other in possible {
                    ranges.retain(|column, range| other.get(column).is_some_and(|other| range.widen(*other)));
                }
                Some(ranges)
            }
            BoundFilter::IsNull(_) | BoundFilter::IsNotNull(_) => Some(BTreeMap::new()),
            BoundFilter::Compare { column, operator, value } => {
                let range = match operator {
                    BoundOperator::Less | BoundOperator::LessOrEqual => ValueRange::at_most(value),
                    BoundOperator::Greater | BoundOperator::GreaterOrEqual => ValueRange::at_least(value),
                };
                Some(BTreeMap::from([(*column, range)]))
            }
        }
    }

    /// That there may be values between the least and the greatest ones with which this condition compares a column; `None`: it
    /// may hold whatever the values are.
    fn between(&self) -> Option<BoundFilter> {
        let bounds = self.ranges()?.into_iter().flat_map(|(column, range)| {
            let from = range.least().map(|least| BoundFilter::compare(column, BoundOperator::GreaterOrEqual, least));
            let to = range.greatest().map(|most| BoundFilter::compare(column, BoundOperator::LessOrEqual, most));
            from.into_iter().chain(to)
        });
        let bounds: Vec<BoundFilter> = bounds.collect();
        (!bounds.is_empty()).then(|| BoundFilter::all(bounds))
    }

    /// A condition that follows from this one, and takes at most `bytes`, which are reduced by what it takes.
    fn limited(&self, bytes: &mut usize, most_levels: usize) -> Option<BoundFilter> {
        let own = match self {
            BoundFilter::Compare { value, .. } => CONDITION_BYTES + value.len(),
            _ => CONDITION_BYTES,
        };
        let before = *bytes;
        let levels = most_levels.checked_sub(1)?;
        *bytes = before.checked_sub(own)?;
        let limited = match self {
            // Those that fit.
            BoundFilter::All(conditions) => {
                let fitting: Vec<_> =
                    conditions.iter().filter_map(|condition| condition.limited(bytes, levels)).collect();
                (!fitting.is_empty()).then_some(BoundFilter::All(fitting))
            }
            // Without one of them nothing would follow but a range.
            BoundFilter::Any(conditions) => {
                let all: Option<Vec<_>> = conditions.iter().map(|condition| condition.limited(bytes, levels)).collect();
                all.map(BoundFilter::Any).or_else(|| {
                    *bytes = before;
                    self.between()?.limited(bytes, most_levels)
                })
            }
            other => Some(other.clone()),
        };
        if limited.is_none() {
            *bytes = before;
        }
        limited
    }

    fn condition(&self) -> BoundCondition {
        let all = |conditions: &[BoundFilter]| conditions.iter().map(BoundFilter::condition).collect();
        let of = |test: BoundTest| BoundCondition { test: test as i32, ..BoundCondition::default() };
        let on = |test, column: usize| BoundCondition { column: u32::try_from(column).unwrap_or(u32::MAX), ..of(test) };
        match self {
            BoundFilter::All(conditions) => BoundCondition { conditions: all(conditions), ..of(BoundTest::All) },
            BoundFilter::Any(conditions) => BoundCondition { conditions: all(conditions), ..of(BoundTest::Any) },
            BoundFilter::IsNull(column) => on(BoundTest::IsNull, *column),
            BoundFilter::IsNotNull(column) => on(BoundTest::IsNotNull, *column),
            BoundFilter::Compare { column, operator, value } => {
                BoundCondition { value: value.to_vec().into(), ..on(operator.test(), *column) }
            }
        }
    }

    /// The condition that a message says, or what follows from it if it is too large or has parts that only later versions know;
    /// `None`: nothing does.
    pub fn from_wire(condition: &BoundCondition) -> Option<Self> {
        let mut limits = ReadLimits { conditions: MAX_CONDITIONS, columns: BTreeSet::new() };
        BoundFilter::read(condition, &mut limits, MAX_LEVELS)
    }

    fn read(condition: &BoundCondition, limits: &mut ReadLimits, levels: usize) -> Option<Self> {
        limits.conditions = limits.conditions.checked_sub(1)?;
        let levels = levels.checked_sub(1)?;
        let column = condition.column as usize;
        let compare = |operator| Some(BoundFilter::compare(column, operator, &condition.value));
        let read = match condition.test() {
            BoundTest::Unspecified => None,
            BoundTest::All => {
                let known = condition.conditions.iter().filter_map(|inner| BoundFilter::read(inner, limits, levels));
                Some(BoundFilter::All(known.collect()))
            }
            BoundTest::Any => {
                let before = limits.columns.clone();
                let all = condition.conditions.iter().map(|inner| BoundFilter::read(inner, limits, levels));
                let all: Option<Vec<_>> = all.collect();
                if all.is_none() {
                    limits.columns = before;
                }
                all.map(BoundFilter::Any)
            }
            BoundTest::IsNull => Some(BoundFilter::IsNull(column)),
            BoundTest::IsNotNull => Some(BoundFilter::IsNotNull(column)),
            BoundTest::Less => compare(BoundOperator::Less),
            BoundTest::LessOrEqual => compare(BoundOperator::LessOrEqual),
            BoundTest::Greater => compare(BoundOperator::Greater),
            BoundTest::GreaterOrEqual => compare(BoundOperator::GreaterOrEqual),
        };
        read.filter(|read| limits.admits(read))
    }
}

/// How many more conditions a received one may have, and the columns that it has.
struct ReadLimits {
    conditions: usize,
    columns: BTreeSet<usize>,
}

impl ReadLimits {
    /// Whether the column of a condition is not one too many.
    fn admits(&mut self, condition: &BoundFilter) -> bool {
        match condition {
            BoundFilter::All(_) | BoundFilter::Any(_) => true,
            BoundFilter::IsNull(column) | BoundFilter::IsNotNull(column) | BoundFilter::Compare { column, .. } => {
                self.columns.contains(column) || (self.columns.len() < MAX_COLUMNS && self.columns.insert(*column))
            }
        }
    }
}

impl BoundOperator {
    fn test(self) -> BoundTest {
        match self {
            BoundOperator::Less => BoundTest::Less,
            BoundOperator::LessOrEqual => BoundTest::LessOrEqual,
            BoundOperator::Greater => BoundTest::Greater,
            BoundOperator::GreaterOrEqual => BoundTest::GreaterOrEqual,
        }
    }
}

/// What identifies a table's schema message to a [`PartFilter`](crate::wire::cluster::PartFilter).
pub fn schema_checksum(message: &[u8]) -> u64 {
    xxh3_64(message)
}

#[cfg(test)]
mod tests;
