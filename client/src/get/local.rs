//! Reads an endpoint by the files of its parts: gets their descriptors from a node on this machine, maps them, and makes batches
//! whose arrays are the mappings. Whatever goes wrong, the caller reads by the wire.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use arrow_flight::Ticket;
use tokio::net::UnixStream;
use tokio::time::timeout;
use volley_common::ipc::mapped_part::MappedPart;
use volley_common::ipc::size::data_bytes;
use volley_common::local_read::frames::{receive_frame, send_bytes, send_frame};
use volley_common::local_read::{MAX_REPLY, MAX_REQUEST, PREFACE};
use volley_common::wire::catalog::LocalSocket;
use volley_common::wire::cluster::{LocalHello, LocalPart, LocalReadReply, LocalReadRequest};
use volley_common::{Code, Error, Result};

use crate::Client;
use crate::session::MIN_LEFT;

/// A node that does not answer for this long may hang: the wire has other nodes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum number of batches that are made at once, and of their arrays.
const MAX_BATCHES: usize = 64;
const MAX_ARRAYS: usize = 8 << 10;
/// Bytes of a request beside its ticket, at most.
const MAX_CREDENTIAL: usize = 64 << 10;
/// What nodes say is in the way.
const NODE_REASONS: [&str; 8] = ["absent", "busy", "columns", "credentials", "damaged", "filter", "rights", "ticket"];

/// Why the rest of an endpoint is to be read by the wire.
pub(super) struct WireFallback {
    /// As [`crate::LocalReadCounts`] names it.
    pub reason: &'static str,
    /// Its cause.
    pub error: Error,
}

impl WireFallback {
    /// Whether another node on this machine may serve by files. One that hangs costs a second, which is not spent twice.
    pub(super) fn is_of_node(&self) -> bool {
        ["absent", "busy", "damaged", "other_node", "owner", "unreachable"].contains(&self.reason)
    }
}

/// A batch, and what it takes of this process's memory.
pub(super) struct LocalBatch {
    pub rows: RecordBatch,
    /// 0: its arrays are mapped.
    pub bytes: usize,
}

/// The parts of one endpoint, in order.
pub(super) struct LocalReader<'a> {
    client: &'a Client,
    socket: &'a LocalSocket,
    ticket: &'a Ticket,
    /// That of the FlightInfo.
    schema: &'a SchemaRef,
    /// The part that is requested next, and how many there are, once that is known.
    next_part: u32,
    ticket_parts: Option<u32>,
    /// Rows that are still read, if there is a limit.
    remaining_rows: Option<u64>,
    parts: VecDeque<PartPosition>,
    batches: VecDeque<LocalBatch>,
}

/// A part, and its batch that is read next.
struct PartPosition {
    part: Arc<MappedPart>,
    next_batch: usize,
}

fn fallback(reason: &'static str) -> impl FnOnce(Error) -> WireFallback {
    move |error| WireFallback { reason, error }
}

fn broken(error: io::Error) -> WireFallback {
    let reason = match error.kind() {
        io::ErrorKind::InvalidData => "protocol",
        io::ErrorKind::Other => "descriptors",
        _ => "unreachable",
    };
    fallback(reason)(Error::unavailable(format!("the local socket: {error}")))
}

impl<'a> LocalReader<'a> {
    pub(super) fn new(client: &'a Client, socket: &'a LocalSocket, ticket: &'a Ticket, schema: &'a SchemaRef) -> Self {
        LocalReader {
            client,
            socket,
            ticket,
            schema,
            next_part: 0,
            ticket_parts: None,
            remaining_rows: None,
            parts: VecDeque::new(),
            batches: VecDeque::new(),
        }
    }

    /// The next batch; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<LocalBatch>, WireFallback> {
        loop {
            if self.remaining_rows == Some(0) {
                return Ok(None);
            }
            if let Some(batch) = self.batches.pop_front() {
                return Ok(Some(self.within_limit(batch)));
            }
            if self.parts.is_empty() {
                if self.ticket_parts.is_some_and(|all| self.next_part >= all) {
                    return Ok(None);
                }
                self.request_parts().await?;
            } else {
                self.read_batches().await?;
            }
        }
    }

    fn within_limit(&mut self, batch: LocalBatch) -> LocalBatch {
        let Some(remaining) = self.remaining_rows else { return batch };
        let rows = usize::try_from(remaining).unwrap_or(usize::MAX).min(batch.rows.num_rows());
        self.remaining_rows = Some(remaining - rows as u64);
        LocalBatch { rows: batch.rows.slice(0, rows), ..batch }
    }

    /// Makes the next batches of the first part. They read headers of the file, which may wait for the disk.
    async fn read_batches(&mut self) -> Result<(), WireFallback> {
        let Some(PartPosition { part, next_batch }) = self.parts.pop_front() else { return Ok(()) };
        let (schema, remaining) = (self.schema.clone(), self.remaining_rows);
        let made = tokio::task::spawn_blocking(move || {
            let made = make_batches(&part, next_batch, &schema, remaining);
            made.map(|made| (part, made))
        });
        let made = made.await.unwrap_or_else(|e| Err(Error::internal(format!("reading a mapped part failed: {e}"))));
        let (part, made) = made.map_err(fallback("damaged"))?;
        let next_batch = next_batch + made.len();
        if next_batch < part.batch_count() {
            self.parts.push_front(PartPosition { part, next_batch });
        }
        self.batches.extend(made);
        Ok(())
    }

    /// Gets and maps the next parts of the ticket.
    async fn request_parts(&mut self) -> Result<(), WireFallback> {
        let request = self.request().await?;
        let (local, path) = (&self.client.local, &self.socket.path);
        let exchanged = match timeout(ANSWER_TIMEOUT, exchange(self.socket, &request)).await {
            Ok(exchanged) => exchanged,
            Err(_) => {
                let error = Error::unavailable(format!("no answer by the local socket within {ANSWER_TIMEOUT:?}"));
                Err(fallback("timeout")(error))
            }
        };
        let avoids = ["timeout", "unreachable", "owner", "other_node"];
        let exchanged = exchanged.inspect_err(|fallback| {
            if avoids.contains(&fallback.reason) {
                local.avoid(path);
            }
        });
        let (reply, descriptors) = exchanged?;
        check_reply(&reply, descriptors.len())?;
        if self.ticket_parts.is_none() {
            self.remaining_rows = reply.limit;
        }
        self.ticket_parts = Some(reply.ticket_parts);
        self.next_part += reply.parts.len() as u32;
        if reply.parts.is_empty() && self.next_part < reply.ticket_parts {
            return Err(fallback("protocol")(Error::internal("a reply of the local socket has no part")));
        }
        let columns: Option<Vec<usize>> =
            reply.columns.map(|columns| columns.index.iter().map(|&at| at as usize).collect());
        let parts = reply.parts;
        let mapped = tokio::task::spawn_blocking(move || map_parts(&parts, &descriptors, columns.as_deref()));
        let mapped = mapped.await.unwrap_or_else(|e| Err(Error::internal(format!("mapping parts failed: {e}"))));
        let mapped = mapped.map_err(fallback("damaged"))?;
        if mapped.iter().any(|position| position.part.schema().fields() != self.schema.fields()) {
            return Err(fallback("schema")(Error::internal("a part's schema is not the FlightInfo's")));
        }
        let has_batches = |position: &PartPosition| position.next_batch < position.part.batch_count();
        self.parts.extend(mapped.into_iter().filter(has_batches));
        Ok(())
    }

    async fn request(&self) -> Result<LocalReadRequest, WireFallback> {
        if self.ticket.ticket.len() > MAX_REQUEST - MAX_CREDENTIAL {
            return Err(fallback("ticket")(Error::exhausted("the ticket is too large for the local socket")));
        }
        let authorization = match &self.client.session {
            Some(session) => {
                let credential = session.credential(MIN_LEFT).await.map_err(fallback("credentials"))?;
                credential.header().to_str().unwrap_or_default().to_string()
            }
            None => String::new(),
        };
        Ok(LocalReadRequest {
            ticket: self.ticket.ticket.clone(),
            authorization,
            request_id: self.client.request_id.as_ref().map(|id| id.text().to_string()).unwrap_or_default(),
            first_part: self.next_part,
        })
    }
}

/// Sends a request over a new connection, and receives its reply. The reader may need the next reply much later: meanwhile it
/// holds no connection.
async fn exchange(
    socket: &LocalSocket,
    request: &LocalReadRequest,
) -> Result<(LocalReadReply, Vec<OwnedFd>), WireFallback> {
    let stream = connect(socket).await?;
    send_frame(&stream, request, &[]).await.map_err(broken)?;
    let reply = receive_frame::<LocalReadReply>(&stream, MAX_REPLY).await.map_err(broken)?;
    reply.ok_or_else(|| broken(io::ErrorKind::UnexpectedEof.into()))
}

/// Connects to a socket, and checks that it is the node's, before it gets a credential and its files are trusted.
async fn connect(socket: &LocalSocket) -> Result<UnixStream, WireFallback> {
    let stream = UnixStream::connect(&socket.path).await.map_err(broken)?;
    let user = stream.peer_cred().map_err(broken)?.uid();
    if user != socket.uid {
        let expected = socket.uid;
        let error = format!("the user {user} listens at {}, the node's is {expected}", socket.path);
        return Err(fallback("owner")(Error::unavailable(error)));
    }
    send_bytes(&stream, &PREFACE, &[]).await.map_err(broken)?;
    let hello = receive_frame::<LocalHello>(&stream, MAX_REPLY).await.map_err(broken)?;
    match hello {
        Some((hello, _)) if hello.id == socket.id => Ok(stream),
        Some(_) => {
            Err(fallback("other_node")(Error::unavailable(format!("another process listens at {}", socket.path))))
        }
        None => Err(broken(io::ErrorKind::UnexpectedEof.into())),
    }
}

fn check_reply(reply: &LocalReadReply, descriptors: usize) -> Result<(), WireFallback> {
    if reply.code != Code::Ok as u32 {
        let reason = NODE_REASONS.into_iter().find(|known| *known == reply.reason).unwrap_or("protocol");
        return Err(fallback(reason)(Error::unavailable(format!("the node refuses: {}", reply.message))));
    }
    match reply.parts.len() == descriptors {
        true => Ok(()),
        false => Err(fallback("descriptors")(Error::internal("a reply has other descriptors than parts"))),
    }
}

/// Maps parts; their descriptors are closed, the mappings stay.
fn map_parts(parts: &[LocalPart], descriptors: &[OwnedFd], columns: Option<&[usize]>) -> Result<Vec<PartPosition>> {
    let mapped = parts.iter().zip(descriptors).map(|(part, descriptor)| -> Result<PartPosition> {
        let mapped = MappedPart::open(descriptor, part.bytes, columns.map(<[usize]>::to_vec))?;
        Ok(PartPosition { part: Arc::new(mapped), next_batch: part.skip_batches as usize })
    });
    mapped.collect()
}

/// Makes batches of a part, from the one at index `from` on, until they have `rows`: some, of which the arrays are mapped, or one
/// that is decompressed.
fn make_batches(part: &MappedPart, from: usize, schema: &SchemaRef, rows: Option<u64>) -> Result<Vec<LocalBatch>> {
    let most = match part.is_compressed() {
        true => 1,
        false => (MAX_ARRAYS / schema.fields().len().max(1)).clamp(1, MAX_BATCHES),
    };
    let (mut batches, mut made) = (Vec::new(), 0);
    for at in (from..part.batch_count()).take(most) {
        if rows.is_some_and(|rows| made >= rows) {
            break;
        }
        let batch = part.batch(at)?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let batch = RecordBatch::try_new_with_options(schema.clone(), batch.columns().to_vec(), &options)
            .map_err(|e| Error::data_loss(format!("a batch of a mapped part: {e}")))?;
        made += batch.num_rows() as u64;
        let bytes = if part.is_compressed() { data_bytes(&batch) } else { 0 };
        batches.push(LocalBatch { rows: batch, bytes });
    }
    Ok(batches)
}
