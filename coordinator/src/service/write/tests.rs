//! Repeated writes.
#![allow(clippy::unwrap_used)]

use volley_common::Code;
use volley_common::ipc::schema::schema_message;
use volley_common::wire::catalog::{Replaced, Row, row};

use super::*;

fn schema(columns: &[&str]) -> Bytes {
    use arrow::datatypes::{DataType, Field, Schema};
    let fields: Vec<Field> = columns.iter().map(|name| Field::new(*name, DataType::Int64, true)).collect();
    schema_message(&Schema::new(fields)).unwrap()
}

/// Version 1 created the table, version 2 appended to it, version 3 replaced its rows.
fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    let replaced = vec![Replaced { version: 3, until_ms: u64::MAX, ..Replaced::default() }];
    let (name, schema) = (vec!["t".into()], schema(&["a"]));
    let table = Table { id: 1, name, schema, version: 3, oldest: 1, created_ms: 50, replaced, ..Table::default() };
    catalog.insert_row(Row { row: Some(row::Row::Table(table)) });
    catalog
}

fn check(version: u64, mode: WriteMode, columns: &[&str], ended_ms: u64) -> Result<()> {
    let outcome = Some(WriteOutcome { version, ..WriteOutcome::default() });
    let known = Write { id: "w".into(), outcome, ended_ms, ..Write::default() };
    let request = BeginWriteRequest { mode: mode.into(), schema: schema(columns), ..BeginWriteRequest::default() };
    check_repeated(&catalog(), &"t".parse().unwrap(), &known, &request)
}

#[test]
fn other_write_with_a_committed_id_is_refused() {
    check(1, WriteMode::Create, &["a"], 99).unwrap();
    check(1, WriteMode::Replace, &["a"], 99).unwrap();
    check(2, WriteMode::Append, &["a"], 99).unwrap();
    check(3, WriteMode::Replace, &["a"], 99).unwrap();
    for (version, mode, columns, word) in [
        (1, WriteMode::Append, &["a"][..], "no append"),
        (3, WriteMode::Append, &["a"], "no append"),
        (2, WriteMode::Create, &["a"], "created no table"),
        (3, WriteMode::Replace, &["a", "b", "c"], "another schema"),
    ] {
        let error = check(version, mode, columns, 99).unwrap_err();
        assert_eq!(error.code, Code::FailedPrecondition);
        assert!(error.message.contains(word) && error.message.contains("\"w\""), "{error}");
    }
    check(3, WriteMode::Append, &["b"], 9).expect("of a table that was dropped before this one was created");
}

#[test]
fn write_that_creates_or_appends_may_be_either() {
    let request = BeginWriteRequest {
        mode: WriteMode::Create.into(),
        create_append: true,
        schema: schema(&["a"]),
        ..BeginWriteRequest::default()
    };
    for version in [1, 2] {
        let outcome = Some(WriteOutcome { version, ..WriteOutcome::default() });
        let known = Write { id: "w".into(), outcome, ended_ms: 99, ..Write::default() };
        check_repeated(&catalog(), &"t".parse().unwrap(), &known, &request).unwrap();
    }
    let catalog = catalog();
    let table = catalog.table_named(&"t".parse().unwrap());
    assert_eq!((mode_of(&request, table), mode_of(&request, None)), (WriteMode::Append, WriteMode::Create));
}
