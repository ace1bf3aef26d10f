//! gRPC on the wire, for the calls that are not left to tonic: before every message a flag and its length.

use std::fmt::Display;
use std::time::Duration;

use arrow_flight::Ticket;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response, Version, header};
use http_body::Body;
use http_body_util::BodyExt;
use prost::Message;
use tonic::Status;

use crate::{Code, Error, Result};

/// Bytes before every message: whether it is compressed, and its length in four of them.
pub const PREFIX: usize = 5;
/// The path of DoGet.
pub const DO_GET: &str = "/arrow.flight.protocol.FlightService/DoGet";
/// A caller whose message is here only in part after this long is given up.
const DEADLINE: Duration = Duration::from_secs(30);

/// The length of the message behind a prefix.
///
/// # Errors
/// UNIMPLEMENTED: it is compressed. RESOURCE_EXHAUSTED: it has more than `most` bytes.
pub fn length(prefix: &[u8; PREFIX], most: usize) -> Result<usize> {
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 {
        return Err(Error::unimplemented(
            "gRPC messages are not taken compressed: switch the compression of the channel off (Arrow's own is taken)",
        ));
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > most {
        return Err(Error::exhausted(format!("a message of {length} bytes is over the limit of {most}")));
    }
    Ok(length)
}

/// A message with its prefix. It must be smaller than 4 GiB.
pub fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX + length);
    out.put_u8(0);
    out.put_u32(length as u32);
    // It has room.
    let _ = message.encode(&mut out);
    out.freeze()
}

/// The one message of a call.
///
/// # Errors
/// Those of [`length`]. INVALID_ARGUMENT: there is none, or not all of it, or more. CANCELLED: the caller broke off.
/// DEADLINE_EXCEEDED: it is not here within 30 s.
pub async fn read<B>(body: B, most: usize) -> Result<Bytes>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Display,
{
    tokio::time::timeout(DEADLINE, collect(body, most))
        .await
        .unwrap_or_else(|_| Err(Error::deadline("the message did not arrive within 30 s")))
}

async fn collect<B>(mut body: B, most: usize) -> Result<Bytes>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Display,
{
    let mut received = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Error::cancelled(format!("the client broke off its request: {e}")))?;
        received.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        if let Some(prefix) = received.first_chunk::<PREFIX>()
            && received.len() > PREFIX + length(prefix, most)?
        {
            return Err(Error::invalid("the call has more than one message"));
        }
    }
    let Some(prefix) = received.first_chunk::<PREFIX>() else {
        return Err(Error::invalid("the call came without a message"));
    };
    let length = length(prefix, most)?;
    received.advance(PREFIX);
    if received.len() < length {
        return Err(Error::invalid(format!("the message says {length} bytes and has {}", received.len())));
    }
    Ok(received.freeze())
}

/// A call of DoGet; the connection adds where to.
pub fn do_get(ticket: impl Into<Bytes>) -> Request<Bytes> {
    let mut request = Request::new(framed(&Ticket { ticket: ticket.into() }));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static(DO_GET);
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request
}

/// The body of an answer that is not an error at once.
///
/// # Errors
/// What the answer is. UNAVAILABLE: it is not gRPC's.
pub fn accepted<B>(response: Response<B>) -> Result<B> {
    let (head, body) = response.into_parts();
    match Status::from_header_map(&head.headers) {
        Some(status) if status.code() != Code::Ok => Err(status.into()),
        _ if head.status != http::StatusCode::OK => {
            Err(Error::unavailable(format!("the answer has HTTP status {}", head.status)))
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

    /// Reads a body that comes in pieces of `step` bytes.
    async fn read_in(bytes: &[u8], step: usize) -> Result<Bytes> {
        let pieces: Vec<_> =
            bytes.chunks(step).map(|c| Ok::<_, Error>(Frame::data(Bytes::copy_from_slice(c)))).collect();
        read(StreamBody::new(stream::iter(pieces)), 100).await
    }

    #[tokio::test]
    async fn a_message_survives_however_it_is_cut() {
        let ticket = Ticket { ticket: Bytes::from_static(b"a/b") };
        for step in 1..10 {
            assert_eq!(Ticket::decode(read_in(&framed(&ticket), step).await.unwrap()).unwrap(), ticket);
        }
        assert_eq!(read_in(&[0; PREFIX], 9).await.unwrap(), Bytes::new());
    }

    #[tokio::test]
    async fn broken_messages_are_refused() {
        let good = framed(&Ticket { ticket: Bytes::from_static(b"abc") });
        let mut long = good.to_vec();
        long.push(0);
        for bad in [&good[..good.len() - 1], &good[..3], b"", b"\0\0\0\0\x03\xff\xff", &long] {
            assert_eq!(read_in(bad, 2).await.unwrap_err().code, Code::InvalidArgument, "{bad:?}");
        }
        assert_eq!(read_in(&[1, 0, 0, 0, 0], 2).await.unwrap_err().code, Code::Unimplemented);
        assert_eq!(read_in(&[0, 0, 0, 0, 101], 2).await.unwrap_err().code, Code::ResourceExhausted);
    }
}
