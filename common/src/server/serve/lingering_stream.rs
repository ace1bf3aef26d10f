//! A TCP stream whose first bytes were read already, and that is closed only after the client has read what was sent.
//!
//! A server that closes a socket while the client still sends (an HTTP/2 client sends a WINDOW_UPDATE for what it reads)
//! makes the kernel answer with a reset, and the reset discards what the client has not received yet: the end of a stream
//! would be lost. So the connection hands its socket back when it is done, and the server reads until the client closes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// A client that sends nothing for this long after the server's last byte no longer delays the close.
const LINGER_IDLE: Duration = Duration::from_secs(1);

/// The stream of a connection. When it is dropped, its socket goes to the [`LingeringSocket`].
pub struct LingeringStream {
    /// `None` only during the drop.
    stream: Option<TcpStream>,
    /// Read before, and not yet passed on.
    first: Bytes,
    socket: Option<oneshot::Sender<TcpStream>>,
}

/// The socket of a connection that may still be in use.
pub struct LingeringSocket(oneshot::Receiver<TcpStream>);

/// Wraps a connection's socket, of which `first` was read before.
pub fn lingering(stream: TcpStream, first: Vec<u8>) -> (LingeringStream, LingeringSocket) {
    let (socket, dropped) = oneshot::channel();
    let stream = LingeringStream { stream: Some(stream), first: first.into(), socket: Some(socket) };
    (stream, LingeringSocket(dropped))
}

impl LingeringSocket {
    /// Reads and discards until the client closes, or is idle. The connection must have been dropped.
    pub async fn close(self) {
        let Ok(mut stream) = self.0.await else { return };
        let mut discarded = [0; 1024];
        while let Ok(Ok(1..)) = tokio::time::timeout(LINGER_IDLE, stream.read(&mut discarded)).await {}
    }
}

impl Drop for LingeringStream {
    fn drop(&mut self) {
        if let (Some(stream), Some(socket)) = (self.stream.take(), self.socket.take()) {
            // Without a receiver the socket is closed here.
            let _ = socket.send(stream);
        }
    }
}

impl LingeringStream {
    fn stream(self: Pin<&mut Self>) -> io::Result<Pin<&mut TcpStream>> {
        self.get_mut().stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl AsyncRead for LingeringStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let length = self.first.len().min(buffer.remaining());
            buffer.put_slice(&self.first.split_to(length));
            return Poll::Ready(Ok(()));
        }
        self.stream()?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for LingeringStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}
