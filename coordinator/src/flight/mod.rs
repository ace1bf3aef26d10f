//! The API for clients: Arrow Flight.
//!
//! Requests pass the [`router`] first, below tonic: it identifies the caller of every call. These calls never reach the tonic
//! service [`CoordinatorFlight`]:
//!
//! | call | what the router does |
//! |---|---|
//! | GetFlightInfo | plans the read and replies with hand-encoded bytes ([`flight_info`]) |
//! | DoGet | verifies or plans the ticket, and forwards the call to a node |
//! | DoPut, DoExchange | forwards the stream to a node, byte for byte |
//! | calls with SQL | forwards them whole to a node ([`sql_calls`]) |
//!
//! All other calls are served here.
//!
//! | module | what it holds |
//! |---|---|
//! | [`router`], [`received_by`] | the routing of calls below tonic; which listener a call arrived by |
//! | [`rights`] | what each call and each action requires of its caller |
//! | [`call_context`], [`call_authenticator`] | who makes a call, for rights and the audit log; how that is found out |
//! | [`forwarding`], [`sql_calls`] | forwarding calls to nodes; which calls have SQL, and are forwarded because of it |
//! | [`flight_info`] | FlightInfo messages of read plans and listed tables |
//! | [`actions`], [`admin_actions`], [`identity_actions`] | DoAction |
//! | [`action_bodies`], [`identity_bodies`], `begun_write` | the JSON bodies of actions, and the reply to `begin_write` |
//! | [`handshake`], [`session_options`] | handshakes, and session options |
//! | [`limits`] | message limits |

pub mod action_bodies;
pub mod actions;
pub mod admin_actions;
mod begun_write;
pub mod call_authenticator;
pub mod call_context;
pub mod flight_info;
pub mod forwarding;
pub mod handshake;
pub mod identity_actions;
pub mod identity_bodies;
pub mod limits;
pub mod received_by;
pub mod rights;
pub mod router;
pub mod session_options;
pub mod sql_calls;

use std::sync::Arc;

use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse,
    PollInfo, PutResult, SchemaResult, Ticket,
};
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use prost::Message;
use tonic::{Request, Response, Status, Streaming};
use volley_common::Error;
use volley_common::options::TableRequest;

use crate::client_listener::ListenerTable;
use crate::service::Services;
use crate::service::planning_queue::{PlanningQueue, needs_place};
use crate::service::read::ReadService;
use actions::ActionRunner;
use call_context::CallContext;
use handshake::Handshakes;
use limits::{MAX_REPLY, MAX_REQUEST};

/// The tonic service of the Flight API.
#[derive(Clone)]
pub struct CoordinatorFlight {
    read: Arc<ReadService>,
    listeners: Arc<ListenerTable>,
    actions: Arc<ActionRunner>,
    handshakes: Handshakes,
    planning: Arc<PlanningQueue>,
}

/// A stream of reply messages.
type ReplyStream<T> = BoxStream<'static, Result<T, Status>>;

impl CoordinatorFlight {
    /// Serves clients with these services.
    pub fn new(services: &Services) -> Self {
        CoordinatorFlight {
            read: services.read.clone(),
            listeners: services.listeners.clone(),
            actions: Arc::new(ActionRunner::new(services.clone())),
            handshakes: Handshakes::new(services),
            planning: services.planning.clone(),
        }
    }

    /// The table that a read names, and the call, which may read it.
    fn readable_table(
        &self,
        request: &Request<FlightDescriptor>,
        method: &str,
    ) -> volley_common::Result<(TableRequest, CallContext)> {
        let call = CallContext::of(request.extensions());
        let table = TableRequest::from_descriptor(request.get_ref(), request.metadata())?.for_read()?;
        let permitted = call.require(rights::require_method(method)?, &table.name);
        permitted.map_err(|error| self.read.with_similar_table(call.access(), &table.name, error))?;
        Ok((table, call))
    }

    /// The tonic server, with its message limits.
    pub fn server(self) -> FlightServiceServer<CoordinatorFlight> {
        FlightServiceServer::new(self).max_decoding_message_size(MAX_REQUEST).max_encoding_message_size(MAX_REPLY)
    }
}

fn reply_stream<T: Send + 'static>(items: Vec<T>) -> ReplyStream<T> {
    stream::iter(items).map(Ok).boxed()
}

/// The error for a call that the [`router`] should have handled.
fn handled_by_router<T>(call: &str) -> Result<Response<T>, Status> {
    Err(Error::internal(format!("{call} bypassed the coordinator's router")).into())
}

#[tonic::async_trait]
impl FlightService for CoordinatorFlight {
    type HandshakeStream = ReplyStream<HandshakeResponse>;
    type ListFlightsStream = ReplyStream<FlightInfo>;
    type DoGetStream = ReplyStream<FlightData>;
    type DoPutStream = ReplyStream<PutResult>;
    type DoExchangeStream = ReplyStream<FlightData>;
    type DoActionStream = ReplyStream<arrow_flight::Result>;
    type ListActionsStream = ReplyStream<ActionType>;

    async fn handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        self.handshakes.reply(request).await
    }

    async fn list_flights(&self, request: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        let call = CallContext::of(request.extensions());
        let prefix = String::from_utf8(request.into_inner().expression.to_vec())
            .map_err(|_| Error::invalid("the criteria must be a prefix of table names in UTF-8"))?;
        let _place = self.planning.enter(call.access()).await?;
        let tables = self.read.list(call.access(), &prefix).await?;
        Ok(Response::new(reply_stream(tables.into_iter().map(flight_info::listed).collect())))
    }

    async fn get_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        handled_by_router("GetFlightInfo")
    }

    async fn poll_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        let (table, call) = self.readable_table(&request, "PollFlightInfo")?;
        let listener =
            received_by::client_listener(&self.listeners, request.extensions(), request.metadata().as_ref())?;
        let _place = self.planning.enter(call.access()).await?;
        let plan = self.read.plan_flight_info(call.access(), &table, None, &listener).await?;
        let info = flight_info::encode(&request.get_ref().encode_to_vec(), &plan, 0);
        let info = FlightInfo::decode(info.as_slice()).map_err(|e| Error::internal(format!("a FlightInfo: {e}")))?;
        let expiration_time = info.endpoint.first().and_then(|endpoint| endpoint.expiration_time);
        let poll = PollInfo { info: Some(info), flight_descriptor: None, progress: Some(1.0), expiration_time };
        Ok(Response::new(poll))
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        let (table, call) = self.readable_table(&request, "GetSchema")?;
        let _place = self.planning.enter(call.access()).await?;
        let schema = self.read.schema(call.access(), &table).await?;
        Ok(Response::new(SchemaResult { schema }))
    }

    async fn do_get(&self, _: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        handled_by_router("DoGet")
    }

    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        handled_by_router("DoPut")
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoExchangeStream>, Status> {
        handled_by_router("DoExchange")
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        let actions = self.actions.clone();
        let (metadata, extensions, action) = request.into_parts();
        let listener = received_by::client_listener(&self.listeners, &extensions, metadata.as_ref());
        let call = CallContext::of(&extensions);
        let place = match needs_place(&action.r#type) {
            true => Some(self.planning.enter(call.access()).await?),
            false => None,
        };
        // In a task of its own, so that the action completes even if the client disconnects.
        let run = tokio::spawn(async move {
            let _place = place;
            actions.run(&action, &metadata, listener, &call).await
        });
        let reply = run.await.map_err(|e| Error::internal(format!("the action failed: {e}")))??;
        let mut response = Response::new(reply_stream(reply.results));
        if let Some(cookie) = reply.cookie {
            response.metadata_mut().insert("set-cookie", cookie);
        }
        Ok(response)
    }

    async fn list_actions(&self, _: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        Ok(Response::new(reply_stream(actions::action_types())))
    }
}
