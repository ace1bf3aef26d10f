//! The endpoints of a read: splits a version of a table into streams, and ranks the nodes that can serve each.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use prost::Message;
use volley_common::ipc::statistics::{BoundFilter, part_may_match};
use volley_common::wire::catalog::{LocalSocket, Table};
use volley_common::wire::cluster::{Ticket, TicketPart};
use volley_common::{Error, NodeId, Result};

use crate::catalog::{Catalog, PartRow};
use crate::client_listener::node_address;

/// Distinct location URIs of one FlightInfo, including the coordinator's own, which endpoints without a node have: with 21
/// or more, ADBC closes live connections.
pub const MAX_URIS: usize = 20;
/// Locations of an endpoint without parts, which any node can serve.
const EMPTY_LOCATIONS: usize = 3;

/// The endpoints for reading a version, valid while neither its parts nor the nodes change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VersionPlan {
    /// Addresses of the nodes that serve endpoints.
    pub uris: Vec<String>,
    /// These nodes, in the same order.
    pub nodes: Vec<NodeId>,
    /// Where clients on the machines of these nodes get the files of parts, each with the index of the node's URI.
    pub local_sockets: Vec<(usize, LocalSocket)>,
    /// The streams, in row order.
    pub endpoints: Vec<EndpointPlan>,
    /// Rows of all endpoints.
    pub rows: u64,
    /// Bytes of the parts of all endpoints.
    pub bytes: u64,
    /// Parts that are left out, because they have no row that the filter selects.
    pub pruned: u64,
    /// The shard of each part of all endpoints, in row order.
    pub part_shards: Vec<u32>,
}

/// One stream that a reader can fetch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointPlan {
    /// The fields `parts` and `limit` of the endpoint's ticket, encoded.
    pub ticket_suffix: Bytes,
    /// The number of parts.
    pub parts: usize,
    /// Rows of the parts, or the limit if that is less.
    pub rows: u64,
    /// Live nodes that can serve the endpoint, best first.
    locations: Box<[RankedLocation]>,
    /// How many of them the FlightInfo lists.
    listed: usize,
}

/// A node that can serve an endpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
struct RankedLocation {
    /// Index of the node's URI.
    uri: u16,
    /// Locations of the same rank are equally good and rotate.
    rank: u16,
}

impl EndpointPlan {
    /// The number of nodes among its locations.
    pub fn location_count(&self) -> usize {
        self.listed
    }
}

impl VersionPlan {
    /// The URI indexes of an endpoint's locations, in order: nodes that hold most of its parts first, degraded nodes last.
    /// Equally good nodes rotate from endpoint to endpoint, and with `rotation`.
    pub fn locations(&self, endpoint: usize, rotation: usize) -> impl Iterator<Item = usize> {
        let EndpointPlan { locations, listed, .. } = &self.endpoints[endpoint];
        let offset = rotation.wrapping_add(endpoint);
        let groups = locations.chunk_by(|one, other| one.rank == other.rank);
        let rotated = groups.flat_map(move |group| {
            let (last, first) = group.split_at(offset % group.len());
            first.iter().chain(last)
        });
        rotated.take(*listed).map(|location| usize::from(location.uri))
    }

    /// As [`VersionPlan::locations`], but those whose flag in `doubted` is set come after the others.
    pub fn locations_by_health(
        &self,
        endpoint: usize,
        rotation: usize,
        doubted: &[bool],
    ) -> impl Iterator<Item = usize> {
        let of = move |wanted: bool| {
            let is_doubted = move |uri: &usize| doubted.get(*uri).copied().unwrap_or(false);
            self.locations(endpoint, rotation).filter(move |uri| is_doubted(uri) == wanted)
        };
        of(false).chain(of(true))
    }

    /// By URI index: whether it is of one of these nodes; empty if none is.
    pub fn uris_of(&self, nodes: &BTreeSet<NodeId>) -> Vec<bool> {
        if nodes.is_empty() { Vec::new() } else { self.nodes.iter().map(|node| nodes.contains(node)).collect() }
    }

    /// Whether any endpoint has parts; else there is a single empty stream.
    pub fn has_parts(&self) -> bool {
        self.endpoints.first().is_some_and(|first| first.parts > 0)
    }

    /// The approximate memory use in bytes.
    pub fn weight(&self) -> usize {
        let endpoint =
            |plan: &EndpointPlan| size_of_val(plan) + plan.ticket_suffix.len() + size_of_val(&*plan.locations);
        self.endpoints.iter().map(endpoint).sum::<usize>() + size_of_val(&*self.part_shards)
    }
}

/// Splits the first `limit` rows of a version into at most `max_endpoints` endpoints, in order: one part each, or runs of
/// parts. Parts beyond the limit are left out and need no holder; the last endpoint may have a limit of its own.
///
/// Every live holder that is reachable by the client's listener is a location, as long as the FlightInfo stays within
/// [`MAX_URIS`]. No part is in two endpoints.
///
/// # Errors
/// UNAVAILABLE, naming table and shard: no live node holds a part.
pub fn plan_endpoints(
    catalog: &Catalog,
    table: &Table,
    version: u64,
    max_endpoints: usize,
    limit: Option<u64>,
    alive: &BTreeSet<NodeId>,
    listener: &str,
) -> Result<VersionPlan> {
    let parts = parts_within_limit(catalog.part_rows_at(table.id, version), limit);
    plan_parts(catalog, table, &parts, max_endpoints, limit, alive, listener)
}

/// As [`plan_endpoints`] without a limit, but only of the parts that can have a row which a filter selects. The others need no
/// holder.
///
/// # Errors
/// As [`plan_endpoints`].
pub fn plan_filtered(
    catalog: &Catalog,
    table: &Table,
    version: u64,
    max_endpoints: usize,
    filter: &BoundFilter,
    alive: &BTreeSet<NodeId>,
    listener: &str,
) -> Result<VersionPlan> {
    let (mut parts, mut pruned) = (Vec::new(), 0);
    for part in catalog.part_rows_at(table.id, version) {
        match part_may_match(filter, &part.statistics) {
            true => parts.push(part),
            false => pruned += 1,
        }
    }
    let plan = plan_parts(catalog, table, &parts, max_endpoints, None, alive, listener)?;
    Ok(VersionPlan { pruned, ..plan })
}

fn plan_parts(
    catalog: &Catalog,
    table: &Table,
    parts: &[&PartRow],
    max_endpoints: usize,
    limit: Option<u64>,
    alive: &BTreeSet<NodeId>,
    listener: &str,
) -> Result<VersionPlan> {
    if parts.is_empty() {
        return Ok(plan_without_parts(&uris(catalog, alive, listener), limit));
    }
    // A large cluster has far more nodes than those of the parts.
    let holders: HashSet<u64> = parts.iter().flat_map(|part| part.holders.iter().copied()).collect();
    let alive: BTreeSet<NodeId> = holders.into_iter().map(NodeId).filter(|node| alive.contains(node)).collect();
    let (uris, degraded) = (uris(catalog, &alive, listener), degraded(catalog, &alive));
    let runs = split_into_runs(parts, max_endpoints);
    let mut holders = Vec::with_capacity(runs.len());
    for run in &runs {
        require_live_holders(catalog, table, run, &alive)?;
        holders.push(rank_holders(run, &uris, &degraded));
    }
    let listed: Vec<NodeId> = select_nodes(&holders).into_iter().collect();
    let mut plan = VersionPlan {
        uris: listed.iter().filter_map(|node| uris.get(node)).map(|uri| uri.to_string()).collect(),
        nodes: listed.clone(),
        local_sockets: local_sockets(catalog, &listed),
        part_shards: parts.iter().map(|part| part.shard).collect(),
        ..VersionPlan::default()
    };
    for (run, holders) in runs.iter().zip(&holders) {
        let rows_left = limit.map_or(u64::MAX, |limit| limit.saturating_sub(plan.rows));
        let parts = run.iter().map(|part| ticket_part(part, &alive, &degraded)).collect();
        let locations = holders.iter().filter_map(|holder| holder.location(&listed)).collect();
        let endpoint = plan_endpoint(parts, locations, rows_left);
        plan.rows += endpoint.rows;
        plan.bytes += run.iter().map(|part| part.bytes).sum::<u64>();
        plan.endpoints.push(endpoint);
    }
    Ok(plan)
}

/// The endpoint of these parts, cut off after `rows_left` rows.
fn plan_endpoint(parts: Vec<TicketPart>, locations: Box<[RankedLocation]>, rows_left: u64) -> EndpointPlan {
    let rows: u64 = parts.iter().map(|part| part.rows).sum();
    let count = parts.len();
    let ticket = Ticket { parts, limit: (rows > rows_left).then_some(rows_left), ..Ticket::default() };
    EndpointPlan {
        ticket_suffix: ticket.encode_to_vec().into(),
        parts: count,
        rows: rows.min(rows_left),
        listed: locations.len(),
        locations,
    }
}

/// The parts that contain the first `limit` rows; all parts without a limit.
fn parts_within_limit<'a>(parts: impl Iterator<Item = &'a PartRow>, limit: Option<u64>) -> Vec<&'a PartRow> {
    let mut left = limit.unwrap_or(u64::MAX);
    parts
        .take_while(|part| {
            let within = left > 0;
            left = left.saturating_sub(part.rows);
            within
        })
        .collect()
}

/// Splits the parts into at most `max_runs` runs whose lengths differ by at most one.
fn split_into_runs<'a, 'p>(parts: &'a [&'p PartRow], max_runs: usize) -> Vec<&'a [&'p PartRow]> {
    let count = parts.len().min(max_runs.max(1));
    (0..count).map(|at| &parts[at * parts.len() / count..(at + 1) * parts.len() / count]).collect()
}

/// The addresses of the live nodes that the listener's clients reach.
fn uris<'a>(catalog: &'a Catalog, alive: &BTreeSet<NodeId>, listener: &str) -> BTreeMap<NodeId, &'a str> {
    let nodes = alive.iter().filter_map(|id| catalog.node(*id));
    nodes.filter_map(|node| Some((NodeId(node.id), node_address(node, listener)?))).collect()
}

/// The local sockets of these nodes, each with its index.
fn local_sockets(catalog: &Catalog, nodes: &[NodeId]) -> Vec<(usize, LocalSocket)> {
    let socket = |node: &NodeId| catalog.node(*node)?.local_socket.clone();
    nodes.iter().enumerate().filter_map(|(at, node)| Some((at, socket(node)?))).collect()
}

/// Live nodes that are degraded: a part is read from them only if no other node holds it.
fn degraded(catalog: &Catalog, alive: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let is_degraded = |id: &NodeId| catalog.node(*id).is_some_and(|node| node.is_degraded());
    alive.iter().copied().filter(is_degraded).collect()
}

fn plan_without_parts(uris: &BTreeMap<NodeId, &str>, limit: Option<u64>) -> VersionPlan {
    let ticket = Ticket { limit: limit.map(|_| 0), ..Ticket::default() };
    let locations: Box<[RankedLocation]> =
        (0..uris.len()).map(|at| RankedLocation { uri: at as u16, rank: 0 }).collect();
    let endpoint = EndpointPlan {
        ticket_suffix: ticket.encode_to_vec().into(),
        listed: locations.len().min(EMPTY_LOCATIONS),
        locations,
        ..EndpointPlan::default()
    };
    let (nodes, uris) = uris.iter().map(|(node, uri)| (*node, uri.to_string())).unzip();
    VersionPlan { uris, nodes, endpoints: vec![endpoint], ..VersionPlan::default() }
}

fn require_live_holders(catalog: &Catalog, table: &Table, run: &[&PartRow], alive: &BTreeSet<NodeId>) -> Result<()> {
    let has_no_live_holder = |part: &&&PartRow| !part.holders.iter().any(|node| alive.contains(&NodeId(*node)));
    let Some(part) = run.iter().find(has_no_live_holder) else { return Ok(()) };
    let holders: Vec<String> = catalog.holders(part).map(|node| node.to_string()).collect();
    let held_by = if holders.is_empty() {
        "no node has a copy any more".into()
    } else {
        format!("it is on {}", holders.join(", "))
    };
    Err(Error::unavailable(format!(
        "shard {} of table {:?} has no live holder of part {}: {held_by}; try again when one of its nodes is back",
        part.shard,
        table.name.join("/"),
        part.part_id()
    )))
}

/// A live holder of some of a run's parts.
struct RunHolder {
    node: NodeId,
    degraded: bool,
    /// How many of the run's parts it holds.
    parts: usize,
    rank: u16,
}

impl RunHolder {
    fn location(&self, listed: &[NodeId]) -> Option<RankedLocation> {
        let uri = listed.binary_search(&self.node).ok()?;
        Some(RankedLocation { uri: uri as u16, rank: self.rank })
    }
}

/// The live holders of a run: those with most of its parts first, degraded ones last.
fn rank_holders(run: &[&PartRow], uris: &BTreeMap<NodeId, &str>, degraded: &BTreeSet<NodeId>) -> Vec<RunHolder> {
    let mut ranked: Vec<RunHolder> = Vec::new();
    // A run of many parts has many holders.
    let mut positions: HashMap<NodeId, usize> = HashMap::new();
    for node in run.iter().flat_map(|part| part.holders.iter()).map(|node| NodeId(*node)) {
        match positions.get(&node) {
            Some(at) => ranked[*at].parts += 1,
            None if uris.contains_key(&node) => {
                positions.insert(node, ranked.len());
                ranked.push(RunHolder { node, degraded: degraded.contains(&node), parts: 1, rank: 0 });
            }
            None => {}
        }
    }
    ranked.sort_by_key(|holder| (holder.degraded, std::cmp::Reverse(holder.parts)));
    for at in 1..ranked.len() {
        let (one, next) = (&ranked[at - 1], &ranked[at]);
        let equal = (one.degraded, one.parts) == (next.degraded, next.parts);
        ranked[at].rank = one.rank + u16::from(!equal);
    }
    ranked
}

/// The nodes that the FlightInfo lists: all, or as many as [`MAX_URIS`] allows. Then a greedy cover keeps a location for as
/// many endpoints as possible: each next node serves most endpoints without a location, and of those most endpoints at all.
fn select_nodes(holders: &[Vec<RunHolder>]) -> BTreeSet<NodeId> {
    // The endpoints that each node serves.
    let mut serves: HashMap<NodeId, Vec<usize>> = HashMap::new();
    for (at, endpoint) in holders.iter().enumerate() {
        endpoint.iter().for_each(|holder| serves.entry(holder.node).or_default().push(at));
    }
    if serves.len() < MAX_URIS {
        return serves.into_keys().collect();
    }
    // (endpoints without a location that the node serves, endpoints that it serves)
    let mut gains: HashMap<NodeId, (usize, usize)> =
        serves.iter().map(|(node, endpoints)| (*node, (endpoints.len(), endpoints.len()))).collect();
    let (mut selected, mut served) = (BTreeSet::new(), vec![false; holders.len()]);
    while selected.len() < MAX_URIS - 1 {
        let best = gains.iter().max_by_key(|(node, gain)| (**gain, std::cmp::Reverse(**node)));
        let Some(best) = best.map(|(node, _)| *node) else { break };
        gains.remove(&best);
        selected.insert(best);
        for at in serves.get(&best).into_iter().flatten() {
            if std::mem::replace(&mut served[*at], true) {
                continue;
            }
            for holder in &holders[*at] {
                if let Some(gain) = gains.get_mut(&holder.node) {
                    gain.0 -= 1;
                }
            }
        }
    }
    selected
}

/// A part as a ticket lists it, with all its holders: live ones first, and of those the degraded ones last.
fn ticket_part(part: &PartRow, alive: &BTreeSet<NodeId>, degraded: &BTreeSet<NodeId>) -> TicketPart {
    let mut holders = part.holders.to_vec();
    holders.sort_by_key(|node| (!alive.contains(&NodeId(*node)), degraded.contains(&NodeId(*node))));
    TicketPart { id: Some(part.part_id().into()), holders, rows: part.rows, skip_batches: 0 }
}

#[cfg(test)]
mod tests;
