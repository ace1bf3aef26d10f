//! `volley explain`: where a table's shards are, where they should be, and why they are not there yet.

use comfy_table::Table;
use serde_json::{Value, json};
use volley_client::Client;
use volley_common::{Result, TableName};

use crate::output::{self, cell, plural};

/// Shards shown by default; JSON has all.
const MAX_SHOWN: usize = 50;

/// Explains a table: its shards with missing or misplaced copies, or all.
pub async fn run(client: &Client, name: &TableName, all: bool, json: bool) -> Result<()> {
    let explained = client.action("explain", &json!({ "table": name.to_string() })).await?;
    if json {
        return output::json(&explained);
    }
    output::line(summary(&explained))?;
    let shards: Vec<&Value> = explained["shards"].as_array().into_iter().flatten().collect();
    let incomplete: Vec<&Value> = shards.iter().copied().filter(|shard| is_incomplete(shard)).collect();
    // If all shards are complete, show where they are.
    let chosen = if all || incomplete.is_empty() { &shards } else { &incomplete };
    let max = if all { chosen.len() } else { MAX_SHOWN };
    output::line(table(chosen.iter().take(max).copied()))?;
    match chosen.len().saturating_sub(max) {
        0 => Ok(()),
        more => output::line(format!("and {more} more shards: --all shows them")),
    }
}

fn number(value: &Value, key: &str) -> i64 {
    value[key].as_i64().unwrap_or(0)
}

/// Whether a shard has missing, unreadable or misplaced copies.
fn is_incomplete(shard: &Value) -> bool {
    ["below_replicas", "unreadable", "moving"].iter().any(|key| number(shard, key) > 0)
}

fn summary(explained: &Value) -> String {
    let of = |key: &str| number(explained, key);
    let (name, version) = (cell("table", &explained["table"]), of("version"));
    let (parts, copies) = (plural(of("parts"), "part"), of("replicas"));
    let state = match (of("unreadable"), of("below_replicas"), of("moving")) {
        (0, 0, 0) => "each with all its copies where they should be".to_string(),
        (0, 0, moving) => format!("each with all its copies, {moving} of them to be moved"),
        (0, below, _) => format!("{below} of them under-replicated"),
        (unreadable, below, _) => format!("{unreadable} of them unreadable, {below} under-replicated"),
    };
    format!("{name}, version {version}: {parts} of {copies} copies, {state}")
}

fn table<'a>(shards: impl Iterator<Item = &'a Value>) -> Table {
    let mut table = output::table(&["shard", "parts", "size", "on", "should be on", "reason"]);
    for shard in shards {
        let reasons = shard["missing"].as_array().into_iter().flatten().map(reason).chain(moving(shard));
        table.add_row([
            cell("shard", &shard["shard"]),
            cell("parts", &shard["parts"]),
            cell("bytes", &shard["bytes"]),
            nodes(&shard["holders"]),
            nodes(&shard["placed"]),
            reasons.collect::<Vec<_>>().join("\n"),
        ]);
    }
    output::align_right(&mut table, &[0, 1, 2]);
    table
}

fn reason(missing: &Value) -> String {
    format!("{}: {}", plural(number(missing, "parts"), "part"), cell("why", &missing["why"]))
}

fn moving(shard: &Value) -> Option<String> {
    Some(number(shard, "moving")).filter(|n| *n > 0).map(|n| format!("{}: to be moved", plural(n, "part")))
}

/// The addresses of nodes, each with its condition unless that is ok.
fn nodes(list: &Value) -> String {
    let name = |node: &Value| {
        let address = node["address"].as_str().or(node["node"].as_str()).unwrap_or("?");
        match output::condition(&node["condition"]) {
            "ok" | "" => address.to_string(),
            condition => format!("{address} ({condition})"),
        }
    };
    list.as_array().into_iter().flatten().map(name).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(address: &str, condition: &str) -> Value {
        json!({ "node": "ab", "address": address, "condition": condition })
    }

    #[test]
    fn incomplete_shard_is_shown_with_the_reason() {
        let shard = json!({
            "shard": 3, "parts": 2, "bytes": 1000, "below_replicas": 1,
            "holders": [node("a:1", "ok"), node("b:1", "silent")], "placed": [node("a:1", "ok"), node("c:1", "ok")],
            "missing": [{ "why": "queued", "parts": 1 }],
        });
        let text = table(std::iter::once(&shard)).to_string();
        for word in ["a:1", "b:1 (unreachable)", "c:1", "1 part: queued"] {
            assert!(text.contains(word), "{word} is not in\n{text}");
        }
        assert!(is_incomplete(&shard) && !is_incomplete(&json!({ "below_replicas": 0, "unreadable": 0, "moving": 0 })));
    }

    #[test]
    fn summary_names_the_worst_state() {
        let of = |unreadable, below, moving| {
            summary(
                &json!({ "table": "t", "version": 4, "parts": 8, "replicas": 2, "unreadable": unreadable, "below_replicas": below, "moving": moving }),
            )
        };
        assert!(of(0, 0, 0).contains("all its copies where they should be"));
        assert!(of(0, 0, 2).contains("2 of them to be moved"));
        assert!(of(0, 3, 2).contains("3 of them under-replicated"));
        assert!(of(1, 3, 2).contains("1 of them unreadable"));
    }
}
