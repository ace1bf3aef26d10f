//! Health and metrics over HTTP, for operators and for those who start and stop processes.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use volley_common::web;

use crate::membership::Membership;
use crate::service::{Service, live_nodes};

/// One recorder a process, though `volley dev` runs several members in one.
static METRICS: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

#[derive(Clone)]
struct Shared {
    service: Arc<Service>,
    membership: Arc<Membership>,
}

/// Serves `/livez`, `/readyz` and `/metrics` until `stop`.
pub async fn serve(listener: TcpListener, service: Arc<Service>, membership: Arc<Membership>, stop: CancellationToken) {
    METRICS.get_or_init(|| PrometheusBuilder::new().install_recorder().ok());
    let app = Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Shared { service, membership });
    web::serve(listener, app, stop).await;
}

/// 200 while there is a leader whom a majority follows, and this coordinator is not about to stop; else 503.
async fn ready(State(shared): State<Shared>) -> (StatusCode, String) {
    if shared.service.stop.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", json!({ "status": "stopping" })));
    }
    let (well, mut body) = shared.service.checked_health().await;
    if let Some(trouble) = shared.service.raft.fault() {
        body["trouble"] = trouble.into();
    }
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, format!("{body}\n"))
}

async fn metrics(State(shared): State<Shared>) -> (StatusCode, String) {
    let Some(Some(handle)) = METRICS.get() else {
        return (StatusCode::NOT_FOUND, "this process keeps no metrics\n".into());
    };
    measure(&shared);
    handle.run_upkeep();
    (StatusCode::OK, handle.render())
}

/// What the catalog says at this moment.
fn measure(shared: &Shared) {
    let set = |name: &'static str, value: usize| metrics::gauge!(name).set(value as f64);
    let raft = &shared.service.raft;
    let applied = *raft.watch_applied().borrow();
    let catalog = raft.view();
    set("volley_tables", catalog.tables().count());
    set("volley_parts", catalog.part_count());
    set("volley_nodes", catalog.nodes().count());
    set("volley_nodes_alive", live_nodes(&catalog).len());
    set("volley_node_sessions", shared.membership.sessions());
    set("volley_is_leader", usize::from(raft.is_leader()));
    set("volley_has_leader", usize::from(raft.leader().is_some()));
    metrics::gauge!("volley_applied_index").set(applied as f64);
}
