//! Pure: which nodes are to hold a part.

use std::collections::{BTreeSet, VecDeque};

use volley_common::NodeId;
use volley_common::wire::catalog;
use volley_common::wire::cluster::WritePlan;

/// The nodes that are to hold a part.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaTargets {
    /// This node is one of the shard's holders: it makes the part durable, too.
    pub local: bool,
    /// The other nodes that are ordered to copy it first.
    pub first: Vec<NodeId>,
    /// Nodes that replace failed ones, in this order.
    pub substitutes: VecDeque<NodeId>,
    /// The number of copies, including this node's if it counts, at which the put continues.
    pub required: usize,
}

/// Chooses the holders of a part of `shard` that `this_node` writes. Nodes that `failed` earlier parts come last.
pub fn choose_targets(plan: &WritePlan, shard: u32, this_node: NodeId, failed: &BTreeSet<NodeId>) -> ReplicaTargets {
    let write = plan.write.as_ref();
    let placed: Vec<NodeId> = write
        .and_then(|w| w.placement.get(shard as usize))
        .map(|holders| holders.nodes.iter().copied().map(NodeId).collect())
        .unwrap_or_default();
    let min_copies = write.and_then(|w| w.spec.as_ref()).map_or(1, |spec| spec.min_copies);
    let mut substitutes: Vec<NodeId> = plan.nodes.iter().map(|n| NodeId(n.id)).collect();
    substitutes.retain(|id| *id != this_node && !placed.contains(id));
    if !substitutes.is_empty() {
        // Spreads the shards over the substitutes.
        let at = shard as usize % substitutes.len();
        substitutes.rotate_left(at);
    }
    let mut first: Vec<NodeId> = placed.iter().copied().filter(|id| *id != this_node).collect();
    replace_failed(&mut first, &mut substitutes, failed);
    ReplicaTargets {
        local: placed.is_empty() || placed.contains(&this_node),
        first,
        substitutes: substitutes.into(),
        required: (min_copies as usize).clamp(1, placed.len().max(1)),
    }
}

/// Replaces nodes that failed by substitutes that did not, while there are any.
fn replace_failed(first: &mut [NodeId], substitutes: &mut Vec<NodeId>, failed: &BTreeSet<NodeId>) {
    substitutes.sort_by_key(|id| failed.contains(id));
    for place in first.iter_mut().filter(|id| failed.contains(id)) {
        if substitutes.first().is_some_and(|id| !failed.contains(id)) {
            substitutes.push(*place);
            *place = substitutes.remove(0);
        }
    }
}

/// The nodes of the plan but `this_node`, whose own health is never looked up: a member is compared with all whose health is known,
/// and a node that is cut off from the others still answers itself.
pub fn other_nodes(plan: &WritePlan, this_node: NodeId) -> impl Iterator<Item = &catalog::Node> {
    plan.nodes.iter().filter(move |node| node.id != this_node.0)
}

#[cfg(test)]
mod tests {

    use super::*;

    fn plan(placement: &[&[u64]], min_copies: u32, nodes: &[u64]) -> WritePlan {
        let spec = catalog::TableSpec { min_copies, ..Default::default() };
        let placement = placement.iter().map(|ids| catalog::ShardPlacement { nodes: ids.to_vec() }).collect();
        WritePlan {
            write: Some(catalog::Write { spec: Some(spec), placement, ..Default::default() }),
            nodes: nodes.iter().map(|id| catalog::Node { id: *id, ..Default::default() }).collect(),
            lease_ms: 0,
            spreads: false,
        }
    }

    fn none() -> BTreeSet<NodeId> {
        BTreeSet::new()
    }

    #[test]
    fn writers_copy_counts_only_if_its_shard_is_placed_there() {
        let plan = plan(&[&[1, 2], &[2, 3]], 2, &[1, 2, 3, 4]);
        let own = choose_targets(&plan, 0, NodeId(1), &none());
        assert_eq!((own.local, own.first, own.required), (true, vec![NodeId(2)], 2));
        let other = choose_targets(&plan, 1, NodeId(1), &none());
        assert_eq!((other.local, other.first, other.required), (false, vec![NodeId(2), NodeId(3)], 2));
    }

    #[test]
    fn substitutes_are_neither_placed_nor_the_writer() {
        let plan = plan(&[&[1, 2], &[1, 2]], 2, &[1, 2, 3, 4, 5]);
        assert_eq!(choose_targets(&plan, 0, NodeId(3), &none()).substitutes, [NodeId(4), NodeId(5)]);
        assert_eq!(choose_targets(&plan, 1, NodeId(3), &none()).substitutes, [NodeId(5), NodeId(4)]);
    }

    #[test]
    fn required_copies_are_at_most_the_placed_nodes() {
        assert_eq!(choose_targets(&plan(&[&[1]], 2, &[1]), 0, NodeId(1), &none()).required, 1);
        assert_eq!(choose_targets(&plan(&[&[1, 2, 3]], 0, &[1, 2, 3]), 0, NodeId(1), &none()).required, 1);
        let nowhere = choose_targets(&plan(&[], 1, &[1]), 0, NodeId(1), &none());
        assert!(nowhere.local && nowhere.first.is_empty() && nowhere.substitutes.is_empty());
    }

    #[test]
    fn failed_nodes_are_chosen_last() {
        let plan = plan(&[&[1, 2, 3]], 2, &[1, 2, 3, 4, 5]);
        let targets = choose_targets(&plan, 0, NodeId(1), &[NodeId(2), NodeId(4)].into());
        assert_eq!(targets.first, [NodeId(5), NodeId(3)]);
        assert_eq!(targets.substitutes, [NodeId(4), NodeId(2)]);
        let all_failed = choose_targets(&plan, 0, NodeId(1), &(2..6).map(NodeId).collect());
        assert_eq!(all_failed.first, [NodeId(2), NodeId(3)]);
    }

    #[test]
    fn node_is_not_compared_with_itself() {
        let plan = plan(&[&[1, 2]], 2, &[1, 2, 3]);
        let others: Vec<u64> = other_nodes(&plan, NodeId(2)).map(|node| node.id).collect();
        assert_eq!(others, [1, 3]);
    }
}
