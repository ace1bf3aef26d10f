//! Bodies of answers: messages go out in the pieces that they are in.

use std::fmt;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures::Stream;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame as BodyFrame, SizeHint};
use http_body_util::{BodyExt, Full};
use tonic::Status;

use crate::ipc::flight_encoder::FlightFrame;
use crate::proxy::Relayed;
use crate::{Error, Result};

/// The body of an answer.
#[derive(Debug)]
pub enum ReplyBody {
    /// Made by a tonic service.
    Tonic(tonic::body::Body),
    /// Messages around slices, then trailers.
    Frames(Frames),
    /// Another member's answer, passed on.
    Relayed(Relayed),
}

impl Default for ReplyBody {
    fn default() -> Self {
        ReplyBody::Tonic(tonic::body::Body::empty())
    }
}

/// What goes out at once: messages, or bytes as they came.
#[derive(Debug)]
pub enum ReplyData {
    /// Bytes of a tonic body or of another member.
    Bytes(Bytes),
    /// gRPC messages.
    Frame(FlightFrame),
}

impl Buf for ReplyData {
    fn remaining(&self) -> usize {
        match self {
            ReplyData::Bytes(bytes) => bytes.remaining(),
            ReplyData::Frame(frame) => frame.remaining(),
        }
    }

    fn chunk(&self) -> &[u8] {
        match self {
            ReplyData::Bytes(bytes) => bytes.chunk(),
            ReplyData::Frame(frame) => frame.chunk(),
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        match self {
            ReplyData::Bytes(bytes) => bytes.chunks_vectored(slices),
            ReplyData::Frame(frame) => frame.chunks_vectored(slices),
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            ReplyData::Bytes(bytes) => bytes.advance(count),
            ReplyData::Frame(frame) => frame.advance(count),
        }
    }
}

/// A stream of gRPC messages as a body: polled only as the client takes them, ended by trailers
/// that say OK or what went wrong.
pub struct Frames {
    /// `None` once the trailers are sent.
    stream: Option<Pin<Box<dyn Stream<Item = Result<FlightFrame>> + Send>>>,
}

impl Frames {
    /// Wraps the stream; it ends at its first error.
    pub fn new(stream: impl Stream<Item = Result<FlightFrame>> + Send + 'static) -> Self {
        Frames { stream: Some(Box::pin(stream)) }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<BodyFrame<ReplyData>>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
        let status = match ready!(stream.as_mut().poll_next(cx)) {
            Some(Ok(frame)) => return Poll::Ready(Some(BodyFrame::data(ReplyData::Frame(frame)))),
            Some(Err(error)) => {
                tracing::debug!(code = ?error.code, %error, "a stream ended in an error");
                Status::from(error)
            }
            None => Status::ok(""),
        };
        self.stream = None;
        Poll::Ready(Some(BodyFrame::trailers(trailers(&status))))
    }
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frames").field("ended", &self.stream.is_none()).finish()
    }
}

impl Body for ReplyBody {
    type Data = ReplyData;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<BodyFrame<ReplyData>, Status>>> {
        match self.get_mut() {
            ReplyBody::Tonic(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map(|f| f.map_data(ReplyData::Bytes))))
            }
            ReplyBody::Frames(frames) => frames.poll(cx).map(|frame| frame.map(Ok)),
            ReplyBody::Relayed(body) => body.poll(cx).map(|frame| frame.map(|f| Ok(f.map_data(ReplyData::Bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ReplyBody::Tonic(body) => body.is_end_stream(),
            ReplyBody::Frames(frames) => frames.stream.is_none(),
            ReplyBody::Relayed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ReplyBody::Tonic(body) => body.size_hint(),
            ReplyBody::Frames(_) | ReplyBody::Relayed(_) => SizeHint::default(),
        }
    }
}

/// The trailers of a gRPC answer that ends with `status`; its message is percent-encoded.
pub(crate) fn trailers(status: &Status) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(3);
    if status.add_header(&mut map).is_err() {
        map.insert("grpc-status", HeaderValue::from(status.code() as i32));
    }
    map
}

/// An answer that is nothing but an error.
pub fn grpc_error(status: impl Into<Status>) -> http::Response<ReplyBody> {
    status.into().into_http()
}

/// An answer of one message, its gRPC prefix before it.
pub fn grpc_message(framed: Bytes) -> http::Response<ReplyBody> {
    let body = Full::new(framed).with_trailers(std::future::ready(Some(Ok(trailers(&Status::ok(""))))));
    grpc_response(ReplyBody::Tonic(tonic::body::Body::new(body)))
}

/// An answer of messages.
pub fn grpc_frames(stream: impl Stream<Item = Result<FlightFrame>> + Send + 'static) -> http::Response<ReplyBody> {
    grpc_response(ReplyBody::Frames(Frames::new(stream)))
}

fn grpc_response(body: ReplyBody) -> http::Response<ReplyBody> {
    let mut response = http::Response::new(body);
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

impl From<Error> for http::Response<ReplyBody> {
    fn from(error: Error) -> Self {
        grpc_error(error)
    }
}
