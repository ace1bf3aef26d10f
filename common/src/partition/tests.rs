use std::sync::Arc;

use arrow::array::types::{Int8Type, Int32Type, RunEndIndexType};
use arrow::array::*;
use arrow::datatypes::{Field, Int16Type, Int64Type, IntervalDayTime, IntervalMonthDayNano, i256};

use super::*;
use crate::Code;

/// Computed by tests/python/golden_partition.py, which verifies this table with `--check`. It never changes.
#[rustfmt::skip]
const GOLDEN: [(&str, u64); 30] = [
    ("null", 0xc44bdff4074eecdb),
    ("int 0", 0x313c2dd2ec996e80),
    ("int 5", 0xd7aac30b7ee829fb),
    ("int -1", 0x53a5f4bc2fc0168c),
    ("int8 min", 0x0637141c1fbdba8c),
    ("int64 min", 0x6f16315aee313307),
    ("int64 max", 0xba0e0da8d48b9d86),
    ("uint64 max", 0x53a5f4bc2fc0168c),
    ("float 0", 0x313c2dd2ec996e80),
    ("float 1.5", 0x2b68e3d95bc408b8),
    ("float nan", 0x6a33929ce40a04d7),
    ("float -inf", 0x666fd2013e7f8357),
    ("false", 0xab94ac0ace7276c0),
    ("true", 0x070d80d6a76865f3),
    ("decimal 123.45", 0xa6bc60e45ef492ff),
    ("decimal -1 scale -3", 0x16c6ae803640ef69),
    ("decimal 10**75", 0xac16162fcaca4605),
    ("date 19000", 0x878ead9d7fcc7cc5),
    ("timestamp 1700000000000", 0x6d384ee411270b96),
    ("string empty", 0x313c2dd2ec996e80),
    ("string volley", 0xe01c5f4f6d008a0c),
    ("string unicode", 0x2e34ffd7d511c6a2),
    ("string long", 0x4a7af05676d814a9),
    ("bytes 00ff", 0xf7199576b14a81c1),
    ("interval 14 months", 0xe4c14fa258b45197),
    ("interval 3 days -500 ms", 0x998a0136f3f25382),
    ("interval 1 2 3", 0x504b6b7a8186bc62),
    ("two columns", 0x47923c6ecf3e4447),
    ("two columns, null first", 0xaa37761a9128cc0c),
    ("two columns, null second", 0xcf96b5fe13f7809b),
];

fn golden(name: &str) -> u64 {
    GOLDEN.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no golden value {name:?}")).1
}

fn batch(columns: Vec<ArrayRef>) -> RecordBatch {
    let named = columns.into_iter().enumerate().map(|(at, array)| (format!("c{at}"), array, true));
    RecordBatch::try_from_iter_with_nullable(named).unwrap()
}

fn hashes(columns: Vec<ArrayRef>) -> Vec<u64> {
    let keys: Vec<String> = (0..columns.len()).map(|at| format!("c{at}")).collect();
    let batch = batch(columns);
    let partitioner = Partitioner::new(&batch.schema(), &keys, 7).unwrap();
    let hashes = partitioner.hashes_of(&batch).unwrap();
    let shards: Vec<u32> = hashes.iter().map(|hash| (hash % 7) as u32).collect();
    assert_eq!(partitioner.shards_of(&batch).unwrap(), shards);
    hashes
}

/// Checks an array that begins with the golden value `name` and, if it has a second row, ends with a null.
fn check(name: &str, array: impl Array + 'static) {
    let array: ArrayRef = Arc::new(array);
    let found = hashes(vec![array.clone()]);
    assert_eq!(found[0], golden(name), "{name} as {}", array.data_type());
    if array.len() > 1 {
        assert_eq!(found.last(), Some(&golden("null")), "null of {}", array.data_type());
    }
    // The same rows as a slice of a larger array.
    let padded = arrow::compute::concat(&[&array, &array]).unwrap().slice(array.len(), array.len());
    assert_eq!(hashes(vec![padded]), found, "{name} sliced, as {}", array.data_type());
}

#[test]
fn integers_of_any_width_hash_equally() {
    check("int 5", Int8Array::from(vec![Some(5), None]));
    check("int 5", Int16Array::from(vec![Some(5), None]));
    check("int 5", Int32Array::from(vec![Some(5), None]));
    check("int 5", Int64Array::from(vec![Some(5), None]));
    check("int 5", UInt8Array::from(vec![Some(5), None]));
    check("int 5", UInt16Array::from(vec![Some(5), None]));
    check("int 5", UInt32Array::from(vec![Some(5), None]));
    check("int 5", UInt64Array::from(vec![Some(5), None]));
    check("int 0", Int32Array::from(vec![0]));
    check("int -1", Int16Array::from(vec![-1]));
    check("int -1", Int64Array::from(vec![-1]));
    check("int8 min", Int8Array::from(vec![i8::MIN]));
    check("int64 min", Int64Array::from(vec![i64::MIN]));
    check("int64 max", Int64Array::from(vec![i64::MAX]));
    check("int64 max", UInt64Array::from(vec![i64::MAX as u64]));
    check("uint64 max", UInt64Array::from(vec![u64::MAX]));
}

#[test]
fn floats_of_any_width_hash_equally() {
    let half = |value| <arrow::datatypes::Float16Type as ArrowPrimitiveType>::Native::from_f32(value);
    check("float 1.5", Float16Array::from(vec![Some(half(1.5)), None]));
    check("float 1.5", Float32Array::from(vec![Some(1.5), None]));
    check("float 1.5", Float64Array::from(vec![Some(1.5), None]));
    check("float 0", Float64Array::from(vec![0.0]));
    check("float 0", Float32Array::from(vec![-0.0]));
    check("float 0", Float16Array::from(vec![half(-0.0)]));
    check("float nan", Float32Array::from(vec![-f32::NAN]));
    check("float nan", Float64Array::from(vec![f64::from_bits(0xfff0_0000_0000_0001)]));
    check("float -inf", Float32Array::from(vec![f32::NEG_INFINITY]));
}

#[test]
fn bools_nulls_and_decimals_match_golden_values() {
    check("true", BooleanArray::from(vec![Some(true), None]));
    check("false", BooleanArray::from(vec![Some(false), None]));
    check("null", NullArray::new(2));
    check("decimal 123.45", Decimal32Array::from(vec![Some(12345), None]).with_precision_and_scale(9, 2).unwrap());
    check("decimal 123.45", Decimal64Array::from(vec![Some(12345), None]).with_precision_and_scale(18, 2).unwrap());
    check("decimal 123.45", Decimal128Array::from(vec![Some(12345), None]).with_precision_and_scale(38, 2).unwrap());
    let wide = Decimal256Array::from(vec![Some(i256::from(12345)), None]);
    check("decimal 123.45", wide.with_precision_and_scale(76, 2).unwrap());
    check("decimal -1 scale -3", Decimal128Array::from(vec![-1]).with_precision_and_scale(20, -3).unwrap());
    check("decimal -1 scale -3", Decimal32Array::from(vec![-1]).with_precision_and_scale(9, -3).unwrap());
    let huge = Decimal256Array::from(vec![i256::from(10).wrapping_pow(75)]);
    check("decimal 10**75", huge.with_precision_and_scale(76, 0).unwrap());
}

#[test]
fn times_hash_as_their_numbers() {
    check("date 19000", Date32Array::from(vec![Some(19000), None]));
    check("date 19000", Int32Array::from(vec![19000]));
    check("timestamp 1700000000000", Date64Array::from(vec![Some(1_700_000_000_000), None]));
    check("timestamp 1700000000000", TimestampSecondArray::from(vec![Some(1_700_000_000_000), None]));
    check("timestamp 1700000000000", TimestampMillisecondArray::from(vec![Some(1_700_000_000_000), None]));
    let zoned = TimestampMicrosecondArray::from(vec![Some(1_700_000_000_000), None]).with_timezone("Europe/Zurich");
    check("timestamp 1700000000000", zoned);
    check("timestamp 1700000000000", TimestampNanosecondArray::from(vec![Some(1_700_000_000_000), None]));
    check("int 5", Time32SecondArray::from(vec![Some(5), None]));
    check("int 5", Time32MillisecondArray::from(vec![Some(5), None]));
    check("int 5", Time64MicrosecondArray::from(vec![Some(5), None]));
    check("int 5", Time64NanosecondArray::from(vec![Some(5), None]));
    check("int -1", DurationSecondArray::from(vec![Some(-1), None]));
    check("int -1", DurationMillisecondArray::from(vec![Some(-1), None]));
    check("int -1", DurationMicrosecondArray::from(vec![Some(-1), None]));
    check("int -1", DurationNanosecondArray::from(vec![Some(-1), None]));
    check("interval 14 months", IntervalYearMonthArray::from(vec![Some(14), None]));
    let day_time = IntervalDayTime::new(3, -500);
    check("interval 3 days -500 ms", IntervalDayTimeArray::from(vec![Some(day_time), None]));
    let nano = IntervalMonthDayNano::new(1, 2, 3);
    check("interval 1 2 3", IntervalMonthDayNanoArray::from(vec![Some(nano), None]));
}

#[test]
fn strings_and_bytes_of_any_type_hash_equally() {
    let long = "a string that is longer than sixteen bytes, and than any inline view; ".repeat(5);
    for (name, text) in
        [("string empty", ""), ("string volley", "volley"), ("string unicode", "Zürich ✈"), ("string long", &long)]
    {
        check(name, StringArray::from(vec![Some(text), None]));
        check(name, LargeStringArray::from(vec![Some(text), None]));
        check(name, StringViewArray::from(vec![Some(text), None]));
        check(name, BinaryArray::from(vec![Some(text.as_bytes()), None]));
        check(name, LargeBinaryArray::from(vec![Some(text.as_bytes()), None]));
        check(name, BinaryViewArray::from(vec![Some(text.as_bytes()), None]));
    }
    let fixed = |rows: Vec<Option<&'static [u8]>>| {
        FixedSizeBinaryArray::try_from_sparse_iter_with_size(rows.into_iter(), 2).unwrap()
    };
    check("bytes 00ff", fixed(vec![Some(&[0, 255]), None]));
    check("bytes 00ff", BinaryArray::from(vec![Some(&[0u8, 255][..]), None]));
}

fn run_ends<R: RunEndIndexType>(ends: PrimitiveArray<R>) -> RunArray<R> {
    RunArray::try_new(&ends, &StringArray::from(vec![Some("volley"), None])).unwrap()
}

#[test]
fn encodings_do_not_change_the_hash() {
    check("string volley", vec![Some("volley"), None].into_iter().collect::<DictionaryArray<Int8Type>>());
    // A null may be among the dictionary's values or its keys.
    let keys = Int32Array::from(vec![Some(1), None, Some(0)]);
    let values = Arc::new(StringViewArray::from(vec![None, Some("volley")]));
    check("string volley", DictionaryArray::<Int32Type>::new(keys, values));
    let numbers = Arc::new(UInt16Array::from(vec![5]));
    check("int 5", DictionaryArray::<Int8Type>::new(Int8Array::from(vec![Some(0), None]), numbers));
    check("string volley", run_ends::<Int16Type>(Int16Array::from(vec![2, 3])));
    check("string volley", run_ends::<Int32Type>(Int32Array::from(vec![2, 3])));
    check("string volley", run_ends::<Int64Type>(Int64Array::from(vec![2, 3])));
    let found = hashes(vec![Arc::new(run_ends::<Int32Type>(Int32Array::from(vec![2, 4])))]);
    let (value, null) = (golden("string volley"), golden("null"));
    assert_eq!(found, [value, value, null, null]);
}

#[test]
fn several_columns_are_hashed_in_order() {
    let first: ArrayRef = Arc::new(Int32Array::from(vec![Some(7), None, Some(7)]));
    let second: ArrayRef = Arc::new(StringArray::from(vec![Some("x"), Some("x"), None]));
    let expected = ["two columns", "two columns, null first", "two columns, null second"].map(golden);
    assert_eq!(hashes(vec![first.clone(), second.clone()]), expected);
    assert_ne!(hashes(vec![second, first]), expected, "the order of columns matters");
}

#[test]
fn long_values_that_rows_share_are_hashed_once() {
    let text = "x".repeat(1 << 20);
    let words: ArrayRef = Arc::new(StringArray::from(vec![text.as_str(), "y"]));
    let keys = |rows: i32| Int32Array::from_iter_values((0..rows).map(|row| row % 2));
    let coded = |rows| Arc::new(DictionaryArray::new(keys(rows), words.clone())) as ArrayRef;
    // Hashed for each row this would be half a terabyte.
    let found = hashes(vec![coded(1_000_000)]);
    assert_eq!(&found[..2], hashes(vec![words.clone()]));
    assert!(found.chunks(2).all(|pair| pair == &found[..2]));
    let (ends, rows) = (Int32Array::from_iter_values((1..=100_000).map(|at| at * 10)), coded(100_000));
    let runs = RunArray::<Int32Type>::try_new(&ends, rows.as_ref()).unwrap();
    assert_eq!(hashes(vec![Arc::new(runs)])[9..11], found[..2]);

    // Together with another column each row has bytes of its own.
    let wide = batch(vec![coded(1_000), Arc::new(keys(1_000))]);
    let partitioner = Partitioner::new(&wide.schema(), &["c0".into(), "c1".into()], 4).unwrap();
    let error = partitioner.shards_of(&wide).unwrap_err();
    assert!(error.code == Code::ResourceExhausted && error.message.contains("shard_by"), "{error}");
    let narrow = wide.slice(0, 100);
    assert_eq!(partitioner.shards_of(&narrow).unwrap().len(), 100);
}

/// Stored tables keep their shards.
#[test]
fn long_values_that_rows_share_hash_as_in_a_plain_column() {
    let long = |letter: &str| Some(letter.repeat(1000));
    let values = StringArray::from(vec![long("a"), None, Some("short".to_string()), long("b")]);
    let keys = Int32Array::from(vec![Some(3), Some(0), None, Some(1), Some(2), Some(0), Some(3), None]);
    let expected = hashes(vec![arrow::compute::take(&values, &keys, None).unwrap()]);
    let coded: ArrayRef = Arc::new(DictionaryArray::new(keys, Arc::new(values)));
    assert_eq!(hashes(vec![coded.clone()]), expected);
    assert_eq!(hashes(vec![coded.slice(2, 5)]), expected[2..7]);
    let ends = Int32Array::from_iter_values((1..=8).map(|at| at * 2));
    let runs = RunArray::<Int32Type>::try_new(&ends, coded.as_ref()).unwrap();
    let expected: Vec<u64> = expected.iter().flat_map(|hash| [*hash, *hash]).collect();
    assert_eq!(hashes(vec![Arc::new(runs.slice(3, 9))]), expected[3..12]);
    assert_eq!(hashes(vec![Arc::new(runs)]), expected);
}

#[test]
fn rows_spread_evenly() {
    let batch = batch(vec![Arc::new(Int64Array::from_iter_values(0..100_000))]);
    let mut rows = vec![0u32; 64];
    for shard in Partitioner::new(&batch.schema(), &["c0".into()], 64).unwrap().shards_of(&batch).unwrap() {
        rows[shard as usize] += 1;
    }
    assert!(rows.iter().all(|rows| (1400..1730).contains(rows)), "{rows:?}");
}

fn check_rejected(schema: &Schema, keys: &[&str], shards: u32, words: &[&str]) {
    let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
    let error = Partitioner::new(schema, &keys, shards).unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);
    words.iter().for_each(|word| assert!(error.message.contains(word), "{word} is not in {error}"));
}

#[test]
fn invalid_keys_are_rejected_by_name() {
    let list = DataType::List(Arc::new(Field::new("item", DataType::Int32, true)));
    let pair = DataType::Struct(vec![Field::new("a", DataType::Int32, true)].into());
    let coded = DataType::Dictionary(DataType::Int8.into(), list.clone().into());
    let int = |name: &str| Field::new(name, DataType::Int32, true);
    let schema = Schema::new(vec![
        int("id"),
        int("twin"),
        int("twin"),
        Field::new("tags", list, true),
        Field::new("pair", pair, true),
        Field::new("coded", coded, true),
    ]);
    check_rejected(&schema, &["missing"], 4, &["\"missing\"", "id, twin, twin, tags, pair"]);
    check_rejected(&schema, &["id", "id"], 4, &["\"id\"", "twice"]);
    check_rejected(&schema, &["twin"], 4, &["\"twin\"", "more than one"]);
    check_rejected(&schema, &["id", "tags"], 4, &["\"tags\"", "List"]);
    check_rejected(&schema, &["pair"], 4, &["\"pair\"", "Struct"]);
    check_rejected(&schema, &["coded"], 4, &["\"coded\"", "Dictionary"]);
    check_rejected(&schema, &[], 4, &["names no column"]);
    check_rejected(&schema, &["id"], 0, &["shards is 0"]);
}

#[test]
fn nested_types_are_not_hashable() {
    let item = Arc::new(Field::new("item", DataType::Int32, true));
    for data_type in [
        DataType::LargeList(item.clone()),
        DataType::ListView(item.clone()),
        DataType::LargeListView(item.clone()),
        DataType::FixedSizeList(item.clone(), 2),
        DataType::RunEndEncoded(
            Arc::new(Field::new("run_ends", DataType::Int32, false)),
            Arc::new(Field::new("values", DataType::List(item), true)),
        ),
    ] {
        assert!(!is_hashable(&data_type), "{data_type}");
        assert!(key_column(&new_empty_array(&data_type)).is_none(), "{data_type}");
    }
}

#[test]
fn batch_of_another_schema_is_rejected() {
    let schema = Schema::new(vec![Field::new("c0", DataType::Int32, true)]);
    let partitioner = Partitioner::new(&schema, &["c0".into()], 4).unwrap();
    let other = batch(vec![Arc::new(Int64Array::from(vec![1]))]);
    assert_eq!(partitioner.shards_of(&other).unwrap_err().code, Code::InvalidArgument);
}
