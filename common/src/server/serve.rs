//! The HTTP/2 server loop below gRPC: accepts, serves, drains.
//!
//! tonic's own loop is not used because its bodies copy every message. Here a service responds with a [`ReplyBody`]: a
//! tonic body, a stream of frames that consist of slices, or the body of another member's response.

mod lingering_stream;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt};

use self::lingering_stream::lingering;
use crate::http2::drain_body::respond_until;
use crate::http2::{ReplyBody, disable_local_pacing, settings};
use crate::{Error, Result};

/// A connection that sends nothing for this long after it was accepted is closed.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(20);
/// How long accepting pauses after an error such as too many open files.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// The remaining streams are ended this long before the end of a drain, or a quarter of the drain before: a client sees
/// the end only after it has read what was sent before.
const END_STREAMS_BEFORE: Duration = Duration::from_secs(5);

/// The limits of one listener.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// Concurrent connections; a further one is closed as soon as it is accepted.
    pub connections: usize,
    /// Concurrent streams on one connection. High: a client's calls must not wait for each other.
    pub streams: u32,
    /// How long connections may continue after the shutdown began; the remaining streams are ended shortly before.
    pub drain: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        ServerLimits { connections: 10_000, streams: 4096, drain: Duration::from_secs(10) }
    }
}

/// A tower service that [`serve`] can serve.
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

/// Listens on `addr`, `HOST:PORT`. Port 0 selects a free port, see `local_addr`.
///
/// # Errors
/// UNAVAILABLE naming the address: it is in use, belongs to another machine, or is not an address.
pub async fn bind(addr: &str) -> Result<TcpListener> {
    TcpListener::bind(addr).await.map_err(|e| {
        Error::unavailable(match e.kind() {
            io::ErrorKind::AddrInUse => {
                format!("cannot listen on {addr}: another process uses this port; stop it or choose another port")
            }
            io::ErrorKind::AddrNotAvailable => {
                format!("cannot listen on {addr}: this machine has no such address; listen on one of its addresses")
            }
            _ => format!("cannot listen on {addr}: {e}"),
        })
    })
}

/// Serves HTTP/2 on `listener` until `shutdown`, then drains: there are no new connections or streams, and open streams
/// may finish. Shortly before the end of [`ServerLimits::drain`] the remaining streams end with UNAVAILABLE, and so do
/// calls without a response. If a client reads nothing until then, its connection is closed, which gRPC clients also
/// report as UNAVAILABLE. Returns when the last connection is closed.
pub async fn serve<S: Http2Service>(
    listener: TcpListener,
    service: S,
    shutdown: CancellationToken,
    limits: ServerLimits,
) {
    let http = settings::server(limits.streams);
    let permits = Arc::new(Semaphore::new(limits.connections));
    let connections = TaskTracker::new();
    let stages = DrainStages { shutdown, end_streams: CancellationToken::new(), close: CancellationToken::new() };
    // Connections are closed when this future is dropped, too.
    let _close_on_drop = stages.close.clone().drop_guard();
    loop {
        let stream = tokio::select! {
            biased;
            () = stages.shutdown.cancelled() => break,
            stream = accept(&listener) => stream,
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            tracing::warn!(limit = limits.connections, "connection refused: too many are open");
            continue;
        };
        connections.spawn(serve_connection(stream, http.clone(), service.clone(), stages.clone(), permit));
    }
    drop(listener);
    connections.close();
    let margin = END_STREAMS_BEFORE.min(limits.drain / 4);
    if tokio::time::timeout(limits.drain - margin, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "drain timeout: ending the open streams");
        stages.end_streams.cancel();
        if tokio::time::timeout(margin, connections.wait()).await.is_err() {
            stages.close.cancel();
            connections.wait().await;
        }
    }
}

/// The stages in which connections end.
#[derive(Clone)]
struct DrainStages {
    /// No new streams are accepted.
    shutdown: CancellationToken,
    /// Open streams end with UNAVAILABLE.
    end_streams: CancellationToken,
    /// Connections are closed immediately.
    close: CancellationToken,
}

/// The next connection; pauses after an error of the machine, not after one of a connection.
async fn accept(listener: &TcpListener) -> TcpStream {
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(e) if is_connection_error(&e) => continue,
            Err(e) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(error = %e, "cannot accept connections");
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

/// Serves one connection to its end.
async fn serve_connection<S: Http2Service>(
    stream: TcpStream,
    http: http2::Builder<TokioExecutor>,
    service: S,
    stages: DrainStages,
    _permit: OwnedSemaphorePermit,
) {
    if let Err(e) = stream.set_nodelay(true) {
        tracing::debug!(error = %e, "cannot set TCP_NODELAY on a connection");
    }
    disable_local_pacing(&stream);
    tokio::select! {
        () = stages.shutdown.cancelled() => return,
        readable = tokio::time::timeout(FIRST_BYTES_TIMEOUT, stream.readable()) => {
            if !matches!(readable, Ok(Ok(()))) {
                return;
            }
        }
    }
    let end_streams = stages.end_streams.clone();
    let service =
        hyper::service::service_fn(move |request| respond_until(service.clone().oneshot(request), end_streams.clone()));
    let (stream, socket) = lingering(stream);
    let mut connection = Box::pin(http.serve_connection(TokioIo::new(stream), service));
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stages.close.cancelled() => return,
        () = stages.shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                result = connection.as_mut() => result,
                () = stages.close.cancelled() => return,
            }
        }
    };
    drop(connection);
    match result {
        Ok(()) => drop(stages.close.run_until_cancelled(socket.close()).await),
        Err(e) => tracing::debug!(error = %e, "a connection ended in an error"),
    }
}

/// Adapts a tonic service, such as `tonic::service::Routes` or a generated server, to [`Http2Service`].
#[derive(Clone, Debug)]
pub struct TonicService<S>(pub S);

impl<S> Service<http::Request<Incoming>> for TonicService<S>
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
