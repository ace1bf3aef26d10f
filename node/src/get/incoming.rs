//! Another node's answer to a DoGet, taken apart into messages without copying their bodies.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prost::encoding::{WireType, decode_key, decode_varint};
use tonic::Status;
use volley_common::grpc::{self, PREFIX};
use volley_common::http2::StreamLease;
use volley_common::{Error, Result};

use super::source::Piece;

/// FlightData's fields (Flight.proto).
const DATA_HEADER: u32 = 2;
const DATA_BODY: u32 = 1000;

/// The messages of one answer.
pub struct Messages {
    schema: Bytes,
    body: Incoming,
    received: Slices,
    _lease: StreamLease,
}

impl Messages {
    /// Reads the answer up to its schema.
    ///
    /// # Errors
    /// As those of [`Messages::next`].
    pub async fn open(response: http::Response<Incoming>, lease: StreamLease) -> Result<Self> {
        let body = grpc::response_body(response)?;
        let mut messages = Messages { schema: Bytes::new(), body, received: Slices::default(), _lease: lease };
        let first = messages.message().await?.ok_or_else(|| Error::internal("its answer is empty"))?;
        let (header, _) = fields(first)?;
        match kind(&header)? {
            Kind::Schema => Ok(Messages { schema: header, ..messages }),
            Kind::Dictionary | Kind::Batch(_) => Err(Error::internal("its answer does not begin with a schema")),
        }
    }

    /// The bare flatbuffer of the schema that the answer began with.
    pub fn schema(&self) -> Bytes {
        self.schema.clone()
    }

    /// The next dictionary or record batch, whole, and those after it that are here already and have no more than
    /// `bytes` with it; none once the answer has ended well.
    ///
    /// # Errors
    /// The answer's own; UNAVAILABLE: it broke off. INTERNAL: it is not what nodes send.
    pub async fn next(&mut self, bytes: usize) -> Result<Vec<Piece>> {
        let Some(message) = self.message().await? else { return Ok(Vec::new()) };
        let mut size = message.left;
        let mut pieces = vec![piece(message)?];
        while let Some(length) = self.received.length()?.filter(|length| size + length <= bytes) {
            let Some(message) = self.received.message()? else { break };
            size += length;
            pieces.push(piece(message)?);
        }
        Ok(pieces)
    }

    async fn message(&mut self) -> Result<Option<Slices>> {
        loop {
            if let Some(message) = self.received.message()? {
                return Ok(Some(message));
            }
            let frame = match self.body.frame().await {
                Some(Ok(frame)) => frame,
                Some(Err(e)) => return Err(Error::unavailable(format!("its answer broke off: {e}"))),
                None => return Err(Error::unavailable("its answer ended without a status")),
            };
            match frame.into_data() {
                Ok(data) => self.received.push(data),
                Err(frame) => return self.end(frame.trailers_ref()),
            }
        }
    }

    fn end(&self, trailers: Option<&http::HeaderMap>) -> Result<Option<Slices>> {
        match trailers.and_then(Status::from_header_map) {
            Some(status) if status.code() != tonic::Code::Ok => Err(status.into()),
            Some(_) if self.received.left == 0 => Ok(None),
            Some(_) | None => Err(Error::unavailable("its answer ended within a message")),
        }
    }
}

/// Received bytes, in the pieces that they came in.
#[derive(Default)]
struct Slices {
    slices: VecDeque<Bytes>,
    left: usize,
}

impl Slices {
    fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.left += bytes.len();
            self.slices.push_back(bytes);
        }
    }

    /// Takes off the next gRPC message, without its prefix, once all of it is here.
    fn message(&mut self) -> Result<Option<Slices>> {
        let Some(length) = self.length()?.filter(|length| self.left >= PREFIX + length) else { return Ok(None) };
        self.advance(PREFIX);
        Ok(Some(self.cut(length)))
    }

    /// The length of the next gRPC message, without its prefix, once that is here.
    fn length(&self) -> Result<Option<usize>> {
        if self.left < PREFIX {
            return Ok(None);
        }
        let mut prefix = [0; PREFIX];
        for (to, from) in prefix.iter_mut().zip(self.slices.iter().flatten()) {
            *to = *from;
        }
        // What a node stores as one message it has taken in as one.
        grpc::message_length(&prefix, usize::MAX).map(Some)
    }

    /// Takes off the next `count` bytes, of at least as many.
    fn cut(&mut self, mut count: usize) -> Slices {
        let mut taken = Slices::default();
        while count > 0 {
            let Some(first) = self.slices.front_mut() else { break };
            let piece = first.split_to(count.min(first.len()));
            if first.is_empty() {
                self.slices.pop_front();
            }
            count -= piece.len();
            self.left -= piece.len();
            taken.push(piece);
        }
        taken
    }
}

impl Buf for Slices {
    fn remaining(&self) -> usize {
        self.left
    }

    fn chunk(&self) -> &[u8] {
        self.slices.front().map_or(&[], |first| first)
    }

    fn advance(&mut self, count: usize) {
        self.cut(count);
    }
}

/// A dictionary or record batch.
fn piece(message: Slices) -> Result<Piece> {
    let (header, body) = fields(message)?;
    match kind(&header)? {
        Kind::Schema => Err(Error::internal("it sends a second schema")),
        Kind::Dictionary => Ok(Piece { header, body, rows: None }),
        Kind::Batch(rows) => Ok(Piece { header, body, rows: Some(rows) }),
    }
}

/// Header and body of one FlightData.
fn fields(mut message: Slices) -> Result<(Bytes, Vec<Bytes>)> {
    let broken = |e: prost::DecodeError| Error::internal(format!("it sends what is not FlightData: {e}"));
    let (mut header, mut body) = (Bytes::new(), Vec::new());
    while message.has_remaining() {
        let (tag, wire) = decode_key(&mut message).map_err(broken)?;
        let length = decode_varint(&mut message).map_err(broken)? as usize;
        if wire != WireType::LengthDelimited || length > message.left {
            return Err(Error::internal("it sends what is not FlightData"));
        }
        let mut value = message.cut(length);
        match tag {
            DATA_HEADER => header = value.copy_to_bytes(length),
            DATA_BODY => body = value.slices.into(),
            _ => {}
        }
    }
    Ok((header, body))
}

enum Kind {
    Schema,
    Dictionary,
    /// With its rows.
    Batch(u64),
}

fn kind(header: &[u8]) -> Result<Kind> {
    let message = arrow_ipc::root_as_message(header)
        .map_err(|e| Error::internal(format!("it sends a message that cannot be read: {e}")))?;
    if let Some(batch) = message.header_as_record_batch() {
        return Ok(Kind::Batch(u64::try_from(batch.length()).unwrap_or(0)));
    }
    match message.header_type() {
        arrow_ipc::MessageHeader::Schema => Ok(Kind::Schema),
        arrow_ipc::MessageHeader::DictionaryBatch => Ok(Kind::Dictionary),
        other => Err(Error::internal(format!("it sends a message of type {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_however_they_were_cut() {
        let wire = [&[0, 0, 0, 0, 3][..], b"abc", &[0, 0, 0, 0, 0], &[0, 0, 0, 0, 1], b"d"].concat();
        for step in 1..wire.len() {
            let (mut slices, mut seen) = (Slices::default(), Vec::new());
            for piece in wire.chunks(step) {
                slices.push(Bytes::copy_from_slice(piece));
                while let Some(mut message) = slices.message().unwrap() {
                    seen.push(message.copy_to_bytes(message.remaining()));
                }
            }
            assert_eq!(seen, ["abc", "", "d"], "cut every {step} bytes");
        }
    }

    #[test]
    fn what_is_not_flight_data_is_an_error() {
        for bad in [&b"\x12\x05abc"[..], b"\x10\x05", b"\xff\xff\xff\xff\xff\xff"] {
            let mut slices = Slices::default();
            slices.push(Bytes::from_static(bad));
            assert!(fields(slices).is_err(), "{bad:?}");
        }
    }
}
