//! How large a statement may become.

use super::*;

#[test]
fn statements_that_grow_without_bounds_are_refused() {
    let doubling: Vec<String> =
        (1..40).map(|i| format!("w{i} AS (SELECT * FROM w{} x, w{} y)", i - 1, i - 1)).collect();
    let sql = format!("WITH w0 AS (SELECT 1), {} SELECT * FROM w39", doubling.join(", "));
    assert!(error(&sql, Code::InvalidArgument).contains("tables"));
    // RECURSIVE permits queries to see themselves, and changes nothing about the others.
    let recursive = sql.replacen("WITH", "WITH RECURSIVE", 1);
    assert!(error(&recursive, Code::InvalidArgument).contains("tables"));
    let nested = (0..40).fold("SELECT 1".to_string(), |inner, i| format!("WITH w{i} AS ({inner}) SELECT * FROM w{i}"));
    error(&nested, Code::InvalidArgument);
    let crossed = vec!["t"; 600].join(", ");
    assert!(error(&format!("SELECT 1 FROM {crossed}"), Code::InvalidArgument).contains("tables"));
    let sum = vec!["1"; 5000].join(" + ");
    assert!(error(&format!("SELECT {sum}"), Code::InvalidArgument).contains("nested too deeply"));
    assert!(error(&format!("SELECT '{}'", "x".repeat(MAX_STATEMENT_BYTES)), Code::InvalidArgument).contains("limit"));
}

#[test]
fn groups_by_too_many_sets_are_refused() {
    let columns = |count: usize| (0..count).map(|at| format!("c{at}")).collect::<Vec<_>>().join(", ");
    let sql = |sets: String| format!("SELECT count(*) FROM t GROUP BY {sets}");
    for (sets, name) in [
        (format!("CUBE ({})", columns(11)), "CUBE"),
        (format!("a, CUBE ({})", columns(40)), "CUBE"),
        (format!("ROLLUP ({})", columns(501)), "ROLLUP"),
        (format!("GROUPING SETS ({})", vec!["()"; 501].join(", ")), "GROUPING SETS"),
    ] {
        assert!(error(&sql(sets), Code::InvalidArgument).starts_with(name), "{name}");
    }
    query(&sql(format!("CUBE ({})", columns(10))));
    query(&sql("GROUPING SETS ((a, b), (a), ())".into()));
}

#[test]
fn clauses_that_would_have_no_effect_are_refused() {
    for (sql, clause) in [
        ("SELECT a, count(*) FROM t GROUP BY a WITH CUBE", "GROUP BY"),
        ("SELECT a FROM t TABLESAMPLE BERNOULLI (10)", "TABLESAMPLE"),
        ("SELECT count(*) FROM t PREWHERE a > 1", "PREWHERE"),
        ("SELECT (SELECT max(a) FROM t PREWHERE a > 1)", "PREWHERE"),
        ("SELECT a FROM t WHERE a > 0 CONNECT BY PRIOR a = b", "CONNECT BY"),
    ] {
        assert!(error(sql, Code::Unimplemented).starts_with(clause), "{sql}");
    }
}

#[test]
fn star_can_be_repeated_only_so_often() {
    let sql = |count: usize| format!("SELECT {} FROM t", vec!["t.*"; count].join(", "));
    assert!(error(&sql(1001), Code::InvalidArgument).contains("name the columns"));
    query(&sql(2));
}
