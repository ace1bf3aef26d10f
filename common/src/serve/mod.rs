//! The HTTP/2 server loop below gRPC: accepts, serves, drains.
//!
//! tonic's own loop would do, but its bodies copy every message. Here a service answers with a
//! [`ReplyBody`], which is one of tonic's bodies, a stream of frames around slices, or the body of
//! another member's answer.

mod body;
mod ending;
mod pacing;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod whole;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt};

pub(crate) use body::trailers;
pub use body::{Frames, ReplyBody, ReplyData, grpc_error, grpc_frames, grpc_message};
pub use pacing::unpace_local;
pub use whole::Whole;

use crate::{Error, Result};

/// Received bytes of one stream that may wait for their reader: what a stream costs in memory at most.
pub const STREAM_WINDOW: u32 = 4 << 20;
/// The window of a connection is as large as HTTP/2 allows: a stream whose reader stands still must
/// not take the window from the connection's other streams.
pub const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// The largest DATA frame that is accepted. Large, for frames of 16 KiB cost three times as much; but a frame is read into
/// memory of its own, which should come from the heap and stay in the processor's cache: frames of 4 MiB were mapped anew
/// each time.
pub const FRAME_SIZE: u32 = 256 << 10;
/// Bytes of one stream that may wait to be sent: one or two messages of the usual size.
pub const SEND_BUFFER: usize = 2 << 20;
/// Header lists larger than this are refused.
const HEADER_LIST: u32 = 64 << 10;
/// A connection that has said nothing at all after this long is closed.
const FIRST_BYTES: Duration = Duration::from_secs(20);
/// How long accepting rests after an error such as too many open files.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// Clients are pinged after so much silence, and given up after so much more. Generous: a client that
/// reads nothing for long is welcome, one whose machine is gone is not.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(40);

/// So long before the end of a drain, or a quarter of it, the streams that are left are told: a reader hears that only
/// when it has read what was sent before.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What one listener takes on at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; a further one is closed as soon as it is accepted.
    pub connections: usize,
    /// Streams at once on one connection. High: a client's calls must not wait for each other.
    pub streams: u32,
    /// How long connections may go on after the shutdown began; the streams that are left end a little before.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { connections: 10_000, streams: 4096, drain: Duration::from_secs(10) }
    }
}

/// What [`serve`] serves: any tower service of these types.
pub trait Http2Service:
    Service<
        http::Request<Incoming>,
        Response = http::Response<ReplyBody>,
        Error = Infallible,
        Future: Future<Output = Result<http::Response<ReplyBody>, Infallible>> + Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Http2Service for S where
    S: Service<
            http::Request<Incoming>,
            Response = http::Response<ReplyBody>,
            Error = Infallible,
            Future: Future<Output = Result<http::Response<ReplyBody>, Infallible>> + Send + 'static,
        > + Clone
        + Send
        + Sync
        + 'static
{
}

/// Listens on `addr` (`HOST:PORT`; port 0 takes a free one, which `local_addr` tells).
///
/// # Errors
/// UNAVAILABLE naming the address: in use, not this machine's, or not an address.
pub async fn bind(addr: &str) -> Result<TcpListener> {
    TcpListener::bind(addr).await.map_err(|e| {
        Error::unavailable(match e.kind() {
            io::ErrorKind::AddrInUse => {
                format!("cannot listen on {addr}: another process uses this port; stop it or choose another port")
            }
            io::ErrorKind::AddrNotAvailable => {
                format!("cannot listen on {addr}: this machine has no such address; listen on one of its own")
            }
            _ => format!("cannot listen on {addr}: {e}"),
        })
    })
}

/// Serves HTTP/2 on `listener` until `shutdown`, then drains: no new connections or streams, open
/// streams may end by themselves, and shortly before the end of [`Limits::drain`] they end with UNAVAILABLE, calls that
/// are not answered yet too. A reader that takes nothing until then finds its connection closed, which gRPC clients call
/// UNAVAILABLE as well. Returns when the last connection is closed.
pub async fn serve<S: Http2Service>(listener: TcpListener, service: S, shutdown: CancellationToken, limits: Limits) {
    let http = http2_settings(&limits);
    let room = Arc::new(Semaphore::new(limits.connections));
    let connections = TaskTracker::new();
    // Ends the streams when the drain has taken too long; then the connections, also when this future is dropped.
    let ends = Ends { shutdown, streams: CancellationToken::new(), kill: CancellationToken::new() };
    let _kill_on_drop = ends.kill.clone().drop_guard();
    loop {
        let stream = tokio::select! {
            biased;
            () = ends.shutdown.cancelled() => break,
            stream = accept(&listener) => stream,
        };
        let Ok(permit) = room.clone().try_acquire_owned() else {
            tracing::warn!(limit = limits.connections, "connection refused: too many are open");
            continue;
        };
        connections.spawn(connection(stream, http.clone(), service.clone(), ends.clone(), permit));
    }
    drop(listener);
    connections.close();
    let last_words = LAST_WORDS.min(limits.drain / 4);
    if tokio::time::timeout(limits.drain - last_words, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "the time to drain is up: ending the streams that are open");
        ends.streams.cancel();
        if tokio::time::timeout(last_words, connections.wait()).await.is_err() {
            ends.kill.cancel();
            connections.wait().await;
        }
    }
}

/// How a connection ends, step by step.
#[derive(Clone)]
struct Ends {
    /// No new streams.
    shutdown: CancellationToken,
    /// Its streams end with UNAVAILABLE.
    streams: CancellationToken,
    /// At once.
    kill: CancellationToken,
}

fn http2_settings(limits: &Limits) -> http2::Builder<TokioExecutor> {
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .adaptive_window(false)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_SIZE)
        .max_send_buf_size(SEND_BUFFER)
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(HEADER_LIST)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT);
    http
}

/// The next connection; rests after errors that are the machine's, not the connection's.
async fn accept(listener: &TcpListener) -> TcpStream {
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(e) if is_connection_error(&e) => continue,
            Err(e) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(error = %e, "cannot accept connections for the moment");
                }
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

fn is_connection_error(e: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(e.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// One connection from its first byte to its last.
async fn connection<S: Http2Service>(
    stream: TcpStream,
    http: http2::Builder<TokioExecutor>,
    service: S,
    ends: Ends,
    _permit: OwnedSemaphorePermit,
) {
    if let Err(e) = stream.set_nodelay(true) {
        tracing::debug!(error = %e, "no TCP_NODELAY on a connection");
    }
    pacing::unpace_local(&stream);
    tokio::select! {
        () = ends.shutdown.cancelled() => return,
        spoke = tokio::time::timeout(FIRST_BYTES, stream.readable()) => {
            if !matches!(spoke, Ok(Ok(()))) {
                return;
            }
        }
    }
    let end = ends.streams.clone();
    let service =
        hyper::service::service_fn(move |request| ending::answer(service.clone().oneshot(request), end.clone()));
    let connection = http.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = ends.kill.cancelled() => return,
        () = ends.shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                result = connection => result,
                () = ends.kill.cancelled() => return,
            }
        }
    };
    if let Err(e) = result {
        tracing::debug!(error = %e, "a connection ended in an error");
    }
}

/// Makes a tonic service (such as `tonic::service::Routes` or a generated server) one that [`serve`]
/// takes, and that a router of one's own can call.
#[derive(Clone, Debug)]
pub struct Tonic<S>(pub S);

impl<S> Service<http::Request<Incoming>> for Tonic<S>
where
    S: Service<http::Request<tonic::body::Body>, Response = http::Response<tonic::body::Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<ReplyBody>;
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Incoming>) -> Self::Future {
        let reply = self.0.call(request.map(tonic::body::Body::new));
        Box::pin(async move { Ok(reply.await?.map(ReplyBody::Tonic)) })
    }
}
