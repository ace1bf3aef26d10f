//! Request bodies that do not end before their end.
//!
//! A client that vanishes resets its stream. tonic takes a reset by CANCEL, and hyper one by NO_ERROR, for
//! the end of the request, so half a put would look like a whole one. Here both are errors.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tonic::Status;

/// A body whose end is the client's own word: END_STREAM.
#[derive(Debug)]
pub struct Whole<B>(pub B);

impl<B> Body for Whole<B>
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

/// Not CANCELLED: that is what tonic takes for an end.
fn broken(why: &str) -> Status {
    Status::unavailable(format!("the client's request broke off: {why}"))
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use http_body_util::BodyExt;

    use super::*;

    /// A body that stops after one frame; `ended`: by the client's own word.
    struct Stops {
        frames: u32,
        ended: bool,
    }

    impl Body for Stops {
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
    async fn a_reset_is_no_end() {
        let frames: Vec<_> = Whole(Stops { frames: 1, ended: false }).into_data_stream().take(2).collect().await;
        assert!(frames[0].is_ok());
        assert_eq!(frames[1].as_ref().unwrap_err().code(), tonic::Code::Unavailable);
        let whole: Vec<_> = Whole(Stops { frames: 1, ended: true }).into_data_stream().collect().await;
        assert!(whole.len() == 1 && whole[0].is_ok());
    }
}
