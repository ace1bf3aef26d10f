//! `volley diff`: compares two tables, or two versions of one: their columns, and which rows only one of them has.
//!
//! Both are read at the same time, each row becomes a hash, and equal rows of both cancel each other out ([`rows`]). So rows that
//! are in the same order need little memory.

use std::process::ExitCode;

use arrow::datatypes::{DataType, SchemaRef};
use arrow_flight::FlightInfo;
use futures::StreamExt;
use futures::future::try_join;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use volley_client::{Client, FetchOptions, FetchStream};
use volley_common::escape::escape_invisible;
use volley_common::ipc::schema::parse_schema;
use volley_common::options::Options;
use volley_common::suggestion::did_you_mean;
use volley_common::{Error, Result, TableName};

use self::columns::{ColumnDifference, column_differences, common_columns};
use self::rows::{RowDifferences, RowHasher, UnmatchedRows};
use super::ls;
use crate::args::table_commands::DiffArgs;
use crate::column_list::column_names;
use crate::output::{self, count, plural};
use crate::progress;

mod columns;
mod rows;

/// The exit code if there are differences.
const EXIT_DIFFERENT: u8 = 1;

/// One of the two tables that are compared.
struct DiffSide {
    name: TableName,
    version: Option<u64>,
    schema: SchemaRef,
    /// The key columns of the table.
    shard_by: Vec<String>,
    info: FlightInfo,
}

/// What was compared, and what is different.
struct Comparison {
    columns: Vec<ColumnDifference>,
    /// The columns whose values were compared.
    compared: Vec<String>,
    /// The columns that identify a row.
    key: Option<Vec<String>>,
    /// Rows that were read of each.
    read: [u64; 2],
    rows: RowDifferences,
}

/// Compares, and prints what is different.
pub async fn run(args: &DiffArgs, client: &Client, json: bool) -> Result<ExitCode> {
    let second = args.second.as_ref().unwrap_or(&args.first);
    let version = |at: usize| args.versions.get(at).copied();
    let (first, second) =
        try_join(plan(client, args, &args.first, version(0)), plan(client, args, second, version(1))).await?;
    let sides = [first, second];
    let comparison = compare(args, client, &sides).await?;
    match json {
        true => output::json(&comparison.json(&sides))?,
        false => comparison.show(&sides)?,
    }
    Ok(ExitCode::from(if comparison.is_equal() { 0 } else { EXIT_DIFFERENT }))
}

async fn plan(client: &Client, args: &DiffArgs, name: &TableName, version: Option<u64>) -> Result<DiffSide> {
    let options = Options { version, filter: args.filter.clone(), ..Options::default() };
    let info = client.info(name, &options).await?;
    let stats = client.action_any("get_stats", &json!({ "table": name.to_string() })).await?;
    let keys = stats["shard_by"].as_array().into_iter().flatten();
    let shard_by = keys.filter_map(Value::as_str).map(String::from).collect();
    let (version, schema) = (ls::version(&info), parse_schema(&info.schema)?);
    Ok(DiffSide { name: name.clone(), version, schema, shard_by, info })
}

async fn compare(args: &DiffArgs, client: &Client, sides: &[DiffSide; 2]) -> Result<Comparison> {
    let [first, second] = sides;
    let columns = column_differences(&first.schema, &second.schema);
    let common = common_columns(&first.schema, &second.schema);
    let compared = compared_columns(column_names(&args.columns), &common, sides)?;
    let key = key_columns(column_names(&args.key), &compared, sides)?;
    let types: Vec<(&str, &DataType)> = compared
        .iter()
        .filter_map(|name| Some((name.as_str(), first.schema.field_with_name(name).ok()?.data_type())))
        .collect();
    let mut hasher = RowHasher::new(&types, key.as_deref().unwrap_or_default())?;
    let streams = [fetch(args, client, first, &compared).await?, fetch(args, client, second, &compared).await?];
    let total = sides.iter().map(|side| side.info.total_records.max(0) as u64).sum();
    let bar = progress::rows("compared", total);
    let matched = match_rows(streams, &mut hasher, &bar).await;
    bar.finish_and_clear();
    let (read, unmatched) = matched?;
    let rows = unmatched.differences(key.is_some());
    Ok(Comparison { columns, compared, key, read, rows })
}

/// Reads both tables. Returns how many rows each has, and those that have not met their equal.
async fn match_rows(
    streams: [FetchStream; 2],
    hasher: &mut RowHasher,
    bar: &ProgressBar,
) -> Result<([u64; 2], UnmatchedRows)> {
    let mut streams = streams.map(Some);
    let (mut read, mut unmatched) = ([0_u64; 2], UnmatchedRows::default());
    // The one of which fewer rows were read is next, so that rows in the same order meet soon.
    while let Some(next) = (0..2_usize).filter(|at| streams[*at].is_some()).min_by_key(|at| read[*at]) {
        let Some(stream) = &mut streams[next] else { break };
        match stream.next().await {
            None => streams[next] = None,
            Some(fetched) => {
                let batch = fetched?.batch;
                read[next] += batch.num_rows() as u64;
                bar.inc(batch.num_rows() as u64);
                let sign = if next == 0 { 1 } else { -1 };
                hasher.for_each(&batch, |row, key| unmatched.add(row, key, sign))?;
            }
        }
    }
    Ok((read, unmatched))
}

/// The columns whose values are compared: those that are wanted, or all that both tables have with the same type.
///
/// # Errors
/// INVALID_ARGUMENT: a column is wanted that one of the tables does not have, or that has another type in each.
fn compared_columns(wanted: Option<Vec<String>>, common: &[String], sides: &[DiffSide; 2]) -> Result<Vec<String>> {
    let Some(wanted) = wanted else { return Ok(common.to_vec()) };
    wanted.iter().try_for_each(|column| check_common(column, common, sides))?;
    if let Some(twice) = (1..wanted.len()).find(|&at| wanted[..at].contains(&wanted[at])) {
        return Err(Error::invalid(format!("--columns names the column {:?} twice", wanted[twice])));
    }
    Ok(wanted)
}

fn check_common(column: &str, common: &[String], sides: &[DiffSide; 2]) -> Result<()> {
    if common.iter().any(|name| name == column) {
        return Ok(());
    }
    for side in sides {
        if side.schema.field_with_name(column).is_err() {
            let names = side.schema.fields().iter().map(|field| field.name().as_str());
            let hint = did_you_mean(column, names);
            return Err(Error::invalid(format!("{} has no column {column:?}{hint}", side.label())));
        }
    }
    Err(Error::invalid(format!("the column {column:?} has another type in each table, so its values are not compared")))
}

/// The columns that identify a row, if there are any.
///
/// # Errors
/// INVALID_ARGUMENT: a column that is wanted is not compared.
fn key_columns(wanted: Option<Vec<String>>, compared: &[String], sides: &[DiffSide; 2]) -> Result<Option<Vec<String>>> {
    if let Some(wanted) = wanted {
        return match wanted.iter().find(|column| !compared.contains(column)) {
            Some(column) => Err(Error::invalid(format!("the key column {column:?} is none of the compared columns"))),
            None => Ok(Some(wanted)),
        };
    }
    let [first, second] = sides;
    let is_usable = first.shard_by == second.shard_by
        && !first.shard_by.is_empty()
        && first.shard_by.iter().all(|column| compared.contains(column));
    Ok(is_usable.then(|| first.shard_by.clone()))
}

/// Fetches the compared columns of the version that was planned, one endpoint after the other.
async fn fetch(args: &DiffArgs, client: &Client, side: &DiffSide, compared: &[String]) -> Result<FetchStream> {
    let options = FetchOptions { streams: args.streams.into(), ..FetchOptions::default() };
    let is_whole = side.schema.fields().iter().map(|field| field.name()).eq(compared);
    let mut info = side.info.clone();
    if !is_whole {
        // Without a column there are no values to compare; the number of rows is.
        let columns = match compared {
            [] => side.schema.fields().first().map(|field| vec![field.name().clone()]),
            some => Some(some.to_vec()),
        };
        let read = Options { version: side.version, filter: args.filter.clone(), columns, ..Options::default() };
        info = client.info(&side.name, &read).await?;
    }
    client.fetch(FlightInfo { ordered: true, ..info }, options)
}

impl DiffSide {
    fn label(&self) -> String {
        self.version.map_or(self.name.to_string(), |version| format!("{} version {version}", self.name))
    }
}

impl Comparison {
    fn is_equal(&self) -> bool {
        self.columns.is_empty() && self.rows == RowDifferences::default() && self.read[0] == self.read[1]
    }

    fn json(&self, sides: &[DiffSide; 2]) -> Value {
        let side = |at: usize| json!({ "table": sides[at].name.to_string(), "version": sides[at].version, "rows": self.read[at] });
        json!({
            "equal": self.is_equal(),
            "a": side(0),
            "b": side(1),
            "columns": self.columns.iter().map(ColumnDifference::json).collect::<Vec<_>>(),
            "compared": self.compared,
            "key": self.key,
            "added": self.rows.added,
            "removed": self.rows.removed,
            "changed": self.key.as_ref().map(|_| self.rows.changed),
        })
    }

    fn show(&self, sides: &[DiffSide; 2]) -> Result<()> {
        for (mark, (side, rows)) in ["a", "b"].iter().zip(sides.iter().zip(self.read)) {
            output::line(format!("{mark}: {}, {}", side.label(), plural(rows as i64, "row")))?;
        }
        if !self.columns.is_empty() {
            let mut table = output::table(&["column", "in a", "in b"]);
            for difference in &self.columns {
                table.add_row(difference.cells().map(|cell| escape_invisible(&cell).into_owned()));
            }
            output::line(table)?;
        }
        output::line(self.rows_text(sides))?;
        output::line(if self.is_equal() { "equal" } else { "different" })
    }

    fn rows_text(&self, sides: &[DiffSide; 2]) -> String {
        let RowDifferences { added, removed, changed } = self.rows;
        let number = |n: u64| count(i64::try_from(n).unwrap_or(-1));
        let of = match self.compared.len() {
            0 => return "no column is in both tables with the same type: no rows are compared".into(),
            n if sides.iter().all(|side| side.schema.fields().len() == n) => String::new(),
            n => format!(" in {}", plural(n as i64, "common column")),
        };
        match &self.key {
            Some(key) => format!(
                "rows by {}{of}: {} added, {} removed, {} changed",
                key.join(", "),
                number(added),
                number(removed),
                number(changed)
            ),
            None => format!("rows{of}: {} only in a, {} only in b", number(removed), number(added)),
        }
    }
}

#[cfg(test)]
mod tests;
