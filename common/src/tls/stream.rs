//! A connection with TLS or without. One without adds no copy and no allocation to the stream below.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;

use super::failure::explained;

/// A stream that is plaintext or TLS.
#[derive(Debug)]
pub enum MaybeTls<S> {
    /// The stream as it is.
    Plain(S),
    /// TLS over it.
    Tls(TlsPart<S>),
}

/// A TLS stream, of which some bytes may have been read.
#[derive(Debug)]
pub struct TlsPart<S> {
    /// Read before, and not yet passed on.
    first: Bytes,
    // Boxed: the state of TLS is a thousand bytes.
    stream: Box<TlsStream<S>>,
    /// Until the other side has sent something: what to say if it ends the connection before.
    end_hint: Option<Arc<str>>,
}

impl<S> MaybeTls<S> {
    /// A TLS stream.
    pub fn tls(stream: impl Into<TlsStream<S>>) -> Self {
        MaybeTls::Tls(TlsPart { first: Bytes::new(), stream: Box::new(stream.into()), end_hint: None })
    }

    /// The same stream, with what to say if the other side ends it before it has sent anything.
    #[must_use]
    pub fn with_end_hint(self, hint: Option<Arc<str>>) -> Self {
        match self {
            MaybeTls::Tls(tls) => MaybeTls::Tls(TlsPart { end_hint: hint, ..tls }),
            MaybeTls::Plain(stream) => MaybeTls::Plain(stream),
        }
    }

    /// Whether it is TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self, MaybeTls::Tls(_))
    }
}

impl<S> TlsPart<S> {
    /// A TLS stream that yields `first` before what it reads.
    pub fn with_first(stream: impl Into<TlsStream<S>>, first: Vec<u8>) -> Self {
        TlsPart { first: first.into(), stream: Box::new(stream.into()), end_hint: None }
    }

    /// The outcome in words for a user; with the hint, if this is how the connection ends.
    fn in_words<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        polled.map_err(|error| match &self.end_hint {
            Some(hint) if is_end(&error) => ended(hint),
            _ => explained(error),
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsPart<S> {
    fn poll_next(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (before, room) = (buffer.filled().len(), buffer.remaining());
        let polled = Pin::new(&mut *self.stream).poll_read(cx, buffer);
        if room == 0 || !matches!(polled, Poll::Ready(Ok(()))) {
            return self.in_words(polled);
        }
        match self.end_hint.take() {
            Some(hint) if buffer.filled().len() == before => Poll::Ready(Err(ended(&hint))),
            _ => polled,
        }
    }
}

fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

fn ended(hint: &str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, hint)
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for MaybeTls<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            MaybeTls::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            MaybeTls::Tls(tls) if !tls.first.is_empty() => {
                let length = tls.first.len().min(buffer.remaining());
                buffer.put_slice(&tls.first.split_to(length));
                Poll::Ready(Ok(()))
            }
            MaybeTls::Tls(tls) => tls.poll_next(cx, buffer),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for MaybeTls<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            MaybeTls::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            MaybeTls::Tls(tls) => {
                let polled = Pin::new(&mut *tls.stream).poll_write(cx, bytes);
                tls.in_words(polled)
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            MaybeTls::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            MaybeTls::Tls(tls) => {
                let polled = Pin::new(&mut *tls.stream).poll_write_vectored(cx, slices);
                tls.in_words(polled)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            MaybeTls::Plain(stream) => stream.is_write_vectored(),
            MaybeTls::Tls(tls) => tls.stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            MaybeTls::Plain(stream) => Pin::new(stream).poll_flush(cx),
            MaybeTls::Tls(tls) => {
                let polled = Pin::new(&mut *tls.stream).poll_flush(cx);
                tls.in_words(polled)
            }
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            MaybeTls::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            MaybeTls::Tls(tls) => {
                let polled = Pin::new(&mut *tls.stream).poll_shutdown(cx);
                tls.in_words(polled)
            }
        }
    }
}
