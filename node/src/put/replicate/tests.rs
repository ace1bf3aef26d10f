//! Which nodes hold the copies of a part.

use super::*;

fn plan(placement: &[&[u64]], min_copies: u32, nodes: &[u64]) -> WritePlan {
    let spec = catalog::TableSpec { min_copies, ..Default::default() };
    let placement = placement.iter().map(|ids| catalog::ShardPlacement { nodes: ids.to_vec() }).collect();
    WritePlan {
        write: Some(catalog::Write { spec: Some(spec), placement, ..Default::default() }),
        nodes: nodes.iter().map(|id| catalog::Node { id: *id, ..Default::default() }).collect(),
        lease_ms: 0,
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
