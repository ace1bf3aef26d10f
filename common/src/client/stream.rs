//! One DoGet: Flight messages into checked batches.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightData, Ticket};
use tonic::codec::Streaming;
use tonic::transport::Channel;

use super::MAX_MESSAGE;
use crate::ipc::decode::{Decoder, Event};
use crate::{Error, Result};

/// The batches of one DoGet; its schema is known from the start.
pub struct BatchStream {
    messages: Streaming<FlightData>,
    decoder: Decoder,
    schema: SchemaRef,
}

impl BatchStream {
    /// Redeems a ticket and waits for the schema.
    ///
    /// # Errors
    /// What the member answers; UNAVAILABLE if it cannot be reached.
    pub async fn open(mut flight: FlightServiceClient<Channel>, ticket: Ticket) -> Result<Self> {
        let mut messages = flight.do_get(ticket).await?.into_inner();
        let mut decoder = Decoder::new(MAX_MESSAGE);
        loop {
            let Some(message) = messages.message().await? else {
                return Err(Error::internal("the stream ended before its schema came"));
            };
            match decoder.push(message)? {
                Event::Schema(schema) => return Ok(BatchStream { messages, decoder, schema }),
                Event::Batch(_) | Event::Dictionary => {
                    return Err(Error::internal("the stream does not begin with a schema"));
                }
                Event::Metadata => {}
            }
        }
    }

    /// The schema of every batch.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The next batch; none at the end. Cancelling the wait loses nothing.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        while let Some(message) = self.messages.message().await? {
            if let Event::Batch(batch) = self.decoder.push(message)? {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }
}
