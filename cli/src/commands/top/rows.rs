//! The rows that `volley top` shows: of nodes, and of tables, sorted by a column.

use std::cmp::Ordering;
use std::collections::HashMap;

use serde_json::Value;
use volley_common::escape::escape_invisible;
use volley_common::listen::host_port;

use super::snapshot::{NodeActivity, TopSnapshot};
use crate::output::{self, cell, count, size};

/// A column.
pub struct TopColumn {
    /// Its heading.
    pub heading: &'static str,
    /// Characters; 0: what the others leave.
    pub width: u16,
}

const fn column(heading: &'static str, width: u16) -> TopColumn {
    TopColumn { heading, width }
}

const NODE_COLUMNS: &[TopColumn] = &[
    column("node", 0),
    column("state", 11),
    column("parts", 7),
    column("used", 5),
    column("get/s", 7),
    column("put/s", 7),
    column("gets", 5),
    column("puts", 5),
    column("sql", 4),
];

const TABLE_COLUMNS: &[TopColumn] = &[
    column("table", 0),
    column("version", 8),
    column("rows", 15),
    column("size", 10),
    column("rows/s", 11),
    column("bytes/s", 10),
];

/// What is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopView {
    /// The nodes.
    Nodes,
    /// The tables.
    Tables,
}

impl TopView {
    /// Its columns, which leave some characters to the first one of 80.
    pub fn columns(self) -> &'static [TopColumn] {
        match self {
            TopView::Nodes => NODE_COLUMNS,
            TopView::Tables => TABLE_COLUMNS,
        }
    }

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            TopView::Nodes => TopView::Tables,
            TopView::Tables => TopView::Nodes,
        }
    }
}

/// A cell: what is shown, and what it is sorted by.
#[derive(Clone, Debug, PartialEq)]
pub struct TopCell {
    /// For people.
    pub text: String,
    /// None of texts, and of numbers that are not known.
    pub number: Option<f64>,
}

impl TopCell {
    fn text(text: impl Into<String>) -> Self {
        TopCell { text: text.into(), number: None }
    }

    /// `show`: as [`count`], or as [`size`].
    fn number(number: Option<f64>, show: fn(i64) -> String) -> Self {
        let text = number.map_or_else(|| "-".into(), |number| show(number.round() as i64));
        TopCell { text, number }
    }
}

/// A row.
#[derive(Clone, Debug)]
pub struct TopRow {
    /// What identifies it from one look to the next: the id of the node, or the name of the table.
    pub key: String,
    /// One for each column.
    pub cells: Vec<TopCell>,
    /// All that the cluster says about it.
    pub facts: Value,
}

/// The rows of a view. `former`: an earlier look, for rates.
pub fn rows(view: TopView, now: &TopSnapshot, former: Option<&TopSnapshot>) -> Vec<TopRow> {
    match view {
        TopView::Nodes => now.nodes().iter().map(|node| node_row(node, now, former)).collect(),
        TopView::Tables => {
            let known = former.map(|former| (former, by_name(former)));
            now.tables().iter().map(|table| table_row(table, now, known.as_ref())).collect()
        }
    }
}

/// Sorts rows by a column: numbers with the largest first, texts from A to Z, what is not known at the end. `is_reversed`: the
/// other way round, with what is not known still at the end.
pub fn sort(rows: &mut [TopRow], column: usize, is_reversed: bool) {
    let turned = |order: Ordering| if is_reversed { order.reverse() } else { order };
    rows.sort_by(|a, b| {
        let by_column = match (a.cells.get(column), b.cells.get(column)) {
            (Some(a), Some(b)) => match (a.number, b.number) {
                (Some(a), Some(b)) => turned(b.total_cmp(&a)),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => turned(a.text.cmp(&b.text)),
            },
            _ => Ordering::Equal,
        };
        by_column.then_with(|| a.key.cmp(&b.key))
    });
}

fn number(value: &Value, key: &str) -> Option<f64> {
    value[key].as_f64()
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_string()
}

fn node_row(node: &Value, now: &TopSnapshot, former: Option<&TopSnapshot>) -> TopRow {
    let key = text(node, "id");
    let activity = now.activity.get(&key);
    let then = former.and_then(|former| former.activity.get(&key));
    let rate = |of: fn(&NodeActivity) -> f64| {
        activity.zip(former).and_then(|(found, former)| now.rate(former, of(found), then.map(of)))
    };
    let used = number(node, "bytes_used").zip(number(node, "bytes_total")).filter(|(_, total)| *total > 0.0);
    let used = used.map(|(used, total)| 100.0 * used / total);
    let busy = |of: fn(&NodeActivity) -> f64| TopCell::number(activity.map(of), count);
    let cells = vec![
        TopCell::text(escape_invisible(host_port(&text(node, "flight")))),
        TopCell::text(escape_invisible(output::condition(&node["condition"]))),
        TopCell::number(number(node, "parts"), count),
        TopCell::number(used, |percent| format!("{percent} %")),
        TopCell::number(rate(|found| found.get_bytes), short_size),
        TopCell::number(rate(|found| found.put_bytes), short_size),
        busy(|found| found.gets),
        busy(|found| found.puts),
        busy(|found| found.queries),
    ];
    TopRow { key, cells, facts: node.clone() }
}

/// A size of three digits, so that an address has room beside it.
fn short_size(bytes: i64) -> String {
    let (mut value, mut unit) = (bytes as f64, "B");
    for larger in ["kB", "MB", "GB", "TB"] {
        if value < 999.5 {
            break;
        }
        (value, unit) = (value / 1000.0, larger);
    }
    let digits = match value {
        _ if unit == "B" => 0,
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

/// The tables of an earlier look, by name.
type NamedTables<'a> = HashMap<&'a str, &'a Value>;

fn by_name(former: &TopSnapshot) -> NamedTables<'_> {
    former.tables().iter().filter_map(|table| Some((table["table"].as_str()?, table))).collect()
}

fn table_row(table: &Value, now: &TopSnapshot, known: Option<&(&TopSnapshot, NamedTables<'_>)>) -> TopRow {
    let key = text(table, "table");
    let rate = |of: &str| {
        let (former, tables) = known?;
        now.rate(former, number(table, of)?, tables.get(key.as_str()).and_then(|then| number(then, of)))
    };
    let cells = vec![
        TopCell::text(escape_invisible(&key)),
        TopCell::number(number(table, "version"), count),
        TopCell::number(number(table, "rows"), count),
        TopCell::number(number(table, "bytes"), size),
        TopCell::number(rate("rows"), count),
        TopCell::number(rate("bytes"), size),
    ];
    TopRow { key, cells, facts: table.clone() }
}

/// All facts of a row, one a line.
pub fn details(facts: &Value) -> Vec<String> {
    let facts = facts.as_object().into_iter().flatten();
    facts
        .map(|(key, value)| {
            let shown = if key.ends_with("_ms") && value.as_u64() > Some(1_000_000_000_000) {
                format!("{} UTC", output::time(value))
            } else {
                cell(key, value)
            };
            format!("{:<18} {}", escape_invisible(key), escape_invisible(&shown))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::json;

    use super::super::snapshot::tests::snapshot;
    use super::*;

    fn texts(row: &TopRow) -> Vec<&str> {
        row.cells.iter().map(|cell| cell.text.as_str()).collect()
    }

    #[test]
    fn rows_have_figures_and_rates() {
        let begin = Instant::now();
        let (then, now) = (snapshot(begin, 0), snapshot(begin, 2));
        let nodes = rows(TopView::Nodes, &now, Some(&then));
        assert_eq!(texts(&nodes[0]), ["10.0.0.1:8816", "ok", "7", "30 %", "1.00 MB", "0 B", "3", "1", "2"]);
        assert_eq!(texts(&nodes[1])[4..], ["-", "-", "-", "-", "-"], "its metrics are not known");
        assert_eq!(texts(&rows(TopView::Nodes, &now, None)[0])[4..6], ["-", "-"], "there is one look only");
        let tables = rows(TopView::Tables, &now, Some(&then));
        assert_eq!(texts(&tables[0]), ["sales/orders", "7", "2,001,000", "16.01 MB", "1,000,000", "8.00 MB"]);
        assert_eq!(texts(&tables[1])[4..], ["0", "0 B"]);
        for view in [TopView::Nodes, TopView::Tables] {
            let widths: u16 = view.columns().iter().map(|column| column.width + 1).sum();
            assert!(widths <= 60, "{view:?} leaves too little of 80 columns for 255.255.255.255:8816");
            assert!(rows(view, &now, None).iter().all(|row| row.cells.len() == view.columns().len()));
        }
    }

    #[test]
    fn rows_are_sorted_by_numbers_or_texts() {
        let now = snapshot(Instant::now(), 0);
        let sorted = |view: TopView, column: usize, is_reversed: bool| {
            let mut found = rows(view, &now, None);
            sort(&mut found, column, is_reversed);
            found.into_iter().map(|row| row.key).collect::<Vec<_>>()
        };
        assert_eq!(sorted(TopView::Tables, 0, false), ["sales/orders", "trips"]);
        assert_eq!(sorted(TopView::Tables, 0, true), ["trips", "sales/orders"]);
        assert_eq!(sorted(TopView::Tables, 2, false), ["trips", "sales/orders"], "the largest first");
        assert_eq!(sorted(TopView::Nodes, 6, true), ["00ab", "00cd"], "what is not known is the last");
    }

    #[test]
    fn short_sizes_have_three_digits() {
        for (bytes, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.00 kB"),
            (9_996, "10.0 kB"),
            (99_960, "100 kB"),
            (999_600, "1.00 MB"),
            (123_456_789, "123 MB"),
            (4_500_000_000_000, "4.50 TB"),
        ] {
            assert_eq!(short_size(bytes), expected);
        }
    }

    #[test]
    fn details_are_for_people() {
        let lines = details(
            &json!({ "bytes": 5_000_000, "changed_ms": 1_700_000_000_123_u64, "table": "a\nb", "ttl_s": null }),
        );
        assert_eq!(lines[0], "bytes              5.00 MB");
        assert!(lines[1].ends_with(" 2023-11-14 22:13:20 UTC") && lines[2].ends_with(r" a\nb"), "{lines:?}");
        assert!(details(&json!(7)).is_empty());
    }
}
