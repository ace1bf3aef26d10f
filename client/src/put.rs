//! A put: encodes batches as Flight messages with backpressure, and reads the outcome.
//!
//! The request stream ends normally only after the source ended without an error. A source that fails resets the call: the
//! server would commit a stream that just ends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::{FlightData, FlightDescriptor};
use arrow_ipc::writer::{DictionaryTracker, EncodedData, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
use futures::{Stream, StreamExt};
use http::uri::PathAndQuery;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tonic::Request;
use tonic::metadata::MetadataMap;
use volley_common::ipc::MESSAGE_BYTES;
use volley_common::ipc::shrink::shrink_to_fit;
use volley_common::ipc::split::split;
use volley_common::options::Options;
use volley_common::put_codec::{DO_PUT, PutCodec};
use volley_common::{Code, Error, Result, TableName};

use super::pushback::Pushback;
use super::session::MIN_LEFT_FOR_PUT;
use super::{Client, MAX_MESSAGE, failure, request};

/// Messages that may wait to be sent.
const QUEUE_LEN: usize = 4;
/// Bytes of messages that are kept until the member accepts the put.
const MAX_SENT_AGAIN: usize = 32 << 20;

/// The outcome of a put: the JSON of the last PutResult.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutOutcome {
    /// The table's name.
    pub table: String,
    /// The version that the write created; 0 if the rows are staged.
    #[serde(default)]
    pub version: u64,
    /// Rows written.
    pub rows: u64,
    /// Bytes stored, counting one copy.
    pub bytes: u64,
    /// Parts written.
    pub parts: u32,
    /// The write's id.
    pub write_id: String,
    /// The write was committed by an earlier put with this id: this put stored nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repeated: bool,
    /// The rows become visible when their write is committed: by `commit_write`, or with its transaction.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub staged: bool,
}

/// A message for the call, or `None` at the normal end of the source.
type QueuedMessage = Option<FlightData>;

impl Client {
    /// Puts a stream of batches as one write, over one connection: a new version of the table, visible in whole or not at all.
    /// The options are those of puts: mode, shards, keys, replicas, compression. An error in the stream aborts the write and is
    /// returned. Dropping the future before it is done aborts the write too, unless it is committed at that moment.
    ///
    /// Batches are sent in messages of about 1 MiB; a few of them wait, and up to 32 MiB are kept until the member has accepted
    /// the put. A put with a write id may be repeated: it takes effect once.
    ///
    /// ```no_run
    /// # async fn example(client: volley_client::Client, batch: arrow::array::RecordBatch) -> volley_client::Result<()> {
    /// use volley_client::{Mode, Options};
    ///
    /// let options = Options { mode: Some(Mode::Append), write_id: Some("load-17".into()), ..Options::default() };
    /// let (schema, batches) = (batch.schema(), futures::stream::iter([Ok(batch)]));
    /// let outcome = client.put(&"trips".parse()?, &options, schema, batches).await?;
    /// println!("version {} with {} rows more", outcome.version, outcome.rows);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// That of the stream. The member's: INVALID_ARGUMENT: options, schema or rows; RESOURCE_EXHAUSTED: a limit or quota; NOT_FOUND:
    /// nothing to append to; ALREADY_EXISTS. UNAVAILABLE: the member does not answer; whether the put took effect is unknown.
    pub async fn put(
        &self,
        name: &TableName,
        options: &Options,
        schema: SchemaRef,
        batches: impl Stream<Item = Result<RecordBatch>> + Send + 'static,
    ) -> Result<PutOutcome> {
        let client = self.for_call();
        client.at(&client.answering_address().await)?.put_here(name, options, schema, batches).await
    }

    /// The put, at the member that this client is connected to.
    pub(crate) async fn put_here(
        &self,
        name: &TableName,
        options: &Options,
        schema: SchemaRef,
        batches: impl Stream<Item = Result<RecordBatch>> + Send + 'static,
    ) -> Result<PutOutcome> {
        let (descriptor, headers) = request::write_request(name, options);
        let outcome = tokio::select! {
            biased;
            outcome = put_stream(self, descriptor, headers, schema, batches) => outcome?,
            _ = self.own_pool().silence(&self.address) => return Err(self.name(failure::silent(&self.uri()))),
        };
        outcome_of(name, outcome)
    }
}

/// The outcome of a put from its JSON.
pub(crate) fn outcome_of(name: &TableName, outcome: serde_json::Value) -> Result<PutOutcome> {
    serde_json::from_value(outcome)
        .map_err(|e| Error::internal(format!("the member's reply to the put of {name} cannot be read: {e}")))
}

/// Sends `batches` with the descriptor. Returns the JSON of the last PutResult, null if none had any.
async fn put_stream(
    client: &Client,
    descriptor: FlightDescriptor,
    headers: MetadataMap,
    schema: SchemaRef,
    batches: impl Stream<Item = Result<RecordBatch>> + Send + 'static,
) -> Result<serde_json::Value> {
    let source_error: Arc<Mutex<Option<Error>>> = Arc::default();
    let (queue, messages) = mpsc::channel(QUEUE_LEN);
    let encode = {
        let source_error = source_error.clone();
        async move {
            if let Err(error) = encode_batches(&queue, descriptor, schema, batches).await {
                *source_error.lock() = Some(error);
            }
        }
    };
    // Aborted with this future, which closes the queue, which resets the call.
    let encoder = AbortOnDropHandle::new(tokio::spawn(encode));
    let outcome = call(client, headers, messages).await;
    drop(encoder);
    match source_error.lock().take() {
        // Of the source, not of the call.
        Some(error) => Err(error),
        None => client.named(outcome),
    }
}

async fn call(
    client: &Client,
    headers: MetadataMap,
    messages: mpsc::Receiver<QueuedMessage>,
) -> Result<serde_json::Value> {
    let mut calls = tonic::client::Grpc::new(client.own_channel()).max_decoding_message_size(MAX_MESSAGE);
    let outbox = Arc::new(Outbox::new(messages));
    // A session that ends while the put is on its way to the member might be found too late to repeat it.
    let mut used = match &client.session {
        Some(session) => Some(session.credential(MIN_LEFT_FOR_PUT).await?.number()),
        None => None,
    };
    let mut pushback = Pushback::default();
    let mut results = loop {
        calls.ready().await.map_err(|e| failure::broken(&client.uri(), &*e))?;
        let mut request = Request::new(Outbox::stream(outbox.clone()));
        *request.metadata_mut() = headers.clone();
        let status = match calls.streaming(request, PathAndQuery::from_static(DO_PUT), PutCodec).await {
            Ok(response) => break response.into_inner(),
            Err(status) => status,
        };
        // Once, with another credential.
        if status.code() == Code::Unauthenticated
            && outbox.is_complete()
            && let (Some(session), Some(refused)) = (&client.session, used.take())
            && session.renew(refused).await?
        {
            continue;
        }
        let error = failure::of_status(&client.uri(), status);
        match pushback.pause(&error) {
            Some(pause) if outbox.is_complete() => tokio::time::sleep(pause).await,
            _ => return Err(error),
        }
    };
    outbox.forget();
    let mut last = serde_json::Value::Null;
    let broken = |status| failure::of_status(&client.uri(), status);
    while let Some(result) = results.message().await.map_err(broken)? {
        if !result.app_metadata.is_empty() {
            last = serde_json::from_slice(&result.app_metadata)
                .map_err(|e| Error::internal(format!("the member's reply to the put is not JSON: {e}")))?;
        }
    }
    Ok(last)
}

/// The messages of the call. Until a member accepts the put, those that were sent are kept, so that a put which is
/// refused because the member is busy can be repeated.
struct Outbox(Mutex<OutboxState>);

struct OutboxState {
    messages: mpsc::Receiver<QueuedMessage>,
    /// What was sent; `None` if it is too much, or not needed any more.
    sent: Option<Vec<QueuedMessage>>,
    bytes: usize,
    /// The number of the current request; an earlier one may still be polled.
    request: u64,
}

impl Outbox {
    fn new(messages: mpsc::Receiver<QueuedMessage>) -> Self {
        Outbox(Mutex::new(OutboxState { messages, sent: Some(Vec::new()), bytes: 0, request: 0 }))
    }

    /// Whether all messages from the first on can be sent again.
    fn is_complete(&self) -> bool {
        self.0.lock().sent.is_some()
    }

    /// The put is accepted: nothing is sent again.
    fn forget(&self) {
        self.0.lock().sent = None;
    }

    /// A request's messages, from the first on; an error if the queue closes before the normal end.
    fn stream(outbox: Arc<Self>) -> impl Stream<Item = Result<FlightData>> + Send {
        let (request, mut again) = {
            let mut state = outbox.0.lock();
            state.request += 1;
            (state.request, VecDeque::from(state.sent.clone().unwrap_or_default()))
        };
        let mut ended = false;
        futures::stream::poll_fn(move |cx| {
            if ended {
                return Poll::Ready(None);
            }
            let message = match again.pop_front() {
                Some(message) => Some(message),
                None => ready!(outbox.0.lock().poll_receive(cx, request)),
            };
            ended = !matches!(message, Some(Some(_)));
            let closed = || Err(Error::cancelled("the source of the put ended unexpectedly"));
            Poll::Ready(message.map_or_else(|| Some(closed()), |message| message.map(Ok)))
        })
    }
}

impl OutboxState {
    /// The next message that no request has sent; `None` if the queue is closed, or the request is not the current one.
    fn poll_receive(&mut self, cx: &mut Context<'_>, request: u64) -> Poll<Option<QueuedMessage>> {
        if self.request != request {
            return Poll::Ready(None);
        }
        let message = ready!(self.messages.poll_recv(cx));
        let Some(received) = &message else { return Poll::Ready(None) };
        self.bytes += received.as_ref().map_or(0, |data| data.data_body.len() + data.data_header.len());
        match &mut self.sent {
            Some(sent) if self.bytes <= MAX_SENT_AGAIN => sent.push(received.clone()),
            _ => self.sent = None,
        }
        Poll::Ready(message)
    }
}

/// Encodes batches into messages until the source ends or fails, or the call is over.
async fn encode_batches(
    queue: &mpsc::Sender<QueuedMessage>,
    descriptor: FlightDescriptor,
    schema: SchemaRef,
    batches: impl Stream<Item = Result<RecordBatch>> + Send,
) -> Result<()> {
    let mut encoder = BatchEncoder::new();
    let first = encoder.schema(&schema).with_descriptor(descriptor);
    // A closed queue means that the call has ended; its outcome has the reason.
    if queue.send(Some(first)).await.is_err() {
        return Ok(());
    }
    let mut batches = std::pin::pin!(batches);
    while let Some(batch) = batches.next().await {
        for piece in split(&shrink_to_fit(&batch?), MESSAGE_BYTES) {
            for message in encoder.batch(&piece?)? {
                if queue.send(Some(message)).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
    let _ = queue.send(None).await;
    Ok(())
}

/// Encodes schema and batches as FlightData. A dictionary is sent again only when it has changed.
pub(super) struct BatchEncoder {
    generator: IpcDataGenerator,
    dictionaries: DictionaryTracker,
    options: IpcWriteOptions,
    context: IpcWriteContext,
}

impl BatchEncoder {
    pub(super) fn new() -> Self {
        BatchEncoder {
            generator: IpcDataGenerator::default(),
            dictionaries: DictionaryTracker::new(false),
            options: IpcWriteOptions::default(),
            context: IpcWriteContext::default(),
        }
    }

    pub(super) fn schema(&mut self, schema: &Schema) -> FlightData {
        self.generator.schema_to_bytes_with_dictionary_tracker(schema, &mut self.dictionaries, &self.options).into()
    }

    /// Dictionaries first, the record batch last.
    pub(super) fn batch(&mut self, batch: &RecordBatch) -> Result<Vec<FlightData>> {
        let (dictionaries, batch) = self
            .generator
            .encode(batch, &mut self.dictionaries, &self.options, &mut self.context)
            .map_err(|e| Error::invalid(format!("a batch cannot be sent: {e}")))?;
        Ok(dictionaries.into_iter().chain([batch]).map(EncodedData::into).collect())
    }
}
