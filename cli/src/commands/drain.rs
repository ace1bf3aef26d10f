//! `volley drain`: blocks until a node can leave.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use serde_json::{Value, json};
use volley_common::client::Client;
use volley_common::{Code, Error, Result};

use super::{connect, dev};
use crate::args::Drain;
use crate::{output, progress};

/// How often the cluster is asked what is left.
const EVERY: Duration = Duration::from_secs(1);
/// How long the cluster may give no answer (a new leader is elected) before this gives up; the drain goes on.
const PATIENCE: Duration = Duration::from_secs(60);

/// Drains a node, or takes that back.
pub async fn run(drain: &Drain, cluster: &str, json: bool) -> Result<()> {
    let client = connect(cluster).await?;
    let node = json!({ "node": drain.node });
    if drain.cancel {
        let undrained = client.action("undrain_node", &node).await?;
        return told(&undrained, json, |id| format!("node {id} takes parts again"));
    }
    let begun = client.action("drain_node", &node).await?;
    if drain.no_wait {
        return told(&begun, json, |id| format!("node {id} is draining: {}", left(&begun)));
    }
    let id = output::cell("node", &begun["node"]);
    let drained = tokio::select! {
        drained = follow(&client, begun) => drained.map_err(|error| goes_on(error, &id))?,
        result = dev::interrupted() => {
            return Err(goes_on(result.err().unwrap_or_else(|| Error::cancelled("interrupted")), &id));
        }
    };
    told(&drained, json, |id| format!("node {id} is drained: stop it, then `volley remove {id}`"))
}

fn told(answer: &Value, json: bool, sentence: impl FnOnce(&str) -> String) -> Result<()> {
    if json { output::json(answer) } else { output::line(sentence(&output::cell("node", &answer["node"]))) }
}

/// An error of the one who waits is none of the drain.
fn goes_on(mut error: Error, id: &str) -> Error {
    if error.code != Code::Aborted {
        error.message +=
            &format!("; the drain goes on: `volley drain {id}` follows it, `volley drain {id} --cancel` takes it back");
    }
    error
}

/// Asks until nothing is left.
async fn follow(client: &Client, mut state: Value) -> Result<Value> {
    let bar = progress::bytes("draining", bytes_left(&state));
    let body = json!({ "node": state["node"], "begin": false });
    let mut answered = Instant::now();
    while state["done"] != true {
        show(&bar, &state);
        tokio::time::sleep(EVERY).await;
        match client.action("drain_node", &body).await {
            Ok(now) if now["draining"] == true => (state, answered) = (now, Instant::now()),
            Ok(_) => return Err(Error::aborted("somebody took the drain back")),
            Err(error) if passes(&error) && answered.elapsed() < PATIENCE => {}
            Err(error) => return Err(error),
        }
    }
    bar.finish_and_clear();
    Ok(state)
}

fn passes(error: &Error) -> bool {
    matches!(error.code, Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
}

fn bytes_left(state: &Value) -> u64 {
    state["bytes_left"].as_u64().unwrap_or(0)
}

fn show(bar: &ProgressBar, state: &Value) {
    let left_now = bytes_left(state);
    // Writes that were under way may still bring parts.
    let total = bar.length().unwrap_or(0).max(left_now);
    bar.set_length(total);
    bar.set_position(total - left_now);
    bar.set_message(left(state));
}

/// What is left, and the first reason why.
fn left(state: &Value) -> String {
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
    fn what_is_left_comes_with_a_reason() {
        let state = json!({ "parts_left": 2, "why": [{ "why": "waits for its turn" }, { "why": "other" }] });
        assert_eq!(left(&state), "2 parts left (waits for its turn)");
        assert_eq!(left(&json!({ "parts_left": 0, "why": [] })), "0 parts left");
    }

    #[test]
    fn the_bar_grows_with_what_comes_and_never_runs_back_over_its_end() {
        let bar = ProgressBar::hidden();
        for (left, length, position) in [(100, 100, 0), (40, 100, 60), (150, 150, 0), (0, 150, 150)] {
            show(&bar, &json!({ "bytes_left": left, "parts_left": 1, "why": [] }));
            assert_eq!((bar.length(), bar.position()), (Some(length), position));
        }
    }

    #[test]
    fn who_stops_waiting_is_told_that_the_drain_goes_on() {
        assert!(goes_on(Error::cancelled("interrupted"), "ab").message.contains("volley drain ab --cancel"));
        assert!(!goes_on(Error::aborted("somebody took the drain back"), "ab").message.contains("goes on"));
    }
}
