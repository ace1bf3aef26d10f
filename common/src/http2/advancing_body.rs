//! Request bodies whose messages must advance, for readers that gather a message without a deadline.
//!
//! A message that has begun takes memory until it is complete. So it must advance ([`StallTimer`]), and the incomplete
//! messages of all clients together are bounded. Between messages, and for a reader that takes none, there is no limit. The
//! framing is read as it passes; whether a message is compressed makes no difference to it.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tonic::Status;

use crate::grpc::PREFIX;
use crate::ipc::stall_timer::StallTimer;
use crate::{Error, Result};

/// A message must advance within this time.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// All incomplete messages of clients together, bytes.
const MAX_INCOMPLETE: usize = 256 << 20;

/// Bytes of incomplete messages of clients that have arrived.
static ALL_INCOMPLETE: AtomicUsize = AtomicUsize::new(0);

/// A body that ends in DEADLINE_EXCEEDED if a message in it does not advance, and in RESOURCE_EXHAUSTED if the incomplete
/// messages of all clients take too much memory.
#[derive(Debug)]
pub struct AdvancingBody<B> {
    body: B,
    stall: StallTimer,
    message: ArrivingMessage,
}

impl<B> AdvancingBody<B> {
    /// A client's body.
    pub fn new(body: B) -> Self {
        AdvancingBody {
            body,
            stall: StallTimer::new(STALL_TIMEOUT),
            message: ArrivingMessage::new(Some(&ALL_INCOMPLETE)),
        }
    }

    /// Another time within which a message must advance.
    pub fn with_stall_timeout(self, timeout: Duration) -> Self {
        AdvancingBody { stall: StallTimer::new(timeout), ..self }
    }

    /// A member's body. What clients send must not keep members from calling each other, so it is not counted.
    pub fn of_member(body: B) -> Self {
        AdvancingBody { message: ArrivingMessage::new(None), ..AdvancingBody::new(body) }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for AdvancingBody<B>
where
    Status: From<B::Error>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    this.stall.advance(data.len());
                    match this.message.push(data) {
                        Ok(true) => this.stall.stop(),
                        Ok(false) => {}
                        Err(error) => return Poll::Ready(Some(Err(error.into()))),
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(end) => {
                // The reader has what arrived, or drops it.
                this.message.count(0)?;
                Poll::Ready(end.map(|frame| frame.map_err(Status::from)))
            }
            Poll::Pending if this.message.has_begun() => {
                Poll::Ready(Some(Err(ready!(this.stall.poll_stalled(cx)).into())))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How much of a message has arrived.
#[derive(Debug)]
struct ArrivingMessage {
    /// Counts the bytes of all incomplete messages.
    all: Option<&'static AtomicUsize>,
    prefix: [u8; PREFIX],
    /// Bytes of the prefix, then of the message, that have arrived.
    arrived: usize,
    /// This message's bytes in `all`.
    counted: usize,
}

impl ArrivingMessage {
    fn new(all: Option<&'static AtomicUsize>) -> Self {
        ArrivingMessage { all, prefix: [0; PREFIX], arrived: 0, counted: 0 }
    }

    fn has_begun(&self) -> bool {
        self.arrived > 0
    }

    /// Takes the next bytes; returns whether a message was completed by them.
    fn push(&mut self, mut data: &[u8]) -> Result<bool> {
        let mut completed = false;
        while !data.is_empty() {
            let taken = if self.arrived < PREFIX {
                let taken = data.len().min(PREFIX - self.arrived);
                self.prefix[self.arrived..self.arrived + taken].copy_from_slice(&data[..taken]);
                taken
            } else {
                data.len().min(self.length() - self.arrived)
            };
            self.arrived += taken;
            data = &data[taken..];
            if self.arrived >= PREFIX && self.arrived == self.length() {
                self.arrived = 0;
                completed = true;
            }
        }
        self.count(self.arrived)?;
        Ok(completed)
    }

    /// Bytes of the prefix and the message. Only with a complete prefix.
    fn length(&self) -> usize {
        let [_, a, b, c, d] = self.prefix;
        PREFIX + u32::from_be_bytes([a, b, c, d]) as usize
    }

    /// Counts this many bytes instead of what was counted before.
    fn count(&mut self, bytes: usize) -> Result<()> {
        let Some(counter) = self.all else { return Ok(()) };
        let before = std::mem::replace(&mut self.counted, bytes);
        if bytes <= before {
            counter.fetch_sub(before - bytes, Ordering::Relaxed);
            return Ok(());
        }
        let all = counter.fetch_add(bytes - before, Ordering::Relaxed) + bytes - before;
        if all > MAX_INCOMPLETE {
            return Err(Error::exhausted(format!(
                "requests that are not complete take all of {MAX_INCOMPLETE} bytes now: try again"
            )));
        }
        Ok(())
    }
}

impl Drop for ArrivingMessage {
    fn drop(&mut self) {
        // Less is always possible.
        let _ = self.count(0);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures::{StreamExt, stream};
    use http_body_util::{BodyExt, StreamBody};

    use super::*;
    use crate::Code;

    fn framed(message: &[u8]) -> Vec<u8> {
        [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat()
    }

    #[test]
    fn end_of_a_message_is_seen_whatever_its_pieces() {
        let wire = [framed(b"first"), framed(b""), framed(&[7; 300])].concat();
        let ends = [10, 15, 320];
        for step in [1, 3, 7, 1000] {
            let (mut message, mut at) = (ArrivingMessage::new(None), 0);
            for piece in wire.chunks(step) {
                let passed = at..at + piece.len();
                at += piece.len();
                let ended = ends.iter().any(|end| passed.contains(&(end - 1)));
                assert_eq!(message.push(piece).unwrap(), ended, "{step}: {passed:?}");
                assert_eq!(message.has_begun(), !ends.contains(&at), "{step}: {at}");
            }
        }
    }

    #[tokio::test]
    async fn half_a_message_ends_in_deadline_exceeded() {
        let wire = framed(&[7; 1000]);
        for (sent, stalls) in [(0, false), (1, true), (PREFIX, true), (500, true), (wire.len(), false)] {
            let frame = (sent > 0).then(|| Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(&wire[..sent]))));
            let body = AdvancingBody::new(StreamBody::new(stream::iter(frame).chain(stream::pending())));
            let body = body.with_stall_timeout(Duration::from_millis(50));
            // A message that should stall is waited for; one that should not cannot be waited for for ever.
            let patience = if stalls { Duration::from_secs(30) } else { Duration::from_millis(300) };
            let read = tokio::time::timeout(patience, body.collect()).await;
            assert_eq!(read.is_ok(), stalls, "{sent} bytes");
            if let Ok(read) = read {
                assert_eq!(read.unwrap_err().code(), Code::DeadlineExceeded, "{sent} bytes");
            }
        }
    }

    #[tokio::test]
    async fn message_after_a_pause_has_its_own_time() {
        const FRAMES: usize = 30;
        let wire = framed(&[7; 100]);
        // Every frame ends one message and begins the next.
        let frame = Bytes::from([&wire[50..], &wire[..50]].concat());
        let frames = stream::iter(vec![frame; FRAMES]).then(|data| async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok::<_, Status>(Frame::data(data))
        });
        let first = stream::iter([Ok(Frame::data(Bytes::copy_from_slice(&wire[..50])))]);
        let body = AdvancingBody::new(StreamBody::new(Box::pin(first.chain(frames))));
        // All of them take longer.
        let body = body.with_stall_timeout(Duration::from_secs(1));
        assert_eq!(body.collect().await.unwrap().to_bytes().len(), 50 + FRAMES * wire.len());
    }

    #[test]
    fn incomplete_messages_of_clients_are_bounded() {
        static ALL: AtomicUsize = AtomicUsize::new(0);
        let half = |length: u32| [&[0][..], &length.to_be_bytes(), &[7; 100]].concat();
        let mut messages: Vec<_> = (0..2).map(|_| ArrivingMessage::new(Some(&ALL))).collect();
        messages[0].count(MAX_INCOMPLETE - 150).unwrap();
        messages[1].push(&half(1000)).unwrap();
        let error = messages[1].push(&[7; 100]).unwrap_err();
        assert_eq!(error.code, Code::ResourceExhausted, "{error}");
        ArrivingMessage::new(None).push(&half(1000)).unwrap();
        messages.clear();
        let mut next = ArrivingMessage::new(Some(&ALL));
        next.push(&half(1000)).unwrap();
        assert_eq!(next.counted, PREFIX + 100);
        next.push(&[7; 900]).unwrap();
        assert_eq!(ALL.load(Ordering::Relaxed), 0, "a complete message is its reader's");
    }
}
