//! The answer to a query as text, and what differs between two answers.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, FieldRef, SchemaRef};
use volley_tests::text_rows::{TextRow, difference, text_rows};

/// A query that takes longer is a failure.
const LONGEST: Duration = Duration::from_secs(90);

/// Columns and rows of an answer.
pub struct QueryAnswer {
    columns: Vec<(String, DataType)>,
    rows: Vec<TextRow>,
    /// The rows, with fewer digits of floats: the last ones of a sum depend on the order in which it is made.
    rounded: Vec<TextRow>,
}

impl QueryAnswer {
    pub fn new(schema: &SchemaRef, batches: &[RecordBatch]) -> QueryAnswer {
        let rows = text_rows(batches);
        let digits: Vec<Option<usize>> = schema.fields().iter().map(|field| float_digits(field.data_type())).collect();
        let round_row = |row: &TextRow| -> TextRow {
            row.iter().zip(&digits).map(|(text, digits)| rounded(text, *digits)).collect()
        };
        let columns = schema.fields().iter().map(|field| (field.name().clone(), without_views(field.data_type())));
        QueryAnswer { columns: columns.collect(), rounded: rows.iter().map(round_row).collect(), rows }
    }

    pub fn row_count(&self) -> usize {
        self.rows.len()
    }

    /// What is wrong with the names or types of the columns that were found.
    pub fn columns_differ(&self, found: &QueryAnswer) -> Option<String> {
        (self.columns != found.columns)
            .then(|| format!("the columns are {:?} instead of {:?}", found.columns, self.columns))
    }

    /// What is wrong with the rows that were found, or with their order, if that matters.
    pub fn rows_differ(&self, found: &QueryAnswer, is_ordered: bool) -> Option<String> {
        rows_differ(&self.rows, &found.rows, is_ordered)
            .and_then(|_| rows_differ(&self.rounded, &found.rounded, is_ordered))
    }
}

fn rows_differ(expected: &[TextRow], found: &[TextRow], is_ordered: bool) -> Option<String> {
    difference(expected, found).or_else(|| {
        let at = expected.iter().zip(found).position(|(expected, found)| expected != found)?;
        let text = |rows: &[TextRow]| rows[at].join(" | ");
        is_ordered.then(|| format!("the order differs at row {at}: [{}] instead of [{}]", text(found), text(expected)))
    })
}

/// Digits behind the point of a rounded float, in scientific notation.
fn float_digits(data_type: &DataType) -> Option<usize> {
    match data_type {
        DataType::Float64 => Some(9),
        DataType::Float16 | DataType::Float32 => Some(4),
        _ => None,
    }
}

fn rounded(text: &str, digits: Option<usize>) -> String {
    match (digits, text.parse::<f64>()) {
        (Some(digits), Ok(value)) if value.is_finite() => format!("{value:.digits$e}"),
        _ => text.into(),
    }
}

/// The type as the cluster sends it: with text and binary in place of their views, at any depth.
fn without_views(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::List(item) => DataType::List(field_without_views(item)),
        DataType::LargeList(item) => DataType::LargeList(field_without_views(item)),
        DataType::FixedSizeList(item, length) => DataType::FixedSizeList(field_without_views(item), *length),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(field_without_views).collect()),
        DataType::Map(entries, is_sorted) => DataType::Map(field_without_views(entries), *is_sorted),
        other => other.clone(),
    }
}

fn field_without_views(field: &FieldRef) -> FieldRef {
    Arc::new(Field::new(field.name(), without_views(field.data_type()), field.is_nullable()))
}

/// What a task of its own gives. That it panics, or takes too long, is an answer, too: other statements follow.
pub async fn guarded<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> Result<T, String> {
    let task = tokio::spawn(task);
    let abort = task.abort_handle();
    match tokio::time::timeout(LONGEST, task).await {
        Ok(joined) => joined.map_err(|panic| panic.to_string()),
        Err(_) => {
            abort.abort();
            Err(format!("no answer within {LONGEST:?}"))
        }
    }
}

#[test]
fn answers_differ_in_rows_types_and_requested_order() {
    use arrow::array::{ArrayRef, Float32Array, Float64Array};

    let answer = |column: ArrayRef| {
        let batch = RecordBatch::try_from_iter([("x", column)]).unwrap();
        QueryAnswer::new(&batch.schema(), &[batch])
    };
    let floats = |values: &[f64]| answer(Arc::new(Float64Array::from(values.to_vec())));
    let expected = floats(&[0.3, 7.0]);
    assert_eq!(expected.rows_differ(&floats(&[0.1 + 0.2, 7.0]), true), None);
    assert_eq!(expected.rows_differ(&floats(&[7.0, 0.3]), false), None);
    assert!(expected.rows_differ(&floats(&[7.0, 0.3]), true).is_some());
    for found in [&[0.3, 7.001][..], &[0.3], &[0.3, 7.0, 7.0]] {
        assert!(expected.rows_differ(&floats(found), false).is_some(), "{found:?}");
    }
    assert_eq!(expected.columns_differ(&floats(&[])), None);
    assert!(expected.columns_differ(&answer(Arc::new(Float32Array::from(vec![0.3])))).is_some());
}
