//! The HTTP/2 server loop below gRPC: accepts, serves, drains.
//!
//! tonic's own loop is not used because its bodies copy every message. Here a service responds with a [`ReplyBody`]: a
//! tonic body, a stream of frames that consist of slices, or the body of another member's response.

pub(crate) mod connection_limit;
pub(crate) mod handshake;
mod in_process;
pub(crate) mod lingering_stream;
pub mod member_rights;
pub(crate) mod opening_connections;
mod peer_address;
pub mod preface;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod unix;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tower::{Service, ServiceExt};

use self::connection_limit::{ConnectionCounts, ConnectionPermit};
use self::handshake::{OpenedConnection, open_in_place};
pub use self::in_process::InProcessFlight;
use self::opening_connections::{OpeningConnections, OpeningPermit};
pub use self::peer_address::PeerAddress;
use self::preface::{OPENING_TIMEOUT, log_refused};
pub use self::unix::{LocalProtocol, serve_unix};
use crate::http2::drain_body::respond_until;
use crate::http2::served_call::{ServedCall, unless_grpc};
use crate::http2::{AdvancingBody, PortKind, ReplyBody, decompressed, disable_local_pacing, grpc_error, settings};
use crate::telemetry::GaugeGuard;
use crate::tls::{Caller, ListenerTls};
use crate::wire::MAX_PEER_MESSAGE;
use crate::{Error, Result};

/// The gRPC services that only peer ports have begin with this: other ports do not read the body of such a call.
const MEMBER_SERVICES: &str = "/volley.";
/// Concurrent streams on one connection, unless configured.
pub(crate) const MAX_STREAMS: u32 = 4096;
/// How long accepting pauses after an error such as too many open files.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// The remaining streams are ended this long before the end of a drain, or a quarter of the drain before: a client sees
/// the end only after it has read what was sent before.
const END_STREAMS_BEFORE: Duration = Duration::from_secs(5);

/// The limits of one listener.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// Whom it serves.
    pub port: PortKind,
    /// The name of the listener, in metrics; empty for one without.
    pub listener: &'static str,
    /// Concurrent connections; a further one is closed as soon as it is accepted.
    pub connections: usize,
    /// Concurrent connections of one IPv4 address, or of one IPv6 network of 64 bits.
    pub connections_per_address: usize,
    /// Concurrent streams on one connection. High: a client's calls must not wait for each other.
    pub streams: u32,
    /// Bytes of the headers of a request, as HTTP/2 counts them; one with more is refused.
    pub header_bytes: u32,
    /// How long a connection may take from its begin to the first bytes of HTTP/2, its TLS handshake included.
    pub opening: Duration,
    /// How long connections may continue after the shutdown began; the remaining streams are ended shortly before.
    pub drain: Duration,
    /// Whether calls without a name get one, and errors end with the names of their calls.
    pub names_calls: bool,
}

impl ServerLimits {
    /// The limits of one of `listeners` listeners for clients, if nothing else is configured.
    pub fn for_clients(listeners: usize) -> Self {
        ServerLimits {
            port: PortKind::Flight,
            listener: "",
            streams: MAX_STREAMS,
            header_bytes: settings::HEADER_LIST,
            opening: OPENING_TIMEOUT,
            drain: Duration::from_secs(10),
            names_calls: false,
            connections: 0,
            connections_per_address: 0,
        }
        .with_connections(connection_limit::of(PortKind::Flight) / listeners.max(1), 0)
    }

    /// The same with this many connections, and this many of each address; 0: half of them, so that nobody takes all.
    pub fn with_connections(self, connections: usize, per_address: usize) -> Self {
        let connections = connections.max(1);
        let per_address = if per_address == 0 { connections / 2 } else { per_address };
        ServerLimits { connections, connections_per_address: per_address.max(1), ..self }
    }

    /// The same for the listener with this name, which is kept as long as the process runs.
    pub fn named(self, listener: &str) -> Self {
        let name: Box<str> = listener.into();
        ServerLimits { listener: Box::leak(name), ..self }
    }

    /// Counts a connection, until the guard is dropped.
    fn count_connection(&self) -> GaugeGuard {
        let (port, listener) = (self.port.label(), self.listener);
        GaugeGuard::count(metrics::gauge!("volley_connections", "port" => port, "listener" => listener))
    }

    /// The limits of the listener for members.
    pub fn for_peers() -> Self {
        ServerLimits { port: PortKind::Peer, ..ServerLimits::for_clients(1) }
            .with_connections(connection_limit::of(PortKind::Peer), 0)
    }
}

impl Default for ServerLimits {
    fn default() -> Self {
        ServerLimits::for_clients(1)
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
    serve_tls(listener, Arc::new(ListenerTls::none()), service, shutdown, limits).await;
}

/// As [`serve`], with the TLS of the listener. [`Caller::of`] the extensions of a request says who called, and
/// [`PeerAddress::of`] from where.
pub async fn serve_tls<S: Http2Service>(
    listener: TcpListener,
    tls: Arc<ListenerTls>,
    service: S,
    shutdown: CancellationToken,
    limits: ServerLimits,
) {
    let counts = ConnectionCounts::new(limits.connections, limits.connections_per_address);
    let opening = OpeningConnections::new(limits.connections);
    let connections = TaskTracker::new();
    let stages = DrainStages { shutdown, end_streams: CancellationToken::new(), close: CancellationToken::new() };
    // Connections are closed when this future is dropped, too.
    let _close_on_drop = stages.close.clone().drop_guard();
    loop {
        let (stream, peer) = tokio::select! {
            biased;
            () = stages.shutdown.cancelled() => break,
            accepted = accept(&listener) => accepted,
        };
        let others = counts.all();
        let permit = match counts.count_in(peer.ip()) {
            Ok(permit) => permit,
            Err(excess) => {
                connection_limit::count_refused(limits.port, excess);
                log_refused(peer, limits.port.describe(), &counts.refusal(excess));
                continue;
            }
        };
        let opening = opening.admit(peer.ip());
        let http = settings::server(limits.streams, limits.header_bytes, others);
        let _permit = (permit, limits.count_connection());
        let accepted = AcceptedConnection { stream, peer, tls: tls.clone(), limits, opening, _permit };
        connections.spawn(serve_connection(accepted, http, service.clone(), stages.clone()));
    }
    drop(listener);
    drain(&connections, &stages, limits.drain).await;
}

/// Waits until the connections have ended, for `limit`; shortly before its end their streams are ended.
async fn drain(connections: &TaskTracker, stages: &DrainStages, limit: Duration) {
    connections.close();
    let margin = END_STREAMS_BEFORE.min(limit / 4);
    if tokio::time::timeout(limit - margin, connections.wait()).await.is_err() {
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
pub(crate) async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
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

/// A connection of which nothing was read.
struct AcceptedConnection {
    stream: TcpStream,
    peer: SocketAddr,
    tls: Arc<ListenerTls>,
    limits: ServerLimits,
    opening: OpeningPermit,
    /// Its place, and that it is counted.
    _permit: (ConnectionPermit, GaugeGuard),
}

/// Serves one connection to its end.
async fn serve_connection<S: Http2Service>(
    accepted: AcceptedConnection,
    http: http2::Builder<TokioExecutor>,
    service: S,
    stages: DrainStages,
) {
    let AcceptedConnection { stream, peer, tls, limits, opening, _permit } = accepted;
    if let Err(e) = stream.set_nodelay(true) {
        tracing::debug!(error = %e, "cannot set TCP_NODELAY on a connection");
    }
    disable_local_pacing(&stream);
    let opened = open_in_place(opening, stream, peer, &tls, limits.port, limits.opening);
    let opened = stages.shutdown.run_until_cancelled(opened).await.flatten();
    let Some(OpenedConnection { stream, socket, caller, .. }) = opened else { return };
    let client = (PeerAddress::of_connection(peer), caller);
    match serve_http2(stream, http, service, client, limits, &stages).await {
        Some(Ok(())) => drop(stages.close.run_until_cancelled(socket.close()).await),
        Some(Err(e)) => tracing::debug!(error = %e, "a connection ended in an error"),
        None => {}
    }
}

/// Serves HTTP/2 to `client` on an opened connection, to its end; `None` if it was closed before.
async fn serve_http2<S: Http2Service>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    http: http2::Builder<TokioExecutor>,
    service: S,
    (peer_address, caller): (PeerAddress, Caller),
    limits: ServerLimits,
    stages: &DrainStages,
) -> Option<hyper::Result<()>> {
    let (end_streams, port) = (stages.end_streams.clone(), limits.port);
    let service = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(peer_address);
        // Each extension is an allocation; without one, `Caller::of` says plaintext.
        if caller != Caller::Plaintext {
            request.extensions_mut().insert(caller.clone());
        }
        let (service, end_streams) = (service.clone(), end_streams.clone());
        let served = ServedCall::new(&mut request, port, limits.names_calls);
        respond_until(served, respond(service, request, port), end_streams)
    });
    let mut connection = Box::pin(http.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        result = connection.as_mut() => Some(result),
        () = stages.close.cancelled() => None,
        () = stages.shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                result = connection.as_mut() => Some(result),
                () = stages.close.cancelled() => None,
            }
        }
    }
}

/// The service's response to a gRPC request.
async fn respond<S: Http2Service>(
    service: S,
    request: http::Request<Incoming>,
    port: PortKind,
) -> std::result::Result<http::Response<ReplyBody>, Infallible> {
    match unless_grpc(&request, port) {
        Some(refusal) => Ok(refusal),
        None => service.oneshot(request).await,
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
        // tonic itself knows which errors of a body end a call.
        let is_member = request.uri().path().starts_with(MEMBER_SERVICES);
        let request = request.map(|body| {
            let body = body.map_err(|error| Status::from_error(Box::new(error)));
            if is_member { AdvancingBody::of_member(body) } else { AdvancingBody::new(body) }
        });
        let reply = match decompressed(request, MAX_PEER_MESSAGE) {
            Ok(request) => self.0.call(request.map(tonic::body::Body::new)),
            Err(error) => return Box::pin(std::future::ready(Ok(grpc_error(error)))),
        };
        Box::pin(async move { Ok(reply.await?.map(ReplyBody::Tonic)) })
    }
}
