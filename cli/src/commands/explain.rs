//! `volley explain`: where a table's shards are, where they should be, and why not yet.

use comfy_table::Table;
use serde_json::{Value, json};
use volley_common::client::Client;
use volley_common::{Result, TableName};

use crate::output::{self, cell, plural};

/// Shards that people get to see; machines get all.
const SHOWN: usize = 50;

/// Explains a table; only shards that lack something, unless `all`.
pub async fn run(client: &Client, name: &TableName, all: bool, json: bool) -> Result<()> {
    let explained = client.action("explain", &json!({ "table": name.to_string() })).await?;
    if json {
        return output::json(&explained);
    }
    output::line(summary(&explained))?;
    let shards: Vec<&Value> = explained["shards"].as_array().into_iter().flatten().collect();
    let lacking: Vec<&Value> = shards.iter().copied().filter(|shard| lacks(shard)).collect();
    // Nothing to explain: show where it is.
    let chosen = if all || lacking.is_empty() { &shards } else { &lacking };
    let most = if all { chosen.len() } else { SHOWN };
    output::line(table(chosen.iter().take(most).copied()))?;
    match chosen.len().saturating_sub(most) {
        0 => Ok(()),
        more => output::line(format!("and {more} more shards: --all shows them")),
    }
}

fn number(value: &Value, key: &str) -> i64 {
    value[key].as_i64().unwrap_or(0)
}

fn lacks(shard: &Value) -> bool {
    ["below_replicas", "unreadable", "moving"].iter().any(|key| number(shard, key) > 0)
}

fn summary(explained: &Value) -> String {
    let of = |key: &str| number(explained, key);
    let (name, version) = (cell("table", &explained["table"]), of("version"));
    let (parts, copies) = (plural(of("parts"), "part"), of("replicas"));
    let state = match (of("unreadable"), of("below_replicas"), of("moving")) {
        (0, 0, 0) => "each with all its copies where they should be".to_string(),
        (0, 0, moving) => format!("each with all its copies, {moving} of them to be moved"),
        (0, below, _) => format!("{below} of them with fewer copies than they should have"),
        (unreadable, below, _) => format!("{unreadable} of them unreadable, {below} with too few copies"),
    };
    format!("{name}, version {version}: {parts} of {copies} copies, {state}")
}

fn table<'a>(shards: impl Iterator<Item = &'a Value>) -> Table {
    let mut table = output::table(&["shard", "parts", "size", "is on", "should be on", "why not yet"]);
    for shard in shards {
        let why = shard["missing"].as_array().into_iter().flatten().map(why).chain(moving(shard));
        table.add_row([
            cell("shard", &shard["shard"]),
            cell("parts", &shard["parts"]),
            cell("bytes", &shard["bytes"]),
            nodes(&shard["holders"]),
            nodes(&shard["placed"]),
            why.collect::<Vec<_>>().join("\n"),
        ]);
    }
    output::right(&mut table, &[0, 1, 2]);
    table
}

fn why(missing: &Value) -> String {
    format!("{}: {}", plural(number(missing, "parts"), "part"), cell("why", &missing["why"]))
}

fn moving(shard: &Value) -> Option<String> {
    Some(number(shard, "moving")).filter(|n| *n > 0).map(|n| format!("{}: to be moved", plural(n, "part")))
}

/// Addresses, each with what is wrong with its node.
fn nodes(list: &Value) -> String {
    let name = |node: &Value| {
        let address = node["address"].as_str().or(node["node"].as_str()).unwrap_or("?");
        match node["condition"].as_str() {
            Some("ok") | None => address.to_string(),
            Some(condition) => format!("{address} ({condition})"),
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
    fn a_shard_is_shown_with_why_it_lacks_copies() {
        let shard = json!({
            "shard": 3, "parts": 2, "bytes": 1000, "below_replicas": 1,
            "holders": [node("a:1", "ok"), node("b:1", "silent")], "placed": [node("a:1", "ok"), node("c:1", "ok")],
            "missing": [{ "why": "waits for its turn", "parts": 1 }],
        });
        let text = table(std::iter::once(&shard)).to_string();
        for word in ["a:1", "b:1 (silent)", "c:1", "1 part: waits for its turn"] {
            assert!(text.contains(word), "{word} is not in\n{text}");
        }
        assert!(lacks(&shard) && !lacks(&json!({ "below_replicas": 0, "unreadable": 0, "moving": 0 })));
    }

    #[test]
    fn the_summary_says_the_worst() {
        let of = |unreadable, below, moving| {
            summary(
                &json!({ "table": "t", "version": 4, "parts": 8, "replicas": 2, "unreadable": unreadable, "below_replicas": below, "moving": moving }),
            )
        };
        assert!(of(0, 0, 0).contains("all its copies where they should be"));
        assert!(of(0, 0, 2).contains("2 of them to be moved"));
        assert!(of(0, 3, 2).contains("3 of them with fewer copies"));
        assert!(of(1, 3, 2).contains("1 of them unreadable"));
    }
}
