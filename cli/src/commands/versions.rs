//! `volley info --versions`.

use serde_json::{Value, json};
use volley_common::client::Client;
use volley_common::clock::{self, span};
use volley_common::{Result, TableName};

use crate::output::{self, cell};

/// Lists the readable versions of a table.
pub async fn run(client: &Client, name: &TableName, json: bool) -> Result<()> {
    let versions = client.action("list_versions", &json!({ "table": name.to_string() })).await?;
    if json {
        return output::json(&versions);
    }
    let mut table = output::table(&["version", "created (UTC)", "rows", "size", "parts", "readable"]);
    for version in versions["versions"].as_array().into_iter().flatten() {
        let of = |key: &str| cell(key, &version[key]);
        let created = version["made_ms"].as_i64().map_or(String::new(), output::utc);
        let readable = readable(version, &versions["newest"], clock::now_ms());
        table.add_row([of("version"), created, of("rows"), of("bytes"), of("parts"), readable]);
    }
    output::align_right(&mut table, &[0, 2, 3, 4]);
    output::line(table)?;
    match versions["more"].as_u64() {
        Some(more) if more > 0 => output::line(format!("and {more} older ones")),
        _ => Ok(()),
    }
}

/// How long a version remains readable.
fn readable(version: &Value, newest: &Value, now_ms: u64) -> String {
    let until = match version["until_ms"].as_u64() {
        Some(until) => format!("for {} more", span(until.saturating_sub(now_ms))),
        None if version["version"] == *newest => "the newest".into(),
        None => "until it is replaced".into(),
    };
    if version["pinned"] == true { format!("{until}, in use by a reader") } else { until }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_shows_how_long_it_is_readable() {
        let of = |version: u64, until: Option<u64>, pinned: bool| {
            readable(&json!({ "version": version, "until_ms": until, "pinned": pinned }), &json!(5), 1_000)
        };
        assert_eq!(of(5, None, false), "the newest");
        assert_eq!(of(4, None, false), "until it is replaced");
        assert_eq!(of(3, Some(61_000), false), "for 60 s more");
        assert_eq!(of(3, Some(301_000), true), "for 5 min more, in use by a reader");
    }
}
