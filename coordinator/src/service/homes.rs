//! Pure: which nodes the parts of a write go to.

use volley_common::wire::catalog::{Holders, Node, TableSpec, Write};
use volley_common::{Error, NodeId, Result};

use super::writable_nodes;
use crate::catalog::Catalog;
use crate::scheduler::placing::stand_ins;

/// The nodes for new parts of a table of this spec: those that take parts; only if they are fewer than its replicas also
/// those that are to leave, for as long as they are there.
///
/// # Errors
/// RESOURCE_EXHAUSTED, or UNAVAILABLE if no node refuses parts: fewer than an acknowledgement needs, with each node's
/// reason.
pub fn homes(catalog: &Catalog, spec: &TableSpec) -> Result<Vec<Node>> {
    let mut homes = writable_nodes(catalog);
    if homes.len() < spec.replicas as usize {
        let leaving = |node: &&Node| node.is_alive() && node.draining && node.read_only_reason.is_empty();
        homes.extend(catalog.nodes().filter(leaving).cloned());
    }
    let needed = spec.min_copies.max(1) as usize;
    if homes.len() >= needed {
        return Ok(homes);
    }
    let refusing: Vec<&Node> =
        catalog.nodes().filter(|node| node.is_alive() && !node.read_only_reason.is_empty()).collect();
    let reasons: Vec<String> =
        refusing.iter().map(|node| format!("node {}: {}", NodeId(node.id), node.read_only_reason)).collect();
    let text = format!("a put needs {needed} nodes that take its parts, and {} do", homes.len());
    Err(match reasons.as_slice() {
        [] => Error::unavailable(format!("{text}: start more nodes, or try again when they are back")),
        reasons => Error::exhausted(format!("{text} ({}): make room, or start more nodes", reasons.join("; "))),
    })
}

/// The write with its shards on nodes that take parts now: those it was planned on may have filled up or gone.
pub fn redirected(mut write: Write, homes: &[Node]) -> Write {
    let replicas = write.spec.as_ref().map_or(1, |spec| spec.replicas.max(1)) as usize;
    for (shard, holders) in (0..).zip(&mut write.placement) {
        if holders.nodes.len() < replicas || holders.nodes.iter().any(|id| homes.iter().all(|home| home.id != *id)) {
            *holders = Holders { nodes: stand_ins(homes, write.table_id, shard, &holders.nodes, replicas) };
        }
    }
    write
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::Code;
    use volley_common::wire::catalog::{NodeState, Row, row};

    use super::*;

    /// Nodes 1, 2, … of zones a, b, a, b, …; changed by `with`.
    fn catalog(count: u64, with: impl Fn(&mut Node)) -> Catalog {
        let mut catalog = Catalog::default();
        for id in 1..=count {
            let zone = if id % 2 == 1 { "a" } else { "b" };
            let mut node = Node { id, zone: zone.into(), state: NodeState::Alive as i32, ..Node::default() };
            with(&mut node);
            catalog.insert_row(Row { row: Some(row::Row::Node(node)) });
        }
        catalog
    }

    fn spec(replicas: u32) -> TableSpec {
        TableSpec { shards: 1, replicas, min_copies: replicas / 2 + 1, ..TableSpec::default() }
    }

    fn ids(nodes: &[Node]) -> Vec<u64> {
        nodes.iter().map(|node| node.id).collect()
    }

    #[test]
    fn full_nodes_get_no_parts_and_leaving_ones_only_where_they_must() {
        let cluster = catalog(4, |node| match node.id {
            2 => node.read_only_reason = "disk 97 % full".into(),
            3 => node.draining = true,
            _ => {}
        });
        assert_eq!(ids(&writable_nodes(&cluster)), [1, 4]);
        assert_eq!(ids(&homes(&cluster, &spec(2)).unwrap()), [1, 4]);
        assert_eq!(ids(&homes(&cluster, &spec(3)).unwrap()), [1, 4, 3]);
    }

    #[test]
    fn a_put_that_could_not_be_acknowledged_is_refused_with_each_nodes_reason() {
        let full = catalog(3, |node| node.read_only_reason = format!("disk {} % full", 96 + node.id));
        let error = homes(&full, &spec(2)).unwrap_err();
        assert_eq!(error.code, Code::ResourceExhausted);
        let said = |id: u64| format!("node {}: disk {} % full", NodeId(id), 96 + id);
        assert!((1..=3).all(|id| error.message.contains(&said(id))), "{error}");
        let gone =
            catalog(3, |node| node.set_state(if node.id > 1 { NodeState::Unreachable } else { NodeState::Alive }));
        assert_eq!(homes(&gone, &spec(2)).unwrap_err().code, Code::Unavailable);
    }

    fn write(placement: &[&[u64]], replicas: u32) -> Write {
        let placement = placement.iter().map(|nodes| Holders { nodes: nodes.to_vec() }).collect();
        Write { spec: Some(spec(replicas)), placement, ..Write::default() }
    }

    fn placed(write: Write) -> Vec<Vec<u64>> {
        write.placement.into_iter().map(|holders| holders.nodes).collect()
    }

    #[test]
    fn a_node_that_takes_no_parts_is_stood_in_for_by_one_of_its_zone() {
        let homes = writable_nodes(&catalog(5, |node| node.draining = node.id == 2));
        let placed = placed(redirected(write(&[&[1, 2], &[3, 4]], 2), &homes));
        assert_eq!((placed[0].as_slice(), placed[1].as_slice()), (&[1, 4][..], &[3, 4][..]));
    }

    #[test]
    fn copies_that_cannot_be_placed_stay_wanted() {
        let homes = writable_nodes(&catalog(2, |node| node.draining = node.id == 2));
        assert_eq!(placed(redirected(write(&[&[1, 2]], 2), &homes)), [[1, 2]]);
        // A shard with too few homes gets what there is.
        assert_eq!(placed(redirected(write(&[&[1]], 2), &writable_nodes(&catalog(2, |_| {})))), [[1, 2]]);
    }
}
