//! Another node's reply to a DoGet, as messages whose bodies are not copied, or as the bytes that arrive.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tonic::Status;
use volley_common::grpc::PREFIX;
use volley_common::http2::{SilenceWatch, StreamPermit};
use volley_common::ipc::body_builder::ReceivedSlices;
use volley_common::ipc::flight_decoder::{FlightDecoder, FlightMessage};
use volley_common::ipc::flight_encoder::FlightFrame;
use volley_common::unsent_bytes::UnsentBytes;
use volley_common::{Code, Error, Result, grpc};

use super::message::EncodedMessage;

/// The reply. In the texts of errors, "it" is the peer.
pub struct PeerStream {
    schema_header: Bytes,
    body: Incoming,
    /// Received and not decoded yet.
    received: Bytes,
    decoder: FlightDecoder<ReceivedSlices>,
    /// Completes when the peer hangs.
    silence: SilenceWatch,
    /// Of bytes that are passed on undecoded.
    boundaries: MessageBoundaries,
    /// What was returned and is not sent.
    unsent: UnsentBytes,
    permit: StreamPermit,
}

impl PeerStream {
    /// Reads the reply up to its schema.
    ///
    /// # Errors
    /// Those of [`PeerStream::next_messages`].
    pub async fn open(response: http::Response<Incoming>, permit: StreamPermit, silence: SilenceWatch) -> Result<Self> {
        let body = grpc::response_body(response)?;
        // A node stored each message, so each is within the limits.
        let decoder = FlightDecoder::new(ReceivedSlices, usize::MAX);
        let mut stream = PeerStream {
            schema_header: Bytes::new(),
            body,
            received: Bytes::new(),
            decoder,
            silence,
            boundaries: MessageBoundaries::default(),
            unsent: UnsentBytes::default(),
            permit,
        };
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
        self.unsent.wait_below(self.permit.max_unsent()).await;
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

    /// The next bytes of the reply as they arrived, once enough of the previous ones are sent; `None` after the last, if the
    /// reply's status is OK.
    ///
    /// # Errors
    /// Those of [`PeerStream::next_messages`].
    pub async fn next_frame(&mut self) -> Result<Option<FlightFrame>> {
        self.unsent.wait_below(self.permit.max_unsent()).await;
        if self.received.is_empty() && !self.receive_data().await? {
            return Ok(None);
        }
        let bytes = std::mem::take(&mut self.received);
        self.boundaries.push(&bytes);
        Ok(Some(self.count_unsent(FlightFrame::relayed(bytes))))
    }

    /// Whether there is memory for [`PeerStream::next_messages`].
    pub fn has_whole_messages(&self) -> bool {
        self.permit.has_whole_messages()
    }

    /// Counts a frame of these messages as unsent.
    pub fn count_unsent(&self, frame: FlightFrame) -> FlightFrame {
        frame.counted_in(&self.unsent)
    }

    async fn receive(&mut self) -> Result<Option<FlightMessage<Vec<Bytes>>>> {
        loop {
            if let Some(message) = self.decode()? {
                return Ok(Some(message));
            }
            if !self.receive_data().await? {
                return Ok(None);
            }
        }
    }

    /// Receives the next bytes; false after the last, if the reply's status is OK.
    async fn receive_data(&mut self) -> Result<bool> {
        let frame = tokio::select! {
            biased;
            frame = self.body.frame() => frame,
            error = &mut self.silence => return Err(error),
        };
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(e)) => return Err(Error::unavailable(format!("its reply was interrupted: {e}"))),
            None => return Err(Error::unavailable("its reply ended without a status")),
        };
        match frame.into_data() {
            Ok(data) => {
                self.received = data;
                Ok(true)
            }
            Err(frame) => self.check_status(frame.trailers_ref()).map(|()| false),
        }
    }

    fn decode(&mut self) -> Result<Option<FlightMessage<Vec<Bytes>>>> {
        self.decoder.push(&mut self.received).map_err(|error| match error.code {
            // The client did nothing wrong.
            Code::InvalidArgument => Error::internal(error.message),
            _ => error,
        })
    }

    fn is_between_messages(&self) -> bool {
        self.decoder.is_between_messages() && self.received.is_empty() && self.boundaries.is_between_messages()
    }

    fn check_status(&self, trailers: Option<&http::HeaderMap>) -> Result<()> {
        match trailers.and_then(Status::from_header_map) {
            Some(status) if status.code() != tonic::Code::Ok => Err(status.into()),
            Some(_) if self.is_between_messages() => Ok(()),
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
    Ok(EncodedMessage { header: message.header, body: message.body, rows, app_metadata: message.app_metadata })
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

/// Where gRPC messages end in bytes that are not decoded.
#[derive(Debug, Default)]
struct MessageBoundaries {
    /// Of the current message's prefix, the bytes that have arrived.
    prefix: Vec<u8>,
    /// Bytes of the message that are still to come.
    left: usize,
}

impl MessageBoundaries {
    fn push(&mut self, mut bytes: &[u8]) {
        loop {
            let body = bytes.len().min(self.left);
            (self.left, bytes) = (self.left - body, &bytes[body..]);
            if bytes.is_empty() {
                return;
            }
            let head = bytes.len().min(PREFIX - self.prefix.len());
            self.prefix.extend_from_slice(&bytes[..head]);
            bytes = &bytes[head..];
            if let [_, length @ ..] = &self.prefix[..]
                && let Ok(length) = <[u8; 4]>::try_from(length)
            {
                self.left = u32::from_be_bytes(length) as usize;
                self.prefix.clear();
            }
        }
    }

    fn is_between_messages(&self) -> bool {
        self.left == 0 && self.prefix.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_are_found_in_pieces_of_any_size() {
        let message = |length: u8| [&[0, 0, 0, 0, length][..], &vec![7; length.into()]].concat();
        let bytes = [message(3), message(0), message(200)].concat();
        for size in 1..bytes.len() {
            let (mut boundaries, mut passed, mut between) = (MessageBoundaries::default(), 0, Vec::new());
            for piece in bytes.chunks(size) {
                boundaries.push(piece);
                passed += piece.len();
                between.extend(boundaries.is_between_messages().then_some(passed));
            }
            let ends = [8, 13, 218].into_iter().filter(|end| end % size == 0 || *end == bytes.len());
            assert_eq!(between, ends.collect::<Vec<_>>(), "pieces of {size}");
        }
    }
}
