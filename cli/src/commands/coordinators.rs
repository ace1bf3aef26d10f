//! `volley coordinators`.

use std::process::ExitCode;

use comfy_table::Table;
use serde_json::{Value, json};
use volley_client::Client;
use volley_common::{Result, clock};

use crate::args::{CoordinatorChange, NewCoordinator};
use crate::output::{self, cell};

/// Lists the coordinators, or adds or removes one. The exit code of a list is 3 if no majority of them answers, so that it may
/// be out of date.
pub async fn run(client: &Client, change: Option<&CoordinatorChange>, json: bool) -> Result<ExitCode> {
    let (answer, text) = match change {
        None => return list(client, json).await,
        Some(CoordinatorChange::Add { coordinator: NewCoordinator { id, peer } }) => {
            let answer = client.action("add_coordinator", &json!({ "id": id, "peer": peer })).await?;
            (answer, format!("added coordinator {id} at {peer}"))
        }
        Some(CoordinatorChange::Remove { id }) => {
            let answer = client.action("remove_coordinator", &json!({ "id": id })).await?;
            (answer, format!("removed coordinator {id}: stop its process"))
        }
    };
    let shown = if json { output::json(&answer) } else { output::line(text) };
    shown.map(|()| ExitCode::SUCCESS)
}

async fn list(client: &Client, json: bool) -> Result<ExitCode> {
    let status = client.status().await?;
    let coordinators = status["coordinators"].as_array().cloned().unwrap_or_default();
    if json {
        output::json(&json!({ "coordinators": coordinators, "stale": status["stale"] }))?;
    } else {
        output::stale_text(&status).map_or(Ok(()), output::line)?;
        output::line(table(&coordinators))?;
    }
    Ok(output::freshness(&status))
}

/// A table of coordinators.
pub fn table(coordinators: &[Value]) -> Table {
    let mut table = output::table(&["coordinator", "peer address", "role", "state", "entries behind", "last heard"]);
    for one in coordinators {
        let role = match (&one["leader"], &one["voter"]) {
            (Value::Bool(true), _) => "leader",
            (_, Value::Bool(true)) => "voter",
            _ => "learner",
        };
        let heard = one["quiet_ms"].as_u64().map_or(String::new(), |ms| format!("{} ago", clock::span(ms)));
        let of = |key: &str| cell(key, &one[key]);
        table.add_row([&of("id"), &of("peer"), role, &of("state"), &of("lag"), &heard]);
    }
    output::align_right(&mut table, &[4]);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_shows_roles_and_lags() {
        let one = |id, leader, voter, lag| json!({ "id": id, "peer": "h:8825", "leader": leader, "voter": voter, "lag": lag, "quiet_ms": 300_000, "state": "ok" });
        let text = table(&[one(1, true, true, 0), one(2, false, true, 1234), one(3, false, false, 7)]).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[2].contains("leader") && lines[3].contains("voter") && lines[4].contains("learner"), "{text}");
        assert!(lines[3].contains("1,234") && lines[3].contains("5 min ago"), "{text}");
    }
}
