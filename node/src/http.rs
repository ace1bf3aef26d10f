//! Health and metrics, by plain HTTP.

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Serves `/health` (200 once the node is in a cluster, else 503) and `/metrics` until `stop`.
pub async fn serve(listener: TcpListener, ready: watch::Receiver<bool>, stop: CancellationToken) {
    let metrics = recorder();
    let app = Router::new().route("/health", get(move || health(ready.clone()))).route(
        "/metrics",
        get(move || async move { metrics.as_ref().map(PrometheusHandle::render).unwrap_or_default() }),
    );
    let served = axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::warn!(%error, "health and metrics are no longer served");
    }
}

async fn health(ready: watch::Receiver<bool>) -> (StatusCode, &'static str) {
    match *ready.borrow() {
        true => (StatusCode::OK, "ok\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not yet in a cluster\n"),
    }
}

/// The process's metrics; `None` if another server in this process collects them already.
fn recorder() -> Option<PrometheusHandle> {
    metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder().ok()
}
