use std::collections::BTreeSet;

use volley_common::wire::catalog::{Part, Write, WriteState, row};
use volley_common::{NodeId, PartId};

use super::helpers::*;
use crate::catalog::Catalog;
use crate::scheduler::NodeSets;
use crate::scheduler::over_replicated::{deletions, excess_copies};
use crate::scheduler::reconcile::holder_change;
use crate::scheduler::repair::{
    CopyCapacity, CopyDecision, CopyLoad, CopyScan, MAX_COPIES_PER_NODE, next_copy, parts_to_copy, queue_limit,
};

/// (part, target, sources) of the copies to order, in order, while nodes have capacity.
fn copies(catalog: &Catalog) -> Vec<(u128, u64, Vec<String>)> {
    let (nodes, mut load) = (nodes(catalog), CopyLoad::default());
    let mut out = Vec::new();
    for id in parts_to_copy(catalog, &nodes, 100).0 {
        if let CopyDecision::Order(copy) = next_copy(catalog, &nodes, &load, id) {
            load.add(&copy);
            out.push((id.0, copy.to.0, copy.order.sources));
        }
    }
    out
}

fn ids(catalog: &Catalog, most: usize) -> Vec<u128> {
    parts_to_copy(catalog, &nodes(catalog), most).0.into_iter().map(|id| id.0).collect()
}

#[test]
fn short_list_has_the_most_urgent_of_many_parts() {
    // In turn: one copy; as many as wanted, where they belong; more, but not where they belong.
    let holders: [&[u64]; 3] = [&[1, 3, 4], &[3], &[1, 2]];
    let parts: Vec<(u128, &[u64])> = (1..=60).map(|id| (id, holders[id as usize % 3])).collect();
    let catalog = catalog(&parts);
    let all = ids(&catalog, 1000);
    assert_eq!(all[..21], (1..=60).filter(|id| id % 3 == 1).chain([3]).collect::<Vec<_>>());
    for limit in [0, 1, 2, 7, 19, 20, 39, all.len()] {
        let (listed, complete) = parts_to_copy(&catalog, &nodes(&catalog), limit);
        let listed: Vec<u128> = listed.into_iter().map(|id| id.0).collect();
        assert_eq!((listed.as_slice(), complete), (&all[..limit], limit == all.len()), "limit {limit}");
        let mut scan = CopyScan::new(limit);
        for slice in catalog.all_parts().collect::<Vec<_>>().chunks(11) {
            scan.examine(&catalog, &nodes(&catalog), slice.iter().copied());
        }
        assert_eq!(scan.finish(), parts_to_copy(&catalog, &nodes(&catalog), limit));
    }
}

#[test]
fn list_grows_with_the_number_of_writable_nodes() {
    let limit =
        |count: u64| queue_limit(&NodeSets { writable: (0..count).map(NodeId).collect(), ..NodeSets::default() });
    assert_eq!((limit(0), limit(3), limit(100)), (10_000, 10_000, 10_000));
    assert_eq!((limit(500), limit(10_000), limit(100_000)), (50_000, 1_000_000, 1_000_000));
}

#[test]
fn capacity_is_counted_as_copies_are_added() {
    let holders: &[u64] = &[1];
    let parts: Vec<(u128, &[u64])> = (1..=40).map(|id| (id, holders)).collect();
    let catalog = catalog(&parts);
    let (nodes, mut load) = (nodes(&catalog), CopyLoad::default());
    let mut capacity = CopyCapacity::of(&load, &nodes);
    let mut ordered = 0;
    for (id, _) in &parts {
        if let CopyDecision::Order(copy) = next_copy(&catalog, &nodes, &load, PartId(*id)) {
            assert!(!capacity.is_exhausted());
            load.add(&copy);
            capacity.add(&load, &copy);
            ordered += 1;
        }
        assert_eq!(capacity, CopyCapacity::of(&load, &nodes), "part {id}");
    }
    // Node 2, where the parts belong, takes no more, and node 1 is the only source.
    assert_eq!(ordered, MAX_COPIES_PER_NODE);
    let nobody = NodeSets { writable: nodes.writable.clone(), ..NodeSets::default() };
    assert!(CopyCapacity::of(&CopyLoad::default(), &nobody).is_exhausted());
}

#[test]
fn missing_copy_goes_to_the_placement_first() {
    assert_eq!(copies(&catalog(&[(7, &[1]), (8, &[1, 2])])), [(7, 2, vec!["n1:2".to_string()])]);
}

#[test]
fn part_of_a_dead_node_goes_to_a_zone_without_a_copy() {
    let mut catalog = catalog(&[(7, &[1, 2])]);
    unreachable_for(&mut catalog, 2, REPAIR_DELAY);
    for (id, zone) in [(1, "a"), (2, "b"), (3, "a"), (4, "b")] {
        with(&mut catalog, id, |node| node.zone = zone.into());
    }
    assert_eq!(copies(&catalog), [(7, 4, vec!["n1:2".to_string()])]);
}

#[test]
fn unreachable_node_counts_until_the_repair_delay_ends() {
    let mut catalog = catalog(&[(7, &[1, 2])]);
    unreachable_for(&mut catalog, 2, REPAIR_DELAY - 1);
    assert!(copies(&catalog).is_empty());
    with(&mut catalog, 2, |node| node.draining = true);
    assert_eq!(copies(&catalog).len(), 1, "a draining node has no grace");
    with(&mut catalog, 2, |node| node.draining = false);
    unreachable_for(&mut catalog, 2, REPAIR_DELAY);
    assert_eq!(copies(&catalog).len(), 1);
}

#[test]
fn draining_node_is_a_source_and_never_a_target() {
    let mut drained = catalog(&[(7, &[1, 2]), (8, &[2]), (9, &[1])]);
    with(&mut drained, 2, |node| node.draining = true);
    let copies = copies(&drained);
    assert_eq!(copies.iter().map(|copy| copy.0).collect::<Vec<_>>(), [8, 9, 7]);
    assert!(copies.iter().all(|(_, to, _)| *to != 2), "{copies:?}");
    assert_eq!(copies[0].2, ["n2:2"]);
}

#[test]
fn part_without_source_or_target_is_not_copied() {
    let alone = |parts: &[(u128, &[u64])], alive: &[u64]| {
        let mut catalog = catalog(parts);
        (1..=4).filter(|id| !alive.contains(id)).for_each(|id| unreachable_for(&mut catalog, id, REPAIR_DELAY));
        copies(&catalog)
    };
    assert!(alone(&[(7, &[1])], &[1]).is_empty(), "no other node");
    assert!(alone(&[(7, &[4])], &[1, 2]).is_empty(), "no live holder");
    let mut full = catalog(&[(7, &[1])]);
    (2..=4).for_each(|id| with(&mut full, id, |node| node.read_only_reason = "disk full".into()));
    assert!(copies(&full).is_empty(), "no writable node");
    with(&mut full, 4, |node| node.read_only_reason.clear());
    assert_eq!(copies(&full)[0].1, 4, "outside of the placement, but copied");
}

#[test]
fn misplaced_part_moves_after_all_repairs() {
    let catalog = catalog(&[(5, &[3, 4]), (6, &[1, 2]), (7, &[1])]);
    assert_eq!(ids(&catalog, 9), [7, 5]);
    assert_eq!(copies(&catalog)[1].1, 1);
}

#[test]
fn parts_with_fewest_copies_come_first_within_the_limit() {
    let mut catalog = catalog(&[(5, &[1, 2]), (6, &[1]), (7, &[1, 2]), (8, &[1])]);
    put(&mut catalog, row::Row::Table(table(1, 3, &[&[1, 2]])));
    assert_eq!(ids(&catalog, 9), [6, 8, 5, 7]);
    assert_eq!(ids(&catalog, 3), [6, 8, 5]);
    assert!(!parts_to_copy(&catalog, &nodes(&catalog), 3).1 && parts_to_copy(&catalog, &nodes(&catalog), 4).1);
}

#[test]
fn kept_parts_are_repaired_last_and_never_moved() {
    let mut catalog = catalog(&[(9, &[1])]);
    for (id, holders) in [(7, &[1][..]), (8, &[3, 4])] {
        let old = Part { removed: 3, removed_ms: 1, added: 2, ..part(id, id as u64, holders) };
        put(&mut catalog, row::Row::Part(old));
    }
    assert_eq!(ids(&catalog, 9), [9, 7]);
}

#[test]
fn copies_per_target_and_per_source_are_limited() {
    let parts: Vec<(u128, &[u64])> = (0..50).map(|id| (id, &[1][..])).collect();
    assert_eq!(copies(&catalog(&parts)).len(), MAX_COPIES_PER_NODE);
    let both: Vec<(u128, &[u64])> = (0..50).map(|id| (id, if id % 2 == 0 { &[1][..] } else { &[2] })).collect();
    assert_eq!(copies(&catalog(&both)).len(), 2 * MAX_COPIES_PER_NODE);
}

#[test]
fn node_that_failed_to_copy_a_part_is_skipped() {
    let catalog = catalog(&[(7, &[1])]);
    let failed = |nodes: &[u64]| CopyLoad { failed: [(PartId(7), set(nodes))].into(), ..CopyLoad::default() };
    let target = |load: &CopyLoad| match next_copy(&catalog, &nodes(&catalog), load, PartId(7)) {
        CopyDecision::Order(copy) => Some(copy.to),
        CopyDecision::Wait | CopyDecision::Skip => None,
    };
    assert_eq!(target(&failed(&[3])), Some(NodeId(2)));
    assert!([NodeId(3), NodeId(4)].contains(&target(&failed(&[2])).unwrap()));
    assert_eq!(target(&failed(&[2, 3, 4])), None);
}

#[test]
fn part_without_need_is_skipped_when_its_turn_comes() {
    let catalog = catalog(&[(7, &[1, 2])]);
    let next = |id| next_copy(&catalog, &nodes(&catalog), &CopyLoad::default(), PartId(id));
    assert_eq!((next(7), next(8)), (CopyDecision::Skip, CopyDecision::Skip));
}

#[test]
fn move_of_a_part_is_told_from_a_repair() {
    let catalog = catalog(&[(7, &[1]), (8, &[1, 3])]);
    let moves = |id| match next_copy(&catalog, &nodes(&catalog), &CopyLoad::default(), PartId(id)) {
        CopyDecision::Order(copy) => Some(copy.moves),
        CopyDecision::Wait | CopyDecision::Skip => None,
    };
    assert_eq!((moves(7), moves(8)), (Some(false), Some(true)));
}

/// (part, node) of the excess copies.
fn excess(catalog: &Catalog) -> Vec<(u128, u64)> {
    let excess = excess_copies(catalog, &nodes(catalog), 99);
    assert!(excess.iter().all(|change| !change.held));
    excess.iter().map(|change| (PartId::from(change.part.as_ref().unwrap()).0, change.node)).collect()
}

#[test]
fn excess_needs_copies_on_all_placed_nodes() {
    assert_eq!(excess(&catalog(&[(7, &[1, 2, 3, 4]), (8, &[1, 3, 4]), (9, &[1, 2])])), [(7, 3), (7, 4)]);
}

#[test]
fn copies_stay_while_a_placed_or_own_node_is_not_live() {
    let parts: &[(u128, &[u64])] = &[(7, &[1, 2, 3])];
    let mut in_grace = catalog(parts);
    unreachable_for(&mut in_grace, 2, 1);
    assert!(excess(&in_grace).is_empty());
    for id in [2, 3] {
        let mut drains = catalog(parts);
        with(&mut drains, id, |node| node.draining = true);
        assert!(excess(&drains).is_empty(), "{id} drains");
    }
    let mut away = catalog(parts);
    unreachable_for(&mut away, 3, REPAIR_DELAY);
    assert!(excess(&away).is_empty(), "an unreachable node cannot delete");
}

#[test]
fn sources_of_an_open_compaction_are_never_excess() {
    let mut catalog = catalog(&[(7, &[1, 2, 3]), (8, &[1, 2, 3])]);
    let sources = vec![PartId(7).into()];
    let compaction =
        |state: WriteState| Write { id: "m".into(), state: state as i32, sources: sources.clone(), ..Write::default() };
    put(&mut catalog, row::Row::Write(compaction(WriteState::Open)));
    assert_eq!(excess(&catalog), [(8, 3)]);
    put(&mut catalog, row::Row::Write(compaction(WriteState::Committed)));
    assert_eq!(excess(&catalog), [(7, 3), (8, 3)]);
}

#[test]
fn only_unrecorded_and_excess_copies_are_deleted() {
    let changes = [holder_change(PartId(7), NodeId(3), false)];
    let deleted = |holders: &[u64]| -> BTreeSet<(u128, u64)> {
        let catalog = catalog(&[(7, holders)]);
        let deleted = deletions(&catalog, &nodes(&catalog), &changes);
        deleted.into_iter().flat_map(|(node, parts)| parts.into_iter().map(move |part| (part.0, node.0))).collect()
    };
    let nothing = BTreeSet::new();
    assert_eq!(deleted(&[1, 2]), BTreeSet::from([(7, 3)]));
    assert_eq!(deleted(&[1, 2, 3]), nothing, "it was recorded again");
    assert_eq!(deleted(&[1]), nothing, "a placed node lost its copy in the meantime");
}
