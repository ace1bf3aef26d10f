//! The routing of calls below tonic: DoPut and DoExchange are forwarded to a node byte for byte, DoGet with its ticket
//! verified or planned from a name. GetFlightInfo gets a hand-encoded reply. All other calls go to the tonic services.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow_flight::{FlightDescriptor, Ticket};
use http::request::Parts;
use http::{Extensions, HeaderMap, HeaderValue, Request, Response};
use hyper::body::Incoming;
use prost::Message;
use tonic::Status;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tower::Service as TowerService;
use volley_common::grpc::{self, PREFIX};
use volley_common::http2::{CompleteBody, ProxyRequestBody, ReplyBody, decompressed, grpc_error, grpc_message};
use volley_common::listen::check_name;
use volley_common::net::ConnectionPool;
use volley_common::net::failover::is_unavailable;
use volley_common::options::{
    CLIENT_LISTENER_HEADER, CLIENT_TLS_HEADER, DECOMPRESS_HEADER, HEADER_PREFIX, LISTENER_HEADER, TableRequest,
    TicketRequest, decompress_header,
};
use volley_common::proxy::{Repeatable, ReplayableBody, forward_to_any};
use volley_common::server::serve::TonicService;
use volley_common::tls::Caller;
use volley_common::{Error, Result};

use super::flight_info;
use super::limits::{MAX_REPLY, MAX_REQUEST, MAX_TICKET};
use crate::client_listener::{ClientListener, ListenerTable};
use crate::service::Services;
use crate::service::read::ReadService;

/// A client's header that every reply returns, in success and failure.
const ECHOED: &str = "x-middleware";

/// Routes the calls of one listener.
#[derive(Clone)]
pub struct CoordinatorRouter {
    read: Arc<ReadService>,
    listeners: Arc<ListenerTable>,
    pool: ConnectionPool,
    routes: TonicService<Routes>,
    /// The name of this listener.
    listener: Arc<str>,
    /// Whether the callers are members, which may name the listener that received a forwarded call.
    from_members: bool,
}

/// How a call arrived, passed to the tonic services as a request extension.
#[derive(Clone)]
struct ReceivedBy {
    /// The name of the listener that received it.
    listener: Arc<str>,
    /// Whether the client's connection has TLS.
    client_tls: bool,
}

/// The client listener that applies to a call.
///
/// # Errors
/// As [`ListenerTable::resolve`]. INVALID_ARGUMENT: a header is not ASCII.
pub fn client_listener(
    listeners: &ListenerTable,
    extensions: &Extensions,
    headers: &HeaderMap,
) -> Result<ClientListener> {
    let received_by = extensions.get::<ReceivedBy>();
    let name = received_by.map_or("", |received_by| &*received_by.listener);
    let listener = listeners.resolve(name, header_text(headers, LISTENER_HEADER)?)?;
    Ok(ClientListener { client_tls: received_by.is_some_and(|received_by| received_by.client_tls), ..listener })
}

/// Whether a client's connection has TLS: at this listener, or at the node that forwarded its call. A member that calls is
/// no client: its own TLS says nothing about the client's.
fn is_client_tls(extensions: &Extensions, headers: &HeaderMap) -> bool {
    let is_client = match Caller::of(extensions) {
        Caller::Anonymous | Caller::Client(_) => true,
        Caller::Plaintext | Caller::Member(_) => false,
    };
    is_client || headers.contains_key(CLIENT_TLS_HEADER)
}

fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.any(|other| Some(other) != first) {
        return Err(Error::invalid(format!("the header {name} has two values: leave one out")));
    }
    let text = first.map(|value| value.to_str());
    text.transpose().map_err(|_| Error::invalid(format!("the header {name} is not ASCII: give a listener's name")))
}

impl CoordinatorRouter {
    /// Routes calls of clients that connect to this listener.
    pub fn for_clients(services: &Services, routes: Routes, listener: &Arc<str>) -> Self {
        Self::new(services, routes, listener.clone(), false)
    }

    /// Routes calls of members, which forward calls of clients.
    pub fn for_members(services: &Services, routes: Routes) -> Self {
        Self::new(services, routes, services.listeners.default_name(), true)
    }

    fn new(services: &Services, routes: Routes, listener: Arc<str>, from_members: bool) -> Self {
        CoordinatorRouter {
            read: services.read.clone(),
            listeners: services.listeners.clone(),
            pool: services.pool.clone(),
            routes: TonicService(routes.prepare()),
            listener,
            from_members,
        }
    }

    /// The name of the listener that received the client's call, at this coordinator or at the node that forwarded it.
    fn received_by(&self, headers: &HeaderMap) -> Result<Arc<str>> {
        let forwarded = if self.from_members { header_text(headers, CLIENT_LISTENER_HEADER)? } else { None };
        match forwarded {
            // Only valid names are accepted, because plans are cached by this name.
            Some(name) => check_name(name).map(|()| name.into()).map_err(|e| e.at(CLIENT_LISTENER_HEADER)),
            None => Ok(self.listener.clone()),
        }
    }
}

type RouterReply = Response<ReplyBody>;

impl TowerService<Request<Incoming>> for CoordinatorRouter {
    type Response = RouterReply;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<RouterReply, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let mut router = self.clone();
        let echoed: Option<HeaderValue> = request.headers().get(ECHOED).cloned();
        Box::pin(async move {
            let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_string();
            let mut reply = router.dispatch(&method, request).await;
            count_request(&method);
            if let Some(value) = echoed {
                reply.headers_mut().insert(ECHOED, value);
            }
            Ok(reply)
        })
    }
}

impl CoordinatorRouter {
    async fn dispatch(&mut self, method: &str, mut request: Request<Incoming>) -> RouterReply {
        let is_flight = request.uri().path().starts_with("/arrow.flight.protocol.FlightService/");
        if is_flight {
            match self.received_by(request.headers()) {
                Ok(listener) => {
                    let client_tls = is_client_tls(request.extensions(), request.headers());
                    request.extensions_mut().insert(ReceivedBy { listener, client_tls });
                }
                Err(error) => return grpc_error(error),
            }
            // Also of a call that lists no addresses: a misspelt name must not pass unnoticed.
            let (extensions, headers) = (request.extensions(), request.headers());
            if let Err(error) = client_listener(&self.listeners, extensions, headers) {
                return grpc_error(error);
            }
        }
        let reply = match method {
            "GetFlightInfo" if is_flight => self.get_flight_info(request).await,
            "DoGet" if is_flight => self.do_get(request).await,
            "DoPut" | "DoExchange" if is_flight => self.forward_stream(request).await,
            _ => match self.routes.call(request).await {
                Ok(reply) => Ok(reply),
                Err(never) => match never {},
            },
        };
        let reply = reply.unwrap_or_else(grpc_error);
        if let Some(status) = Status::from_header_map(reply.headers()).filter(|_| is_flight) {
            tracing::info!(method, code = ?status.code(), error = status.message(), "call failed");
        }
        reply
    }

    /// Plans a read, and replies with one message that is encoded without copies.
    async fn get_flight_info(&self, request: Request<Incoming>) -> Result<RouterReply> {
        let (head, body) = decompressed(request.map(CompleteBody), MAX_REQUEST)?.into_parts();
        let message = grpc::read_message(body, MAX_REQUEST).await.map_err(|e| e.at("the descriptor"))?;
        let descriptor = FlightDescriptor::decode(message.clone())
            .map_err(|e| Error::invalid(format!("the message of GetFlightInfo is no FlightDescriptor: {e}")))?;
        let headers = MetadataMap::from_headers(head.headers);
        let table = TableRequest::from_descriptor(&descriptor, &headers)?.for_read()?;
        let listener = client_listener(&self.listeners, &head.extensions, headers.as_ref())?;
        let plan = self.read.plan_flight_info(&table, &listener).await?;
        let mut reply = flight_info::encode(&message, &plan, PREFIX);
        let length = reply.len() - PREFIX;
        if length > MAX_REPLY {
            return Err(Error::exhausted(format!(
                "the FlightInfo of table {:?} would have {length} bytes, more than the limit of {MAX_REPLY}: the table has too many parts; put it again in larger batches",
                plan.name.join("/")
            )));
        }
        reply[1..PREFIX].copy_from_slice(&(length as u32).to_be_bytes());
        Ok(grpc_message(reply.into()))
    }

    /// Verifies the ticket, or plans one if it is a table's name, and forwards the call to a node that has the data.
    async fn do_get(&self, request: Request<Incoming>) -> Result<RouterReply> {
        let (mut head, body) = decompressed(request.map(CompleteBody), MAX_TICKET)?.into_parts();
        let message = grpc::read_message(body, MAX_TICKET).await.map_err(|e| e.at("the ticket"))?;
        let ticket =
            Ticket::decode(message).map_err(|e| Error::invalid(format!("DoGet's message is not a ticket: {e}")))?;
        let ticket = ticket.ticket;
        let metadata = MetadataMap::from_headers(head.headers.clone());
        let (signed, decompress) = match TicketRequest::from_ticket(&ticket, &metadata)? {
            TicketRequest::Signed(bytes) => (bytes, decompress_header(&metadata)?),
            TicketRequest::Table(table) => {
                let table = table.for_read()?;
                (self.read.plan_ticket(&table.name, &table.options).await?, false)
            }
        };
        let nodes = self.read.serving_nodes(&self.read.verify_ticket(&signed)?).await?;
        remove_option_headers(&mut head.headers);
        if decompress {
            head.headers.insert(DECOMPRESS_HEADER, HeaderValue::from_static("true"));
        }
        let message = grpc::encode_message(&Ticket { ticket: signed.into() });
        self.forward(nodes, &head, Repeatable::Yes, || Some(ProxyRequestBody::from(message.clone()))).await
    }

    /// Forwards a client's stream to a node. Another node is tried only while nothing of the stream has been read.
    async fn forward_stream(&self, request: Request<Incoming>) -> Result<RouterReply> {
        let (head, body) = request.into_parts();
        let nodes = self.read.put_nodes().await?;
        let body = ReplayableBody::new(body);
        self.forward(nodes, &head, Repeatable::No, || body.unread()).await
    }

    /// Forwards a call to the first of the nodes that can be reached. `body` returns the body for each attempt, or `None` if
    /// it has been consumed.
    async fn forward(
        &self,
        nodes: Vec<String>,
        head: &Parts,
        repeatable: Repeatable,
        body: impl Fn() -> Option<ProxyRequestBody>,
    ) -> Result<RouterReply> {
        let request = || {
            let mut request = Request::new(body()?);
            *request.method_mut() = head.method.clone();
            *request.uri_mut() = head.uri.clone();
            *request.headers_mut() = head.headers.clone();
            Some(request)
        };
        forward_to_any(&self.pool, nodes, repeatable, request).await.map_err(|error| match error {
            Some(error) if is_unavailable(&error) => error.at("none of the live nodes accepted the call"),
            Some(error) => error,
            None => Error::unavailable("no node is alive"),
        })
    }
}

/// Counts a call. Unknown methods share one label, so that clients cannot create new metric series.
fn count_request(method: &str) {
    const KNOWN: [&str; 10] = [
        "Handshake",
        "ListFlights",
        "GetFlightInfo",
        "PollFlightInfo",
        "GetSchema",
        "DoGet",
        "DoPut",
        "DoExchange",
        "DoAction",
        "ListActions",
    ];
    let method = KNOWN.iter().find(|known| **known == method).copied().unwrap_or("other");
    metrics::counter!("volley_requests_total", "method" => method).increment(1);
}

/// Removes the headers that the planned ticket replaces.
fn remove_option_headers(headers: &mut HeaderMap) {
    let options: Vec<_> = headers.keys().filter(|key| key.as_str().starts_with(HEADER_PREFIX)).cloned().collect();
    for key in options {
        headers.remove(key);
    }
    headers.remove(http::header::CONTENT_LENGTH);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::tls::{ClientIdentity, MemberIdentity, MemberRole};

    use super::*;

    #[test]
    fn client_has_tls_at_this_listener_or_at_a_node() {
        let member = MemberIdentity { role: MemberRole::Node, name: "n1".into() };
        let client = ClientIdentity { name: "alice".into() };
        for (caller, is_tls) in [
            (Caller::Plaintext, false),
            (Caller::Member(Arc::new(member)), false),
            (Caller::Anonymous, true),
            (Caller::Client(Arc::new(client)), true),
        ] {
            let (mut extensions, mut headers) = (Extensions::new(), HeaderMap::new());
            extensions.insert(caller.clone());
            assert_eq!(is_client_tls(&extensions, &headers), is_tls, "{caller}");
            headers.insert(CLIENT_TLS_HEADER, HeaderValue::from_static("true"));
            assert!(is_client_tls(&extensions, &headers), "{caller}");
        }
    }

    #[test]
    fn header_with_two_values_is_refused() {
        let mut headers = HeaderMap::new();
        assert_eq!(header_text(&headers, LISTENER_HEADER).unwrap(), None);
        headers.append(LISTENER_HEADER, HeaderValue::from_static("inside"));
        headers.append(LISTENER_HEADER, HeaderValue::from_static("inside"));
        assert_eq!(header_text(&headers, LISTENER_HEADER).unwrap(), Some("inside"));
        headers.append(LISTENER_HEADER, HeaderValue::from_static("outside"));
        assert!(header_text(&headers, LISTENER_HEADER).unwrap_err().message.contains(LISTENER_HEADER));
    }

    #[test]
    fn option_headers_are_removed_from_a_planned_ticket() {
        let mut headers = HeaderMap::new();
        headers.insert("x-volley-limit", HeaderValue::from_static("1"));
        headers.insert("x-other", HeaderValue::from_static("1"));
        headers.insert("content-length", HeaderValue::from_static("9"));
        remove_option_headers(&mut headers);
        assert_eq!(headers.keys().map(|k| k.as_str()).collect::<Vec<_>>(), ["x-other"]);
    }
}
