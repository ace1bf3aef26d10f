//! Which schemas and tables a command selects, and what the reply says about them.

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Field, Schema};
use arrow_flight::IpcMessage;
use volley_common::Code;

use super::*;

fn listed(name: &str) -> ListedTable {
    let id = Field::new("id", DataType::Int64, false);
    let kind = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let schema = Schema::new(vec![id, Field::new("kind", kind, true)]);
    ListedTable { name: name.parse().unwrap(), schema: Arc::new(schema), rows: 1, bytes: 8, version: 1 }
}

fn some_tables() -> Vec<ListedTable> {
    ["z", "sales/2026/orders", "sales/orders_eu", "sales/ordersXeu", "a%b", "Orders"].map(listed).to_vec()
}

/// The names of a batch as `schema.table`.
fn names(batch: &RecordBatch) -> Vec<String> {
    let column = |index: usize| batch.column(index).as_string::<i32>().iter().map(Option::unwrap);
    column(1).zip(column(2)).map(|(schema, table)| format!("{schema}.{table}")).collect()
}

fn found(command: CommandGetTables) -> Vec<String> {
    names(&tables(&command, &some_tables()).unwrap())
}

#[test]
fn all_tables_are_listed_in_order_with_catalog_and_type() {
    let batch = tables(&CommandGetTables::default(), &some_tables()).unwrap();
    let expected =
        ["default.Orders", "default.a%b", "default.z", "sales.ordersXeu", "sales.orders_eu", "sales/2026.orders"];
    assert_eq!(names(&batch), expected);
    assert!(batch.column(0).as_string::<i32>().iter().all(|catalog| catalog == Some("volley")));
    assert!(batch.column(3).as_string::<i32>().iter().all(|kind| kind == Some("TABLE")));
    assert_eq!(batch.num_columns(), 4);
    assert_eq!(tables(&CommandGetTables::default(), &[]).unwrap().num_rows(), 0);
}

#[test]
fn patterns_select_tables_and_escapes_are_literal() {
    let by = |schema: Option<&str>, table: Option<&str>| {
        found(CommandGetTables {
            db_schema_filter_pattern: schema.map(Into::into),
            table_name_filter_pattern: table.map(Into::into),
            ..CommandGetTables::default()
        })
    };
    assert_eq!(by(None, Some("orders_eu")), ["sales.ordersXeu", "sales.orders_eu"]);
    assert_eq!(by(None, Some("orders\\_eu")), ["sales.orders_eu"]);
    assert_eq!(by(None, Some("a\\%b")), ["default.a%b"]);
    assert_eq!(by(None, Some("a\\%")), Vec::<String>::new());
    assert_eq!(by(Some("sales%"), Some("orders")), ["sales/2026.orders"]);
    assert_eq!(by(Some("sales"), None), ["sales.ordersXeu", "sales.orders_eu"]);
    assert_eq!(by(Some("default"), Some("%r%")), ["default.Orders"]);
    assert_eq!(by(None, Some("orders")), ["sales/2026.orders"]);
    assert_eq!(by(None, Some("")), Vec::<String>::new());
    assert_eq!(by(None, Some("%")).len(), 6);
    assert_eq!(by(Some(".*"), Some("[a-z]")), Vec::<String>::new());
}

#[test]
fn catalog_and_types_select_all_tables_or_none() {
    let by = |catalog: Option<&str>, types: &[&str]| {
        found(CommandGetTables {
            catalog: catalog.map(Into::into),
            table_types: types.iter().map(|kind| kind.to_string()).collect(),
            ..CommandGetTables::default()
        })
        .len()
    };
    assert_eq!((by(Some("volley"), &[]), by(None, &["VIEW", "TABLE"])), (6, 6));
    assert_eq!((by(Some(""), &[]), by(Some("vol%"), &[]), by(None, &["VIEW"])), (0, 0, 0));
}

#[test]
fn included_schema_is_a_message_that_arrow_reads() {
    let command = CommandGetTables { include_schema: true, ..CommandGetTables::default() };
    let batch = tables(&command, &some_tables()).unwrap();
    assert_eq!((batch.num_columns(), batch.num_rows()), (5, 6));
    for message in batch.column(4).as_binary::<i32>().iter() {
        let schema = Schema::try_from(IpcMessage(Bytes::copy_from_slice(message.unwrap()))).unwrap();
        assert_eq!(schema, *listed("t").schema);
    }
}

#[test]
fn schema_over_a_message_is_refused_unless_left_out() {
    let long = "x".repeat(60_000);
    let fields: Vec<Field> = (0..80).map(|at| Field::new(format!("{at}{long}"), DataType::Int8, true)).collect();
    let all = [ListedTable { schema: Arc::new(Schema::new(fields)), ..listed("wide") }, listed("narrow")];
    let command = CommandGetTables { include_schema: true, ..CommandGetTables::default() };
    let error = tables(&command, &all).unwrap_err();
    assert!(error.code == Code::ResourceExhausted && error.message.contains("table wide"), "{error}");
    let narrow = CommandGetTables { table_name_filter_pattern: Some("narrow".into()), ..command };
    assert_eq!(tables(&narrow, &all).unwrap().num_rows(), 1);
    assert_eq!(tables(&CommandGetTables::default(), &all).unwrap().num_rows(), 2);
}

#[test]
fn schemas_are_distinct_and_the_default_one_always_exists() {
    let of = |catalog: Option<&str>, pattern: Option<&str>, all: &[ListedTable]| {
        let command =
            CommandGetDbSchemas { catalog: catalog.map(Into::into), db_schema_filter_pattern: pattern.map(Into::into) };
        let batch = db_schemas(&command, all).unwrap();
        batch.column(1).as_string::<i32>().iter().map(|name| name.unwrap().to_string()).collect::<Vec<_>>()
    };
    let all = some_tables();
    assert_eq!(of(None, None, &all), ["default", "sales", "sales/2026"]);
    assert_eq!(of(Some("volley"), Some("sales%"), &all), ["sales", "sales/2026"]);
    assert_eq!(of(None, Some("sales_2026"), &all), ["sales/2026"]);
    assert_eq!(of(None, None, &[]), ["default"]);
    assert_eq!(of(Some(""), None, &all), Vec::<String>::new());
}

#[test]
fn long_pattern_is_refused() {
    let long = Some("%".repeat(MAX_PATTERN_BYTES + 1));
    let command = CommandGetTables { table_name_filter_pattern: long.clone(), ..CommandGetTables::default() };
    assert_eq!(tables(&command, &some_tables()).unwrap_err().code, Code::InvalidArgument);
    let command = CommandGetDbSchemas { catalog: None, db_schema_filter_pattern: long };
    assert_eq!(db_schemas(&command, &[]).unwrap_err().code, Code::InvalidArgument);
    let longest = Some("\\_".repeat(MAX_PATTERN_BYTES / 2));
    let command = CommandGetTables { table_name_filter_pattern: longest, ..CommandGetTables::default() };
    assert_eq!(tables(&command, &some_tables()).unwrap().num_rows(), 0);
}
