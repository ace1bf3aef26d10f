//! What `/readyz` and `/metrics` of a coordinator report.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use futures::future::BoxFuture;
use http::StatusCode;
use serde_json::json;
use volley_common::Result;
use volley_common::identity::{Access, Secret};
use volley_common::server::http::HttpStatus;
use volley_common::server::http::identity::{HttpIdentity, HttpLogin};

use crate::membership::NodeMembership;
use crate::service::Services;

/// The status of a coordinator; empty until its database is open.
#[derive(Clone, Default)]
pub struct CoordinatorHttpStatus(Arc<OnceLock<(Services, Arc<NodeMembership>)>>);

impl CoordinatorHttpStatus {
    /// Reports the status of these from now on.
    pub fn set(&self, service: Services, membership: Arc<NodeMembership>) {
        let _ = self.0.set((service, membership));
    }
}

/// Logs in the callers of the HTTP port that send a password.
struct CoordinatorHttpLogin(Services);

impl HttpLogin for CoordinatorHttpLogin {
    fn login<'a>(
        &'a self,
        user: &'a str,
        password: &'a Secret,
        address: Option<SocketAddr>,
    ) -> BoxFuture<'a, Result<Access>> {
        Box::pin(self.0.login.access(user, password, address))
    }
}

impl HttpStatus for CoordinatorHttpStatus {
    /// 200 while a majority follows a leader and the stop has not begun.
    async fn readiness(&self) -> (StatusCode, String) {
        let unavailable = |status| (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", json!({ "status": status })));
        let Some((service, _)) = self.0.get() else { return unavailable("starting") };
        if service.stop.is_cancelled() {
            return unavailable("stopping");
        }
        let (healthy, mut body) = service.status.verified_health().await;
        if let Some(trouble) = service.raft.fault() {
            body["trouble"] = trouble.into();
        }
        let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, format!("{body}\n"))
    }

    fn identity(&self) -> Option<HttpIdentity> {
        let (service, _) = self.0.get()?;
        Some(HttpIdentity {
            authenticator: service.authenticator.clone(),
            login: Arc::new(CoordinatorHttpLogin(service.clone())),
            audit: service.audit.clone(),
            public_metrics: service.config.server.identity.public_metrics,
        })
    }

    fn update_gauges(&self) {
        let Some((service, membership)) = self.0.get() else { return };
        let set = |name: &'static str, value: usize| metrics::gauge!(name).set(value as f64);
        let raft = &service.raft;
        // Before the view: it is at least as new as the index.
        let applied = *raft.watch_applied().borrow();
        let catalog = raft.view();
        set("volley_tables", catalog.tables().count());
        set("volley_parts", catalog.part_count());
        set("volley_nodes", catalog.nodes().count());
        set("volley_nodes_alive", catalog.live_nodes().count());
        set("volley_node_sessions", membership.session_count());
        set("volley_is_leader", usize::from(raft.is_leader()));
        set("volley_diverged_coordinators", raft.diverged().len());
        set("volley_has_leader", usize::from(raft.leader().is_some()));
        metrics::gauge!("volley_applied_index").set(applied as f64);
    }
}
