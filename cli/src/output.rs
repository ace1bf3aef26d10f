//! Standard output: lines, tables for people, JSON for programs.
//!
//! Names of tables, columns and users are what somebody chose: in all text for people, characters that are not visible are
//! escaped. JSON is passed on as it is.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use comfy_table::{CellAlignment, ContentArrangement, Table, TableComponent, presets};
use serde_json::{Map, Value};
pub use volley_common::counts::{count, plural};
use volley_common::escape::{escape_invisible, escape_lines};
use volley_common::{Error, Result};

use crate::colours::Tone;

/// Prints a line, or several. If the reader has closed the pipe (`volley ls | head`) the process exits with 0.
pub fn line(text: impl std::fmt::Display) -> Result<()> {
    exact_line(escape_lines(&text.to_string()))
}

/// Prints a line that begins with a health state, in its colour.
pub fn health_line(health: &str, text: &str) -> Result<()> {
    exact_line(format!("{}: {}", coloured(health), escape_lines(text)))
}

/// Prints a remark on standard error.
pub fn note(text: impl std::fmt::Display) {
    eprintln!("{} {}", Tone::Warning.err("note:"), escape_invisible(&text.to_string()));
}

/// Prints a value as JSON on one line.
pub fn json(value: &Value) -> Result<()> {
    exact_line(value)
}

/// Prints a line, or several, as they are: JSON, or text that is escaped.
pub fn exact_line(text: impl std::fmt::Display) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.map_err(|e| Error::unavailable(format!("cannot write to standard output: {e}"))),
    }
}

/// An empty table with these headings.
pub fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    // A terminal of zero columns does not know its size.
    if table.width() != Some(0) {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table.set_style(TableComponent::HeaderLines, '─').set_style(TableComponent::MiddleHeaderIntersections, '─');
    if !headings.is_empty() {
        table.set_header(headings.to_vec());
    }
    table
}

/// Aligns columns to the right.
pub fn align_right(table: &mut Table, columns: &[usize]) {
    for &index in columns {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// A size in decimal units (1 kB is 1,000 B); `?` if negative.
pub fn size(bytes: i64) -> String {
    if bytes < 0 { "?".into() } else { indicatif::DecimalBytes(bytes as u64).to_string() }
}

/// Milliseconds since 1970 as a UTC date and time.
pub fn utc(ms: i64) -> String {
    let time = arrow::temporal_conversions::timestamp_ms_to_datetime(ms).map(|time| time.to_string());
    time.map_or("?".into(), |text| text.chars().take("2026-01-31 12:34:56".len()).collect())
}

/// A JSON number of milliseconds since 1970 as a UTC date and time; empty if it is none, or 0.
pub fn time(value: &Value) -> String {
    value.as_i64().filter(|ms| *ms > 0).map_or_else(String::new, utc)
}

/// A health state in its colour.
fn coloured(word: &str) -> String {
    let tone = match word {
        "green" => Tone::Good,
        "yellow" => Tone::Warning,
        "red" => Tone::Bad,
        _ => return escape_invisible(word).into(),
    };
    tone.out(word)
}

/// A node's condition as text for people; the values on the wire keep their released names.
pub fn condition(value: &Value) -> &str {
    match value.as_str() {
        Some("silent") => "unreachable",
        Some("refusing") => "read-only",
        Some(other) => other,
        None => "",
    }
}

/// Exit code of the commands that show the state of the cluster, if that is red: 1 and 2 are errors of the command.
pub const EXIT_RED: u8 = 3;

/// A line that says why what follows may be out of date; `None` if a majority of the coordinators answered.
pub fn stale_text(status: &Value) -> Option<String> {
    status["stale"].as_str().map(|why| format!("{why}; the following may be out of date"))
}

/// The exit code of a command that shows a part of the status: as if the cluster were red if it may be out of date.
pub fn freshness(status: &Value) -> ExitCode {
    ExitCode::from(if status["stale"].is_string() { EXIT_RED } else { 0 })
}

/// A JSON object as tables: its plain values are one, each list of objects is another under its name.
pub fn render(value: &Value) -> String {
    let Value::Object(map) = value else { return cell("", value) };
    let (lists, plain): (Vec<_>, Vec<_>) = map.iter().flat_map(flatten).partition(|(_, v)| is_table(v));
    let mut blocks = Vec::new();
    if !plain.is_empty() {
        blocks.push(plain_table(&plain));
    }
    for (name, list) in lists {
        blocks.push(format!("{name}\n{}", list_table(list)));
    }
    blocks.join("\n\n")
}

/// The entries of a nested object, or the value itself.
fn flatten<'a>((name, value): (&'a String, &'a Value)) -> Vec<(&'a String, &'a Value)> {
    match value {
        Value::Object(inner) => inner.iter().collect(),
        _ => vec![(name, value)],
    }
}

fn is_table(value: &Value) -> bool {
    value.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(Value::is_object))
}

fn plain_table(rows: &[(&String, &Value)]) -> String {
    let mut out = table(&[]);
    for (key, value) in rows {
        out.add_row([key.as_str(), &cell(key, value)]);
    }
    out.to_string()
}

fn list_table(list: &Value) -> String {
    let rows: Vec<&Map<String, Value>> = list.as_array().into_iter().flatten().filter_map(Value::as_object).collect();
    let mut headings: Vec<&str> = Vec::new();
    for key in rows.iter().flat_map(|row| row.keys()) {
        if !headings.contains(&key.as_str()) {
            headings.push(key);
        }
    }
    let mut out = table(&headings);
    for row in &rows {
        out.add_row(headings.iter().map(|key| row.get(*key).map_or(String::new(), |v| cell(key, v))));
    }
    for (index, key) in headings.iter().enumerate() {
        if rows.iter().all(|row| row.get(*key).is_none_or(Value::is_number)) {
            align_right(&mut out, &[index]);
        }
    }
    out.to_string()
}

/// A value as text for people, escaped before a table is laid out; a number whose key contains `bytes` is a size.
pub fn cell(key: &str, value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => escape_invisible(text).into(),
        Value::Number(n) => match n.as_i64() {
            Some(n) if key.contains("bytes") => size(n),
            Some(n) if !key.ends_with("_ms") && !key.ends_with("id") => count(n),
            _ => n.to_string(),
        },
        Value::Array(items) if items.iter().all(|i| !i.is_object()) => {
            items.iter().map(|item| cell(key, item)).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn render_shows_objects_and_lists_as_tables() {
        let value = json!({
            "cluster": "c1", "figures": {"parts": 7001}, "bytes": 1_500_000, "peers": ["a", "b"],
            "nodes": [{"id": "n1", "rows": 1234567}, {"id": "n2", "zone": "z"}],
        });
        let text = render(&value);
        for word in ["c1", "7,001", "1.50 MB", "a, b", "nodes", "1,234,567", "zone", "n2"] {
            assert!(text.contains(word), "{word} is not in\n{text}");
        }
    }

    #[test]
    fn names_in_tables_cannot_reverse_or_break_them() {
        let name = "\u{202e}a\u{200b}b\u{1b}[2J\nc";
        let text = render(&json!({ "table": name, "visible": "Käse", "rows": [{ "name": name, "to": [name, "b"] }] }));
        assert_eq!(text.matches(r"\u{202e}a\u{200b}b\u{1b}[2J\nc").count(), 3, "{text}");
        assert!(!text.contains(|c: char| c.is_control() && c != '\n') && text.contains("Käse"), "{text}");
    }

    #[test]
    fn negative_numbers_are_a_question_mark() {
        assert_eq!((count(-1), size(-1)), ("?".to_string(), "?".to_string()));
        assert_eq!(count(1000), "1,000");
    }

    #[test]
    fn utc_formats_date_and_time() {
        assert_eq!(utc(1_700_000_000_123), "2023-11-14 22:13:20");
        assert_eq!(time(&json!(1_700_000_000_123_u64)), "2023-11-14 22:13:20");
        assert_eq!((time(&json!(0)), time(&json!(null))), (String::new(), String::new()));
    }
}
