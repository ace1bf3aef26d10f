//! `volley cluster ...`.

use std::process::ExitCode;

use serde_json::Value;
use volley_common::Result;
use volley_common::client::Client;

use super::{coordinators, nodes};
use crate::output::{self, cell, count, plural};

/// What `volley cluster status` ends with when the cluster is red: 1 and 2 are errors of the command.
const RED: u8 = 3;

/// Shows how the cluster is; the exit code says it too.
pub async fn status(client: &Client, json: bool) -> Result<ExitCode> {
    let status = client.status().await?;
    if json {
        output::json(&status)?
    } else {
        show(&status)?
    }
    Ok(ExitCode::from(code(&status)))
}

fn code(status: &Value) -> u8 {
    if status["health"] == "red" { RED } else { 0 }
}

fn show(status: &Value) -> Result<()> {
    let health = cell("health", &status["health"]);
    output::line(format!("{}: {}", output::coloured(&health), sentence(status)))?;
    for part in unreadable(status) {
        output::line(part)?;
    }
    let list = |key: &str| status[key].as_array().cloned().unwrap_or_default();
    output::line(format!("\n{}", coordinators::table(&list("coordinators"))))?;
    output::line(format!("\n{}", nodes::table(&list("nodes"))))?;
    output::line(format!("\n{}", holds(&status["stats"])))
}

/// What there is, in one line.
fn holds(stats: &Value) -> String {
    let of = |key: &str, word: &str| plural(stats[key].as_i64().unwrap_or(-1), word);
    let bytes = cell("bytes", &stats["bytes"]);
    format!("{}, {}, {bytes}, {} under way", of("tables", "table"), of("rows", "row"), of("open_writes", "write"))
}

/// Why the cluster is green, yellow or red.
fn sentence(status: &Value) -> String {
    let of = |key: &str| status["copies"][key].as_i64().unwrap_or(0);
    let parts = plural(of("parts"), "part");
    if let Some(why) = status["stale"].as_str() {
        return format!("{why}; what follows may be out of date");
    }
    let copied = match of("being_copied") {
        0 => String::new(),
        n => format!(", {} being copied", count(n)),
    };
    let below = of("below_replicas");
    let to_copy = cell("bytes", &status["copies"]["bytes_to_copy"]);
    match of("unreadable") {
        0 if below == 0 => format!("{parts}, all with all their copies{copied}"),
        0 => format!("{} of {parts} have fewer copies than they should, {to_copy} to copy{copied}", count(below)),
        n => format!(
            "{} cannot be read, {} of {parts} have fewer copies than they should{copied}",
            plural(n, "part"),
            count(below)
        ),
    }
}

fn unreadable(status: &Value) -> Vec<String> {
    let list: Vec<&Value> = status["unreadable"].as_array().into_iter().flatten().collect();
    let one = |part: &&Value| {
        let of = |key: &str| cell(key, &part[key]);
        let holders = of("holders");
        let holders = if holders.is_empty() { "no node has it any longer".into() } else { format!("on {holders}") };
        let old = if part["newest"] == true { "" } else { " (of an older version)" };
        format!("  cannot be read: shard {} of {}{old}, part {}: {holders}", of("shard"), of("table"), of("part"))
    };
    let mut lines: Vec<String> = list.iter().map(one).collect();
    let more = status["copies"]["unreadable"].as_u64().unwrap_or(0).saturating_sub(lines.len() as u64);
    if more > 0 {
        lines.push(format!("  and {more} more"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(below: u64, unreadable: u64) -> Value {
        json!({
            "stale": null,
            "copies": { "parts": 10, "below_replicas": below, "bytes_to_copy": 2000, "unreadable": unreadable, "being_copied": 1 },
            "unreadable": [{ "table": "a/t", "shard": 3, "part": "p", "newest": false, "holders": ["n1", "n2"] }],
        })
    }

    #[test]
    fn the_sentence_says_what_the_colour_means() {
        assert_eq!(sentence(&status(0, 0)), "10 parts, all with all their copies, 1 being copied");
        assert!(
            sentence(&status(4, 0)).starts_with("4 of 10 parts have fewer copies than they should, 2.00 kB to copy")
        );
        assert!(sentence(&status(4, 2)).starts_with("2 parts cannot be read"));
        let stale = json!({ "stale": "no leader", "copies": {} });
        assert!(sentence(&stale).starts_with("no leader; "));
    }

    #[test]
    fn one_of_a_kind_is_told_as_one() {
        let stats = |n: u64| json!({ "tables": n, "rows": n, "bytes": 2000, "open_writes": n });
        assert_eq!(holds(&stats(1)), "1 table, 1 row, 2.00 kB, 1 write under way");
        assert_eq!(holds(&stats(1200)), "1,200 tables, 1,200 rows, 2.00 kB, 1,200 writes under way");
    }

    #[test]
    fn only_red_is_a_failure() {
        assert_eq!(["green", "yellow", "red"].map(|health| code(&json!({ "health": health }))), [0, 0, 3]);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let lines = super::unreadable(&status(4, 3));
        assert_eq!(lines[0], "  cannot be read: shard 3 of a/t (of an older version), part p: on n1, n2");
        assert_eq!(lines[1], "  and 2 more");
    }
}
