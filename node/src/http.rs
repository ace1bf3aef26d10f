//! Health and metrics, by plain HTTP.

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use volley_common::web;

/// Serves `/livez`, `/readyz` (200 once the node is in a cluster and until it is to stop, else 503) and `/metrics` until
/// `stop`, which comes after `stopping`.
pub async fn serve(
    listener: TcpListener,
    joined: watch::Receiver<bool>,
    stopping: CancellationToken,
    stop: CancellationToken,
) {
    let metrics = recorder();
    let rendered = move || async move { metrics.as_ref().map(PrometheusHandle::render).unwrap_or_default() };
    let app = Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(move || ready(joined.clone(), stopping.clone())))
        .route("/metrics", get(rendered));
    web::serve(listener, app, stop).await;
}

async fn ready(joined: watch::Receiver<bool>, stopping: CancellationToken) -> (StatusCode, &'static str) {
    match *joined.borrow() {
        _ if stopping.is_cancelled() => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not yet in a cluster\n"),
    }
}

/// The process's metrics; `None` if another server in this process collects them already.
fn recorder() -> Option<PrometheusHandle> {
    metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder().ok()
}
