//! Plans, lists of tables, and schemas.

use std::sync::atomic::Ordering;

use arrow::array::{ArrayRef, BinaryViewArray, Int64Array, StringViewArray};
use arrow::datatypes::{DataType, Field, Schema};
use futures::StreamExt;
use volley_common::Code;

use super::*;

#[tokio::test]
async fn explain_shows_what_is_read_of_each_table() {
    let rig = EngineRig::new();
    let plan = rig.rows("EXPLAIN SELECT id FROM orders WHERE amount > 15", &["orders"]).await.join("\n");
    let scan =
        "PartScanExec: table=orders, version=2, parts=3, rows=5, bytes=5000, partitions=2, columns=[id], filter=";
    assert!(plan.contains(scan), "{plan}");
    assert!(!plan.contains("FilterExec"), "{plan}");
    assert!(rig.scans().is_empty());
    let tree = rig.rows("EXPLAIN FORMAT TREE SELECT id FROM orders", &["orders"]).await.join("\n");
    assert!(tree.contains("PartScanExec"), "{tree}");
}

#[tokio::test]
async fn explain_analyze_shows_rows_and_bytes() {
    let rig = EngineRig::new();
    let plan = rig.rows("EXPLAIN ANALYZE SELECT id FROM orders WHERE amount > 15", &["orders"]).await.join("\n");
    let scan = plan.lines().find(|line| line.contains("PartScanExec")).unwrap();
    assert!(scan.contains("output_rows=3") && scan.contains("output_bytes="), "{plan}");
    assert!(scan.contains("table=orders, version=2") && scan.contains("bytes_received=0"), "{plan}");
}

#[tokio::test]
async fn tables_are_listed_only_when_asked_for() {
    let rig = EngineRig::new();
    rig.rows("SELECT id FROM orders", &["orders"]).await;
    assert_eq!(rig.source.lists.load(Ordering::Relaxed), 0);
    let tables = rig.rows("SHOW TABLES", &[]).await;
    assert!(tables.contains(&"volley|default|orders|BASE TABLE".to_string()), "{tables:?}");
    assert!(tables.contains(&"volley|sales/eu|orders|BASE TABLE".to_string()), "{tables:?}");
    assert_eq!(rig.source.lists.load(Ordering::Relaxed), 1);
    assert!(rig.scans().iter().all(|scan| scan.table.name.to_string() == "orders"));
}

#[tokio::test]
async fn information_schema_has_tables_and_columns() {
    let rig = EngineRig::new();
    let columns = "SELECT column_name, data_type, is_nullable FROM information_schema.columns
        WHERE table_name = 'customers' ORDER BY ordinal_position";
    assert_eq!(rig.rows(columns, &[]).await, ["name|Utf8|NO", "City|Utf8|YES"]);
    let schemas = "SELECT schema_name FROM information_schema.schemata ORDER BY 1";
    assert_eq!(rig.rows(schemas, &[]).await, ["default", "sales/eu"]);
    let both = "SELECT count(*) FROM information_schema.tables t, customers c
        WHERE t.table_schema = 'default' AND t.table_name = 'customers'";
    assert_eq!(rig.rows(both, &["customers"]).await, ["2"]);
}

#[tokio::test]
async fn describe_has_the_columns_of_a_table() {
    let rig = EngineRig::new();
    let columns = ["id|Int64|NO", "customer|Utf8|YES", "amount|Int64|YES"];
    assert_eq!(rig.rows("DESCRIBE orders", &["orders"]).await, columns);
    assert!(rig.scans().is_empty());
}

#[tokio::test]
async fn settings_of_the_node_are_not_shown() {
    let rig = EngineRig::new();
    for sql in [
        "SELECT * FROM information_schema.df_settings",
        r#"SELECT * FROM information_schema."DF_Settings""#,
        "SELECT 1 WHERE EXISTS (SELECT 1 FROM other.information_schema.df_settings)",
        "SHOW ALL",
    ] {
        assert_eq!(rig.error(sql, &[]).await.code, Code::Unimplemented, "{sql}");
    }
}

#[tokio::test]
async fn rows_have_the_schema_that_was_promised() {
    let rig = EngineRig::new();
    let tables = ["orders", "customers"];
    for sql in [
        "SELECT * FROM orders",
        "SELECT id, upper(customer) AS u FROM orders WHERE amount IS NOT NULL",
        "SELECT customer, avg(amount), array_agg(id), count(DISTINCT id) FROM orders GROUP BY customer",
        "SELECT o.*, c.* FROM orders o LEFT JOIN customers c ON o.customer = c.name WHERE c.name IS NOT NULL",
        "SELECT o.id, c.name FROM orders o FULL JOIN customers c ON o.customer = c.name",
        "SELECT id FROM orders UNION ALL SELECT NULL",
        "SELECT CAST(id AS VARCHAR), now(), NULL, 1.5, struct(id, amount) FROM orders",
        "SELECT lag(id) OVER (ORDER BY id), * FROM orders",
        "SELECT 1 FROM orders",
        "SELECT count(*) FROM orders",
        "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE SELECT id FROM orders",
        "DESCRIBE orders",
        "SHOW TABLES",
    ] {
        let query = rig.prepare(sql, &tables).await.unwrap();
        let promised = query.schema();
        let mut stream = rig.engine.run(query, CallerKey::Cluster).await.unwrap();
        assert_eq!(stream.schema(), promised, "{sql}");
        let mut rows = 0;
        while let Some(batch) = stream.next().await {
            let batch = batch.unwrap();
            assert_eq!(batch.schema(), promised, "{sql}");
            rows += batch.num_rows();
        }
        assert!(rows > 0, "{sql}");
    }
}

#[tokio::test]
async fn metadata_of_columns_reaches_the_client() {
    let rig = EngineRig::new();
    let schema = rig.prepare("SELECT amount, id FROM orders WHERE id > 0", &["orders"]).await.unwrap().schema();
    assert_eq!(schema.field(1).metadata()["note"], "of a column");
    assert!(!schema.field(1).is_nullable());
    assert!(schema.field(0).is_nullable());
}

#[tokio::test]
async fn text_is_cast_to_utf8() {
    let rig = EngineRig::new();
    let schema = rig.prepare("SELECT CAST(id AS VARCHAR) FROM orders", &["orders"]).await.unwrap().schema();
    assert_eq!(schema.field(0).data_type(), &DataType::Utf8);
}

#[tokio::test]
async fn results_have_text_and_binary_in_place_of_views() {
    let texts: StringViewArray = [Some("a"), None, Some("longer than twelve bytes")].into_iter().collect();
    let bytes: BinaryViewArray = [Some(&b"\x00"[..]), Some(&b"\xff"[..]), None].into_iter().collect();
    let columns: [(&str, ArrayRef); 2] = [("t", Arc::new(texts)), ("b", Arc::new(bytes))];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap();
    let rig = EngineRig::with(config(), vec![MemoryTable::new("v", 1, batch.schema(), vec![vec![batch]])]);
    let list = |item: DataType| DataType::List(Arc::new(Field::new_list_field(item, true)));
    let hash = "0cc175b9c0f1b6a831c399e269772661";
    for (sql, types, first) in [
        ("SELECT * FROM v ORDER BY t", vec![DataType::Utf8, DataType::Binary], "a|00".to_string()),
        ("SELECT md5(t) FROM v ORDER BY t", vec![DataType::Utf8], hash.to_string()),
        ("SELECT make_array(b), [t] FROM v", vec![list(DataType::Binary), list(DataType::Utf8)], "[00]|[a]".into()),
        ("SELECT arrow_cast('x', 'Utf8View')", vec![DataType::Utf8], "x".into()),
    ] {
        let query = rig.prepare(sql, &["v"]).await.unwrap();
        let promised = query.schema();
        assert_eq!(promised.fields().iter().map(|field| field.data_type().clone()).collect::<Vec<_>>(), types, "{sql}");
        let batches: Vec<_> = rig.engine.run(query, CallerKey::Cluster).await.unwrap().try_collect().await.unwrap();
        assert!(batches.iter().all(|batch| batch.schema() == promised), "{sql}");
        assert_eq!(text(&batches)[0], first, "{sql}");
    }
}

#[tokio::test]
async fn batches_against_the_schema_of_their_table_are_refused() {
    let declared = Arc::new(Schema::new(vec![Field::new("x", DataType::Int64, false)]));
    let stored = Arc::new(Schema::new(vec![Field::new("x", DataType::Int64, true)]));
    let column: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
    let batch = RecordBatch::try_new(stored, vec![column]).unwrap();
    let rig = EngineRig::with(config(), vec![MemoryTable::new("bad", 3, declared, vec![vec![batch]])]);
    let error = rig.error("SELECT x FROM bad", &["bad"]).await;
    assert_eq!(error.code, Code::Internal);
    assert!(error.message.contains("table bad at version 3"), "{error}");
}
