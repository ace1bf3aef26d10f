use std::sync::Arc;

use arrow::datatypes::{Field, Schema, TimeUnit};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;

use super::*;
use crate::predicate::functions::SESSION;

/// Each repeats its argument, which has the type of the result, or a column of that type at the innermost place.
const DOUBLING: [(&str, &str); 22] = [
    ("i", "coalesce({}, 1)"),
    ("i", "nvl({}, 1)"),
    ("i", "ifnull({}, 1)"),
    ("i", "coalesce({}, i, 1)"),
    ("b", "coalesce({}, b)"),
    ("b", "coalesce({}, c, b)"),
    ("b", "nvl2({}, b, c)"),
    ("b", "CASE WHEN {} THEN b ELSE c END"),
    ("b", "CASE WHEN {} THEN b WHEN c THEN c END"),
    ("b", "CASE WHEN b THEN b WHEN {} THEN c ELSE b END"),
    ("b", "CASE WHEN {} THEN true WHEN c THEN false WHEN b THEN false ELSE b END"),
    ("b", "(CASE WHEN {} THEN 'x' WHEN c THEN 'y' WHEN b THEN 'z' ELSE 'u' END = 'x')"),
    ("i", "CAST({} BETWEEN 1 AND 2 AS BIGINT)"),
    ("b", "({} NOT BETWEEN b AND c)"),
    ("f", "CAST(floor({}) = 1.0 AS DOUBLE)"),
    ("f", "CAST(2.0 <> floor({}) AS DOUBLE)"),
    ("f", "CAST(floor({}) IS DISTINCT FROM 1.0 AS DOUBLE)"),
    ("f", "CAST(floor({}) IN (1.0, 2.0, 3.0) AS DOUBLE)"),
    ("t", "CASE WHEN date_part('year', {}) = 2026 THEN t ELSE t + INTERVAL '1' DAY END"),
    ("s", "CAST(({} ~ '^a|b|c$|d') AS VARCHAR)"),
    ("s", "CAST(regexp_like({}, 'a|b') AS VARCHAR)"),
    ("s", "CAST({} IN ('a') AS VARCHAR)"),
];

fn schema() -> DFSchema {
    let field = |name: &str, data_type: DataType| Field::new(name, data_type, true);
    let fields = vec![
        field("i", DataType::Int64),
        field("b", DataType::Boolean),
        field("c", DataType::Boolean),
        field("f", DataType::Float64),
        field("s", DataType::Utf8),
        field("t", DataType::Timestamp(TimeUnit::Nanosecond, None)),
        field("l", DataType::new_list(DataType::Int64, true)),
    ];
    DFSchema::try_from(Schema::new(fields)).unwrap()
}

fn planned(text: &str) -> Expr {
    SESSION.create_logical_expr(text, &schema()).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn nested(levels: usize, leaf: &str, template: &str) -> String {
    (0..levels).fold(leaf.to_string(), |inner, _| template.replace("{}", &inner))
}

fn measured(expr: &Expr) -> MeasuredExpr {
    MeasuredExpr::of(expr, &mut TableColumns(&schema())).unwrap()
}

fn refusal(text: &str) -> Option<String> {
    let measured = measured(&planned(text));
    measured.check(measured.written, "the text").err().map(|error| error.message)
}

/// How often columns occur once an expression is simplified.
fn columns_simplified(expr: Expr) -> u64 {
    let context = SimplifyContext::builder()
        .with_schema(Arc::new(schema()))
        .with_config_options(Arc::clone(SESSION.config_options()))
        .build();
    let simplifier = ExprSimplifier::new(context).with_max_cycles(16);
    let expr = simplifier.simplify(simplifier.coerce(expr, &schema()).unwrap()).unwrap();
    expr.column_refs_counts().values().map(|count| *count as u64).sum()
}

#[test]
fn estimate_is_never_below_what_planning_makes() {
    for (leaf, template) in DOUBLING {
        for levels in 0..5 {
            let expr = planned(&nested(levels, leaf, template));
            let estimate = measured(&expr).size.nodes();
            let columns = columns_simplified(expr);
            assert!(columns <= estimate, "{template}, {levels} levels: {columns} columns of {estimate} nodes");
        }
    }
}

#[test]
fn deep_nesting_of_what_is_repeated_is_refused() {
    for (leaf, template) in DOUBLING.into_iter().filter(|(_, template)| !template.contains("IN ('a')")) {
        let error = refusal(&nested(13, leaf, template)).unwrap_or_else(|| panic!("{template}"));
        assert!(error.starts_with("the text "), "{template}: {error}");
        assert_eq!(refusal(&nested(2, leaf, template)), None, "{template}");
    }
}

#[test]
fn what_is_not_repeated_may_be_nested() {
    for (leaf, template) in [
        ("i", "coalesce(i, {})"),
        ("i", "nullif({}, 1)"),
        ("i", "nvl2(i, {}, 1)"),
        ("i", "abs({} + 1)"),
        ("f", "floor({})"),
        ("i", "CASE WHEN b THEN 1 ELSE {} END"),
        ("i", "CASE i WHEN 1 THEN 2 ELSE {} END"),
        ("b", "CASE WHEN c THEN {} ELSE b END"),
        ("b", "({} IS DISTINCT FROM c)"),
        ("s", "upper({} || 'x')"),
    ] {
        assert_eq!(refusal(&nested(15, leaf, template)), None, "{template}");
    }
}

#[test]
fn wide_expressions_pass() {
    let columns = vec!["i"; 50].join(", ");
    assert_eq!(refusal(&format!("coalesce({columns})")), None);
    let list = (0..20_000).map(|value| value.to_string()).collect::<Vec<_>>().join(", ");
    assert_eq!(refusal(&format!("i IN ({list})")), None);
    let branches: String = (0..200).map(|value| format!("WHEN i = {value} THEN 'x{value}' ")).collect();
    assert_eq!(refusal(&format!("CASE {branches} ELSE 'y' END")), None);
    assert_eq!(refusal(&format!("CASE {branches} ELSE 'y' END = 'x7'")), None);
    let branches: String = (0..200).map(|value| format!("WHEN i = {value} THEN b ")).collect();
    assert_eq!(refusal(&format!("CASE {branches} ELSE c END")), None);
}

#[test]
fn long_list_copied_often_is_refused() {
    let list = (0..20_000).map(|value| value.to_string()).collect::<Vec<_>>().join(", ");
    let text = nested(4, &format!("(i IN ({list}))"), "coalesce({}, b)");
    assert!(refusal(&text).unwrap().contains("would grow"));
}
