//! How large the results of functions can become, before they are computed.

use arrow::array::{Array, ArrayRef, AsArray, OffsetSizeTrait};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, IntervalMonthDayNanoType, IntervalUnit, TimeUnit};
use datafusion::error::Result;
use datafusion::logical_expr::ColumnarValue;
use volley_common::ipc::size::array_bytes;

/// Nanoseconds of a day.
const DAY_NS: i128 = 86_400_000_000_000;

/// How the result of a function grows with its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Growth {
    /// A text, so many times.
    Repeat,
    /// A text of so many characters.
    Pad,
    /// A text with another one in each place of a third.
    Replace,
    /// The same with a pattern, and parts of what it matches.
    RegexpReplace,
    /// All arguments.
    Concat,
    /// All arguments but the first, and the first between them.
    ConcatWithSeparator,
    /// Twice the argument.
    Encode,
    /// The elements of a list as text, and another text between them.
    ListToText,
    /// A list with a value so many times.
    RepeatElement,
    /// A list of so many elements.
    Resize,
    /// All numbers or times between two.
    Range,
    /// A number, computed in as many steps as the product of the lengths of two texts.
    Distance,
}

/// The arguments of one call, for so many rows.
pub(super) struct CallArguments<'a> {
    pub(super) args: &'a [ColumnarValue],
    pub(super) rows: usize,
}

impl Growth {
    /// That of the function of this name; `None`: its result is at most a few times as large as its arguments.
    pub(super) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "repeat" => Growth::Repeat,
            "lpad" | "rpad" => Growth::Pad,
            "replace" => Growth::Replace,
            "regexp_replace" => Growth::RegexpReplace,
            "concat" | "array_concat" | "make_array" | "map" | "named_struct" | "struct" => Growth::Concat,
            "concat_ws" => Growth::ConcatWithSeparator,
            "encode" => Growth::Encode,
            "array_to_string" => Growth::ListToText,
            "array_repeat" => Growth::RepeatElement,
            "array_resize" => Growth::Resize,
            "range" | "generate_series" => Growth::Range,
            "levenshtein" => Growth::Distance,
            _ => return None,
        })
    }

    /// The most bytes of the result for each row; for [`Growth::Distance`] the steps.
    pub(super) fn costs(self, call: &CallArguments<'_>) -> Result<Vec<u64>> {
        let zipped = |a: Vec<u64>, b: Vec<u64>, cost: fn(u64, u64) -> u64| {
            a.into_iter().zip(b).map(|(a, b)| cost(a, b)).collect::<Vec<u64>>()
        };
        Ok(match self {
            Growth::Repeat => zipped(call.bytes(0)?, call.numbers(1)?, u64::saturating_mul),
            Growth::Pad => {
                zipped(call.bytes(0)?, call.numbers(1)?, |text, length| text.saturating_add(length.saturating_mul(4)))
            }
            Growth::Replace => {
                let places = zipped(call.bytes(0)?, call.bytes(1)?, |text, from| text / from.max(1) + 1);
                let added = zipped(places, call.bytes(2)?, u64::saturating_mul);
                zipped(added, call.bytes(0)?, u64::saturating_add)
            }
            // Each place has the text, in which every second byte may name what was matched.
            Growth::RegexpReplace => zipped(call.bytes(0)?, call.bytes(2)?, |text, by| {
                (text + 1).saturating_mul(by + 1).saturating_add(text.saturating_mul(by / 2))
            }),
            Growth::Concat => call.sum()?,
            Growth::ConcatWithSeparator => {
                let between = call.bytes(0)?.into_iter().map(|one| one.saturating_mul(call.args.len() as u64));
                zipped(between.collect(), call.sum()?, u64::saturating_add)
            }
            Growth::Encode => call.bytes(0)?.into_iter().map(|text| text.saturating_mul(2).saturating_add(4)).collect(),
            Growth::ListToText => {
                let leaves = zipped(call.bytes(0)?, call.elements(0)?, u64::max);
                let between = zipped(call.bytes(1)?, call.bytes(2)?, |delimiter, null| delimiter + null + 24);
                zipped(leaves, between, u64::saturating_mul)
            }
            Growth::RepeatElement => {
                zipped(call.bytes(0)?, call.numbers(1)?, |one, count| count.saturating_mul(one + 8))
            }
            Growth::Resize => zipped(call.bytes(2)?, call.numbers(1)?, |one, count| count.saturating_mul(one + 8)),
            Growth::Range => call.range()?,
            Growth::Distance => zipped(call.bytes(0)?, call.bytes(1)?, |a, b| (a + 1).saturating_mul(b + 1)),
        })
    }
}

impl CallArguments<'_> {
    /// What `measure` says of an argument, for each row; of one that is not given 0.
    fn measured(&self, at: usize, measure: fn(&ArrayRef) -> Result<Vec<u64>>) -> Result<Vec<u64>> {
        match self.args.get(at) {
            None => Ok(vec![0; self.rows]),
            Some(ColumnarValue::Array(array)) => measure(array),
            Some(scalar @ ColumnarValue::Scalar(_)) => {
                let one = measure(&scalar.to_array(1)?)?.first().copied().unwrap_or(0);
                Ok(vec![one; self.rows])
            }
        }
    }

    fn bytes(&self, at: usize) -> Result<Vec<u64>> {
        self.measured(at, |array| Ok(bytes_of_rows(array)))
    }

    fn elements(&self, at: usize) -> Result<Vec<u64>> {
        self.measured(at, |array| Ok(elements_of_rows(array)))
    }

    /// Of whole numbers; negative ones and null are 0.
    fn numbers(&self, at: usize) -> Result<Vec<u64>> {
        self.measured(at, |array| {
            let numbers = cast(array, &DataType::Int64)?;
            let number = |number: Option<i64>| u64::try_from(number.unwrap_or(0)).unwrap_or(0);
            Ok(numbers.as_primitive::<Int64Type>().iter().map(number).collect())
        })
    }

    /// Bytes of all arguments.
    fn sum(&self) -> Result<Vec<u64>> {
        let mut sums = vec![0u64; self.rows];
        for at in 0..self.args.len() {
            for (sum, bytes) in sums.iter_mut().zip(self.bytes(at)?) {
                *sum = sum.saturating_add(bytes);
            }
        }
        Ok(sums)
    }

    /// Bytes of the numbers or times between the first argument and the second. With one argument it begins at 0.
    fn range(&self) -> Result<Vec<u64>> {
        let (start, stop) = match self.args.len() {
            1 => (vec![Some(0); self.rows], self.points(0)?),
            _ => (self.points(0)?, self.points(1)?),
        };
        let steps = if self.args.len() > 2 { self.points(2)? } else { vec![Some(1); self.rows] };
        let cost = |((start, stop), step): ((Option<i128>, Option<i128>), Option<i128>)| {
            let (Some(start), Some(stop), Some(step)) = (start, stop, step) else { return 0 };
            let count = start.abs_diff(stop) / step.unsigned_abs().max(1) + 1;
            u64::try_from(count).unwrap_or(u64::MAX).saturating_mul(8)
        };
        Ok(start.into_iter().zip(stop).zip(steps).map(cost).collect())
    }

    /// Numbers, times as nanoseconds, and intervals as the shortest step in nanoseconds that they can be.
    fn points(&self, at: usize) -> Result<Vec<Option<i128>>> {
        match self.args.get(at) {
            None => Ok(vec![None; self.rows]),
            Some(ColumnarValue::Array(array)) => points_of_rows(array),
            Some(scalar @ ColumnarValue::Scalar(_)) => {
                let one = points_of_rows(&scalar.to_array(1)?)?.first().copied().flatten();
                Ok(vec![one; self.rows])
            }
        }
    }
}

fn points_of_rows(array: &ArrayRef) -> Result<Vec<Option<i128>>> {
    if let DataType::Interval(_) = array.data_type() {
        let steps = cast(array, &DataType::Interval(IntervalUnit::MonthDayNano))?;
        let shortest = |months: i32, days: i32, nanoseconds: i64| {
            let with_days =
                |of_month: i128| (i128::from(months) * of_month + i128::from(days)) * DAY_NS + i128::from(nanoseconds);
            let (short, long) = (with_days(28), with_days(31));
            match short.signum() == long.signum() {
                true => short.unsigned_abs().min(long.unsigned_abs()) as i128,
                false => 1,
            }
        };
        let steps = steps.as_primitive::<IntervalMonthDayNanoType>();
        return Ok(steps.iter().map(|step| step.map(|it| shortest(it.months, it.days, it.nanoseconds))).collect());
    }
    let (points, unit) = match array.data_type() {
        DataType::Timestamp(_, zone) => (cast(array, &DataType::Timestamp(TimeUnit::Nanosecond, zone.clone()))?, 1),
        DataType::Date32 => (cast(array, &DataType::Int32)?, DAY_NS),
        _ => (array.clone(), 1),
    };
    let points = cast(&points, &DataType::Int64)?;
    Ok(points.as_primitive::<Int64Type>().iter().map(|point| point.map(|it| i128::from(it) * unit)).collect())
}

/// Bytes of each value; of numbers as text.
pub(super) fn bytes_of_rows(array: &ArrayRef) -> Vec<u64> {
    match array.data_type() {
        DataType::Null => vec![0; array.len()],
        DataType::Utf8 => differences(array.as_string::<i32>().value_offsets()),
        DataType::LargeUtf8 => differences(array.as_string::<i64>().value_offsets()),
        DataType::Binary => differences(array.as_binary::<i32>().value_offsets()),
        DataType::LargeBinary => differences(array.as_binary::<i64>().value_offsets()),
        DataType::Utf8View => array.as_string_view().lengths().map(u64::from).collect(),
        DataType::BinaryView => array.as_binary_view().lengths().map(u64::from).collect(),
        other => match other.primitive_width() {
            // As text a number has a few characters more.
            Some(width) => vec![width as u64 + 8; array.len()],
            None => (0..array.len()).map(|row| array_bytes(array.slice(row, 1).as_ref()) as u64).collect(),
        },
    }
}

/// How many elements each list has; what is no list is one.
pub(super) fn elements_of_rows(array: &ArrayRef) -> Vec<u64> {
    match array.data_type() {
        DataType::List(_) => differences(array.as_list::<i32>().value_offsets()),
        DataType::LargeList(_) => differences(array.as_list::<i64>().value_offsets()),
        DataType::FixedSizeList(_, size) => vec![u64::try_from(*size).unwrap_or(0); array.len()],
        _ => vec![1; array.len()],
    }
}

fn differences<O: OffsetSizeTrait>(offsets: &[O]) -> Vec<u64> {
    offsets.windows(2).map(|pair| (pair[1] - pair[0]).as_usize() as u64).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};
    use datafusion::common::ScalarValue;

    use super::*;

    fn costs(name: &str, args: &[ColumnarValue]) -> Vec<u64> {
        Growth::of(name).unwrap().costs(&CallArguments { args, rows: 2 }).unwrap()
    }

    fn texts(values: [Option<&str>; 2]) -> ColumnarValue {
        ColumnarValue::Array(Arc::new(StringArray::from(values.to_vec())))
    }

    fn number(value: i64) -> ColumnarValue {
        ColumnarValue::Scalar(ScalarValue::Int64(Some(value)))
    }

    #[test]
    fn results_are_measured_by_row() {
        let two = texts([Some("abc"), None]);
        let numbers = ColumnarValue::Array(Arc::new(Int64Array::from(vec![Some(-1), Some(10)])));
        assert_eq!(costs("repeat", &[two.clone(), number(1 << 40)]), [3 << 40, 0]);
        assert_eq!(costs("repeat", &[texts([Some("ab"), Some("ab")]), numbers]), [0, 20]);
        assert_eq!(costs("lpad", &[two.clone(), number(100)]), [403, 400]);
        assert_eq!(costs("concat", &[two.clone(), two.clone()]), [6, 0]);
        assert_eq!(costs("encode", std::slice::from_ref(&two)), [10, 4]);
        assert_eq!(costs("levenshtein", &[two.clone(), two]), [16, 1]);
    }

    #[test]
    fn ranges_are_measured_by_their_steps() {
        assert_eq!(costs("range", &[number(1_000_000_000_000)]), [8_000_000_000_008; 2]);
        assert_eq!(costs("generate_series", &[number(10), number(0), number(-5)]), [24; 2]);
        assert_eq!(costs("range", &[number(i64::MIN), number(i64::MAX)]), [u64::MAX; 2]);
        let at = |ns| ColumnarValue::Scalar(ScalarValue::TimestampNanosecond(Some(ns), None));
        let step = ColumnarValue::Scalar(ScalarValue::new_interval_mdn(0, 1, 0));
        let days = |count: i64| count * DAY_NS as i64;
        assert_eq!(costs("range", &[at(0), at(days(9)), step]), [80; 2]);
        let none = ColumnarValue::Scalar(ScalarValue::new_interval_mdn(1, -30, 0));
        assert_eq!(costs("range", &[at(0), at(9), none]), [80; 2]);
    }
}
