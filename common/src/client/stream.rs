//! One DoGet: Flight messages into checked batches.
//!
//! Below tonic's codec, which would gather every message once more than [`FlightDataStream`] does.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::{FlightData, Ticket};
use futures::StreamExt;
use http_body_util::Full;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::{Service, ServiceExt};

use super::MAX_MESSAGE;
use crate::ipc::decode::{BatchDecoder, DecodedMessage};
use crate::ipc::flight_decoder::FlightDataStream;
use crate::{Code, Error, Result, grpc};

/// The batches of one DoGet; its schema is known from the start.
pub struct BatchStream {
    messages: FlightDataStream<Body>,
    decoder: BatchDecoder,
    schema: SchemaRef,
}

impl BatchStream {
    /// Redeems a ticket and waits for the schema.
    ///
    /// # Errors
    /// What the member answers; UNAVAILABLE if it cannot be reached.
    pub async fn open(mut channel: Channel, ticket: Ticket) -> Result<Self> {
        let response =
            channel.ready().await?.call(grpc::do_get(ticket.ticket).map(|body| Body::new(Full::new(body)))).await?;
        let mut messages = FlightDataStream::new(grpc::accepted(response)?, MAX_MESSAGE).with_shared_blocks();
        let mut decoder = BatchDecoder::new(MAX_MESSAGE);
        loop {
            let Some(message) = next(&mut messages).await? else {
                return Err(Error::internal("the stream ended before its schema came"));
            };
            match decoder.push(message)? {
                DecodedMessage::Schema(schema) => return Ok(BatchStream { messages, decoder, schema }),
                DecodedMessage::Batch(_) | DecodedMessage::Dictionary => {
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
        while let Some(message) = next(&mut self.messages).await? {
            if let DecodedMessage::Batch(batch) = self.decoder.push(message)? {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }
}

/// The next message; none once the answer has ended well.
async fn next(messages: &mut FlightDataStream<Body>) -> Result<Option<FlightData>> {
    let next = messages.next().await;
    if let Some(Ok(message)) = next {
        return Ok(Some(message));
    }
    // What the member says of its end counts more than where it ended.
    match (messages.trailers().and_then(Status::from_header_map), next) {
        (Some(status), _) if status.code() != Code::Ok => Err(status.into()),
        (_, Some(Err(error))) => Err(error),
        (Some(_), _) => Ok(None),
        (None, _) => Err(Error::unavailable("the answer ended without a status")),
    }
}
