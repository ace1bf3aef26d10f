//! When something was last received from a member, over any of its connections: a sign that its process runs.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// When this process last received bytes from one member.
#[derive(Debug)]
pub struct LastReceived {
    created: Instant,
    /// Nanoseconds from `created` on; 0: nothing yet.
    after: AtomicU64,
}

impl Default for LastReceived {
    fn default() -> Self {
        LastReceived { created: Instant::now(), after: AtomicU64::new(0) }
    }
}

impl LastReceived {
    fn record(&self) {
        self.after.store(self.created.elapsed().as_nanos().max(1) as u64, Ordering::Relaxed);
    }

    /// When that was; none if nothing was received yet.
    pub(super) fn at(&self) -> Option<Instant> {
        match self.after.load(Ordering::Relaxed) {
            0 => None,
            after => Some(self.created + Duration::from_nanos(after)),
        }
    }
}

/// A connection to a member that records when bytes arrive.
#[derive(Debug)]
pub struct ObservedStream<S> {
    stream: S,
    received: Arc<LastReceived>,
}

impl<S> ObservedStream<S> {
    /// Nothing of `stream` is recorded before.
    pub(super) fn new(stream: S, received: Arc<LastReceived>) -> Self {
        ObservedStream { stream, received }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ObservedStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (observed, before) = (self.get_mut(), buffer.filled().len());
        let polled = Pin::new(&mut observed.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            observed.received.record();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ObservedStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_received_bytes_are_recorded() {
        let (near, mut far) = tokio::io::duplex(64);
        let received = Arc::new(LastReceived::default());
        let mut near = ObservedStream::new(near, received.clone());
        tokio::time::advance(Duration::from_secs(1)).await;
        near.write_all(b"request").await.unwrap();
        assert_eq!(received.at(), None, "sent bytes say nothing about the other side");
        far.write_all(b"reply").await.unwrap();
        let mut reply = [0; 5];
        near.read_exact(&mut reply).await.unwrap();
        assert_eq!(received.at(), Some(Instant::now()));
        let before = received.at();
        tokio::time::advance(Duration::from_secs(1)).await;
        drop(far);
        assert_eq!(near.read(&mut reply).await.unwrap(), 0);
        assert_eq!(received.at(), before, "an end is no sign of a process that runs");
    }
}
