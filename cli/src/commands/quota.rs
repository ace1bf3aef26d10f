//! `volley quota`: limits of the bytes and tables below a prefix.

use serde_json::{Value, json};
use volley_client::Client;
use volley_common::Result;

use crate::args::identity::QuotaCommand;
use crate::output::{self, cell};

/// What the sizes are.
const COUNTED: &str = "Sizes are those of the newest versions, one copy each; old versions and writes that are not committed do not count.";

/// Runs the command.
pub async fn run(client: &Client, command: &QuotaCommand, json: bool) -> Result<()> {
    let (answer, text) = match command {
        QuotaCommand::Set { prefix, bytes, tables } => {
            let answer = client.action("set_quota", &set_body(prefix, *bytes, *tables)).await?;
            (answer, set_text(prefix, *bytes, *tables))
        }
        QuotaCommand::Rm { prefix } => {
            let answer = client.action("set_quota", &set_body(prefix, None, None)).await?;
            (answer, format!("removed the quota of {prefix}"))
        }
        QuotaCommand::Ls { prefix } => {
            let body = prefix.as_ref().map_or_else(|| json!({}), |prefix| json!({ "prefix": prefix }));
            let quotas = client.action("list_quotas", &body).await?;
            let text = table(&quotas);
            (quotas, text)
        }
    };
    if json { output::json(&answer) } else { output::line(text) }
}

/// Without a limit the quota is removed.
fn set_body(prefix: &str, bytes: Option<u64>, tables: Option<u32>) -> Value {
    let mut body = json!({ "prefix": prefix });
    for (key, limit) in [("bytes", bytes), ("tables", tables.map(u64::from))] {
        if let Some(limit) = limit {
            body[key] = limit.into();
        }
    }
    body
}

fn set_text(prefix: &str, bytes: Option<u64>, tables: Option<u32>) -> String {
    let bytes = bytes.map(|bytes| output::size(i64::try_from(bytes).unwrap_or(i64::MAX)));
    let tables = tables.map(|tables| output::plural(tables.into(), "table"));
    let limits: Vec<String> = [bytes, tables].into_iter().flatten().collect();
    format!("quota of {prefix}: {}", limits.join(", "))
}

/// A table of quotas.
fn table(quotas: &Value) -> String {
    let quotas: Vec<&Value> = quotas.as_array().into_iter().flatten().collect();
    if quotas.is_empty() {
        return "no quotas".into();
    }
    let mut table = output::table(&["prefix", "size", "of at most", "tables", "of at most"]);
    for quota in quotas {
        let of = |key: &str| cell(key, &quota[key]);
        let limit = |key: &str| if quota[key].is_null() { "-".into() } else { of(key) };
        table.add_row([of("prefix"), of("bytes_used"), limit("bytes"), of("tables_used"), limit("tables")]);
    }
    output::align_right(&mut table, &[1, 2, 3, 4]);
    format!("{table}\n\n{COUNTED}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_are_not_given_are_not_sent() {
        assert_eq!(set_body("a", Some(5), None), json!({ "prefix": "a", "bytes": 5 }));
        assert_eq!(set_body("a", None, Some(0)), json!({ "prefix": "a", "tables": 0 }));
        assert_eq!(set_body("/", None, None), json!({ "prefix": "/" }));
        assert_eq!(set_text("a", Some(2_000_000), Some(1)), "quota of a: 2.00 MB, 1 table");
    }

    #[test]
    fn table_shows_use_and_limits() {
        let quota = json!({ "prefix": "sales", "bytes": 10_000_000, "bytes_used": 1_500_000, "tables": null, "tables_used": 7 });
        let text = table(&json!([quota]));
        let line = text.lines().nth(2).unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words, ["sales", "1.50", "MB", "10.00", "MB", "7", "-"], "{text}");
        assert!(text.ends_with("do not count."), "{text}");
        assert_eq!(table(&json!([])), "no quotas");
    }
}
