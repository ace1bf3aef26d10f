//! The call's bytes into a verified ticket.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prost::Message;
use tonic::metadata::MetadataMap;
use volley_common::options::{TableRequest, TicketRequest};
use volley_common::wire::MAX_PEER_MESSAGE;
use volley_common::wire::cluster::{PlanReadRequest, Ticket};
use volley_common::{Error, Result, clock};

use crate::state::Shared;

/// Flag and length before every gRPC message.
pub(super) const PREFIX: usize = 5;
/// A client that has sent its ticket only in part after this long is given up.
const DEADLINE: Duration = Duration::from_secs(30);

/// Reads the one message of a DoGet and gives the ticket's bytes.
///
/// # Errors
/// INVALID_ARGUMENT: not a Flight ticket. RESOURCE_EXHAUSTED: larger than 64 MiB. UNIMPLEMENTED:
/// compressed. DEADLINE_EXCEEDED: not here within 30 s.
pub async fn read_ticket(body: Incoming) -> Result<Bytes> {
    let message = tokio::time::timeout(DEADLINE, read_message(body))
        .await
        .map_err(|_| Error::deadline("the ticket did not arrive within 30 s"))??;
    let ticket = arrow_flight::Ticket::decode(message)
        .map_err(|e| Error::invalid(format!("the request is not a Flight ticket: {e}")))?;
    Ok(ticket.ticket)
}

async fn read_message(mut body: Incoming) -> Result<Bytes> {
    let mut received = BytesMut::new();
    loop {
        if let Some(length) = message_length(&received)?
            && received.len() >= PREFIX + length
        {
            received.advance(PREFIX);
            return Ok(received.split_to(length).freeze());
        }
        match body.frame().await {
            Some(Ok(frame)) => received.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
            Some(Err(e)) => return Err(Error::cancelled(format!("the client broke off its request: {e}"))),
            None => return Err(Error::invalid("the request ends before its ticket does")),
        }
    }
}

/// The length of the message that begins with `received`, once that can be told.
fn message_length(received: &[u8]) -> Result<Option<usize>> {
    let Some((prefix, _)) = received.split_first_chunk::<PREFIX>() else { return Ok(None) };
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 {
        return Err(Error::unimplemented("compressed requests are not taken: send the ticket as it is"));
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_PEER_MESSAGE {
        return Err(Error::exhausted(format!(
            "the ticket has {length} bytes, more than the {MAX_PEER_MESSAGE} allowed"
        )));
    }
    Ok(Some(length))
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

#[cfg(test)]
mod tests {
    use super::*;
    use volley_common::Code;

    #[test]
    fn a_messages_length_is_known_after_five_bytes() {
        assert_eq!(message_length(&[0, 0, 0, 1]).unwrap(), None);
        assert_eq!(message_length(&[0, 0, 0, 1, 2]).unwrap(), Some(258));
        assert_eq!(message_length(&[1, 0, 0, 0, 0]).unwrap_err().code, Code::Unimplemented);
        assert_eq!(message_length(&[0, 255, 0, 0, 0]).unwrap_err().code, Code::ResourceExhausted);
    }
}
