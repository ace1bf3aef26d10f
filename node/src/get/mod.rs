//! Answers gets: turns a ticket into slices of mapped files.
//!
//! | module | what it does |
//! |---|---|
//! | [`reader`] | reads a ticket's parts in order; fails over from a damaged part to other holders |
//! | [`filtered`] | the same for a ticket with a filter, whose rows are selected by |
//! | [`part_scan`] | rows of parts, filtered and projected, also for queries |
//! | [`ticket_parts`] | the parts of a ticket in order, and what happens to one that is damaged |
//! | [`frames`] | the schema and the messages as frames |
//! | [`compressing`] | messages that are compressed on the way, over a slow link |
//! | [`local`] | the messages of a part on this node's disk, window by window |
//! | [`remote`] | the messages of a part that other nodes hold: their replies, with fail-over |
//! | [`peer_stream`] | another node's reply, as messages or as the bytes that arrive |
//! | [`row_skip`] | where another holder's reply continues one that failed, by rows |
//! | [`message`] | the types that they share |
//!
//! A get is answered below tonic, whose codec would copy every message. The router has identified the caller: its [`Access`]
//! is in the request's extensions, and must suffice for the ticket. A node that reads from another one for a get asserts the
//! get's caller, and the other one checks the ticket like any.

pub mod compressing;
pub mod filtered;
pub mod frames;
pub mod local;
pub mod message;
pub mod part_scan;
pub mod peer_stream;
pub mod reader;
pub mod remote;
pub mod row_skip;
pub mod ticket_parts;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::request::Parts;
use hyper::body::Incoming;
use prost::Message;
use tonic::metadata::MetadataMap;
use volley_common::fairness::CallerKey;
use volley_common::http2::{CompleteBody, DecompressedBody, ReplyBody, decompressed, grpc_error, grpc_frames};
use volley_common::identity::{ASSERTION_HEADER, Access};
use volley_common::ipc::flight_encoder::FlightFrame;
use volley_common::options::{TableRequest, TicketRequest, decompress_header, fields::cut};
use volley_common::server::audit::{AuditEvent, AuditKind, request_id};
use volley_common::telemetry::trace::note;
use volley_common::ticket::MAX_TICKET;
use volley_common::tls::Caller;
use volley_common::wire::MAX_PEER_MESSAGE;
use volley_common::wire::cluster::{PlanReadRequest, Ticket};
use volley_common::{Error, Result, clock, grpc};

use crate::assertion::{AssertedCaller, is_refused_by_coordinator};
use crate::context::GetContext;
use compressing::CompressingGet;
use filtered::FilteredReader;
use reader::TicketReader;
use remote::HOP_HEADER;

/// Small messages are sent together up to this many bytes, so that the cost of a frame is paid once per MiB.
const FRAME_BYTES: usize = 1 << 20;

/// Answers a DoGet. An error before the first message is the whole reply; a later one becomes its trailers.
pub async fn serve_get(context: Arc<GetContext>, request: http::Request<Incoming>) -> http::Response<ReplyBody> {
    match read_request(request).await {
        Ok((head, ticket)) => serve_ticket(context, head, &ticket).await,
        Err(error) => refused(error, None),
    }
}

/// The same, of a call that was read already: its head, and the ticket's bytes.
pub async fn serve_ticket(context: Arc<GetContext>, head: Parts, ticket: &[u8]) -> http::Response<ReplyBody> {
    metrics::counter!("volley_get_streams_total").increment(1);
    match open_ticket(context, &head, ticket).await {
        Ok(reader) => grpc_frames(reader.frames(FRAME_BYTES)),
        Err(error) => refused(error, request_id(&head.headers)),
    }
}

/// The reply to a get that is refused. `request_id`: how the client names it, if it could be read.
pub fn refused(error: Error, request_id: Option<&str>) -> http::Response<ReplyBody> {
    tracing::info!(code = ?error.code, request_id = request_id.map(cut), %error, "a get was refused");
    grpc_error(error)
}

/// The messages of a get.
// There is one for each get, and it is moved once.
#[allow(clippy::large_enum_variant)]
enum GetReader {
    /// As they are stored.
    Stored(TicketReader),
    /// Of the rows that the ticket's filter selects.
    Filtered(FilteredReader),
}

impl GetReader {
    fn frames(self, max_bytes: usize) -> impl Stream<Item = Result<FlightFrame>> + Send + 'static {
        match self {
            GetReader::Stored(reader) => reader.frames(max_bytes).left_stream(),
            GetReader::Filtered(reader) => reader.frames(max_bytes).right_stream(),
        }
    }
}

/// Reads a DoGet. Returns its head and the ticket's bytes.
///
/// # Errors
/// INVALID_ARGUMENT: not a Flight ticket. Those of [`grpc::read_message`] and of [`decompressed`].
pub async fn read_request(request: http::Request<Incoming>) -> Result<(Parts, Bytes)> {
    let access = Access::of(request.extensions());
    let max_ticket = max_ticket(request.headers(), Caller::of(request.extensions()), &access);
    let (head, body) = decompressed(request.map(CompleteBody), max_ticket)?.into_parts();
    Ok((head, read_ticket(body, max_ticket).await?))
}

#[cfg(test)]
async fn open(context: Arc<GetContext>, request: http::Request<Incoming>) -> Result<GetReader> {
    let (head, ticket) = read_request(request).await?;
    open_ticket(context, &head, &ticket).await
}

async fn open_ticket(context: Arc<GetContext>, head: &Parts, ticket: &[u8]) -> Result<GetReader> {
    let access = Access::of(&head.extensions);
    let caller = AssertedCaller::client(access.clone(), context.cluster.clone()).named_by(&head.headers);
    let mut subject = GetSubject::default();
    let is_hop = is_hop(&head.headers, &access);
    let opened = match redeem_ticket(&context, ticket, &head.headers, &access, &caller, &mut subject).await {
        Ok(ticket) => {
            // Another node passes on what it gets. A reader that cannot decompress says so.
            let compression = match is_hop || ticket.decompress {
                true => None,
                false => CompressingGet::new(&context.compression, head, CallerKey::of(&access)).map(Box::new),
            };
            open_reader(&context, ticket, &access, caller, is_hop, compression).await
        }
        Err(error) => Err(error),
    };
    let event = AuditEvent {
        access: &access,
        kind: AuditKind::Read,
        operation: "DoGet",
        table: (!subject.table.is_empty()).then_some(&subject.table[..]),
        request_id: request_id(&head.headers),
        result: opened.as_ref().map(|_| ()),
    };
    // The node that sends a hop has recorded the get, and a coordinator what it refused.
    let is_recorded = match &opened {
        Ok(_) => is_hop,
        Err(_) => subject.is_planning && is_refused_by_coordinator(&event),
    };
    if !is_recorded {
        context.audit.record(event);
    }
    opened
}

/// Opens the reader of a verified ticket, which takes its share of what all gets have: of the memory, or a place if it filters.
///
/// # Errors
/// RESOURCE_EXHAUSTED: there is none. Those of [`TicketReader::new`] and [`FilteredReader::new`].
async fn open_reader(
    context: &Arc<GetContext>,
    ticket: Ticket,
    access: &Access,
    caller: AssertedCaller,
    is_hop: bool,
    compression: Option<Box<CompressingGet>>,
) -> Result<GetReader> {
    let context = context.clone();
    if ticket.filter.is_empty() {
        let projected_schema = if ticket.columns.is_some() { ticket.schema.len() } else { 0 };
        let memory = context.memory.admit(&CallerKey::of(access), ticket.encoded_len(), projected_schema)?;
        let reader = TicketReader::new(context, ticket, is_hop)?.on_behalf_of(caller).within(memory);
        return Ok(GetReader::Stored(reader.compressed(compression)));
    }
    let access = access.clone();
    // A long filter takes a while to be parsed.
    let open = move || FilteredReader::new(context, ticket, &access, caller, is_hop);
    let opened = tokio::task::spawn_blocking(open).await;
    let reader = opened.unwrap_or_else(|e| Err(Error::internal(format!("reading a filter failed: {e}"))));
    reader.map(|reader| GetReader::Filtered(reader.compressed(compression)))
}

/// What is found out about a get before its ticket is redeemed.
#[derive(Default)]
struct GetSubject {
    /// The table's name; empty if the ticket cannot be read.
    table: Vec<String>,
    /// A coordinator is planning the read: an error is its.
    is_planning: bool,
}

/// Whether another node makes this call because it does not have a part. The router has verified the assertion; a caller who
/// needs none reads for the cluster itself, or in an open cluster, where gets are not recorded. The header of any other client
/// means nothing.
fn is_hop(headers: &http::HeaderMap, access: &Access) -> bool {
    headers.contains_key(HOP_HEADER) && (access.is_open() || headers.contains_key(ASSERTION_HEADER))
}

/// The largest message with a ticket of this caller, bytes: members send each other whole tables as one ticket. In an open
/// cluster without TLS only the header of a hop says that the caller is a member.
fn max_ticket(headers: &http::HeaderMap, caller: &Caller, access: &Access) -> usize {
    let is_member = match caller {
        Caller::Member(_) => true,
        // The router has verified the assertion, if there is one.
        Caller::Plaintext if access.is_open() => headers.contains_key(HOP_HEADER),
        Caller::Plaintext => headers.contains_key(ASSERTION_HEADER),
        Caller::Client(_) | Caller::Anonymous => false,
    };
    if is_member { MAX_PEER_MESSAGE } else { MAX_TICKET }
}

/// Reads the one message of a DoGet, of at most `max` bytes. Returns the ticket's bytes.
///
/// # Errors
/// INVALID_ARGUMENT: not a Flight ticket. Those of [`grpc::read_message`].
async fn read_ticket(body: DecompressedBody<CompleteBody<Incoming>>, max: usize) -> Result<Bytes> {
    let message = grpc::read_message(body, max).await.map_err(|e| e.at("the ticket"))?;
    let ticket = arrow_flight::Ticket::decode(message)
        .map_err(|e| Error::invalid(format!("the request is not a Flight ticket: {e}")))?;
    Ok(ticket.ticket)
}

/// Verifies a signed ticket, and that `access` may redeem it. For a ticket that is a table's name, a coordinator plans the read
/// of `caller` first. `subject` is filled also if the ticket is refused.
///
/// # Errors
/// Those of [`TicketRequest::from_ticket`], of planning, of [`volley_common::ticket::TicketKey::verify`] and of
/// [`Access::check_ticket`]. CANCELLED: the ticket's FlightInfo was cancelled. UNAVAILABLE: this node has no key yet.
async fn redeem_ticket(
    context: &GetContext,
    ticket: &[u8],
    headers: &http::HeaderMap,
    access: &Access,
    caller: &AssertedCaller,
    subject: &mut GetSubject,
) -> Result<Ticket> {
    let headers = MetadataMap::from_headers(headers.clone());
    let (signed, decompress) = match TicketRequest::from_ticket(ticket, &headers)? {
        TicketRequest::Signed(signed) => (Bytes::from(signed), decompress_header(&headers)?),
        TicketRequest::Table(request) => {
            subject.table = request.name.components().to_vec();
            let request = request.for_read()?;
            subject.is_planning = true;
            let planned = plan_read(context, request, caller).await?;
            subject.is_planning = false;
            (planned, false)
        }
    };
    let mut ticket = context.cluster.ticket_key()?.verify(&signed, clock::now_ms())?;
    subject.table.clone_from(&ticket.table);
    note_ticket(&ticket);
    access.check_ticket(&ticket)?;
    context.cluster.check_not_cancelled(&ticket)?;
    ticket.decompress |= decompress;
    Ok(ticket)
}

/// Adds to the span of the call what a ticket reads, and the id of its FlightInfo.
pub fn note_ticket(ticket: &Ticket) {
    note("volley.flight", || format!("{:016x}", ticket.flight));
    if !ticket.table.is_empty() {
        note("volley.table", || ticket.table.join("/"));
        note("volley.version", || ticket.version as i64);
        note("volley.parts", || ticket.parts.len() as i64);
    }
}

async fn plan_read(context: &GetContext, request: TableRequest, caller: &AssertedCaller) -> Result<Bytes> {
    let request = PlanReadRequest {
        table: request.name.components().to_vec(),
        columns: request.options.columns.unwrap_or_default(),
        version: request.options.version,
        limit: request.options.limit,
        decompress: request.options.decompress.unwrap_or_default(),
        filter: request.options.filter.unwrap_or_default(),
    };
    Ok(context.coordinators.plan_read(request, caller).await?.ticket)
}
