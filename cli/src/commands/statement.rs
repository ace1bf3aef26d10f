//! Statements of SQL that commands make: names of tables and versions in them, and results of one row.

use arrow::array::RecordBatch;
use futures::StreamExt;
use volley_client::{Client, FetchOptions};
use volley_common::{Error, Result, TableName};

use super::sql::names::sql_name;

/// A table, at this version if one is given, as FROM has it.
pub fn from_table(name: &TableName, version: Option<u64>) -> String {
    let table = sql_name(name);
    version.map_or(table.clone(), |version| format!("{table} FOR VERSION AS OF {version}"))
}

/// The row of a query whose result has one, such as one of aggregates.
///
/// # Errors
/// The member's. INTERNAL: another number of rows.
pub async fn single_row(client: &Client, sql: &str) -> Result<RecordBatch> {
    let mut fetch = client.query(sql, FetchOptions::default()).await?;
    let mut rows: Vec<RecordBatch> = Vec::new();
    while let Some(fetched) = fetch.next().await {
        let batch = fetched?.batch;
        if batch.num_rows() > 0 {
            rows.push(batch);
        }
    }
    match &rows[..] {
        [row] if row.num_rows() == 1 => Ok(row.clone()),
        _ => Err(Error::internal("a query of aggregates did not return one row")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_named_with_their_version() {
        let from = |name: &str, version: Option<u64>| from_table(&name.parse().unwrap(), version);
        assert_eq!(from("trips", None), "trips");
        assert_eq!(from("sales/2026/Orders \"x\"", Some(7)), r#""sales/2026"."Orders ""x""" FOR VERSION AS OF 7"#);
    }
}
