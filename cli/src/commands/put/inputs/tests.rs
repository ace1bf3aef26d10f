//! The one schema of the files of a put.
#![allow(clippy::unwrap_used)]

use arrow::array::{ArrayRef, Float64Array, Int32Array, Int64Array, StringArray};
use clap::Parser;
use tempfile::TempDir;

use super::*;

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
