//! What a read of a table is planned as: its version, its endpoints, and how the version is named in `ETag`.

use arrow_flight::{FlightEndpoint, FlightInfo};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use volley_common::{Error, Result, TableName};
use xxhash_rust::xxh3::xxh3_64;

use crate::flight_calls::FlightCalls;
use crate::query::QueryParameters;

/// The options of a read.
pub(crate) const READ_OPTIONS: [&str; 5] = ["columns", "where", "limit", "version", "max_endpoints"];

/// A read of a table.
#[derive(Debug)]
pub(crate) struct HttpRead {
    /// The table.
    pub table: TableName,
    /// Its options, as given.
    pub options: Map<String, Value>,
}

/// The plan of a read.
#[derive(Debug)]
pub(crate) struct HttpReadPlan {
    /// The version that is read.
    pub version: u64,
    /// The rows, if they are known before.
    pub rows: Option<u64>,
    /// Whether the rows are in the order in which they were put.
    pub ordered: bool,
    /// The encapsulated schema message.
    pub schema: Bytes,
    /// The endpoints, in order.
    pub endpoints: Vec<PlannedEndpoint>,
}

/// One endpoint of a plan.
#[derive(Debug)]
pub(crate) struct PlannedEndpoint {
    /// With its ticket.
    pub endpoint: FlightEndpoint,
    /// Its rows, if they are known before.
    pub rows: Option<u64>,
}

impl HttpRead {
    /// That of these parameters.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: an option has two values.
    pub fn take(table: TableName, parameters: &mut QueryParameters) -> Result<Self> {
        Ok(HttpRead { table, options: parameters.take_options(&READ_OPTIONS)? })
    }

    /// The most rows that are requested.
    pub fn limit(&self) -> Option<u64> {
        self.options.get("limit")?.as_u64()
    }

    /// The command of Flight for it.
    pub fn command(&self) -> Value {
        let mut command = self.options.clone();
        command.insert("table".into(), self.table.to_string().into());
        Value::Object(command)
    }

    /// Plans it.
    ///
    /// # Errors
    /// Those of GetFlightInfo.
    pub async fn plan(&self, calls: &FlightCalls) -> Result<HttpReadPlan> {
        HttpReadPlan::of(calls.info(&self.command()).await?)
    }

    /// When the table was created, milliseconds since 1970: another table of the same name may have the same versions.
    ///
    /// # Errors
    /// Those of the action `get_stats`.
    pub async fn created_ms(&self, calls: &FlightCalls) -> Result<u64> {
        let stats = calls.action("get_stats", &json!({ "table": self.table.to_string() })).await?;
        Ok(stats["created_ms"].as_u64().unwrap_or(0))
    }
}

impl HttpReadPlan {
    fn of(info: FlightInfo) -> Result<Self> {
        let metadata: Value = serde_json::from_slice(&info.app_metadata).unwrap_or_default();
        let version = metadata["version"].as_u64();
        let planned = |endpoint: FlightEndpoint| {
            let metadata: Value = serde_json::from_slice(&endpoint.app_metadata).unwrap_or_default();
            PlannedEndpoint { rows: metadata["rows"].as_u64(), endpoint }
        };
        Ok(HttpReadPlan {
            version: version.ok_or_else(|| Error::internal("a plan names no version"))?,
            rows: u64::try_from(info.total_records).ok(),
            ordered: info.ordered,
            schema: info.schema,
            endpoints: info.endpoint.into_iter().map(planned).collect(),
        })
    }

    /// How the read is divided: plans with equal shapes have the same rows at the same places, as far as their numbers tell.
    pub fn shape(&self) -> u64 {
        let mut text = format!("{} {:?}", self.version, self.rows);
        for endpoint in &self.endpoints {
            text.push_str(&format!(" {:?}", endpoint.rows));
        }
        xxh3_64(text.as_bytes())
    }

    /// The endpoint with this number alone.
    ///
    /// # Errors
    /// NOT_FOUND: there is none.
    pub fn only(mut self, index: u64) -> Result<Self> {
        let count = self.endpoints.len();
        let at = usize::try_from(index).ok().filter(|at| *at < count);
        let at =
            at.ok_or_else(|| Error::not_found(format!("there is no partition {index}: there are {count}, from 0 on")))?;
        self.endpoints = vec![self.endpoints.swap_remove(at)];
        self.rows = self.endpoints[0].rows;
        Ok(self)
    }

    /// Leaves out the endpoints before the row `first`. Returns how many rows to leave out of those that are left.
    pub fn seek(&mut self, first: u64) -> u64 {
        let mut skip = first;
        let mut whole = 0;
        for endpoint in &self.endpoints {
            match endpoint.rows {
                Some(rows) if rows <= skip => skip -= rows,
                _ => break,
            }
            whole += 1;
        }
        // The last one stays: its reply has the schema.
        let whole = whole.min(self.endpoints.len().saturating_sub(1));
        let skipped: u64 = self.endpoints.drain(..whole).filter_map(|endpoint| endpoint.rows).sum();
        first - skipped
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn plan(rows: &[Option<u64>]) -> HttpReadPlan {
        let endpoint = |(at, rows): (usize, &Option<u64>)| {
            let endpoint = FlightEndpoint { app_metadata: vec![at as u8].into(), ..FlightEndpoint::default() };
            PlannedEndpoint { endpoint, rows: *rows }
        };
        HttpReadPlan {
            version: 3,
            rows: rows.iter().copied().sum(),
            ordered: true,
            schema: Bytes::new(),
            endpoints: rows.iter().enumerate().map(endpoint).collect(),
        }
    }

    #[test]
    fn seek_leaves_out_whole_endpoints() {
        let known = [Some(10), Some(0), Some(5), Some(5)];
        for (first, tickets, skip) in
            [(0, 4, 0), (9, 4, 9), (10, 2, 0), (14, 2, 4), (15, 1, 0), (19, 1, 4), (30, 1, 15)]
        {
            let mut plan = plan(&known);
            assert_eq!((plan.seek(first), plan.endpoints.len()), (skip, tickets), "{first}");
        }
        let mut filtered = plan(&[None, None]);
        assert_eq!((filtered.seek(7), filtered.endpoints.len()), (7, 2));
        let mut empty = plan(&[]);
        assert_eq!((empty.seek(0), empty.endpoints.len()), (0, 0));
    }

    #[test]
    fn partition_is_one_endpoint() {
        let of = plan(&[Some(1), Some(2)]).only(1).unwrap();
        assert_eq!((of.rows, &of.endpoints[0].endpoint.app_metadata[..]), (Some(2), &[1][..]));
        assert!(plan(&[Some(1)]).only(1).unwrap_err().message.contains("there are 1"));
        assert_eq!(plan(&[Some(1)]).shape(), plan(&[Some(1)]).shape());
        assert_ne!(plan(&[Some(1), Some(2)]).shape(), plan(&[Some(2), Some(1)]).shape());
    }
}
