//! The routing of calls below tonic. The caller of every call is identified first. DoPut and DoExchange are forwarded to a node
//! byte for byte, DoGet with its ticket verified or planned from a name, calls with SQL whole; what is forwarded says for whom.
//! GetFlightInfo gets a hand-encoded reply. All other calls go to the tonic services.

mod query_results;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow_flight::{FlightDescriptor, Ticket};
use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::Incoming;
use prost::Message;
use tonic::Status;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tower::Service as TowerService;
use volley_common::fairness::CallLimit;
use volley_common::grpc::{self, FLIGHT_SERVICE};
use volley_common::http2::{
    AdvancingBody, CompleteBody, MAX_UNIDENTIFIED, ProxyRequestBody, ReplyBody, UnidentifiedBody, decompressed,
    grpc_error,
};
use volley_common::identity::{ASSERTION_HEADER, is_public};
use volley_common::listen::check_name;
use volley_common::options::{
    CLIENT_LISTENER_HEADER, DECOMPRESS_HEADER, HEADER_PREFIX, TableRequest, TicketRequest, decompress_header,
    fields::cut, header_text, part_filter,
};
use volley_common::proxy::{Repeatable, ReplayableBody};
use volley_common::refusal_log::RefusalLog;
use volley_common::server::audit::request_id;
use volley_common::server::serve::TonicService;
use volley_common::ticket::MAX_TICKET;
use volley_common::wire::cluster;
use volley_common::{Code, Error, Result, TableName, clock};

use super::call_authenticator::CallAuthenticator;
use super::call_context::CallContext;
use super::forwarding::NodeForwarder;
use super::limits::MAX_REQUEST;
use super::received_by::{ReceivedBy, client_listener, is_client_tls};
use super::sql_calls::{ServedByNode, forward_sql, forwarding_of};
use super::{flight_info, rights};
use crate::client_listener::ListenerTable;
use crate::service::Services;
use crate::service::planning_queue::PlanningQueue;
use crate::service::read::ReadService;
use crate::service::tickets::TicketService;

/// A client's header that every reply returns, in success and failure.
const ECHOED: &str = "x-middleware";

/// Routes the calls of one listener.
#[derive(Clone)]
pub struct CoordinatorRouter {
    callers: CallAuthenticator,
    nodes: NodeForwarder,
    read: Arc<ReadService>,
    tickets: TicketService,
    listeners: Arc<ListenerTable>,
    routes: TonicService<Routes>,
    /// Counts the calls of clients.
    calls: Arc<CallLimit>,
    /// The places of reads that are being planned.
    planning: Arc<PlanningQueue>,
    /// The name of this listener.
    listener: Arc<str>,
    /// Whether the callers are members, which may name the listener that received a forwarded call.
    from_members: bool,
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
            callers: CallAuthenticator::new(services, from_members),
            nodes: NodeForwarder::new(services),
            read: services.read.clone(),
            tickets: services.tickets.clone(),
            listeners: services.listeners.clone(),
            routes: TonicService(routes.prepare()),
            calls: services.calls.clone(),
            planning: services.planning.clone(),
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
            if let Some(value) = echoed {
                reply.headers_mut().insert(ECHOED, value);
            }
            Ok(reply)
        })
    }
}

impl CoordinatorRouter {
    async fn dispatch(&mut self, method: &str, request: Request<Incoming>) -> RouterReply {
        let path = request.uri().path();
        let is_flight = path.starts_with(FLIGHT_SERVICE);
        if self.from_members && !is_flight {
            // Calls of members: the peer port has checked who may make them, and `crate::peer` checks for whom.
            return self.serve_by_tonic(request).await;
        }
        let (mut head, body) = request.into_parts();
        let call = match self.callers.identify(&head, if is_flight { method } else { "" }).await {
            Ok(call) => call,
            Err(error) => return refused(method, request_id(&head.headers), error),
        };
        // Options begin with the same prefix.
        head.headers.remove(ASSERTION_HEADER);
        head.extensions.insert(call.access().clone());
        head.extensions.insert(call.clone());
        let request = Request::from_parts(head, body);
        let admitted = match is_flight {
            true => self.calls.admit(call.access()),
            false => self.calls.admit_other_service(call.access()),
        };
        let permit = match admitted {
            Ok(permit) => permit,
            Err(status) => return grpc_error(status),
        };
        let mut reply = match is_flight {
            true => self.dispatch_flight(method, request, &call).await,
            false => self.serve_other_service(request).await,
        };
        permit.hold(&mut reply);
        reply
    }

    /// Serves a method of Flight for an identified caller.
    async fn dispatch_flight(
        &mut self,
        method: &str,
        mut request: Request<Incoming>,
        call: &CallContext,
    ) -> RouterReply {
        let id = call.request_id().and_then(|id| id.to_str().ok());
        match self.received_by(request.headers()) {
            Ok(listener) => {
                let client_tls = is_client_tls(request.extensions(), request.headers());
                request.extensions_mut().insert(ReceivedBy { listener, client_tls });
            }
            Err(error) => return refused(method, id, error),
        }
        // Also of a call that lists no addresses: a misspelt name must not pass unnoticed.
        if let Err(error) = client_listener(&self.listeners, request.extensions(), request.headers()) {
            return refused(method, id, error);
        }
        let reply = match method {
            "GetFlightInfo" => self.get_flight_info(request, call).await,
            "DoGet" => self.do_get(request, call).await,
            "DoPut" | "DoExchange" => self.forward_stream(request, call).await,
            "Handshake" => self.serve_unidentified(request).await,
            _ if call.access().require_identity().is_err() => self.serve_unidentified(request).await,
            "GetSchema" | "PollFlightInfo" | "DoAction" => self.serve_message(method, request, call).await,
            _ => Ok(self.serve_by_tonic(request).await),
        };
        let error = match &reply {
            Err(error) => Some(error.clone()),
            Ok(reply) => {
                Status::from_header_map(reply.headers()).filter(|status| status.code() != Code::Ok).map(Error::from)
            }
        };
        self.record(method, call, &reply, error.as_ref());
        match (reply, error) {
            (Ok(reply), Some(error)) => {
                log_failed(method, id, &error);
                reply
            }
            (Ok(reply), None) => reply,
            (Err(error), _) => refused(method, id, error),
        }
    }

    /// Records in the audit log how a call ended. Actions, handshakes, and what a node serves are recorded there.
    fn record(&self, method: &str, call: &CallContext, reply: &Result<RouterReply>, error: Option<&Error>) {
        let is_elsewhere = match method {
            "DoAction" | "Handshake" => true,
            "DoGet" | "DoPut" | "DoExchange" => reply.is_ok(),
            _ => reply.as_ref().is_ok_and(|reply| reply.extensions().get::<ServedByNode>().is_some()),
        };
        if let Some(rights) = rights::of_method(method).filter(|_| !is_elsewhere) {
            call.record(rights.kind, method, error.map_or(Ok(()), Err));
        }
    }

    async fn serve_by_tonic(&mut self, request: Request<Incoming>) -> RouterReply {
        match self.routes.call(request).await {
            Ok(reply) => reply,
            Err(never) => match never {},
        }
    }

    /// Serves a service beside Flight: gRPC health, or reflection.
    async fn serve_other_service(&mut self, request: Request<Incoming>) -> RouterReply {
        match is_public(request.uri().path()) {
            true => self.serve_unidentified(request).await.unwrap_or_else(grpc_error),
            false => self.serve_by_tonic(request).await,
        }
    }

    /// Serves a handshake, a health check, or an action of a caller without identity, by tonic, with a body that is neither
    /// larger nor slower than such calls need.
    async fn serve_unidentified(&mut self, request: Request<Incoming>) -> Result<RouterReply> {
        let limited = |body: Incoming| AdvancingBody::new(UnidentifiedBody::new(CompleteBody(body)));
        let request = decompressed(request.map(limited), MAX_UNIDENTIFIED)?;
        match self.routes.0.call(request.map(tonic::body::Body::new)).await {
            Ok(reply) => Ok(reply.map(ReplyBody::Tonic)),
            Err(never) => match never {},
        }
    }

    /// Serves a call of one message: a node does if it has SQL, else tonic.
    async fn serve_message(
        &mut self,
        method: &str,
        request: Request<Incoming>,
        call: &CallContext,
    ) -> Result<RouterReply> {
        let (head, body) = decompressed(request.map(CompleteBody), MAX_REQUEST)?.into_parts();
        let message = grpc::read_message(body, MAX_REQUEST).await.map_err(|e| e.at("the request"))?;
        if let Some(repeatable) = forwarding_of(method, &head.headers, &message) {
            return forward_sql(&self.nodes, head, &message, call, repeatable).await;
        }
        let body = ProxyRequestBody::from(grpc::frame_message(&message));
        match self.routes.0.call(Request::from_parts(head, tonic::body::Body::new(body))).await {
            Ok(reply) => Ok(reply.map(ReplyBody::Tonic)),
            Err(never) => match never {},
        }
    }

    /// Plans a read, and replies with one message that is encoded without copies.
    async fn get_flight_info(&self, request: Request<Incoming>, call: &CallContext) -> Result<RouterReply> {
        let (head, body) = decompressed(request.map(CompleteBody), MAX_REQUEST)?.into_parts();
        let message = grpc::read_message(body, MAX_REQUEST).await.map_err(|e| e.at("the descriptor"))?;
        let descriptor = FlightDescriptor::decode(message.clone())
            .map_err(|e| Error::invalid(format!("the message of GetFlightInfo is no FlightDescriptor: {e}")))?;
        if let Some(repeatable) = forwarding_of("GetFlightInfo", &head.headers, &message) {
            return forward_sql(&self.nodes, head, &message, call, repeatable).await;
        }
        let headers = MetadataMap::from_headers(head.headers);
        let listener = client_listener(&self.listeners, &head.extensions, headers.as_ref())?;
        if let Some(result) = self.named_result(&descriptor, call)? {
            return self.query_result_info(&message, result, &headers, &listener, call).await;
        }
        let table = TableRequest::from_descriptor(&descriptor, &headers)?.for_read()?;
        self.require_readable("GetFlightInfo", call, &table.name)?;
        let _place = match self.planning.enter(call.access()).await {
            Ok(place) => place,
            Err(status) => return Ok(grpc_error(status)),
        };
        let part_filter = part_filter::from_headers(headers.as_ref());
        let plan = self.read.plan_flight_info(call.access(), &table, part_filter.as_ref(), &listener).await?;
        flight_info::reply(&message, &plan)
    }

    /// Verifies the ticket, or plans one if it is a table's name, and forwards the call to a node that has the data.
    async fn do_get(&self, request: Request<Incoming>, call: &CallContext) -> Result<RouterReply> {
        let (mut head, body) = decompressed(request.map(CompleteBody), MAX_TICKET)?.into_parts();
        let message = grpc::read_message(body, MAX_TICKET).await.map_err(|e| e.at("the ticket"))?;
        if let Some(repeatable) = forwarding_of("DoGet", &head.headers, &message) {
            return forward_sql(&self.nodes, head, &message, call, repeatable).await;
        }
        let ticket =
            Ticket::decode(message).map_err(|e| Error::invalid(format!("DoGet's message is not a ticket: {e}")))?;
        let ticket = ticket.ticket;
        let metadata = MetadataMap::from_headers(head.headers.clone());
        let (signed, decompress) = match TicketRequest::from_ticket(&ticket, &metadata)? {
            TicketRequest::Signed(bytes) => (bytes, decompress_header(&metadata)?),
            TicketRequest::Table(table) => {
                let table = table.for_read()?;
                self.require_readable("DoGet", call, &table.name)?;
                let _place = match self.planning.enter(call.access()).await {
                    Ok(place) => place,
                    Err(status) => return Ok(grpc_error(status)),
                };
                (self.read.plan_ticket(call.access(), &table.name, &table.options).await?, false)
            }
        };
        let ticket = self.redeem(&signed, call)?;
        let nodes = self.read.serving_nodes(&ticket).await?;
        remove_option_headers(&mut head.headers);
        if decompress {
            head.headers.insert(DECOMPRESS_HEADER, HeaderValue::from_static("true"));
        }
        let message = grpc::encode_message(&Ticket { ticket: signed.into() });
        // It may be long until the first row of a query: another node must not run it, too.
        let repeatable = if ticket.query.is_some() { Repeatable::No } else { Repeatable::Yes };
        self.nodes.forward(nodes, head, call, repeatable, || Some(ProxyRequestBody::from(message.clone()))).await
    }

    /// Checks that the caller may read the table that it names.
    fn require_readable(&self, method: &str, call: &CallContext, table: &TableName) -> Result<()> {
        let permitted = call.require(rights::require_method(method)?, table);
        permitted.map_err(|error| self.read.with_similar_table(call.access(), table, error))
    }

    fn redeem(&self, signed: &[u8], call: &CallContext) -> Result<cluster::Ticket> {
        let ticket = self.tickets.verify(signed)?;
        let of_query = ticket.query.as_ref().and_then(|query| query.tables.first());
        call.note_table(of_query.map_or(&ticket.table, |first| &first.table));
        call.access().check_ticket(&ticket)?;
        Ok(ticket)
    }

    /// Forwards a client's stream to a node. Another node is tried only while nothing of the stream has been read.
    async fn forward_stream(&self, request: Request<Incoming>, call: &CallContext) -> Result<RouterReply> {
        let (head, body) = request.into_parts();
        let body = ReplayableBody::new(body);
        self.nodes.forward_to_any_node(head, call, Repeatable::WhileUnread, || body.unread()).await
    }
}

/// The reply to a call that failed here.
fn refused(method: &str, request_id: Option<&str>, error: Error) -> RouterReply {
    log_failed(method, request_id, &error);
    grpc_error(error)
}

/// Logs a failed call. Of callers without identity, one line a second says how many there were.
fn log_failed(method: &str, request_id: Option<&str>, error: &Error) {
    static UNIDENTIFIED: RefusalLog = RefusalLog::new();
    let unlogged = match error.code {
        Code::Unauthenticated => UNIDENTIFIED.count(clock::now_ms()),
        _ => Some(0),
    };
    let Some(unlogged) = unlogged else { return };
    let (method, request_id) = (cut(method), request_id.map(cut));
    tracing::info!(method, code = ?error.code, request_id, error = error.message, unlogged, "call failed");
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
mod tests;
