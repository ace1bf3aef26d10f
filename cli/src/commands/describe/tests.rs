//! Tests of the summary.

use std::sync::Arc;

use arrow::array::{Decimal128Array, Float64Array, Int64Array, StringArray, UInt64Array};
use arrow::datatypes::{Field, IntervalUnit};

use super::*;

fn schema(names: &[&str]) -> Schema {
    Schema::new(names.iter().map(|name| Field::new(*name, DataType::Int64, true)).collect::<Vec<_>>())
}

#[test]
fn many_columns_are_described_in_slices() {
    let names: Vec<String> = (0..120).map(|at| format!("c{at}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(slices(&schema(&names)), [0..50, 50..100, 100..120]);
    assert_eq!(slices(&schema(&names[..50])).len(), 1);
    assert!(slices(&schema(&[])).is_empty());
    let long = "x".repeat(60 << 10);
    assert_eq!(slices(&schema(&[&long, "a", &long, "b"])), [0..2, 2..4]);
    let longer = "x".repeat(STATEMENT_BYTES + 1);
    assert_eq!(slices(&schema(&[&longer, &longer])), [0..1, 1..2], "one name has to fit alone");
}

#[test]
fn measures_fit_the_type() {
    use SummaryMeasure::{Distinct, Max, Mean, Min, Values};
    let dictionary = |values: DataType| DataType::Dictionary(Box::new(DataType::Int8), Box::new(values));
    for (kind, measures) in [
        (DataType::Int64, vec![Values, Distinct, Min, Max, Mean]),
        (DataType::Decimal128(5, 2), vec![Values, Distinct, Min, Max, Mean]),
        (DataType::Float64, vec![Values, Min, Max, Mean]),
        (DataType::Utf8, vec![Values, Distinct, Min, Max]),
        (dictionary(DataType::Utf8), vec![Values, Distinct, Min, Max]),
        (dictionary(DataType::Binary), vec![Values]),
        (DataType::Interval(IntervalUnit::DayTime), vec![Values]),
        (DataType::Null, vec![Values]),
        (DataType::Struct(vec![Field::new("a", DataType::Int8, true)].into()), vec![Values]),
        (DataType::Union(arrow::datatypes::UnionFields::empty(), arrow::datatypes::UnionMode::Sparse), vec![]),
    ] {
        assert_eq!(measures_of(&kind), measures, "{kind}");
    }
    assert_eq!(column_expression("\"A\"", &dictionary(DataType::Utf8)), "arrow_cast(\"A\", 'Utf8')");
    assert_eq!(column_expression("a", &DataType::Utf8), "a");
}

#[test]
fn values_of_the_result_become_json() {
    let value = |array: ArrayRef| json_value(&array).unwrap();
    assert_eq!(value(Arc::new(Int64Array::from(vec![-3]))), json!(-3));
    assert_eq!(value(Arc::new(Float64Array::from(vec![1.5]))), json!(1.5));
    assert_eq!(value(Arc::new(Float64Array::from(vec![f64::NAN]))), json!("NaN"));
    assert_eq!(value(Arc::new(Int64Array::from(vec![None::<i64>]))), Value::Null);
    assert_eq!(value(Arc::new(StringArray::from(vec!["3"]))), json!("3"));
    let decimal = Decimal128Array::from(vec![12345]).with_precision_and_scale(10, 2).unwrap();
    assert_eq!(value(Arc::new(decimal)), json!("123.45"), "exact");
}

#[test]
fn summary_has_what_its_statement_returned() {
    let mut summary = ColumnSummary::default();
    let one = |array: ArrayRef| array;
    set(&mut summary, SummaryMeasure::Values, &one(Arc::new(Int64Array::from(vec![7])))).unwrap();
    set(&mut summary, SummaryMeasure::Distinct, &one(Arc::new(UInt64Array::from(vec![5])))).unwrap();
    set(&mut summary, SummaryMeasure::Min, &one(Arc::new(StringArray::from(vec!["a\u{202e}"])))).unwrap();
    set(&mut summary, SummaryMeasure::Mean, &one(Arc::new(Float64Array::from(vec![None::<f64>])))).unwrap();
    let (name, schema) = ("t".parse().unwrap(), schema(&["x"]));
    let expected = ColumnSummary { values: Some(7), distinct: Some(5), min: json!("a\u{202e}"), ..Default::default() };
    assert_eq!(summary, expected);
    assert_eq!(shown(&summary.min), r"a\u{202e}");
    let described = Described { name: &name, version: Some(3), rows: 10, schema: &schema, columns: vec![summary] };
    assert_eq!(described.nulls(&described.columns[0]), Some(3));
    let column = &described.json()["columns"][0];
    assert_eq!((&column["nulls"], &column["distinct"], &column["max"]), (&json!(3), &json!(5), &Value::Null));
    assert_eq!(shown(&json!("ä".repeat(50))).chars().count(), MAX_SHOWN + 1);
}
