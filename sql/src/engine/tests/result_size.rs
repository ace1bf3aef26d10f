//! How large the result of a query is expected to be.

use super::*;

async fn expected(rig: &EngineRig, sql: &str, tables: &[&str]) -> Option<u64> {
    rig.engine.result_bytes(&rig.prepare(sql, tables).await.unwrap(), 1, CallerKey::Cluster).await.unwrap()
}

#[tokio::test]
async fn rows_of_tables_make_the_size_of_a_result() {
    let rig = EngineRig::new();
    let of = async |sql: &str| expected(&rig, sql, &["orders"]).await.unwrap();
    let sorted = of("SELECT id, amount + 1 AS more FROM orders ORDER BY amount").await;
    assert!(sorted >= 5 * 16, "{sorted}");
    let twice = of("SELECT id, amount + 1 AS more FROM orders UNION ALL SELECT id, amount FROM orders").await;
    assert!(twice >= 10 * 16, "{twice}");
    let some = of("SELECT id, amount + 1 AS more FROM orders WHERE amount > 10 ORDER BY amount").await;
    assert!((1..sorted).contains(&some), "{some} {sorted}");
    let one = of("SELECT id, amount + 1 AS more FROM orders ORDER BY amount LIMIT 1").await;
    assert!((1..sorted).contains(&one), "{one} {sorted}");
    let joined = "SELECT o.id, c.name FROM orders o JOIN customers c ON o.customer = c.name";
    assert!(expected(&rig, joined, &["orders", "customers"]).await.is_some());
    assert_eq!(rig.scans().len(), 0, "no row is read");
}

#[tokio::test]
async fn size_is_unknown_where_nothing_tells_it() {
    let rig = EngineRig::new();
    for sql in [
        "SELECT customer, sum(amount) FROM orders GROUP BY customer",
        "SELECT DISTINCT customer FROM orders",
        "SELECT o.id FROM orders o JOIN (SELECT max(id) AS id FROM orders GROUP BY customer) m ON o.id = m.id",
        "EXPLAIN SELECT id FROM orders ORDER BY id",
        "SELECT id FROM orders WHERE id > $1",
    ] {
        assert_eq!(expected(&rig, sql, &["orders"]).await, None, "{sql}");
    }
    let planned = rig.prepare("SELECT id FROM orders ORDER BY id", &["orders"]).await.unwrap();
    let of_large = rig.engine.result_bytes(&planned, 1 << 30, CallerKey::Cluster).await;
    assert_eq!(of_large.unwrap(), None, "the table is small");
    assert_eq!(expected(&rig, "SELECT 1", &[]).await, None);
}
