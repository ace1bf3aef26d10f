//! Comparisons of casts select the rows that they select when each row is cast and compared by itself.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Date32Array, Date64Array, Decimal128Array, Int32Array, Int64Array, RecordBatch,
    Scalar, StringArray, TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray,
    TimestampSecondArray,
};
use arrow::compute::kernels::cmp;
use arrow::compute::{CastOptions, and, cast, cast_with_options, not, or};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, Operator, binary_expr, cast as cast_to, col, lit, try_cast};

use super::super::expression::VisibleColumns;
use super::{Predicate, rows};

/// A column, and values of the type that it is cast to.
struct CastCase {
    column: ArrayRef,
    values: ArrayRef,
}

fn case(column: impl Array + 'static, values: impl Array + 'static) -> CastCase {
    CastCase { column: Arc::new(column), values: Arc::new(values) }
}

fn decimals(values: Vec<Option<i128>>, precision: u8, scale: i8) -> Decimal128Array {
    Decimal128Array::from(values).with_precision_and_scale(precision, scale).unwrap()
}

fn berlin(values: Vec<Option<i64>>) -> TimestampMillisecondArray {
    TimestampMillisecondArray::from(values).with_timezone("Europe/Berlin")
}

fn timestamp_cases() -> Vec<CastCase> {
    let seconds = || TimestampSecondArray::from(vec![None, Some(0), Some(1), Some(-1), Some(2), Some(i64::MAX)]);
    let few = || TimestampSecondArray::from(vec![None, Some(0), Some(1), Some(-1), Some(-2), Some(1_792_891_800)]);
    let millis = vec![None, Some(0), Some(500), Some(1000), Some(1001), Some(-1), Some(-999), Some(-1000), Some(-1500)];
    // An hour before, and at, the local time of the last of the few.
    let local = vec![None, Some(-3_600_000), Some(-3_599_500), Some(0), Some(1_792_884_600_000)];
    let micros = || TimestampMicrosecondArray::from(vec![None, Some(0), Some(1), Some(-1), Some(1000)]);
    let nanos = vec![None, Some(0), Some(1), Some(1000), Some(-1), Some(-1000), Some(1_000_000), Some(999_999)];
    vec![
        case(seconds(), TimestampMillisecondArray::from(millis.clone())),
        case(few(), TimestampMillisecondArray::from(millis.clone())),
        case(few(), berlin(local.clone())),
        case(few(), berlin(local.clone()).with_timezone("UTC")),
        case(few().with_timezone("UTC"), berlin(millis)),
        case(TimestampMillisecondArray::from(vec![None, Some(0), Some(3_600_000)]), berlin(local)),
        case(micros(), TimestampNanosecondArray::from(nanos.clone())),
        case(
            micros().with_timezone("Europe/Berlin"),
            TimestampNanosecondArray::from(nanos.clone()).with_timezone("UTC"),
        ),
        case(TimestampNanosecondArray::from(nanos), micros()),
        case(
            Date64Array::from(vec![None, Some(0), Some(1), Some(86_400_000), Some(-1)]),
            Date32Array::from(vec![None, Some(0), Some(1), Some(-1)]),
        ),
        case(
            Date32Array::from(vec![None, Some(0), Some(1), Some(-1)]),
            TimestampSecondArray::from(vec![None, Some(0), Some(1), Some(86_400)]),
        ),
        case(
            TimestampSecondArray::from(vec![None, Some(0), Some(1), Some(86_400)]),
            Date32Array::from(vec![None, Some(0), Some(1)]),
        ),
        case(
            Int32Array::from(vec![None, Some(0), Some(1), Some(86_400_000)]),
            Date64Array::from(vec![None, Some(0), Some(86_400_000)]),
        ),
        case(
            Int64Array::from(vec![None, Some(0), Some(1), Some(-1)]),
            TimestampSecondArray::from(vec![None, Some(0), Some(1)]),
        ),
    ]
}

fn number_cases() -> Vec<CastCase> {
    let prices = || decimals(vec![None, Some(100), Some(110), Some(199), Some(-50), Some(-110), Some(105)], 10, 2);
    let hundreds = || decimals(vec![None, Some(0), Some(1), Some(-1), Some(12)], 10, -2);
    let integers = || Int64Array::from(vec![None, Some(0), Some(1), Some(-1), Some(100), Some(149), Some(1 << 40)]);
    let text = || StringArray::from(vec![None, Some("1"), Some("01"), Some("x"), Some("-1")]);
    let dictionary = DataType::Dictionary(DataType::Int32.into(), DataType::Utf8.into());
    vec![
        case(prices(), Int64Array::from(vec![None, Some(1), Some(0), Some(-1)])),
        case(prices(), decimals(vec![None, Some(11), Some(10), Some(-11)], 10, 1)),
        case(prices(), decimals(vec![None, Some(11_000), Some(11_001), Some(-11_000)], 20, 4)),
        case(prices(), decimals(vec![None, Some(100), Some(110)], 4, 2)),
        case(hundreds(), Int64Array::from(vec![None, Some(100), Some(0), Some(150)])),
        case(hundreds(), decimals(vec![None, Some(100), Some(0), Some(150), Some(-100)], 20, 0)),
        case(integers(), decimals(vec![None, Some(1), Some(0), Some(2)], 20, -2)),
        case(integers(), decimals(vec![None, Some(100), Some(150)], 22, 2)),
        case(integers(), Int32Array::from(vec![None, Some(1), Some(100)])),
        case(Int32Array::from(vec![None, Some(1), Some(-1), Some(7)]), Int64Array::from(vec![None, Some(1), Some(-7)])),
        case(integers(), text()),
        case(text(), Int64Array::from(vec![None, Some(1), Some(-1)])),
        CastCase { column: cast(&text(), &dictionary).unwrap(), values: Arc::new(text()) },
        CastCase { column: Arc::new(text()), values: cast(&text(), &DataType::Utf8View).unwrap() },
    ]
}

pub(super) const OPERATORS: [Operator; 8] = [
    Operator::Eq,
    Operator::NotEq,
    Operator::Lt,
    Operator::LtEq,
    Operator::Gt,
    Operator::GtEq,
    Operator::IsDistinctFrom,
    Operator::IsNotDistinctFrom,
];

fn compared(values: &ArrayRef, operator: Operator, literal: &ArrayRef) -> BooleanArray {
    let literal = Scalar::new(literal.clone());
    match operator {
        Operator::Eq => cmp::eq(values, &literal),
        Operator::NotEq => cmp::neq(values, &literal),
        Operator::Lt => cmp::lt(values, &literal),
        Operator::LtEq => cmp::lt_eq(values, &literal),
        Operator::Gt => cmp::gt(values, &literal),
        Operator::GtEq => cmp::gt_eq(values, &literal),
        Operator::IsDistinctFrom => cmp::distinct(values, &literal),
        _ => cmp::not_distinct(values, &literal),
    }
    .unwrap()
}

fn true_rows(mask: &BooleanArray) -> Vec<usize> {
    (0..mask.len()).filter(|row| mask.is_valid(*row) && mask.value(*row)).collect()
}

fn predicate_of(expr: Expr, schema: &SchemaRef) -> Predicate {
    let known = VisibleColumns::new(schema).unwrap();
    let expr = known.normalize(expr).unwrap();
    Predicate::new("a cast", schema, &known, expr).unwrap()
}

/// Compares the rows of a filter with those that are expected.
fn check(expr: Expr, batch: &RecordBatch, expected: &BooleanArray) -> Predicate {
    let predicate = predicate_of(expr.clone(), &batch.schema());
    assert_eq!(rows(&predicate, batch), true_rows(expected), "{expr} as {}", *predicate.expr);
    predicate
}

/// The same, and those of the predicate that is made of it.
fn check_pushed(expr: Expr, batch: &RecordBatch, expected: &BooleanArray) {
    let predicate = check(expr, batch, expected);
    if let Some(pushed) = Predicate::from_expr(&predicate.expr, &batch.schema()) {
        assert_eq!(rows(&pushed, batch), true_rows(expected), "{} as {}", *predicate.expr, pushed.text());
    }
}

/// `None` for what fails for a row.
fn check_case(case: &CastCase, is_try: bool) -> Option<()> {
    let to = case.values.data_type();
    let options = CastOptions { safe: is_try, ..CastOptions::default() };
    let values = cast_with_options(&case.column, to, &options).ok()?;
    let schema = Arc::new(Schema::new(vec![Field::new("x", case.column.data_type().clone(), true)]));
    let batch = RecordBatch::try_new(schema, vec![case.column.clone()]).unwrap();
    let left = || if is_try { try_cast(col("x"), to.clone()) } else { cast_to(col("x"), to.clone()) };
    let literal = |at: usize| lit(ScalarValue::try_from_array(&case.values, at).unwrap());
    for at in 0..case.values.len() {
        let one = case.values.slice(at, 1);
        for operator in OPERATORS {
            let expected = compared(&values, operator, &one);
            check_pushed(binary_expr(left(), operator, literal(at)), &batch, &expected);
            check(!binary_expr(left(), operator, literal(at)), &batch, &not(&expected).unwrap());
            if let Some(swapped) = operator.swap() {
                check(binary_expr(literal(at), swapped, left()), &batch, &expected);
            }
        }
        // Lists of one and of several values; the null of the first one makes NOT IN true for no row.
        let next = (at + 1) % case.values.len();
        let several = case.values.slice(next, 1);
        let equal = [compared(&values, Operator::Eq, &one), compared(&values, Operator::Eq, &several)];
        let either = arrow::compute::or_kleene(&equal[0], &equal[1]).unwrap();
        check(left().in_list(vec![literal(at)], false), &batch, &equal[0]);
        check(left().in_list(vec![literal(at), literal(next)], false), &batch, &either);
        check(left().in_list(vec![literal(at), literal(next)], true), &batch, &not(&either).unwrap());
        if one.is_valid(0) && several.is_valid(0) {
            let (low, high) = (compared(&values, Operator::GtEq, &one), compared(&values, Operator::LtEq, &several));
            check(left().between(literal(at), literal(next)), &batch, &and(&low, &high).unwrap());
            let (low, high) = (compared(&values, Operator::Lt, &one), compared(&values, Operator::Gt, &several));
            check(left().not_between(literal(at), literal(next)), &batch, &or(&low, &high).unwrap());
        }
    }
    Some(())
}

#[test]
fn comparisons_of_casts_are_those_of_single_rows() {
    let mut failing = 0;
    for case in timestamp_cases().iter().chain(&number_cases()) {
        failing += usize::from(check_case(case, false).is_none());
        assert!(check_case(case, true).is_some(), "TRY_CAST fails for no row");
    }
    // Of the greatest seconds, numbers beyond 32 bits, and texts that are no numbers.
    assert!(failing <= 3, "{failing} casts fail");
}

#[test]
fn finer_literals_are_compared_without_a_cast() {
    let schema: SchemaRef =
        Arc::new(Schema::new(vec![Field::new("t", DataType::Timestamp(TimeUnit::Second, None), true)]));
    let expr = |text: &str| Expr::clone(&Predicate::parse(text, &schema).unwrap().expr);
    for (text, wanted) in [
        ("t >= TIMESTAMP '1970-01-01 00:00:00.5'", "t > 0"),
        ("t > TIMESTAMP '1970-01-01 00:00:00.5'", "t > 0"),
        ("t < TIMESTAMP '1970-01-01 00:00:00.5'", "t <= 0"),
        ("TIMESTAMP '1969-12-31 23:59:59.5' <= t", "t > -1"),
        ("t >= TIMESTAMP '1970-01-01 00:00:01'", "t >= 1"),
        ("t = TIMESTAMP '1970-01-01 00:00:01'", "t = 1"),
        ("t >= TIMESTAMP '1970-01-01 00:00:00' + INTERVAL '1 second'", "t >= 1"),
        ("t BETWEEN TIMESTAMP '1970-01-01 00:00:00.5' AND TIMESTAMP '1970-01-01 00:00:02.5'", "t > 0 AND t <= 2"),
        ("t IN (TIMESTAMP '1970-01-01 00:00:00.5', TIMESTAMP '1970-01-01 00:00:02')", "t = 2"),
    ] {
        let compared = |part: &str| {
            let [name, operator, value] = part.split(' ').collect::<Vec<_>>()[..] else { panic!("{part}") };
            let operator = OPERATORS.into_iter().find(|known| known.to_string() == operator).unwrap();
            let value = ScalarValue::TimestampSecond(Some(value.parse().unwrap()), None);
            binary_expr(col(name), operator, lit(value))
        };
        let parts: Vec<Expr> = wanted.split(" AND ").map(compared).collect();
        let wanted = parts.into_iter().reduce(Expr::and).unwrap();
        assert_eq!(expr(text), wanted, "{text}");
    }
    let equal = expr("t = TIMESTAMP '1970-01-01 00:00:00.5'");
    assert!(equal.to_string().contains("optimization_fence"), "{equal}");
}

#[test]
fn years_beyond_nanoseconds_select_all_rows_or_none() {
    let times = TimestampNanosecondArray::from(vec![Some(i64::MIN), Some(0), None, Some(i64::MAX)]);
    let schema = Arc::new(Schema::new(vec![Field::new("t", times.data_type().clone(), true)]));
    let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(times)]).unwrap();
    let selected = |text: &str| rows(&Predicate::parse(text, &schema).unwrap(), &batch);
    for (text, expected) in [
        ("EXTRACT(year FROM t) < 9999", vec![0, 1, 3]),
        ("EXTRACT(year FROM t) > 1600", vec![0, 1, 3]),
        ("EXTRACT(year FROM t) <> 5000", vec![0, 1, 3]),
        ("EXTRACT(year FROM t) = 5000", vec![]),
        ("EXTRACT(year FROM t) = 2262", vec![3]),
        ("EXTRACT(year FROM t) = 1677", vec![0]),
        ("date_part('year', t) IN (1970, 2262)", vec![1, 3]),
    ] {
        assert_eq!(selected(text), expected, "{text}");
    }
    let text = Predicate::parse("EXTRACT(year FROM t) = 1970", &schema).unwrap().expr.to_string();
    assert!(!text.contains("date_part"), "the year of the pruned column: {text}");
}

#[test]
fn year_whose_first_moment_a_zone_skips_is_compared() {
    // Half past four, which is half past midnight: the offset changed from -04:30 to -04:00.
    let first = -157_750_200;
    let times = TimestampSecondArray::from(vec![Some(first - 1), Some(first), None]).with_timezone("America/Caracas");
    let schema = Arc::new(Schema::new(vec![Field::new("t", times.data_type().clone(), true)]));
    let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(times)]).unwrap();
    for (text, expected) in [
        ("EXTRACT(year FROM t) = 1965", vec![1]),
        ("EXTRACT(year FROM t) = 1964", vec![0]),
        ("EXTRACT(year FROM t) >= 1965", vec![1]),
        ("EXTRACT(year FROM t) < 1965", vec![0]),
    ] {
        assert_eq!(rows(&Predicate::parse(text, &schema).unwrap(), &batch), expected, "{text}");
    }
}

#[test]
fn texts_of_filters_have_no_fences() {
    let decimal = Field::new("d", DataType::Decimal128(10, 2), true);
    let schema = Arc::new(Schema::new(vec![decimal]));
    let predicate = Predicate::parse("CAST(d AS BIGINT) = 1", &schema).unwrap();
    let again = Predicate::from_expr(&predicate.expr, &schema).unwrap();
    assert_eq!(*again.expr, *predicate.expr);
    assert!(!again.text().contains("fence"), "{}", again.text());
    let batch = RecordBatch::try_new(schema, vec![Arc::new(decimals(vec![Some(100), Some(110), Some(210)], 10, 2))]);
    assert_eq!(rows(&again, &batch.unwrap()), [0, 1]);
}
