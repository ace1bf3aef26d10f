//! A part that other nodes hold, read from their replies without copying the bodies. If one holder fails, the next one
//! continues.
//!
//! Without memory for whole messages, the reply is passed on as it arrives: then another holder cannot continue.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;
use volley_common::ipc::flight_encoder::FlightFrame;
use volley_common::listen::host_port;
use volley_common::wire::catalog::Node;
use volley_common::wire::cluster::{Ticket, TicketPart};
use volley_common::{Code, Error, NodeId, PartId, Result, clock, grpc};

use super::message::{EncodedMessage, count_batches, decompress_front};
use super::peer_stream::PeerStream;
use super::row_skip::RowSkipper;
use super::ticket_parts::{id_of, with_parts};
use crate::assertion::AssertedCaller;
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
    /// For whom the part is read. Asserted at each request, because the next holder may be needed long after the first.
    caller: AssertedCaller,
    /// The client's ticket without its parts. Holders send what they store: `decompress` is done here, once.
    ticket: Ticket,
    decompress: bool,
    /// Messages that were received and are still to be decompressed.
    compressed: VecDeque<EncodedMessage>,
    /// `skip_batches` counts the batches that were read, unless rows are counted.
    part: TicketPart,
    /// Rows that were read, if a holder that continues must send all rows again: the batches of a filter are no holder's
    /// messages.
    delivered_rows: Option<u64>,
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
    /// Removes what was read from holders before.
    skipper: RowSkipper,
    /// The holder has sent a batch: if it fails later, it is tried again.
    made_progress: bool,
}

impl RemotePartReader {
    /// No request is sent before the first message or the schema is read.
    pub fn new(context: Arc<GetContext>, caller: AssertedCaller, ticket: &Ticket, part: &TicketPart) -> Self {
        let decompress = ticket.decompress;
        let candidates = candidates(&context.cluster.members.load(), context.store.node(), &part.holders);
        let ticket = Ticket {
            limit: None,
            // A node that has the part has the schema.
            schema: Bytes::new(),
            decompress: false,
            ..with_parts(ticket, Vec::new())
        };
        let failure = "the coordinators named no other node".into();
        RemotePartReader {
            context,
            caller,
            ticket,
            decompress,
            compressed: VecDeque::new(),
            part: part.clone(),
            delivered_rows: None,
            candidates,
            holder: None,
            failure,
        }
    }

    /// The same without the first `delivered_rows` rows that the ticket selects of the part. Rows are counted, not batches, to find
    /// where the next holder continues.
    pub fn after_rows(self, delivered_rows: u64) -> Self {
        RemotePartReader { delivered_rows: Some(delivered_rows), ..self }
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
    /// PERMISSION_DENIED, UNAUTHENTICATED: a holder refuses the caller.
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
            let received = holder.messages.next_messages(max_bytes).await;
            match received.and_then(|messages| holder.without_delivered(messages)) {
                // All that came was read before.
                Ok(None) => {}
                Ok(Some(messages)) => {
                    let batches = count_batches(&messages);
                    holder.made_progress |= batches > 0;
                    match &mut self.delivered_rows {
                        Some(rows) => *rows += messages.iter().filter_map(|message| message.rows).sum::<u64>(),
                        None => self.part.skip_batches += batches,
                    }
                    return Ok(messages);
                }
                Err(error) if is_refusal(&error) => return Err(error.at(format_args!("node {}", holder.node))),
                // A filter fails for a row: it does so at every holder.
                Err(error) if error.code == Code::InvalidArgument && !self.ticket.filter.is_empty() => {
                    return Err(error);
                }
                Err(error) => self.drop_holder(error),
            }
        }
    }

    /// Whether the part is passed on as it arrives, by [`RemotePartReader::next_relayed`]: this process has no memory for
    /// whole messages. `remaining_rows`: the get's limit.
    ///
    /// # Errors
    /// Those of [`RemotePartReader::next_messages`].
    pub async fn is_relayed(&mut self, remaining_rows: Option<u64>) -> Result<bool> {
        if self.decompress {
            return Ok(false);
        }
        // Rows that are passed on are not counted.
        let are_rows_known = self.part.rows > 0 && self.part.skip_batches == 0;
        loop {
            match &self.holder {
                Some(holder) => {
                    return Ok(!holder.messages.has_whole_messages() && (remaining_rows.is_none() || are_rows_known));
                }
                None => self.open_next_holder(remaining_rows).await?,
            }
        }
    }

    /// The next bytes of the part, once the last ones are sent; `None` after the last.
    ///
    /// # Errors
    /// UNAVAILABLE, naming table and part: the holder failed, after a part of its reply was passed on.
    pub async fn next_relayed(&mut self) -> Result<Option<FlightFrame>> {
        let Some(holder) = &mut self.holder else { return Ok(None) };
        let node = holder.node;
        holder.messages.next_frame().await.map_err(|error| {
            Error::unavailable(format!(
                "node {node} failed while part {} of table {:?} was read through this node: {error}: read it again",
                self.id(),
                self.ticket.table.join("/")
            ))
        })
    }

    /// Counts a frame of the part's messages as unsent.
    pub fn count_unsent(&self, frame: FlightFrame) -> FlightFrame {
        match &self.holder {
            Some(holder) => holder.messages.count_unsent(frame),
            None => frame,
        }
    }

    /// Rows of the whole part.
    pub fn rows(&self) -> u64 {
        self.part.rows
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
            Ok(messages) => {
                let skipper = RowSkipper::new(messages.schema_header(), self.delivered_rows.unwrap_or(0));
                self.holder = Some(HolderStream { node, messages, skipper, made_progress: false });
            }
            Err(error) if is_refusal(&error) => return Err(error.at(format_args!("node {node}"))),
            // The ticket is wrong, or this node's memory is used up: other nodes would answer the same.
            Err(error) if matches!(error.code, Code::InvalidArgument | Code::ResourceExhausted) => return Err(error),
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
        ticket.limit = remaining_rows.map(|rows| rows.saturating_add(self.delivered_rows.unwrap_or(0)));
        ticket.expires_ms = ticket.expires_ms.max(clock::now_ms() + TICKET_MS);
        ticket.parts = vec![TicketPart { holders: Vec::new(), ..self.part.clone() }];
        let mut request = grpc::do_get_request(self.context.cluster.ticket_key()?.sign(&ticket));
        request.headers_mut().insert(HOP_HEADER, HeaderValue::from_static("1"));
        self.caller.assert_in(request.headers_mut(), grpc::DO_GET);
        if let Some(access) = self.caller.access() {
            // Whose share of the memory for replies it takes.
            request.extensions_mut().insert(access.clone());
        }
        let pool = &self.context.pool;
        let (response, permit) = pool.while_answering(addr, pool.send(addr, request)).await?;
        PeerStream::open(response, permit, pool.silence(addr)).await
    }

    fn id(&self) -> PartId {
        id_of(&self.part)
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

impl HolderStream {
    /// Received messages without what was read from holders before; `None` if that was all of them. None at all mean the end.
    fn without_delivered(&mut self, messages: Vec<EncodedMessage>) -> Result<Option<Vec<EncodedMessage>>> {
        if self.skipper.rows() == 0 {
            return Ok(Some(messages));
        }
        if messages.is_empty() {
            return Err(Error::internal("it has fewer rows of the part than another holder"));
        }
        let rest = self.skipper.remove_rows(messages)?;
        Ok((!rest.is_empty()).then_some(rest))
    }
}

/// Whether a holder refuses the caller, and not the part: other holders are not asked, of which one may not yet know that the
/// caller's rights are revoked.
fn is_refusal(error: &Error) -> bool {
    matches!(error.code, Code::PermissionDenied | Code::Unauthenticated)
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
