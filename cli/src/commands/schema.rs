//! `volley schema`: the columns of a table.

use serde_json::json;
use volley_client::Client;
use volley_common::Result;
use volley_common::ipc::schema::parse_schema;
use volley_common::options::Options;

use super::{info, ls};
use crate::args::table_commands::SchemaArgs;
use crate::output;

/// Shows the columns.
pub async fn run(args: &SchemaArgs, client: &Client, json: bool) -> Result<()> {
    let found = client.info(&args.name, &Options { version: args.version, ..Options::default() }).await?;
    let schema = parse_schema(&found.schema)?;
    if json {
        let (name, version) = (args.name.to_string(), ls::version(&found));
        return output::json(&json!({ "table": name, "version": version, "columns": info::columns_json(&schema) }));
    }
    output::line(info::columns_table(&schema))
}
