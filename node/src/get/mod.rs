//! Answers gets: turns a ticket into slices of mapped files.
//!
//! | module | what it does |
//! |---|---|
//! | [`reader`] | reads a ticket's parts in order; fails over from a damaged part to other holders |
//! | [`local`] | the messages of a part on this node's disk, window by window |
//! | [`remote`] | the messages of a part that other nodes hold: their replies, with fail-over |
//! | [`peer_stream`] | another node's reply, as messages or as the bytes that arrive |
//! | [`message`] | the types that they share |
//!
//! A get is answered below tonic, whose codec would copy every message.

pub mod local;
pub mod message;
pub mod peer_stream;
pub mod reader;
pub mod remote;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use prost::Message;
use tonic::metadata::MetadataMap;
use volley_common::http2::{CompleteBody, DecompressedBody, ReplyBody, decompressed, grpc_error, grpc_frames};
use volley_common::options::{TableRequest, TicketRequest, decompress_header};
use volley_common::wire::MAX_PEER_MESSAGE;
use volley_common::wire::cluster::{PlanReadRequest, Ticket};
use volley_common::{Error, Result, clock, grpc};

use crate::context::GetContext;
use reader::TicketReader;
use remote::HOP_HEADER;

/// Small messages are sent together up to this many bytes, so that the cost of a frame is paid once per MiB.
const FRAME_BYTES: usize = 1 << 20;

/// Answers a DoGet. An error before the first message is the whole reply; a later one becomes its trailers.
pub async fn serve_get(context: Arc<GetContext>, request: http::Request<Incoming>) -> http::Response<ReplyBody> {
    metrics::counter!("volley_get_streams_total").increment(1);
    match open(context, request).await {
        Ok(reader) => grpc_frames(reader.frames(FRAME_BYTES)),
        Err(error) => {
            tracing::info!(code = ?error.code, %error, "a get was refused");
            grpc_error(error)
        }
    }
}

async fn open(context: Arc<GetContext>, request: http::Request<Incoming>) -> Result<TicketReader> {
    let (head, body) = decompressed(request.map(CompleteBody), MAX_PEER_MESSAGE)?.into_parts();
    let ticket = read_ticket(body).await?;
    let ticket = verify_ticket(&context, &ticket, &head.headers).await?;
    TicketReader::new(context, ticket, head.headers.contains_key(HOP_HEADER))
}

/// Reads the one message of a DoGet. Returns the ticket's bytes.
///
/// # Errors
/// INVALID_ARGUMENT: not a Flight ticket. Those of [`grpc::read`]; the limit is 64 MiB.
async fn read_ticket(body: DecompressedBody<CompleteBody<Incoming>>) -> Result<Bytes> {
    let message = grpc::read_message(body, MAX_PEER_MESSAGE).await.map_err(|e| e.at("the ticket"))?;
    let ticket = arrow_flight::Ticket::decode(message)
        .map_err(|e| Error::invalid(format!("the request is not a Flight ticket: {e}")))?;
    Ok(ticket.ticket)
}

/// Verifies a signed ticket. For a ticket that is a table's name, a coordinator plans the read first.
///
/// # Errors
/// Those of [`TicketRequest::from_ticket`], of planning and of [`volley_common::ticket::TicketKey::verify`]. CANCELLED: the
/// ticket's FlightInfo was cancelled. UNAVAILABLE: this node has no key yet.
async fn verify_ticket(context: &GetContext, ticket: &[u8], headers: &http::HeaderMap) -> Result<Ticket> {
    let headers = MetadataMap::from_headers(headers.clone());
    let (signed, decompress) = match TicketRequest::from_ticket(ticket, &headers)? {
        TicketRequest::Signed(signed) => (Bytes::from(signed), decompress_header(&headers)?),
        TicketRequest::Table(request) => (plan_read(context, request.for_read()?).await?, false),
    };
    let mut ticket = context.cluster.ticket_key()?.verify(&signed, clock::now_ms())?;
    context.cluster.check_not_cancelled(&ticket)?;
    ticket.decompress |= decompress;
    Ok(ticket)
}

async fn plan_read(context: &GetContext, request: TableRequest) -> Result<Bytes> {
    let request = PlanReadRequest {
        table: request.name.components().to_vec(),
        columns: request.options.columns.unwrap_or_default(),
        version: request.options.version,
        limit: request.options.limit,
        decompress: request.options.decompress.unwrap_or_default(),
    };
    Ok(context.coordinators.plan_read(request).await?.ticket)
}
