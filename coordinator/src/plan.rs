//! Pure: a version of a table and the live nodes → what a reader is offered.

use std::collections::{BTreeMap, BTreeSet};

use volley_common::wire::catalog::Table;
use volley_common::wire::cluster::TicketPart;
use volley_common::{Error, NodeId, Result};

use crate::catalog::{Catalog, PartRow};

/// The location that stands for the connection by which the FlightInfo came; last of every endpoint's.
pub const REUSE_CONNECTION: &str = "arrow-flight-reuse-connection://?";
/// Distinct location URIs in one answer, [`REUSE_CONNECTION`] included: from 21 on ADBC closes live connections.
pub const MAX_URIS: usize = 20;
/// Locations of an endpoint without parts, which any node can serve.
const EMPTY_LOCATIONS: usize = 3;

/// One stream that a reader can fetch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointPlan {
    /// What it streams, in this order.
    pub parts: Vec<TicketPart>,
    /// URIs of live nodes, those that hold most of the parts first, ill ones last; [`REUSE_CONNECTION`] last.
    pub locations: Vec<String>,
    /// Rows of the parts, or `limit` if that is less.
    pub rows: u64,
    /// Bytes of the parts' files.
    pub bytes: u64,
    /// Only so many rows of the parts; none: all.
    pub limit: Option<u64>,
}

/// Cuts a version into at most `most` endpoints, in order: one part each, or runs of parts.
///
/// Every live holder of a part is a location, a different one first from endpoint to endpoint and
/// `rotation` to `rotation`, as long as the whole answer stays within [`MAX_URIS`]. No part is in two endpoints.
///
/// # Errors
/// UNAVAILABLE, naming table and shard: no live node holds a part.
pub fn endpoints(
    catalog: &Catalog,
    table: &Table,
    version: u64,
    most: usize,
    alive: &BTreeSet<NodeId>,
    rotation: usize,
) -> Result<Vec<EndpointPlan>> {
    limited_endpoints(catalog, table, version, most, None, alive, rotation)
}

/// As [`endpoints`], of the first `limit` rows: parts behind them are left out, and the last endpoint has a limit.
///
/// # Errors
/// As [`endpoints`]; parts that are left out need no holder.
pub fn limited_endpoints(
    catalog: &Catalog,
    table: &Table,
    version: u64,
    most: usize,
    limit: Option<u64>,
    alive: &BTreeSet<NodeId>,
    rotation: usize,
) -> Result<Vec<EndpointPlan>> {
    let parts = first_rows(catalog.part_rows_at(table.id, version), limit);
    let (uris, ill) = (uris(catalog, alive), ill(catalog, alive));
    if parts.is_empty() {
        return Ok(vec![without_parts(&uris, limit, rotation)]);
    }
    let runs = runs(&parts, most);
    let mut holders = Vec::with_capacity(runs.len());
    for (at, run) in runs.iter().enumerate() {
        require_live(table, run, alive)?;
        holders.push(by_share(run, &uris, &ill, rotation.wrapping_add(at)));
    }
    let offered = choose(&holders);
    let plan = |(run, holders): (&&[&PartRow], &Vec<NodeId>)| {
        let chosen = holders.iter().filter(|node| offered.contains(node));
        let locations = chosen.filter_map(|node| uris.get(node)).map(|uri| uri.to_string());
        EndpointPlan {
            parts: run.iter().map(|part| ticket_part(part, alive, &ill)).collect(),
            locations: locations.chain([REUSE_CONNECTION.to_string()]).collect(),
            rows: run.iter().map(|part| part.rows).sum(),
            bytes: run.iter().map(|part| part.bytes).sum(),
            limit: None,
        }
    };
    let mut plans: Vec<EndpointPlan> = runs.iter().zip(&holders).map(plan).collect();
    cut_last(&mut plans, limit);
    Ok(plans)
}

/// All parts of a version, in order, for one ticket; live holders stand first in every part's.
///
/// # Errors
/// As [`endpoints`].
pub fn whole(
    catalog: &Catalog,
    table: &Table,
    version: u64,
    alive: &BTreeSet<NodeId>,
    rotation: usize,
) -> Result<Vec<TicketPart>> {
    let plans = endpoints(catalog, table, version, 1, alive, rotation)?;
    Ok(plans.into_iter().flat_map(|plan| plan.parts).collect())
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

/// Rows of the last endpoint beyond the limit are cut by its ticket: only there can they be.
fn cut_last(plans: &mut [EndpointPlan], limit: Option<u64>) {
    let (Some(limit), Some((last, before))) = (limit, plans.split_last_mut()) else { return };
    let left = limit.saturating_sub(before.iter().map(|plan| plan.rows).sum());
    if last.rows > left {
        last.rows = left;
        last.limit = Some(left);
    }
}

/// Cuts the parts into at most `most` runs of equal length, give or take one.
fn runs<'a, 'p>(parts: &'a [&'p PartRow], most: usize) -> Vec<&'a [&'p PartRow]> {
    let count = parts.len().min(most.max(1));
    (0..count).map(|at| &parts[at * parts.len() / count..(at + 1) * parts.len() / count]).collect()
}

/// Where clients reach the live nodes.
fn uris<'a>(catalog: &'a Catalog, alive: &BTreeSet<NodeId>) -> BTreeMap<NodeId, &'a str> {
    let nodes = alive.iter().filter_map(|id| catalog.node(*id));
    nodes.filter(|node| !node.flight_uri.is_empty()).map(|node| (NodeId(node.id), node.flight_uri.as_str())).collect()
}

/// Live nodes with which something is wrong: whoever can be read elsewhere is not read there.
fn ill(catalog: &Catalog, alive: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let is_ill = |id: &NodeId| catalog.node(*id).is_some_and(|node| !node.trouble.is_empty());
    alive.iter().copied().filter(is_ill).collect()
}

fn without_parts(uris: &BTreeMap<NodeId, &str>, limit: Option<u64>, rotation: usize) -> EndpointPlan {
    let from = rotation % uris.len().max(1);
    let some = uris.values().cycle().skip(from).take(EMPTY_LOCATIONS.min(uris.len()));
    let locations = some.map(|uri| uri.to_string()).chain([REUSE_CONNECTION.to_string()]).collect();
    EndpointPlan { locations, limit: limit.map(|_| 0), ..EndpointPlan::default() }
}

fn require_live(table: &Table, run: &[&PartRow], alive: &BTreeSet<NodeId>) -> Result<()> {
    let dead = |part: &&&PartRow| !part.holders.iter().any(|node| alive.contains(&NodeId(*node)));
    let Some(part) = run.iter().find(dead) else { return Ok(()) };
    let holders: Vec<String> = part.holders.iter().map(|node| NodeId(*node).to_string()).collect();
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

/// The live holders of a run, those of most of its parts first, equals rotated; `ill` ones last.
fn by_share(run: &[&PartRow], uris: &BTreeMap<NodeId, &str>, ill: &BTreeSet<NodeId>, rotation: usize) -> Vec<NodeId> {
    let mut share: Vec<(NodeId, usize)> = Vec::new();
    for node in run.iter().flat_map(|part| part.holders.iter()).map(|node| NodeId(*node)) {
        match share.iter_mut().find(|(known, _)| *known == node) {
            Some((_, count)) => *count += 1,
            None if uris.contains_key(&node) => share.push((node, 1)),
            None => {}
        }
    }
    let turn = rotation % share.len().max(1);
    share.rotate_left(turn);
    share.sort_by_key(|(node, count)| (ill.contains(node), std::cmp::Reverse(*count)));
    share.into_iter().map(|(node, _)| node).collect()
}

/// The nodes that may stand in the answer: all, or so many as [`MAX_URIS`] allows, chosen so that as many endpoints
/// as can be keep a location (each next node is the one that serves most endpoints without any, then most of all).
fn choose(holders: &[Vec<NodeId>]) -> BTreeSet<NodeId> {
    let all: BTreeSet<NodeId> = holders.iter().flatten().copied().collect();
    if all.len() < MAX_URIS {
        return all;
    }
    let mut chosen = BTreeSet::new();
    while chosen.len() < MAX_URIS - 1 {
        // (endpoints without a location that it would serve, endpoints that it would serve)
        let mut gain: BTreeMap<NodeId, (usize, usize)> = BTreeMap::new();
        for endpoint in holders {
            let served = endpoint.iter().any(|node| chosen.contains(node));
            for node in endpoint.iter().filter(|node| !chosen.contains(*node)) {
                let gain = gain.entry(*node).or_default();
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
