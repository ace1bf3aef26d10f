//! Responses that a stopping server ends: the client gets UNAVAILABLE and fails over, instead of a broken connection.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame as BodyFrame, SizeHint};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

use super::reply_body::{ReplyBody, ReplyData, grpc_error};
use super::status::trailers;

/// The response of `call`, whose body ends when `end_streams` is cancelled. A call that has no response by then gets
/// UNAVAILABLE.
pub(crate) async fn respond_until(
    call: impl Future<Output = Result<http::Response<ReplyBody>, Infallible>>,
    end_streams: CancellationToken,
) -> Result<http::Response<DrainBody>, Infallible> {
    let reply = tokio::select! {
        biased;
        reply = call => reply?,
        () = end_streams.cancelled() => grpc_error(Status::unavailable(
            "this member is stopping and had no response in time: a change may or may not have taken effect; call another member, and repeat a write with the same write id",
        )),
    };
    Ok(reply.map(|body| DrainBody::new(body, end_streams)))
}

/// A response body that ends with UNAVAILABLE when its server must close the stream.
pub(crate) struct DrainBody {
    body: ReplyBody,
    /// `None` once the trailers UNAVAILABLE are sent.
    end: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl DrainBody {
    fn new(body: ReplyBody, end: CancellationToken) -> Self {
        DrainBody { body, end: Some(Box::pin(end.cancelled_owned())) }
    }
}

impl Body for DrainBody {
    type Data = ReplyData;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<BodyFrame<ReplyData>, Status>>> {
        let this = self.get_mut();
        let Some(end) = &mut this.end else { return Poll::Ready(None) };
        if end.as_mut().poll(cx).is_ready() {
            this.end = None;
            let status = Status::unavailable(
                "this member is stopping before the stream has ended: continue at another location",
            );
            return Poll::Ready(Some(Ok(BodyFrame::trailers(trailers(&status)))));
        }
        Pin::new(&mut this.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.end.is_none() || self.body.is_end_stream()
    }

    /// Unknown: the body may be cut off.
    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
