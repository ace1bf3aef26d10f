//! A put: encodes batches as Flight messages with backpressure, and reads the outcome.
//!
//! The request stream ends normally only after the source ended without an error. A source that fails resets the call: the
//! server would commit a stream that just ends.

use std::marker::PhantomData;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::{FlightData, FlightDescriptor, PutResult};
use arrow_ipc::writer::{DictionaryTracker, EncodedData, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
use futures::{Stream, StreamExt};
use http::uri::PathAndQuery;
use parking_lot::Mutex;
use prost::Message;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

use super::{Client, MAX_MESSAGE};
use crate::ipc::MESSAGE_BYTES;
use crate::ipc::shrink::shrink_to_fit;
use crate::ipc::split::split;
use crate::{Error, Result};

/// Messages that may wait to be sent.
const QUEUE_LEN: usize = 4;
const DO_PUT: &str = "/arrow.flight.protocol.FlightService/DoPut";

/// The outcome of a put: the JSON of the last PutResult.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutOutcome {
    /// The table's name.
    pub table: String,
    /// The version that the write created.
    pub version: u64,
    /// Rows written.
    pub rows: u64,
    /// Bytes stored, counting one copy.
    pub bytes: u64,
    /// Parts written.
    pub parts: u32,
    /// The write's id.
    pub write_id: String,
}

/// A message for the call, or `None` at the normal end of the source.
type QueuedMessage = Option<FlightData>;

/// Sends `batches` with the descriptor. Returns the JSON of the last PutResult, null if none had any.
pub(super) async fn put_stream(
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
        Some(error) => Err(error),
        None => outcome,
    }
}

async fn call(
    client: &Client,
    headers: MetadataMap,
    messages: mpsc::Receiver<QueuedMessage>,
) -> Result<serde_json::Value> {
    let mut grpc = tonic::client::Grpc::new(client.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
    grpc.ready().await?;
    let mut request = Request::new(request_stream(messages));
    *request.metadata_mut() = headers;
    let mut results = grpc.streaming(request, PathAndQuery::from_static(DO_PUT), PutCodec).await?.into_inner();
    let mut last = serde_json::Value::Null;
    while let Some(result) = results.message().await? {
        if !result.app_metadata.is_empty() {
            last = serde_json::from_slice(&result.app_metadata)
                .map_err(|e| Error::internal(format!("the member's reply to the put is not JSON: {e}")))?;
        }
    }
    Ok(last)
}

/// The request's messages; an error if the queue closes before the normal end.
fn request_stream(messages: mpsc::Receiver<QueuedMessage>) -> impl Stream<Item = Result<FlightData>> + Send {
    futures::stream::unfold(Some(messages), |messages| async move {
        let mut messages = messages?;
        match messages.recv().await {
            Some(Some(data)) => Some((Ok(data), Some(messages))),
            Some(None) => None,
            None => Some((Err(Error::cancelled("the source of the put ended unexpectedly")), None)),
        }
    })
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

/// Encodes `Result<FlightData>`: an error resets the call, which tonic's own codec cannot do.
struct PutCodec;

struct PutEncoder;

struct MessageDecoder<T>(PhantomData<T>);

impl Codec for PutCodec {
    type Encode = Result<FlightData>;
    type Decode = PutResult;
    type Encoder = PutEncoder;
    type Decoder = MessageDecoder<PutResult>;

    fn encoder(&mut self) -> PutEncoder {
        PutEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        MessageDecoder(PhantomData)
    }
}

impl Encoder for PutEncoder {
    type Item = Result<FlightData>;
    type Error = Status;

    fn encode(&mut self, item: Self::Item, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item?.encode(buffer).map_err(|e| Status::internal(e.to_string()))
    }
}

impl<T: Message + Default> Decoder for MessageDecoder<T> {
    type Item = T;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        T::decode(buffer).map(Some).map_err(|e| Status::internal(e.to_string()))
    }
}
