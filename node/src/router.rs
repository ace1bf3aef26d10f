//! Identifies the caller of every Flight call on a node, and dispatches the call: DoGet and DoPut are answered here, below
//! tonic; metadata calls are proxied to a coordinator; tonic serves the rest ([`crate::flight`]).

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use rand::seq::SliceRandom;
use tokio::sync::Semaphore;
use tonic::service::Routes;
use tower::Service;
use volley_common::fairness::CallLimit;
use volley_common::grpc::FLIGHT_SERVICE;
use volley_common::http2::{
    AdvancingBody, CompleteBody, MAX_UNIDENTIFIED, ReplyBody, UnidentifiedBody, decompressed, grpc_error,
};
use volley_common::identity::{Access, is_public};
use volley_common::listen::host_port;
use volley_common::net::ConnectionPool;
use volley_common::options::fields::cut;
use volley_common::proxy::{ForwardFailure, Repeatable, ReplayableBody, forward_to_any};
use volley_common::server::audit::request_id;
use volley_common::{Error, NodeId, Result};

use crate::callers::CallerIdentifier;
use crate::cluster_view::{ClusterMembers, ClusterView};
use crate::context::{GetContext, NodeContext, PutContext, SqlContext};
use crate::coordinator_proxy::{CoordinatorProxy, MetadataRequest, asserted};
use crate::sql;
use crate::storage::PartStore;

/// Flight calls that coordinators answer.
const METADATA_CALLS: [&str; 6] =
    ["ListFlights", "GetFlightInfo", "PollFlightInfo", "GetSchema", "DoAction", "ListActions"];
/// The header of a put that a node forwards because it accepts no writes. A put with it is not forwarded again.
const FORWARDED: &str = "x-volley-relayed"; // The name that earlier versions know.
/// A header that is returned unchanged.
const ECHOED: &str = "x-middleware";

/// The service of one Flight listener.
#[derive(Clone)]
pub struct NodeRouter {
    callers: Arc<CallerIdentifier>,
    get: Arc<GetContext>,
    put: Arc<PutContext>,
    /// What queries use, and all calls that may be SQL.
    sql: Arc<SqlContext>,
    /// Forwards calls that coordinators answer.
    coordinators: CoordinatorProxy,
    /// Counts the calls of clients.
    calls: Arc<CallLimit>,
    tonic: Routes,
}

impl NodeRouter {
    /// `tonic` serves the calls that are not answered here. `listener`: the listener's name, or "".
    pub fn new(context: &NodeContext, tonic: Routes, listener: &str) -> Self {
        let coordinators = CoordinatorProxy::new(context.cluster.clone(), &context.pool, listener);
        let (callers, sql) = (context.callers.clone(), context.sql.clone());
        let (get, put, calls) = (context.get.clone(), context.put.clone(), context.calls.clone());
        NodeRouter { callers, get, put, sql, coordinators, calls, tonic }
    }

    async fn respond(self, request: Request<Incoming>) -> Response<ReplyBody> {
        let (mut head, body) = request.into_parts();
        if let Err(error) = self.callers.identify(&mut head).await {
            return grpc_error(error);
        }
        let access = Access::of(&head.extensions);
        // A busy node is healthy: health checks have their own places.
        let admitted = match head.uri.path().starts_with(FLIGHT_SERVICE) {
            true => self.calls.admit(&access),
            false => self.calls.admit_other_service(&access),
        };
        let permit = match admitted {
            Ok(permit) => permit,
            Err(status) => return grpc_error(status),
        };
        let mut reply = self.route(Request::from_parts(head, body)).await;
        permit.hold(&mut reply);
        reply
    }

    /// Dispatches a call whose extensions have the caller's [`Access`].
    async fn route(self, request: Request<Incoming>) -> Response<ReplyBody> {
        let NodeRouter { get, put, sql, coordinators, mut tonic, .. } = self;
        match request.uri().path().strip_prefix(FLIGHT_SERVICE) {
            Some("DoGet") => sql::serve_get(sql, request).await,
            Some("DoPut") => match check_writable(&put.store).await {
                Ok(()) => sql::serve_put(sql, coordinators, request),
                Err(error) => {
                    let reply = forward_put(&put.store, &get.cluster, &put.pool, request, error).await;
                    reply.unwrap_or_else(grpc_error)
                }
            },
            Some(call) if METADATA_CALLS.contains(&call) => {
                serve_metadata(sql, coordinators, request).await.unwrap_or_else(grpc_error)
            }
            _ => {
                let request = match for_tonic(request, put.config.max_message) {
                    Ok(request) => request,
                    Err(error) => return grpc_error(error),
                };
                match tonic.call(request).await {
                    Ok(response) => response.map(ReplyBody::Tonic),
                    Err(never) => match never {},
                }
            }
        }
    }
}

/// Answers a metadata call if it is SQL; any other is forwarded to a coordinator.
async fn serve_metadata(
    sql: Arc<SqlContext>,
    coordinators: CoordinatorProxy,
    request: Request<Incoming>,
) -> Result<Response<ReplyBody>> {
    let request = MetadataRequest::read(request).await?;
    match sql::recognize(&request).await {
        Some(call) => Ok(sql::serve_metadata(sql, coordinators, request, call).await),
        None => coordinators.forward(request).await,
    }
}

/// A call for tonic, with messages of at most `max_message` bytes. Handshakes and health checks, which anybody may send, are
/// neither larger nor slower than such calls need.
fn for_tonic(request: Request<Incoming>, max_message: usize) -> Result<Request<tonic::body::Body>> {
    let request = request.map(CompleteBody);
    if is_public(request.uri().path()) {
        let request = request.map(|body| AdvancingBody::new(UnidentifiedBody::new(body)));
        return Ok(decompressed(request, MAX_UNIDENTIFIED)?.map(tonic::body::Body::new));
    }
    Ok(decompressed(request.map(AdvancingBody::new), max_message)?.map(tonic::body::Body::new))
}

impl Service<Request<Incoming>> for NodeRouter {
    type Response = Response<ReplyBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let router = self.clone();
        let echoed: Option<HeaderValue> = request.headers().get(ECHOED).cloned();
        Box::pin(async move {
            let mut response = router.respond(request).await;
            if let Some(value) = echoed {
                response.headers_mut().entry(ECHOED).or_insert(value);
            }
            Ok(response)
        })
    }
}

/// Whether this node accepts new parts.
async fn check_writable(store: &PartStore) -> Result<()> {
    /// A burst of puts must not start a thread for each.
    static CHECKS: Semaphore = Semaphore::const_new(4);
    let store = store.clone();
    let _check = CHECKS.acquire().await.map_err(|_| Error::internal("the permits of checks are never closed"))?;
    let checked = tokio::task::spawn_blocking(move || store.check_writable(0)).await;
    checked.unwrap_or_else(|e| Err(Error::internal(format!("checking the disk: {e}"))))
}

/// Forwards a put to a writable node, because this one accepts no writes (`read_only`). After a failure the next node is
/// tried only if nothing of the put's body was read. The other node identifies the client by the assertion.
///
/// # Errors
/// UNAVAILABLE: there are writable nodes, but none could be reached. What ended the attempt at the node that may have got the
/// put. `read_only` if there is no writable node.
async fn forward_put(
    store: &PartStore,
    cluster: &ClusterView,
    pool: &ConnectionPool,
    request: Request<Incoming>,
    read_only: Error,
) -> Result<Response<ReplyBody>> {
    let (mut head, body) = request.into_parts();
    if head.headers.insert(FORWARDED, HeaderValue::from_static("1")).is_some() {
        return Err(read_only);
    }
    let mut nodes = writable_nodes(&cluster.members.load(), store.node());
    nodes.shuffle(&mut rand::rng());
    let body = ReplayableBody::new(body);
    let request = || body.unread().map(|body| Request::from_parts(asserted(&head, cluster), body));
    let error = match forward_to_any(pool, nodes, Repeatable::WhileUnread, request).await {
        Ok(reply) => return Ok(reply),
        Err(ForwardFailure::NotAccepted(error)) => {
            Error::unavailable(format!("the put could not be forwarded: {error} (this node: {read_only}); try again"))
        }
        // The other node may have got the put.
        Err(ForwardFailure::Final(mut error)) => {
            error.message = format!("the put could not be forwarded: {} (this node: {read_only})", error.message);
            error
        }
        Err(ForwardFailure::NoCandidate) => read_only,
    };
    tracing::info!(request_id = request_id(&head.headers).map(cut), %error, "a put was refused");
    Err(error)
}

/// Flight addresses of the other nodes that accept writes, as the leader last reported.
fn writable_nodes(members: &ClusterMembers, this_node: NodeId) -> Vec<String> {
    let others = members.nodes.iter().filter(|(id, _)| **id != this_node).map(|(_, node)| node);
    let writable = others.filter(|node| node.is_writable());
    writable.map(|node| host_port(&node.flight_uri).to_string()).filter(|addr| !addr.is_empty()).collect()
}
