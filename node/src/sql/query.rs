//! Queries: planned for a FlightInfo, whose ticket pins their tables and the versions of these, and run for a DoGet or an INSERT.
//!
//! Planning and running happen on the threads of [`crate::sql_resources`]; what they produce comes back through a bounded queue
//! ([`super::result_queue`]). A query ends when its reader goes, when that takes nothing for too long, and when its FlightInfo is
//! cancelled.
//!
//! A query runs once for each row of its parameters, one run after the other, against the same versions of its tables. The rows of
//! all runs have one schema, whose columns can be null: whether one can depends on the values.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use volley_common::fairness::CallerKey;
use volley_common::wire::cluster::TableVersion;
use volley_common::{Error, Result};
use volley_sql::engine::{PlannedQuery, QueryStream, SqlEngine};
use volley_sql::flight_sql::ParameterRows;
use volley_sql::source::TableSource;
use volley_sql::statement::{QueryStatement, TableAt};

use super::caller::SqlCaller;
use super::parameters::declared_type;
use super::result_encoder::{ResultEncoder, counted_messages};
use super::result_queue::{ResultSender, WaitingMessage, result_queue};
use super::source::{NodeSource, PinnedTables, PlannedRights};

/// A query and the values of its parameters.
#[derive(Clone)]
pub struct BoundQuery {
    /// The query.
    pub statement: Arc<QueryStatement>,
    /// An IPC stream of rows; `None`: there are no parameters, or they are not known yet.
    pub parameters: Option<Bytes>,
}

impl BoundQuery {
    /// A query with these parameters.
    pub fn new(statement: QueryStatement, parameters: Option<Bytes>) -> Self {
        BoundQuery { statement: Arc::new(statement), parameters }
    }

    /// The rows of its parameters.
    fn parameter_rows(&self) -> Result<Option<ParameterRows>> {
        self.parameters.as_deref().map(ParameterRows::decode).transpose()
    }

    /// The names of its tables.
    pub fn table_names(&self) -> Vec<Vec<String>> {
        self.statement.tables.iter().map(|table| table.name.components().to_vec()).collect()
    }

    /// The tables of a ticket, for [`NodeSource::new`]; `None`: they are not those of the query.
    pub fn pinned(&self, versions: Vec<TableVersion>) -> Option<PinnedTables> {
        let tables = &self.statement.tables;
        let is_of = |(table, pinned): (&TableAt, &TableVersion)| {
            table.name.components() == pinned.table && table.version.is_none_or(|named| pinned.version == Some(named))
        };
        let fits = tables.len() == versions.len() && tables.iter().zip(&versions).all(is_of);
        fits.then(|| tables.iter().cloned().zip(versions).collect())
    }
}

/// What planning a query tells.
pub struct QueryPlan {
    /// The schema of its rows.
    pub schema: SchemaRef,
    /// The types of its parameters by name, in their order; `None` if the statement does not tell one.
    pub parameters: Vec<(String, Option<DataType>)>,
    /// Its tables, with their ids and the versions that it reads.
    pub tables: Vec<TableVersion>,
    /// Until when these versions are kept, milliseconds since 1970; `None`: it reads no table.
    pub expires_ms: Option<u64>,
    /// The rights by which its tables were planned.
    pub rights: PlannedRights,
    /// About how many bytes its rows have, if that was asked for and is known.
    pub result_bytes: Option<u64>,
}

impl QueryPlan {
    /// The schema of its parameters, by their names, as clients are told.
    pub fn parameter_schema(&self) -> Schema {
        let field = |(name, data_type): &(String, Option<DataType>)| {
            Field::new(name, data_type.as_ref().map_or(DataType::Null, declared_type), true)
        };
        Schema::new(self.parameters.iter().map(field).collect::<Vec<_>>())
    }
}

/// Plans a query; no row is read.
///
/// # Errors
/// Those of [`plan_sized`].
pub async fn plan(caller: &SqlCaller, query: &BoundQuery) -> Result<QueryPlan> {
    plan_sized(caller, query, None).await
}

/// The same, with about how many bytes its rows have, if its tables have at least `least` bytes.
///
/// # Errors
/// Those of [`SqlEngine::prepare`]. DEADLINE_EXCEEDED: it took longer than the caller allows.
pub async fn plan_sized(caller: &SqlCaller, query: &BoundQuery, least: Option<u64>) -> Result<QueryPlan> {
    let runtime = caller.context.resources.runtime().await?;
    let source = NodeSource::new(caller.clone(), HashMap::new());
    let planning = {
        let (runtime, source, query, key) = (runtime.clone(), source.clone(), query.clone(), caller.key());
        async move {
            let bound = query.parameter_rows()?;
            let first = ParameterRows::runs(bound.as_ref()).next().transpose()?.flatten();
            let planned = runtime.engine.prepare(source, &query.statement, first, key.clone()).await?;
            let schema = schema_of_runs(planned.schema(), bound.as_ref());
            let runs = bound.as_ref().map_or(1, ParameterRows::count);
            let result_bytes = match least {
                Some(least) => result_bytes(&runtime.engine, &planned, least, runs, key).await,
                None => None,
            };
            Ok::<_, Error>((schema, planned.parameter_types().to_vec(), result_bytes))
        }
    };
    let (schema, parameters, result_bytes) = caller.limit.limit(runtime.spawn(planning)).await?;
    let tables = source.versions(&query.statement.tables);
    let (expires_ms, rights) = (source.expires_ms(), source.rights());
    Ok(QueryPlan { schema, parameters, tables, expires_ms, rights, result_bytes })
}

/// About how many bytes so many runs of a query give. What fails here fails again when the query runs.
async fn result_bytes(
    engine: &SqlEngine,
    planned: &PlannedQuery,
    least: u64,
    runs: usize,
    caller: CallerKey,
) -> Option<u64> {
    match engine.result_bytes(planned, least, caller).await {
        Ok(bytes) => bytes.map(|bytes| bytes.saturating_mul(runs as u64)),
        Err(error) => {
            tracing::debug!(%error, "nothing tells how large the result of a query is");
            None
        }
    }
}

/// Runs a query; returns its messages once the first is there. Dropping the stream ends the query, and so does the cancellation of
/// the FlightInfo `flight`.
///
/// # Errors
/// Those of [`SqlEngine::start`], and of the encoder. DEADLINE_EXCEEDED: it took longer than the caller
/// allows, or nothing of the stream was taken for as long as a query may run. Later ones are the stream's last item.
pub async fn run<E: ResultEncoder>(
    caller: &SqlCaller,
    query: BoundQuery,
    pinned: PinnedTables,
    flight: Option<u64>,
    encoder: E,
) -> Result<BoxStream<'static, Result<E::Item>>> {
    let runtime = caller.context.resources.runtime().await?;
    let source = NodeSource::new(caller.clone(), pinned);
    let (send, receive) = result_queue(runtime.engine.timeout());
    let cluster = caller.context.get.cluster.clone();
    let running = {
        let (runtime, caller) = (runtime.clone(), caller.clone());
        async move {
            let cancelled = async {
                match flight {
                    Some(flight) => cluster.cancelled.cancelled(flight).await,
                    None => std::future::pending().await,
                }
            };
            let work = async {
                let produced = tokio::select! {
                    biased;
                    error = caller.limit.exceeded() => Err(error),
                    produced = produce(&runtime.engine, source, query, &caller, encoder, &send) => produced,
                };
                // The query keeps its place until its reader has all messages.
                let rows = produced?;
                send.drained().await?;
                drop(rows);
                Ok(())
            };
            tokio::select! {
                biased;
                () = send.closed() => Ok(()),
                () = cancelled => Err(Error::cancelled("the query was cancelled")),
                ended = work => ended,
            }
        }
    };
    let mut task = Box::pin(runtime.spawn(running));
    let first = match receive.recv().await {
        Some(first) => first,
        None => {
            task.as_mut().await?;
            return Err(Error::internal("the query sent no schema"));
        }
    };
    let rest = stream::unfold((receive, Some(task)), |(receive, mut task)| async move {
        match receive.recv().await {
            Some(item) => Some((Ok(item), (receive, task))),
            None => task.take()?.await.err().map(|error| (Err(error), (receive, None))),
        }
    });
    Ok(stream::once(async move { Ok(first) }).chain(rest).boxed())
}

/// Runs a query to its end, once for each row of its parameters, or until nobody receives its messages. Returns the last run, whose rows
/// were sent: with it its place is given back.
async fn produce<E: ResultEncoder>(
    engine: &SqlEngine,
    source: Arc<dyn TableSource>,
    query: BoundQuery,
    caller: &SqlCaller,
    mut encoder: E,
    send: &ResultSender<E::Item>,
) -> Result<Option<QueryStream>> {
    let started = Instant::now();
    let bound = query.parameter_rows()?;
    let mut promised: Option<SchemaRef> = None;
    let mut last: Option<QueryStream> = None;
    for (at, parameters) in ParameterRows::runs(bound.as_ref()).enumerate() {
        if at > 0 {
            check_time(started.elapsed(), engine.timeout())?;
        }
        // Its place is for this run.
        drop(last.take());
        // The source plans the tables and versions of the first run again.
        let mut rows = engine.start(source.clone(), &query.statement, parameters?, caller.key()).await?;
        let schema = schema_of_runs(rows.schema(), bound.as_ref());
        match &promised {
            None => {
                let first = encoder.begin(&schema)?.into_iter().map(|message| WaitingMessage::new(message, None));
                if !send.send(first.collect()).await? {
                    return Ok(None);
                }
                promised = Some(schema.clone());
            }
            Some(promised) if *promised == schema => {}
            Some(_) => return Err(other_schema(at)),
        }
        while let Some(batch) = rows.next().await {
            let batch = batch?.with_schema(schema.clone());
            let batch =
                batch.map_err(|e| Error::internal(format!("the rows have another schema than planned: {e}")))?;
            let messages = encoder.encode(batch)?;
            let share = rows.take_share().ok_or_else(|| Error::internal("rows of a query count in no memory"))?;
            let messages = counted_messages(&encoder, messages, share);
            if !send.send(messages).await? {
                return Ok(None);
            }
        }
        last = Some(rows);
    }
    Ok(last)
}

/// The schema of all runs of a query, of which one has this schema.
fn schema_of_runs(schema: SchemaRef, bound: Option<&ParameterRows>) -> SchemaRef {
    if bound.is_none_or(|rows| rows.count() == 1) {
        return schema;
    }
    let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone()))
}

/// Whether one more run may begin. The last one has as much time as if it were alone.
fn check_time(elapsed: Duration, limit: Duration) -> Result<()> {
    match !limit.is_zero() && elapsed > limit {
        true => Err(Error::deadline(format!(
            "the query took longer than {} s for its rows of parameters, which is the limit (`statement_timeout_s`): bind fewer rows, or put the values into a table and join it",
            limit.as_secs_f64()
        ))),
        false => Ok(()),
    }
}

fn other_schema(at: usize) -> Error {
    Error::invalid(format!(
        "row {} of the parameters gives a result of other types than the first one: run the statement with one row at a time",
        at + 1
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use volley_common::Code;
    use volley_common::identity::Access;
    use volley_common::ipc::flight_encoder::FlightFrame;
    use volley_sql::flight_sql::encode_parameters;
    use volley_sql::statement::{SqlStatement, parse};

    use super::*;
    use crate::config::NodeConfig;
    use crate::context::SqlContext;
    use crate::put::tests::cluster::InProcessCluster;
    use crate::sql::result_encoder::FrameEncoder;
    use crate::sql_resources::SqlResources;

    /// A caller at a node that runs one query at a time, for some seconds.
    fn caller_of(cluster: &InProcessCluster) -> SqlCaller {
        let node = &cluster.nodes[0].context;
        let config = NodeConfig { statement_timeout_s: 5, max_concurrent_queries: 1, ..NodeConfig::default() };
        let resources = SqlResources::new(Arc::new(config), node.store.clone());
        let context = Arc::new(SqlContext { get: node.get.clone(), put: node.put.clone(), resources });
        let mut request = http::Request::new(());
        request.extensions_mut().insert(Access::open());
        let (head, ()) = request.into_parts();
        SqlCaller::of(context, &head)
    }

    async fn start(caller: &SqlCaller, sql: &str) -> Result<BoxStream<'static, Result<FlightFrame>>> {
        let SqlStatement::Query(statement) = parse(sql).unwrap() else { panic!("{sql}") };
        let encoder = FrameEncoder { promised: Bytes::new() };
        run(caller, BoundQuery::new(statement, None), HashMap::new(), None, encoder).await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn result_that_nobody_reads_ends_and_frees_its_place() {
        let cluster = InProcessCluster::start(1, &[&[0]], 1).await;
        let caller = caller_of(&cluster);
        let mut unread = start(&caller, "SELECT 1 AS n").await.unwrap();
        unread.next().await.unwrap().unwrap();
        let mut others = loop {
            match start(&caller, "SELECT 2 AS n").await {
                Ok(rows) => break rows,
                Err(error) => assert_eq!(error.code, Code::ResourceExhausted, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        while let Some(frame) = others.next().await {
            frame.unwrap();
        }
        let ended = unread.next().await.unwrap().err().unwrap();
        assert_eq!(ended.code, Code::DeadlineExceeded, "{ended}");
        assert!(ended.message.contains("nothing of the query's result was read for 5 s"), "{ended}");
        assert!(unread.next().await.is_none());
    }

    fn batch(rows: i64) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
        RecordBatch::try_from_iter([("n", column)]).unwrap()
    }

    #[test]
    fn columns_of_several_runs_can_be_null() {
        let not_null: SchemaRef = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let bound = |rows| ParameterRows::decode(&encode_parameters(&[batch(rows)]).unwrap()).unwrap();
        assert_eq!(schema_of_runs(not_null.clone(), None), not_null);
        assert_eq!(schema_of_runs(not_null.clone(), Some(&bound(1))), not_null);
        assert!(schema_of_runs(not_null, Some(&bound(2))).field(0).is_nullable());
    }

    #[test]
    fn no_run_begins_after_the_time_of_the_query() {
        let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
        assert_eq!(check_time(minute, hour), Ok(()));
        assert_eq!(check_time(hour, Duration::ZERO), Ok(()));
        assert_eq!(check_time(hour, minute).unwrap_err().code, Code::DeadlineExceeded);
    }
}
