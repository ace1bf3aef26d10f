//! Decodes FlightData from the bytes of an HTTP/2 body: the counterpart of [`super::flight_encoder`].
//!
//! tonic collects a whole message into one buffer and slices the body out of it at any alignment, so that arrow has to
//! copy it again. Here the body's bytes are copied once, from the chunks that HTTP/2 delivers to the aligned buffer that
//! arrow reads ([`BufferPool`]), or not at all ([`ReceivedSlices`]). Everything else in a message is small.
//!
//! [`ReceivedSlices`]: super::body_builder::ReceivedSlices

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use arrow_flight::{FlightData, FlightDescriptor};
use bytes::{Buf, Bytes};
use futures::Stream;
use http::HeaderMap;
use http_body::Body;
use prost::Message;
use prost::encoding::decode_varint;
use tonic::Status;

use super::body_builder::{BodyAllocator, BodyBuilder};
use super::buffer_pool::BufferPool;
use crate::grpc::{self, PREFIX};
use crate::{Code, Error, Result};

/// FlightData's `data_body`.
const DATA_BODY: u64 = 1000;
/// Most bytes of a varint.
const MAX_VARINT_BYTES: usize = 10;

/// The FlightData messages of an HTTP/2 body; ends at its first error.
pub struct FlightDataStream<B> {
    body: B,
    /// Received and not decoded yet.
    received: Bytes,
    decoder: FlightDecoder<BufferPool>,
    trailers: Option<HeaderMap>,
    ended: bool,
}

impl<B> FlightDataStream<B> {
    /// Rejects messages of more than `max_message` bytes.
    pub fn new(body: B, max_message: usize) -> Self {
        let decoder = FlightDecoder::new(BufferPool::default(), max_message);
        FlightDataStream { body, received: Bytes::new(), decoder, trailers: None, ended: false }
    }

    /// For a reader that keeps the bodies: they share blocks that are large enough for huge pages.
    pub fn with_shared_blocks(mut self) -> Self {
        self.decoder.bodies = BufferPool::with_shared_blocks();
        self
    }

    /// The trailers after the last message: for a reply, the status.
    pub fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }
}

impl<B: Body<Data = Bytes, Error = Status> + Unpin> FlightDataStream<B> {
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<FlightData>>> {
        loop {
            if let Some(message) = self.decoder.push(&mut self.received)? {
                return Poll::Ready(Ok(Some(message.into())));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.received = data,
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
                Some(Err(status)) => return Poll::Ready(Err(status.into())),
                None if self.decoder.is_between_messages() => return Poll::Ready(Ok(None)),
                None => return Poll::Ready(Err(Error::invalid("the stream ends within a message"))),
            }
        }
    }
}

impl<B: Body<Data = Bytes, Error = Status> + Unpin> Stream for FlightDataStream<B> {
    type Item = Result<FlightData>;

    /// Errors: those of [`FlightDecoder::push`] and of the body; INVALID_ARGUMENT if the body ends within a message.
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let message = ready!(self.poll_message(cx));
        self.ended = !matches!(message, Ok(Some(_)));
        Poll::Ready(message.transpose())
    }
}

/// One FlightData message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FlightMessage<B> {
    /// `flight_descriptor`.
    pub descriptor: Option<FlightDescriptor>,
    /// `data_header`: the bare flatbuffer of an IPC message.
    pub header: Bytes,
    /// `app_metadata`.
    pub app_metadata: Bytes,
    /// `data_body`: [`Bytes`] from a [`BufferPool`], the received slices otherwise.
    pub body: B,
    /// Bytes of the whole message on the wire, without the gRPC prefix.
    pub wire_len: usize,
}

impl From<FlightMessage<Bytes>> for FlightData {
    fn from(message: FlightMessage<Bytes>) -> Self {
        FlightData {
            flight_descriptor: message.descriptor,
            data_header: message.header,
            app_metadata: message.app_metadata,
            data_body: message.body,
        }
    }
}

/// Decodes gRPC messages of FlightData from chunks of any size. `A` stores the bodies.
pub struct FlightDecoder<A: BodyAllocator> {
    max_message: usize,
    bodies: A,
    state: DecoderState<A::Builder>,
}

enum DecoderState<B: BodyBuilder> {
    /// Between two messages, or within the prefix: the bytes of the prefix that have arrived.
    Prefix(Vec<u8>),
    Message(PartialMessage<B>),
}

impl<A: BodyAllocator> FlightDecoder<A> {
    /// Rejects messages of more than `max_message` bytes.
    pub fn new(bodies: A, max_message: usize) -> Self {
        FlightDecoder { max_message, bodies, state: DecoderState::Prefix(Vec::new()) }
    }

    /// Whether the last message is complete and no byte of the next one was pushed.
    pub fn is_between_messages(&self) -> bool {
        matches!(&self.state, DecoderState::Prefix(prefix) if prefix.is_empty())
    }

    /// Takes bytes from the front of `received`, up to the end of a message. `None`: all bytes were taken and more are needed.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: not FlightData. RESOURCE_EXHAUSTED: over the limit, or no memory. UNIMPLEMENTED: compressed.
    /// After an error the decoder must not be used again.
    pub fn push(&mut self, received: &mut Bytes) -> Result<Option<FlightMessage<<A::Builder as BodyBuilder>::Body>>> {
        loop {
            match &mut self.state {
                DecoderState::Prefix(prefix) => {
                    let missing = PREFIX - prefix.len();
                    take_into(prefix, received, missing);
                    let Some(prefix) = prefix.first_chunk::<PREFIX>() else { return Ok(None) };
                    self.state = DecoderState::Message(PartialMessage::new(message_len(prefix, self.max_message)?));
                }
                DecoderState::Message(message) => {
                    if !message.push(received, &mut self.bodies)? {
                        return Ok(None);
                    }
                    let complete = std::mem::replace(&mut self.state, DecoderState::Prefix(Vec::new()));
                    let DecoderState::Message(message) = complete else { continue };
                    return message.finish().map(Some);
                }
            }
        }
    }

    /// The length, without its prefix, of the message at the front of `received`, if all of it is there. Only for a
    /// decoder that is between messages.
    ///
    /// # Errors
    /// As those of [`FlightDecoder::push`].
    pub fn complete_len(&self, received: &[u8]) -> Result<Option<usize>> {
        let Some((prefix, rest)) = received.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let length = message_len(prefix, self.max_message)?;
        Ok((rest.len() >= length).then_some(length))
    }
}

/// The length of the message after a prefix.
fn message_len(prefix: &[u8; PREFIX], max_message: usize) -> Result<usize> {
    grpc::message_length(prefix, max_message).map_err(|error| match error.code {
        Code::ResourceExhausted => {
            Error { message: format!("{} (`max_message` of a node): send smaller batches", error.message), ..error }
        }
        _ => error,
    })
}

/// A message that is being received.
struct PartialMessage<B: BodyBuilder> {
    wire_len: usize,
    /// Bytes of the message that are still to come.
    remaining: usize,
    /// All fields but the body, as received. The last one may be incomplete.
    fields: Vec<u8>,
    /// Where the field that is being received begins in `fields`.
    field_start: usize,
    body: Option<B::Body>,
    field: FieldState<B>,
}

/// How much of the current field has arrived.
enum FieldState<B> {
    /// Its key and length are incomplete.
    Head,
    /// A small value, of which this many bytes are still to come.
    Small(usize),
    Body(B),
}

impl<B: BodyBuilder> PartialMessage<B> {
    fn new(wire_len: usize) -> Self {
        PartialMessage {
            wire_len,
            remaining: wire_len,
            fields: Vec::new(),
            field_start: 0,
            body: None,
            field: FieldState::Head,
        }
    }

    /// Takes bytes of this message; returns whether it is complete.
    fn push(&mut self, received: &mut Bytes, bodies: &mut impl BodyAllocator<Builder = B>) -> Result<bool> {
        while self.remaining > 0 && !received.is_empty() {
            let before = received.len();
            match &mut self.field {
                FieldState::Head => {
                    take_into(&mut self.fields, received, 1);
                    self.remaining -= 1;
                    self.begin_value(bodies)?;
                    continue;
                }
                FieldState::Small(missing) => *missing -= take_into(&mut self.fields, received, *missing),
                FieldState::Body(body) => body.fill(received),
            }
            self.remaining -= before - received.len();
            self.end_field();
        }
        match (self.remaining, &self.field) {
            (0, FieldState::Head) if self.field_start == self.fields.len() => Ok(true),
            (0, _) => Err(malformed("a field is truncated")),
            _ => Ok(false),
        }
    }

    /// Begins the field's value, if its key and length are complete.
    fn begin_value(&mut self, bodies: &mut impl BodyAllocator<Builder = B>) -> Result<()> {
        let Some((number, length)) = field_head(&self.fields[self.field_start..])? else { return Ok(()) };
        let length = usize::try_from(length).ok().filter(|length| *length <= self.remaining);
        let length = length.ok_or_else(|| malformed("a field is longer than the message"))?;
        self.field = if number == DATA_BODY {
            // By protobuf's rule the last of several bodies counts: free the earlier one before the next is allocated.
            self.body = None;
            self.fields.truncate(self.field_start);
            FieldState::Body(bodies.begin(length)?)
        } else {
            FieldState::Small(length)
        };
        self.end_field();
        Ok(())
    }

    /// Moves on to the next field if the value is complete.
    fn end_field(&mut self) {
        let complete = match &self.field {
            FieldState::Head => false,
            FieldState::Small(missing) => *missing == 0,
            FieldState::Body(body) => body.is_full(),
        };
        if !complete {
            return;
        }
        self.field_start = self.fields.len();
        if let FieldState::Body(body) = std::mem::replace(&mut self.field, FieldState::Head) {
            self.body = Some(body.finish());
        }
    }

    fn finish(self) -> Result<FlightMessage<B::Body>> {
        let fields = FlightData::decode(Bytes::from(self.fields)).map_err(malformed)?;
        Ok(FlightMessage {
            descriptor: fields.flight_descriptor,
            header: fields.data_header,
            app_metadata: fields.app_metadata,
            body: self.body.unwrap_or_default(),
            wire_len: self.wire_len,
        })
    }
}

/// Moves up to `max` bytes from the front of `received` to the end of `to`; returns how many.
fn take_into(to: &mut Vec<u8>, received: &mut Bytes, max: usize) -> usize {
    let count = max.min(received.len());
    to.extend_from_slice(&received[..count]);
    received.advance(count);
    count
}

fn malformed(reason: impl std::fmt::Display) -> Error {
    Error::invalid(format!("the message is not FlightData: {reason}"))
}

/// A field's number, and the bytes that follow its key and length; `None` if these are not complete.
fn field_head(bytes: &[u8]) -> Result<Option<(u64, u64)>> {
    let Some((key, rest)) = varint(bytes)? else { return Ok(None) };
    let (number, wire_type) = (key >> 3, key & 7);
    Ok(match wire_type {
        2 => varint(rest)?.map(|(length, _)| (number, length)),
        _ if number == DATA_BODY => return Err(malformed("its body is not a bytes field")),
        // The value itself is a varint.
        0 => varint(rest)?.map(|_| (number, 0)),
        1 => Some((number, 8)),
        5 => Some((number, 4)),
        _ => return Err(malformed(format_args!("it has a field of wire type {wire_type}"))),
    })
}

/// A varint and the bytes after it; `None` if it is not complete.
fn varint(mut bytes: &[u8]) -> Result<Option<(u64, &[u8])>> {
    // prost does not distinguish an incomplete varint from a malformed one.
    if bytes.len() < MAX_VARINT_BYTES && bytes.iter().all(|byte| byte & 0x80 != 0) {
        return Ok(None);
    }
    let value = decode_varint(&mut bytes).map_err(malformed)?;
    Ok(Some((value, bytes)))
}

#[cfg(test)]
mod tests;
