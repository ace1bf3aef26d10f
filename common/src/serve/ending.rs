//! Answers that are cut off say so: whoever reads a stream when the server's time is up is told to go on elsewhere.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame as BodyFrame, SizeHint};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

use super::body::{ReplyBody, ReplyData, grpc_error, trailers};

/// The answer of a call; one that is not there when the server must end (`end`) is UNAVAILABLE.
pub(super) async fn answer(
    call: impl Future<Output = Result<http::Response<ReplyBody>, Infallible>>,
    end: CancellationToken,
) -> Result<http::Response<Ending>, Infallible> {
    let reply = tokio::select! {
        biased;
        reply = call => reply?,
        () = end.cancelled() => grpc_error(Status::unavailable(
            "this member is stopping and had no answer in time: a change may or may not have taken effect; call another member, for a write with the same write id",
        )),
    };
    Ok(reply.map(|body| Ending::new(body, end)))
}

/// An answer that ends with UNAVAILABLE when its server must end.
pub(super) struct Ending {
    body: ReplyBody,
    /// `None` once that was said.
    end: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Ending {
    /// `end` is cancelled when the server must end.
    pub fn new(body: ReplyBody, end: CancellationToken) -> Self {
        Ending { body, end: Some(Box::pin(end.cancelled_owned())) }
    }
}

impl Body for Ending {
    type Data = ReplyData;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<BodyFrame<ReplyData>, Status>>> {
        let this = self.get_mut();
        let Some(end) = &mut this.end else { return Poll::Ready(None) };
        if end.as_mut().poll(cx).is_ready() {
            this.end = None;
            let status = Status::unavailable(
                "this member is stopping and the stream was not at its end in time: go on at another location",
            );
            return Poll::Ready(Some(Ok(BodyFrame::trailers(trailers(&status)))));
        }
        Pin::new(&mut this.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.end.is_none() || self.body.is_end_stream()
    }

    /// Not the body's: it may be cut off.
    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
