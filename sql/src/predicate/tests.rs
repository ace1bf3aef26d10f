use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Int64Array, NullArray, RecordBatch, RecordBatchOptions, StringArray,
};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::{Expr, col, lit};
use proptest::prelude::*;
use volley_common::Code;

use super::*;
use sample::{columns, sample, schema};

mod casts;
mod part_pruning;
mod property;
mod pruning;
mod sample;

fn parse(text: &str) -> Result<Predicate> {
    Predicate::parse(text, &schema())
}

fn message(text: &str) -> String {
    let error = parse(text).unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument, "{text}: {error}");
    error.message
}

/// Indexes of the rows of the sample that the filter selects.
fn selected(text: &str) -> Vec<usize> {
    rows(&parse(text).unwrap(), &sample())
}

fn rows(predicate: &Predicate, batch: &RecordBatch) -> Vec<usize> {
    let filter = predicate.compile(&columns(batch)).unwrap();
    let mask = filter.select(batch).unwrap();
    assert_eq!((mask.len(), mask.null_count()), (batch.num_rows(), 0));
    (0..mask.len()).filter(|row| mask.value(*row)).collect()
}

#[test]
fn null_counts_as_false() {
    let schema = Arc::new(Schema::new(vec![Field::new("i", DataType::Int64, true)]));
    let values: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]));
    let batch = RecordBatch::try_new(schema.clone(), vec![values]).unwrap();
    let select = |text: &str| rows(&Predicate::parse(text, &schema).unwrap(), &batch);
    assert_eq!(select("i > 1"), [2]);
    assert_eq!(select("NOT i > 1"), [0]);
    assert_eq!(select("i IS NULL"), [1]);
    assert_eq!(select("i = NULL"), [0usize; 0]);
    assert_eq!(select("NULL"), [0usize; 0]);
    assert_eq!(select("i IS DISTINCT FROM 1"), [1, 2]);
    assert_eq!(select("i > 5 IS NOT DISTINCT FROM i > 0 AND i > 5"), [0usize; 0]);
    assert_eq!(select("1 = 1"), [0, 1, 2]);
}

#[test]
fn columns_are_those_that_the_filter_reads() {
    let predicate = parse("s = 'a' AND i > 1 OR s = 'b'").unwrap();
    let names: Vec<String> = predicate.columns().iter().map(|at| schema().field(*at).name().clone()).collect();
    assert_eq!(names, ["i", "s"]);
    assert_eq!(predicate.text(), "s = 'a' AND i > 1 OR s = 'b'");
    assert_eq!(parse("1 = 1").unwrap().columns(), [0usize; 0]);
}

#[test]
fn batches_have_a_projection_in_any_order() {
    let predicate = parse("i > 1 AND b").unwrap();
    let whole = sample();
    let expected = rows(&predicate, &whole);
    assert!(!expected.is_empty());
    let all: Vec<usize> = (0..whole.num_columns()).rev().collect();
    for projection in [predicate.columns().to_vec(), all] {
        let filter = predicate.compile(&projection).unwrap();
        let mask = filter.select(&whole.project(&projection).unwrap()).unwrap();
        assert_eq!((0..mask.len()).filter(|row| mask.value(*row)).collect::<Vec<_>>(), expected);
    }
    let error = predicate.compile(&predicate.columns()[1..]).unwrap_err();
    assert_eq!(error.code, Code::Internal);
    assert_eq!(predicate.compile(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 99]).unwrap_err().code, Code::Internal);
}

#[test]
fn batch_of_other_columns_is_refused() {
    let filter = parse("i > 1").unwrap().compile(parse("i > 1").unwrap().columns()).unwrap();
    assert_eq!(filter.select(&sample()).unwrap_err().code, Code::Internal);
}

#[test]
fn filter_without_columns_selects_all_rows_or_none() {
    let options = RecordBatchOptions::new().with_row_count(Some(3));
    let batch = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options).unwrap();
    for (text, expected) in [("1 < 2", vec![true; 3]), ("1 > 2", vec![false; 3]), ("NULL = 1", vec![false; 3])] {
        let mask = parse(text).unwrap().compile(&[]).unwrap().select(&batch).unwrap();
        assert_eq!(mask, BooleanArray::from(expected), "{text}");
    }
}

#[test]
fn columns_of_type_null_are_never_true() {
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Null, true)]));
    let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(NullArray::new(2))]).unwrap();
    assert_eq!(rows(&Predicate::parse("n", &schema).unwrap(), &batch), [0usize; 0]);
    assert_eq!(rows(&Predicate::parse("n IS NULL", &schema).unwrap(), &batch), [0, 1]);
}

#[test]
fn names_fold_to_lower_case_and_another_case_is_suggested() {
    let schema = Arc::new(Schema::new(vec![
        Field::new("Price", DataType::Int64, true),
        Field::new("quantity", DataType::Int64, true),
    ]));
    let error = |text: &str| Predicate::parse(text, &schema).unwrap_err().message;
    assert!(error("price > 1").ends_with("did you mean \"Price\"?"), "{}", error("price > 1"));
    assert!(error("quantiti > 1").ends_with("did you mean quantity?"), "{}", error("quantiti > 1"));
    assert!(error("x > 1").contains("no such column"), "{}", error("x > 1"));
    assert_eq!(Predicate::parse("\"Price\" > 1", &schema).unwrap().columns(), [0]);
    assert_eq!(Predicate::parse("QUANTITY > 1", &schema).unwrap().columns(), [1]);
    // A text in double quotes is a name.
    assert!(error("quantity = \"one\"").contains("single quotes"), "{}", error("quantity = \"one\""));
}

#[test]
fn columns_with_the_same_name_cannot_be_used() {
    let field = |name: &str| Field::new(name, DataType::Int64, true);
    let schema = Arc::new(Schema::new(vec![field("a"), field("b"), field("a")]));
    let error = Predicate::parse("a > 1", &schema).unwrap_err();
    assert!(error.message.contains("several columns have this name"), "{error}");
    let predicate = Predicate::parse("b > 1", &schema).unwrap();
    assert_eq!(predicate.columns(), [1]);
    let values = || -> ArrayRef { Arc::new(Int64Array::from(vec![1, 2])) };
    let batch = RecordBatch::try_new(schema, vec![values(), values(), values()]).unwrap();
    assert_eq!(rows(&predicate, &batch), [1]);
}

#[test]
fn what_is_no_filter_of_rows_is_refused() {
    for (text, why) in [
        ("", "is empty"),
        (" -- nothing", "is empty"),
        ("i", "is Int32: compare it"),
        ("i > ", "the filter"),
        ("i > 1; DROP TABLE t", "the filter"),
        ("i > 1 i", "the filter"),
        ("i > 1 AS x", "name, x"),
        ("i IN (SELECT 1)", "subquery"),
        ("EXISTS (SELECT 1)", "subquery"),
        ("i > $1", "parameter"),
        ("i > ?", "parameter"),
        ("sum(i) > 1", "aggregate"),
        ("row_number() OVER () > 1", "window"),
        ("random() > 0.5", "random"),
        ("t < now()", "now"),
        ("length(repeat(s, 1000)) > 1", "repeat"),
        ("length(encode(encode(s, 'hex'), 'hex')) > 1", "encode"),
        ("levenshtein(s, 'a') > 1", "levenshtein"),
        ("nothing(i) > 1", "nothing"),
        ("CAST(NULL AS INT[2000000000]) IS NULL", "elements each"),
        ("arrow_cast(NULL, 'FixedSizeBinary(2000000000)') IS NULL", "elements each"),
        ("s = 'a", "not SQL"),
        ("i > @@x", "the filter"),
    ] {
        let error = message(text);
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn long_and_deep_filters_are_refused_and_long_lists_are_not() {
    assert!(message(&format!("s = '{}'", "x".repeat(MAX_PREDICATE_BYTES))).contains("more than the limit"));
    assert!(message(&vec!["i = 1"; 2000].join(" OR ")).contains("nested too deeply"));
    assert!(message(&format!("i {} > 0", "+ i".repeat(400))).contains("nested too deeply"));
    // The type of a function is found by a recursion for which the stack of a thread does not suffice.
    assert!(message(&format!("abs(i {}) > 0", "+ i".repeat(400))).contains("nested too deeply"));
    let list: Vec<String> = (0..8000).map(|i| i.to_string()).collect();
    assert_eq!(selected(&format!("i IN ({})", list.join(","))), selected("i >= 0 AND i < 8000"));
    let chain: Vec<String> = (0..300).map(|i| format!("i = {i} AND b")).collect();
    assert_eq!(selected(&chain.join(" OR ")), selected("i >= 0 AND i < 300 AND b"));
}

#[test]
fn filters_that_planning_would_make_too_large_are_refused() {
    let nested = |leaf: &str, template: &str| (0..18).fold(leaf.to_string(), |inner, _| template.replace("{}", &inner));
    for (filter, why) in [
        (format!("{} > 1", nested("i", "coalesce({}, 1)")), "would grow"),
        (nested("b", "coalesce({}, b)"), "would grow"),
        (nested("b", "({} BETWEEN b AND b)"), "would grow"),
        (nested("i > 1", "CASE WHEN {} THEN i > 1 ELSE b END"), "the filter "),
        (format!("{} > 1", nested("i", "CASE WHEN b THEN abs({}) END")), "nests CASE too deeply"),
    ] {
        let error = message(&filter);
        assert!(error.contains(why), "{filter}: {error}");
    }
    for filter in [format!("{} > 1", nested("i", "coalesce(i, {})")), nested("b", "CASE WHEN b THEN {} ELSE b END")] {
        parse(&filter).unwrap();
    }
    let twice = format!("coalesce(i IN ({}), b)", vec!["1"; 5000].join(", "));
    parse(&twice).unwrap();
}

#[test]
fn value_that_cannot_be_computed_is_the_filters_fault() {
    let batch = sample();
    for text in ["10 / (i - i) = 1", "CAST(s AS INT) = 1"] {
        let filter = parse(text).unwrap().compile(&columns(&batch)).unwrap();
        let error = filter.select(&batch).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{error}");
        assert!(error.message.contains(text), "{error}");
    }
    assert!(message("i = CAST('x' AS INT)").contains("the filter"));
}

#[test]
fn every_type_can_be_filtered() {
    for text in [
        "f > 1 AND f < 2",
        "s LIKE 'a%'",
        "k = 'a'",
        "d BETWEEN 1.10 AND 2.5",
        "t >= '2026-03-29T01:30:00Z'",
        "t >= TIMESTAMP '2026-01-01 00:00:00'",
        "n['x'] = 1",
        "l[1] = 1",
        "array_has(l, 2)",
        "v IN ('a', 'b', 'c', 'd', 'e')",
        "date_part('year', t) = 2026",
        "EXTRACT(year FROM t) = 2026",
        "CASE WHEN b THEN i ELSE 0 END = 1",
        "substr(s, 1, 1) = 'a'",
    ] {
        let predicate = parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert!(!rows(&predicate, &sample()).is_empty(), "{text}");
    }
}

#[test]
fn literal_in_single_quotes_may_have_quotes_and_any_script() {
    let schema = Arc::new(Schema::new(vec![Field::new("ü \"x\"", DataType::Utf8, true)]));
    let values: ArrayRef = Arc::new(StringArray::from(vec!["it's", "日本"]));
    let batch = RecordBatch::try_new(schema.clone(), vec![values]).unwrap();
    let predicate = Predicate::parse("\"ü \"\"x\"\"\" = 'it''s'", &schema).unwrap();
    assert_eq!(rows(&predicate, &batch), [0]);
    let again = Predicate::from_expr(&predicate.expr, &schema).unwrap();
    assert_eq!(rows(&again, &batch), [0]);
}

/// The expression as the engine's planner has it, with qualified columns.
fn planned(text: &str) -> Expr {
    let qualified = DFSchema::try_from_qualified_schema("t", &schema()).unwrap();
    functions::SESSION.create_logical_expr(text, &qualified).unwrap()
}

#[test]
fn expressions_of_the_engine_become_predicates() {
    for text in [
        "i > 1",
        "i > 1 AND i <= 7 OR s = 'a'",
        "f < 1.5",
        "s LIKE 'a%' AND s IS NOT NULL",
        "i IN (1, 2)",
        "i NOT IN (1, 2, 3, 4, 5)",
        "NOT b",
        "b IS TRUE",
        "s BETWEEN 'a' AND 'b'",
        "k = 'a'",
        "lower(s) = 'a'",
        "id % 2 = 0",
    ] {
        let expr = planned(text);
        let predicate = Predicate::from_expr(&expr, &schema()).unwrap_or_else(|| panic!("{text}"));
        assert_eq!(rows(&predicate, &sample()), selected(text), "{text}: {}", predicate.text());
    }
}

#[test]
fn literals_without_a_spelling_in_sql_are_cast() {
    let decimal = lit(ScalarValue::Decimal128(Some(110), 10, 2));
    let zone = Some(Arc::from("Europe/Berlin"));
    let time = lit(ScalarValue::TimestampMicrosecond(Some(1_767_225_600_000_000), zone));
    assert_eq!(
        *schema().field_with_name("t").unwrap().data_type(),
        DataType::Timestamp(TimeUnit::Microsecond, Some("Europe/Berlin".into()))
    );
    for (expr, text) in [
        (col("t.d").gt_eq(decimal), "d >= 1.10"),
        (col("t.t").gt_eq(time), "t >= '2026-01-01T00:00:00Z'"),
        (col("t.i").gt(lit(1_i32)), "i > 1"),
        (col("t.v").eq(lit(ScalarValue::Utf8View(Some("a".into())))), "v = 'a'"),
    ] {
        let predicate = Predicate::from_expr(&expr, &schema()).unwrap_or_else(|| panic!("{text}"));
        assert_eq!(rows(&predicate, &sample()), selected(text), "{}", predicate.text());
    }
}

#[test]
fn what_cannot_be_proved_stays_with_the_engine() {
    assert!(Predicate::from_expr(&col("t.missing").gt(lit(1)), &schema()).is_none());
    assert!(Predicate::from_expr(&planned("random() > 0.5"), &schema()).is_none());
    assert!(Predicate::from_expr(&planned("length(repeat(s, 10)) > 1"), &schema()).is_none());
    assert!(Predicate::from_expr(&col("t.i"), &schema()).is_none());
    let long = col("t.s").eq(lit("x".repeat(MAX_PREDICATE_BYTES)));
    assert!(Predicate::from_expr(&long, &schema()).is_none());
    // No text has this value.
    let not_a_number = col("t.f").eq(lit(f64::NAN));
    assert!(Predicate::from_expr(&not_a_number, &schema()).is_none());
}

#[test]
fn row_filter_is_shared_between_threads() {
    fn shared<T: Send + Sync + Clone + 'static>(_: &T) {}
    shared(&parse("i > 1").unwrap().compile(&columns(&sample())).unwrap());
    shared(&parse("i > 1").unwrap());
}

proptest! {
    #[test]
    fn parser_never_panics(text in "[a-z0-9'\"()=<>.,+ *$@\\[\\]-]{0,60}") {
        let _ = parse(&text);
    }
}

#[test]
fn expressions_that_mean_something_else_are_refused() {
    for (text, why) in [
        ("s SIMILAR TO 'a%'", "regexp_like"),
        ("NOT (i = 1 AND s NOT SIMILAR TO 'a%')", "SIMILAR TO"),
        ("trim(s, 'a', 'b') = ''", "one text"),
        ("lower(DISTINCT s) = 'a'", "leave out DISTINCT"),
        ("abs(i) FILTER (WHERE i > 0) = 1", "FILTER"),
        ("abs(i) OVER () = 1", "OVER"),
        ("abs(1)(i) = 1", "arguments"),
    ] {
        assert!(message(text).contains(why), "{text}: {}", message(text));
    }
    parse("trim(BOTH 'ab' FROM s) = '' AND lower(ALL s) = 'a'").unwrap();
}
