//! Pure: a version of a table and the live nodes → what a reader is offered.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;
use volley_common::wire::catalog::Table;
use volley_common::wire::cluster::{Ticket, TicketPart};
use volley_common::{Error, NodeId, Result};

use crate::catalog::{Catalog, PartRow};
use crate::service::via::address;

/// The location that stands for the connection by which the FlightInfo came; last of every endpoint's.
pub const REUSE_CONNECTION: &str = "arrow-flight-reuse-connection://?";
/// Distinct location URIs in one answer, [`REUSE_CONNECTION`] included: from 21 on ADBC closes live connections.
pub const MAX_URIS: usize = 20;
/// Locations of an endpoint without parts, which any node can serve.
const EMPTY_LOCATIONS: usize = 3;

/// What a reader is offered of a version, for as long as neither its parts nor the nodes change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Where the nodes are reached that stand in the answer, [`REUSE_CONNECTION`] not among them.
    pub uris: Vec<String>,
    /// Streams, in the order of the rows.
    pub endpoints: Vec<EndpointPlan>,
    /// Rows of all endpoints.
    pub rows: u64,
    /// Bytes of all endpoints' parts.
    pub bytes: u64,
}

/// One stream that a reader can fetch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointPlan {
    /// What it streams: the fields `parts` and `limit` of its ticket, encoded.
    pub tail: Bytes,
    /// How many parts that are.
    pub parts: usize,
    /// Rows of the parts, or the limit if that is less.
    pub rows: u64,
    /// Live nodes that can serve it, best first.
    choices: Box<[Choice]>,
    /// So many of them are named.
    named: usize,
}

/// A node that can serve an endpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Choice {
    /// Index of its URI.
    uri: u16,
    /// Those of the same rank are as good as each other: they take turns.
    rank: u16,
}

impl EndpointPlan {
    /// How many locations it has, [`REUSE_CONNECTION`] not counted.
    pub fn location_count(&self) -> usize {
        self.named
    }
}

impl Plan {
    /// Indexes of the URIs of an endpoint's locations, in order: those that hold most of its parts first, ill ones last; of
    /// equals a different one first from endpoint to endpoint and `rotation` to `rotation`.
    pub fn locations(&self, endpoint: usize, rotation: usize) -> impl Iterator<Item = usize> {
        let EndpointPlan { choices, named, .. } = &self.endpoints[endpoint];
        let turn = rotation.wrapping_add(endpoint);
        let equals = choices.chunk_by(|one, other| one.rank == other.rank);
        let turned = equals.flat_map(move |equals| {
            let (last, first) = equals.split_at(turn % equals.len());
            first.iter().chain(last)
        });
        turned.take(*named).map(|choice| usize::from(choice.uri))
    }

    /// Whether there is anything but one empty stream.
    pub fn has_parts(&self) -> bool {
        self.endpoints.first().is_some_and(|first| first.parts > 0)
    }

    /// Bytes of memory that it takes, about.
    pub fn weight(&self) -> usize {
        let endpoint = |plan: &EndpointPlan| size_of_val(plan) + plan.tail.len() + size_of_val(&*plan.choices);
        self.endpoints.iter().map(endpoint).sum()
    }
}

/// Cuts the first `limit` rows of a version into at most `most` endpoints, in order: one part each, or runs of parts.
/// Parts behind the limit are left out, and need no holder; the last endpoint may have a limit.
///
/// Every live holder of a part that has the client's listener is a location, as long as the whole answer stays within [`MAX_URIS`]. No part is in two
/// endpoints.
///
/// # Errors
/// UNAVAILABLE, naming table and shard: no live node holds a part.
pub fn plan(
    catalog: &Catalog,
    table: &Table,
    version: u64,
    most: usize,
    limit: Option<u64>,
    alive: &BTreeSet<NodeId>,
    listener: &str,
) -> Result<Plan> {
    let parts = first_rows(catalog.part_rows_at(table.id, version), limit);
    let (uris, ill) = (uris(catalog, alive, listener), ill(catalog, alive));
    if parts.is_empty() {
        return Ok(without_parts(&uris, limit));
    }
    let runs = runs(&parts, most);
    let mut holders = Vec::with_capacity(runs.len());
    for run in &runs {
        require_live(catalog, table, run, alive)?;
        holders.push(by_share(run, &uris, &ill));
    }
    let offered: Vec<NodeId> = choose(&holders).into_iter().collect();
    let mut plan = Plan {
        uris: offered.iter().filter_map(|node| uris.get(node)).map(|uri| uri.to_string()).collect(),
        ..Plan::default()
    };
    for (run, holders) in runs.iter().zip(&holders) {
        let rows: u64 = run.iter().map(|part| part.rows).sum();
        let left = limit.map_or(u64::MAX, |limit| limit.saturating_sub(plan.rows));
        let ticket = Ticket {
            parts: run.iter().map(|part| ticket_part(part, alive, &ill)).collect(),
            limit: (rows > left).then_some(left),
            ..Ticket::default()
        };
        let choices: Box<[Choice]> = holders.iter().filter_map(|holder| holder.choice(&offered)).collect();
        let (tail, named) = (ticket.encode_to_vec().into(), choices.len());
        plan.endpoints.push(EndpointPlan { tail, parts: run.len(), rows: rows.min(left), choices, named });
        plan.rows += rows.min(left);
        plan.bytes += run.iter().map(|part| part.bytes).sum::<u64>();
    }
    Ok(plan)
}

/// The parts that have the first `limit` rows; all without a limit.
fn first_rows<'a>(parts: impl Iterator<Item = &'a PartRow>, limit: Option<u64>) -> Vec<&'a PartRow> {
    let mut left = limit.unwrap_or(u64::MAX);
    parts
        .take_while(|part| {
            let wanted = left > 0;
            left = left.saturating_sub(part.rows);
            wanted
        })
        .collect()
}

/// Cuts the parts into at most `most` runs of equal length, give or take one.
fn runs<'a, 'p>(parts: &'a [&'p PartRow], most: usize) -> Vec<&'a [&'p PartRow]> {
    let count = parts.len().min(most.max(1));
    (0..count).map(|at| &parts[at * parts.len() / count..(at + 1) * parts.len() / count]).collect()
}

/// Where the listener's clients reach the live nodes.
fn uris<'a>(catalog: &'a Catalog, alive: &BTreeSet<NodeId>, listener: &str) -> BTreeMap<NodeId, &'a str> {
    let nodes = alive.iter().filter_map(|id| catalog.node(*id));
    nodes.filter_map(|node| Some((NodeId(node.id), address(node, listener)?))).collect()
}

/// Live nodes with which something is wrong: whoever can be read elsewhere is not read there.
fn ill(catalog: &Catalog, alive: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let is_ill = |id: &NodeId| catalog.node(*id).is_some_and(|node| node.is_degraded());
    alive.iter().copied().filter(is_ill).collect()
}

fn without_parts(uris: &BTreeMap<NodeId, &str>, limit: Option<u64>) -> Plan {
    let ticket = Ticket { limit: limit.map(|_| 0), ..Ticket::default() };
    let choices: Box<[Choice]> = (0..uris.len()).map(|at| Choice { uri: at as u16, rank: 0 }).collect();
    let named = choices.len().min(EMPTY_LOCATIONS);
    let endpoint = EndpointPlan { tail: ticket.encode_to_vec().into(), parts: 0, rows: 0, choices, named };
    let uris = uris.values().map(|uri| uri.to_string()).collect();
    Plan { uris, endpoints: vec![endpoint], ..Plan::default() }
}

fn require_live(catalog: &Catalog, table: &Table, run: &[&PartRow], alive: &BTreeSet<NodeId>) -> Result<()> {
    let dead = |part: &&&PartRow| !part.holders.iter().any(|node| alive.contains(&NodeId(*node)));
    let Some(part) = run.iter().find(dead) else { return Ok(()) };
    let holders: Vec<String> = catalog.holders(part).map(|node| node.to_string()).collect();
    let whose = if holders.is_empty() {
        "no node has a copy any longer".into()
    } else {
        format!("it is on {}", holders.join(", "))
    };
    Err(Error::unavailable(format!(
        "shard {} of table {:?} has no live holder of part {}: {whose}; try again when one of its nodes is back",
        part.shard,
        table.name.join("/"),
        part.part_id()
    )))
}

/// A live holder of some of a run's parts.
struct Holder {
    node: NodeId,
    ill: bool,
    /// How many of the parts it holds.
    parts: usize,
    rank: u16,
}

impl Holder {
    fn choice(&self, offered: &[NodeId]) -> Option<Choice> {
        let uri = offered.binary_search(&self.node).ok()?;
        Some(Choice { uri: uri as u16, rank: self.rank })
    }
}

/// The live holders of a run, those of most of its parts first, `ill` ones last.
fn by_share(run: &[&PartRow], uris: &BTreeMap<NodeId, &str>, ill: &BTreeSet<NodeId>) -> Vec<Holder> {
    let mut share: Vec<Holder> = Vec::new();
    for node in run.iter().flat_map(|part| part.holders.iter()).map(|node| NodeId(*node)) {
        match share.iter_mut().find(|known| known.node == node) {
            Some(known) => known.parts += 1,
            None if uris.contains_key(&node) => {
                share.push(Holder { node, ill: ill.contains(&node), parts: 1, rank: 0 });
            }
            None => {}
        }
    }
    share.sort_by_key(|holder| (holder.ill, std::cmp::Reverse(holder.parts)));
    for at in 1..share.len() {
        let equal = (share[at].ill, share[at].parts) == (share[at - 1].ill, share[at - 1].parts);
        share[at].rank = share[at - 1].rank + u16::from(!equal);
    }
    share
}

/// The nodes that may stand in the answer: all, or so many as [`MAX_URIS`] allows, chosen so that as many endpoints
/// as can be keep a location (each next node is the one that serves most endpoints without any, then most of all).
fn choose(holders: &[Vec<Holder>]) -> BTreeSet<NodeId> {
    let all: BTreeSet<NodeId> = holders.iter().flatten().map(|holder| holder.node).collect();
    if all.len() < MAX_URIS {
        return all;
    }
    let mut chosen = BTreeSet::new();
    while chosen.len() < MAX_URIS - 1 {
        // (endpoints without a location that it would serve, endpoints that it would serve)
        let mut gain: BTreeMap<NodeId, (usize, usize)> = BTreeMap::new();
        for endpoint in holders {
            let served = endpoint.iter().any(|holder| chosen.contains(&holder.node));
            for node in endpoint.iter().map(|holder| holder.node).filter(|node| !chosen.contains(node)) {
                let gain = gain.entry(node).or_default();
                gain.0 += usize::from(!served);
                gain.1 += 1;
            }
        }
        let Some((best, _)) = gain.into_iter().max_by_key(|(node, gain)| (*gain, std::cmp::Reverse(*node))) else {
            break;
        };
        chosen.insert(best);
    }
    chosen
}

/// A part as a ticket names it: all its holders, live ones first, of those the `ill` ones last.
fn ticket_part(part: &PartRow, alive: &BTreeSet<NodeId>, ill: &BTreeSet<NodeId>) -> TicketPart {
    let mut holders = part.holders.to_vec();
    holders.sort_by_key(|node| (!alive.contains(&NodeId(*node)), ill.contains(&NodeId(*node))));
    TicketPart { id: Some(part.part_id().into()), holders, rows: part.rows, skip_batches: 0 }
}

#[cfg(test)]
mod tests;
