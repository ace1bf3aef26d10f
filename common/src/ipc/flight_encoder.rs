//! Encodes FlightData and PutResult as gRPC messages without copying the bodies: the counterpart of
//! [`super::flight_decoder`].

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::encode_varint;

use crate::grpc::PREFIX;
use crate::unsent_bytes::{UnsentBytes, UnsentPart};

/// FlightData's `data_header`, field 2, length-delimited.
const DATA_HEADER: &[u8] = &[0x12];
/// FlightData's `app_metadata`, field 3.
const APP_METADATA: &[u8] = &[0x1a];
/// FlightData's `data_body`, field 1000.
const DATA_BODY: &[u8] = &[0xc2, 0x3e];

/// PutResult's `app_metadata`, field 1, length-delimited.
const RESULT_METADATA: &[u8] = &[0x0a];

/// Encoded gRPC messages to send: each is 5 bytes of prefix, the small fields, then the slices of the body.
#[derive(Clone, Debug, Default)]
pub struct FlightFrame {
    /// What is left to send; none is empty.
    slices: VecDeque<Bytes>,
    left: usize,
    /// Counts a frame of another member's bytes as unsent.
    _unsent: Option<UnsentPart>,
}

/// Encodes one FlightData. `header` is a bare flatbuffer, `body` its slices in order: none at all for a schema, at least
/// one (perhaps empty) for a batch.
pub fn encode_flight_data(
    header: &[u8],
    app_metadata: Option<&[u8]>,
    body: impl Iterator<Item = Bytes>,
) -> FlightFrame {
    let mut has_body = false;
    let body: Vec<Bytes> = body.inspect(|_| has_body = true).filter(|slice| !slice.is_empty()).collect();
    let body_len: usize = body.iter().map(Bytes::len).sum();
    let small = header.len() + app_metadata.map_or(0, <[u8]>::len);
    let mut head = BytesMut::with_capacity(small + 40);
    head.put_slice(&[0; PREFIX]);
    put_field(&mut head, DATA_HEADER, header);
    put_field(&mut head, APP_METADATA, app_metadata.unwrap_or_default());
    if has_body {
        head.put_slice(DATA_BODY);
        encode_varint(body_len as u64, &mut head);
    }
    FlightFrame::message(head, body, body_len)
}

/// Encodes one PutResult.
pub fn encode_put_result(app_metadata: &[u8]) -> FlightFrame {
    let mut head = BytesMut::with_capacity(app_metadata.len() + 16);
    head.put_slice(&[0; PREFIX]);
    put_field(&mut head, RESULT_METADATA, app_metadata);
    FlightFrame::message(head, Vec::new(), 0)
}

/// Appends a bytes field, unless it is empty.
fn put_field(head: &mut BytesMut, tag: &[u8], bytes: &[u8]) {
    if !bytes.is_empty() {
        head.put_slice(tag);
        encode_varint(bytes.len() as u64, head);
        head.put_slice(bytes);
    }
}

impl FlightFrame {
    /// One message; `head` begins with space for the prefix.
    fn message(mut head: BytesMut, body: Vec<Bytes>, body_len: usize) -> FlightFrame {
        let message = (head.len() - PREFIX + body_len) as u32;
        head[1..PREFIX].copy_from_slice(&message.to_be_bytes());
        let left = head.len() + body_len;
        let mut slices = VecDeque::from(body);
        slices.push_front(head.freeze());
        FlightFrame { slices, left, _unsent: None }
    }

    /// Bytes of messages that another member has encoded.
    pub fn relayed(bytes: Bytes) -> FlightFrame {
        let left = bytes.len();
        FlightFrame { slices: VecDeque::from([bytes]), left, _unsent: None }
    }

    /// Counts the frame in `unsent` until it is dropped, which is when it is sent.
    #[must_use]
    pub fn counted_in(self, unsent: &UnsentBytes) -> FlightFrame {
        FlightFrame { _unsent: Some(unsent.hold(self.left)), ..self }
    }

    /// Appends the messages of another frame.
    pub fn append(&mut self, next: FlightFrame) {
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

impl Buf for FlightFrame {
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
            // Releases the slice, and with it a file's mapping, as soon as its bytes are sent.
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

    fn wire(mut frame: FlightFrame) -> Vec<u8> {
        let mut out = Vec::new();
        while frame.has_remaining() {
            let step = frame.chunk().len().min(7);
            out.extend_from_slice(&frame.chunk()[..step]);
            frame.advance(step);
        }
        out
    }

    #[test]
    fn flight_data_is_encoded_as_a_grpc_message() {
        let body = [Bytes::from_static(b"one"), Bytes::new(), Bytes::from(vec![7; 300])];
        let bytes = wire(encode_flight_data(&[1; 200], Some(b"meta"), body.clone().into_iter()));
        assert_eq!(bytes[..5], [&[0][..], &((bytes.len() - 5) as u32).to_be_bytes()].concat());
        let data = FlightData::decode(&bytes[5..]).unwrap();
        assert_eq!(data.data_header, vec![1; 200]);
        assert_eq!(data.app_metadata, b"meta".as_slice());
        assert_eq!(data.data_body, body.concat());
    }

    #[test]
    fn put_result_is_encoded_as_a_grpc_message() {
        for metadata in [&b""[..], b"{}", &[7; 200]] {
            let bytes = wire(encode_put_result(metadata));
            assert_eq!(bytes[..5], [&[0][..], &((bytes.len() - 5) as u32).to_be_bytes()].concat());
            assert_eq!(PutResult::decode(&bytes[5..]).unwrap().app_metadata, metadata);
        }
    }

    #[test]
    fn empty_body_is_encoded_as_a_field() {
        assert!(wire(encode_flight_data(b"h", None, [Bytes::new()].into_iter())).ends_with(&[0xc2, 0x3e, 0]));
        assert!(wire(encode_flight_data(b"h", None, std::iter::empty())).ends_with(b"h"));
    }

    #[test]
    fn vectored_chunks_equal_single_chunks() {
        let body = [Bytes::from_static(b"one"), Bytes::from_static(b"two")];
        let mut frame = encode_flight_data(b"head", None, body.into_iter());
        let whole = wire(frame.clone());
        frame.advance(6);
        let mut slices = [IoSlice::new(&[]); 8];
        let count = frame.chunks_vectored(&mut slices);
        let joined: Vec<u8> = slices[..count].iter().flat_map(|s| s.to_vec()).collect();
        assert_eq!(joined, whole[6..]);
        assert_eq!(frame.len(), joined.len());
    }

    #[test]
    fn appended_messages_follow_in_order() {
        let one =
            encode_flight_data(b"head", None, [Bytes::from_static(b"one"), Bytes::from_static(b"two")].into_iter());
        let two = encode_flight_data(b"other", None, [Bytes::from_static(b"three")].into_iter());
        let mut both = FlightFrame::default();
        assert!(both.is_empty() && both.chunk().is_empty());
        both.append(one.clone());
        both.append(two.clone());
        assert_eq!(both.len(), one.len() + two.len());
        assert_eq!(wire(both), [wire(one), wire(two)].concat());
    }
}
