//! What a summary has of a column of each type, and the expressions of SQL for it.

use arrow::datatypes::DataType;

/// A part of a summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SummaryMeasure {
    /// The number of values that are not null.
    Values,
    /// The approximate number of distinct values.
    Distinct,
    /// The least value.
    Min,
    /// The greatest value.
    Max,
    /// The mean of numbers.
    Mean,
}

impl SummaryMeasure {
    /// The aggregate of a column.
    pub fn aggregate(self, column: &str) -> String {
        match self {
            SummaryMeasure::Values => format!("count({column})"),
            SummaryMeasure::Distinct => format!("approx_distinct({column})"),
            SummaryMeasure::Min => format!("min({column})"),
            SummaryMeasure::Max => format!("max({column})"),
            // A sum of integers could leave their range.
            SummaryMeasure::Mean => format!("avg(CAST({column} AS DOUBLE))"),
        }
    }
}

/// What a summary has of a column of this type: only what the engine computes of it.
pub fn measures_of(data_type: &DataType) -> Vec<SummaryMeasure> {
    use DataType::*;
    use SummaryMeasure::*;
    match value_type(data_type) {
        Union(_, _) | RunEndEncoded(_, _) => Vec::new(),
        kind if kind.is_floating() => vec![Values, Min, Max, Mean],
        kind if kind.is_integer() || kind.is_decimal() => vec![Values, Distinct, Min, Max, Mean],
        Boolean | Date32 | Date64 | Timestamp(_, _) => vec![Values, Distinct, Min, Max],
        Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView => vec![Values, Distinct, Min, Max],
        Time32(_) | Time64(_) | Duration(_) => vec![Values, Min, Max],
        _ => vec![Values],
    }
}

/// The expression that gives a column to the aggregates. `name`: as SQL writes it.
pub fn column_expression(name: &str, data_type: &DataType) -> String {
    match value_type(data_type) {
        values if values != data_type => format!("arrow_cast({name}, '{values}')"),
        _ => name.to_string(),
    }
}

/// The type of the values of a dictionary of texts or numbers, which is cast to it; every other type is itself.
fn value_type(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, values) if is_plain(values) => values,
        other => other,
    }
}

/// Types whose names are the same for everybody.
fn is_plain(data_type: &DataType) -> bool {
    let is_text = matches!(data_type, DataType::Utf8 | DataType::LargeUtf8);
    is_text || data_type.is_integer() || matches!(data_type, DataType::Float32 | DataType::Float64)
}
