//! Where the shards of a table are, as cells: in one row, or by node.

use std::collections::BTreeMap;

use serde_json::Value;

use super::figures::{count_of, items, number, plural, text};

/// The most shards that are shown.
const MAX_SHARDS: usize = 512;
/// The most nodes that have a column.
const MAX_NODES: usize = 64;

/// A cell of a picture, with its meaning in words.
pub(crate) struct ShardCell {
    pub tone: &'static str,
    pub text: String,
}

/// The shards of a table by node.
#[derive(Default)]
pub(crate) struct ShardTable {
    /// What is not shown, and why.
    pub note: String,
    pub nodes: Vec<ShardNode>,
    pub rows: Vec<ShardRow>,
}

/// A node with copies of a table, or with a place for them.
pub(crate) struct ShardNode {
    pub short: String,
    pub text: String,
}

/// A shard.
pub(crate) struct ShardRow {
    pub shard: String,
    pub cells: Vec<ShardCell>,
    pub parts: String,
    pub rows: String,
    pub state: String,
    pub reasons: Vec<String>,
}

/// The shards of a layout (the reply to `explain`) in one row.
pub(crate) fn strip(layout: &Value) -> Vec<ShardCell> {
    let cell = |shard: &Value| {
        let (tone, state) = state(shard);
        ShardCell { tone, text: format!("shard {}: {state}", count_of(&shard["shard"])) }
    };
    items(&layout["shards"]).take(MAX_SHARDS).map(cell).collect()
}

/// The same by node.
pub(crate) fn by_node(layout: &Value) -> ShardTable {
    let shards = layout["shards"].as_array().map_or(&[][..], Vec::as_slice);
    let mut nodes: BTreeMap<&str, &Value> = BTreeMap::new();
    for shard in shards {
        for node in items(&shard["placed"]).chain(items(&shard["holders"])) {
            nodes.entry(node["node"].as_str().unwrap_or_default()).or_insert(node);
        }
    }
    let more = |what: &str, all: usize, most: usize| {
        let more = all.saturating_sub(most);
        (more > 0).then(|| format!("The first {most} {what}; {more} more are not shown."))
    };
    let notes = [more("shards", shards.len(), MAX_SHARDS), more("nodes", nodes.len(), MAX_NODES)];
    let nodes: Vec<(&str, &Value)> = nodes.into_iter().take(MAX_NODES).collect();
    let row = |shard: &Value| {
        let (_, state) = state(shard);
        ShardRow {
            shard: count_of(&shard["shard"]),
            cells: nodes.iter().map(|(id, node)| cell(shard, id, node)).collect(),
            parts: count_of(&shard["parts"]),
            rows: count_of(&shard["rows"]),
            state,
            reasons: items(&shard["missing"]).map(|missing| text(&missing["why"])).collect(),
        }
    };
    ShardTable {
        note: notes.into_iter().flatten().collect::<Vec<_>>().join(" "),
        rows: shards.iter().take(MAX_SHARDS).map(row).collect(),
        nodes: nodes.iter().map(|(id, node)| shard_node(id, node)).collect(),
    }
}

fn shard_node(id: &str, node: &Value) -> ShardNode {
    let state = match node["condition"].as_str() {
        Some("silent") => "unreachable".to_string(),
        Some("refusing") => "read-only".to_string(),
        _ => text(&node["condition"]),
    };
    ShardNode {
        short: id.chars().take(6).collect(),
        text: format!("node {} at {}: {state}", text(&id.into()), text(&node["address"])),
    }
}

/// What a node has of a shard.
fn cell(shard: &Value, id: &str, node: &Value) -> ShardCell {
    let is_node = |other: &&Value| other["node"] == id;
    let held = items(&shard["holders"]).find(is_node).and_then(|holder| number(&holder["parts"])).unwrap_or_default();
    let is_placed = items(&shard["placed"]).any(|placed| placed["node"] == id);
    let all = number(&shard["parts"]).unwrap_or_default();
    let is_gone = matches!(node["condition"].as_str(), Some("silent" | "removed"));
    let (tone, state) = match () {
        () if held > 0 && is_gone => ("bad", "copies that cannot be read: the node does not answer"),
        () if held > 0 && !is_placed => ("moving", "copies that move to another node"),
        () if held > 0 && held >= all => ("good", "all copies"),
        () if held > 0 => ("warn", "some copies"),
        () if is_placed && all > 0 => ("warn", "no copies yet"),
        () if is_placed => ("none", "nothing yet"),
        () => ("blank", "not placed here"),
    };
    let text = format!("shard {} on node {id}: {state} ({held} of {})", count_of(&shard["shard"]), plural(all, "part"));
    ShardCell { tone, text }
}

/// The tone of a shard, and its state in words.
fn state(shard: &Value) -> (&'static str, String) {
    let of = |key: &str| number(&shard[key]).unwrap_or_default();
    match () {
        () if of("unreadable") > 0 => ("bad", format!("{} cannot be read", plural(of("unreadable"), "part"))),
        () if of("below_replicas") > 0 => {
            ("warn", format!("{} with fewer copies", plural(of("below_replicas"), "part")))
        }
        () if of("moving") > 0 => ("moving", format!("{} moving", plural(of("moving"), "part"))),
        () if of("parts") == 0 => ("none", "empty".into()),
        () => ("good", "all copies".into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn layout() -> Value {
        let node =
            |id: &str, condition: &str| json!({ "node": id, "address": "h:1", "condition": condition, "parts": 2 });
        json!({ "shards": [
            { "shard": 0, "parts": 2, "rows": 10, "below_replicas": 0, "unreadable": 0, "moving": 0,
              "placed": [node("a1", "ok"), node("b2", "ok")], "holders": [node("a1", "ok"), node("b2", "ok")], "missing": [] },
            { "shard": 1, "parts": 2, "rows": 10, "below_replicas": 2, "unreadable": 0, "moving": 0,
              "placed": [node("a1", "ok"), node("c3", "silent")], "holders": [node("a1", "ok"), node("c3", "silent")],
              "missing": [{ "why": "node c3 may come back" }] },
            { "shard": 2, "parts": 0, "rows": 0, "placed": [node("b2", "ok")], "holders": [], "missing": [] },
        ] })
    }

    #[test]
    fn strip_has_a_cell_for_each_shard() {
        let cells = strip(&layout());
        assert_eq!(cells.iter().map(|cell| cell.tone).collect::<Vec<_>>(), ["good", "warn", "none"]);
        assert_eq!(cells[1].text, "shard 1: 2 parts with fewer copies");
    }

    #[test]
    fn table_has_a_column_for_each_node() {
        let table = by_node(&layout());
        assert_eq!(table.nodes.iter().map(|node| node.short.as_str()).collect::<Vec<_>>(), ["a1", "b2", "c3"]);
        assert_eq!(table.nodes[2].text, "node c3 at h:1: unreachable");
        let tones = |row: usize| table.rows[row].cells.iter().map(|cell| cell.tone).collect::<Vec<_>>();
        assert_eq!((tones(0), tones(1)), (vec!["good", "good", "blank"], vec!["good", "blank", "bad"]));
        assert_eq!((tones(2), table.rows[1].reasons.len()), (vec!["blank", "none", "blank"], 1));
    }

    #[test]
    fn large_table_is_cut_and_says_so() {
        let shard = |number: usize| {
            let placed = json!([{ "node": format!("{number:04}"), "address": "h:1", "condition": "ok" }]);
            json!({ "shard": number, "parts": 1, "rows": 1, "placed": placed, "holders": [], "missing": [] })
        };
        let shards: Vec<Value> = (0..515).map(shard).collect();
        let table = by_node(&json!({ "shards": shards }));
        assert_eq!((table.rows.len(), table.rows[0].cells.len(), table.nodes.len()), (512, 64, 64));
        assert_eq!(
            table.note,
            "The first 512 shards; 3 more are not shown. The first 64 nodes; 451 more are not shown."
        );
    }
}
