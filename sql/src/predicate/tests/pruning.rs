//! Batches that statistics exclude have no row that the filter selects, for every type and every kind of filter.

use std::sync::{Arc, LazyLock};

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    Time64NanosecondArray, TimestampMicrosecondArray, TimestampSecondArray, UInt32Array, UInt64Array,
};
use arrow::compute::{cast, sort, take};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, binary_expr, cast as cast_to, col, lit, not, try_cast};
use proptest::prelude::*;
use volley_common::ipc::statistics::{MessageStatistics, StatisticsBuilder};

use super::super::expression::VisibleColumns;
use super::Predicate;
use super::casts::OPERATORS;
use super::part_pruning::part_kept;

/// Values of one column, ascending, and whether filters may calculate with it.
struct ValuePool {
    values: ArrayRef,
    computes: bool,
}

static POOLS: LazyLock<Vec<ValuePool>> = LazyLock::new(pools);

fn pools() -> Vec<ValuePool> {
    let mut found: Vec<ArrayRef> = vec![
        Arc::new(BooleanArray::from(vec![None, Some(false), Some(true)])),
        Arc::new(float64()),
        Arc::new(float32()),
    ];
    found.push(cast(&float32(), &DataType::Float16).unwrap());
    let small = Int32Array::from(vec![None, Some(-100), Some(-1), Some(0), Some(1), Some(5), Some(100)]);
    for data_type in [DataType::Int8, DataType::Int16, DataType::UInt8, DataType::UInt16, DataType::UInt32] {
        found.push(cast(&small, &data_type).unwrap());
    }
    let int32 = Int32Array::from(vec![None, Some(i32::MIN), Some(-7), Some(0), Some(7), Some(i32::MAX)]);
    found.push(cast(&int32, &DataType::Date32).unwrap());
    found.push(cast(&int32, &DataType::Time32(TimeUnit::Millisecond)).unwrap());
    found.push(Arc::new(int32));
    let day = 86_400_000_000;
    let moments =
        vec![None, Some(i64::MIN), Some(-1), Some(0), Some(day - 1), Some(day), Some(day * 3 / 2), Some(i64::MAX)];
    // Arrow casts these to other units without a check of their range.
    let far = i64::MAX / 1_000_000;
    let in_range = moments.iter().map(|moment| moment.map(|moment| moment.clamp(-far, far))).collect::<Int64Array>();
    found.push(cast(&in_range, &DataType::Date64).unwrap());
    for data_type in [
        DataType::Timestamp(TimeUnit::Nanosecond, None),
        DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
        DataType::Duration(TimeUnit::Microsecond),
        DataType::Int64,
    ] {
        found.push(cast(&Int64Array::from(moments.clone()), &data_type).unwrap());
    }
    // Around the end of daylight saving time, when the local time goes back.
    let autumn = 1_792_891_800_000_000;
    let berlin = (0..6).map(|at| Some(autumn + at * 1_800_000_000)).chain([None, Some(0), Some(-1)]);
    found.push(Arc::new(TimestampMicrosecondArray::from_iter(berlin).with_timezone("Europe/Berlin")));
    found.push(Arc::new(TimestampSecondArray::from(vec![
        None,
        Some(0),
        Some(43_200),
        Some(86_399),
        Some(86_400),
        Some(100_000),
    ])));
    found.push(Arc::new(Time64NanosecondArray::from(vec![None, Some(0), Some(1), Some(86_399_999_999_999)])));
    found.push(Arc::new(UInt64Array::from(vec![
        None,
        Some(0),
        Some(1),
        Some(1 << 53),
        Some((1 << 53) + 1),
        Some(u64::MAX),
    ])));
    let unscaled = Int64Array::from(vec![None, Some(-99), Some(-1), Some(0), Some(1), Some(12), Some(99)]);
    for data_type in [DataType::Decimal32(7, 2), DataType::Decimal64(12, 2), DataType::Decimal128(30, 10)] {
        found.push(cast(&unscaled, &data_type).unwrap());
    }
    for data_type in [DataType::Utf8, DataType::LargeUtf8, DataType::Utf8View] {
        found.push(cast(&StringArray::from_iter(texts()), &data_type).unwrap());
    }
    found.push(
        cast(&StringArray::from_iter(texts()), &DataType::Dictionary(DataType::Int32.into(), DataType::Utf8.into()))
            .unwrap(),
    );
    let mut bytes: Vec<Option<Vec<u8>>> = texts().into_iter().map(|text| text.map(String::into_bytes)).collect();
    bytes.extend([Some(vec![255; 40]), Some([&[1][..], &[255; 40]].concat())]);
    for data_type in [DataType::Binary, DataType::LargeBinary, DataType::BinaryView] {
        found.push(cast(&BinaryArray::from_iter(bytes.clone()), &data_type).unwrap());
    }
    let ascending = |values: ArrayRef| {
        if matches!(values.data_type(), DataType::Dictionary(..)) { values } else { sort(&values, None).unwrap() }
    };
    let mut pools: Vec<_> =
        found.into_iter().map(|values| ValuePool { values: ascending(values), computes: true }).collect();
    // DataFusion cannot calculate with all literals that have a negative scale.
    for data_type in [DataType::Decimal128(10, -2), DataType::Decimal256(60, -3)] {
        let wide = Int64Array::from(vec![None, Some(-120_000), Some(0), Some(1000), Some(120_000)]);
        pools.push(ValuePool { values: cast(&wide, &data_type).unwrap(), computes: false });
    }
    pools
}

fn float64() -> Float64Array {
    let signaling = f64::from_bits(0x7ff4_0000_0000_0000);
    let floats =
        [-f64::NAN, f64::NEG_INFINITY, -1.5, -0.0, 0.0, f64::MIN_POSITIVE, 1.5, f64::INFINITY, f64::NAN, signaling];
    floats.into_iter().map(Some).chain([None]).collect()
}

fn float32() -> Float32Array {
    let signaling = f32::from_bits(0x7fa0_0000);
    let floats = [-f32::NAN, f32::NEG_INFINITY, -1.5, -0.0, 0.0, 0.1, 1.5, f32::INFINITY, f32::NAN, signaling];
    floats.into_iter().map(Some).chain([None]).collect()
}

fn texts() -> Vec<Option<String>> {
    let prefix = "p".repeat(40);
    let mut texts: Vec<String> = ["", "A", "a", "a%", "a_b", "ab", "abc", "10", "9", "ü"].map(String::from).into();
    texts.extend([prefix.clone(), format!("{prefix}a"), format!("{prefix}b"), "\u{10ffff}".repeat(9)]);
    texts.extend([
        format!("{}üx", "p".repeat(31)),
        format!("{}\u{7f}x", "p".repeat(31)),
        format!("{}\u{d7ff}x", "p".repeat(29)),
    ]);
    texts.into_iter().map(Some).chain([None]).collect()
}

fn name(column: usize) -> String {
    format!("c{column}")
}

/// A batch whose values are close to each other in each column.
fn batch(base: usize, rows: &[usize]) -> RecordBatch {
    let column = |(column, pool): (usize, &ValuePool)| {
        let at = |row: &usize| ((base % 1000 + 5 * column + row) % pool.values.len()) as u32;
        let values = take(&pool.values, &UInt32Array::from_iter_values(rows.iter().map(at)), None).unwrap();
        (name(column), values, true)
    };
    RecordBatch::try_from_iter_with_nullable(POOLS.iter().enumerate().map(column)).unwrap()
}

fn comparison(left: Expr, operator: usize, right: Expr) -> Expr {
    binary_expr(left, OPERATORS[operator % OPERATORS.len()], right)
}

/// A test of one column.
fn column_test(kind: usize, [column, a, b, c]: [usize; 4]) -> Expr {
    let at = column % POOLS.len();
    let (pool, column) = (&POOLS[at], col(name(at)));
    let scalar = |n: usize| ScalarValue::try_from_array(&pool.values, n % pool.values.len()).unwrap();
    let value = |n: usize| lit(scalar(n));
    match kind {
        0 => comparison(value(a), b, column),
        1 => column.in_list((0..1 + b % 7).map(|n| value(a + n)).collect(), c.is_multiple_of(3)),
        2 if c.is_multiple_of(3) => column.not_between(value(a), value(a + b % 3)),
        2 => column.between(value(a), value(a + b % 3)),
        3 if c.is_multiple_of(2) => column.is_null(),
        3 => column.is_not_null(),
        4 if pool.values.data_type().is_string() => like(column, a, c),
        5 | 6 => {
            let types = cast_types();
            let to = types[b % types.len()].clone();
            match scalar(a).cast_to(&to) {
                Ok(literal) if kind == 5 => comparison(cast_to(column, to), c, lit(literal)),
                Ok(literal) => comparison(try_cast(column, to), c, lit(literal)),
                Err(_) => cast_to(column, to).is_not_null(),
            }
        }
        7 if pool.computes => comparison(column + value(a), c, value(b)),
        8 if pool.computes => comparison(-column, c, value(b)),
        9 if *pool.values.data_type() == DataType::Boolean => [column.clone(), not(column)][c % 2].clone(),
        _ => comparison(column, b, value(a)),
    }
}

fn like(column: Expr, a: usize, c: usize) -> Expr {
    let prefix = "p".repeat(32);
    let patterns = [
        "a%".to_string(),
        "a_".into(),
        r"a\%".into(),
        r"a\_%".into(),
        r"\a%".into(),
        "%a".into(),
        String::new(),
        format!("{prefix}%"),
        format!("{prefix}pppppppp%"),
        format!("{prefix}ppppppppa"),
        "\u{10ffff}%".into(),
        "ab".into(),
    ];
    let pattern = lit(patterns[a % patterns.len()].as_str());
    match c % 3 {
        0 => column.not_like(pattern),
        1 => column.ilike(pattern),
        _ => column.like(pattern),
    }
}

fn cast_types() -> Vec<DataType> {
    vec![
        DataType::Boolean,
        DataType::Int8,
        DataType::Int32,
        DataType::Int64,
        DataType::UInt64,
        DataType::Float32,
        DataType::Float64,
        DataType::Utf8,
        DataType::Utf8View,
        DataType::Date32,
        DataType::Time64(TimeUnit::Nanosecond),
        DataType::Timestamp(TimeUnit::Nanosecond, None),
        DataType::Timestamp(TimeUnit::Second, Some("Europe/Berlin".into())),
        DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Date64,
        DataType::Decimal128(12, 1),
        DataType::Decimal128(20, -1),
    ]
}

fn any_filter() -> impl Strategy<Value = Expr> {
    let test = (0..14usize, any::<[usize; 4]>());
    let test = test.prop_map(|(kind, numbers)| column_test(kind, numbers.map(|number| number % 10_000)));
    test.prop_recursive(4, 16, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| a.and(b)),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| a.or(b)),
            inner.clone().prop_map(not),
            inner.prop_map(|a| a.is_not_true()),
        ]
    })
}

fn predicate_of(filter: Expr, schema: &SchemaRef) -> Option<Predicate> {
    let known = VisibleColumns::new(schema).unwrap();
    let expr = known.normalize(filter).ok()?;
    Predicate::new("a property", schema, &known, expr).ok()
}

/// For each batch whether it can have a row that the filter selects, by its statistics.
fn kept(predicate: &Predicate, batches: &[RecordBatch]) -> Vec<bool> {
    let Some(pruning) = predicate.pruning() else { return vec![true; batches.len()] };
    let mut builder = StatisticsBuilder::new(&predicate.schema);
    batches.iter().for_each(|batch| builder.add(batch));
    let statistics = MessageStatistics::decode(&builder.finish().unwrap()).unwrap();
    let columns = predicate.columns().iter();
    let columns: Vec<_> =
        columns.map(|&column| statistics.column(column, predicate.schema.field(column).data_type())).collect();
    pruning.may_select(&statistics.entries().collect::<Vec<_>>(), &columns)
}

/// How many rows of each batch the filter selects; `None` if it has a cast that does not exist, or fails for a batch.
fn selected_counts(predicate: &Predicate, batches: &[RecordBatch]) -> Option<Vec<usize>> {
    let filter = predicate.compile(predicate.columns()).ok()?;
    let count = |batch: &RecordBatch| {
        let columns = batch.project(predicate.columns()).unwrap();
        filter.select(&columns).ok().map(|mask| mask.true_count())
    };
    batches.iter().map(count).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn excluded_batches_have_no_selected_row(
        batches in prop::collection::vec((any::<usize>(), prop::collection::vec(0..3usize, 0..5)), 1..8),
        filter in any_filter(),
    ) {
        let batches: Vec<RecordBatch> = batches.iter().map(|(base, rows)| batch(*base, rows)).collect();
        let Some(predicate) = predicate_of(filter, &batches[0].schema()) else { return Ok(()) };
        let Some(counts) = selected_counts(&predicate, &batches) else { return Ok(()) };
        let all: usize = counts.iter().sum();
        prop_assert!(part_kept(&predicate, &batches) || all == 0, "{}: {all} rows of {batches:?}", *predicate.expr);
        for (at, (kept, count)) in kept(&predicate, &batches).into_iter().zip(counts).enumerate() {
            let kept = kept && part_kept(&predicate, &batches[at..=at]);
            prop_assert!(kept || count == 0, "{}: batch {at}, {count} rows: {:?}", *predicate.expr, batches[at]);
        }
    }
}

/// Of ten batches with ten values each, 0 to 99 in ascending order.
fn ascending() -> Vec<RecordBatch> {
    let batch = |first: i32| {
        let numbers = || first..first + 10;
        let prefix = "p".repeat(20);
        let texts = StringArray::from_iter_values(numbers().map(|number| format!("{prefix}{number:03}{prefix}")));
        let floats = Float64Array::from_iter_values(numbers().map(|number| f64::from(number) - 50.0));
        let seconds = TimestampSecondArray::from_iter_values(numbers().map(|number| i64::from(number) * 3600));
        let nulls = Int32Array::from_iter(numbers().map(|number| (number >= 50).then_some(number)));
        let decimals = cast(&Int32Array::from_iter_values(numbers()), &DataType::Decimal128(10, 2)).unwrap();
        RecordBatch::try_from_iter_with_nullable([
            ("i", Arc::new(Int32Array::from_iter_values(numbers())) as ArrayRef, true),
            ("s", Arc::new(texts), true),
            ("f", Arc::new(floats), true),
            ("t", Arc::new(seconds), true),
            ("n", Arc::new(nulls), true),
            ("d", decimals, true),
            ("b", Arc::new(BooleanArray::from_iter(numbers().map(|number| Some(number >= 90)))), true),
        ])
        .unwrap()
    };
    (0..10).map(|at| batch(at * 10)).collect()
}

#[test]
fn selective_filter_of_ordered_columns_keeps_few_batches() {
    let batches = ascending();
    let prefix = "p".repeat(20);
    for (filter, count) in [
        ("i = 42", 1),
        ("42 = i", 1),
        ("i < 10", 1),
        ("i >= 25 AND i <= 26", 1),
        ("i BETWEEN 25 AND 26 OR i = 99", 2),
        ("i IN (3, 55)", 2),
        ("i IN (1, 2, 3, 4, 5)", 1),
        ("NOT (i < 90 OR i > 200)", 1),
        ("i > 90.5", 1),
        ("i + 1 > 5 AND i = 3", 1),
        ("i = 3 AND lower(s) = 'x'", 1),
        ("i = 1000", 0),
        ("i = 5 AND i = 95", 0),
        ("i = NULL", 0),
        ("1 = 2", 0),
        ("f = 0", 1),
        ("f > 45", 1),
        ("n IS NULL", 5),
        ("n IS NOT NULL AND n < 60", 1),
        ("d > 91.5", 1),
        ("d = 42", 1),
        ("b", 1),
        ("NOT b", 9),
        ("t >= TIMESTAMP '1970-01-05 00:00:00'", 1),
        ("t > '1970-01-04 22:00:00'", 1),
        // What cannot be told.
        ("i % 50 = 42", 10),
        ("i = 42 OR lower(s) = 'x'", 10),
        ("CAST(t AS TIME) = TIME '00:00:00'", 10),
        ("abs(f) > 49.5", 10),
    ] {
        let predicate = Predicate::parse(filter, &batches[0].schema()).unwrap();
        let kept = kept(&predicate, &batches);
        assert_eq!(kept.iter().filter(|kept| **kept).count(), count, "{filter}");
        let parts = batches.iter().filter(|batch| part_kept(&predicate, std::slice::from_ref(*batch)));
        assert_eq!(parts.count(), count, "parts: {filter}");
    }
    for (filter, count) in [
        (format!("s = '{prefix}042{prefix}'"), 1),
        (format!("s LIKE '{prefix}042%'"), 1),
        (format!("s LIKE '{prefix}04%'"), 1),
        (format!("s NOT LIKE '{prefix}04%'"), 9),
    ] {
        let predicate = Predicate::parse(&filter, &batches[0].schema()).unwrap();
        assert_eq!(kept(&predicate, &batches).iter().filter(|kept| **kept).count(), count, "{filter}");
    }
}

/// What DataFusion's rewriting alone would get wrong.
#[test]
fn what_does_not_keep_the_order_excludes_nothing() {
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![-0.0, -0.0]));
    let integers: ArrayRef = Arc::new(Int64Array::from(vec![-1, 0, 1, i64::MIN]));
    let times: ArrayRef = Arc::new(TimestampSecondArray::from(vec![43_200, 86_399, 86_400 + 50_000]));
    for (column, filters) in [
        (floats, &["x NOT IN (0.0, 1.0, 2.0, 3.0)", "x IS DISTINCT FROM 0.0", "x >= 0.0", "x = 0.0"][..]),
        (
            integers,
            &["CAST(x AS BOOLEAN) IS NOT DISTINCT FROM false", "CAST(CAST(x AS BOOLEAN) AS INT) < 1", "-x < 5"][..],
        ),
        (times, &["CAST(x AS TIME) > TIME '20:00:00'", "date_part('hour', x) = 23"][..]),
    ] {
        let batch = RecordBatch::try_from_iter_with_nullable([("x", column, true)]).unwrap();
        for filter in filters {
            let predicate = Predicate::parse(filter, &batch.schema()).unwrap();
            let Some(counts) = selected_counts(&predicate, std::slice::from_ref(&batch)) else { continue };
            let kept = kept(&predicate, std::slice::from_ref(&batch));
            assert!(kept[0] || counts[0] == 0, "{filter}: {counts:?}");
        }
    }
}
