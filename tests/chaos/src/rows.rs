//! Rows that identify themselves: each has its table, its write, its number and the total of that write, and a checksum
//! of these. So each row that a read returns can be checked without other data.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use futures::Stream;
use serde::{Deserialize, Serialize};
use volley_common::Result;

/// Bytes of padding in a row, so that writes are not too small.
const PAD: usize = 90;
/// Rows of a batch.
const BATCH: i64 = 500;

/// What a read returned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableContent {
    /// The writes whose rows were returned, in the order in which they first appear.
    pub writes: Vec<String>,
    /// What is wrong with the rows.
    pub flaws: Vec<String>,
}

/// The schema of every table.
pub fn schema() -> SchemaRef {
    let text = |name| Field::new(name, DataType::Utf8, false);
    let number = |name| Field::new(name, DataType::Int64, false);
    Arc::new(Schema::new(vec![
        text("table"),
        text("write"),
        number("seq"),
        number("total"),
        number("check"),
        text("pad"),
    ]))
}

/// The checksum of a row.
pub fn checksum(table: &str, write: &str, seq: i64, total: i64) -> i64 {
    crc32c::crc32c(format!("{table}/{write}/{seq}/{total}").as_bytes()).into()
}

fn pad(check: i64) -> String {
    format!("{check:08x}").repeat(PAD / 8)
}

fn batch(table: &str, write: &str, from: i64, to: i64, total: i64) -> RecordBatch {
    let same = |text: &str| Arc::new(StringArray::from_iter_values((from..to).map(|_| text)));
    let checks: Vec<i64> = (from..to).map(|seq| checksum(table, write, seq, total)).collect();
    let pads = StringArray::from_iter_values(checks.iter().map(|check| pad(*check)));
    RecordBatch::try_new(
        schema(),
        vec![
            same(table),
            same(write),
            Arc::new(Int64Array::from_iter_values(from..to)),
            Arc::new(Int64Array::from_iter_values((from..to).map(|_| total))),
            Arc::new(Int64Array::from(checks)),
            Arc::new(pads),
        ],
    )
    .unwrap()
}

/// The rows of one write.
pub fn stream(table: &str, write: &str, total: i64) -> impl Stream<Item = Result<RecordBatch>> + Send + 'static {
    let starts = (0..total).step_by(BATCH as usize);
    let batches: Vec<_> = starts.map(|from| Ok(batch(table, write, from, (from + BATCH).min(total), total))).collect();
    futures::stream::iter(batches)
}

/// The rows of one write, while they are read.
struct WriteProgress {
    total: i64,
    seen: Vec<bool>,
    /// The next number, if they are in order.
    next: i64,
}

/// Checks the rows of a table. `ordered`: they must be in the order of the puts, write after write.
pub fn content(table: &str, batches: &[RecordBatch], ordered: bool) -> TableContent {
    content_of(table, batches, ordered, &|_| true)
}

/// As [`content`], of a read that returns only the rows whose numbers are `selected`. Row 0 must be among them.
pub fn content_of(table: &str, batches: &[RecordBatch], ordered: bool, selected: &dyn Fn(i64) -> bool) -> TableContent {
    let mut content = TableContent::default();
    let mut progress: BTreeMap<String, WriteProgress> = BTreeMap::new();
    for batch in batches {
        if batch.schema().fields() != schema().fields() {
            content.flaw(format!("a batch has another schema: {:?}", batch.schema()));
            continue;
        }
        take(table, batch, ordered, selected, &mut progress, &mut content);
    }
    for (write, rows) in &progress {
        let numbered = rows.seen.iter().zip(0..).filter(|(_, seq)| selected(*seq));
        let missing = numbered.filter(|(seen, _)| !**seen).count();
        if missing > 0 {
            content.flaw(format!("torn: {missing} of {} rows of write {write} are missing", rows.total));
        }
    }
    content
}

fn take(
    table: &str,
    batch: &RecordBatch,
    ordered: bool,
    selected: &dyn Fn(i64) -> bool,
    progress: &mut BTreeMap<String, WriteProgress>,
    content: &mut TableContent,
) {
    let text = |at: usize| batch.column(at).as_string::<i32>();
    let number = |at: usize| batch.column(at).as_primitive::<Int64Type>().values();
    for row in 0..batch.num_rows() {
        let (of, write) = (text(0).value(row), text(1).value(row));
        let (seq, total, check) = (number(2)[row], number(3)[row], number(4)[row]);
        let sound = check == checksum(of, write, seq, total) && text(5).value(row) == pad(check);
        if !sound || seq < 0 || seq >= total || total > 1 << 30 {
            content.flaw(format!("corrupt: a row has {of}/{write}/{seq}/{total} and another checksum"));
            continue;
        }
        if of != table {
            content.flaw(format!("foreign: a row of table {of}, write {write}"));
            continue;
        }
        if !selected(seq) {
            content.flaw(format!("corrupt: row {seq} of write {write} is not one that was requested"));
            continue;
        }
        let rows = progress.entry(write.to_string()).or_insert_with(|| {
            content.writes.push(write.to_string());
            WriteProgress { total, seen: vec![false; total as usize], next: 0 }
        });
        if rows.total != total || std::mem::replace(&mut rows.seen[seq as usize], true) {
            content.flaw(format!("double: row {seq} of write {write} appears twice"));
        }
        if ordered && (seq != rows.next || content.writes.last().is_none_or(|last| last != write)) {
            content.flaw(format!("disorder: row {seq} of write {write} is out of order"));
        }
        rows.next = (seq + 1..total).find(|next| selected(*next)).unwrap_or(total);
    }
}

impl TableContent {
    /// Adds a flaw, up to a limit.
    pub fn flaw(&mut self, text: String) {
        if self.flaws.len() < 20 {
            self.flaws.push(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(write: &str, total: i64) -> RecordBatch {
        batch("t", write, 0, total, total)
    }

    fn only_flaw(batches: &[RecordBatch], ordered: bool) -> String {
        let content = content("t", batches, ordered);
        assert_eq!(content.flaws.len(), 1, "{:?}", content.flaws);
        content.flaws[0].clone()
    }

    #[test]
    fn complete_writes_are_listed_in_order() {
        let found = content("t", &[whole("b", 3), whole("a", 2)], true);
        assert_eq!(found, TableContent { writes: vec!["b".into(), "a".into()], flaws: vec![] });
    }

    #[test]
    fn every_flaw_is_found() {
        assert!(only_flaw(&[whole("a", 5).slice(0, 4)], true).starts_with("torn: 1 of 5"));
        assert!(only_flaw(&[whole("a", 2), whole("a", 2).slice(1, 1)], false).starts_with("double: row 1"));
        let two = [whole("a", 2).slice(1, 1), whole("a", 2).slice(0, 1)];
        let disorder = content("t", &two, true).flaws;
        assert!(!disorder.is_empty() && disorder.iter().all(|flaw| flaw.starts_with("disorder")));
        assert_eq!(content("t", &two, false).flaws, Vec::<String>::new());
        assert!(only_flaw(&[batch("u", "a", 0, 1, 1)], true).starts_with("foreign: a row of table u"));
        let mut columns = whole("a", 1).columns().to_vec();
        columns[4] = Arc::new(Int64Array::from(vec![1]));
        let bad = RecordBatch::try_new(schema(), columns).unwrap();
        assert!(only_flaw(&[bad], true).starts_with("corrupt"));
    }

    #[test]
    fn rows_of_a_filter_are_complete_and_no_others() {
        let even = |seq: i64| seq % 2 == 0;
        let rows = |seqs: &[usize]| seqs.iter().map(|seq| whole("a", 5).slice(*seq, 1)).collect::<Vec<_>>();
        let flaws = |seqs: &[usize]| content_of("t", &rows(seqs), true, &even).flaws;
        assert_eq!(flaws(&[0, 2, 4]), Vec::<String>::new());
        assert!(flaws(&[0, 2])[0].starts_with("torn: 1 of 5"));
        assert!(flaws(&[0, 1, 2, 4])[0].starts_with("corrupt: row 1"));
        assert!(flaws(&[0, 4, 2])[0].starts_with("disorder: row 4"));
    }

    #[test]
    fn mixed_writes_of_an_ordered_table_are_out_of_order() {
        let mixed = [whole("a", 2).slice(0, 1), whole("b", 1), whole("a", 2).slice(1, 1)];
        assert!(content("t", &mixed, true).flaws.iter().any(|flaw| flaw.starts_with("disorder")));
    }
}
