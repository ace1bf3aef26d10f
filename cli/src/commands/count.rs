//! `volley count`: the number of rows, from the metadata of the table, or by a query if there is a condition.

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use serde_json::json;
use volley_client::Client;
use volley_common::options::Options;
use volley_common::{Error, Result, TableName};

use super::{ls, statement};
use crate::args::table_commands::CountArgs;
use crate::output;

/// Prints the number of rows.
pub async fn run(args: &CountArgs, client: &Client, json: bool) -> Result<()> {
    let info = client.info(&args.name, &Options { version: args.version, ..Options::default() }).await?;
    let version = ls::version(&info);
    let rows = match &args.filter {
        None if info.total_records >= 0 => info.total_records,
        filter => counted(client, &sql(&args.name, version, filter.as_deref())).await?,
    };
    if json {
        return output::json(&json!({ "table": args.name.to_string(), "version": version, "rows": rows }));
    }
    output::exact_line(rows)
}

/// The statement that counts. A comment at the end of the condition ends with its line.
fn sql(name: &TableName, version: Option<u64>, filter: Option<&str>) -> String {
    let table = statement::from_table(name, version);
    let condition = filter.map_or_else(String::new, |filter| format!(" WHERE (\n{filter}\n)"));
    format!("SELECT count(*) AS n FROM {table}{condition}")
}

async fn counted(client: &Client, sql: &str) -> Result<i64> {
    let row = statement::single_row(client, sql).await?;
    let count = row.columns().first().and_then(|column| column.as_primitive_opt::<Int64Type>());
    count.map(|count| count.value(0)).ok_or_else(|| Error::internal("count(*) gave no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn condition_may_end_with_a_comment() {
        let name: TableName = "a/t".parse().unwrap();
        assert_eq!(sql(&name, Some(3), None), "SELECT count(*) AS n FROM a.t FOR VERSION AS OF 3");
        let commented = sql(&name, None, Some("x > 1 -- all"));
        assert_eq!(commented, "SELECT count(*) AS n FROM a.t WHERE (\nx > 1 -- all\n)");
    }
}
