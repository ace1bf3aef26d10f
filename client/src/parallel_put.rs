//! A put by several streams: begins a write, sends each row to a node that holds its shard, and commits once.

use std::task::{Poll, ready};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::future::{join, join_all};
use futures::{Stream, StreamExt};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use volley_common::options::{Mode, Options};
use volley_common::{Code, Error, Result, TableName};

use super::put::{PutOutcome, outcome_of};
use super::scatter::{LanePlan, RowScatter};
use super::{Client, request};

/// Batches that may wait for a stream that is slower than the others.
const LANE_BATCHES: usize = 2;
/// How often a commit is tried whose outcome is unknown; committing again has no effect.
const COMMIT_ATTEMPTS: u32 = 4;
/// The pause before the second attempt; later ones are longer.
const COMMIT_PAUSE: Duration = Duration::from_millis(500);
/// How long the abort of a failed write may take. The write ends by itself when its lease does.
const ABORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Parallelism of [`Client::put_parallel`].
#[derive(Clone, Debug)]
pub struct ParallelPut {
    /// Streams at most, each to another node. Each has about 12 MiB of rows in memory, and up to 32 MiB until its node has accepted
    /// it.
    pub streams: usize,
}

impl Default for ParallelPut {
    /// 8 streams.
    fn default() -> Self {
        ParallelPut { streams: 8 }
    }
}

/// The reply to the action `begin_write`.
#[derive(Debug, Deserialize)]
struct BegunWrite {
    write_id: String,
    /// Addresses of nodes that accept rows, or of the member that passes them on.
    #[serde(default)]
    nodes: Vec<String>,
    /// The key columns of the table; empty: it has none. Members of earlier versions do not send this, nor the following.
    #[serde(default)]
    shard_by: Vec<String>,
    /// The holders of each shard, as indices of `nodes`: those that this client may be able to reach.
    #[serde(default)]
    placement: Vec<Vec<usize>>,
}

/// A batch for a stream, or `None` at the normal end.
type LaneItem = Option<RecordBatch>;

/// One put by several streams.
struct ParallelWrite {
    client: Client,
    name: TableName,
    options: Options,
    schema: SchemaRef,
    max_lanes: usize,
    /// Cancelled when the caller does not wait any more.
    cancelled: CancellationToken,
}

impl Client {
    /// As [`Client::put`], with a stream to each of several nodes: rows go straight to a node that holds their shard, and all
    /// become visible by one commit. It is worth its two additional calls for tables with `shard_by` of more than some 100 MB.
    /// There is one stream if the table has no keys, whose rows have the order of the put; if only one node can be reached; and if
    /// the options have a write id, a transaction or `preserve_batches`.
    ///
    /// Rows of one key keep their order. Dropping the future before it is done aborts the write, unless it is committed at that
    /// moment.
    ///
    /// ```no_run
    /// # async fn example(client: volley_client::Client, batch: arrow::array::RecordBatch) -> volley_client::Result<()> {
    /// use volley_client::{Options, ParallelPut};
    ///
    /// let options = Options { shard_by: Some(vec!["id".into()]), shards: Some(16), ..Options::default() };
    /// let (schema, batches) = (batch.schema(), futures::stream::iter([Ok(batch)]));
    /// let outcome = client.put_parallel(&"trips".parse()?, &options, schema, batches, ParallelPut::default()).await?;
    /// println!("version {} has {} rows", outcome.version, outcome.rows);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Client::put`]: nothing is visible then. ABORTED: the write was aborted, by another client or because its lease ran out:
    /// put all of the rows again. UNAVAILABLE: if the message says that the outcome is unknown, the action
    /// `commit_write` with the id in the message tells it.
    pub async fn put_parallel(
        &self,
        name: &TableName,
        options: &Options,
        schema: SchemaRef,
        batches: impl Stream<Item = Result<RecordBatch>> + Send + 'static,
        parallel: ParallelPut,
    ) -> Result<PutOutcome> {
        if parallel.streams <= 1 || has_one_stream(options) {
            return self.put(name, options, schema, batches).await;
        }
        let cancelled = CancellationToken::new();
        let guard = cancelled.clone().drop_guard();
        let write = ParallelWrite {
            client: self.clone(),
            name: name.clone(),
            options: options.clone(),
            schema,
            max_lanes: parallel.streams,
            cancelled,
        };
        // A task of its own: a write that is given up has to be aborted, which takes calls.
        let outcome = tokio::spawn(write.run(batches)).await;
        drop(guard.disarm());
        outcome.unwrap_or_else(|_| {
            Err(Error::internal("the task of the put ended unexpectedly: its source may have panicked"))
        })
    }
}

/// Whether a put with these options goes by one stream, whatever the table is.
fn has_one_stream(options: &Options) -> bool {
    let has_no_keys = options.mode == Some(Mode::Create) && options.shard_by.is_none();
    // The id of a write that is staged does not make its repetition safe: streams of the first attempt may be in it already.
    let has_id = options.write_id.is_some() || options.transaction.is_some();
    has_no_keys || has_id || options.preserve_batches == Some(true)
}

impl ParallelWrite {
    async fn run(self, batches: impl Stream<Item = Result<RecordBatch>> + Send) -> Result<PutOutcome> {
        let body = request::command(&self.name, &self.options);
        let begun = self.client.action("begin_write", &body).await?;
        let begun: BegunWrite = serde_json::from_value(begun)
            .map_err(|e| Error::internal(format!("the reply to begin_write cannot be read: {e}")))?;
        let id = begun.write_id.clone();
        let staged = self.stage(begun, batches).await;
        let staged = match self.cancelled.is_cancelled() {
            true => Err(Error::cancelled("the put was given up")),
            false => staged,
        };
        match staged {
            Ok(()) => self.commit(&id).await,
            Err(error) => {
                self.abort(&id, &error).await;
                Err(error)
            }
        }
    }

    /// Sends all rows, and waits until every stream has ended: those that were not at their end are reset when one fails.
    async fn stage(&self, begun: BegunWrite, batches: impl Stream<Item = Result<RecordBatch>> + Send) -> Result<()> {
        let (lanes, scatter) = self.open_lanes(&begun).await?;
        let options = Options { write_id: Some(begun.write_id), ..self.options.clone() };
        let (senders, sources): (Vec<_>, Vec<_>) = lanes.iter().map(|_| mpsc::channel(LANE_BATCHES)).unzip();
        let puts = lanes
            .iter()
            .zip(sources)
            .map(|(lane, source)| lane.put_here(&self.name, &options, self.schema.clone(), lane_batches(source)));
        let (scattered, outcomes) = join(self.scatter(scatter, batches, senders), join_all(puts)).await;
        let sent = scattered?;
        let (mut stored, mut failures) = (0, Vec::new());
        for outcome in outcomes {
            match outcome {
                Ok(outcome) if outcome.staged => stored += outcome.rows,
                Ok(_) => failures.push(Error::aborted(
                    "the write had ended before a stream of it began, because another client committed it, or a member of an earlier version did not know that it was aborted: look which rows are in the table, and put the others again",
                )),
                Err(error) => failures.push(error),
            }
        }
        // The others were reset because of the first failure.
        failures.sort_by_key(|error| error.code == Code::Cancelled);
        match failures.into_iter().next() {
            Some(error) => Err(error),
            None if sent != Some(stored) => {
                Err(Error::internal(format!("the nodes have stored {stored} rows, not those that were sent")))
            }
            None => Ok(()),
        }
    }

    /// Connects to a node for each stream. One stream, by the client's own connection, if the table has no keys or no node can be
    /// reached.
    async fn open_lanes(&self, begun: &BegunWrite) -> Result<(Vec<Client>, RowScatter)> {
        if !begun.shard_by.is_empty() {
            let mut nodes = vec![true; begun.nodes.len()];
            let wanted = LanePlan::new(&begun.placement, &nodes, self.max_lanes);
            nodes.fill(false);
            let dialled = wanted.nodes.iter().map(|node| self.client.connect_to(&begun.nodes[*node]));
            let dialled = join_all(dialled).await;
            let mut reached: Vec<(usize, Client)> = Vec::new();
            for (node, outcome) in wanted.nodes.iter().zip(dialled) {
                match outcome {
                    Ok(client) => {
                        nodes[*node] = true;
                        reached.push((*node, client));
                    }
                    Err(error) => {
                        tracing::debug!(node = begun.nodes[*node], %error, "a node gets no stream of the put");
                    }
                }
            }
            let plan = LanePlan::new(&begun.placement, &nodes, self.max_lanes);
            if !plan.nodes.is_empty() {
                let scatter = RowScatter::by_key(&self.schema, &begun.shard_by, &plan)?;
                reached.sort_by_key(|(node, _)| plan.nodes.iter().position(|other| other == node));
                return Ok((reached.into_iter().map(|(_, client)| client).collect(), scatter));
            }
        }
        let own = self.client.at(&self.client.answering_address().await)?;
        Ok((vec![own], RowScatter::to_one(&self.schema)))
    }

    /// Sends the rows of the source to their streams. Returns how many; none if a stream ended early, whose outcome says why.
    /// Without the normal end, which is sent only after the last row, the streams are reset.
    async fn scatter(
        &self,
        mut scatter: RowScatter,
        batches: impl Stream<Item = Result<RecordBatch>> + Send,
        senders: Vec<mpsc::Sender<LaneItem>>,
    ) -> Result<Option<u64>> {
        let mut batches = std::pin::pin!(batches);
        let mut rows = 0;
        loop {
            let batch = tokio::select! {
                biased;
                () = self.cancelled.cancelled() => return Err(Error::cancelled("the put was given up")),
                batch = batches.next() => batch.transpose()?,
            };
            let is_last = batch.is_none();
            rows += batch.as_ref().map_or(0, |batch| batch.num_rows() as u64);
            let ready = match batch {
                Some(batch) => scatter.push(batch)?,
                None => scatter.finish()?,
            };
            for (lane, batch) in ready {
                if !self.send(&senders[lane], Some(batch)).await? {
                    return Ok(None);
                }
            }
            if is_last {
                break;
            }
        }
        for sender in &senders {
            if !self.send(sender, None).await? {
                return Ok(None);
            }
        }
        Ok(Some(rows))
    }

    /// Whether the stream took the item.
    ///
    /// # Errors
    /// CANCELLED: the put was given up.
    async fn send(&self, lane: &mpsc::Sender<LaneItem>, item: LaneItem) -> Result<bool> {
        tokio::select! {
            biased;
            () = self.cancelled.cancelled() => Err(Error::cancelled("the put was given up")),
            sent = lane.send(item) => Ok(sent.is_ok()),
        }
    }

    /// Makes the rows visible.
    async fn commit(&self, id: &str) -> Result<PutOutcome> {
        let body = json!({ "write_id": id });
        let mut attempt = 0;
        let outcome = loop {
            attempt += 1;
            match self.client.action_any("commit_write", &body).await {
                Ok(outcome) => break outcome_of(&self.name, outcome)?,
                Err(error) if !leaves_outcome_unknown(error.code) => {
                    self.abort(id, &error).await;
                    return Err(error);
                }
                Err(error) if attempt >= COMMIT_ATTEMPTS => {
                    let unknown = error.at(format!(
                        "the outcome of write {id} is unknown (the action commit_write with this id tells it)"
                    ));
                    return Err(Error { code: Code::Unavailable, retry_after_ms: None, ..unknown });
                }
                Err(error) => {
                    tracing::debug!(%error, attempt, "the commit is repeated");
                    tokio::time::sleep(COMMIT_PAUSE * attempt).await;
                }
            }
        };
        // Nobody else knows the id: an earlier attempt of this commit succeeded.
        Ok(PutOutcome { repeated: false, ..outcome })
    }

    /// Ends a write that has failed, so that its parts are deleted before its lease ends.
    async fn abort(&self, id: &str, error: &Error) {
        let body = json!({ "write_id": id, "reason": error.message });
        let aborted = tokio::time::timeout(ABORT_TIMEOUT, self.client.action_any("abort_write", &body)).await;
        if !matches!(aborted, Ok(Ok(_))) {
            tracing::debug!(write = id, "the write is not aborted; it ends when its lease does");
        }
    }
}

/// Whether a commit that ended with this code may have taken effect: its answer is lost, late or not readable. Every other code is
/// a refusal.
fn leaves_outcome_unknown(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Internal | Code::Unknown)
}

/// The rows of a stream. An error if the queue closes before its normal end: then the put is reset, and stores nothing.
fn lane_batches(mut source: mpsc::Receiver<LaneItem>) -> impl Stream<Item = Result<RecordBatch>> + Send + 'static {
    let mut ended = false;
    futures::stream::poll_fn(move |cx| {
        if ended {
            return Poll::Ready(None);
        }
        let item = ready!(source.poll_recv(cx));
        ended = !matches!(item, Some(Some(_)));
        let reset = || Some(Err(Error::cancelled("another stream of the write has failed, or its source")));
        Poll::Ready(item.map_or_else(reset, |item| item.map(Ok)))
    })
}
