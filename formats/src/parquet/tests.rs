use std::path::Path;

use arrow::array::*;
use arrow::datatypes::*;
use parquet::arrow::ArrowWriter;
use parquet::data_type::{FixedLenByteArray, FixedLenByteArrayType, Int96, Int96Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::*;

const NANOS_PER_DAY: i128 = 86_400_000_000_000;

/// Nanoseconds since 1970 as INT96.
fn int96(nanos: i128) -> Int96 {
    let day = (nanos.div_euclid(NANOS_PER_DAY) + 2_440_588) as u32;
    let rest = nanos.rem_euclid(NANOS_PER_DAY) as u64;
    let mut value = Int96::new();
    value.set_data(rest as u32, (rest >> 32) as u32, day);
    value
}

/// A file with an INT96 column of this definition level, one row group for each list.
fn int96_file(path: &Path, message: &str, level: i16, groups: &[&[i128]]) -> File {
    let schema = Arc::new(parse_message_type(message).unwrap());
    let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, Default::default()).unwrap();
    for values in groups {
        let values: Vec<Int96> = values.iter().copied().map(int96).collect();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        // In a list every value is a row of its own.
        let (definitions, repetitions) = (vec![level; values.len()], vec![0; values.len()]);
        column.typed::<Int96Type>().write_batch(&values, Some(&definitions), Some(&repetitions)).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
    File::open(path).unwrap()
}

fn read(file: &File) -> Result<(SchemaRef, Vec<RecordBatch>), ArrowError> {
    let schema = schema(file.try_clone()?, None)?;
    let batches = open(file.try_clone()?, None, ReadProgress::default())?.collect::<Result<Vec<_>, _>>()?;
    Ok((schema, batches))
}

/// 9999-12-31 and 0001-01-01, at midnight.
const LAST_DAY: i128 = 2_932_896 * NANOS_PER_DAY;
const FIRST_DAY: i128 = -719_162 * NANOS_PER_DAY;

#[test]
fn int96_outside_of_nanoseconds_is_read_in_microseconds() {
    let folder = tempfile::tempdir().unwrap();
    let message = "message m { optional int96 t; }";
    let file = int96_file(&folder.path().join("t"), message, 1, &[&[0, 1000], &[LAST_DAY, FIRST_DAY]]);
    let (schema, batches) = read(&file).unwrap();
    assert_eq!(schema.field(0).data_type(), &DataType::Timestamp(TimeUnit::Microsecond, None));
    let micros: Vec<_> =
        batches.iter().flat_map(|b| b.column(0).as_primitive::<TimestampMicrosecondType>().values().to_vec()).collect();
    assert_eq!(micros, [0, 1, (LAST_DAY / 1000) as i64, (FIRST_DAY / 1000) as i64]);
}

#[test]
fn int96_with_nanoseconds_keeps_them_or_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let message = "message m { optional int96 t; }";
    let file = int96_file(&folder.path().join("t"), message, 1, &[&[-1, i64::MAX.into()], &[i64::MIN.into()]]);
    let (schema, batches) = read(&file).unwrap();
    assert_eq!(schema.field(0).data_type(), &DataType::Timestamp(TimeUnit::Nanosecond, None));
    assert_eq!(batches[0].column(0).as_primitive::<TimestampNanosecondType>().values(), &[-1, i64::MAX]);
    let file = int96_file(&folder.path().join("t"), message, 1, &[&[1], &[LAST_DAY]]);
    let error = read(&file).unwrap_err().to_string();
    assert!(error.contains("\"t\"") && error.contains("1677") && error.contains("microseconds"), "{error}");
}

#[test]
fn int96_of_files_put_together_has_one_unit() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, value: i128| {
        int96_file(&folder.path().join(name), "message m { optional int96 t; }", 1, &[&[value]])
    };
    let (old, new, fine) = (file("old", FIRST_DAY), file("new", 1000), file("fine", 1));
    let needs = |files: [&File; 2]| {
        let mut needs = Int96Needs::of(files[0]).unwrap();
        needs.merge(&Int96Needs::of(files[1]).unwrap());
        needs
    };
    for shared in [needs([&old, &new]), needs([&new, &old])] {
        for (file, micros) in [(&old, (FIRST_DAY / 1000) as i64), (&new, 1)] {
            let mut batches = open(file.try_clone().unwrap(), Some(&shared), ReadProgress::default()).unwrap();
            let batch = batches.next().unwrap().unwrap();
            assert_eq!(batch.column(0).as_primitive::<TimestampMicrosecondType>().values(), &[micros]);
        }
    }
    let error = schema(new.try_clone().unwrap(), Some(&needs([&old, &fine]))).unwrap_err().to_string();
    assert!(error.contains("another of the same put"), "{error}");
    // A table that is appended to has chosen before.
    let unit = |file: &File| {
        let mut needs = Int96Needs::of(file).unwrap();
        needs.prefer(&Schema::new(vec![Field::new("t", DataType::Timestamp(TimeUnit::Microsecond, None), true)]));
        schema(file.try_clone().unwrap(), Some(&needs)).unwrap().field(0).data_type().clone()
    };
    assert_eq!(unit(&new), DataType::Timestamp(TimeUnit::Microsecond, None));
    assert_eq!(unit(&fine), DataType::Timestamp(TimeUnit::Nanosecond, None));
}

#[test]
fn int96_within_a_list_is_read_in_its_unit() {
    let folder = tempfile::tempdir().unwrap();
    let message = "message m { optional group l (LIST) { repeated group list { optional int96 element; } } }";
    let file = int96_file(&folder.path().join("t"), message, 3, &[&[LAST_DAY]]);
    let (schema, batches) = read(&file).unwrap();
    let DataType::List(item) = schema.field(0).data_type() else { panic!("{schema}") };
    assert_eq!(item.data_type(), &DataType::Timestamp(TimeUnit::Microsecond, None));
    let list = batches[0].column(0).as_list::<i32>();
    assert_eq!(list.values().as_primitive::<TimestampMicrosecondType>().value(0), (LAST_DAY / 1000) as i64);
}

/// A file with an INTERVAL column of these months, days and milliseconds, as DuckDB writes it.
fn interval_file(path: &Path, intervals: &[[u32; 3]]) -> File {
    let message = "message m { optional fixed_len_byte_array(12) i (INTERVAL); }";
    let schema = Arc::new(parse_message_type(message).unwrap());
    let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, Default::default()).unwrap();
    let bytes = |parts: &[u32; 3]| parts.iter().flat_map(|part| part.to_le_bytes()).collect::<Vec<u8>>();
    let values: Vec<FixedLenByteArray> = intervals.iter().map(|parts| bytes(parts).into()).collect();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<FixedLenByteArrayType>().write_batch(&values, Some(&vec![1; values.len()]), None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    File::open(path).unwrap()
}

#[test]
fn intervals_keep_all_their_parts_or_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = |intervals: &[[u32; 3]]| interval_file(&folder.path().join("t"), intervals);
    let (_, batches) = read(&file(&[[0, 0, 0], [14, 0, 0]])).unwrap();
    assert_eq!(batches[0].column(0).as_primitive::<IntervalYearMonthType>().values(), &[0, 14]);
    let (_, batches) = read(&file(&[[0, 2, 3500]])).unwrap();
    assert_eq!(batches[0].column(0).as_primitive::<IntervalDayTimeType>().value(0), IntervalDayTime::new(2, 3500));
    for (intervals, reason) in [
        (&[[1, 2, 3500]][..], "write the months to a column"),
        (&[[1, 0, 0], [0, 1, 0]], "months"),
        (&[[0, 0, 1 << 31]], "2^31"),
    ] {
        let error = read(&file(intervals)).unwrap_err().to_string();
        assert!(error.contains("INTERVAL column \"i\"") && error.contains(reason), "{error}");
    }
}

fn arrow_file(path: &Path, batch: &RecordBatch, properties: Option<WriterProperties>) -> File {
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), properties).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    File::open(path).unwrap()
}

#[test]
fn zone_is_kept_where_the_embedded_unit_differs() {
    let folder = tempfile::tempdir().unwrap();
    let times: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![7]).with_timezone("UTC"));
    let batch = RecordBatch::try_from_iter([("t", times)]).unwrap();
    // As other libraries write seconds: milliseconds, with the original schema beside them.
    for unit in [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond] {
        let original =
            Schema::new(vec![Field::new("t", DataType::Timestamp(unit, Some("Europe/Paris".into())), false)]);
        let mut properties = WriterProperties::builder().build();
        parquet::arrow::add_encoded_arrow_schema_to_metadata(&original, &mut properties);
        let path = folder.path().join("t");
        let options = parquet::arrow::arrow_writer::ArrowWriterOptions::new()
            .with_properties(properties)
            .with_skip_arrow_metadata(true);
        let mut writer =
            ArrowWriter::try_new_with_options(File::create(&path).unwrap(), batch.schema(), options).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let (schema, batches) = read(&File::open(&path).unwrap()).unwrap();
        let expected = DataType::Timestamp(TimeUnit::Millisecond, Some("Europe/Paris".into()));
        assert_eq!(schema.field(0).data_type(), &expected, "{unit:?}");
        assert_eq!(batches[0].column(0).data_type(), &expected);
        assert_eq!(batches[0].column(0).as_primitive::<TimestampMillisecondType>().value(0), 7);
    }
}

#[test]
fn batches_are_bounded_by_bytes_and_by_rows() {
    let folder = tempfile::tempdir().unwrap();
    let large: ArrayRef = Arc::new(StringArray::from_iter_values((0..100).map(|n| format!("{n}").repeat(600_000))));
    let file = arrow_file(&folder.path().join("t"), &RecordBatch::try_from_iter([("w", large)]).unwrap(), None);
    let (_, batches) = read(&file).unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 100);
    assert!(batches.iter().all(|b| b.num_rows() <= 32) && batches.len() >= 4, "{}", batches.len());
    let small: ArrayRef = Arc::new(Int8Array::from_iter_values((0..20_000).map(|n| n as i8)));
    let file = arrow_file(&folder.path().join("t"), &RecordBatch::try_from_iter([("n", small)]).unwrap(), None);
    let (_, batches) = read(&file).unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [8192, 8192, 3616]);
}

/// More text than one array of 2 GiB holds, in a file of a few hundred kilobytes.
#[test]
fn texts_of_two_gigabytes_in_one_row_group_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let values: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(300_000)]));
    let keys = Int16Array::from(vec![0; 7680]);
    let words: ArrayRef = Arc::new(DictionaryArray::<Int16Type>::new(keys, values));
    let path = folder.path().join("t");
    let batch = RecordBatch::try_from_iter([("w", words)]).unwrap();
    let options = parquet::arrow::arrow_writer::ArrowWriterOptions::new().with_skip_arrow_metadata(true);
    let mut writer = ArrowWriter::try_new_with_options(File::create(&path).unwrap(), batch.schema(), options).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let batches = open(File::open(&path).unwrap(), None, ReadProgress::default()).unwrap();
    let mut rows = 0;
    for batch in batches {
        let batch = batch.unwrap();
        let last = batch.num_rows() - 1;
        assert_eq!(batch.column(0).as_string::<i32>().value(last).len(), 300_000);
        rows += batch.num_rows();
    }
    assert_eq!(rows, 7680);
}

/// The int64 values 1, 2 and 3, written by pyarrow with `write_page_checksum`: this library writes no checksums.
const WITH_CHECKSUMS: &str = "\
    UEFSMRUAFTAVMBWOtty8BRwVBhUAFQYVBhwAAAABAAAAAAAAAAIAAAAAAAAAAwAAAAAAAAAVBBksNQAYBnNjaGVtYRUCABUEJQAYAW4A\
    FgYZHBkcJgAcFQQZJQYAGRgBbhUAFgYWYhZiJghJHBUAFQAVAgAAABZiFgYmCBZiACggcGFycXVldC1jcHAtYXJyb3cgdmVyc2lvbiAy\
    Ni4wLjEZHBwAAAByAAAAUEFSMQ==";

#[test]
fn page_with_another_checksum_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t");
    let mut bytes = BASE64_STANDARD.decode(WITH_CHECKSUMS).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    let (_, batches) = read(&File::open(&path).unwrap()).unwrap();
    assert_eq!(batches[0].column(0).as_primitive::<Int64Type>().values(), &[1, 2, 3]);
    let first = bytes.windows(8).position(|value| value == 1_i64.to_le_bytes()).unwrap();
    bytes[first] ^= 2;
    std::fs::write(&path, &bytes).unwrap();
    let error = crate::error_text(read(&File::open(&path).unwrap()).unwrap_err());
    assert!(error.contains("the checksum of a page differs"), "{error}");
}
