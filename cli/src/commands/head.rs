//! `volley head` and `volley tail`: the first rows of a table, and the last ones.

use std::collections::VecDeque;

use arrow::array::RecordBatch;
use arrow_flight::{FlightEndpoint, FlightInfo};
use futures::StreamExt;
use serde_json::Value;
use volley_client::{Client, FetchOptions};
use volley_common::ipc::schema::parse_schema;
use volley_common::options::Options;
use volley_common::{Error, Result};

use super::get;
use crate::args::table_commands::HeadArgs;
use crate::column_list::column_names;

/// Shows the first rows.
pub async fn head(args: &HeadArgs, client: &Client, json: bool) -> Result<()> {
    let options = Options { limit: Some(args.rows.into()), ..options(args) };
    let (schema, batches) = client.get_all(&args.name, &options).await?;
    get::print(&schema, &batches, json)
}

/// Shows the last rows. Reads the endpoints from the last one on, until there are enough rows.
///
/// # Errors
/// INVALID_ARGUMENT: the rows of the table have no order.
pub async fn tail(args: &HeadArgs, client: &Client, json: bool) -> Result<()> {
    let info = client.info(&args.name, &options(args)).await?;
    if !info.ordered {
        let name = &args.name;
        return Err(Error::invalid(format!(
            "the rows of {name} are sharded by key and have no order, so none are the last ones: sort them, as in `volley sql \"SELECT * FROM ... ORDER BY ... DESC LIMIT {}\"`, or take `volley head`",
            args.rows
        )));
    }
    let schema = parse_schema(&info.schema)?;
    let base = FlightInfo { endpoint: Vec::new(), ..info.clone() };
    let (mut batches, mut left) = (VecDeque::new(), args.rows as usize);
    for endpoint in info.endpoint.iter().rev() {
        if left == 0 {
            break;
        }
        let last = last_rows(client, one_endpoint(&base, endpoint), left).await?;
        for batch in last.into_iter().rev() {
            left -= batch.num_rows();
            batches.push_front(batch);
        }
    }
    get::print(&schema, batches.make_contiguous(), json)
}

fn options(args: &HeadArgs) -> Options {
    Options {
        columns: column_names(&args.columns),
        version: args.version,
        filter: args.filter.clone(),
        ..Options::default()
    }
}

/// A FlightInfo as `base` with this endpoint alone.
pub fn one_endpoint(base: &FlightInfo, endpoint: &FlightEndpoint) -> FlightInfo {
    let rows = endpoint_rows(endpoint).and_then(|rows| i64::try_from(rows).ok()).unwrap_or(-1);
    FlightInfo { endpoint: vec![endpoint.clone()], total_records: rows, total_bytes: -1, ..base.clone() }
}

/// How many rows an endpoint has, if its metadata tells: not of a read with a filter.
pub fn endpoint_rows(endpoint: &FlightEndpoint) -> Option<u64> {
    let metadata: Value = serde_json::from_slice(&endpoint.app_metadata).ok()?;
    metadata["rows"].as_u64()
}

/// The last rows of a read, at most `most`. Holds these, and one batch more.
async fn last_rows(client: &Client, info: FlightInfo, most: usize) -> Result<VecDeque<RecordBatch>> {
    let mut fetch = client.fetch(info, FetchOptions { streams: 1, ..FetchOptions::default() })?;
    let mut last = LastRows { most, rows: 0, batches: VecDeque::new() };
    while let Some(fetched) = fetch.next().await {
        last.push(fetched?.batch);
    }
    Ok(last.batches)
}

/// The last rows of those that were pushed.
struct LastRows {
    most: usize,
    rows: usize,
    batches: VecDeque<RecordBatch>,
}

impl LastRows {
    fn push(&mut self, batch: RecordBatch) {
        self.rows += batch.num_rows();
        self.batches.push_back(batch);
        while let Some(first) = self.batches.front_mut() {
            let surplus = self.rows.saturating_sub(self.most);
            if surplus < first.num_rows() {
                *first = first.slice(surplus, first.num_rows() - surplus);
                self.rows -= surplus;
                return;
            }
            self.rows -= first.num_rows();
            self.batches.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, Int64Array};
    use arrow::datatypes::Int64Type;

    use super::*;

    fn numbers(values: std::ops::Range<i64>) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(values));
        RecordBatch::try_from_iter([("n", column)]).unwrap()
    }

    #[test]
    fn last_rows_of_many_batches_are_kept() {
        let kept = |most: usize, batches: &[RecordBatch]| {
            let mut last = LastRows { most, rows: 0, batches: VecDeque::new() };
            batches.iter().for_each(|batch| last.push(batch.clone()));
            let values = |batch: &RecordBatch| batch.column(0).as_primitive::<Int64Type>().values().to_vec();
            last.batches.iter().flat_map(values).collect::<Vec<i64>>()
        };
        let batches = [numbers(0..3), numbers(3..3), numbers(3..5), numbers(5..6)];
        assert_eq!(kept(2, &batches), [4, 5]);
        assert_eq!(kept(3, &batches), [3, 4, 5]);
        assert_eq!(kept(9, &batches), [0, 1, 2, 3, 4, 5]);
        assert_eq!(kept(1, &[numbers(0..9)]), [8]);
    }

    #[test]
    fn rows_of_an_endpoint_are_in_its_metadata() {
        let endpoint = |metadata: &str| FlightEndpoint::new().with_app_metadata(metadata.to_string());
        assert_eq!(endpoint_rows(&endpoint(r#"{"rows":7}"#)), Some(7));
        assert_eq!(endpoint_rows(&endpoint("")), None);
        let one = one_endpoint(&FlightInfo::new().with_total_records(20), &endpoint(r#"{"rows":7}"#));
        assert_eq!((one.endpoint.len(), one.total_records), (1, 7));
    }
}
