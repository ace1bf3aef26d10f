//! Decodes FlightData messages from received chunks; a body is the received slices.
//!
//! To be replaced by the decoder of the same interface in `volley_common::ipc` ([`super::peer_stream`] then imports that
//! one, and this file goes).

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use prost::encoding::{WireType, decode_key, decode_varint};
use volley_common::grpc::{self, PREFIX};
use volley_common::{Error, Result};

/// FlightData's fields (Flight.proto).
const DATA_HEADER: u32 = 2;
const DATA_BODY: u32 = 1000;

/// Bodies are the received slices, uncopied.
pub struct ReceivedSlices;

/// One FlightData message.
pub struct FlightMessage<B> {
    /// `data_header`.
    pub header: Bytes,
    /// `data_body`.
    pub body: B,
    /// Bytes of the message without its gRPC prefix.
    pub wire_len: usize,
}

/// Decodes gRPC messages of FlightData from chunks of any size.
pub struct FlightDecoder<A> {
    _bodies: A,
    max_message: usize,
    received: ChunkQueue,
}

impl FlightDecoder<ReceivedSlices> {
    /// Refuses messages of more than `max_message` bytes.
    pub fn new(bodies: ReceivedSlices, max_message: usize) -> Self {
        FlightDecoder { _bodies: bodies, max_message, received: ChunkQueue::default() }
    }

    /// Takes bytes off `received`. Returns a message once it is complete.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: not FlightData. UNIMPLEMENTED: compressed. RESOURCE_EXHAUSTED: over the limit.
    pub fn push(&mut self, received: &mut Bytes) -> Result<Option<FlightMessage<Vec<Bytes>>>> {
        self.received.push(std::mem::take(received));
        let Some(length) = self.next_len()?.filter(|length| self.received.left >= PREFIX + length) else {
            return Ok(None);
        };
        self.received.advance(PREFIX);
        decode(self.received.split_to(length)).map(Some)
    }

    /// Whether no message is received in part.
    pub fn is_between_messages(&self) -> bool {
        self.received.left == 0
    }

    /// The length of the next message, without its prefix, if it is received completely.
    ///
    /// # Errors
    /// Those of [`FlightDecoder::push`].
    pub fn complete_len(&self, _received: &Bytes) -> Result<Option<usize>> {
        Ok(self.next_len()?.filter(|length| self.received.left >= PREFIX + length))
    }

    fn next_len(&self) -> Result<Option<usize>> {
        if self.received.left < PREFIX {
            return Ok(None);
        }
        let mut prefix = [0; PREFIX];
        for (to, from) in prefix.iter_mut().zip(self.received.chunks.iter().flatten()) {
            *to = *from;
        }
        grpc::length(&prefix, self.max_message).map(Some)
    }
}

fn decode(mut message: ChunkQueue) -> Result<FlightMessage<Vec<Bytes>>> {
    let malformed = || Error::invalid("it sends what is not FlightData");
    let (wire_len, mut header, mut body) = (message.left, Bytes::new(), Vec::new());
    while message.has_remaining() {
        let (tag, wire_type) = decode_key(&mut message).map_err(|_| malformed())?;
        let length = decode_varint(&mut message).map_err(|_| malformed())? as usize;
        if wire_type != WireType::LengthDelimited || length > message.left {
            return Err(malformed());
        }
        let mut value = message.split_to(length);
        match tag {
            DATA_HEADER => header = value.copy_to_bytes(length),
            DATA_BODY => body = value.chunks.into(),
            _ => {}
        }
    }
    Ok(FlightMessage { header, body, wire_len })
}

/// Received bytes, in the chunks in which they came.
#[derive(Default)]
struct ChunkQueue {
    chunks: VecDeque<Bytes>,
    left: usize,
}

impl ChunkQueue {
    fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.left += bytes.len();
            self.chunks.push_back(bytes);
        }
    }

    /// Takes off the first `count` bytes.
    fn split_to(&mut self, mut count: usize) -> ChunkQueue {
        let mut taken = ChunkQueue::default();
        while count > 0 {
            let Some(first) = self.chunks.front_mut() else { break };
            let chunk = first.split_to(count.min(first.len()));
            if first.is_empty() {
                self.chunks.pop_front();
            }
            count -= chunk.len();
            self.left -= chunk.len();
            taken.push(chunk);
        }
        taken
    }
}

impl Buf for ChunkQueue {
    fn remaining(&self) -> usize {
        self.left
    }

    fn chunk(&self) -> &[u8] {
        self.chunks.front().map_or(&[], |first| first)
    }

    fn advance(&mut self, count: usize) {
        self.split_to(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_the_same_for_any_chunk_size() {
        let wire = [&[0, 0, 0, 0, 5, 0x12, 3][..], b"abc", &[0, 0, 0, 0, 0], &[0, 0, 0, 0, 3, 0x12, 1], b"d"].concat();
        for step in 1..wire.len() {
            let (mut decoder, mut seen) = (FlightDecoder::new(ReceivedSlices, usize::MAX), Vec::new());
            for chunk in wire.chunks(step) {
                let mut received = Bytes::copy_from_slice(chunk);
                while let Some(message) = decoder.push(&mut received).unwrap() {
                    seen.push(message.header);
                }
            }
            assert_eq!(seen, ["abc", "", "d"], "chunks of {step} bytes");
            assert!(decoder.is_between_messages());
        }
    }

    #[test]
    fn malformed_message_is_refused() {
        for bad in [&b"\0\0\0\0\x05\x12\x05abc"[..], b"\0\0\0\0\x02\x10\x05", b"\0\0\0\0\x06\xff\xff\xff\xff\xff\xff"] {
            let mut decoder = FlightDecoder::new(ReceivedSlices, usize::MAX);
            assert!(decoder.push(&mut Bytes::from_static(bad)).is_err(), "{bad:?}");
        }
    }
}
