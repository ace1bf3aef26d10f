//! Responses that a stopping server ends: the client gets UNAVAILABLE and fails over, instead of a broken connection.

use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::{Body, Frame as BodyFrame, SizeHint};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

use super::held_by_reply::{HeldByReply, take_held};
use super::reply_body::{ReplyBody, ReplyData, grpc_error};
use super::served_call::ServedCall;
use super::status::trailers;
use crate::telemetry::calls::CallTimer;

/// The response of `call`, whose body ends when `end_streams` is cancelled. A call that has no response by then gets
/// UNAVAILABLE.
pub(crate) async fn respond_until(
    served: ServedCall,
    call: impl Future<Output = Result<http::Response<ReplyBody>, Infallible>>,
    end_streams: CancellationToken,
) -> Result<http::Response<DrainBody>, Infallible> {
    let mut timer = served.timer();
    let mut reply = tokio::select! {
        biased;
        reply = served.run(call) => reply?,
        () = end_streams.cancelled() => grpc_error(Status::unavailable(
            "this member is stopping and had no response in time: a change may or may not have taken effect; call another member, and repeat a write with the same write id",
        )),
    };
    served.finish_headers(reply.headers_mut());
    timer.note_status(reply.headers());
    if reply.status() != http::StatusCode::OK {
        // It is no gRPC.
        timer.note_end();
    }
    let held = take_held(&mut reply);
    Ok(reply.map(|body| DrainBody::new(body, served, timer, end_streams, held)))
}

/// A response body that ends with UNAVAILABLE when its server must close the stream, and with INTERNAL after a panic.
pub(crate) struct DrainBody {
    body: ReplyBody,
    served: ServedCall,
    /// Measures the call until this is dropped.
    timer: CallTimer,
    /// `None` once this body has sent trailers of its own.
    end: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// What the call holds as long as its body.
    _held: Option<HeldByReply>,
}

impl DrainBody {
    fn new(
        body: ReplyBody,
        served: ServedCall,
        timer: CallTimer,
        end: CancellationToken,
        held: Option<HeldByReply>,
    ) -> Self {
        DrainBody { body, served, timer, end: Some(Box::pin(end.cancelled_owned())), _held: held }
    }

    /// The last frame, in place of the rest of the body.
    fn end_with(&mut self, status: &Status) -> Option<Result<BodyFrame<ReplyData>, Status>> {
        self.end = None;
        let trailers = self.finished(trailers(status));
        Some(Ok(BodyFrame::trailers(trailers)))
    }

    fn finished(&mut self, mut trailers: http::HeaderMap) -> http::HeaderMap {
        self.served.finish_status(&mut trailers);
        self.timer.note_status(&trailers);
        trailers
    }
}

impl Body for DrainBody {
    type Data = ReplyData;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<BodyFrame<ReplyData>, Status>>> {
        let this = self.get_mut();
        let Some(end) = &mut this.end else { return Poll::Ready(None) };
        if end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(this.end_with(&Status::unavailable(
                "this member is stopping before the stream has ended: continue at another location",
            )));
        }
        // A body that panicked is not polled again.
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let _entered = this.served.enter();
            Pin::new(&mut this.body).poll_frame(cx)
        }));
        let frame = match polled {
            Ok(frame) => ready!(frame),
            Err(panic) => {
                let status = this.served.panicked(&*panic);
                return Poll::Ready(this.end_with(&status));
            }
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) if frame.is_trailers() => match frame.into_trailers() {
                Ok(trailers) => Some(Ok(BodyFrame::trailers(this.finished(trailers)))),
                Err(frame) => Some(Ok(frame)),
            },
            Some(Ok(frame)) => {
                this.timer.note_data();
                Some(Ok(frame))
            }
            ended => {
                this.timer.note_end();
                ended
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.end.is_none() || self.body.is_end_stream()
    }

    /// Unknown: the body may be cut off.
    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
