//! The call's bytes into a verified ticket.

use bytes::Bytes;
use hyper::body::Incoming;
use prost::Message;
use tonic::metadata::MetadataMap;
use volley_common::options::{TableRequest, TicketRequest};
use volley_common::wire::MAX_PEER_MESSAGE;
use volley_common::wire::cluster::{PlanReadRequest, Ticket};
use volley_common::{Error, Result, clock, grpc};

use crate::state::Shared;

/// Reads the one message of a DoGet and gives the ticket's bytes.
///
/// # Errors
/// INVALID_ARGUMENT: not a Flight ticket. Those of [`grpc::read_message`]; it may have 64 MiB.
pub async fn read_ticket(body: Incoming) -> Result<Bytes> {
    let message = grpc::read_message(body, MAX_PEER_MESSAGE).await.map_err(|e| e.at("the ticket"))?;
    let ticket = arrow_flight::Ticket::decode(message)
        .map_err(|e| Error::invalid(format!("the request is not a Flight ticket: {e}")))?;
    Ok(ticket.ticket)
}

/// The ticket that these bytes are, or name: a table's name is planned by a coordinator first.
///
/// # Errors
/// Those of [`TicketRequest::from_ticket`], of planning and of
/// [`volley_common::ticket::TicketKey::verify`]; CANCELLED: its FlightInfo was cancelled; UNAVAILABLE:
/// this node has no key yet.
pub async fn verified(state: &Shared, bytes: &[u8], headers: &http::HeaderMap) -> Result<Ticket> {
    let headers = MetadataMap::from_headers(headers.clone());
    let signed = match TicketRequest::from_ticket(bytes, &headers)? {
        TicketRequest::Signed(signed) => Bytes::from(signed),
        TicketRequest::Table(request) => plan(state, request).await?,
    };
    let ticket = state.ticket_key()?.verify(&signed, clock::now_ms())?;
    check_not_cancelled(state, &ticket)?;
    Ok(ticket)
}

/// CANCELLED if the ticket's FlightInfo was cancelled.
pub(super) fn check_not_cancelled(state: &Shared, ticket: &Ticket) -> Result<()> {
    if !state.cancelled.contains(ticket.flight) {
        return Ok(());
    }
    let table = ticket.table.join("/");
    Err(Error::cancelled(format!("this flight of table {table:?} was cancelled: call get_flight_info again")))
}

async fn plan(state: &Shared, request: TableRequest) -> Result<Bytes> {
    let reply = state
        .coordinators
        .plan_read(PlanReadRequest {
            table: request.name.components().to_vec(),
            columns: request.options.columns.unwrap_or_default(),
            version: request.options.version,
            limit: request.options.limit,
        })
        .await?;
    Ok(reply.ticket)
}
