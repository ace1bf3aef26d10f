//! Identifies the caller of every Flight call on a node, and dispatches the call: DoGet and DoPut are answered here, below
//! tonic; metadata calls are proxied to a coordinator; tonic serves the rest ([`crate::flight`]).

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use rand::seq::SliceRandom;
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::service::Routes;
use tower::Service;
use volley_common::fairness::CallLimit;
use volley_common::grpc::FLIGHT_SERVICE;
use volley_common::http2::{
    AdvancingBody, CompleteBody, MAX_UNIDENTIFIED, ProxyRequestBody, ReplyBody, UNIDENTIFIED_TIMEOUT, UnidentifiedBody,
    decompressed, grpc_error,
};
use volley_common::identity::{Access, assert_principal, is_public};
use volley_common::listen::host_port;
use volley_common::net::ConnectionPool;
use volley_common::net::failover::is_unavailable;
use volley_common::options::{CLIENT_LISTENER_HEADER, CLIENT_TLS_HEADER};
use volley_common::proxy::{Repeatable, ReplayableBody, forward_to_any};
use volley_common::tls::Caller;
use volley_common::{Error, NodeId, Result};

use crate::callers::CallerIdentifier;
use crate::cluster_view::{ClusterMembers, ClusterView};
use crate::context::{GetContext, NodeContext, PutContext};
use crate::storage::PartStore;
use crate::{get, put};

/// Flight calls that coordinators answer.
const METADATA_CALLS: [&str; 6] =
    ["ListFlights", "GetFlightInfo", "PollFlightInfo", "GetSchema", "DoAction", "ListActions"];
/// The largest metadata request, bytes. It is kept in memory until a coordinator has answered.
const MAX_METADATA_REQUEST: usize = 16 << 20;
/// A metadata request must have arrived within this time; its end follows its one message.
const METADATA_TIMEOUT: Duration = Duration::from_secs(30);
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
    /// Connections for calls that coordinators answer.
    coordinators: ConnectionPool,
    /// Counts the calls of clients.
    calls: Arc<CallLimit>,
    tonic: Routes,
    /// The listener's name, by which coordinators know its clients; `None` for an unnamed listener.
    listener: Option<HeaderValue>,
}

impl NodeRouter {
    /// `tonic` serves the calls that are not answered here. `listener`: the listener's name, or "".
    pub fn new(context: &NodeContext, tonic: Routes, listener: &str) -> Self {
        let listener = HeaderValue::from_str(listener).ok().filter(|name| !name.is_empty());
        let coordinators = context.get.pool.to_coordinators();
        let callers = context.callers.clone();
        let (get, put, calls) = (context.get.clone(), context.put.clone(), context.calls.clone());
        NodeRouter { callers, get, put, coordinators, calls, tonic, listener }
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
        let NodeRouter { get, put, coordinators, mut tonic, listener, .. } = self;
        match request.uri().path().strip_prefix(FLIGHT_SERVICE) {
            Some("DoGet") => get::serve_get(get, request).await,
            Some("DoPut") => match check_writable(&put.store).await {
                Ok(()) => put::serve_put(put, request),
                Err(error) => {
                    let reply = forward_put(&put.store, &get.cluster, &put.pool, request, error).await;
                    reply.unwrap_or_else(grpc_error)
                }
            },
            Some(call) if METADATA_CALLS.contains(&call) => {
                let reply = proxy_to_coordinator(&get.cluster, &coordinators, request, listener).await;
                reply.unwrap_or_else(grpc_error)
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

/// Proxies a metadata call to a coordinator; a call that only reads is repeated at another one that answers sooner. Instead
/// of the client's credentials the coordinator gets an assertion of its principal.
async fn proxy_to_coordinator(
    cluster: &ClusterView,
    pool: &ConnectionPool,
    request: Request<Incoming>,
    listener: Option<HeaderValue>,
) -> Result<Response<ReplyBody>> {
    let (mut head, body) = request.into_parts();
    let is_tls = *Caller::of(&head.extensions) != Caller::Plaintext;
    describe_client(&mut head.headers, listener, is_tls);
    let (max_bytes, timeout) = metadata_limits(&Access::of(&head.extensions));
    let body = read_metadata_request(body, max_bytes, timeout).await?;
    let addrs: Vec<String> = {
        let members = cluster.members.load();
        let known = members.coordinator_flight.iter().map(|addr| host_port(addr).to_string());
        known.filter(|addr| !addr.is_empty()).collect()
    };
    // An action may change the catalog.
    let repeatable = if head.uri.path().ends_with("/DoAction") { Repeatable::No } else { Repeatable::Yes };
    let request = || Some(Request::from_parts(asserted(&head, cluster), ProxyRequestBody::from(body.clone())));
    forward_to_any(pool, addrs, repeatable, request).await.map_err(|error| match error {
        Some(error) if !is_unavailable(&error) => error,
        Some(error) => error.at("no coordinator can be reached"),
        None => Error::unavailable("no coordinator can be reached: this node knows no coordinator yet: try again"),
    })
}

/// The largest metadata request of this caller, bytes, and the time within which it must have arrived.
fn metadata_limits(access: &Access) -> (usize, Duration) {
    match access.require_identity() {
        Ok(()) => (MAX_METADATA_REQUEST, METADATA_TIMEOUT),
        Err(_) => (MAX_UNIDENTIFIED, UNIDENTIFIED_TIMEOUT),
    }
}

/// The head of a call for another member: without the client's credentials, with an assertion of its principal. It is made
/// for each attempt, because it expires.
fn asserted(head: &Parts, cluster: &ClusterView) -> Parts {
    let mut head = head.clone();
    let key = cluster.ticket_key.load_full();
    assert_principal(&mut head.headers, &Access::of(&head.extensions), key.as_deref(), head.uri.path());
    head
}

/// Sets the headers by which a coordinator knows the client's connection: its listener, and whether it has TLS. What the
/// client says about them is removed.
fn describe_client(headers: &mut HeaderMap, listener: Option<HeaderValue>, is_tls: bool) {
    headers.remove(CLIENT_LISTENER_HEADER);
    headers.remove(CLIENT_TLS_HEADER);
    headers.extend(listener.map(|name| (HeaderName::from_static(CLIENT_LISTENER_HEADER), name)));
    if is_tls {
        headers.insert(CLIENT_TLS_HEADER, HeaderValue::from_static("true"));
    }
}

/// The whole body of a metadata call, of at most `max_bytes`, which must arrive within `timeout`.
///
/// # Errors
/// RESOURCE_EXHAUSTED: it is too large. DEADLINE_EXCEEDED: it does not arrive. Those of [`CompleteBody`].
async fn read_metadata_request<B>(body: B, max_bytes: usize, timeout: Duration) -> Result<Bytes>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let body = Limited::new(AdvancingBody::new(CompleteBody(body)), max_bytes);
    let read = tokio::time::timeout(timeout, body.collect()).await;
    let read = read.map_err(|_| Error::deadline(format!("the request did not arrive within {timeout:?}")))?;
    let body = read.map_err(|error| match error.downcast::<Status>() {
        Ok(status) => Error::from(*status),
        Err(_) => Error::exhausted(format!("the request is over the limit of {max_bytes} bytes")),
    })?;
    Ok(body.to_bytes())
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
/// UNAVAILABLE: there are writable nodes, but none could be reached, or the connection broke. Otherwise `read_only`.
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
    let error = match forward_to_any(pool, nodes, Repeatable::No, request).await {
        Ok(reply) => return Ok(reply),
        Err(Some(error)) => {
            Error::unavailable(format!("the put could not be forwarded: {error} (this node: {read_only}); try again"))
        }
        Err(None) => read_only,
    };
    tracing::info!(%error, "a put was refused");
    Err(error)
}

/// Flight addresses of the other nodes that accept writes, as the leader last reported.
fn writable_nodes(members: &ClusterMembers, this_node: NodeId) -> Vec<String> {
    let others = members.nodes.iter().filter(|(id, _)| **id != this_node).map(|(_, node)| node);
    let writable = others.filter(|node| node.is_writable());
    writable.map(|node| host_port(&node.flight_uri).to_string()).filter(|addr| !addr.is_empty()).collect()
}
