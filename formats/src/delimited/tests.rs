//! What is written with any options is read back with the same ones.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field};
use clap::ValueEnum;

use super::super::csv_options::CsvQuote;
use super::super::text::TextOptions;
use super::super::{Format, InputFile, ReadProgress, open};
use super::*;

fn texts(columns: &[(&str, &[Option<&str>])]) -> RecordBatch {
    let column = |values: &[Option<&str>]| Arc::new(StringArray::from(values.to_vec())) as ArrayRef;
    let columns = columns.iter().map(|(name, values)| (*name, column(values), true));
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

fn written(batch: &RecordBatch, options: &CsvOptions, null: &str) -> Result<Vec<u8>, String> {
    let write = || -> Result<Vec<u8>, ArrowError> {
        let delimiter = options.delimiter(Format::Csv);
        let mut writer = DelimitedWriter::new(Vec::new(), delimiter, options, null, batch.schema_ref())?;
        writer.write(batch)?;
        Ok(writer.into_inner())
    };
    write().map_err(|e| e.to_string())
}

fn read_back(bytes: &[u8], batch: &RecordBatch, options: &CsvOptions, null: &str) -> RecordBatch {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.csv");
    std::fs::write(&path, bytes).unwrap();
    let input = InputFile::new(&path, None).unwrap();
    let names = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
    let nulls = vec![null.to_string()];
    let options = TextOptions { csv: options.clone(), names: Some(names), nulls, ..TextOptions::default() };
    let batches = open(&input, batch.schema(), &options, ReadProgress::default()).unwrap();
    concat_batches(&batch.schema(), &batches.collect::<Result<Vec<_>, _>>().unwrap()).unwrap()
}

#[test]
fn every_option_gives_back_the_texts() {
    let values = [Some("a,b;c\td"), Some("\"'"), Some(""), None, Some("NA"), Some(" \u{e9}\nx"), Some("c0")];
    let batch = texts(&[("a;b", &values), ("b", &values)]);
    let quote = |byte| Some(CsvQuote::Character(byte));
    for encoding in TextEncoding::value_variants() {
        for (delimiter, quote, no_header, null) in [
            (None, None, false, ""),
            (Some(b';'), None, true, "NA"),
            (Some(b'\t'), quote(b'\''), false, "-"),
            (Some(1), quote(b'|'), true, ""),
        ] {
            let options = CsvOptions { delimiter, quote, no_header, encoding: Some(*encoding) };
            let bytes = written(&batch, &options, null).unwrap();
            assert_eq!(read_back(&bytes, &batch, &options, null), batch, "{options:?}");
        }
    }
}

#[test]
fn options_change_what_is_written() {
    let batch = texts(&[("a", &[Some("x;y"), None]), ("b", &[Some("\u{20ac}"), Some("")])]);
    let semicolon = CsvOptions { delimiter: Some(b';'), ..CsvOptions::default() };
    assert_eq!(written(&batch, &semicolon, "").unwrap(), "a;b\n\"x;y\";\u{20ac}\n;\"\"\n".as_bytes());
    let windows = CsvOptions { encoding: Some(TextEncoding::Windows1252), no_header: true, ..CsvOptions::default() };
    assert_eq!(written(&batch, &windows, "").unwrap(), b"x;y,\x80\n,\"\"\n");
    let utf16 = CsvOptions { encoding: Some(TextEncoding::Utf16), ..CsvOptions::default() };
    assert!(written(&batch, &utf16, "").unwrap().starts_with(b"\xff\xfea\0,\0b\0\n\0"));
}

#[test]
fn value_that_the_options_cannot_write_names_its_column() {
    let unquoted = CsvOptions { quote: Some(CsvQuote::None), ..CsvOptions::default() };
    for (value, null) in [("x,y", ""), ("x\ny", ""), ("", ""), ("NA", "NA"), ("\u{feff}x", "")] {
        let error = written(&texts(&[("a", &[Some(value)]), ("b", &[Some("z")])]), &unquoted, null).unwrap_err();
        assert!(error.contains("column \"a\"") && error.contains("--quote none"), "{error}");
    }
    let plain = texts(&[("a", &[Some(" \"x\" "), None]), ("b", &[Some("z"), Some("NA")])]);
    let bytes = written(&plain, &unquoted, "").unwrap();
    assert_eq!(bytes, b"a,b\n \"x\" ,z\n,NA\n");
    assert_eq!(read_back(&bytes, &plain, &unquoted, ""), plain);
    let latin = CsvOptions { encoding: Some(TextEncoding::Latin1), ..CsvOptions::default() };
    let error = written(&texts(&[("a", &[Some("\u{20ac}")])]), &latin, "").unwrap_err();
    assert!(error.contains("column \"a\": latin-1 has no '\u{20ac}'"), "{error}");
    let error = written(&texts(&[("a", &[None])]), &CsvOptions::default(), "").unwrap_err();
    assert!(error.contains("--null") && error.ends_with("use .arrow"), "which holds every type: {error}");
    let quote = CsvOptions { quote: Some(CsvQuote::Character(b'N')), ..CsvOptions::default() };
    assert!(written(&plain, &quote, "NA").unwrap_err().contains("cannot stand for null"));
}

#[test]
fn header_that_does_not_tell_columns_apart_is_refused() {
    let value = [Some("x")];
    let row = texts(&[("a", &value), ("b", &value), ("c", &value)]);
    for (names, expected) in
        [(["a", "b", "a"], "the columns 1 and 3 are both named \"a\""), (["a", "", "c"], "the column 2 has no name")]
    {
        let fields: Vec<Field> = names.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect();
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), row.columns().to_vec()).unwrap();
        let error = written(&batch, &CsvOptions::default(), "").unwrap_err();
        assert!(error.contains(expected) && error.contains("rename the column, or use .parquet"), "{error}");
        let unnamed = CsvOptions { no_header: true, ..CsvOptions::default() };
        assert_eq!(written(&batch, &unnamed, "").unwrap(), b"x,x,x\n");
    }
}
