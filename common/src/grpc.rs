//! gRPC message framing, for calls that bypass tonic: a flag and the length precede every message.

use std::fmt::Display;
use std::time::Duration;

use arrow_flight::{FlightEndpoint, Ticket};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response, Version, header};
use http_body::Body;
use http_body_util::BodyExt;
use prost::Message;
use tonic::Status;

use crate::error::RETRY_PUSHBACK;
use crate::{Code, Error, Result};

/// Bytes of the prefix of every message: a compression flag, then the length as four bytes, big-endian.
pub const PREFIX: usize = 5;
/// The header of a Handshake's reply with the member's clock, in milliseconds since 1970.
pub const NOW_HEADER: &str = "x-volley-now-ms";
/// The path of Flight's methods, before their names.
pub const FLIGHT_SERVICE: &str = "/arrow.flight.protocol.FlightService/";
/// The path of DoGet.
pub const DO_GET: &str = "/arrow.flight.protocol.FlightService/DoGet";
/// The path of Handshake.
pub const HANDSHAKE: &str = "/arrow.flight.protocol.FlightService/Handshake";
/// The path of DoAction.
pub const DO_ACTION: &str = "/arrow.flight.protocol.FlightService/DoAction";
const FLIGHT_METHODS: [&str; 10] = [
    "Handshake",
    "ListFlights",
    "GetFlightInfo",
    "PollFlightInfo",
    "GetSchema",
    "DoGet",
    "DoPut",
    "DoExchange",
    "DoAction",
    "ListActions",
];
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
/// A message must be complete within this time.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// The name of a method of Flight for metrics and the audit log; "other" for what is none, which a client may have made up.
pub fn known_method(name: &str) -> &'static str {
    FLIGHT_METHODS.into_iter().find(|known| *known == name).unwrap_or("other")
}

/// The length of the message that follows a prefix.
///
/// # Errors
/// UNIMPLEMENTED: it is compressed. RESOURCE_EXHAUSTED: it has more than `max` bytes.
pub fn message_length(prefix: &[u8; PREFIX], max: usize) -> Result<usize> {
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 {
        return Err(Error::unimplemented(
            "a gRPC message is compressed, but the call's header grpc-encoding names no compression: send grpc-encoding: gzip",
        ));
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > max {
        return Err(Error::exhausted(format!("a message of {length} bytes is over the limit of {max}")));
    }
    Ok(length)
}

/// The status of an error that passes: the client should repeat the call after this time.
pub fn retry_later(error: Error, after_ms: u64) -> Status {
    error.retry_after(after_ms).into()
}

/// How long the server asks to wait before the call is repeated.
pub fn retry_after(status: &Status) -> Option<Duration> {
    let value = status.metadata().get(RETRY_PUSHBACK)?.to_str().ok()?;
    value.parse().ok().map(Duration::from_millis)
}

/// A message with its prefix. It must be smaller than 4 GiB.
pub fn encode_message(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX + length);
    out.put_u8(0);
    out.put_u32(length as u32);
    // The buffer is large enough.
    let _ = message.encode(&mut out);
    out.freeze()
}

/// An encoded message with its prefix. It must be smaller than 4 GiB.
pub fn frame_message(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(PREFIX + message.len());
    out.put_u8(0);
    out.put_u32(message.len() as u32);
    out.extend_from_slice(message);
    out.freeze()
}

/// Reads the one message of a call, of at most `max` bytes.
///
/// # Errors
/// Those of [`message_length`]. INVALID_ARGUMENT: there is no message, a part of one, or more than one. CANCELLED: the
/// request was interrupted. DEADLINE_EXCEEDED: the message did not arrive within 30 s.
pub async fn read_message<B>(body: B, max: usize) -> Result<Bytes>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Display,
{
    tokio::time::timeout(MESSAGE_TIMEOUT, collect(body, max))
        .await
        .unwrap_or_else(|_| Err(Error::deadline("the message did not arrive within 30 s")))
}

async fn collect<B>(mut body: B, max: usize) -> Result<Bytes>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Display,
{
    let mut received = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Error::cancelled(format!("the client's request was interrupted: {e}")))?;
        received.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        if let Some(prefix) = received.first_chunk::<PREFIX>()
            && received.len() > PREFIX + message_length(prefix, max)?
        {
            return Err(Error::invalid("the call has more than one message"));
        }
    }
    let Some(prefix) = received.first_chunk::<PREFIX>() else {
        return Err(Error::invalid("the call has no message"));
    };
    let length = message_length(prefix, max)?;
    received.advance(PREFIX);
    if received.len() < length {
        return Err(Error::invalid(format!("the message should have {length} bytes and has {}", received.len())));
    }
    Ok(received.freeze())
}

/// A DoGet request without an authority; the connection adds it.
pub fn do_get_request(ticket: impl Into<Bytes>) -> Request<Bytes> {
    request(DO_GET, encode_message(&Ticket { ticket: ticket.into() }))
}

/// A request for the health of a server as a whole.
pub fn health_request() -> Request<Bytes> {
    request(HEALTH_CHECK, Bytes::from_static(&[0; PREFIX]))
}

fn request(path: &'static str, message: Bytes) -> Request<Bytes> {
    let mut request = Request::new(message);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static(path);
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request
}

/// When the ticket of an endpoint expires, milliseconds since 1970 by the clock of the members; none if it does not say so.
pub fn endpoint_expiry_ms(endpoint: &FlightEndpoint) -> Option<u64> {
    let time = endpoint.expiration_time.as_ref()?;
    let millis = u64::try_from(time.nanos).unwrap_or(0) / 1_000_000;
    Some(u64::try_from(time.seconds).ok()?.saturating_mul(1000).saturating_add(millis))
}

/// The body of a response, unless its headers are an error.
///
/// # Errors
/// The error of the response. UNAVAILABLE: it is not a gRPC response.
pub fn response_body<B>(response: Response<B>) -> Result<B> {
    let (head, body) = response.into_parts();
    match Status::from_header_map(&head.headers) {
        Some(status) if status.code() != Code::Ok => Err(status.into()),
        _ if head.status != http::StatusCode::OK => {
            Err(Error::unavailable(format!("the response has HTTP status {}", head.status)))
        }
        _ => Ok(body),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    /// Reads a body that arrives in pieces of `step` bytes.
    async fn read_in(bytes: &[u8], step: usize) -> Result<Bytes> {
        let pieces: Vec<_> =
            bytes.chunks(step).map(|c| Ok::<_, Error>(Frame::data(Bytes::copy_from_slice(c)))).collect();
        read_message(StreamBody::new(stream::iter(pieces)), 100).await
    }

    #[tokio::test]
    async fn message_is_read_from_pieces_of_any_size() {
        let ticket = Ticket { ticket: Bytes::from_static(b"a/b") };
        for step in 1..10 {
            assert_eq!(Ticket::decode(read_in(&encode_message(&ticket), step).await.unwrap()).unwrap(), ticket);
        }
        assert_eq!(read_in(&[0; PREFIX], 9).await.unwrap(), Bytes::new());
        assert_eq!(frame_message(&ticket.encode_to_vec()), encode_message(&ticket));
    }

    #[test]
    fn status_tells_when_to_repeat_the_call() {
        let status = retry_later(Error::exhausted("busy"), 250);
        assert_eq!((status.code(), retry_after(&status)), (Code::ResourceExhausted, Some(Duration::from_millis(250))));
        assert_eq!(status.metadata().get("retry-after-ms").unwrap(), "250");
        assert_eq!(retry_after(&Error::exhausted("full").into()), None);
    }

    #[tokio::test]
    async fn broken_messages_are_rejected() {
        let good = encode_message(&Ticket { ticket: Bytes::from_static(b"abc") });
        let mut long = good.to_vec();
        long.push(0);
        for bad in [&good[..good.len() - 1], &good[..3], b"", b"\0\0\0\0\x03\xff\xff", &long] {
            assert_eq!(read_in(bad, 2).await.unwrap_err().code, Code::InvalidArgument, "{bad:?}");
        }
        assert_eq!(read_in(&[1, 0, 0, 0, 0], 2).await.unwrap_err().code, Code::Unimplemented);
        assert_eq!(read_in(&[0, 0, 0, 0, 101], 2).await.unwrap_err().code, Code::ResourceExhausted);
    }
}
