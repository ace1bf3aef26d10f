//! `volley drain`: waits until a node can leave.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use serde_json::{Value, json};
use volley_client::Client;
use volley_common::server::StopSignals;
use volley_common::tls::ClientTls;
use volley_common::{Code, Error, Result};

use super::connect;
use crate::args::DrainArgs;
use crate::client_login_args::ClientLoginArgs;
use crate::{output, progress};

/// Interval between progress requests.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How long the cluster may be without an answer (while a new leader is elected) before the command fails. The drain
/// continues.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Drains a node, or cancels its drain.
pub async fn run(drain: &DrainArgs, cluster: &str, tls: &ClientTls, login: &ClientLoginArgs, json: bool) -> Result<()> {
    let client = connect(cluster, tls, login).await?;
    let node = json!({ "node": drain.node });
    if drain.cancel {
        let cancelled = client.action("undrain_node", &node).await?;
        return report(&cancelled, json, |id| format!("node {id} accepts writes again"));
    }
    // Before the drain begins: an interrupt at any moment after it says that the drain continues.
    let mut interrupts = StopSignals::new()?;
    let started = tokio::select! {
        started = client.action("drain_node", &node) => started?,
        _ = interrupts.next() => return Err(drain_continues(Error::cancelled("interrupted"), &drain.node)),
    };
    if drain.no_wait {
        return report(&started, json, |id| format!("node {id} is draining: {}", remaining(&started)));
    }
    let id = output::cell("node", &started["node"]);
    let drained = tokio::select! {
        drained = follow(&client, started) => drained.map_err(|error| drain_continues(error, &id))?,
        _ = interrupts.next() => return Err(drain_continues(Error::cancelled("interrupted"), &id)),
    };
    report(&drained, json, |id| format!("node {id} is drained: stop it, then `volley remove {id}`"))
}

fn report(answer: &Value, json: bool, text: impl FnOnce(&str) -> String) -> Result<()> {
    if json { output::json(answer) } else { output::line(text(&output::cell("node", &answer["node"]))) }
}

/// Adds to an error of the command that the drain continues.
fn drain_continues(mut error: Error, id: &str) -> Error {
    if error.code != Code::Aborted {
        error.message += &format!(
            "; the drain continues: `volley drain {id}` shows its progress, `volley drain {id} --cancel` cancels it"
        );
    }
    error
}

/// Shows the progress until the drain is complete.
async fn follow(client: &Client, mut state: Value) -> Result<Value> {
    let bar = progress::bytes("draining", bytes_left(&state));
    let body = json!({ "node": state["node"], "begin": false });
    let mut last_answer = Instant::now();
    while state["done"] != true {
        show(&bar, &state);
        tokio::time::sleep(POLL_INTERVAL).await;
        match client.action("drain_node", &body).await {
            Ok(now) if now["draining"] == true => (state, last_answer) = (now, Instant::now()),
            Ok(_) => return Err(Error::aborted("the drain was cancelled")),
            Err(error) if is_transient(&error) && last_answer.elapsed() < ANSWER_TIMEOUT => {}
            Err(error) => return Err(error),
        }
    }
    bar.finish_and_clear();
    Ok(state)
}

fn is_transient(error: &Error) -> bool {
    matches!(error.code, Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
}

fn bytes_left(state: &Value) -> u64 {
    state["bytes_left"].as_u64().unwrap_or(0)
}

fn show(bar: &ProgressBar, state: &Value) {
    let remaining_bytes = bytes_left(state);
    // Writes that were in progress may still add parts.
    let total = bar.length().unwrap_or(0).max(remaining_bytes);
    bar.set_length(total);
    bar.set_position(total - remaining_bytes);
    bar.set_message(remaining(state));
}

/// The number of parts left, and the first reason.
fn remaining(state: &Value) -> String {
    let parts = output::plural(state["parts_left"].as_i64().unwrap_or(0), "part");
    match state["why"][0]["why"].as_str() {
        Some(why) => format!("{parts} left ({why})"),
        None => format!("{parts} left"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remaining_parts_are_shown_with_a_reason() {
        let state = json!({ "parts_left": 2, "why": [{ "why": "queued" }, { "why": "other" }] });
        assert_eq!(remaining(&state), "2 parts left (queued)");
        assert_eq!(remaining(&json!({ "parts_left": 0, "why": [] })), "0 parts left");
    }

    #[test]
    fn bar_grows_with_added_parts_and_never_overflows() {
        let bar = ProgressBar::hidden();
        for (left, length, position) in [(100, 100, 0), (40, 100, 60), (150, 150, 0), (0, 150, 150)] {
            show(&bar, &json!({ "bytes_left": left, "parts_left": 1, "why": [] }));
            assert_eq!((bar.length(), bar.position()), (Some(length), position));
        }
    }

    #[test]
    fn interrupted_command_says_that_the_drain_continues() {
        assert!(drain_continues(Error::cancelled("interrupted"), "ab").message.contains("volley drain ab --cancel"));
        assert!(!drain_continues(Error::aborted("the drain was cancelled"), "ab").message.contains("continues"));
    }
}
