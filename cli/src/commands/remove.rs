//! `volley remove`.

use serde_json::{Value, json};
use volley_client::Client;
use volley_common::{Error, Result};

use crate::{output, prompt};

/// Removes a node from the cluster. Asks first if the node is unreachable and the input is a terminal, unless `yes`: its process may
/// hang, and what is removed cannot return.
pub async fn run(client: &Client, node: &str, yes: bool, json: bool) -> Result<()> {
    if !yes && prompt::is_interactive() {
        confirm(client, node).await?;
    }
    let removed = client.action("remove_node", &json!({ "node": node })).await?;
    if json {
        return output::json(&removed);
    }
    let id = output::cell("node", &removed["node"]);
    output::line(format!("removed node {id}: stop its process; with an empty data folder it can join as a new node"))
}

async fn confirm(client: &Client, node: &str) -> Result<()> {
    let Some(asked) = question(&client.status().await?, node) else { return Ok(()) };
    match prompt::confirmed(&asked).await? {
        true => Ok(()),
        false => Err(Error::aborted(format!("node {node} is not removed"))),
    }
}

/// What to ask before this node is removed; none if it is not unreachable: then the cluster removes it only if it is drained.
/// `node`: its id, the first digits, or HOST:PORT.
fn question(status: &Value, node: &str) -> Option<String> {
    let wanted = node.trim().to_ascii_lowercase();
    let wanted = wanted.rsplit("://").next().unwrap_or_default();
    let of = |one: &Value, key: &str| one[key].as_str().unwrap_or_default().to_ascii_lowercase();
    let is_named = |one: &Value| {
        let is_address = of(one, "flight").rsplit("://").next() == Some(wanted) || of(one, "peer") == wanted;
        is_address || of(one, "id").starts_with(wanted)
    };
    let nodes = status["nodes"].as_array().into_iter().flatten();
    let found = nodes.filter(|one| one["state"] != "alive").find(|one| is_named(one))?;
    Some(format!(
        "Node {} at {} is {}. Its process may only hang: restarted, it comes back with its parts. Once removed, it cannot come back with them. Remove it?",
        of(found, "id"),
        of(found, "flight"),
        found["text"].as_str().unwrap_or("unreachable"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unreachable_node_is_asked_about() {
        let status = json!({ "nodes": [
            { "id": "00ab34cd56ef7890", "flight": "grpc+tcp://n1:8816", "peer": "n1:8826", "state": "silent", "text": "unreachable for 5 min" },
            { "id": "00cd34cd56ef7890", "flight": "grpc+tcp://n2:8816", "peer": "n2:8826", "state": "alive", "text": "draining" },
        ] });
        for named in ["00ab", "00AB34CD56EF7890", "n1:8816", "grpc+tcp://n1:8816", "n1:8826"] {
            let asked = question(&status, named).unwrap();
            assert!(asked.contains("00ab34cd56ef7890 at grpc+tcp://n1:8816 is unreachable for 5 min"), "{asked}");
        }
        for named in ["00cd", "n2:8816", "n3:8816"] {
            assert_eq!(question(&status, named), None, "{named}");
        }
    }
}
