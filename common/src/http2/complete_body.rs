//! Request bodies that end only with END_STREAM.
//!
//! If a client disappears, its stream is reset. tonic treats a reset with CANCEL, and hyper one with NO_ERROR, as the
//! end of the request, so an incomplete put would look complete. Here both are errors.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tonic::Status;

/// A body that ends without an error only if the client sent END_STREAM.
#[derive(Debug)]
pub struct CompleteBody<B>(pub B);

impl<B> Body for CompleteBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.0).poll_frame(cx));
        Poll::Ready(match frame {
            Some(Ok(frame)) => Some(Ok(frame)),
            Some(Err(error)) => Some(Err(broken(&error.to_string()))),
            None if self.0.is_end_stream() => None,
            None => Some(Err(broken("the stream was reset"))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// UNAVAILABLE, not CANCELLED, which tonic treats as the end of the stream.
fn broken(why: &str) -> Status {
    Status::unavailable(format!("the client's request was interrupted: {why}"))
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use http_body_util::BodyExt;

    use super::*;

    /// A body that stops after `frames`; `ended`: with END_STREAM.
    struct TruncatedBody {
        frames: u32,
        ended: bool,
    }

    impl Body for TruncatedBody {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            if self.frames == 0 {
                return Poll::Ready(None);
            }
            self.frames -= 1;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
        }

        fn is_end_stream(&self) -> bool {
            self.frames == 0 && self.ended
        }
    }

    #[tokio::test]
    async fn reset_stream_is_an_error() {
        let frames: Vec<_> =
            CompleteBody(TruncatedBody { frames: 1, ended: false }).into_data_stream().take(2).collect().await;
        assert!(frames[0].is_ok());
        assert_eq!(frames[1].as_ref().unwrap_err().code(), tonic::Code::Unavailable);
        let complete: Vec<_> =
            CompleteBody(TruncatedBody { frames: 1, ended: true }).into_data_stream().collect().await;
        assert!(complete.len() == 1 && complete[0].is_ok());
    }
}
