//! Queries whose rows show which writes a table has, and that these are whole.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::rows::{self, TableContent};

/// How often a query of sums counts each row if it is to take a while, so that members end in the middle of it.
const LONG: i64 = 50;
/// Maximum number of rows that a write can say it has.
const MOST_ROWS: i64 = 1 << 20;

/// A query over one table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableQuery {
    /// Whole rows, of each write those with such numbers. Members run it without an engine.
    Rows(SeqFilter),
    /// Counts and sums of each write, run by the engine: on one node, or in stages on several if the table is large enough.
    Sums {
        /// How often each row is counted.
        factor: i64,
    },
}

/// Which rows of a write, by their numbers. Row 0 is always among them, so that no write is hidden.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeqFilter {
    /// Those below this number, which is at least 1.
    Below(i64),
    /// Each whose number is a multiple of this one.
    EveryNth(i64),
}

impl SeqFilter {
    fn selects(self, seq: i64) -> bool {
        match self {
            SeqFilter::Below(limit) => seq < limit,
            SeqFilter::EveryNth(step) => seq % step == 0,
        }
    }

    fn sql(self) -> String {
        match self {
            SeqFilter::Below(limit) => format!("seq < {limit}"),
            SeqFilter::EveryNth(step) => format!("seq % {step} = 0"),
        }
    }
}

impl TableQuery {
    /// One of all kinds. `rows`: how many a write may have.
    pub fn random(rng: &mut impl Rng, rows: i64) -> TableQuery {
        match rng.random_range(0..4) {
            0 => TableQuery::Rows(SeqFilter::Below(rng.random_range(1..=rows))),
            1 => TableQuery::Rows(SeqFilter::EveryNth(rng.random_range(2..=9))),
            2 => TableQuery::Sums { factor: LONG },
            _ => TableQuery::Sums { factor: 1 },
        }
    }

    /// The statement.
    pub fn sql(&self, table: &str) -> String {
        match self {
            TableQuery::Rows(filter) => format!("SELECT * FROM {table} WHERE {}", filter.sql()),
            TableQuery::Sums { factor } => format!(
                "SELECT \"write\", count(*) AS counted, sum(seq) AS seqs, sum(\"check\") AS checks, min(total) AS least, max(total) AS most, \
                 count(DISTINCT seq) AS numbers, min(\"table\") AS first_table, max(\"table\") AS last_table \
                 FROM {} GROUP BY \"write\"",
                repeated(table, *factor)
            ),
        }
    }

    /// Whether the rows have the order of the table.
    pub fn keeps_order(&self) -> bool {
        matches!(self, TableQuery::Rows(_))
    }

    /// Checks the rows of the query. `ordered`: they must be in the order of the puts, write after write.
    pub fn content(&self, table: &str, batches: &[RecordBatch], ordered: bool) -> TableContent {
        match self {
            TableQuery::Rows(filter) => rows::content_of(table, batches, ordered, &|seq| filter.selects(seq)),
            TableQuery::Sums { factor } => sums(table, batches, *factor),
        }
    }
}

/// Each row of a table so many times, by operators that run on several nodes: a join with `generate_series` stays on one.
fn repeated(table: &str, factor: i64) -> String {
    match factor {
        1 => table.to_string(),
        _ => format!(
            "(SELECT \"table\", \"write\", seq, total, \"check\", unnest(range(0, {factor})) AS copy FROM {table})"
        ),
    }
}

/// The writes of groups, one for each.
fn sums(table: &str, batches: &[RecordBatch], factor: i64) -> TableContent {
    let mut content = TableContent::default();
    for batch in batches {
        let types: Vec<&DataType> = batch.columns().iter().map(|column| column.data_type()).collect();
        let is_text = |at: usize| matches!(at, 0 | 7 | 8);
        let expected = |at: usize| if is_text(at) { DataType::Utf8 } else { DataType::Int64 };
        if types.len() != 9 || (0..9).any(|at| *types[at] != expected(at)) {
            content.flaw(format!("a batch has another schema: {:?}", batch.schema()));
            continue;
        }
        for row in 0..batch.num_rows() {
            let write = batch.column(0).as_string::<i32>().value(row).to_string();
            if let Some(flaw) = flaw_of_group(table, batch, row, factor) {
                content.flaw(format!("{flaw} in the sums of write {write}"));
            }
            if content.writes.contains(&write) {
                content.flaw(format!("double: write {write} has two groups"));
                continue;
            }
            content.writes.push(write);
        }
    }
    content
}

/// What is wrong with a group, whose write says how many rows it has.
fn flaw_of_group(table: &str, batch: &RecordBatch, row: usize, factor: i64) -> Option<String> {
    let text = |at: usize| batch.column(at).as_string::<i32>().value(row);
    let number = |at: usize| batch.column(at).as_primitive::<Int64Type>().value(row);
    let (write, first, last) = (text(0), text(7), text(8));
    let (counted, seqs, checks, total, most, numbers) =
        (number(1), number(2), number(3), number(4), number(5), number(6));
    if batch.columns().iter().any(|column| column.is_null(row)) {
        return Some("corrupt: a null".into());
    }
    if (first, last) != (table, table) {
        return Some(format!("foreign: rows of tables {first} and {last}"));
    }
    if total != most || !(1..=MOST_ROWS).contains(&total) {
        return Some(format!("corrupt: totals {total} and {most}"));
    }
    if numbers < total || counted < total * factor {
        return Some(format!("torn: {numbers} of {total} rows, {counted} counted of {}", total * factor));
    }
    if numbers > total || counted > total * factor {
        return Some(format!("double: {numbers} of {total} rows, {counted} counted of {}", total * factor));
    }
    let all_checks: i64 = (0..total).map(|seq| rows::checksum(table, write, seq, total)).sum();
    let expected = (total * (total - 1) / 2 * factor, all_checks * factor);
    (expected != (seqs, checks)).then(|| format!("corrupt: sums {:?} instead of {expected:?}", (seqs, checks)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};

    use super::*;

    /// The group of a write with 3 rows, each counted twice, with some numbers changed.
    fn group(write: &str, change: impl Fn(&mut [i64; 6])) -> RecordBatch {
        let checks: i64 = (0..3).map(|seq| rows::checksum("t", write, seq, 3)).sum();
        let mut numbers = [6, 6, 2 * checks, 3, 3, 3];
        change(&mut numbers);
        let text = |text: &str| Arc::new(StringArray::from(vec![text])) as ArrayRef;
        let number = |number: i64| Arc::new(Int64Array::from(vec![number])) as ArrayRef;
        let mut columns = vec![text(write)];
        columns.extend(numbers.map(number));
        columns.extend([text("t"), text("t")]);
        RecordBatch::try_from_iter(columns.into_iter().enumerate().map(|(at, column)| (at.to_string(), column)))
            .unwrap()
    }

    fn read(batches: &[RecordBatch]) -> TableContent {
        TableQuery::Sums { factor: 2 }.content("t", batches, false)
    }

    #[test]
    fn groups_of_whole_writes_have_no_flaw() {
        let found = read(&[group("b", |_| ()), group("a", |_| ())]);
        assert_eq!(found, TableContent { writes: vec!["b".into(), "a".into()], flaws: vec![] });
    }

    #[test]
    fn every_flaw_of_a_group_is_found() {
        let flaw = |change: fn(&mut [i64; 6])| read(&[group("a", change)]).flaws.join("; ");
        assert!(flaw(|numbers| numbers[0] = 4).starts_with("torn"));
        assert!(flaw(|numbers| numbers[5] = 2).starts_with("torn"));
        assert!(flaw(|numbers| numbers[0] = 8).starts_with("double"));
        assert!(flaw(|numbers| numbers[1] = 7).starts_with("corrupt"));
        assert!(flaw(|numbers| numbers[2] += 1).starts_with("corrupt"));
        assert!(flaw(|numbers| numbers[4] = 4).starts_with("corrupt"));
        assert!(read(&[group("a", |_| ()), group("a", |_| ())]).flaws[0].starts_with("double"));
        assert!(
            TableQuery::Sums { factor: 2 }.content("u", &[group("a", |_| ())], false).flaws[0].starts_with("foreign")
        );
    }

    #[test]
    fn filters_select_row_0_of_each_write() {
        for filter in [SeqFilter::Below(1), SeqFilter::EveryNth(9)] {
            assert!(filter.selects(0) && !filter.selects(1), "{filter:?}");
        }
    }
}
