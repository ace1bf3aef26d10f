//! Round trips through every format, as far as the format supports the types.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::*;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef, TimeUnit, i256};
use tempfile::TempDir;

use super::text::TextOptions;
use super::*;

struct TestFolder(TempDir);

impl TestFolder {
    fn new() -> Self {
        TestFolder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn with(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    fn names(&self) -> Vec<String> {
        std::fs::read_dir(self.0.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn write(path: &Path, batches: &[RecordBatch]) -> Result<()> {
    let mut writer = create(path, Format::of(path)?, &batches[0].schema(), &OutputOptions::default())?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.finish().map(|_| ())
}

fn read(path: &Path) -> Result<RecordBatch> {
    read_as(path, schema_of(path)?)
}

/// The schema of a file, inferred if it is text.
fn schema_of(path: &Path) -> Result<SchemaRef> {
    let input = InputFile::new(path, None)?;
    if !input.format.is_text() {
        return schema(&input);
    }
    let stats = text::infer(&input, &TextOptions::default())?;
    Ok(Arc::new(Schema::new(
        stats.columns().map(|(name, column)| Field::new(name, column.data_type(), true)).collect::<Vec<_>>(),
    )))
}

fn read_as(path: &Path, schema: SchemaRef) -> Result<RecordBatch> {
    let progress = ReadProgress::default();
    let batches: Vec<_> = open(&InputFile::new(path, None)?, schema.clone(), &TextOptions::default(), progress)?
        .collect::<Result<_, _>>()
        .map_err(|e| file_error(path, e))?;
    concat_batches(&schema, &batches).map_err(|e| file_error(path, e))
}

/// Columns that every format supports, with a null in each.
fn simple() -> RecordBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("n", Arc::new(Int64Array::from(vec![Some(1), None, Some(-3)]))),
        ("x", Arc::new(Float64Array::from(vec![Some(0.5), Some(-1.25), None]))),
        ("b", Arc::new(BooleanArray::from(vec![None, Some(true), Some(false)]))),
        ("w", Arc::new(StringArray::from(vec![Some("a,\"b\""), None, Some("grüß\ngott")]))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap()
}

/// Types that only the binary formats keep.
fn rich() -> RecordBatch {
    let decimals = Decimal128Array::from(vec![Some(12345), None]).with_precision_and_scale(12, 2).unwrap();
    let times = TimestampMicrosecondArray::from(vec![None, Some(7)]).with_timezone("Europe/Berlin");
    let words: DictionaryArray<Int32Type> = vec![Some("x"), Some("y")].into_iter().collect();
    let lists = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1), None]), None]);
    let inner = Arc::new(Field::new("i", DataType::Int8, true));
    let structs = StructArray::from(vec![(inner, Arc::new(Int8Array::from(vec![Some(1), None])) as ArrayRef)]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("day", Arc::new(Date32Array::from(vec![Some(9000), None]))),
        ("money", Arc::new(decimals)),
        ("time", Arc::new(times)),
        ("words", Arc::new(words)),
        ("lists", Arc::new(lists)),
        ("structs", Arc::new(structs)),
        ("bytes", Arc::new(BinaryArray::from(vec![Some(&b"\xff"[..]), None]))),
        ("view", Arc::new(StringViewArray::from(vec![Some("longer than twelve bytes"), None]))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap()
}

#[test]
fn every_format_keeps_simple_columns_and_nulls() {
    let folder = TestFolder::new();
    for name in ["t.parquet", "t.csv", "t.tsv", "t.arrow", "t.feather", "t.arrows", "t.jsonl", "t.ndjson"] {
        let path = folder.path(name);
        write(&path, &[simple(), simple()]).unwrap();
        let back = read(&path).unwrap();
        let expected = concat_batches(&simple().schema(), &[simple(), simple()]).unwrap();
        assert_eq!(back.columns(), expected.columns(), "{name}");
        let names = |batch: &RecordBatch| batch.schema().fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>();
        assert_eq!(names(&back), names(&expected), "{name}");
    }
    assert_eq!(folder.names().len(), 8, "no temporary file is left: {:?}", folder.names());
}

#[test]
fn binary_formats_keep_every_type_and_metadata() {
    let folder = TestFolder::new();
    let schema = rich().schema();
    let metadata = [("k".to_string(), "v".to_string())].into();
    let rich = rich().with_schema(Arc::new(Schema::new_with_metadata(schema.fields().clone(), metadata))).unwrap();
    for name in ["t.parquet", "t.arrow", "t.arrows"] {
        let path = folder.path(name);
        write(&path, std::slice::from_ref(&rich)).unwrap();
        let back = read(&path).unwrap();
        assert_eq!(back.columns(), rich.columns(), "{name}");
        assert_eq!(back.schema().fields(), rich.schema().fields(), "{name}");
        assert_eq!(back.schema().metadata().get("k").map(String::as_str), Some("v"), "{name}");
    }
}

#[test]
fn csv_keeps_dates_and_numbers() {
    let folder = TestFolder::new();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("day", Arc::new(Date32Array::from(vec![Some(9000), None]))),
        ("money", Arc::new(Decimal128Array::from(vec![Some(12345), None]).with_precision_and_scale(12, 2).unwrap())),
        ("time", Arc::new(TimestampSecondArray::from(vec![Some(86_400), None]))),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap();
    let path = folder.path("t.csv");
    write(&path, std::slice::from_ref(&batch)).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "day,money,time\n1994-08-23,123.45,1970-01-02T00:00:00\n,,\n");
    // With the original schema the values are equal; inference recognises a date.
    assert_eq!(read_as(&path, batch.schema()).unwrap(), batch);
    let inferred = read(&path).unwrap().schema();
    assert_eq!(inferred.field(0).data_type(), &DataType::Date32);
    assert_eq!(inferred.field(2).data_type(), &DataType::Timestamp(TimeUnit::Second, None));
}

#[test]
fn json_keeps_nested_values() {
    let folder = TestFolder::new();
    let rich = rich().project(&[4, 5]).unwrap();
    let path = folder.path("t.jsonl");
    write(&path, std::slice::from_ref(&rich)).unwrap();
    assert_eq!(read_as(&path, rich.schema()).unwrap(), rich);
    assert!(matches!(read(&path).unwrap().schema().field_with_name("lists").unwrap().data_type(), DataType::List(_)));
}

#[test]
fn table_without_rows_keeps_its_columns() {
    let folder = TestFolder::new();
    let empty = RecordBatch::new_empty(simple().schema());
    for name in ["t.parquet", "t.csv", "t.arrow", "t.arrows"] {
        let path = folder.path(name);
        write(&path, std::slice::from_ref(&empty)).unwrap();
        let back = read(&path).unwrap();
        assert_eq!(back.num_rows(), 0);
        let names: Vec<_> = back.schema().fields().iter().map(|f| f.name().clone()).collect();
        assert_eq!(names, ["n", "x", "b", "w"], "{name}");
    }
}

#[test]
fn arrow_stream_with_a_file_extension_is_read_as_a_stream() {
    let folder = TestFolder::new();
    write(&folder.path("t.arrows"), &[simple()]).unwrap();
    std::fs::rename(folder.path("t.arrows"), folder.path("t.arrow")).unwrap();
    assert_eq!(read(&folder.path("t.arrow")).unwrap(), simple());
}

#[test]
fn output_is_not_named_as_another_format() {
    let of = |name: &str, format| output_format(Path::new(name), format).map_err(|e| e.message);
    for (name, format) in [("a.parquet", Format::Csv), ("a.csv.gz", Format::Jsonl), ("s3://b/a.csv", Format::Tsv)] {
        let error = of(name, Some(format)).unwrap_err();
        assert!(error.starts_with(&format!("{name}: ")) && error.contains("leave out --format"), "{error}");
    }
    for (name, format) in [
        ("a.txt", Format::Csv),
        ("-", Format::Parquet),
        ("a.json", Format::Jsonl),
        ("a.arrow", Format::Arrows),
        ("a.arrows", Format::Arrow),
    ] {
        assert_eq!(of(name, Some(format)), Ok(format), "{name}");
    }
    assert_eq!(of("a.tsv.zst", None), Ok(Format::Tsv));
    assert!(of("a.txt", None).unwrap_err().contains("known extensions"));
}

#[test]
fn file_appears_only_when_it_is_complete() {
    let folder = TestFolder::new();
    let path = folder.with("t.parquet", "the old one");
    let mut writer = create(&path, Format::Parquet, &simple().schema(), &OutputOptions::default()).unwrap();
    writer.write(&simple()).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "the old one");
    drop(writer);
    assert_eq!(folder.names(), ["t.parquet"]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "the old one");
}

#[test]
fn every_format_is_written_and_read_compressed() {
    let folder = TestFolder::new();
    for name in ["t.parquet", "t.csv", "t.tsv", "t.arrow", "t.feather", "t.arrows", "t.jsonl", "t.ndjson"] {
        for (extension, magic) in [("gz", &b"\x1f\x8b\x08"[..]), ("ZST", &b"\x28\xb5\x2f\xfd"[..])] {
            let path = folder.path(&format!("{name}.{extension}"));
            write(&path, &[simple(), simple()]).unwrap();
            assert!(std::fs::read(&path).unwrap().starts_with(magic), "{}", path.display());
            let expected = concat_batches(&simple().schema(), &[simple(), simple()]).unwrap();
            assert_eq!(read(&path).unwrap().columns(), expected.columns(), "{}", path.display());
        }
    }
    // The first bytes count where the name says nothing.
    std::fs::rename(folder.path("t.csv.gz"), folder.path("t.csv")).unwrap();
    assert_eq!(read(&folder.path("t.csv")).unwrap().num_rows(), 6);
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn members_and_frames_one_after_another_are_one_file() {
    let folder = TestFolder::new();
    std::fs::write(folder.path("t.csv.gz"), [gzip("a\n1\n"), gzip(""), gzip("2\n3\n")].concat()).unwrap();
    assert_eq!(read(&folder.path("t.csv.gz")).unwrap().num_rows(), 3);
    let frame = |text: &str| zstd::encode_all(text.as_bytes(), 1).unwrap();
    // A parallel compressor begins with a frame to skip.
    let skipped = b"\x50\x2a\x4d\x18\x04\0\0\0size".to_vec();
    std::fs::write(folder.path("t.csv.zst"), [skipped, frame("a\n1\n"), frame("2\n")].concat()).unwrap();
    assert_eq!(read(&folder.path("t.csv.zst")).unwrap().num_rows(), 2);
    // One file, but two Arrow streams: the second would be lost.
    write(&folder.path("t.arrows"), &[simple()]).unwrap();
    let stream = std::fs::read(folder.path("t.arrows")).unwrap();
    std::fs::write(folder.path("t.arrows"), [&stream[..], &stream[..]].concat()).unwrap();
    let error = read(&folder.path("t.arrows")).unwrap_err();
    assert!(error.message.contains("t.arrows") && error.message.contains("bytes follow the end"), "{error}");
}

#[test]
fn compressed_file_that_is_cut_off_or_damaged_is_named() {
    let folder = TestFolder::new();
    for name in ["t.csv.gz", "t.csv.zst", "t.jsonl.gz", "t.arrows.gz", "t.arrows.zst", "t.arrow.gz", "t.parquet.zst"] {
        write(&folder.path(name), &[simple(), simple()]).unwrap();
        let whole = std::fs::read(folder.path(name)).unwrap();
        for length in [0, 3, 20, whole.len() / 2, whole.len() - 4, whole.len() - 1] {
            std::fs::write(folder.path(name), &whole[..length]).unwrap();
            let error = read(&folder.path(name)).expect_err(name);
            assert!(error.message.contains(name), "{length} bytes of {name}: {error}");
        }
        // The checksum is in the last 8 bytes of a member, and in the last 4 of a frame.
        let mut damaged = whole.clone();
        let checksum = if name.ends_with("gz") { whole.len() - 6 } else { whole.len() - 2 };
        damaged[checksum] ^= 1;
        std::fs::write(folder.path(name), &damaged).unwrap();
        let error = read(&folder.path(name)).expect_err(name);
        assert!(error.message.contains(name) && error.message.contains("cannot be decompressed"), "{name}: {error}");
    }
    let error = read(&folder.with("plain.csv.gz", "a\n1\n")).unwrap_err();
    assert!(error.message.contains("its name says gzip, and the file is not compressed by it"), "{error}");
}

#[test]
fn compressed_output_that_fails_has_no_end() {
    let folder = TestFolder::new();
    let pipe = folder.path("t.csv.gz");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::read(pipe).unwrap()
    });
    let mut writer = create(&pipe, Format::Csv, &simple().schema(), &OutputOptions::default()).unwrap();
    writer.write(&simple()).unwrap();
    drop(writer);
    let bytes = reader.join().unwrap();
    let read = std::io::copy(&mut flate2::read::MultiGzDecoder::new(&bytes[..]), &mut std::io::sink());
    assert!(read.is_err(), "a reader would take {} bytes for the whole table", bytes.len());
}

#[test]
fn invalid_file_is_named_with_the_reason() {
    let folder = TestFolder::new();
    for (name, text, why) in [
        ("t.xlsx", "", "known extensions are .parquet"),
        ("noextension", "", "known extensions"),
        ("t.parquet", "not parquet", "Parquet"),
        ("t.csv", "", "empty"),
        ("ragged.csv", "a,b\n1,2\n3\n", "line 3"),
        ("t.arrow", "", "empty"),
        ("t.feather", "FEA1....", "Feather version 1"),
        ("t.jsonl", "", "no JSON objects"),
        ("bad.jsonl", "{\"a\": 1}\n{\"a\": \n", "line 2, byte"),
    ] {
        let path = folder.with(name, text);
        let error = read(&path).unwrap_err();
        assert!(error.message.contains(name), "{name}: {error}");
        assert!(error.message.to_lowercase().contains(&why.to_lowercase()), "{name}: {error}");
    }
    let missing = folder.path("missing.csv");
    let error = read(&missing).unwrap_err();
    assert_eq!(error.code, volley_common::Code::NotFound);
}

#[test]
fn byte_order_mark_in_the_first_name_is_kept() {
    let folder = TestFolder::new();
    let values: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let batch = RecordBatch::try_from_iter_with_nullable([("\u{feff}a", values, true)]).unwrap();
    for name in ["t.csv", "t.tsv", "t.jsonl", "t.parquet"] {
        write(&folder.path(name), std::slice::from_ref(&batch)).unwrap();
        assert_eq!(read(&folder.path(name)).unwrap().schema().field(0).name(), "\u{feff}a", "{name}");
    }
}

#[test]
fn damaged_and_misnamed_files_say_what_they_are() {
    let folder = TestFolder::new();
    let refused = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.path(name), bytes).unwrap();
        read(&folder.path(name)).unwrap_err().message
    };
    assert!(
        refused("a.parquet", b"a,b\n1,2\n")
            .ends_with("it is text, not a Parquet file: give --format csv or --format jsonl")
    );
    assert!(refused("a.csv", b"\x1f\x8b\x08\0\0").contains("compressed by gzip"));
    write(&folder.path("whole.parquet"), &[simple()]).unwrap();
    let whole = std::fs::read(folder.path("whole.parquet")).unwrap();
    let error = refused("half.parquet", &whole[..whole.len() / 2]);
    assert!(error.contains("half.parquet") && error.contains("damaged, or not complete"), "{error}");
    std::fs::create_dir(folder.path("folder")).unwrap();
    assert!(read(&folder.path("folder")).unwrap_err().message.contains("is a folder"));
}

#[test]
fn zero_of_a_negative_scale_is_a_number_in_text() {
    let folder = TestFolder::new();
    let of = |column: ArrayRef| RecordBatch::try_from_iter([("n", column)]).unwrap();
    let short = of(Arc::new(Decimal128Array::from(vec![0, -12]).with_data_type(DataType::Decimal128(5, -2))));
    for (name, expected) in [("t.csv", "n\n0\n-1200\n"), ("t.jsonl", "{\"n\":0}\n{\"n\":-1200}\n")] {
        write(&folder.path(name), std::slice::from_ref(&short)).unwrap();
        assert_eq!(std::fs::read_to_string(folder.path(name)).unwrap(), expected);
        let long = Decimal256Array::from(vec![i256::ZERO]).with_data_type(DataType::Decimal256(75, -5));
        let error = write(&folder.path(name), &[of(Arc::new(long))]).unwrap_err();
        assert!(error.message.contains("\"n\"") && error.message.contains("a zero"), "{error}");
    }
}

#[test]
fn csv_rejects_nested_columns_by_name() {
    let folder = TestFolder::new();
    let error = write(&folder.path("t.csv"), &[rich()]).unwrap_err();
    assert!(error.message.contains("\"lists\"") && error.message.contains(".parquet"), "{error}");
    assert!(folder.names().is_empty());
}
