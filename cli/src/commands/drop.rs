//! `volley drop`.

use std::io::{BufRead, IsTerminal};

use serde_json::{Value, json};
use tokio::sync::oneshot;
use volley_common::client::Client;
use volley_common::clock::{self, span};
use volley_common::{Error, Result, TableName};

use crate::output;

/// Drops a table. Asks first if it has rows and the input is a terminal, unless `yes`: scripts are not asked.
pub async fn run(client: &Client, name: &TableName, yes: bool, json: bool) -> Result<()> {
    if !yes && std::io::stdin().is_terminal() && std::io::stderr().is_terminal() {
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
    eprint!("Drop {name} with {}? [y/N] ", output::plural(rows, "row"));
    if is_yes(&answer().await?) { Ok(()) } else { Err(Error::aborted(format!("{name} is not dropped"))) }
}

/// A line of the standard input. Its thread is not joined, so that an interrupt ends the command.
async fn answer() -> Result<String> {
    let (send, line) = oneshot::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line).map(|_| line);
        let _ = send.send(read);
    });
    let read = line.await.map_err(|_| Error::internal("the thread that reads the answer panicked"))?;
    read.map_err(|e| Error::unavailable(format!("cannot read the answer: {e}")))
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
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

    #[test]
    fn only_a_yes_is_a_yes() {
        assert!(is_yes("y\n") && is_yes("Yes\n"));
        assert!(!is_yes("\n") && !is_yes("") && !is_yes("no\n"));
    }
}
