//! How large a statement may become.

use std::sync::Arc;

use super::*;
use crate::predicate::Predicate;

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
    // Each level doubles how often the innermost query is visited.
    let list = vec!["1"; 100_000].join(",");
    let long = (0..12)
        .fold(format!("SELECT 1 WHERE 1 IN ({list})"), |inner, _| format!("WITH w AS ({inner}) SELECT * FROM w"));
    assert!(error(&long, Code::InvalidArgument).contains("queries within queries"));
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

#[test]
fn deep_filter_is_for_the_engine() {
    let sum = |count: usize| format!("SELECT * FROM t WHERE i {} > 0", "+ i ".repeat(count));
    read(&sum(30));
    query(&sum(400));
    // Chains of AND and OR are balanced, and brackets are no levels.
    let chain: Vec<String> = (0..300).map(|i| format!("i = {i} AND b")).collect();
    read(&format!("SELECT * FROM t WHERE {}", chain.join(" OR ")));
    read(&format!("SELECT * FROM t WHERE {}i > 0{}", "(".repeat(30), ")".repeat(30)));
    query(&format!("SELECT * FROM t WHERE {}b{}", "CASE WHEN b THEN ".repeat(33), " ELSE b END".repeat(33)));
}

#[test]
fn columns_and_windows_named_too_often_are_refused() {
    let long = format!("a IN ({})", vec!["1"; 2000].join(", "));
    let many = |name: &str| vec![name; 200].join(", ");
    for sql in [
        format!("SELECT a, {long} AS c FROM t GROUP BY a HAVING c IN ({})", many("C")),
        format!("SELECT {long} AS c, row_number() OVER () AS n FROM t QUALIFY n IN (1) AND c IN ({})", many("c")),
        format!("SELECT a, {long} AS c FROM t GROUP BY {}", many("2")),
        format!("SELECT {long} AS c FROM t ORDER BY {}", many("1")),
        format!("SELECT {long} AS c FROM t ORDER BY {}", many("c")),
        format!("SELECT {} FROM t WINDOW w AS (PARTITION BY {long})", many("sum(a) OVER w")),
    ] {
        let refused = error(&sql, Code::InvalidArgument);
        assert!(refused.starts_with("a SELECT names its columns or windows so often"), "{refused}");
        assert!(error(&format!("SELECT * FROM ({sql}) AS x"), Code::InvalidArgument).starts_with("a SELECT names"));
    }
    query(&format!("SELECT {long} AS c, count(*) FROM t GROUP BY c HAVING count(*) > 1 ORDER BY c, 1"));
    query(&format!("SELECT {} FROM t WINDOW w AS (PARTITION BY a ORDER BY b)", many("sum(a) OVER w")));
}

#[test]
fn lists_that_are_planned_several_times_are_bounded_together() {
    let list = vec!["a"; 100].join(", ");
    let item = format!("a = ANY ([{list}])");
    for count in [20, 300] {
        let items = vec![item.as_str(); count].join(", ");
        let within = vec![format!("EXISTS (SELECT 1 FROM u WHERE {item})"); count].join(", ");
        for sql in [format!("SELECT {items} FROM t"), format!("SELECT {within} FROM t")] {
            match count {
                20 => drop(query(&sql)),
                _ => assert!(error(&sql, Code::InvalidArgument).contains("too often"), "{count}"),
            }
        }
    }
}

#[test]
fn cases_whose_types_take_too_long_to_find_are_refused() {
    let nested = |template: &str| (0..18).fold("a".to_string(), |inner, _| template.replace("{}", &inner));
    for template in ["CASE WHEN b THEN abs({}) END", "CASE WHEN {} > 1 THEN a END"] {
        let expr = nested(template);
        for sql in [
            format!("SELECT {expr} FROM t"),
            format!("SELECT count(*) FROM t WHERE {expr} > 1"),
            format!("SELECT count(*) FROM t WHERE a IN (SELECT {expr} FROM t)"),
            format!("INSERT INTO u SELECT {expr} FROM t"),
            format!("CREATE TABLE u AS SELECT {expr} FROM t"),
            format!("EXPLAIN SELECT {expr} FROM t"),
        ] {
            assert!(error(&sql, Code::InvalidArgument).contains("nests CASE too deeply"), "{sql}");
        }
    }
}

/// However deep a filter may be, one of a read is never refused for its depth.
#[test]
fn filter_of_a_read_is_not_too_deep() {
    let types = [("i", DataType::Int64), ("b", DataType::Boolean), ("c", DataType::Boolean), ("s", DataType::Utf8)];
    let fields = types.map(|(name, data_type)| Field::new(name, data_type, true));
    let schema = Arc::new(Schema::new(fields.to_vec()));
    for (leaf, template, whole) in [
        ("i", "{} + 1", "{} > 0"),
        ("i", "0.5 + {}", "{} > 0"),
        ("i", "abs({})", "{} > 0"),
        ("i", "CAST({} AS INT)", "{} > 0"),
        ("s", "{} || i", "{} = 'x'"),
        ("b", "NOT {}", "{}"),
        ("b", "({} AND b OR c)", "{}"),
        ("b", "({} = c)", "{}"),
        ("b", "({} IS TRUE)", "{}"),
        ("b", "CASE WHEN b THEN {} ELSE c END", "{}"),
    ] {
        let (mut nested, mut levels) = (leaf.to_string(), 0);
        let mut deepest = String::new();
        while let Ok(SqlStatement::Read(read)) =
            parse(&format!("SELECT * FROM t WHERE {}", whole.replace("{}", &nested)))
        {
            deepest = read.filter.unwrap();
            nested = template.replace("{}", &nested);
            levels += 1;
        }
        assert!((10..400).contains(&levels), "{template}: {levels}");
        Predicate::parse(&deepest, &schema).unwrap_or_else(|e| panic!("{template}, {levels} levels: {e}"));
    }
}
