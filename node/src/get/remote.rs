//! The messages of a part that others hold: from one holder, and if it breaks, on from the next.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;
use volley_common::listen::host_port;
use volley_common::wire::catalog::Node;
use volley_common::wire::cluster::{Ticket, TicketPart};
use volley_common::{Code, Error, NodeId, PartId, Result, clock, grpc};

use super::HOP_HEADER;
use super::incoming::Messages;
use super::source::Piece;
use crate::state::{Members, Shared};

/// A ticket between nodes lives so long beyond its signing: the client's was verified when the stream
/// began, and a slow reader may outlive it.
const TICKET_MS: u64 = 60_000;

/// A part of another node, how far it has been passed on, and who else may have it.
pub struct RemotePart {
    state: Arc<Shared>,
    /// The client's ticket without its parts.
    ticket: Ticket,
    /// `skip_batches` counts what was passed on.
    part: TicketPart,
    /// Nodes still to be asked, best first.
    sources: VecDeque<NodeId>,
    stream: Option<Stream>,
    /// What the last source said.
    failure: String,
}

struct Stream {
    from: NodeId,
    messages: Messages,
    /// Whether it gave a batch: then it may be asked again should it break.
    useful: bool,
}

impl RemotePart {
    /// Nothing is asked before [`RemotePart::next`].
    pub fn new(state: Arc<Shared>, ticket: &Ticket, part: &TicketPart) -> Self {
        let sources = sources(&state.members.load(), state.node(), &part.holders);
        let ticket = Ticket {
            flight: ticket.flight,
            expires_ms: ticket.expires_ms,
            table: ticket.table.clone(),
            table_id: ticket.table_id,
            version: ticket.version,
            parts: Vec::new(),
            columns: ticket.columns.clone(),
            limit: None,
            // Whoever has the part has the schema.
            schema: Bytes::new(),
        };
        let failure = "the coordinators named no other node".into();
        RemotePart { state, ticket, part: part.clone(), sources, stream: None, failure }
    }

    /// The bare flatbuffer of the schema, cut down to the ticket's columns; at most `left` rows will be asked for.
    ///
    /// # Errors
    /// As those of [`RemotePart::next`].
    pub async fn schema(&mut self, left: Option<u64>) -> Result<Bytes> {
        loop {
            match &self.stream {
                Some(stream) => return Ok(stream.messages.schema()),
                None => self.open(left).await?,
            }
        }
    }

    /// The next message, and those after it that are here already and have no more than `bytes` with it; none after the
    /// last. At most `left` rows are asked for.
    ///
    /// # Errors
    /// UNAVAILABLE that names the table and the part: no node gives it. INVALID_ARGUMENT: columns that there are not.
    pub async fn next(&mut self, bytes: usize, left: Option<u64>) -> Result<Vec<Piece>> {
        loop {
            let Some(stream) = &mut self.stream else {
                self.open(left).await?;
                continue;
            };
            match stream.messages.next(bytes).await {
                Ok(pieces) => {
                    let batches = pieces.iter().filter(|piece| piece.rows.is_some()).count() as u32;
                    stream.useful |= batches > 0;
                    self.part.skip_batches += batches;
                    return Ok(pieces);
                }
                Err(error) => self.give_up(error),
            }
        }
    }

    fn give_up(&mut self, error: Error) {
        let Some(stream) = self.stream.take() else { return };
        tracing::warn!(part = %self.id(), node = %stream.from, %error, "a holder broke off: going on at the next");
        self.failure = format!("node {}: {error}", stream.from);
        if stream.useful {
            self.sources.push_back(stream.from);
        }
    }

    /// Opens a stream at the next source that has an address.
    async fn open(&mut self, left: Option<u64>) -> Result<()> {
        let Some(node) = self.sources.pop_front() else { return Err(self.unavailable()) };
        let Some(addr) = self.state.members.load().flight_addr(node) else { return Ok(()) };
        match self.ask(&addr, left).await {
            Ok(messages) => self.stream = Some(Stream { from: node, messages, useful: false }),
            // The ticket's own fault: nobody would say otherwise.
            Err(error) if error.code == Code::InvalidArgument => return Err(error),
            Err(error) => {
                tracing::debug!(part = %self.id(), %node, %error, "a holder does not give a part");
                self.failure = format!("node {node}: {error}");
            }
        }
        Ok(())
    }

    async fn ask(&self, addr: &str, left: Option<u64>) -> Result<Messages> {
        let mut ticket = self.ticket.clone();
        ticket.limit = left;
        ticket.expires_ms = ticket.expires_ms.max(clock::now_ms() + TICKET_MS);
        ticket.parts = vec![TicketPart { holders: Vec::new(), ..self.part.clone() }];
        let signed = self.state.ticket_key()?.sign(&ticket);
        let (response, lease) = self.state.pool.send(addr, request(signed)).await?;
        Messages::open(response, lease).await
    }

    fn id(&self) -> PartId {
        self.part.id.as_ref().map_or(PartId(0), PartId::from)
    }

    fn unavailable(&self) -> Error {
        Error::unavailable(format!(
            "part {} of table {:?} cannot be had from any node just now ({}): try again when its holders are back",
            self.id(),
            self.ticket.table.join("/"),
            self.failure
        ))
    }
}

/// Who may have a part: its holders, live ones first, then the other live nodes (it may have been
/// copied since the ticket was made).
fn sources(members: &Members, here: NodeId, holders: &[u64]) -> VecDeque<NodeId> {
    let alive = |node: &NodeId| members.node(*node).is_some_and(is_reachable);
    let holders = holders.iter().map(|&id| NodeId(id)).filter(|&node| node != here);
    let (mut found, silent): (Vec<NodeId>, Vec<NodeId>) = holders.partition(alive);
    let others = members.nodes.keys().filter(|node| **node != here && alive(node));
    let others: Vec<NodeId> = others.filter(|node| !found.contains(node)).copied().collect();
    found.extend(others);
    found.extend(silent);
    found.into()
}

fn is_reachable(node: &Node) -> bool {
    node.is_alive() && !host_port(&node.flight_uri).is_empty()
}

/// A DoGet that only a node which has the part answers.
fn request(ticket: Vec<u8>) -> http::Request<Bytes> {
    let mut request = grpc::do_get_request(ticket);
    request.headers_mut().insert(HOP_HEADER, HeaderValue::from_static("1"));
    request
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
    fn holders_come_first_then_other_live_nodes_then_silent_holders() {
        let nodes = [
            node(1, NodeState::Alive),
            node(2, NodeState::Unreachable),
            node(3, NodeState::Alive),
            node(4, NodeState::Alive),
            node(5, NodeState::Unreachable),
        ];
        let members = Members { nodes: nodes.into_iter().collect(), ..Members::default() };
        let order = sources(&members, NodeId(1), &[1, 2, 4]);
        assert_eq!(order, [NodeId(4), NodeId(3), NodeId(2)]);
    }
}
