//! The edge for clients: Arrow Flight.
//!
//! | module | what it holds |
//! |---|---|
//! | [`route`] | below tonic: DoGet, DoPut and DoExchange go to a node, GetFlightInfo is answered, everything else goes to [`Flight`] |
//! | [`discovery`] | offers and lists as FlightInfo |
//! | [`actions`], [`bodies`] | DoAction: what there is, and how its JSON is read |
//! | [`admin`] | actions of operators |
//! | [`handshake`], [`sessions`] | who calls, and what a client set for its session |

pub mod actions;
pub mod admin;
pub mod bodies;
pub mod discovery;
pub mod handshake;
pub mod route;
pub mod sessions;

use std::pin::Pin;
use std::sync::Arc;

use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse,
    PollInfo, PutResult, SchemaResult, Ticket,
};
use futures::{Stream, StreamExt, stream};
use prost::Message;
use tonic::{Request, Response, Status, Streaming};
use volley_common::Error;
use volley_common::options::TableRequest;

use crate::service::Service;
use sessions::Sessions;

/// The largest message that is taken in: actions and descriptors are small.
pub const MAX_REQUEST: usize = 16 << 20;
/// The largest answer, a FlightInfo of many endpoints over a wide schema.
pub const MAX_REPLY: usize = 64 << 20;

/// Serves clients' metadata calls.
#[derive(Clone)]
pub struct Flight {
    pub(crate) service: Arc<Service>,
    pub(crate) sessions: Arc<Sessions>,
}

impl Flight {
    /// Without any session yet.
    pub fn new(service: Arc<Service>) -> Self {
        Flight { service, sessions: Arc::default() }
    }

    /// The tonic service, with its message limits.
    pub fn server(self) -> FlightServiceServer<Flight> {
        FlightServiceServer::new(self).max_decoding_message_size(MAX_REQUEST).max_encoding_message_size(MAX_REPLY)
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn all<T: Send + 'static>(items: Vec<T>) -> Answers<T> {
    stream::iter(items).map(Ok).boxed()
}

/// What [`route`] answers, or sends to a node, before it comes here.
fn elsewhere<T>(call: &str) -> Result<Response<T>, Status> {
    Err(Error::internal(format!("{call} came to a coordinator's metadata service")).into())
}

#[tonic::async_trait]
impl FlightService for Flight {
    type HandshakeStream = Answers<HandshakeResponse>;
    type ListFlightsStream = Answers<FlightInfo>;
    type DoGetStream = Answers<FlightData>;
    type DoPutStream = Answers<PutResult>;
    type DoExchangeStream = Answers<FlightData>;
    type DoActionStream = Answers<arrow_flight::Result>;
    type ListActionsStream = Answers<ActionType>;

    async fn handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        handshake::answer(request.into_inner())
    }

    async fn list_flights(&self, request: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        let prefix = String::from_utf8(request.into_inner().expression.to_vec())
            .map_err(|_| Error::invalid("the criteria are a prefix of tables' names, and these are not UTF-8"))?;
        let listed = self.service.list(&prefix).await?;
        Ok(Response::new(all(listed.into_iter().map(discovery::listed).collect())))
    }

    async fn get_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        elsewhere("GetFlightInfo")
    }

    async fn poll_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        let wanted = TableRequest::from_descriptor(request.get_ref(), request.metadata())?;
        let via = route::via(&self.service, request.extensions(), request.metadata())?;
        let offer = self.service.offer(&wanted, &via).await?;
        let info = discovery::info(&request.get_ref().encode_to_vec(), &offer, 0);
        let info = FlightInfo::decode(info.as_slice()).map_err(|e| Error::internal(format!("a FlightInfo: {e}")))?;
        let expiration_time = info.endpoint.first().and_then(|endpoint| endpoint.expiration_time);
        let poll = PollInfo { info: Some(info), flight_descriptor: None, progress: Some(1.0), expiration_time };
        Ok(Response::new(poll))
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        let wanted = TableRequest::from_descriptor(request.get_ref(), request.metadata())?;
        let schema = self.service.schema(&wanted).await?;
        Ok(Response::new(SchemaResult { schema }))
    }

    async fn do_get(&self, _: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        elsewhere("DoGet")
    }

    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        elsewhere("DoPut")
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoExchangeStream>, Status> {
        elsewhere("DoExchange")
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        let flight = self.clone();
        let (metadata, extensions, action) = request.into_parts();
        let via = route::via(&self.service, &extensions, &metadata);
        // In a task of its own, so that it runs to its end though the client may go.
        let run = tokio::spawn(async move { flight.run(&action, &metadata, via).await });
        let done = run.await.map_err(|e| Error::internal(format!("the action broke: {e}")))??;
        let mut response = Response::new(all(done.results));
        if let Some(cookie) = done.cookie {
            response.metadata_mut().insert("set-cookie", cookie);
        }
        Ok(response)
    }

    async fn list_actions(&self, _: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        Ok(Response::new(all(actions::types())))
    }
}
