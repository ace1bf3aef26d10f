//! `volley drop`.

use serde_json::{Value, json};
use volley_client::Client;
use volley_common::clock::{self, span};
use volley_common::{Error, Result, TableName};

use crate::{output, prompt};

/// Drops a table. Asks first if it has rows and the input is a terminal, unless `yes`: scripts are not asked.
pub async fn run(client: &Client, name: &TableName, yes: bool, json: bool) -> Result<()> {
    if !yes && prompt::is_interactive() {
        confirm(client, name).await?;
    }
    let dropped = client.drop_table(name).await?;
    if json {
        let until = &dropped["restorable_until_ms"];
        return output::json(&json!({ "dropped": name.to_string(), "restorable_until_ms": until }));
    }
    output::line(dropped_text(name, &dropped, clock::now_ms()))
}

/// What was dropped, and how to undo it while that is possible.
fn dropped_text(name: &TableName, dropped: &Value, now_ms: u64) -> String {
    match dropped["restorable_until_ms"].as_u64().and_then(|until| until.checked_sub(now_ms)) {
        Some(left) => format!("dropped {name}; for {} more `volley restore {name}` brings it back", span(left)),
        None => format!("dropped {name}"),
    }
}

async fn confirm(client: &Client, name: &TableName) -> Result<()> {
    let stats = client.action("get_stats", &json!({ "table": name.to_string() })).await?;
    let rows = stats["rows"].as_i64().unwrap_or(-1);
    if rows == 0 {
        return Ok(());
    }
    match prompt::confirmed(&format!("Drop {name} with {}?", output::plural(rows, "row"))).await? {
        true => Ok(()),
        false => Err(Error::aborted(format!("{name} is not dropped"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_text_says_how_to_undo_it() {
        let name: TableName = "a/t".parse().unwrap();
        let text = dropped_text(&name, &json!({ "restorable_until_ms": 61_000 }), 1_000);
        assert_eq!(text, "dropped a/t; for 60 s more `volley restore a/t` brings it back");
        assert_eq!(dropped_text(&name, &json!({ "dropped": true }), 1_000), "dropped a/t");
    }
}
