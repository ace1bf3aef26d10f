//! Tests of what a comparison says.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema};

use super::*;

fn schema(fields: &[(&str, DataType, bool)]) -> SchemaRef {
    Arc::new(Schema::new(
        fields.iter().map(|(name, kind, null)| Field::new(*name, kind.clone(), *null)).collect::<Vec<_>>(),
    ))
}

fn side(name: &str, version: Option<u64>, schema: SchemaRef, shard_by: &[&str]) -> DiffSide {
    let shard_by = shard_by.iter().map(|name| name.to_string()).collect();
    DiffSide { name: name.parse().unwrap(), version, schema, shard_by, info: FlightInfo::new() }
}

fn number(name: &str) -> (&str, DataType, bool) {
    (name, DataType::Int64, true)
}

#[test]
fn columns_that_differ_are_listed_with_both_types() {
    let first = schema(&[number("a"), number("b"), number("c")]);
    let second = schema(&[number("a"), ("b", DataType::Utf8, true), ("c", DataType::Int64, false), number("d")]);
    let found: Vec<[String; 3]> = column_differences(&first, &second).iter().map(ColumnDifference::cells).collect();
    let expected = [["b", "Int64", "Utf8"], ["c", "Int64", "Int64 not null"], ["d", "-", "Int64"]];
    assert_eq!(found, expected);
    assert_eq!(common_columns(&first, &second), ["a", "c"]);
    assert!(column_differences(&first, &first).is_empty());
}

#[test]
fn other_order_or_metadata_of_columns_is_a_difference() {
    let first = schema(&[number("a"), number("b")]);
    let moved = column_differences(&first, &schema(&[number("b"), number("a")]));
    assert_eq!(moved.iter().map(ColumnDifference::cells).collect::<Vec<_>>(), [["a", "column 1", "column 2"]]);
    let unit =
        Field::new("a", DataType::Int64, true).with_metadata(HashMap::from([("unit".to_string(), "m".to_string())]));
    let second = Schema::new(vec![unit, Field::new("b", DataType::Int64, true)]);
    let cells = column_differences(&first, &second)[0].cells();
    assert_eq!(cells, ["a", "Int64 []", r#"Int64 [("unit", "m")]"#]);
}

#[test]
fn keys_are_those_of_both_tables_or_the_wanted_ones() {
    let columns = schema(&[number("a"), number("b")]);
    let sides = |first: &[&str], second: &[&str]| {
        [side("x", None, columns.clone(), first), side("y", Some(3), columns.clone(), second)]
    };
    let compared = ["a".to_string(), "b".to_string()];
    let key = |wanted: Option<&str>, sides: &[DiffSide; 2]| {
        key_columns(wanted.map(|name| vec![name.to_string()]), &compared, sides).map_err(|e| e.message)
    };
    assert_eq!(key(None, &sides(&["a"], &["a"])), Ok(Some(vec!["a".into()])));
    assert_eq!(key(None, &sides(&["a"], &["b"])), Ok(None));
    assert_eq!(key(None, &sides(&[], &[])), Ok(None));
    assert_eq!(key(Some("b"), &sides(&["a"], &["a"])), Ok(Some(vec!["b".into()])));
    assert!(key(Some("c"), &sides(&[], &[])).is_err_and(|e| e.contains("\"c\"")));
    let wanted = |name: &str| {
        let sides = sides(&[], &[]);
        compared_columns(Some(vec![name.into()]), &compared, &sides).map_err(|e| e.message)
    };
    assert_eq!(wanted("b"), Ok(vec!["b".into()]));
    assert!(wanted("B").is_err_and(|e| e == "x has no column \"B\": did you mean \"b\"?"));
}

#[test]
fn comparison_is_told_in_a_sentence() {
    let columns = schema(&[number("a"), number("b")]);
    let sides = [side("x", Some(1), columns.clone(), &[]), side("y", Some(2), columns, &[])];
    let rows = RowDifferences { added: 1000, removed: 2, changed: 3 };
    let comparison = |compared: &[&str], key: Option<&str>, rows: RowDifferences| Comparison {
        columns: Vec::new(),
        compared: compared.iter().map(|name| name.to_string()).collect(),
        key: key.map(|name| vec![name.to_string()]),
        read: [5, 5],
        rows,
    };
    let keyed = comparison(&["a", "b"], Some("a"), rows);
    assert_eq!(keyed.rows_text(&sides), "rows by a: 1,000 added, 2 removed, 3 changed");
    let some = comparison(&["a"], None, rows);
    assert_eq!(some.rows_text(&sides), "rows in 1 common column: 2 only in a, 1,000 only in b");
    assert!(comparison(&[], None, RowDifferences::default()).rows_text(&sides).contains("no rows are compared"));
    assert!(!keyed.is_equal() && comparison(&["a", "b"], None, RowDifferences::default()).is_equal());
    let json = keyed.json(&sides);
    assert_eq!((&json["equal"], &json["changed"], &json["a"]["version"]), (&json!(false), &json!(3), &json!(1)));
    assert!(some.json(&sides)["changed"].is_null());
}
