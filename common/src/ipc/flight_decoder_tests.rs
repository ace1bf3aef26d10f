#![allow(clippy::unwrap_used)]
use std::collections::VecDeque;

use arrow_flight::FlightDescriptor;
use futures::StreamExt;
use http_body::Frame;
use rand::Rng;

use super::*;
use crate::Code;
use crate::ipc::samples;

const LIMIT: usize = 1 << 20;

/// A body of these pieces, which then ends well, or in an error.
struct Pieces(VecDeque<Result<Frame<Bytes>, Status>>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(self.0.pop_front())
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat()
}

fn pieces(wire: &[u8], step: usize) -> Pieces {
    Pieces(wire.chunks(step).map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece)))).collect())
}

/// The messages, and the error if they end in one.
async fn unframe(body: Pieces) -> (Vec<FlightData>, Option<Error>) {
    let (mut messages, mut error) = (Vec::new(), None);
    let mut stream = Unframed::new(body, LIMIT);
    while let Some(next) = stream.next().await {
        assert!(error.is_none(), "something follows an error");
        match next {
            Ok(message) => messages.push(message),
            Err(e) => error = Some(e),
        }
    }
    (messages, error)
}

async fn error_of(message: &[u8]) -> Error {
    unframe(pieces(&framed(message), 7)).await.1.unwrap()
}

fn messages() -> Vec<FlightData> {
    let mut rng = samples::rng(1);
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
async fn messages_come_out_however_they_were_cut() {
    let wire: Vec<u8> = messages().iter().flat_map(|message| framed(&message.encode_to_vec())).collect();
    for step in [1, 2, 3, 5, 7, 1000, 16_384, wire.len()] {
        let (seen, error) = unframe(pieces(&wire, step)).await;
        assert_eq!((seen, error), (messages(), None), "cut every {step} bytes");
    }
}

#[tokio::test]
async fn fields_may_come_in_any_order_and_unknown_ones_are_passed_over() {
    let unknown =
        [0x98, 0x3f, 0x96, 0x01, 0xa5, 0x3f, 1, 2, 3, 4, 0xa1, 0x3f, 1, 2, 3, 4, 5, 6, 7, 8, 0xaa, 0x3f, 1, 9];
    let body = |byte: u8| [&[0xc2, 0x3e, 3][..], &[byte; 3]].concat();
    let message = [&body(1)[..], &unknown, &body(2), b"\x12\x01h\x1a\x01m"].concat();
    let (seen, error) = unframe(pieces(&framed(&message), 3)).await;
    let expected = FlightData::new().with_data_header("h").with_app_metadata("m").with_data_body(vec![2; 3]);
    assert_eq!((seen, error), (vec![expected], None), "of two bodies the last counts");
}

#[tokio::test]
async fn what_is_not_flight_data_is_refused() {
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
async fn a_message_over_the_limit_is_refused_by_its_first_bytes() {
    let prefix = [&[0][..], &(LIMIT as u32 + 1).to_be_bytes()].concat();
    let (_, error) = unframe(pieces(&prefix, 5)).await;
    let error = error.unwrap();
    assert_eq!(error.code, Code::ResourceExhausted);
    assert!(error.message.contains(&LIMIT.to_string()), "{error}");
}

#[tokio::test]
async fn a_compressed_message_is_refused() {
    let (_, error) = unframe(pieces(&[1, 0, 0, 0, 1, 0], 6)).await;
    let error = error.unwrap();
    assert_eq!(error.code, Code::Unimplemented);
    assert!(error.message.contains("compress"), "{error}");
}

#[tokio::test]
async fn a_stream_that_ends_within_a_message_or_breaks_is_an_error() {
    let wire = framed(&messages()[2].encode_to_vec());
    for length in [1, 4, 5, 6, 60, wire.len() - 1] {
        let (seen, error) = unframe(pieces(&wire[..length], 1000)).await;
        assert!(seen.is_empty() && error.unwrap().message.contains("within a message"), "cut at {length}");
    }
    let mut broken = pieces(&wire, 1000);
    broken.0.push_back(Err(Status::unavailable("reset")));
    let (seen, error) = unframe(broken).await;
    assert_eq!((seen.len(), error.unwrap()), (1, Error::unavailable("reset")));
}

#[tokio::test]
async fn trailers_are_kept() {
    let mut body = pieces(&framed(b""), 5);
    body.0.push_back(Ok(Frame::trailers(
        [(http::header::ETAG, http::HeaderValue::from_static("x"))].into_iter().collect(),
    )));
    let mut stream = Unframed::new(body, LIMIT);
    assert!(stream.next().await.unwrap().is_ok() && stream.next().await.is_none());
    assert!(stream.trailers().unwrap().contains_key("etag"));
}
