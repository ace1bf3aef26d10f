//! The HTTP port: `/livez`, `/readyz` and `/metrics`, and the pages that a server adds (`volley-http`).
//!
//! `/livez` and `/readyz` are for probes, which have no identity. `/metrics` names tables and members: it is for operators,
//! unless the cluster is open or the setting `public_metrics` says otherwise.

pub mod identity;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tower::ServiceExt;

use self::identity::{HttpIdentity, refusal};
use super::serve::connection_limit::{self, ConnectionCounts, ConnectionExcess};
use super::serve::handshake::{OpenedConnection, open_in_place};
use super::serve::opening_connections::{OpeningConnections, OpeningPermit};
use super::serve::preface::{ClientProtocol, log_refused};
use super::serve::{PeerAddress, accept};
use crate::http2::settings::HEADER_LIST;
use crate::http2::{CompleteBody, PortKind};
use crate::telemetry::{self, GaugeGuard, history};
use crate::tls::ListenerTls;

/// A client that has not sent a whole request header by then is disconnected.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long requests may continue after the stop began: a client that sends one byte per minute must not delay the
/// stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// How long what a client still sends is read and discarded after the last response, so that it gets that.
const LINGER_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of one response that wait to be sent, by HTTP/2.
const SEND_BUFFER: usize = 1 << 20;

/// What `/readyz` and `/metrics` of one server report.
pub trait HttpStatus: Clone + Send + Sync + 'static {
    /// 200 if the server is ready, otherwise 503; and the body of the response.
    fn readiness(&self) -> impl Future<Output = (StatusCode, String)> + Send;

    /// Sets the gauges that are read at each scrape. Returns further lines for the text, of series that come and go.
    fn update_gauges(&self) -> impl Future<Output = String> + Send {
        async { String::new() }
    }

    /// How callers are identified; `None` while the server starts and does not know yet.
    fn identity(&self) -> Option<HttpIdentity>;
}

/// What an HTTP port serves besides health and metrics.
#[derive(Default)]
pub struct HttpPages {
    /// Without a fallback. Each of them identifies its callers itself.
    pub routes: Router,
    /// Whether they show the metrics of the last hour, which are sampled for that.
    pub has_history: bool,
}

/// Serves until `stop`, and then at most two seconds longer. `/livez` answers immediately, before the server has opened
/// its data folder: opening a large folder takes long, and a probe must not treat that as a failed process.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ListenerTls>,
    status: impl HttpStatus,
    pages: HttpPages,
    stop: CancellationToken,
) {
    let _upkeep = AbortOnDropHandle::new(tokio::spawn(telemetry::upkeep()));
    let keep_history = || AbortOnDropHandle::new(tokio::spawn(keep_history(status.clone())));
    let _history = pages.has_history.then(keep_history);
    let limit = connection_limit::of(PortKind::Http);
    serve_app(listener, tls, app(status, pages.routes), limit, stop).await;
}

/// Samples metrics for ever. The gauges that are read at a scrape are read here, too.
async fn keep_history(status: impl HttpStatus) {
    // Not at once: a server that starts has nothing to show, and other work.
    let mut ticks = interval_at(Instant::now() + history::INTERVAL, history::INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if history::is_due() {
            status.update_gauges().await;
            // One that fails is missing.
            let _ = tokio::task::spawn_blocking(history::take_sample).await;
        }
    }
}

fn app<S: HttpStatus>(status: S, pages: Router) -> Router {
    Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(async |State(status): State<S>| status.readiness().await))
        .route("/metrics", get(async |State(status): State<S>, request: Parts| metrics(&status, &request).await))
        .fallback(other)
        .with_state(status)
        .merge(pages)
}

/// At most `limit` connections, a quarter of them from one network: probes of others must get through.
async fn serve_app(listener: TcpListener, tls: Arc<ListenerTls>, app: Router, limit: usize, stop: CancellationToken) {
    let counts = ConnectionCounts::new(limit, limit.div_ceil(4));
    let opening = OpeningConnections::new(limit);
    let connections = TaskTracker::new();
    let close = CancellationToken::new();
    let _close_on_drop = close.clone().drop_guard();
    while let Some((stream, peer)) = stop.run_until_cancelled(accept(&listener)).await {
        let permit = match counts.count_in(peer.ip()) {
            Ok(permit) => permit,
            Err(excess) => {
                let why = match excess {
                    ConnectionExcess::All => "too many connections are open",
                    ConnectionExcess::Network => "its address has too many connections open",
                };
                connection_limit::count_refused(PortKind::Http, excess);
                log_refused(peer, PortKind::Http.describe(), why);
                continue;
            }
        };
        let port = PortKind::Http.label();
        let counted = GaugeGuard::count(metrics::gauge!("volley_connections", "port" => port, "listener" => ""));
        let opening = opening.admit(peer.ip());
        let (tls, app, stop, close) = (tls.clone(), app.clone(), stop.clone(), close.clone());
        connections.spawn(async move {
            close.run_until_cancelled(serve_connection(stream, peer, opening, &tls, app, stop)).await;
            drop((permit, counted));
        });
    }
    connections.close();
    if tokio::time::timeout(STOP_TIMEOUT, connections.wait()).await.is_err() {
        tracing::debug!("closing HTTP connections with open requests");
        close.cancel();
        connections.wait().await;
    }
}

/// Serves one connection, by HTTP/1 or HTTP/2. A client that does not send a whole request within [`HEADER_TIMEOUT`] is
/// disconnected, as is one that speaks neither.
async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    opening: OpeningPermit,
    tls: &ListenerTls,
    app: Router,
    stop: CancellationToken,
) {
    let opened = open_in_place(opening, stream, peer, tls, PortKind::Http, HEADER_TIMEOUT);
    let opened = stop.run_until_cancelled(opened).await.flatten();
    let Some(OpenedConnection { protocol, stream, socket, caller }) = opened else { return };
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(HEADER_LIST as usize);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HEADER_TIMEOUT)
        .keep_alive_timeout(HEADER_TIMEOUT)
        .max_header_list_size(HEADER_LIST)
        .max_send_buf_size(SEND_BUFFER);
    let http = match protocol {
        ClientProtocol::Http1 => http.http1_only(),
        _ => http.http2_only(),
    };
    let service = hyper::service::service_fn(move |mut request: axum::http::Request<Incoming>| {
        request.extensions_mut().insert(PeerAddress::of_connection(peer));
        request.extensions_mut().insert(caller.clone());
        // hyper reports a body of HTTP/1 that is cut off, and takes some resets of HTTP/2 for the end.
        let request = match request.version() {
            axum::http::Version::HTTP_2 => request.map(|body| Body::new(CompleteBody(body))),
            _ => request.map(Body::new),
        };
        app.clone().oneshot(request)
    });
    let mut connection = Box::pin(http.serve_connection(TokioIo::new(stream), service));
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
    };
    drop(connection);
    if let Err(error) = result {
        tracing::debug!(%peer, error, "an HTTP connection ended in an error");
    }
    // A client that still sends a body which is refused gets the reason.
    let _ = stop.run_until_cancelled(tokio::time::timeout(LINGER_TIMEOUT, socket.close())).await;
}

/// The reply for any other path: a gRPC client gets a status that says where it is.
async fn other(headers: HeaderMap) -> Response {
    let text = format!("nothing is served at this path: {}", PortKind::Http.describe());
    let is_grpc = headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    match is_grpc {
        true => tonic::Status::unimplemented(text).into_http(),
        false => (StatusCode::NOT_FOUND, format!("{text}\n")).into_response(),
    }
}

async fn metrics(status: &impl HttpStatus, request: &Parts) -> Response {
    let Some(identity) = status.identity() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response();
    };
    if let Err(error) = identity.check_metrics(request).await {
        return refusal(&error);
    }
    let further = status.update_gauges().await;
    let rendered = tokio::task::spawn_blocking(telemetry::render).await;
    match rendered.ok().flatten() {
        Some(text) => (text + &further).into_response(),
        None => (StatusCode::NOT_FOUND, "this process keeps no metrics\n").into_response(),
    }
}
