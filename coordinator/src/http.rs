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

use crate::gauges;
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

    async fn update_gauges(&self) -> String {
        let Some((service, membership)) = self.0.get().cloned() else { return String::new() };
        gauges::update_leader(&service).await;
        gauges::update_repair(&service).await;
        let updated = tokio::task::spawn_blocking(move || gauges::update(&service, &membership)).await;
        updated.unwrap_or_default()
    }
}
