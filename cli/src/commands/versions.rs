//! `volley info --versions`.

use serde_json::{Value, json};
use volley_client::Client;
use volley_common::clock::{self, span};
use volley_common::{Result, TableName};

use crate::output::{self, cell};

/// Lists the readable versions of a table.
pub async fn run(client: &Client, name: &TableName, json: bool) -> Result<()> {
    let versions = client.action("list_versions", &json!({ "table": name.to_string() })).await?;
    if json {
        return output::json(&versions);
    }
    let headings = ["version", "created (UTC)", "rows", "size", "parts", "readable", "replaced by"];
    let mut table = output::table(&headings);
    for version in versions["versions"].as_array().into_iter().flatten() {
        let of = |key: &str| cell(key, &version[key]);
        let created = version["made_ms"].as_i64().map_or(String::new(), output::utc);
        let readable = readable(version, &versions["newest"], clock::now_ms());
        table.add_row([of("version"), created, of("rows"), of("bytes"), of("parts"), readable, replacement(version)]);
    }
    output::align_right(&mut table, &[0, 2, 3, 4]);
    output::line(table)?;
    if let Some(more) = versions["more"].as_u64().filter(|more| *more > 0) {
        output::line(format!("and {more} older ones"))?;
    }
    match versions["versions"].as_array() {
        Some(listed) if listed.len() > 1 => output::line(restore_hint(name)),
        _ => Ok(()),
    }
}

/// How a version comes back.
fn restore_hint(name: &TableName) -> String {
    format!("`volley restore {name} --version N` makes an old version the newest one")
}

/// What ended a version: the version that replaced it, or the drop, and the write.
fn replacement(version: &Value) -> String {
    let by = &version["replaced_by"];
    if by.is_null() {
        return String::new();
    }
    let kind = by["kind"].as_str().unwrap_or("replace");
    let mut text = match by["version"].as_u64() {
        Some(version) if kind != "drop" => format!("version {version} ({kind})"),
        _ => kind.to_string(),
    };
    if let Some(at) = by["at_ms"].as_i64() {
        text += &format!(", {}", output::utc(at));
    }
    if let Some(write) = by["write"].as_str() {
        text += &format!(", write {write}");
    }
    text
}

/// The version that the write of `version` replaced, as `list_versions` has it. `None` if there was none, or it is not
/// known any more: the write itself has succeeded.
pub async fn replaced_by(client: &Client, table: &TableName, version: u64) -> Option<Value> {
    if version <= 1 {
        return None;
    }
    let listed = client.action("list_versions", &json!({ "table": table.to_string() })).await.ok()?;
    before(&listed, version).cloned()
}

fn before(listed: &Value, version: u64) -> Option<&Value> {
    let older = listed["versions"].as_array()?.iter().filter(|v| v["version"].as_u64().is_some_and(|v| v < version));
    // The version that was the newest may have expired already, and older ones not.
    let replaced = older.filter(|older| older["replaced_by"]["version"] == version);
    replaced.max_by_key(|older| older["version"].as_u64()).filter(|older| older["until_ms"].is_u64())
}

/// What a put replaced, how long it is still readable, and how to bring it back.
pub fn replaced_text(table: &str, replaced: &Value, now_ms: u64) -> String {
    let of = |key: &str| cell(key, &replaced[key]);
    let left = replaced["until_ms"].as_u64().unwrap_or(now_ms).saturating_sub(now_ms);
    format!(
        "{table}: replaced version {} ({}), which is readable for {} more: `volley restore {table} --version {}` brings it back",
        of("version"),
        output::plural(replaced["rows"].as_i64().unwrap_or(-1), "row"),
        span(left),
        of("version"),
    )
}

/// How long a version remains readable.
fn readable(version: &Value, newest: &Value, now_ms: u64) -> String {
    let until = match version["until_ms"].as_u64() {
        Some(until) => format!("for {} more", span(until.saturating_sub(now_ms))),
        None if version["version"] == *newest => "the newest".into(),
        None => "until its rows are replaced".into(),
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
        assert_eq!(of(4, None, false), "until its rows are replaced");
        assert_eq!(of(3, Some(61_000), false), "for 60 s more");
        assert_eq!(of(3, Some(301_000), true), "for 5 min more, in use by a reader");
    }

    #[test]
    fn replaced_version_shows_what_replaced_it() {
        let by = json!({ "version": 5, "kind": "replace", "write": "w1", "at_ms": 1_700_000_000_123_u64 });
        assert_eq!(replacement(&json!({ "replaced_by": by })), "version 5 (replace), 2023-11-14 22:13:20, write w1");
        let by = json!({ "version": null, "kind": "drop", "write": null, "at_ms": null });
        assert_eq!(replacement(&json!({ "replaced_by": by })), "drop");
        assert_eq!(replacement(&json!({ "replaced_by": null })), "");
        assert_eq!(replacement(&json!({})), "");
    }

    #[test]
    fn put_reports_the_newest_replaced_version() {
        let listed = json!({ "versions": [
            { "version": 5, "until_ms": null },
            { "version": 3, "rows": 2000, "until_ms": 901_000, "replaced_by": { "version": 5 } },
            { "version": 2, "rows": 1, "until_ms": 60_000, "replaced_by": { "version": 3 } },
        ] });
        let text = replaced_text("t", before(&listed, 5).unwrap(), 1_000);
        assert!(text.starts_with("t: replaced version 3 (2,000 rows), which is readable for 15 min more:"), "{text}");
        assert_eq!(before(&json!({ "versions": [{ "version": 5 }] }), 5), None);
        // Version 4 replaced version 3, which is gone; version 2 was replaced by version 3.
        let expired = json!({ "version": 2, "until_ms": 60_000, "replaced_by": { "version": 3 } });
        assert_eq!(before(&json!({ "versions": [{ "version": 4 }, expired] }), 4), None);
    }
}
