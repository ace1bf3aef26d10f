//! The messages of a part that other nodes hold, read from their replies without copying the bodies. If one holder fails,
//! the next one continues.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tonic::Status;
use volley_common::http2::SilenceWatch;
use volley_common::http2::StreamPermit;
use volley_common::ipc::body_builder::ReceivedSlices;
use volley_common::ipc::flight_decoder::{FlightDecoder, FlightMessage};
use volley_common::listen::host_port;
use volley_common::wire::catalog::Node;
use volley_common::wire::cluster::{Ticket, TicketPart};
use volley_common::{Code, Error, NodeId, PartId, Result, clock, grpc};

use super::message::{EncodedMessage, count_batches, decompress_front};
use crate::cluster_view::ClusterMembers;
use crate::context::GetContext;

/// The header of a get that one node sends to another. The receiver must have the part itself and asks no other node.
pub const HOP_HEADER: &str = "x-volley-hop";
/// The least lifetime of a ticket between nodes. The client's ticket was verified when the get began, and may expire
/// before a slow reader has finished.
const TICKET_MS: u64 = 60_000;

/// A part of another node, and the position in it.
pub struct RemotePartReader {
    context: Arc<GetContext>,
    /// The client's ticket without its parts. Holders send what they store: `decompress` is done here, once.
    ticket: Ticket,
    decompress: bool,
    /// Messages that were received and are still to be decompressed.
    compressed: VecDeque<EncodedMessage>,
    /// `skip_batches` counts the batches that were read.
    part: TicketPart,
    /// Nodes to try, best first.
    candidates: VecDeque<NodeId>,
    holder: Option<HolderStream>,
    /// Why the last candidate failed.
    failure: String,
}

/// The reply of a holder.
struct HolderStream {
    node: NodeId,
    messages: PeerStream,
    /// The holder has sent a batch: if it fails later, it is tried again.
    made_progress: bool,
}

impl RemotePartReader {
    /// No request is sent before the first message or the schema is read.
    pub fn new(context: Arc<GetContext>, ticket: &Ticket, part: &TicketPart) -> Self {
        let decompress = ticket.decompress;
        let candidates = candidates(&context.cluster.members.load(), context.store.node(), &part.holders);
        let ticket = Ticket {
            flight: ticket.flight,
            expires_ms: ticket.expires_ms,
            table: ticket.table.clone(),
            table_id: ticket.table_id,
            version: ticket.version,
            parts: Vec::new(),
            columns: ticket.columns.clone(),
            limit: None,
            // A node that has the part has the schema.
            schema: Bytes::new(),
            decompress: false,
        };
        let failure = "the coordinators named no other node".into();
        RemotePartReader {
            context,
            ticket,
            decompress,
            compressed: VecDeque::new(),
            part: part.clone(),
            candidates,
            holder: None,
            failure,
        }
    }

    /// The bare flatbuffer of the schema, projected to the ticket's columns. `remaining_rows`: the get's limit.
    ///
    /// # Errors
    /// Those of [`RemotePartReader::next_messages`].
    pub async fn schema_header(&mut self, remaining_rows: Option<u64>) -> Result<Bytes> {
        loop {
            match &self.holder {
                Some(holder) => return Ok(holder.messages.schema_header()),
                None => self.open_next_holder(remaining_rows).await?,
            }
        }
    }

    /// The next message, and those after it that are received already and with it have at most `max_bytes`; empty after
    /// the last. `remaining_rows`: the get's limit.
    ///
    /// # Errors
    /// UNAVAILABLE, naming table and part: no node provides it. INVALID_ARGUMENT: columns that the schema does not have.
    pub async fn next_messages(
        &mut self,
        max_bytes: usize,
        remaining_rows: Option<u64>,
    ) -> Result<Vec<EncodedMessage>> {
        if !self.decompress {
            return self.receive_messages(max_bytes, remaining_rows).await;
        }
        if self.compressed.is_empty() {
            self.compressed = self.receive_messages(max_bytes, remaining_rows).await?.into();
        }
        let mut messages = std::mem::take(&mut self.compressed);
        let decompress = move || decompress_front(&mut messages, max_bytes).map(|plain| (plain, messages));
        let decompressed = tokio::task::spawn_blocking(decompress).await;
        let decompressed =
            decompressed.unwrap_or_else(|e| Err(Error::internal(format!("decompressing a message failed: {e}"))));
        let (plain, rest) =
            decompressed.map_err(|e| e.at(format_args!("part {}, received from another node", self.id())))?;
        self.compressed = rest;
        Ok(plain)
    }

    /// [`RemotePartReader::next_messages`] as the holder sends them.
    async fn receive_messages(&mut self, max_bytes: usize, remaining_rows: Option<u64>) -> Result<Vec<EncodedMessage>> {
        loop {
            let Some(holder) = &mut self.holder else {
                self.open_next_holder(remaining_rows).await?;
                continue;
            };
            match holder.messages.next_messages(max_bytes).await {
                Ok(messages) => {
                    let batches = count_batches(&messages);
                    holder.made_progress |= batches > 0;
                    self.part.skip_batches += batches;
                    return Ok(messages);
                }
                Err(error) => self.drop_holder(error),
            }
        }
    }

    fn drop_holder(&mut self, error: Error) {
        let Some(holder) = self.holder.take() else { return };
        tracing::warn!(part = %self.id(), node = %holder.node, %error, "a holder failed: continuing at the next");
        self.failure = format!("node {}: {error}", holder.node);
        if holder.made_progress {
            self.candidates.push_back(holder.node);
        }
    }

    /// Sends the request to the next candidate. Afterwards its stream is open, unless the candidate failed.
    async fn open_next_holder(&mut self, remaining_rows: Option<u64>) -> Result<()> {
        let Some((node, addr)) = self.next_candidate() else { return Err(self.unavailable()) };
        match self.get_from(&addr, remaining_rows).await {
            Ok(messages) => self.holder = Some(HolderStream { node, messages, made_progress: false }),
            // The ticket is wrong: other nodes would answer the same.
            Err(error) if error.code == Code::InvalidArgument => return Err(error),
            Err(error) => {
                tracing::debug!(part = %self.id(), %node, %error, "a holder does not provide a part");
                self.failure = format!("node {node}: {error}");
            }
        }
        Ok(())
    }

    /// Removes the first of the candidates whose health is best, and returns it with its address.
    fn next_candidate(&mut self) -> Option<(NodeId, String)> {
        let members = self.context.cluster.members.load();
        self.candidates.retain(|node| members.node(*node).is_some());
        let rank = |node: &NodeId| members.flight_addr(*node).map(|addr| self.context.pool.health(&addr).rank());
        let (at, _) = self.candidates.iter().enumerate().min_by_key(|(_, node)| rank(node))?;
        let node = self.candidates.remove(at)?;
        Some((node, members.flight_addr(node)?))
    }

    async fn get_from(&self, addr: &str, remaining_rows: Option<u64>) -> Result<PeerStream> {
        let mut ticket = self.ticket.clone();
        ticket.limit = remaining_rows;
        ticket.expires_ms = ticket.expires_ms.max(clock::now_ms() + TICKET_MS);
        ticket.parts = vec![TicketPart { holders: Vec::new(), ..self.part.clone() }];
        let mut request = grpc::do_get_request(self.context.cluster.ticket_key()?.sign(&ticket));
        request.headers_mut().insert(HOP_HEADER, HeaderValue::from_static("1"));
        let pool = &self.context.pool;
        let (response, lease) = pool.while_answering(addr, pool.send(addr, request)).await?;
        PeerStream::open(response, lease, pool.silence(addr)).await
    }

    fn id(&self) -> PartId {
        self.part.id.as_ref().map_or(PartId(0), PartId::from)
    }

    fn unavailable(&self) -> Error {
        Error::unavailable(format!(
            "part {} of table {:?} is on no node that can be reached ({}): try again when its holders are back",
            self.id(),
            self.ticket.table.join("/"),
            self.failure
        ))
    }
}

/// The nodes that may have a part: reachable holders, then other reachable nodes (it may have been copied since the ticket
/// was issued), then unreachable holders.
fn candidates(members: &ClusterMembers, this_node: NodeId, holders: &[u64]) -> VecDeque<NodeId> {
    let reachable = |node: &NodeId| members.node(*node).is_some_and(is_reachable);
    let holders = holders.iter().map(|&id| NodeId(id)).filter(|&node| node != this_node);
    let (mut found, unreachable): (Vec<NodeId>, Vec<NodeId>) = holders.partition(reachable);
    let others = members.nodes.keys().filter(|node| **node != this_node && reachable(node));
    let others: Vec<NodeId> = others.filter(|node| !found.contains(node)).copied().collect();
    found.extend(others);
    found.extend(unreachable);
    found.into()
}

fn is_reachable(node: &Node) -> bool {
    node.is_alive() && !host_port(&node.flight_uri).is_empty()
}

/// The messages of another node's reply to a DoGet. In the texts of errors, "it" is the peer.
struct PeerStream {
    schema_header: Bytes,
    body: Incoming,
    /// Received and not decoded yet.
    received: Bytes,
    decoder: FlightDecoder<ReceivedSlices>,
    /// Completes when the peer hangs.
    silence: SilenceWatch,
    _lease: StreamPermit,
}

impl PeerStream {
    /// Reads the reply up to its schema.
    ///
    /// # Errors
    /// Those of [`PeerStream::next_messages`].
    async fn open(response: http::Response<Incoming>, lease: StreamPermit, silence: SilenceWatch) -> Result<Self> {
        let body = grpc::response_body(response)?;
        // A node stored each message, so each is within the limits.
        let decoder = FlightDecoder::new(ReceivedSlices, usize::MAX);
        let mut stream =
            PeerStream { schema_header: Bytes::new(), body, received: Bytes::new(), decoder, silence, _lease: lease };
        let first = stream.receive().await?.ok_or_else(|| Error::internal("its reply is empty"))?;
        match MessageKind::of(&first.header)? {
            MessageKind::Schema => stream.schema_header = first.header,
            MessageKind::Dictionary | MessageKind::Batch { .. } => {
                return Err(Error::internal("its reply does not begin with a schema"));
            }
        }
        Ok(stream)
    }

    /// The bare flatbuffer of the reply's schema.
    fn schema_header(&self) -> Bytes {
        self.schema_header.clone()
    }

    /// The next dictionary or record batch, and those after it that are received already and with it have at most
    /// `max_bytes`; empty after the last, if the reply's status is OK.
    ///
    /// # Errors
    /// The reply's status. UNAVAILABLE: the connection broke. INTERNAL: the reply is malformed.
    async fn next_messages(&mut self, max_bytes: usize) -> Result<Vec<EncodedMessage>> {
        let Some(message) = self.receive().await? else { return Ok(Vec::new()) };
        let mut size = message.wire_len;
        let mut messages = vec![encoded(message)?];
        while let Some(length) = self.decoder.complete_len(&self.received)?.filter(|length| size + length <= max_bytes)
        {
            let Some(message) = self.decode()? else { break };
            size += length;
            messages.push(encoded(message)?);
        }
        Ok(messages)
    }

    async fn receive(&mut self) -> Result<Option<FlightMessage<Vec<Bytes>>>> {
        loop {
            if let Some(message) = self.decode()? {
                return Ok(Some(message));
            }
            let frame = tokio::select! {
                biased;
                frame = self.body.frame() => frame,
                error = &mut self.silence => return Err(error),
            };
            let frame = match frame {
                Some(Ok(frame)) => frame,
                Some(Err(e)) => return Err(Error::unavailable(format!("its reply was interrupted: {e}"))),
                None => return Err(Error::unavailable("its reply ended without a status")),
            };
            match frame.into_data() {
                Ok(data) => self.received = data,
                Err(frame) => return self.check_status(frame.trailers_ref()).map(|()| None),
            }
        }
    }

    fn decode(&mut self) -> Result<Option<FlightMessage<Vec<Bytes>>>> {
        self.decoder.push(&mut self.received).map_err(|error| match error.code {
            // The client did nothing wrong.
            Code::InvalidArgument => Error::internal(error.message),
            _ => error,
        })
    }

    fn check_status(&self, trailers: Option<&http::HeaderMap>) -> Result<()> {
        match trailers.and_then(Status::from_header_map) {
            Some(status) if status.code() != tonic::Code::Ok => Err(status.into()),
            Some(_) if self.decoder.is_between_messages() && self.received.is_empty() => Ok(()),
            Some(_) | None => Err(Error::unavailable("its reply ended within a message")),
        }
    }
}

/// A dictionary or a record batch.
fn encoded(message: FlightMessage<Vec<Bytes>>) -> Result<EncodedMessage> {
    let rows = match MessageKind::of(&message.header)? {
        MessageKind::Schema => return Err(Error::internal("it sends a second schema")),
        MessageKind::Dictionary => None,
        MessageKind::Batch { rows } => Some(rows),
    };
    Ok(EncodedMessage { header: message.header, body: message.body, rows, app_metadata: message.app_metadata })
}

enum MessageKind {
    Schema,
    Dictionary,
    Batch { rows: u64 },
}

impl MessageKind {
    fn of(header: &[u8]) -> Result<Self> {
        let message = arrow_ipc::root_as_message(header)
            .map_err(|e| Error::internal(format!("it sends a malformed message: {e}")))?;
        if let Some(batch) = message.header_as_record_batch() {
            return Ok(MessageKind::Batch { rows: u64::try_from(batch.length()).unwrap_or(0) });
        }
        match message.header_type() {
            arrow_ipc::MessageHeader::Schema => Ok(MessageKind::Schema),
            arrow_ipc::MessageHeader::DictionaryBatch => Ok(MessageKind::Dictionary),
            other => Err(Error::internal(format!("it sends a message of type {other:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use volley_common::wire::catalog::NodeState;

    use super::*;

    fn node(id: u64, state: NodeState) -> (NodeId, Node) {
        let flight_uri = format!("grpc+tcp://n{id}:1");
        (NodeId(id), Node { id, flight_uri, state: state.into(), ..Node::default() })
    }

    #[test]
    fn candidates_are_live_holders_live_others_unreachable_holders() {
        let nodes = [
            node(1, NodeState::Alive),
            node(2, NodeState::Unreachable),
            node(3, NodeState::Alive),
            node(4, NodeState::Alive),
            node(5, NodeState::Unreachable),
        ];
        let members = ClusterMembers { nodes: nodes.into_iter().collect(), ..ClusterMembers::default() };
        let order = candidates(&members, NodeId(1), &[1, 2, 4]);
        assert_eq!(order, [NodeId(4), NodeId(3), NodeId(2)]);
    }
}
