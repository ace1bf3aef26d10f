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

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use volley_common::ipc::MESSAGE_BYTES;
use volley_common::ipc::encode::{IpcMessage, encode_messages};
use volley_common::ipc::flight_encoder::{FlightFrame, encode_flight_data};
use volley_common::ipc::schema::{flight_header, schema_message};
use volley_common::wire::cluster::TableVersion;
use volley_common::{Error, Result};
use volley_sql::engine::{PlannedQuery, QueryStream, RowsShare, SqlEngine};
use volley_sql::flight_sql::ParameterRows;
use volley_sql::source::TableSource;
use volley_sql::statement::{QueryStatement, TableAt};

use super::caller::SqlCaller;
use super::parameters::declared_type;
use super::result_queue::{ResultSender, WaitingMessage, counted, result_queue};
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
        let (runtime, source, query) = (runtime.clone(), source.clone(), query.clone());
        async move {
            let bound = query.parameter_rows()?;
            let first = ParameterRows::runs(bound.as_ref()).next().transpose()?.flatten();
            let planned = runtime.engine.prepare(source, &query.statement, first).await?;
            let schema = schema_of_runs(planned.schema(), bound.as_ref());
            let runs = bound.as_ref().map_or(1, ParameterRows::count);
            let result_bytes = match least {
                Some(least) => result_bytes(&runtime.engine, &planned, least, runs).await,
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
async fn result_bytes(engine: &SqlEngine, planned: &PlannedQuery, least: u64, runs: usize) -> Option<u64> {
    match engine.result_bytes(planned, least).await {
        Ok(bytes) => bytes.map(|bytes| bytes.saturating_mul(runs as u64)),
        Err(error) => {
            tracing::debug!(%error, "nothing tells how large the result of a query is");
            None
        }
    }
}

/// Makes messages of the rows of a query.
pub trait ResultEncoder: Send + 'static {
    /// A message.
    type Item: Send + 'static;

    /// The first messages, at least one.
    ///
    /// # Errors
    /// The schema is not one that is expected.
    fn begin(&mut self, schema: &SchemaRef) -> Result<Vec<Self::Item>>;

    /// The messages of a batch.
    ///
    /// # Errors
    /// The rows are not as they must be.
    fn encode(&mut self, batch: RecordBatch) -> Result<Vec<IpcMessage>>;

    /// A message of a batch, to be sent. Its rows count in the memory of queries until `share` is dropped.
    fn waiting(&self, message: IpcMessage, share: RowsShare) -> WaitingMessage<Self::Item>;
}

/// Runs a query; returns its messages once the first is there. Dropping the stream ends the query, and so does the cancellation of
/// the FlightInfo `flight`.
///
/// # Errors
/// Those of [`SqlEngine::prepare`] and [`SqlEngine::run`], and of the encoder. DEADLINE_EXCEEDED: it took longer than the caller
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
        let planned = engine.prepare(source.clone(), &query.statement, parameters?).await?;
        let mut rows = engine.run(planned, caller.key()).await?;
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
            let messages = counted_messages(&encoder, messages, rows.take_share());
            if !send.send(messages).await? {
                return Ok(None);
            }
        }
        last = Some(rows);
    }
    Ok(last)
}

/// The messages of a batch, in place of which they count in the memory of queries from now on.
fn counted_messages<E: ResultEncoder>(
    encoder: &E,
    messages: Vec<IpcMessage>,
    share: Option<RowsShare>,
) -> Vec<WaitingMessage<E::Item>> {
    // Each batch that the engine gives has its share.
    let Some(mut share) = share else { return Vec::new() };
    let bytes = |message: &IpcMessage| message.header.len() + message.body.len();
    let waiting = messages.into_iter().map(|message| {
        let own = share.split_off(bytes(&message));
        encoder.waiting(message, own)
    });
    waiting.collect()
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

/// The frames of a DoGet.
pub struct FrameEncoder {
    /// The schema message that was promised; empty: none was.
    pub promised: Bytes,
}

impl ResultEncoder for FrameEncoder {
    type Item = FlightFrame;

    fn begin(&mut self, schema: &SchemaRef) -> Result<Vec<FlightFrame>> {
        let message = schema_message(schema)?;
        if !self.promised.is_empty() && self.promised != message {
            return Err(Error::precondition(
                "the rows have another schema than the FlightInfo, because a function of the statement or the version of this node has changed: call get_flight_info again",
            ));
        }
        Ok(vec![encode_flight_data(&flight_header(&message), None, std::iter::empty())])
    }

    fn encode(&mut self, batch: RecordBatch) -> Result<Vec<IpcMessage>> {
        encode_messages(&batch, MESSAGE_BYTES)
    }

    /// The rows count until they are sent: HTTP/2 keeps some of a client that does not read.
    fn waiting(&self, message: IpcMessage, share: RowsShare) -> WaitingMessage<FlightFrame> {
        let body = counted(message.body, share);
        WaitingMessage::new(frame(IpcMessage { header: message.header, body }), None)
    }
}

/// The frame of a message.
pub fn frame(message: IpcMessage) -> FlightFrame {
    encode_flight_data(&message.header, None, std::iter::once(message.body))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};
    use volley_common::Code;
    use volley_sql::flight_sql::encode_parameters;

    use super::*;

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

    #[test]
    fn rows_of_another_schema_than_promised_are_refused() {
        let schema = batch(1).schema();
        let other = Schema::new(vec![Field::new("n", DataType::Int32, true)]);
        FrameEncoder { promised: schema_message(&schema).unwrap() }.begin(&schema).unwrap();
        FrameEncoder { promised: Bytes::new() }.begin(&schema).unwrap();
        let refused = FrameEncoder { promised: schema_message(&other).unwrap() }.begin(&schema).err().unwrap();
        assert_eq!(refused.code, Code::FailedPrecondition);
    }
}
