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

#[test]
fn outer_joins_by_common_columns_are_refused() {
    for sql in [
        "SELECT id FROM a RIGHT JOIN b USING (id)",
        "SELECT a.x FROM a FULL JOIN b USING (id)",
        "SELECT id FROM a FULL OUTER JOIN b USING (id) JOIN c ON a.x = c.x",
        "SELECT id FROM a NATURAL RIGHT JOIN b",
        "SELECT * FROM a LEFT JOIN b USING (id)",
        "SELECT *, a.x FROM c, (a NATURAL LEFT JOIN b)",
        "SELECT x FROM c JOIN (a NATURAL FULL JOIN b) ON c.x = a.x",
    ] {
        for sql in within(sql) {
            let error = error(&sql, Code::Unimplemented);
            assert!(error.contains("coalesce(a.id, b.id)"), "{sql}: {error}");
        }
    }
    for sql in [
        "SELECT * FROM a JOIN b USING (id)",
        "SELECT * FROM a NATURAL JOIN b",
        "SELECT id, b.x FROM a LEFT JOIN b USING (id)",
        "SELECT b.* FROM a LEFT JOIN b USING (id)",
        "SELECT count(*) FROM a LEFT JOIN b USING (id)",
        "SELECT * FROM a FULL JOIN b ON a.id = b.id",
        "SELECT * FROM (SELECT id FROM a LEFT JOIN b USING (id))",
    ] {
        query(sql);
    }
}

#[test]
fn clauses_of_recursive_queries_that_would_be_lost_are_refused() {
    let sql = |inner: &str| format!("WITH RECURSIVE r AS ({inner}) SELECT * FROM r LIMIT 3");
    let recursion = "SELECT 1 AS i UNION ALL SELECT i + 1 FROM r";
    query(&sql(recursion));
    query(&sql("SELECT 1 AS i ORDER BY i LIMIT 5"));
    for end in ["LIMIT 5", "ORDER BY i", "OFFSET 1", "FETCH FIRST 5 ROWS ONLY"] {
        let error = error(&sql(&format!("{recursion} {end}")), Code::Unimplemented);
        assert!(error.contains("WITH RECURSIVE"), "{error}");
    }
    error(&sql(&format!("WITH x AS (SELECT 1) {recursion}")), Code::Unimplemented);
    error(&sql("SELECT 1 AS i UNION ALL BY NAME SELECT i + 1 FROM r"), Code::Unimplemented);
    query("WITH r AS (SELECT 1 AS i UNION ALL SELECT 2 ORDER BY i LIMIT 1) SELECT * FROM r");
}

#[test]
fn windows_that_would_be_mistaken_are_refused() {
    for sql in [
        "SELECT sum(x) OVER (w ORDER BY y) FROM t WINDOW w AS (PARTITION BY z)",
        "SELECT sum(x) OVER v FROM t WINDOW w AS (PARTITION BY z), v AS (w ORDER BY y)",
        "SELECT x FROM t WINDOW w AS (PARTITION BY z) QUALIFY row_number() OVER w = 1",
        "SELECT x FROM t WINDOW w AS (PARTITION BY z) ORDER BY sum(x) OVER w",
    ] {
        let error = error(sql, Code::Unimplemented);
        assert!(error.contains("window"), "{sql}: {error}");
    }
    query("SELECT sum(x) OVER w AS s FROM t WINDOW w AS (PARTITION BY z) ORDER BY s");
    query("SELECT x FROM t QUALIFY row_number() OVER (PARTITION BY z ORDER BY x) = 1");
}

#[test]
fn clauses_that_would_be_ignored_are_refused() {
    for (sql, clause) in [
        ("SELECT * ILIKE '%a%' FROM t", "* ILIKE"),
        ("SELECT t.* ILIKE '%a%' FROM t", "* ILIKE"),
        ("FROM t", "FROM without SELECT"),
        ("FROM t |> WHERE a > 1", "a query with |>"),
        ("SELECT * FROM (VALUES (1)) AS v(a TEXT)", "a type after"),
        ("WITH v(a TEXT) AS (SELECT 1) SELECT * FROM v", "a type after"),
        ("SELECT * FROM t, LATERAL generate_series(stop => 3, start => 1)", "an argument with a name"),
        ("SELECT s FROM t WHERE s SIMILAR TO 'a%'", "SIMILAR TO"),
        ("SELECT s FROM t WHERE trim(s, 'a', 'b') = ''", "trim"),
        ("SELECT sum(1)(x) FROM t", "this form of arguments"),
    ] {
        for sql in within(sql) {
            let error = error(&sql, Code::Unimplemented);
            assert!(error.starts_with(clause), "{sql}: {error}");
        }
    }
    for sql in
        ["SELECT abs(x) OVER () FROM t", "SELECT upper(DISTINCT s) FROM t", "SELECT abs(x) FILTER (WHERE x > 1) FROM t"]
    {
        assert!(error(sql, Code::InvalidArgument).contains("leave out DISTINCT"), "{sql}");
    }
    query("SELECT array_agg(DISTINCT x ORDER BY x) FILTER (WHERE x > 1), sum(x) OVER (), lower(ALL s) FROM t");
}
