//! Queries whose answer would be wrong are refused, and those like them are answered.

use arrow::array::{Array, ArrayRef, Int64Array, StructArray};
use arrow::datatypes::Field;
use volley_common::Code;

use super::*;

const TABLES: [&str; 2] = ["orders", "customers"];

/// Of `orders` the columns `customer` and `amount` can be null, of `customers` the column `City`.
async fn refused(sql: &str, why: &str) {
    let rig = EngineRig::new();
    for sql in [sql.to_string(), format!("EXPLAIN {sql}"), format!("SELECT count(*) FROM ({sql}) AS u")] {
        let error = rig.prepare(&sql, &TABLES).await.err().unwrap_or_else(|| panic!("{sql}"));
        assert!(error.code == Code::Unimplemented && error.message.contains(why), "{sql}: {error}");
    }
}

async fn rows(sql: &str) -> Vec<String> {
    EngineRig::new().rows(sql, &TABLES).await
}

#[tokio::test]
async fn null_of_not_in_is_not_taken_for_false() {
    for sql in [
        "SELECT id FROM orders WHERE id > 4 OR customer NOT IN (SELECT name FROM customers)",
        "SELECT id FROM orders WHERE NOT (id > 4 OR customer IN (SELECT name FROM customers))",
        "SELECT id FROM orders WHERE (customer IN (SELECT name FROM customers)) IS NULL",
        "SELECT id FROM orders WHERE (customer IN (SELECT name FROM customers)) = (id < 3)",
        "SELECT name FROM customers WHERE 'x' NOT IN (SELECT customer FROM orders)",
        "SELECT id FROM orders WHERE nullif(id, 1) NOT IN (SELECT id FROM orders)",
        "SELECT name FROM customers c WHERE name NOT IN (SELECT customer FROM orders o WHERE o.id > length(c.name))",
        "SELECT id, customer IN (SELECT name FROM customers) AS known FROM orders",
    ] {
        refused(sql, "NOT EXISTS").await;
    }
    assert_eq!(rows("SELECT id FROM orders WHERE customer NOT IN (SELECT name FROM customers)").await, ["5"]);
    assert!(rows("SELECT name FROM customers WHERE name NOT IN (SELECT customer FROM orders)").await.is_empty());
    let alternative = "SELECT id FROM orders WHERE id = 4 OR customer IN (SELECT name FROM customers) ORDER BY id";
    assert_eq!(rows(alternative).await, ["1", "2", "3", "4"]);
    let without_nulls =
        "SELECT id FROM orders WHERE id = 5 OR id NOT IN (SELECT id FROM orders WHERE amount > 15) ORDER BY id";
    assert_eq!(rows(without_nulls).await, ["1", "4", "5"]);
    let exists = "SELECT name FROM customers c WHERE name = 'a'
        OR NOT EXISTS (SELECT 1 FROM orders o WHERE o.customer = c.name AND amount > 15) ORDER BY name";
    assert_eq!(rows(exists).await, ["a"]);
}

/// Looked at again at each level, thirty would take hours.
#[test]
fn tests_of_tests_are_each_looked_at_once() {
    // As nodes have it: the engine recurses for each level.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.thread_stack_size(32 << 20).enable_all().build().unwrap();
    runtime.block_on(look_at_tests_of_tests());
}

async fn look_at_tests_of_tests() {
    let chain = |first: &str| format!("{first} IN (SELECT id FROM orders){}", " IN (SELECT true)".repeat(30));
    for sql in [
        format!("SELECT id FROM orders WHERE {}", chain("id")),
        format!("SELECT id, {} AS known FROM orders", chain("id")),
    ] {
        EngineRig::new().prepare(&sql, &TABLES).await.unwrap();
    }
    refused(&format!("SELECT id FROM orders WHERE {}", chain("amount")), "NOT EXISTS").await;
}

#[tokio::test]
async fn correlated_subqueries_compute_nothing_of_the_rows_of_all() {
    for sql in [
        "SELECT name FROM customers c WHERE 1 IN (SELECT row_number() OVER (ORDER BY id) FROM orders o WHERE o.customer = c.name)",
        "SELECT c.name, n FROM customers c CROSS JOIN LATERAL
            (SELECT row_number() OVER (ORDER BY id) AS n FROM orders o WHERE o.customer = c.name) AS x",
    ] {
        refused(sql, "window function").await;
    }
    for sql in [
        "SELECT name FROM customers c WHERE EXISTS (SELECT count(*) FROM orders o WHERE o.customer = c.name)",
        "SELECT name FROM customers c WHERE 0 IN (SELECT count(*) FROM orders o WHERE o.customer = c.name)",
        "SELECT name FROM customers c WHERE 0 = ANY (SELECT count(*) FROM orders o WHERE o.customer = c.name)",
    ] {
        refused(sql, "without GROUP BY").await;
    }
    refused(
        "SELECT name FROM customers c WHERE EXISTS (SELECT 1 FROM orders o WHERE o.customer = c.name OFFSET 1)",
        "OFFSET",
    )
    .await;
    let counts = "SELECT name, (SELECT count(*) FROM orders o WHERE o.customer = c.name) FROM customers c ORDER BY 1";
    assert_eq!(rows(counts).await, ["a|2", "b|1"]);
    let limited = "SELECT name FROM customers c WHERE EXISTS
        (SELECT 1 FROM orders o WHERE o.customer = c.name AND o.amount > 25 LIMIT 1)";
    assert_eq!(rows(limited).await, ["a"]);
    let grouped = "SELECT name FROM customers c WHERE 20 IN
        (SELECT sum(amount) FROM orders o WHERE o.customer = c.name GROUP BY o.customer)";
    let uncorrelated = "SELECT id FROM orders WHERE id IN (SELECT count(*) FROM orders)";
    for sql in [grouped, uncorrelated] {
        EngineRig::new().prepare(sql, &TABLES).await.unwrap();
    }
}

#[tokio::test]
async fn clauses_that_functions_ignore_are_refused() {
    for (sql, why) in [
        ("SELECT corr(DISTINCT id, amount) FROM orders", "corr with DISTINCT"),
        ("SELECT customer, regr_slope(DISTINCT id, amount) FROM orders GROUP BY customer", "regr_slope"),
        ("SELECT lag(DISTINCT id) OVER (ORDER BY id) FROM orders", "lag"),
        (
            "SELECT sum(id) OVER (ORDER BY CAST(id AS BIGINT UNSIGNED) RANGE BETWEEN 5 PRECEDING AND 3 PRECEDING) FROM orders",
            "RANGE",
        ),
    ] {
        let error = EngineRig::new().prepare(sql, &TABLES).await.err().unwrap_or_else(|| panic!("{sql}"));
        assert!(error.code == Code::Unimplemented && error.message.contains(why), "{sql}: {error}");
    }
    let distinct =
        "SELECT count(DISTINCT customer), sum(DISTINCT amount), avg(amount) FILTER (WHERE id > 2) FROM orders";
    assert_eq!(rows(distinct).await, ["3|110|40.0"]);
    let frame =
        "SELECT id, sum(id) OVER (ORDER BY id RANGE BETWEEN 3 PRECEDING AND 2 PRECEDING) FROM orders ORDER BY id";
    assert_eq!(rows(frame).await, ["1|null", "2|null", "3|1", "4|3", "5|5"]);
    let window = "SELECT id, sum(amount) FILTER (WHERE id > 2) OVER (ORDER BY id) FROM orders ORDER BY id";
    assert_eq!(rows(window).await, ["1|null", "2|null", "3|30", "4|30", "5|80"]);
}

#[tokio::test]
async fn groups_of_structs_without_fields_are_refused() {
    let empty: ArrayRef = Arc::new(StructArray::new_empty_fields(3, None));
    let field = Arc::new(Field::new("inner", empty.data_type().clone(), true));
    let nested: ArrayRef = Arc::new(StructArray::from(vec![(field, empty.clone())]));
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let batch = RecordBatch::try_from_iter([("id", ids), ("e", empty), ("s", nested)]).unwrap();
    let rig = EngineRig::with(config(), vec![MemoryTable::new("v", 1, batch.schema(), vec![vec![batch]])]);
    for sql in [
        "SELECT e, count(*) FROM v GROUP BY e",
        "SELECT id, s, count(*) FROM v GROUP BY ROLLUP (id, s)",
        "SELECT DISTINCT s FROM v",
        "SELECT DISTINCT ON (e) id FROM v",
        "SELECT count(DISTINCT e) FROM v",
        "SELECT e FROM v UNION SELECT e FROM v",
        "SELECT id, e FROM v INTERSECT SELECT id, e FROM v",
    ] {
        let error = rig.error(sql, &["v"]).await;
        assert!(
            error.code == Code::Unimplemented && error.message.contains("leave such columns out"),
            "{sql}: {error}"
        );
    }
    assert_eq!(rig.rows("SELECT id FROM v WHERE e IS NOT NULL GROUP BY id ORDER BY id", &["v"]).await, ["1", "2", "3"]);
    assert_eq!(rig.rows("SELECT id FROM (SELECT id, e, s FROM v ORDER BY s, id)", &["v"]).await, ["1", "2", "3"]);
    assert_eq!(rig.rows("SELECT count(e), count(*) FROM v", &["v"]).await, ["3|3"]);
}
