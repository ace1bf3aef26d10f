//! Response bodies, and gRPC responses built from them.
//!
//! tonic's own bodies copy every message. [`FrameStream`] sends messages as the slices that they consist of.

use std::fmt;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures::Stream;
use http::HeaderValue;
use http_body::{Body, Frame as BodyFrame, SizeHint};
use http_body_util::{BodyExt, Full};
use tonic::Status;

use super::proxied_body::{ProxiedBody, RelayedBytes};
use super::status::trailers;
use crate::ipc::flight_encoder::FlightFrame;
use crate::{Error, Result};

/// The body of a response.
#[derive(Debug)]
pub enum ReplyBody {
    /// Made by a tonic service.
    Tonic(tonic::body::Body),
    /// gRPC messages, then trailers.
    Frames(FrameStream),
    /// Another member's response.
    Proxied(ProxiedBody),
}

impl Default for ReplyBody {
    fn default() -> Self {
        ReplyBody::Tonic(tonic::body::Body::empty())
    }
}

/// The data of one body frame.
#[derive(Debug)]
pub enum ReplyData {
    /// Bytes of a tonic body.
    Bytes(Bytes),
    /// Bytes of another member.
    Relayed(RelayedBytes),
    /// gRPC messages.
    Frame(FlightFrame),
}

impl Buf for ReplyData {
    fn remaining(&self) -> usize {
        match self {
            ReplyData::Bytes(bytes) | ReplyData::Relayed(RelayedBytes { bytes, .. }) => bytes.remaining(),
            ReplyData::Frame(frame) => frame.remaining(),
        }
    }

    fn chunk(&self) -> &[u8] {
        match self {
            ReplyData::Bytes(bytes) | ReplyData::Relayed(RelayedBytes { bytes, .. }) => bytes.chunk(),
            ReplyData::Frame(frame) => frame.chunk(),
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        match self {
            ReplyData::Bytes(bytes) | ReplyData::Relayed(RelayedBytes { bytes, .. }) => bytes.chunks_vectored(slices),
            ReplyData::Frame(frame) => frame.chunks_vectored(slices),
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            ReplyData::Bytes(bytes) | ReplyData::Relayed(RelayedBytes { bytes, .. }) => bytes.advance(count),
            ReplyData::Frame(frame) => frame.advance(count),
        }
    }
}

/// A stream of gRPC messages as a body. It is polled only as fast as the client reads, and ends with trailers: OK or the
/// stream's error.
pub struct FrameStream {
    /// `None` once the trailers are sent.
    stream: Option<Pin<Box<dyn Stream<Item = Result<FlightFrame>> + Send>>>,
}

impl FrameStream {
    /// Wraps `stream`; the body ends at its first error.
    pub fn new(stream: impl Stream<Item = Result<FlightFrame>> + Send + 'static) -> Self {
        FrameStream { stream: Some(Box::pin(stream)) }
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

impl fmt::Debug for FrameStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameStream").field("ended", &self.stream.is_none()).finish()
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
            ReplyBody::Proxied(body) => body.poll(cx).map(|frame| frame.map(|f| Ok(f.map_data(ReplyData::Relayed)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ReplyBody::Tonic(body) => body.is_end_stream(),
            ReplyBody::Frames(frames) => frames.stream.is_none(),
            ReplyBody::Proxied(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ReplyBody::Tonic(body) => body.size_hint(),
            ReplyBody::Frames(_) | ReplyBody::Proxied(_) => SizeHint::default(),
        }
    }
}

/// A response that consists of an error alone.
pub fn grpc_error(status: impl Into<Status>) -> http::Response<ReplyBody> {
    status.into().into_http()
}

/// A response of one message; `framed` begins with the gRPC prefix.
pub fn grpc_message(framed: Bytes) -> http::Response<ReplyBody> {
    let body = Full::new(framed).with_trailers(std::future::ready(Some(Ok(trailers(&Status::ok(""))))));
    grpc_response(ReplyBody::Tonic(tonic::body::Body::new(body)))
}

/// A response of a stream of messages.
pub fn grpc_frames(stream: impl Stream<Item = Result<FlightFrame>> + Send + 'static) -> http::Response<ReplyBody> {
    grpc_response(ReplyBody::Frames(FrameStream::new(stream)))
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
