//! One DoGet: Flight messages into checked batches.
//!
//! Below tonic's codec, which would gather every message once more than [`Unframed`] does.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::{FlightData, Ticket};
use bytes::{BufMut, BytesMut};
use futures::StreamExt;
use http::{HeaderValue, Method, Request, Response, Version, header};
use http_body_util::Full;
use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::{Service, ServiceExt};

use super::MAX_MESSAGE;
use crate::ipc::decode::{Decoder, Event};
use crate::ipc::unframe::Unframed;
use crate::{Code, Error, Result};

const DO_GET: &str = "/arrow.flight.protocol.FlightService/DoGet";

/// The batches of one DoGet; its schema is known from the start.
pub struct BatchStream {
    messages: Unframed<Body>,
    decoder: Decoder,
    schema: SchemaRef,
}

impl BatchStream {
    /// Redeems a ticket and waits for the schema.
    ///
    /// # Errors
    /// What the member answers; UNAVAILABLE if it cannot be reached.
    pub async fn open(mut channel: Channel, ticket: Ticket) -> Result<Self> {
        let response = channel.ready().await?.call(request(&ticket)).await?;
        let mut messages = Unframed::new(accepted(response)?, MAX_MESSAGE);
        let mut decoder = Decoder::new(MAX_MESSAGE);
        loop {
            let Some(message) = next(&mut messages).await? else {
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
        while let Some(message) = next(&mut self.messages).await? {
            if let Event::Batch(batch) = self.decoder.push(message)? {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }
}

/// The call; the channel adds where to.
fn request(ticket: &Ticket) -> Request<Body> {
    let mut message = BytesMut::with_capacity(5 + ticket.encoded_len());
    message.put_u8(0);
    message.put_u32(ticket.encoded_len() as u32);
    message.extend_from_slice(&ticket.encode_to_vec());
    let mut request = Request::new(Body::new(Full::new(message.freeze())));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static(DO_GET);
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request
}

/// The body of an answer that is not an error at once.
fn accepted(response: Response<Body>) -> Result<Body> {
    let (head, body) = response.into_parts();
    match Status::from_header_map(&head.headers) {
        Some(status) if status.code() != Code::Ok => Err(status.into()),
        _ if head.status != http::StatusCode::OK => {
            Err(Error::unavailable(format!("the answer has HTTP status {}", head.status)))
        }
        _ => Ok(body),
    }
}

/// The next message; none once the answer has ended well.
async fn next(messages: &mut Unframed<Body>) -> Result<Option<FlightData>> {
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
