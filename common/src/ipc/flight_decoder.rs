//! Decodes FlightData from received bytes: the counterpart of [`super::flight_encoder`].
//!
//! tonic collects a whole message into one buffer and slices the body out of it at any alignment, so that arrow has to
//! copy it again. Here the body's bytes are copied once, from the chunks that HTTP/2 delivers to the aligned buffer that
//! arrow reads ([`BufferPool`]), or not at all ([`ReceivedSlices`]). Everything else in a message is small.
//!
//! [`BufferPool`]: super::buffer_pool::BufferPool
//! [`ReceivedSlices`]: super::body_builder::ReceivedSlices

use std::task::{Context, Poll};

use arrow_flight::{FlightData, FlightDescriptor};
use bytes::{Buf, Bytes};
use prost::Message;
use prost::encoding::decode_varint;

use super::body_builder::{BodyAllocator, BodyBuilder};
use crate::grpc::{self, PREFIX};
use crate::{Code, Error, Result};

/// FlightData's `data_header`.
const DATA_HEADER: u64 = 2;
/// FlightData's `app_metadata`.
const APP_METADATA: u64 = 3;
/// FlightData's `data_body`.
const DATA_BODY: u64 = 1000;
/// A longer header or metadata is stored like a body.
const MAX_SMALL_FIELD: usize = 64 << 10;
/// Maximum bytes of all other fields of a message: the descriptor, and what is unknown.
const MAX_FIELDS: usize = 1 << 20;
/// Bytes of other fields that a message's header and metadata may keep in memory.
const MAX_UNUSED_FIELDS: usize = 1 << 10;
/// Most bytes of a varint.
const MAX_VARINT_BYTES: usize = 10;

/// One FlightData message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FlightMessage<B> {
    /// `flight_descriptor`.
    pub descriptor: Option<FlightDescriptor>,
    /// `data_header`: the bare flatbuffer of an IPC message.
    pub header: Bytes,
    /// `app_metadata`.
    pub app_metadata: Bytes,
    /// `data_body`: [`Bytes`] from a [`super::buffer_pool::BufferPool`], the received slices otherwise.
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
    /// Stores the bodies.
    pub(super) bodies: A,
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

    /// Whether [`FlightDecoder::push`] can take bytes now. If not, wait for [`FlightDecoder::poll_ready`].
    pub fn is_ready(&self) -> bool {
        match &self.state {
            DecoderState::Prefix(_) => true,
            DecoderState::Message(message) => message.is_ready(),
        }
    }

    /// Waits until the body that is being received can take bytes.
    ///
    /// # Errors
    /// Those of [`BodyBuilder::poll_ready`].
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match &mut self.state {
            DecoderState::Message(PartialMessage { field: FieldState::Large(_, value), .. }) => value.poll_ready(cx),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Takes bytes from the front of `received`, up to the end of a message. `None`: all bytes were taken and more are
    /// needed, or [`FlightDecoder::is_ready`] is false.
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
                    self.bodies.end_message();
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
    /// Header and metadata, if they are large.
    header: Option<B::Body>,
    app_metadata: Option<B::Body>,
    field: FieldState<B>,
}

/// How much of the current field has arrived.
enum FieldState<B> {
    /// Its key and length are incomplete.
    Head,
    /// A small value, of which this many bytes are still to come.
    Small(usize),
    /// A body, or the large value of the field of this number.
    Large(u64, B),
}

impl<B: BodyBuilder> PartialMessage<B> {
    fn new(wire_len: usize) -> Self {
        PartialMessage {
            wire_len,
            remaining: wire_len,
            fields: Vec::new(),
            field_start: 0,
            body: None,
            header: None,
            app_metadata: None,
            field: FieldState::Head,
        }
    }

    fn is_ready(&self) -> bool {
        if let FieldState::Large(_, value) = &self.field { value.is_ready() } else { true }
    }

    /// Takes bytes of this message; returns whether it is complete.
    fn push(&mut self, received: &mut Bytes, bodies: &mut impl BodyAllocator<Builder = B>) -> Result<bool> {
        // A value whose last bytes were taken before may be complete now.
        self.end_field();
        while self.remaining > 0 && !received.is_empty() && self.is_ready() {
            let before = received.len();
            match &mut self.field {
                FieldState::Head => {
                    take_into(&mut self.fields, received, 1);
                    self.remaining -= 1;
                    self.begin_value(bodies)?;
                    continue;
                }
                FieldState::Small(missing) => *missing -= take_into(&mut self.fields, received, *missing),
                FieldState::Large(_, value) => value.fill(received),
            }
            self.remaining -= before - received.len();
            self.end_field();
        }
        match (self.remaining, &self.field) {
            (0, FieldState::Large(_, value)) if !value.is_ready() => Ok(false),
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
        let large = match number {
            DATA_BODY => true,
            DATA_HEADER | APP_METADATA => length > MAX_SMALL_FIELD,
            _ => false,
        };
        self.field = if large {
            // By protobuf's rule the last of several values counts: free the earlier one before the next is allocated.
            *self.large_value(number) = None;
            self.fields.truncate(self.field_start);
            FieldState::Large(number, bodies.begin(length, self.remaining - length)?)
        } else if self.fields.len() + length > MAX_FIELDS {
            return Err(Error::exhausted(format!(
                "a message's field {number} has {length} bytes: descriptors are limited to {MAX_FIELDS}"
            )));
        } else {
            FieldState::Small(length)
        };
        self.end_field();
        Ok(())
    }

    fn large_value(&mut self, number: u64) -> &mut Option<B::Body> {
        match number {
            DATA_HEADER => &mut self.header,
            APP_METADATA => &mut self.app_metadata,
            _ => &mut self.body,
        }
    }

    /// Moves on to the next field if the value is complete.
    fn end_field(&mut self) {
        let complete = match &self.field {
            FieldState::Head => false,
            FieldState::Small(missing) => *missing == 0,
            FieldState::Large(_, value) => value.is_ready() && value.is_full(),
        };
        if !complete {
            return;
        }
        self.field_start = self.fields.len();
        if let FieldState::Large(number, value) = std::mem::replace(&mut self.field, FieldState::Head) {
            *self.large_value(number) = Some(value.finish());
        }
    }

    fn finish(self) -> Result<FlightMessage<B::Body>> {
        let received = self.fields.len();
        let mut fields = FlightData::decode(Bytes::from(self.fields)).map_err(malformed)?;
        if received > fields.data_header.len() + fields.app_metadata.len() + MAX_UNUSED_FIELDS {
            // As slices they would keep all fields in memory.
            fields.data_header = Bytes::copy_from_slice(&fields.data_header);
            fields.app_metadata = Bytes::copy_from_slice(&fields.app_metadata);
        }
        Ok(FlightMessage {
            descriptor: fields.flight_descriptor,
            header: self.header.map_or(fields.data_header, B::into_bytes),
            app_metadata: self.app_metadata.map_or(fields.app_metadata, B::into_bytes),
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
