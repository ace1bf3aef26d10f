//! What is refused because its answer would be wrong.

use super::*;

/// Wherever a query can be.
fn within(query: &str) -> Vec<String> {
    [
        "{}",
        "({}) ORDER BY 1 LIMIT 3",
        "SELECT count(*) FROM ({}) AS u",
        "SELECT a FROM t WHERE a IN ({})",
        "SELECT a FROM t WHERE EXISTS ({}) AND a > 1",
        "SELECT (SELECT max(x) FROM ({}) AS u)",
        "WITH u AS ({}) SELECT * FROM u",
        "SELECT 1 UNION ALL (({}) UNION SELECT 2)",
        "EXPLAIN {}",
        "EXPLAIN ANALYZE {}",
        "INSERT INTO t {}",
        "CREATE TABLE n AS {}",
    ]
    .map(|outer| outer.replacen("{}", query, 1))
    .to_vec()
}

#[test]
fn set_operators_that_count_copies_are_refused_everywhere() {
    for operator in ["INTERSECT", "EXCEPT"] {
        for sql in within(&format!("SELECT x FROM a {operator} ALL SELECT x FROM b")) {
            let error = error(&sql, Code::Unimplemented);
            assert!(error.starts_with(operator) && error.contains("row_number() OVER"), "{sql}: {error}");
        }
        for sound in ["", " DISTINCT"] {
            for sql in within(&format!("SELECT x FROM a {operator}{sound} SELECT x FROM b UNION ALL SELECT 1")) {
                parse(&sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
            }
        }
    }
    let last = "SELECT 1 UNION ALL SELECT 2 EXCEPT SELECT 3 UNION SELECT 4 EXCEPT ALL SELECT 5";
    error(last, Code::Unimplemented);
}
