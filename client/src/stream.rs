//! One DoGet: decodes Flight messages into validated batches.
//!
//! Works below tonic's codec, which copies every message once more than [`FlightDataStream`] does.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::Ticket;
use http::HeaderValue;
use http_body_util::Full;
use tonic::body::Body;
use tower::{Service, ServiceExt};
use volley_common::ipc::accepted_codecs::{ACCEPT_CODECS_HEADER, ALL_CODECS};
use volley_common::ipc::buffer_pool::BufferPool;
use volley_common::ipc::decode::{BatchDecoder, DecodedMessage};
use volley_common::ipc::flight_stream::FlightDataStream;
use volley_common::{Error, Result, grpc};

use super::MAX_MESSAGE;
use super::channel::{ClientChannel, failed_call};

/// The batches of one DoGet. Its schema is known when it is opened.
pub struct BatchStream {
    messages: FlightDataStream<Body>,
    decoder: BatchDecoder,
    schema: SchemaRef,
}

impl BatchStream {
    /// Redeems a ticket and waits for the schema.
    ///
    /// # Errors
    /// The member's error; UNAVAILABLE if it is unreachable.
    pub async fn open(channel: ClientChannel, ticket: Ticket) -> Result<Self> {
        BatchStream::open_into(channel, ticket, BufferPool::with_shared_blocks()).await
    }

    /// The same with memory from a pool, which streams before it may have left.
    pub(super) async fn open_into(mut channel: ClientChannel, ticket: Ticket, bodies: BufferPool) -> Result<Self> {
        let mut request = grpc::do_get_request(ticket.ticket).map(|body| Body::new(Full::new(body)));
        if channel.accepts_codecs() {
            request.headers_mut().insert(ACCEPT_CODECS_HEADER, HeaderValue::from_static(ALL_CODECS));
        }
        let ready = channel.ready().await.map_err(failed_call)?;
        let response = ready.call(request).await.map_err(failed_call)?;
        let mut messages = FlightDataStream::with_bodies(grpc::response_body(response)?, bodies, MAX_MESSAGE);
        let mut decoder = BatchDecoder::new(MAX_MESSAGE);
        loop {
            let Some(message) = messages.next_of_reply().await? else {
                return Err(Error::internal("the stream ended before its schema"));
            };
            match decoder.push(message)? {
                DecodedMessage::Schema(schema) => return Ok(BatchStream { messages, decoder, schema }),
                DecodedMessage::Batch(_) | DecodedMessage::Dictionary(_) => {
                    return Err(Error::internal("the stream does not begin with a schema"));
                }
                DecodedMessage::Metadata => {}
            }
        }
    }

    /// The schema of every batch.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The next batch; none at the end. Cancelling the wait loses nothing.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        while let Some(message) = self.messages.next_of_reply().await? {
            if let DecodedMessage::Batch(batch) = self.decoder.push(message)? {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }
}
