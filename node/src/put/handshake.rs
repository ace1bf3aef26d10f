//! Step 1 of a put: the client's first messages, up to the schema.

use arrow::datatypes::SchemaRef;
use arrow_flight::FlightData;
use futures::{Stream, StreamExt};
use tonic::metadata::MetadataMap;
use volley_common::ipc::decode::{BatchDecoder, DecodedMessage};
use volley_common::options::{LISTENER_HEADER, TableRequest, header_text};
use volley_common::{Code, Error, Result};

use super::ack_stream::AckSender;

/// The client's messages. An error in it means that the client did not finish.
pub trait PutMessages: Stream<Item = Result<FlightData>> + Send + Unpin {}
impl<T: Stream<Item = Result<FlightData>> + Send + Unpin> PutMessages for T {}

/// What the client's first messages contain.
pub struct PutHandshake {
    /// The table and the options.
    pub request: TableRequest,
    /// The listener that the client requests; empty: none. Coordinators know which there are.
    pub listener: String,
    /// The schema as the client sent it.
    pub schema: SchemaRef,
    /// Has read the schema; decodes the messages that follow.
    pub decoder: BatchDecoder,
}

/// Reads up to the schema. `max_message`: bytes of a message at most.
///
/// # Errors
/// INVALID_ARGUMENT: no message, descriptor, name or schema. Those of [`next_message`].
pub async fn read(
    input: &mut impl PutMessages,
    headers: &MetadataMap,
    max_message: usize,
    acks: &AckSender,
) -> Result<PutHandshake> {
    let first = next_message(input).await?.ok_or_else(|| Error::invalid("the put has no messages"))?;
    let descriptor = first.flight_descriptor.as_ref().ok_or_else(|| {
        Error::invalid("the put's first message has no descriptor: name the table by FlightDescriptor.for_path")
    })?;
    let request = TableRequest::from_descriptor(descriptor, headers)?.for_put()?;
    let listener = header_text(headers.as_ref(), LISTENER_HEADER)?.unwrap_or_default().to_string();
    let mut decoder = BatchDecoder::new(max_message);
    let mut message = first;
    loop {
        let metadata = message.app_metadata.clone();
        match decoder.push(message)? {
            DecodedMessage::Schema(schema) => return Ok(PutHandshake { request, listener, schema, decoder }),
            DecodedMessage::Metadata if metadata.is_empty() => {}
            DecodedMessage::Metadata => acks.acknowledge(metadata)?,
            DecodedMessage::Batch(_) | DecodedMessage::Dictionary(_) => {
                return Err(Error::invalid("the put's schema must come before its rows"));
            }
        }
        message = next_message(input).await?.ok_or_else(|| {
            Error::invalid("the put ended before its schema: send the schema, also if there are no rows")
        })?;
    }
}

/// The next message; `None` after the last.
///
/// # Errors
/// RESOURCE_EXHAUSTED: a message over the limit, or no memory for it. Otherwise the stream's own error: it broke.
pub async fn next_message(input: &mut impl PutMessages) -> Result<Option<FlightData>> {
    input.next().await.transpose().map_err(|error| match error.code {
        Code::ResourceExhausted => error,
        _ => error.at("the put's stream broke"),
    })
}
