//! Text files to batches: what is stored is what the file says.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::*;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int8Type, Int64Type, Schema, SchemaRef, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tempfile::TempDir;

use super::*;

fn file(folder: &TempDir, name: &str, text: &str) -> InputFile {
    let path: PathBuf = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    InputFile::new(&path, None).unwrap()
}

fn inferred(input: &InputFile, options: &TextOptions) -> Result<SchemaRef> {
    let stats = infer(input, options)?;
    let fields: Vec<Field> = stats.columns().map(|(name, column)| Field::new(name, column.data_type(), true)).collect();
    Ok(Arc::new(Schema::new(fields)))
}

fn read_as(input: &InputFile, schema: &SchemaRef, options: &TextOptions) -> Result<RecordBatch> {
    let batches: Vec<RecordBatch> = crate::open(input, schema.clone(), options, ReadProgress::default())?
        .collect::<Result<_, _>>()
        .map_err(|e| file_error(&input.path, e))?;
    concat_batches(schema, &batches).map_err(|e| file_error(&input.path, e))
}

fn read(name: &str, text: &str, options: &TextOptions) -> Result<RecordBatch> {
    let folder = TempDir::new().unwrap();
    let input = file(&folder, name, text);
    read_as(&input, &inferred(&input, options)?, options)
}

fn read_text(name: &str, text: &str) -> RecordBatch {
    read(name, text, &TextOptions::default()).unwrap()
}

/// A column as its type and the texts of its values.
fn column(batch: &RecordBatch, name: &str) -> (DataType, Vec<String>) {
    let column = batch.column_by_name(name).unwrap();
    let format = FormatOptions::default().with_null("NULL");
    let texts = ArrayFormatter::try_new(column, &format).unwrap();
    (column.data_type().clone(), (0..column.len()).map(|row| texts.value(row).to_string()).collect())
}

fn error(name: &str, text: &str) -> String {
    read(name, text, &TextOptions::default()).unwrap_err().message
}

/// An error of reading with given types.
fn error_as(name: &str, text: &str, fields: Vec<Field>) -> String {
    let folder = TempDir::new().unwrap();
    let schema = Arc::new(Schema::new(fields));
    read_as(&file(&folder, name, text), &schema, &TextOptions::default()).unwrap_err().message
}

/// Writes a column as `volley get` does, with one beside it so that a null is no empty line, and reads it as `volley put` does.
fn assert_read_back(name: &str, values: ArrayRef) {
    let rows: ArrayRef = Arc::new(Int64Array::from_iter_values(0..values.len() as i64));
    let batch = RecordBatch::try_from_iter_with_nullable([("a", values, true), ("row", rows, true)]).unwrap();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join(name);
    let mut writer = crate::testing::create(&path, Format::of(&path).unwrap(), &batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    let input = InputFile::new(&path, None).unwrap();
    assert_eq!(read_as(&input, &batch.schema(), &TextOptions::default()).unwrap(), batch, "{name}");
}

#[test]
fn value_after_many_rows_of_another_kind_is_kept() {
    let rows = |line: &str, last: &str| format!("{}{last}\n", format!("{line}\n").repeat(10_000));
    let batch = read_text("t.jsonl", &rows("{\"v\":20}", "{\"v\":20.75}"));
    assert_eq!(batch.column(0).data_type(), &DataType::Float64);
    assert_eq!(column(&batch, "v").1[10_000], "20.75");
    let batch = read_text("t.jsonl", &rows("{\"a\":7}", "{\"a\":\"007\"}"));
    assert_eq!(batch.column(0).data_type(), &DataType::Utf8);
    assert_eq!(column(&batch, "a").1[9_999..], ["7", "007"]);
    let batch = read_text("t.csv", &format!("a\n{}", rows("7", "007")));
    assert_eq!(column(&batch, "a").1[9_999..], ["7", "007"]);
}

#[test]
fn csv_cells_are_given_back_as_they_are() {
    let text = "zip,time,day,big,exact,mixed\n\
        00501,2024-05-01T12:00:00+02:00,2024-05-01,18446744073709551615,0.1234567890123456789,9007199254740993\n\
        10115,2024-05-01T12:00:00.5+02:00,0000-00-00,1,2,0.5\n";
    let batch = read_text("t.csv", text);
    let utf8 = |texts: [&str; 2]| (DataType::Utf8, texts.map(str::to_string).to_vec());
    assert_eq!(column(&batch, "zip"), utf8(["00501", "10115"]));
    assert_eq!(column(&batch, "day"), utf8(["2024-05-01", "0000-00-00"]));
    let (kind, texts) = column(&batch, "time");
    assert_eq!(kind, DataType::Timestamp(TimeUnit::Millisecond, Some("+02:00".into())));
    assert_eq!(texts, ["2024-05-01T12:00:00+02:00", "2024-05-01T12:00:00.500+02:00"]);
    assert_eq!(column(&batch, "big").1, ["18446744073709551615", "1"]);
    assert_eq!(column(&batch, "exact").1, ["0.1234567890123456789", "2.0000000000000000000"]);
    assert_eq!(column(&batch, "mixed").1, ["9007199254740993.0", "0.5"].map(|text| text.to_string()));
}

#[test]
fn csv_empty_text_and_null_are_told_apart() {
    let text = "a,b\n\"\",NA\n,x\n";
    let batch = read_text("t.csv", text);
    assert_eq!(column(&batch, "a").1, ["", "NULL"]);
    let nulls = |nulls: &[&str]| {
        let nulls = nulls.iter().map(ToString::to_string).collect();
        let batch = read("t.csv", text, &TextOptions { nulls, ..TextOptions::default() }).unwrap();
        (column(&batch, "a").1, column(&batch, "b").1)
    };
    assert_eq!(nulls(&["NA"]), (vec!["".into(), "".into()], vec!["NULL".into(), "x".into()]));
    assert_eq!(nulls(&["", "\"\""]).0, ["NULL", "NULL"]);
}

#[test]
fn csv_with_given_types_is_read_by_name() {
    let folder = TempDir::new().unwrap();
    let input = file(&folder, "t.csv", "b,a\n,2\n");
    let schema =
        Arc::new(Schema::new(vec![Field::new("a", DataType::Int32, true), Field::new("b", DataType::Int64, true)]));
    let batch = read_as(&input, &schema, &TextOptions::default()).unwrap();
    assert!(batch.column(1).is_null(0));
    assert_eq!(column(&batch, "a").1, ["2"]);
}

#[test]
fn value_that_does_not_fit_names_line_and_column() {
    let field = |name: &str, kind| Field::new(name, kind, true);
    for (name, text, kind, expected) in [
        (
            "t.csv",
            "a\n1\n\"2\"\n\"x\ny\"\n",
            DataType::Int64,
            "t.csv: line 4: column \"a\": \"x\\ny\" does not fit the type Int64",
        ),
        ("t.csv", "a\n1.5\n", DataType::Int8, "line 2: column \"a\": \"1.5\""),
        ("t.csv", "a\n300\n", DataType::UInt8, "\"300\""),
        ("t.csv", "a\n16777217\n", DataType::Float32, "\"16777217\""),
        ("t.csv", "a\n1.25\n", DataType::Decimal128(5, 1), "\"1.25\""),
        ("t.csv", "a\n2024-01-01T10:00:00Z\n", DataType::Timestamp(TimeUnit::Second, None), "10:00:00Z"),
        ("t.csv", "a\n2024-01-01T10:00:00\n", DataType::Timestamp(TimeUnit::Second, Some("UTC".into())), "10:00:00"),
        ("t.csv", "a\nabc\n", DataType::Binary, "\"abc\" is not hexadecimal"),
        ("t.jsonl", "{\"a\":1}\n{\"a\":20.75}\n", DataType::Int64, "t.jsonl: line 2, byte 6: column \"a\": \"20.75\""),
        ("t.jsonl", "{\"a\":[1]}\n", DataType::Int64, "line 1, byte 6: column \"a\": [1] where"),
        ("t.jsonl", "{\"b\":1}\n", DataType::Int64, "the key \"b\" is not one of the columns"),
    ] {
        let error = error_as(name, text, vec![field("a", kind)]);
        assert!(error.contains(expected), "{error}");
    }
    let error = error_as("t.csv", "a\n\"1\"\n\n", vec![Field::new("a", DataType::Int64, false)]);
    assert!(error.contains("line 3: column \"a\": null"), "{error}");
}

#[test]
fn value_of_the_wrong_length_names_line_and_column() {
    let item = Arc::new(Field::new("item", DataType::Int64, true));
    for (name, text, data_type, expected) in [
        (
            "t.csv",
            "a\n00ff00ff\n00ff\n",
            DataType::FixedSizeBinary(4),
            "t.csv: line 3: column \"a\": \"00ff\" has 2 bytes",
        ),
        (
            "t.jsonl",
            "{\"a\":\"00\"}\n",
            DataType::FixedSizeBinary(4),
            "line 1, byte 6: column \"a\": \"00\" has 1 byte ",
        ),
        (
            "t.jsonl",
            "{\"a\":[1,2]}\n{\"a\":[1]}\n",
            DataType::FixedSizeList(item, 2),
            "line 2, byte 6: column \"a\": [1] has the length 1",
        ),
    ] {
        let error = error_as(name, text, vec![Field::new("a", data_type, true)]);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn too_many_values_for_a_dictionary_name_lines_and_column() {
    let data_type = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
    let rows = |row: &dyn Fn(i32) -> String| (0..200).map(row).collect::<String>();
    for (name, text, lines) in [
        ("t.csv", format!("a\n{}", rows(&|at| format!("{at}\n"))), "lines 2 to 201"),
        ("t.jsonl", rows(&|at| format!("{{\"a\":\"{at}\"}}\n")), "lines 1 to 200"),
    ] {
        let error = error_as(name, &text, vec![Field::new("a", data_type.clone(), true)]);
        assert!(error.contains(&format!("{lines}: column \"a\": more different values")), "{error}");
    }
}

#[test]
fn dictionary_of_any_values_is_read_back() {
    let lists = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None]), Some(vec![])]);
    let field = Arc::new(Field::new("x", DataType::Int64, true));
    let structs = StructArray::from(vec![(field, Arc::new(Int64Array::from(vec![Some(1), None])) as ArrayRef)]);
    let (durations, booleans) = (DurationSecondArray::from(vec![1, 90]), BooleanArray::from(vec![true, false]));
    for (values, names) in [
        (Arc::new(lists) as ArrayRef, &["t.jsonl"][..]),
        (Arc::new(structs), &["t.jsonl"]),
        (Arc::new(durations), &["t.jsonl", "t.csv"]),
        (Arc::new(booleans), &["t.jsonl", "t.csv"]),
    ] {
        // More rows than keys.
        let keys = Int8Array::from_iter((0..200).map(|row| Some((row % 3) as i8).filter(|key| *key < 2)));
        let words: ArrayRef = Arc::new(DictionaryArray::<Int8Type>::new(keys, values));
        names.iter().for_each(|name| assert_read_back(name, words.clone()));
    }
    let item = Arc::new(Field::new_list_field(DataType::Int64, true));
    let lists = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::List(item)));
    let text: String = (0..200).map(|at| format!("{{\"a\":[{at}]}}\n")).collect();
    let error = error_as("t.jsonl", &text, vec![Field::new("a", lists, true)]);
    assert!(error.contains("lines 1 to 200: column \"a\": more different values"), "{error}");
}

#[test]
fn struct_without_fields_is_read_back() {
    let nulls = arrow::buffer::NullBuffer::from(vec![true, false, true]);
    for nulls in [None, Some(nulls)] {
        assert_read_back("t.jsonl", Arc::new(StructArray::new_empty_fields(3, nulls)));
    }
}

#[test]
fn first_and_last_times_are_read_back() {
    let (first, last) = (-8_334_601_228_800, 8_210_266_876_799);
    let days = Date32Array::from(vec![Some(-96_465_292), Some(-719_529), Some(2_932_897), Some(95_026_236), None]);
    let millis = Date64Array::from(vec![Some(first * 1_000), Some(last * 1_000), None]);
    let seconds =
        TimestampSecondArray::from(vec![Some(first), Some(-62_167_219_201), Some(253_402_300_800), Some(last)]);
    let nanos = TimestampNanosecondArray::from(vec![Some(i64::MIN), Some(i64::MAX), None]);
    for name in ["t.csv", "t.jsonl"] {
        assert_read_back(name, Arc::new(days.clone()));
        assert_read_back(name, Arc::new(millis.clone()));
        for zone in [None, Some("UTC")] {
            assert_read_back(name, Arc::new(seconds.clone().with_timezone_opt(zone)));
            assert_read_back(name, Arc::new(nanos.clone().with_timezone_opt(zone)));
        }
    }
    let batch = read_text("t.csv", "day,number\n+10000-01-01,+1\n-0044-03-15,+2\n");
    assert_eq!((column(&batch, "day").0, column(&batch, "number").0), (DataType::Date32, DataType::Utf8));
}

#[test]
fn json_mixtures_are_text_or_lists() {
    let batch = read_text(
        "t.jsonl",
        "{\"code\":7,\"l\":\"x\",\"o\":{\"k\": 1}}\n{\"code\":\"B7\",\"l\":[\"y\",null],\"o\":2}\n",
    );
    assert_eq!(column(&batch, "code").1, ["7", "B7"]);
    assert_eq!(column(&batch, "o").1, ["{\"k\": 1}", "2"]);
    let lists = batch.column_by_name("l").unwrap().as_list::<i32>();
    assert_eq!((lists.value(0).len(), lists.value(1).len()), (1, 2));
    assert_eq!(lists.values().as_string::<i32>().value(1), "y");
}

#[test]
fn json_with_byte_order_mark_or_as_an_array_is_read() {
    let batch = read_text("t.jsonl", "\u{feff}{\"z\":1,\"a\":2}\n{\"m\":3,\"z\":4}\n");
    let names: Vec<_> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["z", "a", "m"]);
    assert_eq!(column(&batch, "a").1, ["2", "NULL"]);
    let objects: Vec<String> = (0..20_000).map(|n| format!("{{\"n\":{n}}}")).collect();
    let batch = read_text("t.json", &format!("[\n{}\n]\n", objects.join(",\n")));
    assert_eq!(batch.num_rows(), 20_000);
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().values().iter().sum::<i64>(), 199_990_000);
}

#[test]
fn invalid_text_is_a_short_error_with_its_line() {
    let long = "x".repeat(1 << 20);
    for (name, text, expected) in [
        ("t.jsonl", format!("{{\"a\":1}}\n{{\"a\":{long}}}\n"), "t.jsonl: line 2, byte 6"),
        ("t.jsonl", format!("{{\"a\":1}}\n{long}\n"), "line 2, byte 1"),
        ("t.jsonl", "{\"a\":1,\"a\":2}".into(), "line 1, byte 12: the object has the key \"a\" twice"),
        ("t.jsonl", format!("{{\"a\":{}1{}}}", "[".repeat(1 << 19), "]".repeat(1 << 19)), "nested more than"),
        ("t.jsonl", "{\"a\":\"\\ud800\"}".into(), "line 1, byte 6: column \"a\""),
        ("t.csv", format!("a,b\n1,2\n{long}\n"), "t.csv: line 3: 1 cell instead of 2"),
        ("t.csv", format!("a\n\"{long}\n"), "line 2: a quote is not closed"),
    ] {
        let error = error(name, &text);
        assert!(error.contains(expected) && error.len() < 500, "{error:.500}");
    }
}

#[test]
fn later_value_that_a_sample_missed_fails() {
    let options = TextOptions { infer_rows: Some(1), ..TextOptions::default() };
    let error = read("t.jsonl", "{\"v\":20}\n{\"v\":20.75}\n", &options).unwrap_err();
    assert!(error.message.contains("line 2") && error.message.contains("20.75"), "{error}");
    let error = read("t.csv", "v\n20\n00501\n", &options).unwrap_err();
    assert!(error.message.contains("line 3") && error.message.contains("00501"), "{error}");
}

#[test]
fn empty_json_lines_with_known_types_have_no_rows() {
    let folder = TempDir::new().unwrap();
    let input = file(&folder, "t.jsonl", "");
    let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
    check(&input, &schema, &TextOptions::default()).unwrap();
    assert_eq!(read_as(&input, &schema, &TextOptions::default()).unwrap().num_rows(), 0);
    assert!(infer(&input, &TextOptions::default()).is_err(), "without types there are no columns");
}

#[test]
fn deeply_nested_json_is_read_as_text() {
    let nested = format!("{}1{}", "[".repeat(1 << 19), "]".repeat(1 << 19));
    let options = TextOptions { typed: vec!["a".into()], ..TextOptions::default() };
    let batch = read("t.jsonl", &format!("{{\"a\":{nested}}}"), &options).unwrap();
    assert_eq!(batch.column(0).as_string::<i32>().value(0), nested);
}

#[test]
fn batches_end_by_bytes() {
    let folder = TempDir::new().unwrap();
    let text = format!("a\n{}", format!("{}\n", "x".repeat(1 << 20)).repeat(40));
    let input = file(&folder, "t.csv", &text);
    let schema = inferred(&input, &TextOptions::default()).unwrap();
    let batches = crate::open(&input, schema, &TextOptions::default(), ReadProgress::default()).unwrap();
    let rows: Vec<usize> = batches.map(|batch| batch.unwrap().num_rows()).collect();
    assert_eq!(rows, [16, 16, 8]);
}

fn skipping() -> (TextOptions, BadRows) {
    let bad_rows = BadRows::default();
    (TextOptions { bad_rows: Some(bad_rows.clone()), ..TextOptions::default() }, bad_rows)
}

#[test]
fn skipped_rows_leave_no_trace_in_types_or_values() {
    let (options, bad_rows) = skipping();
    let batch = read("t.csv", "a,b\n1,2\n3\nx,y,z\n\"q\"r,1\n5,6\n", &options).unwrap();
    assert_eq!(column(&batch, "a"), (DataType::Int64, vec!["1".into(), "5".into()]));
    let report = bad_rows.report();
    assert_eq!(report.skipped, 3);
    assert!(report.first[0].error.contains("t.csv: line 3: 1 cell instead of 2"), "{:?}", report.first);
    assert!(report.first[2].error.contains("line 5: text after a closing quote"), "{:?}", report.first);

    let (options, bad_rows) = skipping();
    let text = "{\"a\":1}\n{\"a\":\n{\"z\":1,\"z\":2}\nnone\n{\"a\":2}\n";
    let batch = read("t.jsonl", text, &options).unwrap();
    assert_eq!((batch.num_columns(), column(&batch, "a").1), (1, vec!["1".into(), "2".into()]));
    let lines: Vec<String> = bad_rows.report().first.into_iter().map(|bad| bad.error).collect();
    for (error, line) in lines.iter().zip(["line 2, byte 5", "line 3, byte 6", "line 4, byte 1"]) {
        assert!(error.contains(line), "{error}");
    }
    assert_eq!(lines.len(), 3);
}

#[test]
fn rows_that_do_not_fit_given_types_are_skipped_whole() {
    let folder = TempDir::new().unwrap();
    let (options, bad_rows) = skipping();
    let fields = |kind: DataType| vec![Field::new("t", DataType::Utf8, true), Field::new("a", kind, true)];
    let schema = Arc::new(Schema::new(fields(DataType::Int8)));
    let input = file(&folder, "t.csv", &format!("t,a\nx,1\n{}y,2\n", "z,300\n".repeat(7)));
    let batch = read_as(&input, &schema, &options).unwrap();
    assert_eq!(
        (column(&batch, "t").1, column(&batch, "a").1),
        (vec!["x".into(), "y".into()], vec!["1".into(), "2".into()])
    );
    let report = bad_rows.report();
    assert_eq!((report.skipped, report.first.len()), (7, 5));
    assert!(report.first[4].error.contains("line 7: column \"a\": \"300\" does not fit"), "{:?}", report.first);

    let item = Arc::new(Field::new_list_field(DataType::Int64, true));
    let schema = Arc::new(Schema::new(fields(DataType::List(item))));
    let text = "{\"t\":\"x\",\"a\":[1,2]}\n{\"t\":\"z\",\"a\":[3,\"q\"]}\n{\"b\":1}\n{\"t\":\"y\",\"a\":[4]}\n";
    let batch = read_as(&file(&folder, "t.jsonl", text), &schema, &options).unwrap();
    let lists = batch.column(1).as_list::<i32>();
    assert_eq!((lists.value(0).len(), lists.value(1).len(), lists.values().len()), (2, 1, 3));
    assert_eq!((column(&batch, "t").1, bad_rows.report().skipped), (vec!["x".into(), "y".into()], 9));
}

#[test]
fn quote_that_is_not_closed_is_never_skipped() {
    let (options, _) = skipping();
    let error = read("t.csv", "a\n1\n\"2\n3\n", &options).unwrap_err();
    assert!(error.message.contains("line 3: a quote is not closed"), "{error}");
    let error = read("t.json", "[{\"a\":1}]", &options).unwrap_err();
    assert!(error.message.contains("this is an array"), "{error}");
    let error = read("t.jsonl", "{\n\"a\":1\n}\n", &options).unwrap_err();
    assert!(error.message.contains("line 1"), "{error}");
}
