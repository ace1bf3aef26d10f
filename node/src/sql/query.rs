//! Queries: planned for a FlightInfo, whose ticket pins the versions of their tables, and run for a DoGet or an INSERT.
//!
//! Planning and running happen on the threads of [`crate::sql_resources`]; what they produce comes back through a bounded queue. A
//! query ends when its reader goes, and when its FlightInfo is cancelled.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use tokio::sync::mpsc;
use volley_common::ipc::MESSAGE_BYTES;
use volley_common::ipc::encode::{IpcMessage, encode_batch};
use volley_common::ipc::flight_encoder::{FlightFrame, encode_flight_data};
use volley_common::ipc::schema::{flight_header, schema_message};
use volley_common::ipc::shrink::shrink_to_fit;
use volley_common::ipc::split::split;
use volley_common::wire::cluster::TableVersion;
use volley_common::{Error, Result, TableName};
use volley_sql::engine::SqlEngine;
use volley_sql::flight_sql;
use volley_sql::source::TableSource;
use volley_sql::statement::QueryStatement;

use super::caller::SqlCaller;
use super::parameters::declared_type;
use super::source::NodeSource;

/// Messages that wait for the reader of a query: each has about 1 MiB.
const QUEUED_MESSAGES: usize = 4;

/// A query and the values of its parameters.
#[derive(Clone)]
pub struct BoundQuery {
    /// The query.
    pub statement: Arc<QueryStatement>,
    /// An IPC stream of one row; `None`: there are no parameters, or they are not known yet.
    pub parameters: Option<Bytes>,
}

impl BoundQuery {
    /// A query with these parameters.
    pub fn new(statement: QueryStatement, parameters: Option<Bytes>) -> Self {
        BoundQuery { statement: Arc::new(statement), parameters }
    }

    /// The names of its tables.
    pub fn table_names(&self) -> Vec<Vec<String>> {
        self.statement.tables.iter().map(|table| table.name.components().to_vec()).collect()
    }

    /// The versions of a ticket, for [`NodeSource::new`]: of the tables that the statement names without one.
    pub fn pinned(&self, versions: &[TableVersion]) -> HashMap<TableName, u64> {
        let tables = self.statement.tables.iter().zip(versions).filter(|(table, _)| table.version.is_none());
        tables.filter_map(|(table, pinned)| Some((table.name.clone(), pinned.version?))).collect()
    }
}

/// What planning a query tells.
pub struct QueryPlan {
    /// The schema of its rows.
    pub schema: SchemaRef,
    /// The types of its parameters by name, in their order; `None` if the statement does not tell one.
    pub parameters: Vec<(String, Option<DataType>)>,
    /// Its tables, with the versions that it reads.
    pub tables: Vec<TableVersion>,
    /// Until when these versions are kept, milliseconds since 1970; `None`: it reads no table.
    pub expires_ms: Option<u64>,
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
/// Those of [`SqlEngine::prepare`].
pub async fn plan(caller: &SqlCaller, query: &BoundQuery) -> Result<QueryPlan> {
    let runtime = caller.context.resources.runtime().await?;
    let source = NodeSource::new(caller.clone(), HashMap::new());
    let planning = {
        let (runtime, source, query) = (runtime.clone(), source.clone(), query.clone());
        async move {
            let parameters = query.parameters.as_deref().map(flight_sql::parameters).transpose()?;
            let planned = runtime.engine.prepare(source, &query.statement, parameters).await?;
            Ok::<_, Error>((planned.schema(), planned.parameter_types().to_vec()))
        }
    };
    let (schema, parameters) = runtime.spawn(planning).await?;
    let tables = source.versions(&query.statement.tables);
    Ok(QueryPlan { schema, parameters, tables, expires_ms: source.expires_ms() })
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
    fn encode(&mut self, batch: RecordBatch) -> Result<Vec<Self::Item>>;
}

/// Runs a query; returns its messages once the first is there. Dropping the stream ends the query, and so does the cancellation of
/// the FlightInfo `flight`.
///
/// # Errors
/// Those of [`SqlEngine::prepare`] and [`SqlEngine::run`], and of the encoder. Later ones are the stream's last item.
pub async fn run<E: ResultEncoder>(
    caller: &SqlCaller,
    query: BoundQuery,
    pinned: HashMap<TableName, u64>,
    flight: Option<u64>,
    encoder: E,
) -> Result<BoxStream<'static, Result<E::Item>>> {
    let runtime = caller.context.resources.runtime().await?;
    let source = NodeSource::new(caller.clone(), pinned);
    let (send, mut receive) = mpsc::channel(QUEUED_MESSAGES);
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
            tokio::select! {
                biased;
                () = send.closed() => Ok(()),
                () = cancelled => Err(Error::cancelled("the query was cancelled")),
                ended = produce(&runtime.engine, source, query, &caller, encoder, &send) => ended,
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
    let rest = stream::unfold((receive, Some(task)), |(mut receive, mut task)| async move {
        match receive.recv().await {
            Some(item) => Some((Ok(item), (receive, task))),
            None => task.take()?.await.err().map(|error| (Err(error), (receive, None))),
        }
    });
    Ok(stream::once(async move { Ok(first) }).chain(rest).boxed())
}

/// Runs a query to its end, or until nobody receives its messages.
async fn produce<E: ResultEncoder>(
    engine: &SqlEngine,
    source: Arc<dyn TableSource>,
    query: BoundQuery,
    caller: &SqlCaller,
    mut encoder: E,
    send: &mpsc::Sender<E::Item>,
) -> Result<()> {
    let parameters = query.parameters.as_deref().map(flight_sql::parameters).transpose()?;
    let planned = engine.prepare(source, &query.statement, parameters).await?;
    let rows = engine.run(planned, caller.key()).await?;
    let first = encoder.begin(&rows.schema())?;
    let mut rows = pin!(rows);
    let mut messages = first;
    loop {
        for message in messages {
            if send.send(message).await.is_err() {
                return Ok(());
            }
        }
        let Some(batch) = rows.next().await else { return Ok(()) };
        messages = encoder.encode(batch?)?;
    }
}

/// Batches as messages of at most about `message_bytes`: the dictionaries of each, then its rows.
///
/// # Errors
/// RESOURCE_EXHAUSTED: rows share values that would have to be repeated far too often. INTERNAL: the batch cannot be encoded.
pub fn encode_messages(batch: &RecordBatch, message_bytes: usize) -> Result<Vec<IpcMessage>> {
    if batch.num_rows() == 0 {
        return Ok(Vec::new());
    }
    let mut messages = Vec::new();
    for piece in split(&shrink_to_fit(batch), message_bytes) {
        let (dictionaries, rows) = encode_batch(&piece?)?;
        messages.extend(dictionaries);
        messages.push(rows);
    }
    Ok(messages)
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

    fn encode(&mut self, batch: RecordBatch) -> Result<Vec<FlightFrame>> {
        let frame = |message: IpcMessage| encode_flight_data(&message.header, None, std::iter::once(message.body));
        Ok(encode_messages(&batch, MESSAGE_BYTES)?.into_iter().map(frame).collect())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};
    use volley_common::Code;

    use super::*;

    fn batch(rows: i64) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
        RecordBatch::try_from_iter([("n", column)]).unwrap()
    }

    #[test]
    fn large_batch_is_sent_in_messages_of_a_mebibyte() {
        let large = batch(1 << 20);
        let messages = encode_messages(&large, MESSAGE_BYTES).unwrap();
        assert!(messages.len() >= 8 && messages.iter().all(|message| message.body.len() <= 2 * MESSAGE_BYTES));
        assert!(encode_messages(&batch(0), MESSAGE_BYTES).unwrap().is_empty());
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
