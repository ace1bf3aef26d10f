//! FlightData off the wire: the counterpart of [`super::frame`].
//!
//! tonic gathers a whole message into one buffer, takes the body out of it as it lies there, and arrow then wants it
//! elsewhere. Here the body's bytes are copied once, from the pieces in which HTTP/2 delivers them to where arrow reads
//! them; nothing else of a message is large.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use arrow_flight::FlightData;
use bytes::{Buf, Bytes};
use futures::Stream;
use http::HeaderMap;
use http_body::Body;
use prost::Message;
use tonic::Status;

use super::buffer_pool::{Bodies, Gathering};
use crate::grpc::{self, PREFIX};
use crate::{Code, Error, Result};

/// FlightData's `data_body`.
const DATA_BODY: u64 = 1000;
/// A varint has at most so many bytes.
const VARINT: usize = 10;

/// The messages of an HTTP/2 body; ends at its first error.
pub struct Unframed<B> {
    body: B,
    /// Received and not yet looked at.
    received: Bytes,
    messages: Messages,
    trailers: Option<HeaderMap>,
    ended: bool,
}

impl<B> Unframed<B> {
    /// Refuses messages of more than `max_message` bytes.
    pub fn new(body: B, max_message: usize) -> Self {
        let messages = Messages { max_message, bodies: Bodies::default(), state: State::Prefix(Vec::new()) };
        Unframed { body, received: Bytes::new(), messages, trailers: None, ended: false }
    }

    /// For a reader that keeps what comes: bodies share blocks that are worth huge pages.
    pub fn keeping(mut self) -> Self {
        self.messages.bodies = Bodies::kept();
        self
    }

    /// What followed the last message: of an answer its status.
    pub fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }
}

impl<B: Body<Data = Bytes, Error = Status> + Unpin> Unframed<B> {
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<FlightData>>> {
        loop {
            if let Some(message) = self.messages.push(&mut self.received)? {
                return Poll::Ready(Ok(Some(message)));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.received = data,
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
                Some(Err(status)) => return Poll::Ready(Err(status.into())),
                None if self.messages.is_between() => return Poll::Ready(Ok(None)),
                None => return Poll::Ready(Err(Error::invalid("the stream ends within a message"))),
            }
        }
    }
}

impl<B: Body<Data = Bytes, Error = Status> + Unpin> Stream for Unframed<B> {
    type Item = Result<FlightData>;

    /// INVALID_ARGUMENT: not FlightData. RESOURCE_EXHAUSTED: over the limit. UNIMPLEMENTED: compressed. Else the body's own.
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let message = ready!(self.poll_message(cx));
        self.ended = !matches!(message, Ok(Some(_)));
        Poll::Ready(message.transpose())
    }
}

/// Takes messages out of bytes, however these are cut.
struct Messages {
    max_message: usize,
    bodies: Bodies,
    state: State,
}

enum State {
    /// Before a message; what there is of its prefix.
    Prefix(Vec<u8>),
    Within(Partial),
}

/// A message that is being received.
struct Partial {
    /// Bytes that are still to come.
    left: usize,
    /// All fields but the body, as they came. The last one may be incomplete.
    fields: Vec<u8>,
    /// Where the field that is being received begins in `fields`.
    field: usize,
    body: Option<Bytes>,
    rest: Rest,
}

/// What the field that is being received wants next.
enum Rest {
    /// Its key and length.
    Head,
    /// So many bytes of a small field.
    Small(usize),
    Body(Gathering),
}

impl Messages {
    /// Whether no message is half received.
    fn is_between(&self) -> bool {
        matches!(&self.state, State::Prefix(prefix) if prefix.is_empty())
    }

    /// Takes bytes off, up to the end of a message.
    fn push(&mut self, bytes: &mut Bytes) -> Result<Option<FlightData>> {
        loop {
            match &mut self.state {
                State::Prefix(prefix) => {
                    prefix.put(bytes, PREFIX - prefix.len());
                    let Some(prefix) = prefix.first_chunk::<PREFIX>() else { return Ok(None) };
                    let length = length(prefix, self.max_message)?;
                    self.state = State::Within(Partial::new(length));
                }
                State::Within(partial) => {
                    if !partial.push(bytes, &mut self.bodies)? {
                        return Ok(None);
                    }
                    let done = std::mem::replace(&mut self.state, State::Prefix(Vec::new()));
                    let State::Within(partial) = done else { continue };
                    return partial.finish().map(Some);
                }
            }
        }
    }
}

/// A message's length, by its prefix.
fn length(prefix: &[u8; PREFIX], most: usize) -> Result<usize> {
    grpc::message_length(prefix, most).map_err(|error| match error.code {
        Code::ResourceExhausted => {
            Error { message: format!("{} (`max_message` of a node): send smaller batches", error.message), ..error }
        }
        _ => error,
    })
}

/// Appending from received bytes.
trait Put {
    /// Takes up to `most` bytes off `bytes`.
    fn put(&mut self, bytes: &mut Bytes, most: usize) -> usize;
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &mut Bytes, most: usize) -> usize {
        let count = most.min(bytes.len());
        self.extend_from_slice(&bytes[..count]);
        bytes.advance(count);
        count
    }
}

impl Partial {
    fn new(left: usize) -> Self {
        Partial { left, fields: Vec::new(), field: 0, body: None, rest: Rest::Head }
    }

    /// Takes bytes off; whether the message is whole now.
    fn push(&mut self, bytes: &mut Bytes, bodies: &mut Bodies) -> Result<bool> {
        while self.left > 0 && !bytes.is_empty() {
            let before = bytes.len();
            match &mut self.rest {
                Rest::Head => {
                    self.fields.put(bytes, 1);
                    self.left -= 1;
                    self.head(bodies)?;
                    continue;
                }
                Rest::Small(rest) => *rest -= self.fields.put(bytes, *rest),
                Rest::Body(gathering) => gathering.fill(bytes),
            }
            self.left -= before - bytes.len();
            self.end_field();
        }
        match (self.left, &self.rest) {
            (0, Rest::Head) if self.field == self.fields.len() => Ok(true),
            (0, _) => Err(malformed("a field is cut short")),
            _ => Ok(false),
        }
    }

    /// Begins to take in the field's value, if its key and length are there.
    fn head(&mut self, bodies: &mut Bodies) -> Result<()> {
        let Some((number, length)) = head(&self.fields[self.field..])? else { return Ok(()) };
        let length = usize::try_from(length).ok().filter(|length| *length <= self.left);
        let length = length.ok_or_else(|| malformed("a field is longer than the message"))?;
        self.rest = if number == DATA_BODY {
            // Of two the last counts, by protobuf's rule: the earlier one's memory is not needed any more.
            self.body = None;
            self.fields.truncate(self.field);
            Rest::Body(bodies.begin(length)?)
        } else {
            Rest::Small(length)
        };
        self.end_field();
        Ok(())
    }

    fn end_field(&mut self) {
        let done = match &self.rest {
            Rest::Head => false,
            Rest::Small(rest) => *rest == 0,
            Rest::Body(gathering) => gathering.is_full(),
        };
        if !done {
            return;
        }
        self.field = self.fields.len();
        if let Rest::Body(gathering) = std::mem::replace(&mut self.rest, Rest::Head) {
            self.body = Some(gathering.finish());
        }
    }

    fn finish(self) -> Result<FlightData> {
        let message = FlightData::decode(Bytes::from(self.fields)).map_err(malformed)?;
        Ok(FlightData { data_body: self.body.unwrap_or_default(), ..message })
    }
}

fn malformed(why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("what came is not FlightData: {why}"))
}

/// A field's number, and the bytes that follow its head; `None` if the head is not complete.
fn head(bytes: &[u8]) -> Result<Option<(u64, u64)>> {
    let Some((key, rest)) = varint(bytes)? else { return Ok(None) };
    let (number, kind) = (key >> 3, key & 7);
    Ok(match kind {
        2 => varint(rest)?.map(|(length, _)| (number, length)),
        _ if number == DATA_BODY => return Err(malformed("its body is not of bytes")),
        // The value is a varint itself.
        0 => varint(rest)?.map(|_| (number, 0)),
        1 => Some((number, 8)),
        5 => Some((number, 4)),
        _ => return Err(malformed(format_args!("it has a field of wire type {kind}"))),
    })
}

/// A varint and what is behind it.
fn varint(bytes: &[u8]) -> Result<Option<(u64, &[u8])>> {
    let mut value = 0u64;
    for (at, byte) in bytes.iter().enumerate() {
        if at == VARINT {
            return Err(malformed("a number of more than 64 bits"));
        }
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((value, &bytes[at + 1..])));
        }
    }
    Ok(None)
}

#[cfg(test)]
#[path = "flight_decoder_tests.rs"]
mod tests;
