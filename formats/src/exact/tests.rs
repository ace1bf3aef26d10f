//! Every Arrow type through every format: each row shows the same text afterwards, or the column is refused by name.

use std::collections::HashMap;

use arrow::array::*;
use arrow::compute::concat_batches;
use arrow::datatypes::*;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::Value;
use volley_common::Result;

use super::super::testing::create;
use super::super::text::TextOptions;
use super::super::{InputFile, ReadProgress, open, schema};
use super::*;

#[path = "../../../common/src/ipc/test_data.rs"]
#[allow(dead_code, missing_docs)]
mod test_data;

const ROWS: usize = 40;

/// Every type of the test data, and some more.
fn all_types() -> Vec<DataType> {
    use DataType::*;
    let mut types = test_data::types();
    let zone = || Some("Asia/Kolkata".into());
    types.extend([Timestamp(TimeUnit::Millisecond, zone()), Timestamp(TimeUnit::Nanosecond, zone())]);
    types.extend([Decimal32(7, -2), Decimal64(9, 0), Decimal128(5, 1), Decimal256(20, 2), Decimal256(75, -5)]);
    types.extend([Dictionary(Box::new(Int8), Box::new(Timestamp(TimeUnit::Second, None)))]);
    types.extend([Dictionary(Box::new(UInt16), Box::new(FixedSizeBinary(3)))]);
    for inner in [Timestamp(TimeUnit::Second, zone()), Time32(TimeUnit::Second), Date32, Float16, FixedSizeBinary(0)] {
        let item = Arc::new(Field::new("item", inner.clone(), true));
        types.extend([List(item.clone()), Struct(vec![item].into())]);
    }
    types
}

fn one_column(seed: usize, data_type: &DataType) -> RecordBatch {
    test_data::batch_of(&mut test_data::rng(seed as u64), std::slice::from_ref(data_type), ROWS)
}

/// Writes the batch in two pieces and reads it back.
fn round_trip(name: &str, format: Format, batch: &RecordBatch) -> Result<RecordBatch> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    let written = write(&path, format, batch);
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), usize::from(written.is_ok()), "{left:?} after {written:?}");
    written?;
    read(&path, format)
}

/// The rows of a file that has types.
fn read(path: &std::path::Path, format: Format) -> Result<RecordBatch> {
    let input = InputFile::new(path, Some(format))?;
    let schema = schema(&input)?;
    let batches = open(&input, schema.clone(), &TextOptions::default(), ReadProgress::default())?;
    let batches: Vec<_> = batches.collect::<Result<_, _>>().map_err(|e| super::super::file_error(path, e))?;
    Ok(concat_batches(&schema, &batches).unwrap())
}

fn write(path: &std::path::Path, format: Format, batch: &RecordBatch) -> Result<()> {
    let mut writer = create(path, format, &batch.schema(), None)?;
    writer.write(&batch.slice(0, ROWS / 2))?;
    writer.write(&batch.slice(ROWS / 2, batch.num_rows() - ROWS / 2))?;
    writer.finish().map(|_| ())
}

fn text(path: &std::path::Path, format: Format, batch: &RecordBatch) -> Result<String> {
    write(path, format, batch)?;
    Ok(std::fs::read_to_string(path).unwrap())
}

/// What each row shows.
fn shown(array: &ArrayRef) -> Vec<String> {
    let formatter = ArrayFormatter::try_new(array, &FormatOptions::default().with_null("null")).unwrap();
    (0..array.len()).map(|row| formatter.value(row).to_string()).collect()
}

/// What each row shows in a format of text, where half floats are short.
fn shown_as_text(array: &ArrayRef) -> Vec<String> {
    let plain = csv_type(array.data_type()).ok().and_then(|plain| cast(array, &plain).ok());
    let plain = plain.unwrap_or_else(|| array.clone());
    shown(with_short_halves(&plain).ok().as_ref().unwrap_or(&plain))
}

/// Whether the type or one within it has the property.
fn any(data_type: &DataType, is: &impl Fn(&DataType) -> bool) -> bool {
    use DataType::*;
    is(data_type)
        || match data_type {
            List(f) | LargeList(f) | ListView(f) | LargeListView(f) | FixedSizeList(f, _) | Map(f, _) => {
                any(f.data_type(), is)
            }
            Struct(fields) => fields.iter().any(|f| any(f.data_type(), is)),
            Union(fields, _) => fields.iter().any(|(_, f)| any(f.data_type(), is)),
            RunEndEncoded(_, f) => any(f.data_type(), is),
            Dictionary(_, values) => any(values, is),
            _ => false,
        }
}

fn is_union(data_type: &DataType) -> bool {
    any(data_type, &|t| matches!(t, DataType::Union(_, _)))
}

#[test]
fn arrow_formats_keep_every_type() {
    for (seed, data_type) in all_types().iter().enumerate() {
        let batch = one_column(seed, data_type);
        for (name, format) in [("t.arrow", Format::Arrow), ("t.arrows", Format::Arrows)] {
            let back = round_trip(name, format, &batch).unwrap_or_else(|e| panic!("{name} {data_type}: {e}"));
            assert_eq!(back.schema(), batch.schema(), "{name}");
            assert_eq!(shown(back.column(0)), shown(batch.column(0)), "{name} {data_type}");
        }
    }
}

#[test]
fn parquet_keeps_the_values_of_every_type_or_refuses_it() {
    let refused = |data_type: &DataType| {
        any(data_type, &|t| match t {
            DataType::Union(_, _) | DataType::Interval(IntervalUnit::MonthDayNano) => true,
            // The test data has times of the day, and a number of 80 digits.
            DataType::Date64 | DataType::Decimal256(75, -5) => true,
            DataType::Struct(fields) => fields.is_empty(),
            other => has_runs_of_nothing(other),
        })
    };
    for (seed, data_type) in all_types().iter().enumerate() {
        let batch = one_column(seed, data_type);
        match round_trip("t.parquet", Format::Parquet, &batch) {
            Ok(back) => {
                assert!(!refused(data_type), "{data_type}");
                assert_eq!(shown(back.column(0)), shown(batch.column(0)), "{data_type}");
                let schema = back.schema();
                let changed = *schema.field(0).data_type() != *data_type;
                let plain = any(data_type, &|t| parquet_type(t).ok().as_ref() != Some(t));
                assert!(!changed || plain, "{data_type} became {}", schema.field(0).data_type());
            }
            Err(e) => {
                assert!(refused(data_type), "{data_type}: {e}");
                assert!(e.message.contains("the column \"c0") && e.message.contains(".arrow"), "{e}");
            }
        }
    }
}

#[test]
fn csv_shows_the_values_of_every_type_or_refuses_it() {
    let folder = tempfile::tempdir().unwrap();
    for (seed, data_type) in all_types().iter().enumerate() {
        let batch = one_column(seed, data_type);
        // A second column, so that a null is no empty line.
        let row: ArrayRef = Arc::new(Int32Array::from_iter_values(0..ROWS as i32));
        let (column, field) = (batch.column(0).clone(), batch.schema().field(0).clone());
        let fields = vec![field, Field::new("row", DataType::Int32, false)];
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![column.clone(), row]).unwrap();
        match text(&folder.path().join("t.csv"), Format::Csv, &batch) {
            Ok(text) => {
                assert!(!data_type.is_nested(), "{data_type}");
                let nulls = column.logical_nulls();
                let expected = shown_as_text(&column).into_iter().enumerate().map(|(row, value)| {
                    let quote = if value.is_empty() { "\"\"" } else { "" };
                    match nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                        true => format!(",{row}\n"),
                        false => format!("{quote}{value},{row}\n"),
                    }
                });
                assert_eq!(text, format!("c0,row\n{}", expected.collect::<String>()), "{data_type}");
            }
            Err(e) => {
                assert!(data_type.is_nested() || any(data_type, &has_runs_of_nothing), "{data_type}: {e}");
                assert!(e.message.contains("\"c0\"") && e.message.contains(".arrow"), "{e}");
            }
        }
    }
}

#[test]
fn json_lines_show_the_values_of_every_type_or_refuse_it() {
    let folder = tempfile::tempdir().unwrap();
    for (seed, data_type) in all_types().iter().enumerate() {
        let batch = one_column(seed, data_type);
        let text = match text(&folder.path().join("t.jsonl"), Format::Jsonl, &batch) {
            Ok(text) => text,
            Err(e) => {
                // The test data has maps with a key twice, and numbers that are none.
                let refused = is_union(data_type) || any(data_type, &has_runs_of_nothing);
                assert!(refused || e.message.contains("twice") || e.message.contains("NaN"), "{data_type}: {e}");
                assert!(e.message.contains("\"c0"), "{e}");
                continue;
            }
        };
        assert!(!is_union(data_type), "{data_type}");
        assert_eq!(text.lines().count(), ROWS, "{data_type}");
        assert!(text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{data_type}: {text}");
        if data_type.is_nested() {
            continue;
        }
        for (line, expected) in text.lines().zip(shown_as_text(batch.column(0))) {
            let value = line.strip_prefix("{\"c0\":").and_then(|line| line.strip_suffix('}')).unwrap();
            match value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) {
                Some(text) => assert_eq!(text, expected, "{data_type}"),
                None if data_type.is_floating() && value != "null" => {
                    assert_eq!(value.parse::<f64>(), expected.parse(), "{data_type}");
                }
                None => assert_eq!(value, expected, "{data_type}"),
            }
        }
    }
}

fn table(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap()
}

fn refusal_of(name: &str, batch: &RecordBatch) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    let mut writer = match create(&path, Format::of(&path).unwrap(), &batch.schema(), None) {
        Ok(writer) => writer,
        Err(e) => return e.message,
    };
    writer.write(batch).expect_err(name).message
}

#[test]
fn parquet_seconds_become_milliseconds_with_their_zone() {
    let zone: Arc<str> = "Europe/Paris".into();
    let batch = table(vec![
        ("t", Arc::new(TimestampSecondArray::from(vec![Some(-3), None]).with_timezone(zone.clone()))),
        ("u", Arc::new(Time32SecondArray::from(vec![Some(86_399), None]))),
        ("d", Arc::new(Date64Array::from(vec![Some(-86_400_000), None]))),
    ]);
    let back = round_trip_of(&batch);
    let schema = back.schema();
    let types: Vec<_> = schema.fields().iter().map(|f| f.data_type().clone()).collect();
    let millis = TimeUnit::Millisecond;
    assert_eq!(types, [DataType::Timestamp(millis, Some(zone)), DataType::Time32(millis), DataType::Date32]);
    assert_eq!(back.column(0).as_primitive::<TimestampMillisecondType>().value(0), -3000);
    assert_eq!(back.column(1).as_primitive::<Time32MillisecondType>().value(0), 86_399_000);
    assert_eq!(back.column(2).as_primitive::<Date32Type>().value(0), -1);
}

fn round_trip_of(batch: &RecordBatch) -> RecordBatch {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let mut writer = create(&path, Format::Parquet, &batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.finish().unwrap();
    read(&path, Format::Parquet).unwrap()
}

#[test]
fn values_that_a_format_does_not_have_are_refused_by_name() {
    let zone: Arc<str> = "Europe/Paris".into();
    let seconds = |value| Arc::new(TimestampSecondArray::from(vec![Some(value)])) as ArrayRef;
    for (name, column, why) in [
        ("t.parquet", Arc::new(Date64Array::from(vec![1])) as ArrayRef, "time of day"),
        ("t.parquet", seconds(i64::MAX / 10), "does not fit"),
        (
            "t.parquet",
            Arc::new(Decimal128Array::from(vec![100_000]).with_data_type(DataType::Decimal128(3, 0))),
            "valid",
        ),
        ("t.jsonl", Arc::new(Float64Array::from(vec![f64::NAN])), "NaN"),
        ("t.jsonl", Arc::new(Float32Array::from(vec![f32::NEG_INFINITY])), "inf"),
        ("t.jsonl", seconds(i64::MAX / 10), "no text"),
        ("t.csv", seconds(i64::MAX / 10), "no text"),
        // The next day in its zone, which no year has.
        ("t.csv", Arc::new(TimestampSecondArray::from(vec![8_210_266_876_799]).with_timezone("+02:00")), "time zone"),
        ("t.csv", Arc::new(Date32Array::from(vec![i32::MIN])), "no text"),
        ("t.jsonl", Arc::new(DurationSecondArray::from(vec![i64::MAX])), "no text"),
        ("t.jsonl", Arc::new(TimestampSecondArray::from(vec![0]).with_timezone("Mars/Base")), "zone"),
        ("t.csv", Arc::new(StringArray::from(vec![None, Some("a")])), "--null"),
    ] {
        let error = refusal_of(name, &table(vec![("bad", column)]));
        assert!(error.contains("\"bad\"") && error.contains(why), "{name} {why}: {error}");
        assert!(error.contains(name), "{error}");
    }
    // The instant is kept where its offset of nine minutes and 21 seconds has no text.
    let old = table(vec![("t", Arc::new(TimestampSecondArray::from(vec![-3_786_825_600]).with_timezone(zone)))]);
    let folder = tempfile::tempdir().unwrap();
    let mut writer = create(&folder.path().join("t.jsonl"), Format::Jsonl, &old.schema(), None).unwrap();
    writer.write(&old).unwrap();
    writer.finish().unwrap();
    let text = std::fs::read_to_string(folder.path().join("t.jsonl")).unwrap();
    assert_eq!(text, "{\"t\":\"1850-01-01T00:00:00Z\"}\n");
}

#[test]
fn json_objects_with_a_name_twice_are_refused() {
    let one =
        |name: &str| (Arc::new(Field::new(name, DataType::Int8, true)), Arc::new(Int8Array::from(vec![1])) as ArrayRef);
    let twice: ArrayRef = Arc::new(StructArray::from(vec![one("x"), one("x")]));
    assert!(refusal_of("t.jsonl", &table(vec![("s", twice)])).contains("\"x\""));
    let fields = vec![one("x").0, one("x").0];
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![one("x").1, one("x").1]).unwrap();
    assert!(refusal_of("t.jsonl", &batch).contains("twice"));
    assert_eq!(round_trip_of(&batch), batch, "Parquet tells them apart");
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    for value in [1, 2] {
        map.keys().append_value("k");
        map.values().append_value(value);
    }
    map.append(true).unwrap();
    assert!(refusal_of("t.jsonl", &table(vec![("m", Arc::new(map.finish()))])).contains("\"k\" twice"));
    let mut map = MapBuilder::new(None, Int32Builder::new(), Int32Builder::new());
    map.append(true).unwrap();
    assert!(refusal_of("t.jsonl", &table(vec![("m", Arc::new(map.finish()))])).contains("keys are not text"));
}

#[test]
fn csv_tells_nulls_from_empty_texts() {
    let folder = tempfile::tempdir().unwrap();
    let texts = StringArray::from(vec![Some(""), None, Some("NA"), Some(" a"), Some("x,\"y\"\r\n"), Some("\u{e9}")]);
    let batch = table(vec![
        ("a,b", Arc::new(texts)),
        ("n", Arc::new(Int8Array::from(vec![None, Some(1), None, None, None, None]))),
    ]);
    let of = |null: Option<&str>| {
        let path = folder.path().join("t.csv");
        let mut writer = create(&path, Format::Csv, &batch.schema(), null).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        std::fs::read_to_string(&path).unwrap()
    };
    assert_eq!(of(None), "\"a,b\",n\n\"\",\n,1\nNA,\n\" a\",\n\"x,\"\"y\"\"\r\n\",\n\u{e9},\n");
    assert_eq!(of(Some("NA")), "\"a,b\",n\n\"\",NA\nNA,1\n\"NA\",NA\n\" a\",NA\n\"x,\"\"y\"\"\r\n\",NA\n\u{e9},NA\n");
    let error = create(&folder.path().join("t.csv"), Format::Csv, &batch.schema(), Some("a,")).err().unwrap();
    assert!(error.message.contains("cannot stand for null"), "{error}");
    let error = create(&folder.path().join("t.parquet"), Format::Parquet, &batch.schema(), Some("NA")).err().unwrap();
    assert!(error.message.contains("--null"), "{error}");
}

#[test]
fn dictionary_with_a_null_value_is_null_in_text() {
    let values: ArrayRef = Arc::new(StringArray::from(vec![None, Some("w")]));
    let words = DictionaryArray::<Int8Type>::new(Int8Array::from(vec![Some(0), Some(1), None]), values);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.jsonl");
    let batch = table(vec![("d", Arc::new(words))]);
    let mut writer = create(&path, Format::Jsonl, &batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, "{\"d\":null}\n{\"d\":\"w\"}\n{\"d\":null}\n");
}

#[test]
fn columns_of_a_table_keep_their_metadata() {
    let field = Field::new("t", DataType::Timestamp(TimeUnit::Second, None), true);
    let field = field.with_metadata(HashMap::from([("note".to_string(), "kept".to_string())]));
    let schema = Arc::new(Schema::new(vec![field]));
    let column: ArrayRef = Arc::new(TimestampSecondArray::from(vec![1]));
    let back = round_trip_of(&RecordBatch::try_new(schema, vec![column]).unwrap());
    assert_eq!(back.schema().field(0).metadata()["note"], "kept");
}

#[test]
fn large_dictionary_values_are_written_in_slices() {
    let value = "x".repeat(8 << 10);
    let rows = 20_000;
    let words =
        DictionaryArray::<Int32Type>::new(vec![0; rows].into(), Arc::new(StringArray::from(vec![value.as_str()])));
    let (ends, text) = (Int32Array::from(vec![rows as i32]), LargeStringArray::from(vec![value.as_str()]));
    let runs = RunArray::<Int32Type>::try_new(&ends, &text).unwrap();
    let columns = [("d", Arc::new(words) as ArrayRef), ("r", Arc::new(runs))];
    for batch in columns.map(|column| RecordBatch::try_from_iter([column]).unwrap()) {
        for format in [Format::Csv, Format::Jsonl, Format::Parquet] {
            let columns = ExactColumns::new(format, &batch.schema()).unwrap();
            let slices = columns.slices(&batch);
            assert_eq!(slices.iter().map(RecordBatch::num_rows).sum::<usize>(), rows, "{format:?}");
            for slice in &slices {
                let converted = columns.convert(slice).unwrap();
                assert!(converted.num_rows() <= (MAX_DECODED_BYTES as usize) / value.len(), "{format:?}");
            }
        }
        assert_eq!(ExactColumns::new(Format::Arrow, &batch.schema()).unwrap().slices(&batch).len(), 1);
    }
}

#[test]
fn union_is_refused_with_the_one_format_that_holds_it() {
    let fields = UnionFields::from_fields(vec![Field::new("i", DataType::Int8, true)]);
    let union = DataType::Union(fields, UnionMode::Sparse);
    let list = DataType::new_list(union.clone(), true);
    for data_type in [union, list] {
        let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("bad", data_type, true)]));
        for format in [Format::Csv, Format::Tsv, Format::Jsonl, Format::Parquet] {
            let Err(error) = ExactColumns::new(format, &schema) else { panic!("{format:?} holds a union") };
            let error = error.to_string();
            assert!(error.contains("union") && error.ends_with(": use .arrow"), "{format:?}: {error}");
        }
    }
}
