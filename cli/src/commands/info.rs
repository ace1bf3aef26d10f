//! `volley info`.

use arrow::datatypes::SchemaRef;
use arrow_flight::{FlightEndpoint, FlightInfo};
use serde_json::{Value, json};
use volley_common::client::Client;
use volley_common::client::address::{EndpointLocation, parse_location};
use volley_common::ipc::schema::parse_schema;
use volley_common::options::Options;
use volley_common::{Result, TableName};

use super::ls;
use crate::output::{self, count, size};

/// Endpoints shown; JSON has all.
const MAX_SHOWN: usize = 20;

/// Shows a table's schema, size and endpoints.
pub async fn run(client: &Client, name: &TableName, json: bool) -> Result<()> {
    let info = client.info(name, &Options::default()).await?;
    let schema = parse_schema(&info.schema)?;
    if json { output::json(&describe(&info, &schema)) } else { show(name, &info, &schema) }
}

fn describe(info: &FlightInfo, schema: &SchemaRef) -> Value {
    let mut value = ls::describe(info);
    let columns = schema.fields().iter().map(
        |field| json!({ "name": field.name(), "type": field.data_type().to_string(), "nullable": field.is_nullable() }),
    );
    value["columns"] = columns.collect();
    value["endpoints"] = info.endpoint.iter().map(|endpoint| json!({ "holders": holders(endpoint) })).collect();
    value
}

fn show(name: &TableName, info: &FlightInfo, schema: &SchemaRef) -> Result<()> {
    let mut summary = output::table(&[]);
    summary.add_row(["table", &name.to_string()]);
    summary.add_row(["version", &ls::version(info).map_or("?".into(), |v| v.to_string())]);
    summary.add_row(["rows", &count(info.total_records)]);
    summary.add_row(["size", &size(info.total_bytes)]);
    summary.add_row(["order", ls::order(info)]);
    output::line(summary)?;

    let mut columns = output::table(&["column", "type", "null"]);
    for field in schema.fields() {
        let null = if field.is_nullable() { "yes" } else { "no" };
        columns.add_row([field.name(), &field.data_type().to_string(), null]);
    }
    output::line(columns)?;

    let mut endpoints = output::table(&["endpoint", "holders"]);
    for (index, endpoint) in info.endpoint.iter().take(MAX_SHOWN).enumerate() {
        endpoints.add_row([&index.to_string(), &holders(endpoint).join(", ")]);
    }
    output::line(endpoints)?;
    match info.endpoint.len().checked_sub(MAX_SHOWN) {
        Some(more) if more > 0 => output::line(format!("and {more} more endpoints")),
        _ => Ok(()),
    }
}

/// The members that serve an endpoint, as `HOST:PORT`.
fn holders(endpoint: &FlightEndpoint) -> Vec<String> {
    let members = endpoint.location.iter().filter_map(|location| match parse_location(&location.uri) {
        Some(EndpointLocation::ReuseConnection) => None,
        Some(EndpointLocation::Member(address)) => Some(address),
        None => Some(location.uri.clone()),
    });
    members.collect()
}
