//! Another node's reply to a DoGet, decoded into messages without copying their bodies.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tonic::Status;
use volley_common::http2::StreamPermit;
use volley_common::ipc::body_builder::ReceivedSlices;
use volley_common::ipc::flight_decoder::{FlightDecoder, FlightMessage};
use volley_common::{Code, Error, Result, grpc};

use super::message::EncodedMessage;

/// The messages of one reply. In the texts of errors, "it" is the peer.
pub struct PeerStream {
    schema_header: Bytes,
    body: Incoming,
    /// Received and not decoded yet.
    received: Bytes,
    decoder: FlightDecoder<ReceivedSlices>,
    _lease: StreamPermit,
}

impl PeerStream {
    /// Reads the reply up to its schema.
    ///
    /// # Errors
    /// Those of [`PeerStream::next_messages`].
    pub async fn open(response: http::Response<Incoming>, lease: StreamPermit) -> Result<Self> {
        let body = grpc::response_body(response)?;
        // A node stored each message, so each is within the limits.
        let decoder = FlightDecoder::new(ReceivedSlices, usize::MAX);
        let mut stream =
            PeerStream { schema_header: Bytes::new(), body, received: Bytes::new(), decoder, _lease: lease };
        let first = stream.receive().await?.ok_or_else(|| Error::internal("its reply is empty"))?;
        match MessageKind::of(&first.header)? {
            MessageKind::Schema => stream.schema_header = first.header,
            MessageKind::Dictionary | MessageKind::Batch { .. } => {
                return Err(Error::internal("its reply does not begin with a schema"));
            }
        }
        Ok(stream)
    }

    /// The bare flatbuffer of the reply's schema.
    pub fn schema_header(&self) -> Bytes {
        self.schema_header.clone()
    }

    /// The next dictionary or record batch, and those after it that are received already and with it have at most
    /// `max_bytes`; empty after the last, if the reply's status is OK.
    ///
    /// # Errors
    /// The reply's status. UNAVAILABLE: the connection broke. INTERNAL: the reply is malformed.
    pub async fn next_messages(&mut self, max_bytes: usize) -> Result<Vec<EncodedMessage>> {
        let Some(message) = self.receive().await? else { return Ok(Vec::new()) };
        let mut size = message.wire_len;
        let mut messages = vec![encoded(message)?];
        while let Some(length) = self.decoder.complete_len(&self.received)?.filter(|length| size + length <= max_bytes)
        {
            let Some(message) = self.decode()? else { break };
            size += length;
            messages.push(encoded(message)?);
        }
        Ok(messages)
    }

    async fn receive(&mut self) -> Result<Option<FlightMessage<Vec<Bytes>>>> {
        loop {
            if let Some(message) = self.decode()? {
                return Ok(Some(message));
            }
            let frame = match self.body.frame().await {
                Some(Ok(frame)) => frame,
                Some(Err(e)) => return Err(Error::unavailable(format!("its reply was interrupted: {e}"))),
                None => return Err(Error::unavailable("its reply ended without a status")),
            };
            match frame.into_data() {
                Ok(data) => self.received = data,
                Err(frame) => return self.check_status(frame.trailers_ref()).map(|()| None),
            }
        }
    }

    fn decode(&mut self) -> Result<Option<FlightMessage<Vec<Bytes>>>> {
        self.decoder.push(&mut self.received).map_err(|error| match error.code {
            // The client did nothing wrong.
            Code::InvalidArgument => Error::internal(error.message),
            _ => error,
        })
    }

    fn check_status(&self, trailers: Option<&http::HeaderMap>) -> Result<()> {
        match trailers.and_then(Status::from_header_map) {
            Some(status) if status.code() != tonic::Code::Ok => Err(status.into()),
            Some(_) if self.decoder.is_between_messages() && self.received.is_empty() => Ok(()),
            Some(_) | None => Err(Error::unavailable("its reply ended within a message")),
        }
    }
}

/// A dictionary or a record batch.
fn encoded(message: FlightMessage<Vec<Bytes>>) -> Result<EncodedMessage> {
    let rows = match MessageKind::of(&message.header)? {
        MessageKind::Schema => return Err(Error::internal("it sends a second schema")),
        MessageKind::Dictionary => None,
        MessageKind::Batch { rows } => Some(rows),
    };
    Ok(EncodedMessage { header: message.header, body: message.body, rows })
}

enum MessageKind {
    Schema,
    Dictionary,
    Batch { rows: u64 },
}

impl MessageKind {
    fn of(header: &[u8]) -> Result<Self> {
        let message = arrow_ipc::root_as_message(header)
            .map_err(|e| Error::internal(format!("it sends a malformed message: {e}")))?;
        if let Some(batch) = message.header_as_record_batch() {
            return Ok(MessageKind::Batch { rows: u64::try_from(batch.length()).unwrap_or(0) });
        }
        match message.header_type() {
            arrow_ipc::MessageHeader::Schema => Ok(MessageKind::Schema),
            arrow_ipc::MessageHeader::DictionaryBatch => Ok(MessageKind::Dictionary),
            other => Err(Error::internal(format!("it sends a message of type {other:?}"))),
        }
    }
}
