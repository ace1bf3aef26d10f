#![allow(clippy::unwrap_used)]
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::ready;
use std::time::Duration;

use arrow_flight::FlightDescriptor;
use futures::StreamExt;
use http_body::{Body, Frame};
use rand::Rng;
use tonic::Status;

use super::*;
use crate::Code;
use crate::ipc::body_builder::ReceivedSlices;
use crate::ipc::flight_stream::FlightDataStream;
use crate::ipc::test_data;

const LIMIT: usize = 1 << 20;

/// A body of these frames; an error, if any, is the last.
struct ChunkedBody(VecDeque<Result<Frame<Bytes>, Status>>);

impl Body for ChunkedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(self.0.pop_front())
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat()
}

fn chunked(wire: &[u8], step: usize) -> ChunkedBody {
    ChunkedBody(wire.chunks(step).map(|chunk| Ok(Frame::data(Bytes::copy_from_slice(chunk)))).collect())
}

/// The messages, and the error if they end in one.
async fn decode_all(body: ChunkedBody) -> (Vec<FlightData>, Option<Error>) {
    let (mut messages, mut error) = (Vec::new(), None);
    let mut stream = FlightDataStream::new(body, LIMIT);
    while let Some(next) = stream.next().await {
        assert!(error.is_none(), "nothing follows an error");
        match next {
            Ok(message) => messages.push(message),
            Err(e) => error = Some(e),
        }
    }
    (messages, error)
}

async fn error_of(message: &[u8]) -> Error {
    decode_all(chunked(&framed(message), 7)).await.1.unwrap()
}

fn messages() -> Vec<FlightData> {
    let mut rng = test_data::rng(1);
    let mut bytes = |length: usize| Bytes::from((0..length).map(|_| rng.random()).collect::<Vec<u8>>());
    let named = FlightData::new().with_descriptor(FlightDescriptor::new_path(vec!["a".into(), "b".into()]));
    vec![
        named.with_data_header(bytes(300)),
        FlightData::new(),
        FlightData::new().with_data_header(bytes(40)).with_app_metadata(bytes(9)).with_data_body(bytes(100_000)),
        FlightData::new().with_data_header(bytes(1)).with_data_body(bytes(3)),
        FlightData::new().with_app_metadata("only"),
    ]
}

#[tokio::test]
async fn messages_decode_at_every_chunk_size() {
    let wire: Vec<u8> = messages().iter().flat_map(|message| framed(&message.encode_to_vec())).collect();
    for step in [1, 2, 3, 5, 7, 1000, 16_384, wire.len()] {
        let (seen, error) = decode_all(chunked(&wire, step)).await;
        assert_eq!((seen, error), (messages(), None), "chunks of {step} bytes");
    }
}

#[tokio::test]
async fn fields_decode_in_any_order_and_unknown_ones_are_skipped() {
    let unknown =
        [0x98, 0x3f, 0x96, 0x01, 0xa5, 0x3f, 1, 2, 3, 4, 0xa1, 0x3f, 1, 2, 3, 4, 5, 6, 7, 8, 0xaa, 0x3f, 1, 9];
    let body = |byte: u8| [&[0xc2, 0x3e, 3][..], &[byte; 3]].concat();
    let message = [&body(1)[..], &unknown, &body(2), b"\x12\x01h\x1a\x01m"].concat();
    let (seen, error) = decode_all(chunked(&framed(&message), 3)).await;
    let expected = FlightData::new().with_data_header("h").with_app_metadata("m").with_data_body(vec![2; 3]);
    assert_eq!((seen, error), (vec![expected], None), "the last of two bodies counts");
}

#[tokio::test]
async fn malformed_message_is_invalid_argument() {
    for bad in [
        &b"\x12\x05abc"[..],
        b"\xc2\x3e\x05abc",
        b"\x12",
        b"\xc2",
        b"\x13\x14",
        b"\xc0\x3e\x01",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x0a\x02\xff\xff",
    ] {
        let error = error_of(bad).await;
        assert_eq!(error.code, Code::InvalidArgument, "{bad:?}: {error}");
    }
}

#[tokio::test]
async fn message_over_the_limit_is_rejected_by_its_prefix() {
    let prefix = [&[0][..], &(LIMIT as u32 + 1).to_be_bytes()].concat();
    let (_, error) = decode_all(chunked(&prefix, 5)).await;
    let error = error.unwrap();
    assert_eq!(error.code, Code::ResourceExhausted);
    assert!(error.message.contains(&LIMIT.to_string()), "{error}");
}

#[tokio::test]
async fn compressed_message_is_unimplemented() {
    let (_, error) = decode_all(chunked(&[1, 0, 0, 0, 1, 0], 6)).await;
    let error = error.unwrap();
    assert_eq!(error.code, Code::Unimplemented);
    assert!(error.message.contains("compress"), "{error}");
}

#[tokio::test]
async fn truncated_or_broken_stream_is_an_error() {
    let wire = framed(&messages()[2].encode_to_vec());
    for length in [1, 4, 5, 6, 60, wire.len() - 1] {
        let (seen, error) = decode_all(chunked(&wire[..length], 1000)).await;
        assert!(seen.is_empty() && error.unwrap().message.contains("within a message"), "truncated at {length}");
    }
    let mut broken = chunked(&wire, 1000);
    broken.0.push_back(Err(Status::unavailable("reset")));
    let (seen, error) = decode_all(broken).await;
    assert_eq!((seen.len(), error.unwrap()), (1, Error::unavailable("reset")));
}

#[tokio::test]
async fn trailers_are_available_after_the_end() {
    let mut body = chunked(&framed(b""), 5);
    body.0.push_back(Ok(Frame::trailers(
        [(http::header::ETAG, http::HeaderValue::from_static("x"))].into_iter().collect(),
    )));
    let mut stream = FlightDataStream::new(body, LIMIT);
    assert!(stream.next().await.unwrap().is_ok() && stream.next().await.is_none());
    assert!(stream.trailers().unwrap().contains_key("etag"));
}

#[test]
fn slices_decode_at_every_chunk_size_without_a_copy() {
    let wire = Bytes::from(messages().iter().flat_map(|message| framed(&message.encode_to_vec())).collect::<Vec<u8>>());
    for step in [1, 3, 1000, wire.len()] {
        let (mut decoder, mut seen, mut rest) =
            (FlightDecoder::new(ReceivedSlices, usize::MAX), Vec::new(), wire.clone());
        while !rest.is_empty() {
            let mut chunk = rest.split_to(step.min(rest.len()));
            while let Some(message) = decoder.push(&mut chunk).unwrap() {
                assert!(message.body.iter().all(|slice| wire.as_ptr_range().contains(&slice.as_ptr())));
                let body = message.body.concat().into();
                seen.push(FlightData::from(FlightMessage {
                    body,
                    descriptor: message.descriptor,
                    header: message.header,
                    app_metadata: message.app_metadata,
                    wire_len: message.wire_len,
                }));
            }
        }
        assert!(decoder.is_between_messages());
        assert_eq!(seen, messages(), "chunks of {step} bytes");
    }
}

#[test]
fn complete_len_is_known_once_the_message_is_complete() {
    let decoder = FlightDecoder::new(ReceivedSlices, 100);
    let wire = framed(b"abc");
    assert_eq!(decoder.complete_len(&wire[..4]).unwrap(), None);
    assert_eq!(decoder.complete_len(&wire[..7]).unwrap(), None);
    assert_eq!(decoder.complete_len(&wire).unwrap(), Some(3));
    assert_eq!(decoder.complete_len(&framed(&[0; 101])).unwrap_err().code, Code::ResourceExhausted);
}

/// A body whose frames come with pauses before them.
struct SlowBody(Vec<(u64, Bytes)>, Option<Pin<Box<tokio::time::Sleep>>>);

impl Body for SlowBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some((pause, _)) = self.0.first() else { return Poll::Ready(None) };
        let pause = Duration::from_millis(*pause);
        let sleep = self.1.get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
        ready!(sleep.as_mut().poll(cx));
        self.1 = None;
        Poll::Ready(Some(Ok(Frame::data(self.0.remove(0).1))))
    }
}

#[tokio::test]
async fn message_that_stalls_is_an_error_and_a_pause_between_none() {
    let message = framed(&FlightData::new().with_data_body(vec![7; 100_000]).encode_to_vec());
    let (front, back) = message.split_at(50_000);
    let [front, back, whole] = [front, back, &message].map(Bytes::copy_from_slice);
    let drip = message.chunks(100).map(|chunk| (40, Bytes::copy_from_slice(chunk))).collect();
    for (what, frames, messages, fails) in [
        ("pauses between messages", vec![(300, whole.clone()), (300, whole.clone())], 2, false),
        ("a short pause within a message", vec![(0, front.clone()), (20, back.clone())], 1, false),
        ("a long pause within a message", vec![(0, whole), (0, front), (1000, back)], 1, true),
        ("drops", drip, 0, true),
    ] {
        let stream =
            FlightDataStream::new(SlowBody(frames, None), LIMIT).with_stall_timeout(Duration::from_millis(150));
        let seen: Vec<_> = stream.collect().await;
        assert_eq!(seen.iter().filter(|message| message.is_ok()).count(), messages, "{what}");
        let error = seen.last().unwrap().as_ref().err();
        assert_eq!(error.map(|error| error.code), fails.then_some(Code::DeadlineExceeded), "{what}");
    }
}

#[tokio::test]
async fn large_header_and_metadata_are_stored_like_a_body() {
    let long = |byte| Bytes::from(vec![byte; MAX_SMALL_FIELD + 1]);
    let message = FlightData::new().with_data_header(long(1)).with_app_metadata(long(2)).with_data_body(long(3));
    let (seen, error) = decode_all(chunked(&framed(&message.encode_to_vec()), 1000)).await;
    assert_eq!((seen, error), (vec![message], None));
    let descriptor = FlightDescriptor::new_cmd(vec![0; MAX_FIELDS + 1]);
    let message = FlightData::new().with_descriptor(descriptor).encode_to_vec();
    let mut stream = FlightDataStream::new(chunked(&framed(&message), 1000), 4 * LIMIT);
    assert_eq!(stream.next().await.unwrap().unwrap_err().code, Code::ResourceExhausted);
}

/// Records what the decoder says of each body.
#[derive(Default)]
struct RecordingBodies(Vec<(usize, usize)>, usize);

impl BodyAllocator for RecordingBodies {
    type Builder = crate::ipc::body_builder::SliceBody;

    fn begin(&mut self, length: usize, rest: usize) -> Result<Self::Builder> {
        self.0.push((length, rest));
        ReceivedSlices.begin(length, rest)
    }

    fn end_message(&mut self) {
        self.1 += 1;
    }
}

#[test]
fn allocator_learns_what_follows_in_the_message() {
    let header = vec![1; MAX_SMALL_FIELD + 1];
    let message = FlightData::new().with_data_header(header).with_data_body(vec![2; 1000]);
    let small = FlightData::new().with_data_header("h").with_data_body(vec![2; 1000]);
    let wire: Vec<u8> = [message, small].iter().flat_map(|message| framed(&message.encode_to_vec())).collect();
    let (mut decoder, mut rest) = (FlightDecoder::new(RecordingBodies::default(), LIMIT), Bytes::from(wire));
    while decoder.push(&mut rest).unwrap().is_some() {}
    // The body's key and length take four bytes.
    assert_eq!(decoder.bodies.0, [(MAX_SMALL_FIELD + 1, 1004), (1000, 0), (1000, 0)]);
    assert_eq!(decoder.bodies.1, 2);
}

#[tokio::test]
async fn small_header_does_not_keep_large_fields() {
    let descriptor = FlightDescriptor::new_cmd(vec![0; MAX_FIELDS / 2]);
    let message = FlightData::new().with_descriptor(descriptor).with_data_header("header").with_app_metadata("m");
    let (seen, error) = decode_all(chunked(&framed(&message.encode_to_vec()), 100_000)).await;
    assert_eq!((&seen[..], error), (&[message][..], None));
    let header = seen[0].data_header.clone();
    drop(seen);
    assert!(header.try_into_mut().is_ok_and(|own| own.capacity() < 1000), "the header has memory of its own");
}
