//! Metadata calls of clients, which coordinators answer: read whole, and forwarded with an assertion of their principal.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use tonic::Status;
use volley_common::grpc::{self, FLIGHT_SERVICE};
use volley_common::http2::{
    AdvancingBody, CompleteBody, MAX_UNIDENTIFIED, ProxyRequestBody, ReplyBody, UNIDENTIFIED_TIMEOUT, decompressed,
};
use volley_common::identity::{ASSERTION_HEADER, Access, assert_principal};
use volley_common::listen::host_port;
use volley_common::net::ConnectionPool;
use volley_common::net::failover::is_unavailable;
use volley_common::options::sql::{SQL_FORWARDED_HEADER, SQL_HEADER};
use volley_common::options::{CLIENT_LISTENER_HEADER, CLIENT_TLS_HEADER};
use volley_common::proxy::{ForwardFailure, Repeatable, forward_to_any};
use volley_common::tls::Caller;
use volley_common::{Error, Result};

use crate::cluster_view::ClusterView;

/// The largest metadata request, bytes. It is kept in memory until a coordinator has answered.
const MAX_METADATA_REQUEST: usize = 16 << 20;
/// A metadata request must have arrived within this time; its end follows its one message.
const METADATA_TIMEOUT: Duration = Duration::from_secs(30);

/// Forwards calls of one listener's clients to coordinators.
#[derive(Clone)]
pub struct CoordinatorProxy {
    cluster: Arc<ClusterView>,
    pool: ConnectionPool,
    /// The listener's name, by which coordinators know its clients; `None` for an unnamed listener.
    listener: Option<HeaderValue>,
}

/// A metadata call that has arrived.
#[derive(Clone)]
pub struct MetadataRequest {
    /// Its path, headers and extensions, which have the caller's [`Access`].
    pub head: Parts,
    /// Its body: one gRPC message, perhaps compressed.
    pub body: Bytes,
}

impl MetadataRequest {
    /// Reads the whole call. A caller without identity may send little, and must send it soon.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: it is too large. DEADLINE_EXCEEDED: it does not arrive. Those of [`CompleteBody`].
    pub async fn read(request: Request<Incoming>) -> Result<Self> {
        let (head, body) = request.into_parts();
        let (max_bytes, timeout) = metadata_limits(&Access::of(&head.extensions));
        let body = read_body(body, max_bytes, timeout).await?;
        Ok(MetadataRequest { head, body })
    }

    /// The name of the Flight method; empty for another service.
    pub fn method(&self) -> &str {
        self.head.uri.path().strip_prefix(FLIGHT_SERVICE).unwrap_or_default()
    }

    /// The message, decompressed.
    ///
    /// # Errors
    /// Those of [`decompressed`] and of [`grpc::read_message`].
    pub async fn message(&self) -> Result<Bytes> {
        let mut request = Request::new(tonic::body::Body::new(Full::new(self.body.clone())));
        *request.headers_mut() = self.head.headers.clone();
        let (max_bytes, _) = metadata_limits(&Access::of(&self.head.extensions));
        let body = decompressed(request, max_bytes)?.into_body();
        grpc::read_message(body, max_bytes).await
    }

    /// A call of `method` with this message, by the same client, with its headers. The statement, if a header has it, is not
    /// repeated.
    ///
    /// # Errors
    /// INTERNAL: `method` is no name.
    pub fn with_message(&self, method: &str, message: &impl prost::Message) -> Result<Self> {
        let mut head = self.head.clone();
        head.headers.remove("grpc-encoding");
        head.headers.remove(SQL_HEADER);
        head.headers.remove(http::header::CONTENT_LENGTH);
        let path = format!("{FLIGHT_SERVICE}{method}");
        head.uri = path.parse::<http::Uri>().map_err(|e| Error::internal(format!("{path} is no path: {e}")))?;
        Ok(MetadataRequest { head, body: grpc::encode_message(message) })
    }
}

impl CoordinatorProxy {
    /// Forwards by connections of `pool`. `listener`: the listener's name, or "".
    pub fn new(cluster: Arc<ClusterView>, pool: &ConnectionPool, listener: &str) -> Self {
        let listener = HeaderValue::from_str(listener).ok().filter(|name| !name.is_empty());
        CoordinatorProxy { cluster, pool: pool.to_coordinators(), listener }
    }

    /// Forwards a call to a coordinator; a call that only reads is repeated at another one that answers sooner. Instead of the
    /// client's credentials the coordinator gets an assertion of its principal.
    ///
    /// # Errors
    /// UNAVAILABLE: no coordinator can be reached. That of the connection.
    pub async fn forward(&self, request: MetadataRequest) -> Result<Response<ReplyBody>> {
        let MetadataRequest { mut head, body } = request;
        if !is_forwarded(&head) {
            let is_tls = *Caller::of(&head.extensions) != Caller::Plaintext;
            describe_client(&mut head.headers, self.listener.clone(), is_tls);
        }
        let addrs: Vec<String> = {
            let members = self.cluster.members.load();
            let known = members.coordinator_flight.iter().map(|addr| host_port(addr).to_string());
            known.filter(|addr| !addr.is_empty()).collect()
        };
        // An action may change the catalog.
        let repeatable = if head.uri.path().ends_with("/DoAction") { Repeatable::No } else { Repeatable::Yes };
        let request =
            || Some(Request::from_parts(asserted(&head, &self.cluster), ProxyRequestBody::from(body.clone())));
        forward_to_any(&self.pool, addrs, repeatable, request).await.map_err(|error| match error {
            ForwardFailure::NotAccepted(error) if is_unavailable(&error) => error.at("no coordinator can be reached"),
            ForwardFailure::NotAccepted(error) | ForwardFailure::Final(error) => error,
            ForwardFailure::NoCandidate => {
                Error::unavailable("no coordinator can be reached: this node knows no coordinator yet: try again")
            }
        })
    }
}

/// Whether a coordinator has forwarded the call, and described the client's connection. The header of any other caller means
/// nothing; the router has verified the assertion, if there is one.
fn is_forwarded(head: &Parts) -> bool {
    let is_member = match Caller::of(&head.extensions) {
        Caller::Member(_) => true,
        Caller::Plaintext => Access::of(&head.extensions).is_open() || head.headers.contains_key(ASSERTION_HEADER),
        Caller::Client(_) | Caller::Anonymous => false,
    };
    is_member && head.headers.contains_key(SQL_FORWARDED_HEADER)
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
pub fn asserted(head: &Parts, cluster: &ClusterView) -> Parts {
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
async fn read_body<B>(body: B, max_bytes: usize, timeout: Duration) -> Result<Bytes>
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
