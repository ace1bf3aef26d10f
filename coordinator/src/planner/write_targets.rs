//! The nodes that the parts of a write go to.

use std::collections::{BTreeSet, HashMap};

use volley_common::wire::catalog::{Node, ShardPlacement, TableSpec, Write, WriteMode};
use volley_common::{Error, NodeId, Result};

use super::table_options::default_shards;
use crate::catalog::Catalog;
use crate::scheduler::placement::rendezvous_hash;

/// The nodes for new parts of a table with this spec: the writable ones. If they are fewer than the table's replicas, also
/// draining nodes, while they exist.
///
/// # Errors
/// Fewer nodes than a put needs for its acknowledgement: RESOURCE_EXHAUSTED if nodes are read-only (with the reason of
/// each); FAILED_PRECONDITION if the cluster has fewer nodes at all; else UNAVAILABLE.
pub fn write_targets(catalog: &Catalog, spec: &TableSpec) -> Result<Vec<Node>> {
    let mut targets: Vec<Node> = catalog.writable_nodes().cloned().collect();
    if targets.len() < spec.replicas as usize {
        let draining = |node: &&Node| node.draining && node.read_only_reason.is_empty();
        targets.extend(catalog.live_nodes().filter(draining).cloned());
    }
    let needed = spec.min_copies.max(1) as usize;
    if targets.len() >= needed {
        return Ok(targets);
    }
    let read_only = catalog.live_nodes().filter(|node| !node.read_only_reason.is_empty());
    let reasons: Vec<String> =
        read_only.map(|node| format!("node {}: {}", NodeId(node.id), node.read_only_reason)).collect();
    let text = format!("a put needs {needed} nodes that accept writes, and there are {}", targets.len());
    Err(match reasons.as_slice() {
        [] if catalog.nodes().count() < needed => {
            Error::precondition(format!("{text}: start more nodes, or request fewer replicas"))
        }
        [] => Error::unavailable(format!("{text}: start more nodes, or try again when they are back")),
        reasons => Error::exhausted(format!("{text} ({}): make room, or start more nodes", reasons.join("; "))),
    })
}

/// Moves the shards of a write to nodes that accept parts now: nodes of its placement may have filled up or left since it
/// was planned.
pub fn retarget(mut write: Write, targets: &[Node]) -> Write {
    let replicas = write.spec.as_ref().map_or(1, |spec| spec.replicas.max(1)) as usize;
    // Looked up for each replica of each shard.
    let zones: HashMap<u64, &str> = targets.iter().map(|target| (target.id, target.zone.as_str())).collect();
    for (shard, holders) in (0..).zip(&mut write.placement) {
        if holders.nodes.len() < replicas || !holders.nodes.iter().all(|id| zones.contains_key(id)) {
            let nodes = substitutes(targets, &zones, write.table_id, shard, &holders.nodes, replicas);
            *holders = ShardPlacement { nodes };
        }
    }
    write
}

/// Whether a put into an existing table is distributed over its shards as if it named their number: it writes all rows of the
/// table, and that number is not the default one, so that somebody chose it. A stream of a staged write is one of many.
pub fn spreads_over_shards(catalog: &Catalog, write: &Write) -> bool {
    let Some((spec, table)) = write.spec.as_ref().zip(catalog.table(write.table_id)) else { return false };
    let writes_all = write.mode() == WriteMode::Replace || (write.mode() == WriteMode::Append && table.bytes == 0);
    let nodes = u32::try_from(catalog.nodes().count()).unwrap_or(u32::MAX);
    writes_all && !write.staged && spec.shard_by.is_empty() && spec.shards > 1 && spec.shards != default_shards(nodes)
}

/// The nodes for the new parts of a shard: those of its placement that are `targets`, and other targets in place of the
/// rest, while there are any. `zones`: those of the targets, by id.
fn substitutes(
    targets: &[Node],
    zones: &HashMap<u64, &str>,
    table: u64,
    shard: u32,
    placement: &[u64],
    replicas: usize,
) -> Vec<u64> {
    let zone = |id: &u64| zones.get(id).copied();
    let mut nodes: Vec<u64> = placement.iter().copied().filter(|id| zone(id).is_some()).collect();
    while nodes.len() < replicas.max(placement.len()) {
        let zones: BTreeSet<_> = nodes.iter().filter_map(zone).collect();
        let unused = targets.iter().filter(|target| !nodes.contains(&target.id));
        let rank = |target: &&Node| (zones.contains(target.zone.as_str()), rendezvous_hash(table, shard, target.id));
        match unused.min_by_key(rank) {
            Some(target) => nodes.push(target.id),
            None => break,
        }
    }
    // Unavailable nodes stay in the list, so that the number of wanted copies does not silently decrease.
    let unavailable = placement.iter().filter(|id| zone(id).is_none());
    let missing = placement.len().saturating_sub(nodes.len());
    nodes.extend(unavailable.take(missing));
    nodes
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::Code;
    use volley_common::wire::catalog::{NodeState, Row, Table, row};

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

    fn writable_nodes(catalog: &Catalog) -> Vec<Node> {
        catalog.writable_nodes().cloned().collect()
    }

    fn spec(replicas: u32) -> TableSpec {
        TableSpec { shards: 1, replicas, min_copies: replicas / 2 + 1, ..TableSpec::default() }
    }

    fn ids(nodes: &[Node]) -> Vec<u64> {
        nodes.iter().map(|node| node.id).collect()
    }

    #[test]
    fn draining_nodes_are_targets_only_if_needed() {
        let cluster = catalog(4, |node| match node.id {
            2 => node.read_only_reason = "disk 97 % full".into(),
            3 => node.draining = true,
            _ => {}
        });
        assert_eq!(ids(&writable_nodes(&cluster)), [1, 4]);
        assert_eq!(ids(&write_targets(&cluster, &spec(2)).unwrap()), [1, 4]);
        assert_eq!(ids(&write_targets(&cluster, &spec(3)).unwrap()), [1, 4, 3]);
    }

    #[test]
    fn chosen_shards_are_kept_by_puts_that_write_all_rows() {
        let spreads = |shards: u32, mode: WriteMode, bytes: u64, staged: bool| {
            let mut cluster = catalog(3, |_| {});
            let table = Table { id: 7, name: vec!["t".into()], spec: Some(spec(1)), bytes, ..Table::default() };
            cluster.insert_row(Row { row: Some(row::Row::Table(table)) });
            let spec = Some(TableSpec { shards, ..spec(1) });
            let write = Write { table_id: 7, mode: mode as i32, spec, staged, ..Write::default() };
            assert!(!spreads_over_shards(&cluster, &Write { table_id: 0, ..write.clone() }), "a new table");
            spreads_over_shards(&cluster, &write)
        };
        assert!(spreads(6, WriteMode::Replace, 9, false));
        assert!(spreads(6, WriteMode::Append, 0, false), "the first rows of a table that was created without any");
        assert!(!spreads(6, WriteMode::Append, 9, false));
        assert!(!spreads(6, WriteMode::Replace, 9, true));
        assert!(!spreads(3, WriteMode::Replace, 9, false), "the default number");
        assert!(!spreads(1, WriteMode::Replace, 9, false));
    }

    #[test]
    fn too_few_targets_fail_with_the_reason_of_each_node() {
        let full = catalog(3, |node| node.read_only_reason = format!("disk {} % full", 96 + node.id));
        let error = write_targets(&full, &spec(2)).unwrap_err();
        assert_eq!(error.code, Code::ResourceExhausted);
        let reason = |id: u64| format!("node {}: disk {} % full", NodeId(id), 96 + id);
        assert!((1..=3).all(|id| error.message.contains(&reason(id))), "{error}");
        let down =
            catalog(3, |node| node.set_state(if node.id > 1 { NodeState::Unreachable } else { NodeState::Alive }));
        assert_eq!(write_targets(&down, &spec(2)).unwrap_err().code, Code::Unavailable);
        assert_eq!(write_targets(&catalog(1, |_| {}), &spec(2)).unwrap_err().code, Code::FailedPrecondition);
    }

    fn write(placement: &[&[u64]], replicas: u32) -> Write {
        let placement = placement.iter().map(|nodes| ShardPlacement { nodes: nodes.to_vec() }).collect();
        Write { spec: Some(spec(replicas)), placement, ..Write::default() }
    }

    fn placed(write: Write) -> Vec<Vec<u64>> {
        write.placement.into_iter().map(|holders| holders.nodes).collect()
    }

    #[test]
    fn node_that_is_not_writable_is_substituted_within_its_zone() {
        let targets = writable_nodes(&catalog(5, |node| node.draining = node.id == 2));
        let placed = placed(retarget(write(&[&[1, 2], &[3, 4]], 2), &targets));
        assert_eq!((placed[0].as_slice(), placed[1].as_slice()), (&[1, 4][..], &[3, 4][..]));
    }

    #[test]
    fn only_shards_on_other_nodes_are_moved_among_many() {
        let targets = writable_nodes(&catalog(1000, |node| node.draining = node.id == 7));
        let shards: Vec<[u64; 2]> = (1..1000).map(|id| [id, id + 1]).collect();
        let slices: Vec<&[u64]> = shards.iter().map(|nodes| &nodes[..]).collect();
        let moved = placed(retarget(write(&slices, 2), &targets));
        let changed = (0..).zip(&moved).filter(|(at, nodes)| shards[*at] != nodes[..]).map(|(at, _)| at);
        assert_eq!(changed.collect::<Vec<usize>>(), [5, 6], "6 and 7, 7 and 8");
        // In the zone of node 7, with the node that stays first.
        assert!(moved[5][0] == 6 && moved[6][0] == 8 && moved[5][1] % 2 == 1 && moved[6][1] % 2 == 1, "{moved:?}");
    }

    #[test]
    fn copies_without_a_target_stay_wanted() {
        let targets = writable_nodes(&catalog(2, |node| node.draining = node.id == 2));
        assert_eq!(placed(retarget(write(&[&[1, 2]], 2), &targets)), [[1, 2]]);
        // A shard with too small a placement gets further targets.
        assert_eq!(placed(retarget(write(&[&[1]], 2), &writable_nodes(&catalog(2, |_| {})))), [[1, 2]]);
    }
}
