//! FlightData on the wire, around slices: gRPC messages that copy no body.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::grpc::PREFIX;

/// FlightData's `data_header`, field 2, length-delimited.
const DATA_HEADER: &[u8] = &[0x12];
/// FlightData's `app_metadata`, field 3.
const APP_METADATA: &[u8] = &[0x1a];
/// FlightData's `data_body`, field 1000.
const DATA_BODY: &[u8] = &[0xc2, 0x3e];

/// PutResult's `app_metadata`, field 1.
const RESULT_METADATA: &[u8] = &[0x0a];

/// gRPC messages one after the other, each 5 bytes of prefix, small fields, then a body's slices.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    /// What is left; none is empty.
    slices: VecDeque<Bytes>,
    left: usize,
}

/// Frames one FlightData. `header` is a bare flatbuffer, `body` its slices in order: none at all for a schema,
/// at least one (perhaps empty) for a batch.
pub fn frame(header: &[u8], app_metadata: Option<&[u8]>, body: impl Iterator<Item = Bytes>) -> Frame {
    let mut has_body = false;
    let body: Vec<Bytes> = body.inspect(|_| has_body = true).filter(|slice| !slice.is_empty()).collect();
    let body_len: usize = body.iter().map(Bytes::len).sum();
    let small = header.len() + app_metadata.map_or(0, <[u8]>::len);
    let mut head = BytesMut::with_capacity(small + 40);
    head.put_slice(&[0; PREFIX]);
    field(&mut head, DATA_HEADER, header);
    field(&mut head, APP_METADATA, app_metadata.unwrap_or_default());
    if has_body {
        head.put_slice(DATA_BODY);
        varint(&mut head, body_len);
    }
    Frame::message(head, body, body_len)
}

/// Frames one PutResult.
pub fn put_result(app_metadata: &[u8]) -> Frame {
    let mut head = BytesMut::with_capacity(app_metadata.len() + 16);
    head.put_slice(&[0; PREFIX]);
    field(&mut head, RESULT_METADATA, app_metadata);
    Frame::message(head, Vec::new(), 0)
}

fn field(head: &mut BytesMut, tag: &[u8], bytes: &[u8]) {
    if !bytes.is_empty() {
        head.put_slice(tag);
        varint(head, bytes.len());
        head.put_slice(bytes);
    }
}

fn varint(head: &mut BytesMut, mut value: usize) {
    while value >= 0x80 {
        head.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    head.put_u8(value as u8);
}

impl Frame {
    /// One message; `head` begins with room for the prefix.
    fn message(mut head: BytesMut, body: Vec<Bytes>, body_len: usize) -> Frame {
        let message = (head.len() - PREFIX + body_len) as u32;
        head[1..PREFIX].copy_from_slice(&message.to_be_bytes());
        let left = head.len() + body_len;
        let mut slices = VecDeque::from(body);
        slices.push_front(head.freeze());
        Frame { slices, left }
    }

    /// Lets another frame's messages follow.
    pub fn append(&mut self, next: Frame) {
        self.left += next.left;
        self.slices.extend(next.slices);
    }

    /// Bytes left to send.
    pub fn len(&self) -> usize {
        self.left
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }
}

impl Buf for Frame {
    fn remaining(&self) -> usize {
        self.left
    }

    fn chunk(&self) -> &[u8] {
        self.slices.front().map_or(&[], |slice| slice)
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        into.iter_mut().zip(&self.slices).fold(0, |count, (slot, slice)| {
            *slot = IoSlice::new(slice);
            count + 1
        })
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.left, "cannot advance by {count}, {} bytes are left", self.left);
        self.left -= count;
        while let Some(first) = self.slices.front_mut() {
            if count < first.len() {
                first.advance(count);
                return;
            }
            // Gives the mapping back as soon as its bytes are sent.
            count -= first.len();
            self.slices.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow_flight::{FlightData, PutResult};
    use prost::Message;

    use super::*;

    fn wire(mut frame: Frame) -> Vec<u8> {
        let mut out = Vec::new();
        while frame.has_remaining() {
            let step = frame.chunk().len().min(7);
            out.extend_from_slice(&frame.chunk()[..step]);
            frame.advance(step);
        }
        out
    }

    #[test]
    fn a_frame_is_a_grpc_message_of_flight_data() {
        let body = [Bytes::from_static(b"one"), Bytes::new(), Bytes::from(vec![7; 300])];
        let bytes = wire(frame(&[1; 200], Some(b"meta"), body.clone().into_iter()));
        assert_eq!(bytes[..5], [&[0][..], &((bytes.len() - 5) as u32).to_be_bytes()].concat());
        let data = FlightData::decode(&bytes[5..]).unwrap();
        assert_eq!(data.data_header, vec![1; 200]);
        assert_eq!(data.app_metadata, b"meta".as_slice());
        assert_eq!(data.data_body, body.concat());
    }

    #[test]
    fn a_put_result_is_framed_too() {
        for metadata in [&b""[..], b"{}", &[7; 200]] {
            let bytes = wire(put_result(metadata));
            assert_eq!(bytes[..5], [&[0][..], &((bytes.len() - 5) as u32).to_be_bytes()].concat());
            assert_eq!(PutResult::decode(&bytes[5..]).unwrap().app_metadata, metadata);
        }
    }

    #[test]
    fn a_body_without_bytes_is_still_a_body() {
        assert!(wire(frame(b"h", None, [Bytes::new()].into_iter())).ends_with(&[0xc2, 0x3e, 0]));
        assert!(wire(frame(b"h", None, std::iter::empty())).ends_with(b"h"));
    }

    #[test]
    fn vectored_chunks_are_what_chunk_gives() {
        let body = [Bytes::from_static(b"one"), Bytes::from_static(b"two")];
        let mut frame = frame(b"head", None, body.into_iter());
        let whole = wire(frame.clone());
        frame.advance(6);
        let mut slices = [IoSlice::new(&[]); 8];
        let count = frame.chunks_vectored(&mut slices);
        let joined: Vec<u8> = slices[..count].iter().flat_map(|s| s.to_vec()).collect();
        assert_eq!(joined, whole[6..]);
        assert_eq!(frame.len(), joined.len());
    }

    #[test]
    fn messages_follow_each_other_in_one_frame() {
        let one = frame(b"head", None, [Bytes::from_static(b"one"), Bytes::from_static(b"two")].into_iter());
        let two = frame(b"other", None, [Bytes::from_static(b"three")].into_iter());
        let mut both = Frame::default();
        assert!(both.is_empty() && both.chunk().is_empty());
        both.append(one.clone());
        both.append(two.clone());
        assert_eq!(both.len(), one.len() + two.len());
        assert_eq!(wire(both), [wire(one), wire(two)].concat());
    }
}
