//! The FlightData messages of an HTTP/2 body, as a stream.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arrow_flight::FlightData;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::HeaderMap;
use http_body::{Body, Frame};
use tonic::Status;

use super::body_builder::{BodyAllocator, BodyBuilder};
use super::buffer_pool::BufferPool;
use super::flight_decoder::FlightDecoder;
use super::stall_timer::StallTimer;
use crate::{Code, Error, Result};

/// The FlightData messages of an HTTP/2 body; ends at its first error. `A` stores the bodies.
pub struct FlightDataStream<B, A: BodyAllocator = BufferPool> {
    body: B,
    /// Received and not decoded yet.
    received: Bytes,
    decoder: FlightDecoder<A>,
    trailers: Option<HeaderMap>,
    ended: bool,
    stall: Option<StallTimer>,
}

impl<B> FlightDataStream<B> {
    /// Rejects messages of more than `max_message` bytes.
    pub fn new(body: B, max_message: usize) -> Self {
        FlightDataStream::with_bodies(body, BufferPool::default(), max_message)
    }
}

impl<B, A: BodyAllocator> FlightDataStream<B, A> {
    /// Stores bodies in `bodies`; rejects messages of more than `max_message` bytes.
    pub fn with_bodies(body: B, bodies: A, max_message: usize) -> Self {
        let decoder = FlightDecoder::new(bodies, max_message);
        FlightDataStream { body, received: Bytes::new(), decoder, trailers: None, ended: false, stall: None }
    }

    /// Ends the stream in an error if a message that has begun does not advance for this long, see [`StallTimer`].
    /// Between messages the sender may take any time.
    pub fn with_stall_timeout(mut self, timeout: Duration) -> Self {
        self.stall = Some(StallTimer::new(timeout));
        self
    }

    /// The trailers after the last message: for a reply, the status.
    pub fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }
}

impl<B, A> FlightDataStream<B, A>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
    A: BodyAllocator<Builder: BodyBuilder<Body = Bytes>>,
{
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<FlightData>>> {
        loop {
            if !self.decoder.is_ready() {
                // Waiting for this member is no stall of the sender.
                self.stall.iter_mut().for_each(StallTimer::stop);
                ready!(self.decoder.poll_ready(cx))?;
            }
            if let Some(message) = self.decoder.push(&mut self.received)? {
                self.stall.iter_mut().for_each(StallTimer::stop);
                return Poll::Ready(Ok(Some(message.into())));
            }
            if !self.decoder.is_ready() {
                continue;
            }
            match ready!(self.poll_frame(cx))? {
                Some(frame) => match frame.into_data() {
                    Ok(data) => self.received = data,
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
                None if self.decoder.is_between_messages() => return Poll::Ready(Ok(None)),
                None => return Poll::Ready(Err(Error::invalid("the stream ends within a message"))),
            }
        }
    }

    /// The next frame; `None` at the end.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>>> {
        match (Pin::new(&mut self.body).poll_frame(cx), &mut self.stall) {
            (Poll::Ready(Some(Ok(frame))), stall) => {
                if let (Some(stall), Some(data)) = (stall, frame.data_ref()) {
                    stall.advance(data.len());
                }
                Poll::Ready(Ok(Some(frame)))
            }
            (Poll::Ready(Some(Err(status))), _) => Poll::Ready(Err(status.into())),
            (Poll::Ready(None), _) => Poll::Ready(Ok(None)),
            (Poll::Pending, Some(stall)) if !self.decoder.is_between_messages() => stall.poll_stalled(cx).map(Err),
            (Poll::Pending, _) => Poll::Pending,
        }
    }
}

impl<B, A> FlightDataStream<B, A>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
    A: BodyAllocator<Builder: BodyBuilder<Body = Bytes> + Unpin> + Unpin,
{
    /// The next message of a reply; none once it ended with OK. Cancelling the wait loses nothing.
    ///
    /// # Errors
    /// The status in the trailers, which takes precedence over how the body ended. UNAVAILABLE: there is none. Those of the
    /// messages.
    pub async fn next_of_reply(&mut self) -> Result<Option<FlightData>> {
        let next = self.next().await;
        if let Some(Ok(message)) = next {
            return Ok(Some(message));
        }
        match (self.trailers().and_then(Status::from_header_map), next) {
            (Some(status), _) if status.code() != Code::Ok => Err(status.into()),
            (_, Some(Err(error))) => Err(error),
            (Some(_), _) => Ok(None),
            (None, _) => Err(Error::unavailable("the response ended without a status")),
        }
    }
}

impl<B, A> Stream for FlightDataStream<B, A>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
    A: BodyAllocator<Builder: BodyBuilder<Body = Bytes> + Unpin> + Unpin,
{
    type Item = Result<FlightData>;

    /// Errors: those of [`FlightDecoder::push`] and of the body; INVALID_ARGUMENT if the body ends within a message;
    /// DEADLINE_EXCEEDED if a message stalls.
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let message = ready!(self.poll_message(cx));
        self.ended = !matches!(message, Ok(Some(_)));
        Poll::Ready(message.transpose())
    }
}
