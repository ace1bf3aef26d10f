//! `volley drop`.

use serde_json::json;
use volley_common::client::Client;
use volley_common::{Result, TableName};

use crate::output;

/// Drops a table.
pub async fn run(client: &Client, name: &TableName, json: bool) -> Result<()> {
    client.drop_table(name).await?;
    if json { output::json(&json!({ "dropped": name.to_string() })) } else { output::line(format!("dropped {name}")) }
}
