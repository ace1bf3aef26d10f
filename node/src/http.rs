//! What `/readyz` and `/metrics` of a node report, and who may read the latter.

use std::sync::{Arc, OnceLock};

use http::StatusCode;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use volley_common::server::http::HttpStatus;
use volley_common::server::http::identity::HttpIdentity;

use crate::context::NodeContext;
use crate::gauges;

/// The status of a node.
#[derive(Clone)]
pub struct NodeHttpStatus {
    /// Whether the first session with a leading coordinator has begun.
    joined: watch::Receiver<bool>,
    /// Cancelled when the stop begins.
    stop: CancellationToken,
    /// Identifies callers; empty until the data folder is open.
    context: Arc<OnceLock<Arc<NodeContext>>>,
}

impl NodeHttpStatus {
    /// That of a node that starts. `joined`: whether its first session has begun; `stop`: cancelled when it stops.
    pub fn new(joined: watch::Receiver<bool>, stop: CancellationToken) -> Self {
        NodeHttpStatus { joined, stop, context: Arc::default() }
    }

    /// Identifies callers by this context from now on.
    pub fn set(&self, context: Arc<NodeContext>) {
        let _ = self.context.set(context);
    }
}

impl HttpStatus for NodeHttpStatus {
    /// 200 once the node is in a cluster, until the stop begins.
    async fn readiness(&self) -> (StatusCode, String) {
        let (status, body) = match *self.joined.borrow() {
            _ if self.stop.is_cancelled() => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
            true => (StatusCode::OK, "ready\n"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "not yet in a cluster\n"),
        };
        (status, body.into())
    }

    async fn update_gauges(&self) -> String {
        if let Some(context) = self.context.get().cloned() {
            // What cannot be read stays as it was.
            let _ = tokio::task::spawn_blocking(move || gauges::update(&context)).await;
        }
        String::new()
    }

    fn identity(&self) -> Option<HttpIdentity> {
        let context = self.context.get()?;
        Some(HttpIdentity {
            authenticator: context.authenticator.clone(),
            login: context.callers.clone(),
            audit: context.audit.clone(),
            public_metrics: context.config.server.identity.public_metrics,
        })
    }
}
