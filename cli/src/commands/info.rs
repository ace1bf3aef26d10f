//! `volley info`.

use arrow::datatypes::SchemaRef;
use arrow_flight::{FlightEndpoint, FlightInfo};
use comfy_table::Table;
use serde_json::{Value, json};
use volley_client::Client;
use volley_client::address::{EndpointLocation, parse_location};
use volley_common::clock::span;
use volley_common::escape::escape_invisible;
use volley_common::ipc::schema::parse_schema;
use volley_common::options::Options;
use volley_common::{Result, TableName};

use super::ls;
use crate::output::{self, cell, count, size};

/// Endpoints shown; JSON has all.
const MAX_SHOWN: usize = 20;

/// Shows a table's schema, size and endpoints.
pub async fn run(client: &Client, name: &TableName, json: bool) -> Result<()> {
    let info = client.info(name, &Options::default()).await?;
    let schema = parse_schema(&info.schema)?;
    let stats = client.action("get_stats", &json!({ "table": name.to_string() })).await?;
    if json { output::json(&describe(&info, &schema, stats)) } else { show(name, &info, &schema, &stats) }
}

/// The info and the table's options as JSON. The info wins: the options may belong to a newer version.
fn describe(info: &FlightInfo, schema: &SchemaRef, mut stats: Value) -> Value {
    let mut value = ls::describe(info);
    if let (Some(value), Some(stats)) = (value.as_object_mut(), stats.as_object_mut()) {
        let known: Vec<String> = value.keys().cloned().collect();
        stats.retain(|key, _| !known.contains(key));
        value.append(stats);
    }
    value["columns"] = columns_json(schema);
    value["endpoints"] = info.endpoint.iter().map(|endpoint| json!({ "holders": holders(endpoint) })).collect();
    value
}

/// The columns as JSON.
pub fn columns_json(schema: &SchemaRef) -> Value {
    let columns = schema.fields().iter().map(
        |field| json!({ "name": field.name(), "type": field.data_type().to_string(), "nullable": field.is_nullable() }),
    );
    columns.collect()
}

/// The columns as a table.
pub fn columns_table(schema: &SchemaRef) -> Table {
    let mut columns = output::table(&["column", "type", "null"]);
    for field in schema.fields() {
        let null = if field.is_nullable() { "yes" } else { "no" };
        let (name, kind) = (field.name(), field.data_type().to_string());
        columns.add_row([&*escape_invisible(name), &*escape_invisible(&kind), null]);
    }
    columns
}

fn show(name: &TableName, info: &FlightInfo, schema: &SchemaRef, stats: &Value) -> Result<()> {
    let mut summary = output::table(&[]);
    summary.add_row(["table", &name.to_string()]);
    summary.add_row(["version", &ls::version(info).map_or("?".into(), |v| v.to_string())]);
    summary.add_row(["rows", &count(info.total_records)]);
    summary.add_row(["size", &size(info.total_bytes)]);
    summary.add_row(["order", ls::order(info)]);
    for (name, value) in table_options(stats) {
        summary.add_row([name, &escape_invisible(&value)]);
    }
    if ls::version(info).is_some_and(|version| version > 1) {
        let hint =
            format!("`volley info {name} --versions` lists them, `volley restore {name} --version N` brings one back");
        summary.add_row(["old versions", &escape_invisible(&hint)]);
    }
    output::line(summary)?;

    output::line(columns_table(schema))?;

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

/// The table's options and times, as far as the cluster reports them.
fn table_options(stats: &Value) -> Vec<(&'static str, String)> {
    let known = |key: &str| !stats[key].is_null();
    let shown = |name: &'static str, key: &str| known(key).then(|| (name, cell(key, &stats[key])));
    let columns = |name: &'static str, key: &str| {
        let columns = stats[key].as_array().filter(|columns| !columns.is_empty())?;
        Some((name, columns.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")))
    };
    let retention = stats["retention_s"].as_u64().map(|s| ("retention", span(s.saturating_mul(1000))));
    let time = |name: &'static str, key: &str| stats[key].as_i64().map(|ms| (name, output::utc(ms)));
    let rows = [
        columns("key", "shard_by"),
        shown("shards", "shards"),
        shown("replicas", "replicas"),
        shown("compression", "compression"),
        shown("max. endpoints", "max_endpoints"),
        (stats["preserve_batches"] == true).then(|| ("preserves", "batches, with app_metadata".to_string())),
        retention,
        columns("statistics of", "stats_columns"),
        shown("parts", "parts"),
        shown("batches", "batches"),
        time("created (UTC)", "created_ms"),
        time("last write (UTC)", "changed_ms"),
        time("expires (UTC)", "expires_ms"),
    ];
    rows.into_iter().flatten().collect()
}

/// The members that serve an endpoint, as `HOST:PORT`.
fn holders(endpoint: &FlightEndpoint) -> Vec<String> {
    let members = endpoint.location.iter().filter_map(|location| match parse_location(&location.uri) {
        Some(EndpointLocation::ReuseConnection) => None,
        Some(EndpointLocation::Member(address) | EndpointLocation::TlsMember(address)) => Some(address),
        None => Some(location.uri.clone()),
    });
    members.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_options_show_what_the_cluster_reports() {
        let stats = json!({
            "shard_by": ["a", "b,c"], "shards": 6, "replicas": 2, "compression": "lz4", "retention_s": 900,
            "stats_columns": ["b,c", "d"], "ttl_s": 60, "expires_ms": 1_700_000_061_000_u64,
            "parts": 1234, "batches": 56_789, "preserve_batches": true, "created_ms": 1_700_000_000_123_u64, "changed_ms": 1_700_000_001_000_u64,
        });
        let shown = table_options(&stats);
        let of = |name: &str| shown.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str());
        assert_eq!((of("key"), of("shards"), of("parts")), (Some("a, b,c"), Some("6"), Some("1,234")));
        assert_eq!((of("retention"), of("last write (UTC)")), (Some("15 min"), Some("2023-11-14 22:13:21")));
        assert_eq!((of("batches"), of("preserves").is_some()), (Some("56,789"), true));
        assert_eq!(of("expires (UTC)"), Some("2023-11-14 22:14:21"));
        assert_eq!(of("statistics of"), Some("b,c, d"));
        let old = json!({ "shard_by": [], "batches": null, "preserve_batches": false });
        assert!(table_options(&old).is_empty(), "unknown of parts of an earlier version");
    }
}
