//! `volley remove`.

use serde_json::json;
use volley_client::Client;
use volley_common::Result;

use crate::output;

/// Removes a node from the cluster.
pub async fn run(client: &Client, node: &str, json: bool) -> Result<()> {
    let removed = client.action("remove_node", &json!({ "node": node })).await?;
    if json {
        return output::json(&removed);
    }
    let id = output::cell("node", &removed["node"]);
    output::line(format!("removed node {id}: stop its process; with an empty data folder it can join as a new node"))
}
