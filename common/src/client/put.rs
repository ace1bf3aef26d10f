//! A put: batches into Flight messages with backpressure, and the outcome.
//!
//! The request's stream ends cleanly only after the source has ended cleanly: a source that fails
//! resets the call, for a stream that merely ended would be committed as it is.

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
use crate::ipc::split::split;
use crate::{Error, Result};

/// Messages that may wait to be sent.
const QUEUE: usize = 4;
const DO_PUT: &str = "/arrow.flight.protocol.FlightService/DoPut";

/// What a put did: the JSON of the last PutResult.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutOutcome {
    /// The table's name.
    pub table: String,
    /// The version that the write made.
    pub version: u64,
    /// Rows written.
    pub rows: u64,
    /// Bytes stored, one copy counted.
    pub bytes: u64,
    /// Parts written.
    pub parts: u32,
    /// The write's id.
    pub write_id: String,
}

/// What goes from the pump to the call: a message, or the clean end.
type Queued = Option<FlightData>;
type Failure = Arc<Mutex<Option<Error>>>;

/// Sends `batches` under the descriptor; the JSON of the last PutResult, null if none had any.
pub(super) async fn put_stream(
    client: &Client,
    descriptor: FlightDescriptor,
    headers: MetadataMap,
    schema: SchemaRef,
    batches: impl Stream<Item = Result<RecordBatch>> + Send + 'static,
) -> Result<serde_json::Value> {
    let failure = Failure::default();
    let (queue, queued) = mpsc::channel(QUEUE);
    // Aborted with this future, which closes the queue, which resets the call.
    let pump = AbortOnDropHandle::new(tokio::spawn(pump(queue, failure.clone(), descriptor, schema, batches)));
    let outcome = call(client, headers, queued).await;
    drop(pump);
    match failure.lock().take() {
        Some(source) => Err(source),
        None => outcome,
    }
}

async fn call(client: &Client, headers: MetadataMap, queued: mpsc::Receiver<Queued>) -> Result<serde_json::Value> {
    let mut grpc = tonic::client::Grpc::new(client.origin.clone()).max_decoding_message_size(MAX_MESSAGE);
    grpc.ready().await?;
    let mut request = Request::new(body(queued));
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

/// The request's messages; an error if the pump is gone without having said that it is done.
fn body(queued: mpsc::Receiver<Queued>) -> impl Stream<Item = Result<FlightData>> + Send {
    futures::stream::unfold(Some(queued), |queued| async move {
        let mut queued = queued?;
        match queued.recv().await {
            Some(Some(data)) => Some((Ok(data), Some(queued))),
            Some(None) => None,
            None => Some((Err(Error::cancelled("the source of the put broke off")), None)),
        }
    })
}

/// Turns batches into messages until the source ends, fails, or the call is over.
async fn pump(
    queue: mpsc::Sender<Queued>,
    failure: Failure,
    descriptor: FlightDescriptor,
    schema: SchemaRef,
    batches: impl Stream<Item = Result<RecordBatch>> + Send,
) {
    if let Err(error) = pump_all(&queue, descriptor, schema, batches).await {
        *failure.lock() = Some(error);
    }
}

async fn pump_all(
    queue: &mpsc::Sender<Queued>,
    descriptor: FlightDescriptor,
    schema: SchemaRef,
    batches: impl Stream<Item = Result<RecordBatch>> + Send,
) -> Result<()> {
    let mut encoder = BatchEncoder::new();
    let first = encoder.schema(&schema).with_descriptor(descriptor);
    // A closed queue means that the call is over; its outcome says why.
    if queue.send(Some(first)).await.is_err() {
        return Ok(());
    }
    let mut batches = std::pin::pin!(batches);
    while let Some(batch) = batches.next().await {
        for piece in split(&batch?, MESSAGE_BYTES) {
            for message in encoder.batch(&piece)? {
                if queue.send(Some(message)).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
    let _ = queue.send(None).await;
    Ok(())
}

/// Schema and batches as FlightData; a dictionary is sent again only when it has changed.
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

/// Encodes `Result<FlightData>`: an error resets the call, which tonic's own codec has no way to do.
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
