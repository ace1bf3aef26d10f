//! The one schema of the files of a put.
#![allow(clippy::unwrap_used)]

use arrow::array::{ArrayRef, Float64Array, Int32Array, Int64Array, StringArray};
use clap::Parser;
use tempfile::TempDir;

use super::*;
use crate::formats::text::ColumnType;

/// A folder with `a.csv`, and `b.parquet` with the column `zip`.
fn files(csv: &str, typed: ArrayRef) -> TempDir {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("a.csv"), csv).unwrap();
    let batch = RecordBatch::try_from_iter_with_nullable([("zip", typed, true)]).unwrap();
    let path = folder.path().join("b.parquet");
    let mut file =
        formats::create(&path, Format::Parquet, &batch.schema(), &formats::OutputOptions::default()).unwrap();
    file.write(&batch).unwrap();
    file.finish().unwrap();
    folder
}

fn read(folder: &TempDir, known: KnownTypes) -> Result<Vec<ArrayRef>> {
    let rules = TypeRules { known, appended: None, types: Vec::new(), text: TextOptions::default() };
    let paths = ["a.csv", "b.parquet"].map(|name| folder.path().join(name));
    let inputs = InputFiles::open(&paths, None)?.with_types(rules)?;
    let mut columns = Vec::new();
    inputs.read(&ProgressBar::hidden(), &mut |batch: RecordBatch| {
        columns.push(batch.column(0).clone());
        Ok(())
    })?;
    Ok(columns)
}

fn schema(data_type: DataType) -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("zip", data_type, true)]))
}

#[test]
fn given_schema_is_before_the_types_of_other_files() {
    let folder = files("zip\n00501\n", Arc::new(StringArray::from(vec!["x"])));
    let columns = read(&folder, KnownTypes::Schema(schema(DataType::LargeUtf8))).unwrap();
    assert!(columns.iter().all(|column| *column.data_type() == DataType::LargeUtf8));
    // A file that does not fit is refused instead of changing the type of the others.
    let folder = files("zip\n00501\n", Arc::new(Int64Array::from(vec![501])));
    let error = read(&folder, KnownTypes::Schema(schema(DataType::Utf8))).unwrap_err().message;
    assert!(error.contains("b.parquet") && error.contains("zip") && error.contains("--schema"), "{error}");
    let error = read(&folder, KnownTypes::None).unwrap_err().message;
    assert!(error.contains("00501"), "{error}");
}

#[test]
fn appended_types_are_before_those_of_other_files() {
    let folder = files("zip\n1.5\n", Arc::new(Int32Array::from(vec![7])));
    let columns = read(&folder, KnownTypes::AppendedTable(schema(DataType::Float64))).unwrap();
    let expected: Vec<ArrayRef> =
        vec![Arc::new(Float64Array::from(vec![1.5])), Arc::new(Float64Array::from(vec![7.0]))];
    assert_eq!(columns, expected);
}

#[test]
fn typed_files_are_matched_by_names_of_columns() {
    let folder = TempDir::new().unwrap();
    let (one, two): (ArrayRef, ArrayRef) = (Arc::new(Int64Array::from(vec![1])), Arc::new(Int64Array::from(vec![2])));
    let write = |name: &str, columns: [(&str, &ArrayRef); 2]| {
        let columns = columns.map(|(name, values)| (name, values.clone(), true));
        let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        let path = folder.path().join(name);
        let mut file =
            formats::create(&path, Format::of(&path).unwrap(), &batch.schema(), &formats::OutputOptions::default())
                .unwrap();
        file.write(&batch).unwrap();
        file.finish().unwrap();
        path
    };
    let paths = [write("a.parquet", [("a", &one), ("b", &two)]), write("b.arrow", [("b", &two), ("a", &one)])];
    let rows = |appended: Option<SchemaRef>| {
        let rules = TypeRules { known: KnownTypes::None, appended, types: Vec::new(), text: TextOptions::default() };
        let inputs = InputFiles::open(&paths, None)?.with_types(rules)?;
        let mut rows = Vec::new();
        inputs.read(&ProgressBar::hidden(), &mut |batch: RecordBatch| {
            rows.push(batch.columns().to_vec());
            Ok(())
        })?;
        Ok::<_, Error>(rows)
    };
    assert_eq!(rows(None).unwrap(), [[one.clone(), two.clone()], [one.clone(), two.clone()]]);
    let field = |name: &str| Field::new(name, DataType::Int64, true);
    let table = Arc::new(Schema::new(vec![field("b"), field("a")]));
    assert_eq!(rows(Some(table)).unwrap(), [[two.clone(), one.clone()], [two.clone(), one.clone()]]);
    let other = Arc::new(Schema::new(vec![field("b"), Field::new("a", DataType::Utf8, true)]));
    let error = rows(Some(other)).unwrap_err().message;
    assert!(error.contains("a.parquet: ") && error.contains("\"a\"") && error.contains("--mode replace"), "{error}");
    let names = |names: &[&str]| Schema::new(names.iter().map(|name| field(name)).collect::<Vec<_>>());
    assert_eq!(places(&names(&["a", "b"]), &names(&["a", "a"])), None);
    assert_eq!(places(&names(&["a", "a"]), &names(&["a", "b"])), None);
}

#[test]
fn column_with_two_types_is_refused() {
    let put = |types: &[&str]| {
        let args = ["volley", "put", "a.csv", "--table", "t"]
            .into_iter()
            .chain(types.iter().flat_map(|text| ["--type", *text]));
        let crate::args::CliCommand::Put(put) = crate::args::Args::parse_from(args).command else { panic!("no put") };
        TypeRules::of(&put)
    };
    put(&["a=int64", "b=int64"]).unwrap();
    let error = put(&["a=int64", "b=utf8", "a=utf8"]).err().unwrap();
    assert!(error.message.contains("\"a\" twice"), "{error}");
}

/// Files with their texts, and Parquet files of one column `n` of integers.
fn tree(files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        if !name.ends_with(".parquet") {
            std::fs::write(path, text).unwrap();
            continue;
        }
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![text.parse::<i64>().unwrap()]));
        let batch = RecordBatch::try_from_iter_with_nullable([("n", numbers, true)]).unwrap();
        let options = formats::OutputOptions::default();
        let mut file = formats::create(&path, Format::Parquet, &batch.schema(), &options).unwrap();
        file.write(&batch).unwrap();
        file.finish().unwrap();
    }
    folder
}

/// The rows of a folder as text, below the names and types of the columns.
fn rows_of(folder: &TempDir, known: KnownTypes, text: TextOptions) -> std::result::Result<Vec<String>, String> {
    let rules = TypeRules { known, appended: None, types: Vec::new(), text };
    let read = || -> Result<Vec<String>> {
        let inputs = InputFiles::open(&[folder.path().to_path_buf()], None)?.with_types(rules)?;
        let columns =
            inputs.schema().fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect::<Vec<_>>();
        let mut rows = vec![columns.join(", ")];
        inputs.read(&ProgressBar::hidden(), &mut |batch: RecordBatch| {
            let text = formats::json_lines(&inputs.schema(), &[batch]).map_err(|e| Error::internal(e.to_string()))?;
            rows.extend(text.lines().map(str::to_string));
            Ok(())
        })?;
        Ok(rows)
    };
    read().map_err(|e| e.message)
}

#[test]
fn folders_add_columns_with_types_of_all_values() {
    let null = "y=__HIVE_DEFAULT_PARTITION__/m=02/b.csv";
    let folder = tree(&[("y=2024/m=01/a.csv", "n\n1\n2\n"), (null, "n\n3\n"), ("_SUCCESS", "")]);
    let rows = rows_of(&folder, KnownTypes::None, TextOptions::default()).unwrap();
    let expected = [
        "n Int64, y Int64, m Utf8",
        r#"{"n":1,"y":2024,"m":"01"}"#,
        r#"{"n":2,"y":2024,"m":"01"}"#,
        r#"{"n":3,"y":null,"m":"02"}"#,
    ];
    assert_eq!(rows, expected);
    // The types and the order of a table, and its names where there is no header.
    let field = |name: &str, kind| Field::new(name, kind, true);
    let table = || {
        let fields = vec![field("m", DataType::Int8), field("n", DataType::Utf8), field("y", DataType::Int16)];
        KnownTypes::AppendedTable(Arc::new(Schema::new(fields)))
    };
    let error = rows_of(&folder, table(), TextOptions::default()).unwrap_err();
    assert!(error.contains("a.csv: column \"m\": \"01\" does not fit the type Int8"), "{error}");
    let folder = tree(&[("y=2024/m=1/a.csv", "5\n")]);
    let csv = formats::CsvOptions { no_header: true, ..formats::CsvOptions::default() };
    let options = TextOptions { csv, ..TextOptions::default() };
    let rows = rows_of(&folder, table(), options).unwrap();
    assert_eq!(rows, ["m Int8, n Utf8, y Int16", r#"{"m":1,"n":"5","y":2024}"#]);
}

#[test]
fn typed_files_get_the_columns_of_their_folders() {
    let folder = tree(&[("d=2024-05-01/a.parquet", "1"), ("d=2024-05-02/b.parquet", "2")]);
    let rows = rows_of(&folder, KnownTypes::None, TextOptions::default()).unwrap();
    assert_eq!(rows, ["n Int64, d Date32", r#"{"n":1,"d":"2024-05-01"}"#, r#"{"n":2,"d":"2024-05-02"}"#]);
    let table = |fields: Vec<Field>| KnownTypes::AppendedTable(Arc::new(Schema::new(fields)));
    let field = |name: &str, kind| Field::new(name, kind, true);
    let fields = vec![field("d", DataType::Utf8), field("n", DataType::Int64)];
    let rows = rows_of(&folder, table(fields), TextOptions::default()).unwrap();
    assert_eq!(rows[..2], ["d Utf8, n Int64", r#"{"d":"2024-05-01","n":1}"#]);
    let error = rows_of(&folder, table(vec![field("n", DataType::Int64)]), TextOptions::default()).unwrap_err();
    assert!(error.contains("a.parquet") && error.contains("\"d\""), "{error}");
}

#[test]
fn folders_that_do_not_agree_are_refused_by_name() {
    for (files, expected) in [
        (
            [("y=1/a.csv", "n\n1\n"), ("y=1/z=2/b.csv", "n\n1\n")],
            "b.csv: its folders have the columns y, z, and those of",
        ),
        ([("y=1/a.csv", "n\n1\n"), ("b.csv", "n\n1\n")], "its folders have the columns y, and those of"),
        ([("y=1/a.csv", "n,y\n1,1\n"), ("y=2/b.csv", "n,y\n1,2\n")], "the column \"y\" is in the file and in the name"),
        ([("n=1/a.parquet", "1"), ("n=2/b.parquet", "2")], "the column \"n\" is in the file and in the name"),
        ([("y=1/y=2/a.csv", "n\n1\n"), ("y=1/y=3/b.csv", "n\n1\n")], "two folders give the column \"y\""),
        ([("a.csv", "n\n1\n"), ("b.csv", "m\n1\n")], "b.csv: line 1: the column \"n\" is missing"),
    ] {
        let error = rows_of(&tree(&files), KnownTypes::None, TextOptions::default()).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn json_named_csv_is_refused_and_one_odd_column_noted() {
    let note = |text: &str, format, delimiter| {
        let folder = tree(&[("a.csv", text)]);
        let csv = formats::CsvOptions { delimiter, ..formats::CsvOptions::default() };
        let text = TextOptions { csv, ..TextOptions::default() };
        let rules = TypeRules { known: KnownTypes::None, appended: None, types: Vec::new(), text };
        let inputs = InputFiles::open(&[folder.path().join("a.csv")], format)?.with_types(rules)?;
        Ok::<_, Error>(inputs.notes().concat())
    };
    let error = note("{\"a\":1}\n", None, None).unwrap_err().message;
    assert!(error.contains("a.csv: it is JSON") && error.contains("--format jsonl"), "{error}");
    assert_eq!(note("{\"a\":1}\n", Some(Format::Csv), None).unwrap(), "");
    assert!(note("a;b\n1;2\n", None, None).unwrap().ends_with("give --delimiter ';'"));
    assert!(note("a\tb\n1\t2\n", None, None).unwrap().ends_with("give --delimiter tab"));
    assert_eq!(note("a;b\n1;2\n", None, Some(b',')).unwrap(), "");
    assert_eq!(note("a;b,c\n1,2\n", None, None).unwrap(), "");
}

#[test]
fn inference_rows_without_effect_are_noted() {
    let notes = |csv: &str, infer_rows| {
        let folder = tree(&[("a.csv", csv)]);
        let known = KnownTypes::ReplacedTable(schema(DataType::Int64));
        let text = TextOptions { infer_rows, ..TextOptions::default() };
        let rules = TypeRules { known, appended: None, types: Vec::new(), text };
        InputFiles::open(&[folder.path().join("a.csv")], None).unwrap().with_types(rules).unwrap().notes().concat()
    };
    let note = notes("zip\n1\n", Some(10));
    assert!(note.starts_with("--infer-rows has no effect") && note.contains("--type"), "{note}");
    assert_eq!(notes("zip\n1\n", None), "");
    assert_eq!(notes("zip,new\n1,2\n", Some(10)), "");
}

#[test]
fn hint_about_the_replaced_table_is_for_its_types_only() {
    let error = |csv: &str, types: Vec<ColumnType>, infer_rows| {
        let folder = tree(&[("a.csv", csv)]);
        let typed = types.iter().map(|named| named.column.clone()).collect();
        let text = TextOptions { typed, infer_rows, ..TextOptions::default() };
        let known = KnownTypes::ReplacedTable(schema(DataType::Int8));
        let rules = TypeRules { known, appended: None, types, text };
        let inputs = InputFiles::open(&[folder.path().join("a.csv")], None).unwrap().with_types(rules).unwrap();
        inputs.read(&ProgressBar::hidden(), &mut |_: RecordBatch| Ok(())).unwrap_err().message
    };
    let of_table = error("zip\n300\n", Vec::new(), None);
    assert!(of_table.contains("\"zip\"") && of_table.contains("the table that is replaced"), "{of_table}");
    let named = ColumnType { column: "zip".into(), data_type: DataType::Int8 };
    let of_option = error("zip\n300\n", vec![named], None);
    assert!(of_option.contains("\"zip\"") && !of_option.contains("replaced"), "{of_option}");
    let inferred = error("zip,new\n1,1\n1,x\n", Vec::new(), Some(1));
    assert!(inferred.contains("\"new\"") && !inferred.contains("replaced"), "{inferred}");
    assert!(inferred.ends_with("without --infer-rows from all)"), "{inferred}");
}
