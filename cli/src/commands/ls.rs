//! `volley ls`.

use arrow_flight::FlightInfo;
use serde_json::{Value, json};
use volley_client::Client;
use volley_common::Result;
use volley_common::escape::escape_invisible;
use volley_common::ipc::schema::parse_schema;
use volley_common::options::TableRequest;

use crate::output::{self, count, size};

/// Lists the tables whose names begin with `prefix`.
pub async fn run(client: &Client, prefix: &str, json: bool) -> Result<()> {
    let flights = client.list(prefix).await?;
    if json {
        return output::json(&Value::Array(flights.iter().map(describe).collect()));
    }
    if flights.is_empty() {
        return output::line("no tables");
    }
    let mut table = output::table(&["table", "version", "rows", "size", "columns", "order"]);
    for info in &flights {
        let shown = escape_invisible(&name(info)).into_owned();
        let version = version(info).map_or(String::new(), |v| v.to_string());
        table.add_row([
            &shown,
            &version,
            &count(info.total_records),
            &size(info.total_bytes),
            &columns(info),
            order(info),
        ]);
    }
    output::align_right(&mut table, &[1, 2, 3, 4]);
    output::line(table)
}

/// A table as JSON.
pub fn describe(info: &FlightInfo) -> Value {
    json!({
        "table": name(info),
        "version": version(info),
        "rows": info.total_records,
        "bytes": Some(info.total_bytes).filter(|bytes| *bytes >= 0),
        "ordered": info.ordered,
    })
}

/// The table's name, from a path or a command.
pub fn name(info: &FlightInfo) -> String {
    let Some(descriptor) = &info.flight_descriptor else { return "?".into() };
    match TableRequest::from_descriptor(descriptor, &Default::default()) {
        Ok(request) => request.name.to_string(),
        Err(_) => descriptor.to_string(),
    }
}

/// The version in the info's metadata: a number, or JSON with one.
pub fn version(info: &FlightInfo) -> Option<u64> {
    let value: Value = serde_json::from_slice(&info.app_metadata).ok()?;
    value.as_u64().or_else(|| value.get("version")?.as_u64())
}

/// The order of a table's rows.
pub fn order(info: &FlightInfo) -> &'static str {
    if info.ordered { "insertion order" } else { "by key" }
}

/// The number of columns.
fn columns(info: &FlightInfo) -> String {
    parse_schema(&info.schema).map_or("?".into(), |schema| schema.fields().len().to_string())
}
