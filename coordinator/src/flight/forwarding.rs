//! Forwarding calls of clients to nodes.

use std::sync::Arc;

use http::request::Parts;
use http::{Request, Response};
use volley_common::http2::{ProxyRequestBody, ReplyBody};
use volley_common::identity::assert_principal;
use volley_common::net::ConnectionPool;
use volley_common::net::failover::is_unavailable;
use volley_common::proxy::{ForwardFailure, Repeatable, forward_to_any};
use volley_common::{Error, Result};

use super::call_context::CallContext;
use crate::raft::Handle;
use crate::service::Services;
use crate::service::read::ReadService;
use crate::service::tickets::ticket_key;

/// Forwards calls of clients to nodes. Cheap to clone.
#[derive(Clone)]
pub struct NodeForwarder {
    raft: Handle,
    read: Arc<ReadService>,
    pool: ConnectionPool,
}

impl NodeForwarder {
    /// Forwards with these services.
    pub fn new(services: &Services) -> Self {
        let (raft, read, pool) = (services.raft.clone(), services.read.clone(), services.pool.clone());
        NodeForwarder { raft, read, pool }
    }

    /// Forwards a call, for its principal, to the first of the nodes that can be reached. `body` returns the body for each
    /// attempt, or `None` if it has been consumed.
    ///
    /// # Errors
    /// UNAVAILABLE: no node is alive, or none accepted the call. That of the node whose connection broke, or which stopped
    /// answering while it may have had a call that is sent only once.
    pub async fn forward(
        &self,
        nodes: Vec<String>,
        mut head: Parts,
        call: &CallContext,
        repeatable: Repeatable,
        body: impl Fn() -> Option<ProxyRequestBody>,
    ) -> Result<Response<ReplyBody>> {
        let key = ticket_key(&self.raft.view()).ok();
        assert_principal(&mut head.headers, call.access(), key.as_ref(), head.uri.path());
        let request = || {
            let mut request = Request::new(body()?);
            *request.method_mut() = head.method.clone();
            *request.uri_mut() = head.uri.clone();
            *request.headers_mut() = head.headers.clone();
            request.extensions_mut().insert(call.access().clone());
            Some(request)
        };
        forward_to_any(&self.pool, nodes, repeatable, request).await.map_err(|error| match error {
            ForwardFailure::NotAccepted(error) if is_unavailable(&error) => {
                error.at("none of the live nodes accepted the call")
            }
            ForwardFailure::NotAccepted(error) | ForwardFailure::Final(error) => error,
            ForwardFailure::NoCandidate => Error::unavailable("no node is alive"),
        })
    }

    /// The same to any live node, a different one first each time.
    ///
    /// # Errors
    /// As [`NodeForwarder::forward`].
    pub async fn forward_to_any_node(
        &self,
        head: Parts,
        call: &CallContext,
        repeatable: Repeatable,
        body: impl Fn() -> Option<ProxyRequestBody>,
    ) -> Result<Response<ReplyBody>> {
        let nodes = self.read.put_nodes().await?;
        self.forward(nodes, head, call, repeatable, body).await
    }
}
