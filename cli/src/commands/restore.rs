//! `volley restore`.

use serde_json::{Value, json};
use volley_client::Client;
use volley_common::{Result, TableName};

use crate::output::{self, count, plural};

/// Makes an old version the newest; without a version undoes the drop of the table.
pub async fn run(client: &Client, name: &TableName, version: Option<u64>, json: bool) -> Result<()> {
    let mut body = json!({ "table": name.to_string() });
    if let Some(version) = version {
        body["version"] = version.into();
    }
    let restored = client.action("restore_version", &body).await?;
    if json { output::json(&restored) } else { output::line(restored_text(name, &restored)) }
}

fn restored_text(name: &TableName, restored: &Value) -> String {
    let number = |key: &str| restored[key].as_i64().unwrap_or(-1);
    let (version, rows) = (count(number("version")), plural(number("rows"), "row"));
    let mut text = format!("{name}: version {version}, {rows}");
    if number("restored") != number("version") {
        text += &format!(", the same as version {}", count(number("restored")));
    }
    if restored["undropped"] == true {
        text += "; the drop is undone";
    }
    if let Some(replaced) = restored["replaced"].as_i64() {
        text += &format!("; version {} is replaced", count(replaced));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restored_text_says_what_the_table_has_now() {
        let name: TableName = "t".parse().unwrap();
        let old = json!({ "version": 7, "restored": 5, "replaced": 6, "rows": 3, "undropped": false });
        assert_eq!(restored_text(&name, &old), "t: version 7, 3 rows, the same as version 5; version 6 is replaced");
        let dropped = json!({ "version": 6, "restored": 6, "replaced": null, "rows": 1, "undropped": true });
        assert_eq!(restored_text(&name, &dropped), "t: version 6, 1 row; the drop is undone");
    }
}
