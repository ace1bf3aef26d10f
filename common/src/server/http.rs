//! Health and metrics by plain HTTP: `/livez`, `/readyz` and `/metrics`.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::serve::accept;
use super::serve::connection_limit::{self, OpeningConnections, OpeningPermit};
use super::serve::handshake::{OpenedConnection, open};
use super::serve::preface::{ClientProtocol, log_refused};
use crate::http2::PortKind;
use crate::tls::ListenerTls;

/// A client that has not sent a whole request header by then is disconnected.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long requests may continue after the stop began: a client that sends one byte per minute must not delay the
/// stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// What `/readyz` and `/metrics` of one server report.
pub trait HttpStatus: Clone + Send + Sync + 'static {
    /// 200 if the server is ready, otherwise 503; and the body of the response.
    fn readiness(&self) -> impl Future<Output = (StatusCode, String)> + Send;

    /// Sets the gauges that are computed at each scrape.
    fn update_gauges(&self) {}
}

/// Serves until `stop`, and then at most two seconds longer. `/livez` answers immediately, before the server has opened
/// its data folder: opening a large folder takes long, and a probe must not treat that as a failed process.
pub async fn serve(listener: TcpListener, tls: Arc<ListenerTls>, status: impl HttpStatus, stop: CancellationToken) {
    recorder();
    serve_app(listener, tls, app(status), stop).await;
}

fn app<S: HttpStatus>(status: S) -> Router {
    Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(async |State(status): State<S>| status.readiness().await))
        .route("/metrics", get(async |State(status): State<S>| metrics(&status)))
        .fallback(other)
        .with_state(status)
}

async fn serve_app(listener: TcpListener, tls: Arc<ListenerTls>, app: Router, stop: CancellationToken) {
    let limit = connection_limit::of(PortKind::Http);
    let (permits, opening) = (Arc::new(Semaphore::new(limit)), OpeningConnections::new(limit));
    let connections = TaskTracker::new();
    let close = CancellationToken::new();
    let _close_on_drop = close.clone().drop_guard();
    while let Some((stream, peer)) = stop.run_until_cancelled(accept(&listener)).await {
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            log_refused(peer, PortKind::Http.describe(), "too many connections are open");
            continue;
        };
        let Some(opening) = opening.admit(peer.ip()) else {
            log_refused(peer, PortKind::Http.describe(), "too many connections have not completed their handshake");
            continue;
        };
        let (tls, app, stop, close) = (tls.clone(), app.clone(), stop.clone(), close.clone());
        connections.spawn(async move {
            close.run_until_cancelled(serve_connection(stream, peer, opening, &tls, app, stop)).await;
            drop(permit);
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
    permit: OpeningPermit,
    tls: &ListenerTls,
    app: Router,
    stop: CancellationToken,
) {
    let opening = open(stream, peer, tls, PortKind::Http, HEADER_TIMEOUT);
    let opened = stop.run_until_cancelled(opening).await.flatten();
    drop(permit);
    let Some(OpenedConnection { protocol, stream, .. }) = opened else { return };
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    http.http2().timer(TokioTimer::new()).keep_alive_interval(HEADER_TIMEOUT).keep_alive_timeout(HEADER_TIMEOUT);
    let http = match protocol {
        ClientProtocol::Http1 => http.http1_only(),
        // Only to say that this is no gRPC port.
        _ => http.http2_only(),
    };
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(app)));
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, error, "an HTTP connection ended in an error");
    }
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

fn metrics(status: &impl HttpStatus) -> (StatusCode, String) {
    let Some(recorder) = recorder() else {
        return (StatusCode::NOT_FOUND, "this process keeps no metrics\n".into());
    };
    status.update_gauges();
    recorder.run_upkeep();
    (StatusCode::OK, recorder.render())
}

/// The recorder of the process, installed at the first call. `volley dev` runs several servers in one process: they share
/// it.
fn recorder() -> Option<&'static PrometheusHandle> {
    static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    RECORDER.get_or_init(|| PrometheusBuilder::new().install_recorder().ok()).as_ref()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    #[derive(Clone)]
    struct Starting;

    impl HttpStatus for Starting {
        async fn readiness(&self) -> (StatusCode, String) {
            (StatusCode::SERVICE_UNAVAILABLE, "starting\n".into())
        }
    }

    #[tokio::test]
    async fn stop_does_not_wait_for_an_incomplete_request() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stuck = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        stuck.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, Arc::new(ListenerTls::none()), Starting, stop.clone()));
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), serving).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn grpc_call_gets_a_status_that_names_the_port() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, Arc::new(ListenerTls::none()), Starting, stop.clone()));
        let channel = crate::net::ConnectionPool::new().channel(&address).unwrap();
        let mut client = arrow_flight::flight_service_client::FlightServiceClient::new(channel);
        let status = client.list_actions(arrow_flight::Empty {}).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unimplemented);
        assert!(
            ["HTTP port", "--http-listen", "--listen"].iter().all(|word| status.message().contains(word)),
            "{status}"
        );
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), serving).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn starting_server_is_alive_but_not_ready() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, Arc::new(ListenerTls::none()), Starting, stop.clone()));
        for (path, status) in [("/livez", "200"), ("/readyz", "503"), ("/metrics", "200")] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: v\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
        }
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), serving).await.unwrap().unwrap();
    }
}
