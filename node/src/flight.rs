//! The edge to clients: the Flight calls that a node answers itself, but for DoGet and DoPut, which go below tonic
//! (see [`crate::get`], [`crate::put`]). Calls about metadata never come here: [`crate::server`] hands them to a coordinator.

use std::pin::Pin;

use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse,
    PollInfo, PutResult, SchemaResult, Ticket,
};
use futures::{Stream, StreamExt, stream};
use serde::Deserialize;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Request, Response, Status, Streaming};
use volley_common::{Error, Result};

use crate::state::Shared;

/// Messages of one handshake at most.
const MAX_HANDSHAKE: usize = 16;

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The Flight calls that a node answers itself.
pub struct Flight;

/// The service, taking in messages up to the configured limit.
pub fn service(state: &Shared) -> FlightServiceServer<Flight> {
    let limit = state.config.max_message;
    FlightServiceServer::new(Flight).max_decoding_message_size(limit).max_encoding_message_size(limit)
}

/// The command of a DoExchange.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exchange {
    exchange: String,
}

const EXCHANGES: &str = "DoExchange offers the command {\"exchange\": \"echo\"}, which sends every message back";

#[tonic::async_trait]
impl FlightService for Flight {
    type HandshakeStream = BoxStream<HandshakeResponse>;
    type ListFlightsStream = BoxStream<FlightInfo>;
    type DoGetStream = BoxStream<FlightData>;
    type DoPutStream = BoxStream<PutResult>;
    type DoExchangeStream = BoxStream<FlightData>;
    type DoActionStream = BoxStream<arrow_flight::Result>;
    type ListActionsStream = BoxStream<ActionType>;

    async fn handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        handshake(request)
    }

    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        Err(elsewhere())
    }

    async fn do_exchange(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        let mut input = request.into_inner();
        let first = input.message().await?.ok_or_else(|| Error::invalid(EXCHANGES))?;
        check_exchange(first.flight_descriptor.as_ref())?;
        Ok(Response::new(echo(first, input)))
    }

    async fn do_get(&self, _: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        Err(elsewhere())
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        Err(elsewhere())
    }

    async fn get_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        Err(elsewhere())
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        Err(elsewhere())
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        Err(elsewhere())
    }

    async fn do_action(&self, _: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        Err(elsewhere())
    }

    async fn list_actions(&self, _: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        Err(elsewhere())
    }
}

/// These calls are taken out before they come to tonic.
fn elsewhere() -> Status {
    Error::internal("this call should have been answered elsewhere: the node's routes are wrong").into()
}

/// Everyone is let in while there are no users, with a token that nobody asks for again. Answers each message
/// as it comes, and a client that sends none by the header alone, as the coordinators do.
fn handshake(request: Request<Streaming<HandshakeRequest>>) -> Result<Response<BoxStream<HandshakeResponse>>, Status> {
    let token = format!("{:032x}", rand::random::<u128>());
    let bearer = AsciiMetadataValue::try_from(format!("Bearer {token}"))
        .map_err(|_| Error::internal("a token that is no header"))?;
    let replies = request.into_inner().take(MAX_HANDSHAKE).map(move |message| {
        let protocol_version = message?.protocol_version;
        Ok(HandshakeResponse { protocol_version, payload: token.clone().into() })
    });
    let mut response = Response::new(replies.boxed());
    response.metadata_mut().insert("authorization", bearer);
    Ok(response)
}

fn check_exchange(descriptor: Option<&FlightDescriptor>) -> Result<()> {
    let command = descriptor.map(|d| d.cmd.as_ref()).unwrap_or_default();
    match serde_json::from_slice::<Exchange>(command) {
        Ok(Exchange { exchange }) if exchange == "echo" => Ok(()),
        _ => Err(Error::invalid(EXCHANGES)),
    }
}

/// Sends every message back, data and metadata alike; a first message that has only the descriptor is none.
fn echo(first: FlightData, rest: Streaming<FlightData>) -> BoxStream<FlightData> {
    let is_empty = |m: &FlightData| m.data_header.is_empty() && m.app_metadata.is_empty() && m.data_body.is_empty();
    let first = (!is_empty(&first)).then_some(Ok(first));
    let messages = stream::iter(first).chain(rest);
    Box::pin(messages.map(|message| message.map(|m| FlightData { flight_descriptor: None, ..m })))
}
