//! Below tonic: DoGet, DoPut and DoExchange go to a node byte for byte, GetFlightInfo is answered with bytes made by hand,
//! everything else goes to the services.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow_flight::{FlightDescriptor, Ticket};
use http::{Extensions, HeaderMap, HeaderValue, Request, Response};
use hyper::body::Incoming;
use prost::Message;
use tonic::Status;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tower::Service as TowerService;
use volley_common::grpc::{self, PREFIX};
use volley_common::http2::{ProxyRequestBody, ReplyBody, grpc_error, grpc_message};
use volley_common::listen::check_name;
use volley_common::net::Failover;
use volley_common::net::failover::is_unavailable;
use volley_common::options::{CLIENT_LISTENER_HEADER, HEADER_PREFIX, LISTENER_HEADER, TableRequest, TicketRequest};
use volley_common::proxy::{ReplayableBody, forward_to_any};
use volley_common::server::serve::TonicService;
use volley_common::{Error, Result};

use super::{MAX_REPLY, MAX_REQUEST, discovery};
use crate::service::Service;
use crate::service::via::Via;

/// A client's header that every answer brings back, in success and failure.
const ECHOED: &str = "x-middleware";
/// The largest ticket that is taken in.
const MAX_TICKET: usize = 8 << 20;

/// What a listener serves: the services behind tonic, and the way to the nodes.
#[derive(Clone)]
pub struct Edge {
    service: Arc<Service>,
    routes: TonicService<Routes>,
    listener: Arc<str>,
    /// Whether it is members who call, whose word on where a client came by counts.
    members: bool,
}

/// The listener by which a call came, for the services behind tonic.
#[derive(Clone)]
struct CameBy(Arc<str>);

/// The way of a call that came to a service behind tonic.
///
/// # Errors
/// Those of [`Service::via`]; INVALID_ARGUMENT: a header that is no text.
pub fn via(service: &Service, extensions: &Extensions, headers: &MetadataMap) -> Result<Via> {
    let came_by = extensions.get::<CameBy>().map_or("", |came_by| &*came_by.0);
    service.via(came_by, text(headers.as_ref(), LISTENER_HEADER)?)
}

/// A header's text.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>> {
    let text = headers.get(name).map(|value| value.to_str());
    text.transpose().map_err(|_| Error::invalid(format!("the header {name} is not ASCII: give a listener's name")))
}

impl Edge {
    /// Puts the relayed calls before the services, for clients that come by this listener.
    pub fn for_clients(service: Arc<Service>, routes: Routes, listener: &Arc<str>) -> Self {
        Edge { service, routes: TonicService(routes.prepare()), listener: listener.clone(), members: false }
    }

    /// The same for members, that hand on clients' calls.
    pub fn for_members(service: Arc<Service>, routes: Routes) -> Self {
        let listener = service.entries.first().map_or_else(|| "".into(), |first| first.name.clone());
        Edge { service, routes: TonicService(routes.prepare()), listener, members: true }
    }

    /// The name of the listener by which a client came, to this coordinator or to the node that hands its call on.
    fn came_by(&self, headers: &HeaderMap) -> Result<Arc<str>> {
        let handed_on = if self.members { text(headers, CLIENT_LISTENER_HEADER)? } else { None };
        match handed_on {
            // A name that no listener can have is none that was handed on: plans are kept by it.
            Some(name) => check_name(name).map(|()| name.into()).map_err(|e| e.at(CLIENT_LISTENER_HEADER)),
            None => Ok(self.listener.clone()),
        }
    }
}

type Reply = Response<ReplyBody>;

impl TowerService<Request<Incoming>> for Edge {
    type Response = Reply;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<Reply, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let mut edge = self.clone();
        let echoed: Option<HeaderValue> = request.headers().get(ECHOED).cloned();
        Box::pin(async move {
            let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_string();
            let mut reply = edge.dispatch(&method, request).await;
            count(&method);
            if let Some(value) = echoed {
                reply.headers_mut().insert(ECHOED, value);
            }
            Ok(reply)
        })
    }
}

impl Edge {
    async fn dispatch(&mut self, method: &str, mut request: Request<Incoming>) -> Reply {
        let flight = request.uri().path().starts_with("/arrow.flight.protocol.FlightService/");
        if flight {
            match self.came_by(request.headers()) {
                Ok(name) => request.extensions_mut().insert(CameBy(name)),
                Err(error) => return grpc_error(error),
            };
        }
        let reply = match method {
            "GetFlightInfo" if flight => info(&self.service, request).await,
            "DoGet" if flight => do_get(&self.service, request).await,
            "DoPut" | "DoExchange" if flight => pass_on(&self.service, request).await,
            _ => match self.routes.call(request).await {
                Ok(reply) => Ok(reply),
                Err(never) => match never {},
            },
        };
        let reply = reply.unwrap_or_else(grpc_error);
        if let Some(status) = Status::from_header_map(reply.headers()).filter(|_| flight) {
            tracing::info!(method, code = ?status.code(), error = status.message(), "call refused");
        }
        reply
    }
}

/// Counts a call; methods that nobody knows go together, so that a client cannot make up series.
fn count(method: &str) {
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

/// Offers a table: one message, without copies.
async fn info(service: &Service, request: Request<Incoming>) -> Result<Reply> {
    let (head, body) = request.into_parts();
    let message = grpc::read_message(body, MAX_REQUEST).await.map_err(|e| e.at("the descriptor"))?;
    let descriptor = FlightDescriptor::decode(message.clone())
        .map_err(|e| Error::invalid(format!("the message of GetFlightInfo is no FlightDescriptor: {e}")))?;
    let headers = MetadataMap::from_headers(head.headers);
    let wanted = TableRequest::from_descriptor(&descriptor, &headers)?;
    let offer = service.offer(&wanted, &via(service, &head.extensions, &headers)?).await?;
    let mut answer = discovery::info(&message, &offer, PREFIX);
    let length = answer.len() - PREFIX;
    if length > MAX_REPLY {
        return Err(Error::exhausted(format!(
            "the FlightInfo of table {:?} would have {length} bytes, more than the {MAX_REPLY} that an answer may have: its parts are too many; put it anew in larger batches",
            offer.name.join("/")
        )));
    }
    answer[1..PREFIX].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(grpc_message(answer.into()))
}

/// Reads the ticket, plans it if it is a name, and hands the call to a node that has the data.
async fn do_get(service: &Arc<Service>, request: Request<Incoming>) -> Result<Reply> {
    let (mut head, body) = request.into_parts();
    let message = grpc::read_message(body, MAX_TICKET).await.map_err(|e| e.at("the ticket"))?;
    let ticket =
        Ticket::decode(message).map_err(|e| Error::invalid(format!("DoGet's message is not a ticket: {e}")))?;
    let ticket = ticket.ticket;
    let metadata = MetadataMap::from_headers(head.headers.clone());
    let signed = match TicketRequest::from_ticket(&ticket, &metadata)? {
        TicketRequest::Signed(bytes) => bytes,
        TicketRequest::Table(table) => service.whole(&table.name, &table.options).await?,
    };
    let opened = service.open_ticket(&signed)?;
    let nodes = service.redeemers(&opened)?;
    drop_options(&mut head.headers);
    let message = grpc::encode_message(&Ticket { ticket: signed.into() });
    let make = || {
        let mut request = Request::new(ProxyRequestBody::from(message.clone()));
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = head.uri.clone();
        *request.headers_mut() = head.headers.clone();
        Some(request)
    };
    try_nodes(service, &nodes, make).await
}

/// Hands a stream of the client to a node; another one is tried only while nothing of it was read.
async fn pass_on(service: &Arc<Service>, request: Request<Incoming>) -> Result<Reply> {
    let (head, body) = request.into_parts();
    let nodes = service.any_nodes()?;
    let body = ReplayableBody::new(body);
    let make = || {
        let mut request = Request::new(body.unread()?);
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = head.uri.clone();
        *request.headers_mut() = head.headers.clone();
        Some(request)
    };
    try_nodes(service, &nodes, make).await
}

/// Forwards the request to one node after another until one is reachable; `make` makes it anew, or none if it is spent.
async fn try_nodes(
    service: &Service,
    nodes: &[String],
    make: impl Fn() -> Option<Request<ProxyRequestBody>>,
) -> Result<Reply> {
    let mut failover = Failover::new(nodes);
    if let Some(reply) = forward_to_any(&service.pool, &mut failover, is_unavailable, make).await? {
        return Ok(reply);
    }
    let error = failover.into_error().unwrap_or_else(|| Error::unavailable("no node is alive"));
    Err(error.at("none of the live nodes took the call"))
}

/// The options are in the ticket now; what is left of the headers goes on.
fn drop_options(headers: &mut HeaderMap) {
    let options: Vec<_> = headers.keys().filter(|key| key.as_str().starts_with(HEADER_PREFIX)).cloned().collect();
    for key in options {
        headers.remove(key);
    }
    headers.remove(http::header::CONTENT_LENGTH);
    // The new message is not compressed, whatever the old one was.
    headers.remove("grpc-encoding");
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn options_do_not_go_on_with_a_planned_ticket() {
        let mut headers = HeaderMap::new();
        headers.insert("x-volley-limit", HeaderValue::from_static("1"));
        headers.insert("x-other", HeaderValue::from_static("1"));
        headers.insert("content-length", HeaderValue::from_static("9"));
        drop_options(&mut headers);
        assert_eq!(headers.keys().map(|k| k.as_str()).collect::<Vec<_>>(), ["x-other"]);
    }
}
