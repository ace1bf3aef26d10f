//! The request body of a caller without identity: small, and soon complete.
//!
//! Anybody may make such calls: handshakes, health checks, a few actions. They need one small message, so a body that is larger
//! or slower ends in an error, and what it occupies is free again.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::Status;

use crate::Error;

/// All messages of a call of a caller without identity together, bytes.
pub const MAX_UNIDENTIFIED: usize = 64 << 10;
/// All messages of such a call, and their end, must have arrived within this time.
pub const UNIDENTIFIED_TIMEOUT: Duration = Duration::from_secs(10);

/// A body that ends in RESOURCE_EXHAUSTED beyond [`MAX_UNIDENTIFIED`], and in DEADLINE_EXCEEDED if it has not ended within
/// [`UNIDENTIFIED_TIMEOUT`].
#[derive(Debug)]
pub struct UnidentifiedBody<B> {
    body: B,
    left: usize,
    timeout: Duration,
    deadline: Pin<Box<Sleep>>,
}

impl<B> UnidentifiedBody<B> {
    /// The body of a call that begins now. In a runtime of tokio.
    pub fn new(body: B) -> Self {
        Self::within(body, UNIDENTIFIED_TIMEOUT)
    }

    fn within(body: B, timeout: Duration) -> Self {
        UnidentifiedBody { body, left: MAX_UNIDENTIFIED, timeout, deadline: Box::pin(sleep(timeout)) }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for UnidentifiedBody<B>
where
    Status: From<B::Error>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                let Some(left) = this.left.checked_sub(length) else {
                    return Poll::Ready(Some(Err(too_large().into())));
                };
                this.left = left;
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => match this.deadline.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(Some(Err(too_slow(this.timeout).into()))),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn too_large() -> Error {
    Error::exhausted(format!(
        "the messages have more than {MAX_UNIDENTIFIED} bytes, the limit of a handshake and of callers that have not identified themselves"
    ))
}

fn too_slow(timeout: Duration) -> Error {
    Error::deadline(format!(
        "the request did not arrive within {timeout:?}, the limit of a handshake and of callers that have not identified themselves"
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures::{StreamExt, stream};
    use http_body_util::{BodyExt, StreamBody};

    use super::*;
    use crate::Code;

    fn frames(frames: Vec<Bytes>) -> impl futures::Stream<Item = Result<Frame<Bytes>, Status>> + Unpin {
        stream::iter(frames.into_iter().map(|data| Ok(Frame::data(data))))
    }

    #[tokio::test]
    async fn body_over_the_limit_is_refused() {
        let full = Bytes::from(vec![7; MAX_UNIDENTIFIED]);
        let body = UnidentifiedBody::new(StreamBody::new(frames(vec![full.clone()])));
        assert_eq!(body.collect().await.unwrap().to_bytes(), full);
        let body = UnidentifiedBody::new(StreamBody::new(frames(vec![full, Bytes::from_static(b"x")])));
        let error = Error::from(body.collect().await.unwrap_err());
        assert_eq!(error.code, Code::ResourceExhausted, "{error}");
    }

    #[tokio::test]
    async fn body_that_does_not_end_is_refused() {
        for sent in [vec![], vec![Bytes::from_static(b"half")]] {
            let body = StreamBody::new(frames(sent).chain(stream::pending()));
            let body = UnidentifiedBody::within(body, Duration::from_millis(50));
            let error = Error::from(body.collect().await.unwrap_err());
            assert_eq!(error.code, Code::DeadlineExceeded, "{error}");
        }
    }
}
