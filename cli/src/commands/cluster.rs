//! `volley cluster ...`.

use std::process::ExitCode;

use serde_json::{Value, json};
use volley_client::Client;
use volley_common::Result;

use super::doctor::exposure::exposure_warnings;
use super::{coordinators, nodes};
use crate::args::RotateKeysArgs;
use crate::output::{self, cell, count, plural};

/// Shows the state of the cluster, also by the exit code.
pub async fn status(client: &Client, json: bool) -> Result<ExitCode> {
    let status = client.status().await?;
    if json {
        output::json(&status)?
    } else {
        show(&status)?
    }
    Ok(ExitCode::from(exit_code(&status)))
}

/// Replaces the keys of the cluster.
pub async fn rotate_keys(client: &Client, rotate: &RotateKeysArgs, json: bool) -> Result<()> {
    let RotateKeysArgs { revoke_sessions, ticket_key, revoke_tickets } = rotate;
    let body =
        json!({ "revoke_sessions": revoke_sessions, "ticket_key": ticket_key, "revoke_tickets": revoke_tickets });
    let answer = client.action("rotate_keys", &body).await?;
    if json {
        return output::json(&answer);
    }
    rotated(&answer).into_iter().try_for_each(output::line)
}

/// What was replaced, and what ends when.
fn rotated(answer: &Value) -> Vec<String> {
    let sessions = match answer["sessions_revoked"] == true {
        true => "every session has ended: log in again",
        false => "sessions of the former key stay valid for their hour",
    };
    let mut lines = vec![format!("key {} signs sessions from now on; {sessions}", cell("id", &answer["signing_key"]))];
    let ticket_key = &answer["ticket_key"];
    if ticket_key.is_object() {
        lines.push(format!(
            "a new ticket key signs from {} UTC on; the former one is accepted until {} UTC",
            output::time(&ticket_key["signs_from_ms"]),
            output::time(&ticket_key["former_until_ms"])
        ));
    }
    lines
}

fn exit_code(status: &Value) -> u8 {
    if status["health"] == "red" { output::EXIT_RED } else { 0 }
}

fn show(status: &Value) -> Result<()> {
    let health = cell("health", &status["health"]);
    output::health_line(&health, &summary(status))?;
    let unreachable = status["unreachable"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let lines = unreachable.map(|member| format!("  {member}")).chain(unreadable(status)).chain(tls_failures(status));
    let lines = lines.chain(exposure_warnings(status).into_iter().map(|warning| format!("  warning: {warning}")));
    lines.into_iter().try_for_each(output::line)?;
    let list = |key: &str| status[key].as_array().cloned().unwrap_or_default();
    output::line(format!("\n{}", coordinators::table(&list("coordinators"))))?;
    output::line(format!("\n{}", nodes::table(&list("nodes"))))?;
    output::line(format!("\n{}", totals(&status["stats"])))
}

/// The totals of the cluster, in one line.
pub(super) fn totals(stats: &Value) -> String {
    let of = |key: &str, word: &str| plural(stats[key].as_i64().unwrap_or(-1), word);
    let bytes = cell("bytes", &stats["bytes"]);
    format!("{}, {}, {bytes}, {} in progress", of("tables", "table"), of("rows", "row"), of("open_writes", "write"))
}

/// Why the cluster is green, yellow or red.
pub(super) fn summary(status: &Value) -> String {
    let of = |key: &str| status["copies"][key].as_i64().unwrap_or(0);
    let parts = plural(of("parts"), "part");
    if let Some(text) = output::stale_text(status) {
        return text;
    }
    let copying = match of("being_copied") {
        0 => String::new(),
        n => format!(", {} being copied", count(n)),
    };
    let below = of("below_replicas");
    let to_copy = cell("bytes", &status["copies"]["bytes_to_copy"]);
    match of("unreadable") {
        0 if below == 0 => format!("{parts}, all fully replicated{copying}"),
        0 => format!("{} of {parts} are under-replicated, {to_copy} to copy{copying}", count(below)),
        n => format!("{} cannot be read, {} of {parts} are under-replicated{copying}", plural(n, "part"), count(below)),
    }
}

/// A line for every TLS file that a member cannot use, or that expires.
fn tls_failures(status: &Value) -> impl Iterator<Item = String> {
    let failures = status["tls_failures"].as_array().into_iter().flatten().filter_map(Value::as_str);
    failures.map(|failure| format!("  TLS files: {failure}"))
}

/// A line for every part that cannot be read.
fn unreadable(status: &Value) -> Vec<String> {
    let list: Vec<&Value> = status["unreadable"].as_array().into_iter().flatten().collect();
    let one = |part: &&Value| {
        let of = |key: &str| cell(key, &part[key]);
        let holders = of("holders");
        let holders = if holders.is_empty() { "no node has a copy".into() } else { format!("on {holders}") };
        let old = if part["newest"] == true { "" } else { " (of an older version)" };
        format!("  cannot be read: shard {} of {}{old}, part {}: {holders}", of("shard"), of("table"), of("part"))
    };
    let mut lines: Vec<String> = list.iter().map(one).collect();
    let more = status["copies"]["unreadable"].as_u64().unwrap_or(0).saturating_sub(lines.len() as u64);
    if more > 0 {
        lines.push(format!("  and {more} more"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(below: u64, unreadable: u64) -> Value {
        json!({
            "stale": null,
            "copies": { "parts": 10, "below_replicas": below, "bytes_to_copy": 2000, "unreadable": unreadable, "being_copied": 1 },
            "unreadable": [{ "table": "a/t", "shard": 3, "part": "p", "newest": false, "holders": ["n1", "n2"] }],
        })
    }

    #[test]
    fn summary_explains_the_colour() {
        assert_eq!(summary(&status(0, 0)), "10 parts, all fully replicated, 1 being copied");
        assert!(summary(&status(4, 0)).starts_with("4 of 10 parts are under-replicated, 2.00 kB to copy"));
        assert!(summary(&status(4, 2)).starts_with("2 parts cannot be read"));
        let stale = json!({ "stale": "no leader", "copies": {} });
        assert!(summary(&stale).starts_with("no leader; "));
        assert_eq!(output::stale_text(&stale).as_deref(), Some("no leader; the following may be out of date"));
        assert_eq!(output::stale_text(&status(4, 2)), None);
    }

    #[test]
    fn rotated_keys_say_what_ends_when() {
        let answer = |revoked: bool, ticket_key: Value| json!({ "signing_key": "k7", "sessions_revoked": revoked, "ticket_key": ticket_key });
        let lines = rotated(&answer(false, Value::Null));
        assert_eq!(lines, ["key k7 signs sessions from now on; sessions of the former key stay valid for their hour"]);
        let times = json!({ "signs_from_ms": 1_700_000_000_000_u64, "former_until_ms": 1_700_000_120_000_u64 });
        let lines = rotated(&answer(true, times));
        assert!(lines[0].ends_with("log in again") && lines.len() == 2, "{lines:?}");
        assert!(lines[1].contains("2023-11-14") && lines[1].contains("22:15"), "{lines:?}");
    }

    #[test]
    fn totals_use_singular_and_plural() {
        let stats = |n: u64| json!({ "tables": n, "rows": n, "bytes": 2000, "open_writes": n });
        assert_eq!(totals(&stats(1)), "1 table, 1 row, 2.00 kB, 1 write in progress");
        assert_eq!(totals(&stats(1200)), "1,200 tables, 1,200 rows, 2.00 kB, 1,200 writes in progress");
    }

    #[test]
    fn only_red_is_an_error_exit_code() {
        assert_eq!(["green", "yellow", "red"].map(|health| exit_code(&json!({ "health": health }))), [0, 0, 3]);
    }

    #[test]
    fn unreadable_parts_are_listed() {
        let lines = super::unreadable(&status(4, 3));
        assert_eq!(lines[0], "  cannot be read: shard 3 of a/t (of an older version), part p: on n1, n2");
        assert_eq!(lines[1], "  and 2 more");
    }
}
