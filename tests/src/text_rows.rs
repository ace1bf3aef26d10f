//! Rows as text, by which results of queries are compared.
//!
//! | value | text |
//! |---|---|
//! | null | `NULL` |
//! | empty text | `(empty)` |
//! | other text | itself, with `\n` for a line break, so that a row has one line |
//! | float | the fewest digits that give the value back, without exponent; `NaN`, `Infinity`, `-Infinity` |
//! | decimal | without zeros at the end of its fraction |
//! | dictionary | as its value |
//! | everything else | as `arrow::util::display` has it: dates and times by ISO 8601, binary as hexadecimal digits |
//!
//! These are the rules of DataFusion's own runner of sqllogictest, except that it rounds floats to 12 digits after the point, which would
//! hide differences, and breaks lines of text.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};

const NULL: &str = "NULL";
const EMPTY: &str = "(empty)";
/// Rows that a difference shows of each side.
const SHOWN: usize = 5;

/// A row: the text of each column.
pub type TextRow = Vec<String>;

/// All rows, in their order.
pub fn text_rows(batches: &[RecordBatch]) -> Vec<TextRow> {
    batches.iter().flat_map(rows_of).collect()
}

/// What differs between two results whose rows may be in any order; `None` if they have the same rows equally often.
pub fn difference(expected: &[TextRow], found: &[TextRow]) -> Option<String> {
    let mut surplus: BTreeMap<&TextRow, i64> = BTreeMap::new();
    for row in expected {
        *surplus.entry(row).or_default() -= 1;
    }
    for row in found {
        *surplus.entry(row).or_default() += 1;
    }
    let (missing, unexpected) = (listed(&surplus, |count| count < 0), listed(&surplus, |count| count > 0));
    if missing.is_empty() && unexpected.is_empty() {
        return None;
    }
    let (expected, found) = (expected.len(), found.len());
    Some(format!("{found} rows instead of {expected}\nmissing: {missing}\nnot expected: {unexpected}"))
}

fn listed(surplus: &BTreeMap<&TextRow, i64>, select: impl Fn(i64) -> bool) -> String {
    let rows: Vec<_> = surplus.iter().filter(|(_, count)| select(**count)).collect();
    let shown: Vec<String> =
        rows.iter().take(SHOWN).map(|(row, count)| format!("{}× [{}]", count.abs(), row.join(" | "))).collect();
    let more = if rows.len() > SHOWN { format!(" and {} others", rows.len() - SHOWN) } else { String::new() };
    shown.join(", ") + &more
}

fn rows_of(batch: &RecordBatch) -> Vec<TextRow> {
    let columns: Vec<Vec<String>> = batch.columns().iter().map(|column| text_column(column.as_ref())).collect();
    (0..batch.num_rows()).map(|row| columns.iter().map(|column| column[row].clone()).collect()).collect()
}

fn text_column(column: &dyn Array) -> Vec<String> {
    match column.data_type() {
        DataType::Float64 => column.as_primitive::<Float64Type>().iter().map(float).collect(),
        DataType::Float32 => column.as_primitive::<Float32Type>().iter().map(float).collect(),
        DataType::Float16 => text_column_as(column, &DataType::Float32),
        DataType::Dictionary(_, values) => text_column_as(column, values),
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => {
            displayed(column).iter().map(|text| without_trailing_zeros(text)).collect()
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            displayed(column).into_iter().map(|text| on_one_line(&text)).collect()
        }
        _ => displayed(column),
    }
}

fn text_column_as(column: &dyn Array, data_type: &DataType) -> Vec<String> {
    text_column(cast(column, data_type).unwrap().as_ref())
}

fn displayed(column: &dyn Array) -> Vec<String> {
    let options = FormatOptions::new().with_null(NULL);
    let formatter = ArrayFormatter::try_new(column, &options).unwrap();
    (0..column.len()).map(|row| formatter.value(row).try_to_string().unwrap()).collect()
}

fn float(value: Option<impl Into<f64> + ToString + Copy>) -> String {
    let Some(value) = value else { return NULL.into() };
    let wide: f64 = value.into();
    match wide.is_infinite() {
        true if wide > 0.0 => "Infinity".into(),
        true => "-Infinity".into(),
        // NaN, too, and with the digits of its own type.
        false => value.to_string(),
    }
}

fn without_trailing_zeros(text: &str) -> String {
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').into(),
        false => text.into(),
    }
}

fn on_one_line(text: &str) -> String {
    match text {
        "" => EMPTY.into(),
        text => text.replace('\n', "\\n"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Decimal128Array, DictionaryArray, Float64Array, Int64Array, StringArray};
    use arrow::datatypes::Int32Type;

    use super::*;

    fn column(column: impl Array + 'static) -> Vec<String> {
        text_column(&column)
    }

    fn row(texts: &[&str]) -> TextRow {
        texts.iter().map(|text| text.to_string()).collect()
    }

    #[test]
    fn values_have_the_text_of_their_type() {
        let floats =
            [Some(1.0), Some(0.1 + 0.2), Some(-0.0), Some(1e21), Some(f64::NAN), Some(f64::NEG_INFINITY), None];
        let texts = ["1", "0.30000000000000004", "-0", "1000000000000000000000", "NaN", "-Infinity", "NULL"];
        assert_eq!(column(Float64Array::from(floats.to_vec())), texts);
        let decimals = Decimal128Array::from(vec![Some(1250), Some(100), Some(0), None]);
        assert_eq!(column(decimals.with_precision_and_scale(10, 2).unwrap()), ["12.5", "1", "0", "NULL"]);
        assert_eq!(column(StringArray::from(vec![Some(""), Some("a\nb"), None])), ["(empty)", "a\\nb", "NULL"]);
        assert_eq!(column([Some("x"), None].into_iter().collect::<DictionaryArray<Int32Type>>()), ["x", "NULL"]);
    }

    #[test]
    fn rows_have_a_text_for_each_column() {
        let columns: [(&str, ArrayRef); 2] =
            [("n", Arc::new(Int64Array::from(vec![1, 2]))), ("t", Arc::new(StringArray::from(vec!["a", ""])))];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        assert_eq!(text_rows(&[batch]), [row(&["1", "a"]), row(&["2", "(empty)"])]);
    }

    #[test]
    fn difference_counts_rows_in_any_order() {
        let (one, two) = (row(&["1", "a"]), row(&["2", "b"]));
        assert_eq!(difference(&[one.clone(), two.clone()], &[two.clone(), one.clone()]), None);
        let found = difference(&[one.clone(), two.clone()], &[one.clone(), one.clone(), one]).unwrap();
        assert_eq!(found, "3 rows instead of 2\nmissing: 1× [2 | b]\nnot expected: 2× [1 | a]");
    }
}
