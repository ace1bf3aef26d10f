//! The first bytes of a connection, gRPC's frames in HTTP/2's, and IPC streams in bodies of HTTP: what is read does not depend on how it is cut into pieces.
//!
//! The first byte chooses the reader, the second the size of the pieces.

use std::time::Duration;

use arrow_flight::FlightData;
use bytes::{Buf, Bytes};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream;
use http::{HeaderValue, Request};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use tokio::io::AsyncReadExt;
use tonic::Status;
use volley_common::Error;
use volley_common::grpc::{PREFIX, encode_message, read_message};
use volley_common::http2::decompressed;
use volley_common::ipc::body_builder::{BodyAllocator, BodyBuilder, ReceivedSlices};
use volley_common::ipc::buffer_pool::BufferPool;
use volley_common::ipc::flight_decoder::{FlightDecoder, FlightMessage};
use volley_common::ipc::flight_encoder::encode_flight_data;
use volley_common::ipc::stream_format::{END_OF_STREAM, StreamParser, message_kind, message_prefix};
use volley_common::server::serve::preface::{ClientProtocol, read_preface};

use crate::batches::{flight_messages, keyed};
use crate::input::{FuzzInput, check_error};
use crate::process::runtime;

/// The largest message, bytes.
const MAX_MESSAGE: usize = 1 << 20;
/// Bytes that a body may decompress to before this target stops.
const MAX_DECOMPRESSED: usize = 8 << 20;

/// Feeds one input.
///
/// # Panics
/// A property does not hold.
pub fn run(data: &[u8]) {
    let mut input = FuzzInput::new(data);
    let (kind, step) = (input.byte(), usize::from(input.byte()) + 1);
    let bytes = input.rest();
    match kind % 5 {
        0 => first_bytes(bytes, step),
        1 => flight_data(bytes, step),
        2 => one_message(bytes, step),
        3 => gzip_messages(bytes, step),
        _ => ipc_stream(bytes, step),
    }
}

fn first_bytes(bytes: &[u8], step: usize) {
    let (first, rest) = bytes.split_at(step.min(bytes.len()));
    let limit = Duration::from_secs(60);
    let whole = runtime().block_on(read_preface(&mut &bytes[..], limit));
    let cut = runtime().block_on(read_preface(&mut AsyncReadExt::chain(first, rest), limit));
    for (protocol, received) in [&whole, &cut] {
        assert!(bytes.starts_with(received), "bytes are lost");
        let is_http2 = bytes.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        assert_eq!(*protocol == ClientProtocol::Http2, is_http2);
    }
    assert_eq!(whole.0, cut.0, "{first:?} {rest:?}");
}

/// The messages of a body that arrives in pieces, and whether an error ends it.
fn decode<A>(bodies: A, bytes: &[u8], step: usize) -> (Vec<FlightMessage<<A::Builder as BodyBuilder>::Body>>, bool)
where
    A: BodyAllocator,
{
    let mut decoder = FlightDecoder::new(bodies, MAX_MESSAGE);
    let mut messages = Vec::new();
    for piece in bytes.chunks(step) {
        let mut piece = Bytes::copy_from_slice(piece);
        loop {
            match decoder.push(&mut piece) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => {
                    check_error(&error, bytes.len());
                    return (messages, true);
                }
            }
        }
    }
    (messages, !decoder.is_between_messages())
}

fn flight_data(bytes: &[u8], step: usize) {
    let (messages, failed) = decode(BufferPool::default(), bytes, bytes.len().max(1));
    let (cut, cut_failed) = decode(BufferPool::default(), bytes, step);
    assert!(messages == cut && failed == cut_failed, "pieces of {step} bytes change the messages");
    let (slices, slices_failed) = decode(ReceivedSlices, bytes, step);
    assert_eq!((slices.len(), slices_failed), (messages.len(), failed));
    for (message, slices) in messages.into_iter().zip(slices) {
        assert!(message.body == slices.body.concat() && message.header == slices.header);
        let data = FlightData::from(message);
        let mut frame =
            encode_flight_data(&data.data_header, Some(&*data.app_metadata), [data.data_body.clone()].into_iter());
        let frame = frame.copy_to_bytes(frame.remaining());
        let (again, failed) = decode(BufferPool::default(), &frame, step);
        let again: Vec<FlightData> = again.into_iter().map(FlightData::from).collect();
        assert!(!failed && again == [FlightData { flight_descriptor: None, ..data }], "a frame changes the message");
    }
}

/// The messages of an IPC stream that arrives in pieces, and whether it is incomplete or an error ends it.
fn parse(bytes: &[u8], step: usize) -> (Vec<FlightData>, bool) {
    let (mut parser, mut messages) = (StreamParser::new(MAX_MESSAGE), Vec::new());
    for piece in bytes.chunks(step) {
        parser.push(piece);
        loop {
            match parser.next_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => {
                    check_error(&error, bytes.len());
                    return (messages, true);
                }
            }
        }
    }
    (messages, parser.check_ended().is_err())
}

fn ipc_stream(bytes: &[u8], step: usize) {
    let (messages, failed) = parse(bytes, bytes.len().max(1));
    assert!(parse(bytes, step) == (messages.clone(), failed), "pieces of {step} bytes change the messages");
    let mut again = Vec::new();
    for message in &messages {
        if let Err(error) = message_kind(&message.data_header) {
            check_error(&error, bytes.len());
        }
        again.extend_from_slice(&message_prefix(&message.data_header));
        again.extend_from_slice(&message.data_body);
    }
    again.extend_from_slice(&END_OF_STREAM);
    let (again, failed) = parse(&again, step);
    let bodies = |messages: &[FlightData]| messages.iter().map(|one| one.data_body.clone()).collect::<Vec<_>>();
    assert!(!failed && bodies(&again) == bodies(&messages), "writing a stream again changes its messages");
}

fn body(bytes: &[u8], step: usize) -> impl Body<Data = Bytes, Error = Status> + Unpin + use<> {
    let pieces: Vec<_> = bytes.chunks(step).map(Bytes::copy_from_slice).collect();
    StreamBody::new(stream::iter(pieces.into_iter().map(|piece| Ok::<_, Status>(Frame::data(piece)))))
}

fn one_message(bytes: &[u8], step: usize) {
    let read = |step: usize| runtime().block_on(read_message(body(bytes, step), MAX_MESSAGE));
    let (whole, cut) = (read(bytes.len().max(1)), read(step));
    match (&whole, &cut) {
        (Ok(whole), Ok(cut)) => {
            assert_eq!(whole, cut);
            assert_eq!(whole.as_ref(), &bytes[PREFIX..]);
        }
        (Err(error), Err(cut)) => {
            assert_eq!(error.code, cut.code);
            check_error(error, bytes.len());
        }
        _ => panic!("pieces of {step} bytes change the result: {whole:?} {cut:?}"),
    }
}

/// What gzip's messages are turned into, and whether an error ends it; `None` if that is too much for this target.
fn gunzip(bytes: &[u8], step: usize) -> Option<(Vec<u8>, bool)> {
    let mut request = Request::new(body(bytes, step));
    request.headers_mut().insert("grpc-encoding", HeaderValue::from_static("gzip"));
    let mut body = decompressed(request, MAX_MESSAGE).expect("gzip is known").into_body();
    let mut plain = Vec::new();
    while let Some(frame) = runtime().block_on(body.frame()) {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => plain.extend_from_slice(&data),
            Ok(Err(_)) => {}
            Err(status) => {
                check_error(&Error::from(status), bytes.len());
                return Some((plain, true));
            }
        }
        if plain.len() > MAX_DECOMPRESSED {
            return None;
        }
    }
    Some((plain, false))
}

fn gzip_messages(bytes: &[u8], step: usize) {
    let (Some((whole, failed)), Some((cut, cut_failed))) = (gunzip(bytes, bytes.len().max(1)), gunzip(bytes, step))
    else {
        return;
    };
    assert_eq!(failed, cut_failed, "pieces of {step} bytes change the outcome");
    if !failed {
        assert!(whole == cut, "pieces of {step} bytes change the messages");
    }
}

/// Inputs to begin with.
///
/// # Panics
/// gzip fails.
pub fn seeds() -> Vec<Vec<u8>> {
    let of = |kind: u8, step: u8, bytes: &[u8]| [&[kind, step][..], bytes].concat();
    let messages = flight_messages(&keyed(), None);
    let frames: Vec<u8> = messages.iter().flat_map(|message| encode_message(message).to_vec()).collect();
    let mut stream: Vec<u8> = Vec::new();
    for message in &messages {
        stream.extend_from_slice(&message_prefix(&message.data_header));
        stream.extend_from_slice(&message.data_body);
    }
    let cut_off = stream.clone();
    stream.extend_from_slice(&END_OF_STREAM);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    std::io::Write::write_all(&mut gzip, &[7; 3000]).expect("memory");
    let gzip = gzip.finish().expect("memory");
    let compressed = [&[1][..], &(gzip.len() as u32).to_be_bytes(), &gzip, &[0, 0, 0, 0, 1, 9]].concat();
    vec![
        of(0, 3, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
        of(0, 3, b"GET / HTTP/1.1\r\n\r\n"),
        of(0, 1, b"\x16\x03\x01\x02\0\x01"),
        of(0, 1, b"\0\x01"),
        of(1, 9, &frames),
        of(1, 0, &frames[..40]),
        of(2, 2, &encode_message(&messages[0])),
        of(2, 2, b"\0\0\0\0\x03ab"),
        of(3, 5, &compressed),
        of(4, 6, &stream),
        of(4, 6, &cut_off),
        of(4, 2, b"ARROW1\0\0"),
    ]
}
