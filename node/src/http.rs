//! What `/readyz` of a node reports; `/metrics` has what the node counts as it runs.

use http::StatusCode;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use volley_common::server::http::HttpStatus;

/// The status of a node.
#[derive(Clone)]
pub struct NodeHttpStatus {
    /// Whether the first session with a leading coordinator has begun.
    pub joined: watch::Receiver<bool>,
    /// Cancelled when the stop begins.
    pub stop: CancellationToken,
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
}
