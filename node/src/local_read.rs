//! Local reads: hands the files of a ticket's parts to a client on this machine, which maps them
//! ([ADR 22](../../docs/adr/0022-local-reads.md)).
//!
//! The client presents its credential and a signed ticket, which are checked as those of a DoGet are. A descriptor gives a whole
//! part. So there are none for a ticket whose rows are selected here, and none for a principal that may not read all columns: such
//! a client is refused with the reason, and reads by the wire.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hash, RandomState};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderValue, Method};
use parking_lot::Mutex;
use prost::Message;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use volley_common::fairness::{CallLimit, CallerKey};
use volley_common::grpc::DO_GET;
use volley_common::identity::Access;
use volley_common::local_read::frames::{receive_exact, receive_frame, send_frame};
use volley_common::local_read::{MAX_PARTS, MAX_REQUEST, PREFACE};
use volley_common::server::audit::{AuditEvent, AuditKind, REQUEST_ID_HEADER, request_id};
use volley_common::server::serve::{LocalProtocol, PeerAddress};
use volley_common::tls::Caller;
use volley_common::wire::catalog::Role;
use volley_common::wire::cluster::{LocalHello, LocalPart, LocalReadReply, LocalReadRequest, Ticket};
use volley_common::{Error, Result, clock};

use crate::callers::CallerIdentifier;
use crate::context::{GetContext, NodeContext};
use crate::get::ticket_parts::{id_of, map_part};
use crate::storage::Part;

/// A client that has begun must send what follows within this time, and take its reply.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection without a request for this long is closed: a client needs one for a read, and makes another.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Reads that are remembered, so that those of several requests have one line in the audit log.
const MAX_RECORDED: usize = 4096;
/// What a client on this machine has as its address.
const LOCAL_PEER: PeerAddress =
    PeerAddress(std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0));

/// Answers local reads; clones share it.
#[derive(Clone)]
pub struct LocalReadService(Arc<LocalReadContext>);

struct LocalReadContext {
    callers: Arc<CallerIdentifier>,
    get: Arc<GetContext>,
    calls: Arc<CallLimit>,
    /// The id of the socket, by which clients know this process.
    socket_id: u64,
    recorded: RecordedReads,
}

/// The last reads that the audit log has.
#[derive(Default)]
struct RecordedReads {
    hashes: RandomState,
    /// The oldest one first.
    reads: Mutex<VecDeque<u64>>,
}

/// Why a client is to read by the wire.
#[derive(Debug)]
struct LocalRefusal {
    error: Error,
    /// As metrics name it.
    reason: &'static str,
}

/// The reply, and the parts whose descriptors come with it.
type LocalAnswer = (LocalReadReply, Vec<Arc<Part>>);

fn refused(reason: &'static str) -> impl FnOnce(Error) -> LocalRefusal {
    move |error| LocalRefusal { error, reason }
}

impl LocalProtocol for LocalReadService {
    async fn serve(self, stream: UnixStream, shutdown: CancellationToken) {
        if let Err(error) = self.0.converse(&stream, &shutdown).await {
            tracing::debug!(%error, "a connection of a local read broke");
        }
    }
}

impl LocalReadService {
    /// Reads parts as gets of this node do. `socket_id`: that which FlightInfos name.
    pub fn new(context: &NodeContext, socket_id: u64) -> Self {
        LocalReadService(Arc::new(LocalReadContext {
            callers: context.callers.clone(),
            get: context.get.clone(),
            calls: context.calls.clone(),
            socket_id,
            recorded: RecordedReads::default(),
        }))
    }
}

impl RecordedReads {
    /// Whether a request for a read is to be recorded: it `begins` the read, or the client left out the request that would have.
    fn add(&self, read: impl Hash, begins: bool) -> bool {
        let hash = self.hashes.hash_one(read);
        let mut reads = self.reads.lock();
        if reads.contains(&hash) {
            return begins;
        }
        if reads.len() >= MAX_RECORDED {
            reads.pop_front();
        }
        reads.push_back(hash);
        true
    }
}

impl LocalReadContext {
    /// Answers the requests of one client in turn.
    async fn converse(&self, stream: &UnixStream, shutdown: &CancellationToken) -> io::Result<()> {
        let mut preface = [0; PREFACE.len()];
        if !timeout(CLIENT_TIMEOUT, receive_exact(stream, &mut preface)).await?? || preface != PREFACE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let hello = LocalHello { id: self.socket_id };
        timeout(CLIENT_TIMEOUT, send_frame(stream, &hello, &[])).await??;
        loop {
            let request = timeout(IDLE_TIMEOUT, receive_frame::<LocalReadRequest>(stream, MAX_REQUEST));
            // No request within the time is no fault.
            let Some(Ok(request)) = shutdown.run_until_cancelled(request).await else { return Ok(()) };
            // Descriptors of a client mean nothing.
            let Some((request, _)) = request? else { return Ok(()) };
            let (reply, parts) = match self.answer(&request).await {
                Ok(answer) => answer,
                Err(LocalRefusal { error, reason }) => {
                    tracing::debug!(reason, %error, "a local read was refused");
                    metrics::counter!("volley_local_reads_refused_total", "result" => reason).increment(1);
                    let (code, message) = (error.code as u32, error.message);
                    (LocalReadReply { code, message, reason: reason.into(), ..LocalReadReply::default() }, Vec::new())
                }
            };
            let descriptors: Vec<BorrowedFd<'_>> = parts.iter().map(|part| part.file()).collect();
            timeout(CLIENT_TIMEOUT, send_frame(stream, &reply, &descriptors)).await??;
        }
    }

    async fn answer(&self, request: &LocalReadRequest) -> Result<LocalAnswer, LocalRefusal> {
        let mut head = head_of(request).map_err(refused("credentials"))?;
        self.callers.identify(&mut head).await.map_err(refused("credentials"))?;
        let access = Access::of(&head.extensions);
        let _call = self.calls.admit(&access).map_err(|status| refused("busy")(status.into()))?;
        let ticket = self.redeem(&request.ticket, &access);
        let key = CallerKey::of(&access);
        let admit = |ticket: &Ticket| self.get.memory.admit(&key, ticket.encoded_len(), 0).map_err(refused("busy"));
        let (ticket, _memory) = ticket.and_then(|ticket| admit(&ticket).map(|memory| (ticket, memory)))?;
        let answer = self.hand_out(&ticket, request.first_part as usize).await?;
        let begins = request.first_part == 0;
        if begins {
            metrics::counter!("volley_local_reads_total").increment(1);
        }
        let principal = access.principal().map(|principal| principal.name.as_str());
        if self.recorded.add((principal, &request.ticket), begins) {
            // What is refused here is recorded when the client reads by the wire.
            self.get.audit.record(AuditEvent {
                access: &access,
                kind: AuditKind::Read,
                operation: "DoGet",
                table: Some(&ticket.table[..]),
                request_id: request_id(&head.headers),
                result: Ok(()),
            });
        }
        Ok(answer)
    }

    /// Verifies a ticket, and that the caller may have whole parts of it.
    fn redeem(&self, signed: &[u8], access: &Access) -> Result<Ticket, LocalRefusal> {
        let key = self.get.cluster.ticket_key().map_err(refused("ticket"))?;
        let ticket = key.verify(signed, clock::now_ms()).map_err(refused("ticket"))?;
        access.check_ticket(&ticket).map_err(refused("rights"))?;
        self.get.cluster.check_not_cancelled(&ticket).map_err(refused("ticket"))?;
        check_whole_parts(&ticket, access)?;
        Ok(ticket)
    }

    /// Opens parts of a ticket, from the one at index `first` on.
    async fn hand_out(&self, ticket: &Ticket, first: usize) -> Result<LocalAnswer, LocalRefusal> {
        let store = &self.get.store;
        let absent = || {
            let (table, node) = (ticket.table.join("/"), store.node());
            refused("absent")(Error::not_found(format!("a part of table {table:?} is not on node {node}")))
        };
        // A client that would have to read the rest by the wire begins there.
        if first == 0 && !ticket.parts.iter().all(|part| store.holds(id_of(part))) {
            return Err(absent());
        }
        let wanted = ticket.parts.iter().skip(first).take(MAX_PARTS);
        let (mut parts, mut handed) = (Vec::new(), Vec::new());
        for wanted in wanted {
            let part = map_part(store, id_of(wanted)).await.map_err(refused("damaged"))?.ok_or_else(absent)?;
            part.check_unchanged().map_err(refused("damaged"))?;
            handed.push(LocalPart { bytes: part.len(), skip_batches: wanted.skip_batches });
            parts.push(part);
        }
        let bytes = handed.iter().map(|part| part.bytes).sum();
        metrics::counter!("volley_local_read_bytes_total").increment(bytes);
        let reply = LocalReadReply {
            parts: handed,
            ticket_parts: u32::try_from(ticket.parts.len()).unwrap_or(u32::MAX),
            columns: ticket.columns.clone(),
            limit: ticket.limit,
            ..LocalReadReply::default()
        };
        Ok((reply, parts))
    }
}

/// Checks that a ticket is for rows as they are stored, and that the caller itself may read all columns of its table: the holder of
/// a shared ticket may see no more than the ticket says.
fn check_whole_parts(ticket: &Ticket, access: &Access) -> Result<(), LocalRefusal> {
    let selects = |reason, what: &str| {
        let error = format!("the ticket for {} {what}: its rows come by DoGet", ticket.subject());
        Err(refused(reason)(Error::precondition(error)))
    };
    if ticket.query.is_some() || !ticket.filter.is_empty() {
        return selects("filter", "selects rows");
    }
    // The rows of a stored result are all of the principal for whom the ticket is.
    if ticket.result.is_some() {
        return Ok(());
    }
    access.require(Role::Reader, &ticket.table).map_err(refused("rights"))?;
    match ticket.permitted_columns == 0 && access.permitted_columns_hash(&ticket.table) == 0 {
        true => Ok(()),
        false => selects("columns", "is for some columns only"),
    }
}

/// The head of a DoGet with the same credential.
fn head_of(request: &LocalReadRequest) -> Result<Parts> {
    let text = |text: &str| {
        HeaderValue::from_str(text).map_err(|_| Error::unauthenticated("a header of a local read is malformed"))
    };
    let (mut head, ()) = http::Request::new(()).into_parts();
    (head.method, head.uri) = (Method::POST, http::Uri::from_static(DO_GET));
    if !request.authorization.is_empty() {
        let mut value = text(&request.authorization)?;
        value.set_sensitive(true);
        head.headers.insert(AUTHORIZATION, value);
    }
    if !request.request_id.is_empty() {
        head.headers.insert(REQUEST_ID_HEADER, text(&request.request_id)?);
    }
    head.extensions.insert(LOCAL_PEER);
    // Whoever calls is on this machine, and no member.
    head.extensions.insert(Caller::Anonymous);
    Ok(head)
}
