//! The reads of the workload: of the newest version, of an earlier one, of a FlightInfo from a while ago, and by SQL.

use std::time::Instant;

use arrow_flight::{FlightInfo, Ticket};
use futures::TryStreamExt;
use rand::Rng;
use volley_client::{Client, FetchOptions};
use volley_common::Result;
use volley_common::options::Options;
use volley_tests::text_rows::text_rows;

use super::{ChaosClient, MOST_ROWS, is_keyed, name};
use crate::history::{OpOutcome, OpRequest};
use crate::outcomes::read_outcome;
use crate::rows::{self, TableContent};
use crate::table_query::TableQuery;

/// A FlightInfo that is read again later.
pub(super) struct PinnedInfo {
    table: String,
    info: FlightInfo,
    /// The query that it is of; none if it is of the whole table.
    query: Option<TableQuery>,
    content: TableContent,
    since: Instant,
}

impl ChaosClient {
    /// Reads the newest version: all endpoints of its FlightInfo, or one stream.
    pub(super) async fn read(&mut self, table: &str, endpoints: bool) {
        let (id, begin, since) = (self.load.recorder.id(), self.load.recorder.now(), Instant::now());
        let (result, info) = match endpoints {
            true => self.read_info(table, Options::default(), None).await,
            false => (self.read_stream(table).await, None),
        };
        let outcome = read_outcome(result);
        self.keep(table, info, None, &outcome, since);
        self.note(id, table, OpRequest::Read { endpoints }, begin, outcome);
    }

    /// Reads the newest version by SQL.
    pub(super) async fn query(&mut self, table: &str) {
        let query = TableQuery::random(&mut self.rng, MOST_ROWS);
        let (id, begin, since) = (self.load.recorder.id(), self.load.recorder.now(), Instant::now());
        let (result, info) = self.read_info(table, Options::default(), Some(query.clone())).await;
        let outcome = read_outcome(result);
        self.keep(table, info, Some(query.clone()), &outcome, since);
        self.note(id, table, OpRequest::Query { query }, begin, outcome);
    }

    /// Keeps some of the FlightInfos that had an answer.
    fn keep(
        &mut self,
        table: &str,
        info: Option<FlightInfo>,
        query: Option<TableQuery>,
        outcome: &OpOutcome,
        since: Instant,
    ) {
        if let (Some(info), OpOutcome::Content { content, .. }) = (info, outcome)
            && self.kept.len() < 8
            && self.rng.random_bool(0.3)
        {
            self.kept.push(PinnedInfo { table: table.to_string(), info, query, content: content.clone(), since });
        }
    }

    /// Reads by FlightInfo, of the whole table or of a query: all endpoints in parallel.
    async fn read_info(
        &mut self,
        table: &str,
        options: Options,
        query: Option<TableQuery>,
    ) -> (Result<OpOutcome>, Option<FlightInfo>) {
        let (table, name) = (table.to_string(), name(table));
        let (member, result) = self
            .call(async move |client| {
                let info = match &query {
                    Some(query) => client.query_info(&query.sql(&table)).await?,
                    None => client.info(&name, &options).await?,
                };
                Ok((fetch(client, &table, query.as_ref(), info.clone()).await?, info))
            })
            .await;
        match result {
            Ok((outcome, info)) => (Ok(outcome), Some(info)),
            Err(error) => {
                self.connections.remove(&member);
                (Err(error), None)
            }
        }
    }

    /// Reads at one member, with the table's name as the ticket.
    async fn read_stream(&mut self, table: &str) -> Result<OpOutcome> {
        let (owned, ordered) = (table.to_string(), !is_keyed(table));
        let (member, result) =
            self.call(async move |client| client.do_get(Ticket { ticket: owned.into_bytes().into() }).await).await;
        match result {
            Ok((_, batches)) => {
                Ok(OpOutcome::Content { version: None, ordered, content: rows::content(table, &batches, ordered) })
            }
            Err(error) => {
                self.connections.remove(&member);
                Err(error)
            }
        }
    }

    /// Reads a FlightInfo from a while ago again, if there is one that has not expired.
    pub(super) async fn read_pinned(&mut self) {
        let limit = self.load.retention;
        self.kept.retain(|kept| kept.since.elapsed() < limit * 3 / 4);
        if self.kept.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.kept.len());
        let (table, info, query, was, since) = {
            let kept = &self.kept[at];
            (kept.table.clone(), kept.info.clone(), kept.query.clone(), kept.content.clone(), kept.since)
        };
        let (id, begin, owned) = (self.load.recorder.id(), self.load.recorder.now(), table.clone());
        let (_, result) = self.call(async move |client| fetch(client, &owned, query.as_ref(), info).await).await;
        // After the retention it may have expired during the read.
        if since.elapsed() < limit {
            self.note(id, &table, OpRequest::ReadPinned { was }, begin, read_outcome(result));
        }
    }

    /// Reads some version before the newest one.
    pub(super) async fn read_version(&mut self, table: &str) {
        let (id, begin) = (self.load.recorder.id(), self.load.recorder.now());
        let kept = self.kept.iter().find(|kept| kept.table == table).and_then(|kept| version_of(&kept.info));
        let Some(version) = kept else { return self.read(table, true).await };
        let options = Options { version: Some(version), ..Options::default() };
        let (result, _) = self.read_info(table, options, None).await;
        self.note(id, table, OpRequest::ReadVersion { version }, begin, read_outcome(result));
    }

    /// Reads a table, or a query of it, at one member, for the final check; whether there was an answer.
    pub async fn final_read(&mut self, table: &str, query: Option<TableQuery>) -> bool {
        let (id, begin) = (self.load.recorder.id(), self.load.recorder.now());
        let (result, _) = self.read_info(table, Options::default(), query.clone()).await;
        let request = query.map_or(OpRequest::Read { endpoints: true }, |query| OpRequest::Query { query });
        let outcome = self.note(id, table, request, begin, read_outcome(result));
        matches!(outcome, OpOutcome::Content { .. } | OpOutcome::Absent)
    }

    /// Whether a query runs on several nodes, as its plan says; false if there is no answer.
    pub async fn runs_on_several_nodes(&mut self, table: &str, query: &TableQuery) -> bool {
        let sql = format!("EXPLAIN {}", query.sql(table));
        let (_, plan) = self
            .call(async move |client| {
                let rows = client.query(&sql, FetchOptions::default()).await?;
                rows.map_ok(|fetched| fetched.batch).try_collect::<Vec<_>>().await
            })
            .await;
        plan.is_ok_and(|plan| text_rows(&plan).concat().join("\n").contains("DistributedExec"))
    }
}

/// Fetches a FlightInfo of a table, or of a query of it.
async fn fetch(client: &Client, table: &str, query: Option<&TableQuery>, info: FlightInfo) -> Result<OpOutcome> {
    let version = version_of(&info);
    let ordered = info.ordered && query.is_none_or(TableQuery::keeps_order);
    let batches: Vec<_> =
        client.fetch(info, FetchOptions::default())?.map_ok(|fetched| fetched.batch).try_collect().await?;
    let content = match query {
        Some(query) => query.content(table, &batches, ordered),
        None => rows::content(table, &batches, ordered),
    };
    Ok(OpOutcome::Content { version, ordered, content })
}

/// The version of a FlightInfo: that of a query has it with the name of each table.
fn version_of(info: &FlightInfo) -> Option<u64> {
    let metadata = serde_json::from_slice::<serde_json::Value>(&info.app_metadata).ok()?;
    metadata["version"].as_u64().or_else(|| metadata["tables"][0]["version"].as_u64())
}
