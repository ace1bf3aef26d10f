//! Large results of queries: a query whose result is expected to be large runs when its FlightInfo is requested, and its rows become
//! a table that only tickets name, so that its endpoints can be read in parallel (docs/adr/0016-stored-results.md).
//!
//! The result of a query that cannot be stored is read as a small one: the query runs when its one ticket is redeemed.

use std::sync::Arc;

use arrow_flight::{FlightData, FlightDescriptor, FlightInfo};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use serde_json::Map;
use volley_common::options::{LISTENER_HEADER, header_text};
use volley_common::refusal_log::RefusalLog;
use volley_common::wire::cluster::{QueryResult, ResultSource, Ticket};
use volley_common::{Error, Result, TableName, clock};

use super::caller::SqlCaller;
use super::coordinator_call;
use super::query::{BoundQuery, QueryPlan, run};
use super::request::max_endpoints;
use super::source::PlannedRights;
use super::update::{PutRowsEncoder, descriptor_of, request_id};
use crate::coordinator_proxy::{CoordinatorProxy, MetadataRequest};
use crate::put::{self, PutTarget};
use crate::result_space::{RESULT_RETENTION_S, ResultShare};

/// The schema of the tables of results. Other tables may have it, too: no name leads to those of results.
const RESULT_SCHEMA: &str = "query_results";
/// The value of the header for a listener with which a client requests a single endpoint.
const SINGLE: &str = "single";

/// A call that plans a query whose result may be stored.
pub struct ResultCall<'a> {
    /// Who makes it.
    pub caller: &'a SqlCaller,
    /// How coordinators are reached.
    pub proxy: &'a CoordinatorProxy,
    /// The call.
    pub request: &'a MetadataRequest,
}

/// Why there is no stored result.
#[derive(Debug)]
enum StoreFailure {
    /// The query fails.
    Query(Error),
    /// It does not, but its rows are not stored.
    Storage(Error),
}

impl ResultCall<'_> {
    /// From how many bytes on a result is stored; `None`: none is, by the configuration of this node, or because the client wants one
    /// endpoint.
    ///
    /// # Errors
    /// Those of [`max_endpoints`].
    pub fn least_bytes(&self) -> Result<Option<u64>> {
        let headers = &self.request.head.headers;
        let is_single = max_endpoints(headers)? == Some(1) || header_text(headers, LISTENER_HEADER)? == Some(SINGLE);
        let least = self.caller.context.put.config.sql_result_bytes;
        Ok((least > 0 && !is_single).then_some(least))
    }

    /// Runs a query that was planned, and stores its rows. Returns the endpoints of these, in a FlightInfo with the schema message
    /// `schema`; `None`: they are not stored. Dropping the future ends the query, and nothing is stored.
    ///
    /// # Errors
    /// Those of the query.
    pub async fn flight_info(
        &self,
        query: &BoundQuery,
        planned: &QueryPlan,
        schema: &Bytes,
    ) -> Result<Option<FlightInfo>> {
        let stored = match self.store(query, planned).await {
            Ok(result) => self.plan(&result, schema).await.map_err(StoreFailure::Storage),
            Err(failure) => Err(failure),
        };
        match stored {
            Ok(info) => Ok(Some(info)),
            Err(StoreFailure::Query(error)) => Err(error),
            Err(StoreFailure::Storage(error)) => {
                static LOG: RefusalLog = RefusalLog::new();
                log_unstored(&LOG, clock::now_ms(), &error);
                Ok(None)
            }
        }
    }

    /// Runs a query and stores its rows. Returns the ticket that names them, without parts.
    async fn store(&self, query: &BoundQuery, planned: &QueryPlan) -> Result<Ticket, StoreFailure> {
        let caller = self.caller;
        let context = &caller.context.put;
        let space = self.take_space(planned.result_bytes.unwrap_or_default()).await.map_err(StoreFailure::Storage)?;
        let slot = context.resources.admit_for(&caller.key()).map_err(StoreFailure::Storage)?;
        let ticket = result_ticket(caller, &planned.rights);
        let name = TableName::from_components(&ticket.table).map_err(StoreFailure::Storage)?;
        let retention = Map::from_iter([("retention_s".to_string(), RESULT_RETENTION_S.into())]);
        let descriptor = descriptor_of(&name, "create", None, retention);
        let encoder = PutRowsEncoder::for_new_table(descriptor, context.config.message_bytes);
        let pinned = query.pinned(planned.tables.clone());
        let pinned = pinned.ok_or_else(|| StoreFailure::Query(Error::internal("other tables were planned")))?;

        let rows =
            run(caller, query.clone(), pinned, Some(ticket.flight), encoder).await.map_err(StoreFailure::Query)?;
        let failure = Arc::new(Mutex::new(None));
        let noted = failure.clone();
        let rows = rows.inspect_err(move |error: &Error| *noted.lock() = Some(error.clone())).boxed();
        let input = measured(rows, space);
        let (headers, access) = (request_id(caller), caller.access.clone());
        let results = put::put_into(PutTarget::QueryResult, context.clone(), headers, access, input, slot);
        let stored = results.try_for_each(|_| std::future::ready(Ok(()))).await;
        match (stored, failure.lock().take()) {
            // From now on: the query may have run for as long as a result is kept.
            (Ok(()), _) => {
                Ok(Ticket { expires_ms: clock::now_ms().saturating_add(RESULT_RETENTION_S * 1000), ..ticket })
            }
            // The put says only that its stream broke.
            (Err(_), Some(error)) => Err(StoreFailure::Query(error)),
            (Err(error), None) => Err(StoreFailure::Storage(error)),
        }
    }

    /// The space for a result that is expected to have this many bytes.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: this node has too little. UNAVAILABLE: it does not write any more.
    async fn take_space(&self, expected: u64) -> Result<ResultShare> {
        let context = &self.caller.context;
        let (store, results) = (context.put.store.clone(), context.resources.results.clone());
        let key = self.caller.key();
        let take = move || {
            store.check_writable(expected)?;
            results.take(&key, expected, store.status().space.total)
        };
        let taken = tokio::task::spawn_blocking(take).await;
        taken.unwrap_or_else(|e| Err(Error::internal(format!("checking the disk: {e}"))))
    }

    /// The FlightInfo of a stored result, as a coordinator plans it.
    ///
    /// # Errors
    /// Those of the coordinator. INTERNAL: the rows are stored with another schema than the query has.
    async fn plan(&self, result: &Ticket, schema: &Bytes) -> Result<FlightInfo> {
        let named = self.caller.context.get.cluster.ticket_key()?.sign(result);
        let request = self.request.with_message("GetFlightInfo", &FlightDescriptor::new_cmd(named))?;
        let info: FlightInfo = coordinator_call::call(self.proxy, request).await?;
        match info.schema == *schema {
            true => Ok(info),
            false => Err(Error::internal("the rows of a query are stored with another schema than planned")),
        }
    }
}

/// Logs why a result is not stored. While there is no space, each large query is such a case: one line a second says how many there were.
fn log_unstored(log: &RefusalLog, now_ms: u64, error: &Error) {
    const UNSTORED: &str = "the result of a query is not stored: it runs when its ticket is redeemed";
    match log.count(now_ms) {
        Some(unlogged) => tracing::warn!(code = ?error.code, %error, unlogged, "{UNSTORED}"),
        None => tracing::debug!(code = ?error.code, %error, "{UNSTORED}"),
    }
}

/// The ticket of a result that is not stored yet, without its expiry: for the caller, by the rights by which the query was planned.
fn result_ticket(caller: &SqlCaller, rights: &PlannedRights) -> Ticket {
    let source = |(table, permitted_columns): (&Vec<String>, &u64)| ResultSource {
        table: table.clone(),
        permitted_columns: *permitted_columns,
    };
    let mut ticket = Ticket {
        flight: rand::random(),
        table: vec![RESULT_SCHEMA.into(), format!("{:032x}", rand::random::<u128>())],
        result: Some(QueryResult { sources: rights.permitted_columns.iter().map(source).collect() }),
        ..Ticket::default()
    };
    caller.access.bind_ticket(&mut ticket, false);
    // Those of this call may be newer.
    ticket.grant_epoch = rights.grant_epoch.unwrap_or(ticket.grant_epoch);
    ticket
}

/// The same messages, as long as there is space for their bytes. The space is taken until all are sent, and then for as long as they
/// may be stored.
fn measured(
    rows: BoxStream<'static, Result<FlightData>>,
    space: ResultShare,
) -> BoxStream<'static, Result<FlightData>> {
    let measured = stream::try_unfold((rows, space, 0), |(mut rows, space, bytes)| async move {
        let Some(data) = rows.try_next().await? else {
            space.complete();
            return Ok(None);
        };
        let bytes = bytes + (data.data_header.len() + data.data_body.len()) as u64;
        space.raise_to(bytes)?;
        Ok::<_, Error>(Some((data, (rows, space, bytes))))
    });
    measured.boxed()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tracing::{Event, Level, Metadata, Subscriber, span};
    use volley_common::Code;
    use volley_common::identity::Access;
    use volley_common::wire::catalog::WriteState;
    use volley_sql::statement::{SqlStatement, parse};

    use super::*;
    use crate::put::tests::cluster::InProcessCluster;
    use crate::sql::query::plan;

    /// Stores the result of a query at the node of a cluster.
    async fn store(cluster: &InProcessCluster, sql: &str) -> Result<Ticket, StoreFailure> {
        let context = &cluster.nodes[0].context;
        let mut request = http::Request::new(());
        request.extensions_mut().insert(Access::open());
        let (head, ()) = request.into_parts();
        let proxy = CoordinatorProxy::new(context.cluster.clone(), &context.pool, "");
        let caller = SqlCaller::of(context.sql.clone(), &head);
        let request = MetadataRequest { head, body: Bytes::new() };
        let SqlStatement::Query(statement) = parse(sql).unwrap() else { panic!("{sql}") };
        let query = BoundQuery::new(statement, None);
        let planned = plan(&caller, &query).await.unwrap();
        ResultCall { caller: &caller, proxy: &proxy, request: &request }.store(&query, &planned).await
    }

    async fn cluster(knows_query_results: bool) -> InProcessCluster {
        let cluster = InProcessCluster::start(1, &[&[0]], 1).await;
        cluster.coordinator.state.lock().knows_query_results = knows_query_results;
        cluster
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn rows_of_a_query_become_a_result_by_one_put() {
        let cluster = cluster(true).await;
        let begun_ms = clock::now_ms();
        let ticket = store(&cluster, "SELECT 7 AS n UNION ALL SELECT 8").await.unwrap();
        assert!(ticket.expires_ms >= begun_ms + RESULT_RETENTION_S * 1000);
        let write = cluster.write();
        assert_eq!(write.parts.iter().map(|part| part.rows).sum::<u64>(), 2);
        assert!(write.query_result && write.table == ticket.table, "{write:?}");
        assert_eq!(ticket.result, Some(QueryResult::default()), "it reads no table");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn failure_of_a_query_is_not_one_of_the_storage() {
        let cluster = cluster(true).await;
        let failed = store(&cluster, "SELECT 10 / (x - 8) AS n FROM (VALUES (7), (8)) AS v(x)").await;
        let Err(StoreFailure::Query(error)) = failed else { panic!("{failed:?}") };
        assert_eq!(error.code, Code::InvalidArgument, "{error}");
        assert_eq!(cluster.write().state(), WriteState::Aborted);
    }

    /// Counts the warnings of a thread.
    struct WarningCounter(Arc<AtomicUsize>);

    impl Subscriber for WarningCounter {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, event: &Event<'_>) {
            self.0.fetch_add(usize::from(*event.metadata().level() == Level::WARN), Ordering::Relaxed);
        }

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn many_unstored_results_are_one_warning_a_second() {
        let warnings = Arc::new(AtomicUsize::new(0));
        let (log, full) = (RefusalLog::new(), Error::exhausted("there is no space"));
        tracing::subscriber::with_default(WarningCounter(warnings.clone()), || {
            (5_000..5_100).for_each(|now_ms| log_unstored(&log, now_ms, &full));
        });
        assert_eq!(warnings.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn coordinator_of_an_earlier_version_stores_no_result() {
        let cluster = cluster(false).await;
        let failed = store(&cluster, "SELECT 7 AS n UNION ALL SELECT 8").await;
        let Err(StoreFailure::Storage(error)) = failed else { panic!("{failed:?}") };
        assert!(error.code == Code::FailedPrecondition && error.message.contains("upgrade"), "{error}");
        assert!(cluster.write().parts.is_empty());
    }
}
