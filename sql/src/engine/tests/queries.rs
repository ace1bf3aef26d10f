//! Results of queries.

use arrow::array::{Array, ArrayRef, FixedSizeBinaryArray, Int64Array, StructArray};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field};
use datafusion::common::ScalarValue;
use volley_common::Code;

use super::memory_source::{ScanEnd, order_schema, orders};
use super::*;
use crate::statement::{SqlStatement, parse};

#[tokio::test]
async fn joins_match_rows_of_two_tables() {
    let rig = EngineRig::new();
    let tables = ["orders", "customers"];
    let inner = r#"SELECT o.id, c."City" FROM orders o JOIN customers c ON o.customer = c.name ORDER BY o.id"#;
    assert_eq!(rig.rows(inner, &tables).await, ["1|Rome", "2|Oslo", "3|Rome"]);
    let left = r#"SELECT o.id, c."City" FROM orders o LEFT JOIN customers c ON o.customer = c.name ORDER BY o.id"#;
    assert_eq!(rig.rows(left, &tables).await, ["1|Rome", "2|Oslo", "3|Rome", "4|null", "5|null"]);
    let cross = "SELECT o.id, c.name FROM orders o, customers c WHERE o.id > 4 ORDER BY 2";
    assert_eq!(rig.rows(cross, &tables).await, ["5|a", "5|b"]);
}

#[tokio::test]
async fn aggregates_and_windows_see_all_parts() {
    let rig = EngineRig::new();
    let groups = "SELECT customer, sum(amount), count(*) FROM orders GROUP BY customer ORDER BY customer";
    assert_eq!(rig.rows(groups, &["orders"]).await, ["a|40|2", "b|20|1", "c|50|1", "null|null|1"]);
    let having = "SELECT customer FROM orders GROUP BY customer HAVING max(amount) >= 30 ORDER BY 1";
    assert_eq!(rig.rows(having, &["orders"]).await, ["a", "c"]);
    let window = "SELECT id, sum(amount) OVER (ORDER BY id) FROM orders ORDER BY id";
    assert_eq!(rig.rows(window, &["orders"]).await, ["1|10", "2|30", "3|60", "4|60", "5|110"]);
    let ranks = "SELECT id, row_number() OVER (PARTITION BY customer ORDER BY id DESC) FROM orders ORDER BY id";
    assert_eq!(rig.rows(ranks, &["orders"]).await, ["1|2", "2|1", "3|1", "4|1", "5|1"]);
    assert_eq!(rig.rows("SELECT DISTINCT customer FROM orders ORDER BY 1 LIMIT 2", &["orders"]).await, ["a", "b"]);
}

#[tokio::test]
async fn ctes_and_subqueries_are_evaluated() {
    let rig = EngineRig::new();
    let tables = ["orders", "customers"];
    let cte = "WITH big AS (SELECT * FROM orders WHERE amount > 15) SELECT count(*), min(id) FROM big";
    assert_eq!(rig.rows(cte, &["orders"]).await, ["3|2"]);
    let recursive = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4) SELECT sum(i) FROM n";
    assert_eq!(rig.rows(recursive, &[]).await, ["10"]);
    let exists = "SELECT name FROM customers c
        WHERE EXISTS (SELECT 1 FROM orders o WHERE o.customer = c.name AND o.amount > 25)";
    assert_eq!(rig.rows(exists, &tables).await, ["a"]);
    let scalar = "SELECT id FROM orders WHERE amount = (SELECT max(amount) FROM orders)";
    assert_eq!(rig.rows(scalar, &["orders"]).await, ["5"]);
    let within = "SELECT id FROM orders WHERE customer IN (SELECT name FROM customers) ORDER BY id";
    assert_eq!(rig.rows(within, &tables).await, ["1", "2", "3"]);
    let union = "SELECT id FROM orders UNION ALL SELECT amount FROM orders WHERE id = 5 ORDER BY 1";
    assert_eq!(rig.rows(union, &["orders"]).await, ["1", "2", "3", "4", "5", "50"]);
}

/// The parser of the engine takes all that follows for the right operand.
#[tokio::test]
async fn conditions_after_is_distinct_from_are_their_own() {
    let rig = EngineRig::new();
    for (condition, expected) in [
        ("false IS NOT DISTINCT FROM true AND false", "false"),
        ("false IS NOT DISTINCT FROM (true AND false)", "true"),
        ("true IS DISTINCT FROM true OR true", "true"),
        ("NOT false IS DISTINCT FROM false AND false", "false"),
        ("false AND true IS DISTINCT FROM false OR true", "true"),
        ("1 IS DISTINCT FROM NULL IS NULL", "false"),
        ("1 BETWEEN 0 AND 2 IS DISTINCT FROM true AND false", "false"),
        ("CASE WHEN false IS NOT DISTINCT FROM true AND false THEN 1 ELSE 2 END", "2"),
    ] {
        let sql = format!("SELECT {condition} AS x");
        assert_eq!(rig.rows(&sql, &[]).await, [expected], "{condition}");
    }
    let join =
        "SELECT o.id FROM orders o JOIN customers c ON o.customer IS NOT DISTINCT FROM c.name AND o.id > 1 ORDER BY 1";
    assert_eq!(rig.rows(join, &["orders", "customers"]).await, ["2", "3"]);
}

#[tokio::test]
async fn statements_without_tables_run() {
    let rig = EngineRig::new();
    assert_eq!(rig.rows("SELECT 1 + 1, 'x'", &[]).await, ["2|x"]);
    assert_eq!(rig.rows("VALUES (1, 'a'), (2, NULL)", &[]).await, ["1|a", "2|null"]);
    assert_eq!(rig.rows("SELECT value FROM generate_series(1, 3)", &[]).await, ["1", "2", "3"]);
}

#[tokio::test]
async fn two_versions_of_a_table_are_read_at_once() {
    let rig = EngineRig::new();
    let sql = r#"SELECT (SELECT count(*) FROM orders), (SELECT sum(id) FROM "orders@1")"#;
    let tables = ["orders", "orders@1"];
    assert_eq!(rig.rows(sql, &tables).await, ["5|3"]);
    let pinned = rig.prepare(sql, &tables).await.unwrap().tables();
    assert_eq!(pinned.iter().map(|table| table.version).collect::<Vec<_>>(), [Some(2), Some(1)]);
    // As the holder of a ticket runs it.
    assert_eq!(rig.rows(sql, &["orders@2", "orders@1"]).await, ["5|3"]);
    assert_eq!(rig.rows("SELECT count(id) FROM orders", &["orders@1"]).await, ["2"]);
    let join = r#"SELECT n.id FROM orders AS n LEFT ANTI JOIN "orders@1" AS o ON n.id = o.id ORDER BY 1"#;
    assert_eq!(rig.rows(join, &tables).await, ["3", "4", "5"]);
}

#[tokio::test]
async fn parsed_statements_name_the_versions_that_are_read() {
    let mut tables = order_tables();
    tables.push(MemoryTable::new("orders@1", 4, order_schema(), vec![vec![orders(&[(8, None, None)])]]));
    let rig = EngineRig::with(config(), tables);
    let sql = r#"SELECT (SELECT sum(id) FROM "orders@1"), (SELECT sum(id) FROM orders FOR VERSION AS OF 1),
        (SELECT sum(n.id) FROM orders n JOIN orders FOR VERSION AS OF 1 ON n.id = orders.id AND n.id > ?)"#;
    let SqlStatement::Query(mut query) = parse(sql).unwrap() else { panic!("{sql}") };
    for _ in 0..2 {
        let one = Some(ParamValues::from(vec![ScalarValue::from(1_i64)]));
        let planned = rig.engine.prepare(rig.source.clone(), &query, one, CallerKey::Cluster).await.unwrap();
        // As the holder of a ticket runs it.
        query.tables = planned.tables();
        let stream = rig.engine.run(planned, CallerKey::Cluster).await.unwrap();
        assert_eq!(text(&stream.try_collect::<Vec<_>>().await.unwrap()), ["8|3|2"]);
    }
    assert!(query.tables.iter().all(|table| table.version.is_some()));
}

#[tokio::test]
async fn tables_in_folders_have_schemas() {
    let rig = EngineRig::new();
    let tables = ["sales/eu/orders"];
    for name in [r#""sales/eu".orders"#, r#"volley."sales/eu".orders"#, r#""sales/eu/orders""#] {
        assert_eq!(rig.rows(&format!("SELECT id + 0 FROM {name}"), &tables).await, ["9"], "{name}");
    }
}

#[tokio::test]
async fn empty_table_has_no_rows_and_its_schema() {
    let rig = EngineRig::new();
    let stream = rig.start("SELECT * FROM vacant", &["vacant"]).await.unwrap();
    assert_eq!(stream.schema().fields().len(), 3);
    assert!(stream.try_collect::<Vec<_>>().await.unwrap().is_empty());
    assert_eq!(rig.rows("SELECT count(*), sum(amount) FROM vacant", &["vacant"]).await, ["0|null"]);
    assert_eq!(rig.rows("SELECT count(id) FROM vacant WHERE id > 1", &["vacant"]).await, ["0"]);
    let join = "SELECT o.id FROM orders o LEFT JOIN vacant e ON o.id = e.id ORDER BY 1 LIMIT 1";
    assert_eq!(rig.rows(join, &["orders", "vacant"]).await, ["1"]);
}

#[tokio::test]
async fn rows_are_counted_without_their_columns() {
    let rig = EngineRig::new();
    assert_eq!(rig.rows("SELECT count(*) FROM orders", &["orders"]).await, ["5"]);
    assert!(rig.scans().is_empty(), "the catalog knows how many rows there are");
    assert_eq!(rig.rows("SELECT count(amount) FROM orders", &["orders"]).await, ["4"]);
    rig.scans();
    assert_eq!(rig.rows("SELECT count(*) FROM orders WHERE amount > 15", &["orders"]).await, ["3"]);
    let scans = rig.scans();
    assert!(!scans.is_empty());
    assert!(scans.iter().all(|scan| scan.columns.is_empty() && scan.filter.is_some()), "{scans:?}");
    assert_eq!(rig.rows("SELECT 7 FROM orders WHERE id < 3", &["orders"]).await, ["7", "7"]);
    let limited = "SELECT count(*) FROM (SELECT * FROM orders LIMIT 2)";
    assert_eq!(rig.rows(limited, &["orders"]).await, ["2"]);
}

#[tokio::test]
async fn subquery_without_rows_is_null() {
    let rig = EngineRig::new();
    for (sql, expected) in [
        (
            "SELECT id, (SELECT a FROM (SELECT 1 AS a) WHERE a = o.id) FROM orders o WHERE id < 3 ORDER BY id",
            ["1|1", "2|null"],
        ),
        (
            "SELECT id, x FROM (SELECT id, (SELECT count(*) + 2 AS n FROM orders p WHERE p.id = o.id HAVING count(*) > 1) AS x FROM orders o) WHERE id < 3 ORDER BY id",
            ["1|null", "2|null"],
        ),
    ] {
        assert_eq!(rig.rows(sql, &["orders"]).await, expected, "{sql}");
        assert!(rig.prepare(sql, &["orders"]).await.unwrap().schema().field(1).is_nullable(), "{sql}");
    }
}

#[tokio::test]
async fn columns_of_values_without_bytes_are_refused() {
    let no_bytes = FixedSizeBinaryArray::try_new_with_len(0, Buffer::default(), None, 3).unwrap();
    let nested: ArrayRef = Arc::new(StructArray::from(vec![(
        Arc::new(Field::new("inner", no_bytes.data_type().clone(), true)),
        Arc::new(no_bytes.clone()) as ArrayRef,
    )]));
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let batch =
        RecordBatch::try_from_iter([("id", ids), ("z", Arc::new(no_bytes) as ArrayRef), ("s", nested)]).unwrap();
    let rig = EngineRig::with(config(), vec![MemoryTable::new("v", 1, batch.schema(), vec![vec![batch]])]);
    for sql in
        ["SELECT z, count(*) FROM v GROUP BY z", "SELECT s FROM v ORDER BY id DESC", "SELECT z FROM v ORDER BY id"]
    {
        let error = rig.error(sql, &["v"]).await;
        assert_eq!(error.code, Code::Unimplemented, "{sql}: {error}");
        assert!(error.message.contains("select the other columns"), "{sql}: {error}");
    }
    assert_eq!(rig.rows("SELECT id FROM v ORDER BY id DESC", &["v"]).await, ["3", "2", "1"]);
    assert_eq!(rig.rows("SELECT count(*) FROM v WHERE id > 1", &["v"]).await, ["2"]);
}

#[tokio::test]
async fn holders_get_projection_filter_and_limit() {
    let rig = EngineRig::new();
    let sql = "SELECT upper(customer) FROM orders WHERE amount > 15 AND customer = 'a'";
    assert_eq!(rig.rows(sql, &["orders"]).await, ["A"]);
    for scan in rig.scans() {
        assert_eq!(scan.columns, [1]);
        let filter = scan.filter.unwrap();
        assert_eq!(filter.columns(), [1, 2], "{}", filter.text());
    }
    assert_eq!(rig.rows("SELECT id + 0 FROM orders LIMIT 2", &["orders"]).await.len(), 2);
    assert!(rig.scans().iter().all(|scan| scan.limit == Some(2)));
    assert_eq!(rig.rows("SELECT id + 0 FROM orders LIMIT 2 OFFSET 2", &["orders"]).await.len(), 2);
    // Its value depends on the moment: the engine evaluates it.
    assert_eq!(rig.rows("SELECT id FROM orders WHERE random() < 2 AND id = 3", &["orders"]).await, ["3"]);
}

#[tokio::test]
async fn filters_that_are_too_long_together_are_split() {
    let rig = EngineRig::new();
    let (x, y) = ("x".repeat(40_000), "y".repeat(40_000));
    let sql = format!(r#"SELECT upper(name) FROM customers WHERE name <> '{x}' AND "City" <> '{y}' ORDER BY 1"#);
    assert_eq!(rig.rows(&sql, &["customers"]).await, ["A", "B"]);
    let scans = rig.scans();
    assert!(!scans.is_empty());
    assert!(scans.iter().all(|scan| scan.filter.is_some() && scan.limit.is_none()));
    let sql = format!(r#"SELECT upper(name) FROM customers WHERE name <> '{x}' AND "City" <> '{y}' LIMIT 1"#);
    assert_eq!(rig.rows(&sql, &["customers"]).await.len(), 1);
}

#[tokio::test]
async fn filter_that_is_too_deep_for_holders_is_evaluated() {
    let rig = EngineRig::new();
    let sql = format!("SELECT * FROM orders WHERE amount {} > 60", "+ id ".repeat(220));
    let SqlStatement::Query(query) = parse(&sql).unwrap() else { panic!("{sql}") };
    let planned = rig.engine.prepare(rig.source.clone(), &query, None, CallerKey::Cluster).await.unwrap();
    let stream = rig.engine.run(planned, CallerKey::Cluster).await.unwrap();
    let mut rows = text(&stream.try_collect::<Vec<_>>().await.unwrap());
    rows.sort();
    assert_eq!(rows, ["1|a|10", "2|b|20", "3|a|30", "5|c|50"]);
    assert!(rig.scans().iter().all(|scan| scan.filter.is_none()));
}

#[tokio::test]
async fn parameters_are_typed_and_bound() {
    let rig = EngineRig::new();
    let sql = "SELECT id FROM orders WHERE amount > $1 AND customer = $2 ORDER BY id";
    let query = rig.prepare(sql, &["orders"]).await.unwrap();
    let types = query.parameter_types();
    let names: Vec<&str> = types.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["$1", "$2"]);
    assert_eq!(types[0].1, Some(DataType::Int64));
    assert!(!query.is_bound());
    let unbound = rig.engine.run(query, CallerKey::Cluster).await.unwrap_err();
    assert_eq!(unbound.code, Code::InvalidArgument);

    let prepare = async |values: Vec<ScalarValue>| {
        let values = Some(ParamValues::from(values));
        rig.engine.prepare(rig.source.clone(), &statement(sql, &["orders"]), values, CallerKey::Cluster).await
    };
    let query = prepare(vec![ScalarValue::from(5_i32), ScalarValue::from("a")]).await.unwrap();
    assert_eq!(query.parameter_types().len(), 2);
    let stream = rig.engine.run(query, CallerKey::Cluster).await.unwrap();
    assert_eq!(text(&stream.try_collect::<Vec<_>>().await.unwrap()), ["1", "3"]);
    for values in [vec![ScalarValue::from(5_i64)], vec![ScalarValue::from(5_i64); 3]] {
        assert_eq!(prepare(values).await.unwrap_err().code, Code::InvalidArgument);
    }
}

#[tokio::test]
async fn parameter_that_is_cast_has_the_type_of_the_cast() {
    let rig = EngineRig::new();
    let sql = "SELECT id, CAST($1 AS DATE), try_cast($2 AS DOUBLE), $3 FROM orders WHERE id = CAST($4 AS BIGINT)";
    let query = rig.prepare(sql, &["orders"]).await.unwrap();
    let types: Vec<_> = query.parameter_types().iter().map(|(_, data_type)| data_type.clone()).collect();
    assert_eq!(types, [Some(DataType::Date32), Some(DataType::Float64), None, Some(DataType::Int64)]);
}

#[tokio::test]
async fn wrong_statements_are_refused_with_reasons() {
    let rig = EngineRig::new();
    let refused = async |sql: &str| rig.error(sql, &["orders", "customers"]).await;
    for (sql, code, text) in [
        ("SELECT idd FROM orders", Code::InvalidArgument, "idd"),
        ("SELECT city FROM customers", Code::InvalidArgument, "did you mean customers.\"City\"?"),
        ("SELECT id FROM orders WHERE", Code::InvalidArgument, "SQL"),
        ("SELECT nosuch(id) FROM orders", Code::InvalidArgument, "nosuch"),
        ("SELECT 1 / (id - id) FROM orders", Code::InvalidArgument, "division by zero"),
        ("SELECT CAST(customer AS BIGINT) FROM orders", Code::InvalidArgument, "a"),
        ("SELECT 1 FROM elsewhere", Code::NotFound, "elsewhere"),
        ("SELECT 1 FROM other.public.orders", Code::NotFound, "other"),
        ("DROP TABLE orders", Code::Unimplemented, "only queries"),
        ("CREATE TABLE x AS SELECT 1", Code::Unimplemented, "only queries"),
        ("CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'", Code::Unimplemented, "only queries"),
        ("COPY orders TO '/tmp/x.csv'", Code::Unimplemented, "only queries"),
        ("SET x = 1", Code::Unimplemented, "only queries"),
    ] {
        let error = refused(sql).await;
        assert_eq!(error.code, code, "{sql}: {error}");
        assert!(error.message.contains(text), "{sql}: {error}");
    }
}

#[tokio::test]
async fn scan_that_lacks_rows_is_an_error() {
    let parts = vec![vec![orders(&[(1, None, None)]), orders(&[(2, None, None), (3, None, None)])]];
    let table = MemoryTable::new("short", 6, order_schema(), parts).ending(ScanEnd::Short);
    let rig = EngineRig::with(config(), vec![table]);
    for sql in ["SELECT * FROM short", "SELECT count(amount) FROM short"] {
        let error = rig.error(sql, &["short"]).await;
        assert_eq!(error.code, Code::Internal, "{sql}");
        assert!(error.message.contains("table short at version 6 have 3 rows, but 1 were read"), "{error}");
    }
    // Enough rows were read before the end.
    assert_eq!(rig.rows("SELECT id FROM short LIMIT 1", &["short"]).await, ["1"]);
}

#[tokio::test]
async fn errors_of_the_source_pass_through() {
    let loss = Error::data_loss("part 7 of table broken is corrupt");
    let row = || vec![vec![orders(&[(1, Some("a"), Some(1))])]; 3];
    let mut tables = order_tables();
    tables.push(MemoryTable::new("broken", 1, order_schema(), row()).ending(ScanEnd::Fails(loss.clone())));
    tables.push(MemoryTable::new("panics", 1, order_schema(), row()).ending(ScanEnd::Panics));
    let rig = EngineRig::with(config(), tables);
    for sql in [
        "SELECT * FROM broken",
        "SELECT sum(amount) FROM broken GROUP BY customer",
        "SELECT * FROM broken ORDER BY customer",
        "SELECT * FROM orders o JOIN broken b ON o.id = b.id",
        "SELECT (SELECT max(id) FROM broken)",
    ] {
        assert_eq!(rig.error(sql, &["orders", "broken"]).await, loss, "{sql}");
    }
    let missing = rig.error("SELECT * FROM missing", &["missing"]).await;
    assert_eq!(missing, Error::not_found("no table missing, says the test"));
    for sql in ["SELECT * FROM panics", "SELECT count(amount) FROM panics ORDER BY 1"] {
        assert_eq!(rig.error(sql, &["panics"]).await.code, Code::Internal, "{sql}");
    }
    assert_eq!(rig.rows("SELECT 1 FROM orders WHERE id = 1", &["orders"]).await, ["1"]);
}
