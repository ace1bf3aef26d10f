//! Gauges whose series come and go: they are written anew at each scrape, so that none stays that is no longer true.

use std::fmt::Write;

use super::definitions::{self, MetricDefinition};

/// The lines of a gauge of the table with one label: its help, its type, and a value for each label; nothing without values.
pub fn gauge_lines(name: &str, label: &str, values: impl IntoIterator<Item = (String, u64)>) -> String {
    let mut text = String::new();
    for (labelled, value) in values {
        if text.is_empty()
            && let Some(MetricDefinition { kind, meaning, .. }) = definitions::all().find(|metric| metric.name == name)
        {
            // A string takes all that is written.
            let _ = writeln!(text, "# HELP {name} {meaning}\n# TYPE {name} {}", kind.name());
        }
        let _ = writeln!(text, "{name}{{{label}=\"{}\"}} {value}", escape(&labelled));
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

/// A label's value, as the format wants it.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped_and_none_gives_no_text() {
        let values = [("a/b".to_string(), 3), ("\"\\\n".to_string(), u64::MAX)];
        let text = gauge_lines("volley_table_rows", "table", values);
        assert!(text.starts_with("# HELP volley_table_rows "), "{text}");
        assert!(
            text.ends_with(
                "\n# TYPE volley_table_rows gauge\nvolley_table_rows{table=\"a/b\"} 3\nvolley_table_rows{table=\"\\\"\\\\\\n\"} 18446744073709551615\n\n"
            ),
            "{text}"
        );
        assert_eq!(gauge_lines("volley_table_rows", "table", []), "");
    }
}
