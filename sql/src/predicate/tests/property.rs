//! Filters select what the engine selects, and so do the predicates that are made of the engine's expressions.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use proptest::prelude::*;

use super::sample::{sample, schema};
use super::{Predicate, parse, planned, rows};

/// Comparisons of a column with a value of its type.
fn comparison() -> impl Strategy<Value = String> {
    let operator =
        prop::sample::select(vec!["=", "<>", "<", "<=", ">", ">=", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"]);
    let sides = prop_oneof![
        sides(&["i", "n['x']", "l[1]", "i % 3", "id % 5"], &["0", "-1", "1", "7", "2147483647", "NULL", "i"]),
        sides(
            &["f", "f + 1"],
            &["0.0", "-0.0", "1.5", "0", "CAST('NaN' AS DOUBLE)", "CAST('-inf' AS DOUBLE)", "f", "i"]
        ),
        sides(&["s", "v", "k", "n['y']", "lower(s)"], &["''", "'a'", "'A'", "'it''s'", "'ü'", "s", "k", "NULL"]),
        sides(
            &["t"],
            &[
                "'2026-01-01T00:00:00Z'",
                "'1969-12-31 23:59:59.999999+00:00'",
                "TIMESTAMP '2026-10-25 04:30:00'",
                "DATE '2026-03-29'",
                "t"
            ]
        ),
        sides(&["d", "d + d"], &["1.10", "1.1", "-1.10", "0", "99999999.99", "1.105", "d", "i"]),
        sides(&["b"], &["true", "false", "NULL", "(i > 0)"]),
    ];
    (sides, operator).prop_map(|((left, right), operator)| format!("{left} {operator} {right}"))
}

fn sides(
    left: &'static [&'static str],
    right: &'static [&'static str],
) -> impl Strategy<Value = (&'static str, &'static str)> {
    (prop::sample::select(left), prop::sample::select(right))
}

/// Tests of a column that are no comparisons.
fn test() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "b",
        "i IS NULL",
        "n IS NOT NULL",
        "f IS NOT NULL",
        "isnan(f)",
        "i IN (1, 7)",
        "i NOT IN (1, NULL)",
        "i IN (0, 1, 2, 3, 4, 5)",
        "s IN ('a', 'b', 'ab', 'x', 'y')",
        "k IN ('a', 'ü')",
        "d IN (1.10, 2.50)",
        "f BETWEEN -0.0 AND 1.5",
        "t BETWEEN '1969-01-01T00:00:00Z' AND '2026-06-01T00:00:00Z'",
        "s LIKE 'a%'",
        "k LIKE '%b'",
        "v ILIKE 'A%'",
        "s NOT LIKE '_'",
        "s ~ '^a'",
        "array_has(l, 2)",
        "CASE WHEN i > 0 THEN b ELSE s = 'a' END",
        "b IS NOT FALSE",
        "b IS UNKNOWN",
    ])
    .prop_map(String::from)
}

fn filter() -> impl Strategy<Value = String> {
    prop_oneof![comparison(), test()].prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) AND ({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) OR ({b})")),
            inner.clone().prop_map(|a| format!("NOT ({a})")),
            inner.prop_map(|a| format!("({a}) IS NOT TRUE")),
        ]
    })
}

/// The rows that the engine's own filter selects, by their numbers; none if it refuses the statement.
fn engine_rows(batch: &RecordBatch, filter: &str) -> Option<Vec<usize>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
        let table = MemTable::try_new(batch.schema(), vec![vec![batch.clone()]]).unwrap();
        context.register_table("t", Arc::new(table)).unwrap();
        let frame = context.sql(&format!("SELECT id FROM t WHERE {filter}")).await.ok()?;
        let batches = frame.collect().await.ok()?;
        let ids = batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec());
        let mut ids: Vec<usize> = ids.map(|id| id as usize).collect();
        ids.sort_unstable();
        Some(ids)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn filter_selects_what_the_engine_selects(text in filter()) {
        let batch = sample();
        let expected = engine_rows(&batch, &text);
        let predicate = parse(&text);
        prop_assert_eq!(predicate.is_ok(), expected.is_some(), "{}: {:?}", text, predicate.as_ref().err());
        let (Ok(predicate), Some(expected)) = (predicate, expected) else { return Ok(()) };
        prop_assert_eq!(rows(&predicate, &batch), expected, "{}", text);
    }

    #[test]
    fn predicate_of_an_expression_selects_the_same(text in filter()) {
        let batch = sample();
        let Ok(predicate) = parse(&text) else { return Ok(()) };
        for expr in [planned(&text), (*predicate.expr).clone()] {
            if let Some(pushed) = Predicate::from_expr(&expr, &schema()) {
                prop_assert_eq!(rows(&pushed, &batch), rows(&predicate, &batch), "{} as {}", text, pushed.text());
            }
        }
    }
}
