//! `volley nodes`.

use std::process::ExitCode;

use comfy_table::Table;
use serde_json::{Value, json};
use volley_client::Client;
use volley_common::Result;

use crate::output::{self, cell};

/// Lists the nodes. The exit code is 3 if no majority of the coordinators answers, so that the list may be out of date.
pub async fn run(client: &Client, json: bool) -> Result<ExitCode> {
    let status = client.status().await?;
    if json {
        output::json(&json!({ "nodes": status["nodes"], "stale": status["stale"] }))?;
        return Ok(output::freshness(&status));
    }
    output::stale_text(&status).map_or(Ok(()), output::line)?;
    match status["nodes"].as_array() {
        Some(nodes) if !nodes.is_empty() => output::line(table(nodes))?,
        _ => output::line("no nodes")?,
    }
    Ok(output::freshness(&status))
}

/// A table of nodes.
pub fn table(nodes: &[Value]) -> Table {
    let mut table = output::table(&["node", "address", "zone", "state", "parts", "size", "free", "capacity", "note"]);
    for node in nodes {
        let of = |key: &str| cell(key, &node[key]);
        table.add_row([
            of("id"),
            address(node),
            of("zone"),
            output::condition(&node["condition"]).into(),
            of("parts"),
            of("bytes"),
            of("bytes_free"),
            of("bytes_total"),
            note(node),
        ]);
    }
    output::align_right(&mut table, &[4, 5, 6, 7]);
    table
}

/// HOST:PORT of a node's Flight address.
fn address(node: &Value) -> String {
    let uri = node["flight"].as_str().unwrap_or_default();
    uri.rsplit("://").next().unwrap_or(uri).to_string()
}

/// The reason for the node's condition, and its damaged files.
fn note(node: &Value) -> String {
    let mut notes: Vec<String> = Vec::new();
    notes.extend(node["text"].as_str().filter(|text| !text.is_empty()).map(str::to_string));
    notes.extend(node["damaged"].as_i64().filter(|n| *n > 0).map(|n| output::plural(n, "damaged file")));
    notes.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_is_shown_with_its_condition_and_note() {
        let node = json!({
            "id": "00000000000000ab", "flight": "grpc+tcp://h:8816", "zone": "z", "condition": "refusing", "parts": 1200,
            "bytes": 5_000_000, "bytes_free": 1_000_000_000, "bytes_total": null, "text": "not accepting writes: disk 96 % full",
            "damaged": 1,
        });
        let text = table(&[node]).to_string();
        for word in
            ["00000000000000ab", "h:8816", "read-only", "1,200", "5.00 MB", "1.00 GB", "disk 96 % full; 1 damaged file"]
        {
            assert!(text.contains(word), "{word} is not in\n{text}");
        }
    }
}
