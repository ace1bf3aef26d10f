//! `volley describe`: a summary of each column, by statements of aggregates over one version of the table.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Float64Type, Int64Type, Schema, UInt64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::{Value, json};
use volley_client::Client;
use volley_common::escape::escape_invisible;
use volley_common::ipc::schema::parse_schema;
use volley_common::options::Options;
use volley_common::{Error, Result, TableName};

use self::measures::{SummaryMeasure, column_expression, measures_of};
use super::sql::names::quoted;
use super::{ls, statement};
use crate::args::table_commands::DescribeArgs;
use crate::column_list::column_names;
use crate::output::{self, count, plural};

mod measures;

/// Columns of one statement: each has up to five aggregates.
const STATEMENT_COLUMNS: usize = 50;
/// Bytes of the columns' names in one statement, unless one name has more. Members accept statements of 256 KiB.
const STATEMENT_BYTES: usize = 100 << 10;
/// Characters of a value in the table; JSON has all.
const MAX_SHOWN: usize = 40;

/// What is known of a column. What its type does not have is missing.
#[derive(Debug, Default, PartialEq)]
struct ColumnSummary {
    /// Values that are not null.
    values: Option<i64>,
    distinct: Option<u64>,
    min: Value,
    max: Value,
    mean: Option<f64>,
}

/// Shows the summary of each column.
pub async fn run(args: &DescribeArgs, client: &Client, json: bool) -> Result<()> {
    let options = Options { columns: column_names(&args.columns), version: args.version, ..Options::default() };
    let info = client.info(&args.name, &options).await?;
    let (schema, version) = (parse_schema(&info.schema)?, ls::version(&info));
    let mut columns = Vec::new();
    for range in slices(&schema) {
        columns.extend(summaries(client, &args.name, version, &schema, range).await?);
    }
    let described = Described { name: &args.name, version, rows: info.total_records, schema: &schema, columns };
    if json { output::json(&described.json()) } else { described.show() }
}

/// The columns of each statement.
fn slices(schema: &Schema) -> Vec<std::ops::Range<usize>> {
    let (mut slices, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (at, field) in schema.fields().iter().enumerate() {
        let is_full = at - start == STATEMENT_COLUMNS || bytes + field.name().len() > STATEMENT_BYTES;
        if is_full && at > start {
            slices.push(start..at);
            (start, bytes) = (at, 0);
        }
        bytes += field.name().len();
    }
    if start < schema.fields().len() {
        slices.push(start..schema.fields().len());
    }
    slices
}

/// The summaries of some columns, by one statement.
async fn summaries(
    client: &Client,
    name: &TableName,
    version: Option<u64>,
    schema: &Schema,
    range: std::ops::Range<usize>,
) -> Result<Vec<ColumnSummary>> {
    let fields = &schema.fields()[range];
    let mut summaries: Vec<ColumnSummary> = fields.iter().map(|_| ColumnSummary::default()).collect();
    let wanted: Vec<(usize, SummaryMeasure)> = fields
        .iter()
        .enumerate()
        .flat_map(|(at, field)| measures_of(field.data_type()).into_iter().map(move |measure| (at, measure)))
        .collect();
    if wanted.is_empty() {
        return Ok(summaries);
    }
    let columns = fields.iter().enumerate().filter(|(_, field)| !measures_of(field.data_type()).is_empty());
    let columns: Vec<String> = columns
        .map(|(at, field)| format!("{} AS c{at}", column_expression(&quoted(field.name()), field.data_type())))
        .collect();
    let aggregates = wanted.iter().enumerate();
    let aggregates: Vec<String> = aggregates
        .map(|(item, (at, measure))| format!("{} AS m{item}", measure.aggregate(&format!("c{at}"))))
        .collect();
    let sql = format!(
        "SELECT {} FROM (SELECT {} FROM {}) AS t",
        aggregates.join(", "),
        columns.join(", "),
        statement::from_table(name, version)
    );
    let row = statement::single_row(client, &sql).await?;
    if row.num_columns() != wanted.len() {
        return Err(Error::internal("a query of aggregates has another number of columns than it selects"));
    }
    for ((at, measure), value) in wanted.into_iter().zip(row.columns()) {
        set(&mut summaries[at], measure, value)?;
    }
    Ok(summaries)
}

/// Sets what a column of the result has: one value, or null.
fn set(summary: &mut ColumnSummary, measure: SummaryMeasure, value: &ArrayRef) -> Result<()> {
    match measure {
        SummaryMeasure::Values => summary.values = value.as_primitive_opt::<Int64Type>().map(|v| v.value(0)),
        SummaryMeasure::Distinct => summary.distinct = value.as_primitive_opt::<UInt64Type>().map(|v| v.value(0)),
        SummaryMeasure::Min => summary.min = json_value(value)?,
        SummaryMeasure::Max => summary.max = json_value(value)?,
        SummaryMeasure::Mean => {
            let mean = value.as_primitive_opt::<Float64Type>().filter(|mean| mean.is_valid(0));
            summary.mean = mean.map(|mean| mean.value(0));
        }
    }
    Ok(())
}

/// The first value of an array: a number if JSON has it, else its text as in all output; null if it is null.
fn json_value(value: &ArrayRef) -> Result<Value> {
    if value.is_null(0) {
        return Ok(Value::Null);
    }
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(value.as_ref(), &options);
    let text = formatter.and_then(|formatter| formatter.value(0).try_to_string());
    let text = text.map_err(|e| Error::unimplemented(format!("a value cannot be shown: {e}")))?;
    let number = match value.data_type() {
        kind if kind.is_integer() || kind.is_floating() => serde_json::from_str(&text).ok().filter(Value::is_number),
        DataType::Boolean => serde_json::from_str(&text).ok(),
        _ => None,
    };
    Ok(number.unwrap_or(Value::String(text)))
}

struct Described<'a> {
    name: &'a TableName,
    version: Option<u64>,
    /// Negative if it is not known.
    rows: i64,
    schema: &'a Schema,
    columns: Vec<ColumnSummary>,
}

impl Described<'_> {
    fn nulls(&self, summary: &ColumnSummary) -> Option<i64> {
        summary.values.filter(|_| self.rows >= 0).map(|values| self.rows - values)
    }

    fn json(&self) -> Value {
        let columns = self.schema.fields().iter().zip(&self.columns).map(|(field, summary)| {
            json!({
                "name": field.name(),
                "type": field.data_type().to_string(),
                "nullable": field.is_nullable(),
                "nulls": self.nulls(summary),
                "distinct": summary.distinct,
                "min": summary.min,
                "max": summary.max,
                "mean": mean_json(summary.mean),
            })
        });
        let columns: Vec<Value> = columns.collect();
        let rows = Some(self.rows).filter(|rows| *rows >= 0);
        json!({ "table": self.name.to_string(), "version": self.version, "rows": rows, "columns": columns })
    }

    fn show(&self) -> Result<()> {
        let version = self.version.map_or(String::new(), |version| format!("version {version}, "));
        output::line(format!("{}: {version}{}", self.name, plural(self.rows, "row")))?;
        let mut table = output::table(&["column", "type", "nulls", "distinct", "min", "max", "mean"]);
        for (field, summary) in self.schema.fields().iter().zip(&self.columns) {
            table.add_row([
                escape_invisible(field.name()).into_owned(),
                escape_invisible(&field.data_type().to_string()).into_owned(),
                self.nulls(summary).map_or(String::new(), count),
                summary.distinct.map_or(String::new(), |distinct| format!("~{}", count(distinct as i64))),
                shown(&summary.min),
                shown(&summary.max),
                summary.mean.map_or(String::new(), |mean| mean.to_string()),
            ]);
        }
        output::align_right(&mut table, &[2, 3, 6]);
        output::line(table)
    }
}

/// JSON has neither NaN nor infinity: they are texts.
fn mean_json(mean: Option<f64>) -> Value {
    mean.map_or(Value::Null, |mean| match serde_json::Number::from_f64(mean) {
        Some(number) => Value::Number(number),
        None => Value::String(mean.to_string()),
    })
}

/// The beginning of a value.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => return String::new(),
        Value::String(text) => escape_invisible(text).into_owned(),
        other => other.to_string(),
    };
    match text.char_indices().nth(MAX_SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests;
