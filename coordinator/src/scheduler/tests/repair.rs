use std::collections::BTreeSet;

use volley_common::wire::catalog::{Part, Write, WriteState, row};
use volley_common::{NodeId, PartId};

use super::helpers::*;
use crate::catalog::Catalog;
use crate::scheduler::reconcile::change;
use crate::scheduler::repair::{AT_ONCE, Load, Next, lacking, order};
use crate::scheduler::surplus::{deletions, surplus};

/// (part, target, sources) of the copies that follow, in order, as long as nodes have room.
fn copies(catalog: &Catalog) -> Vec<(u128, u64, Vec<String>)> {
    let (nodes, mut load) = (nodes(catalog), Load::default());
    let mut out = Vec::new();
    for id in lacking(catalog, &nodes, 100).0 {
        if let Next::Order(copy) = order(catalog, &nodes, &load, id) {
            load.add(&copy);
            out.push((id.0, copy.to.0, copy.order.sources));
        }
    }
    out
}

fn ids(catalog: &Catalog, most: usize) -> Vec<u128> {
    lacking(catalog, &nodes(catalog), most).0.into_iter().map(|id| id.0).collect()
}

#[test]
fn missing_copies_go_to_the_placement_first() {
    assert_eq!(copies(&catalog(&[(7, &[1]), (8, &[1, 2])])), [(7, 2, vec!["n1:2".to_string()])]);
}

#[test]
fn a_dead_nodes_parts_go_to_a_zone_that_has_none() {
    let mut catalog = catalog(&[(7, &[1, 2])]);
    silence(&mut catalog, 2, GRACE);
    for (id, zone) in [(1, "a"), (2, "b"), (3, "a"), (4, "b")] {
        with(&mut catalog, id, |node| node.zone = zone.into());
    }
    assert_eq!(copies(&catalog), [(7, 4, vec!["n1:2".to_string()])]);
}

#[test]
fn a_silent_node_is_waited_for_until_its_grace_is_over() {
    let mut catalog = catalog(&[(7, &[1, 2])]);
    silence(&mut catalog, 2, GRACE - 1);
    assert!(copies(&catalog).is_empty());
    with(&mut catalog, 2, |node| node.draining = true);
    assert_eq!(copies(&catalog).len(), 1, "it was to leave anyway");
    with(&mut catalog, 2, |node| node.draining = false);
    silence(&mut catalog, 2, GRACE);
    assert_eq!(copies(&catalog).len(), 1);
}

#[test]
fn a_draining_nodes_parts_are_copied_from_it_and_never_to_it() {
    let mut drained = catalog(&[(7, &[1, 2]), (8, &[2]), (9, &[1])]);
    with(&mut drained, 2, |node| node.draining = true);
    let copies = copies(&drained);
    assert_eq!(copies.iter().map(|copy| copy.0).collect::<Vec<_>>(), [8, 9, 7]);
    assert!(copies.iter().all(|(_, to, _)| *to != 2), "{copies:?}");
    assert_eq!(copies[0].2, ["n2:2"]);
}

#[test]
fn nothing_is_copied_that_cannot_be_or_need_not() {
    let alone = |parts: &[(u128, &[u64])], alive: &[u64]| {
        let mut catalog = catalog(parts);
        (1..=4).filter(|id| !alive.contains(id)).for_each(|id| silence(&mut catalog, id, GRACE));
        copies(&catalog)
    };
    assert!(alone(&[(7, &[1])], &[1]).is_empty(), "no other node");
    assert!(alone(&[(7, &[4])], &[1, 2]).is_empty(), "no live holder");
    let mut full = catalog(&[(7, &[1])]);
    (2..=4).for_each(|id| with(&mut full, id, |node| node.read_only_reason = "disk full".into()));
    assert!(copies(&full).is_empty(), "no node that takes parts");
    with(&mut full, 4, |node| node.read_only_reason.clear());
    assert_eq!(copies(&full)[0].1, 4, "not at home, but copied");
}

#[test]
fn a_part_with_copies_enough_moves_home_after_all_repairs() {
    let catalog = catalog(&[(5, &[3, 4]), (6, &[1, 2]), (7, &[1])]);
    assert_eq!(ids(&catalog, 9), [7, 5]);
    assert_eq!(copies(&catalog)[1].1, 1);
}

#[test]
fn the_most_endangered_parts_come_first_and_no_more_than_wanted() {
    let mut catalog = catalog(&[(5, &[1, 2]), (6, &[1]), (7, &[1, 2]), (8, &[1])]);
    put(&mut catalog, row::Row::Table(table(1, 3, &[&[1, 2]])));
    assert_eq!(ids(&catalog, 9), [6, 8, 5, 7]);
    assert_eq!(ids(&catalog, 3), [6, 8, 5]);
    assert!(!lacking(&catalog, &nodes(&catalog), 3).1 && lacking(&catalog, &nodes(&catalog), 4).1);
}

#[test]
fn parts_that_are_only_kept_are_repaired_after_the_newest_and_never_moved() {
    let mut catalog = catalog(&[(9, &[1])]);
    for (id, holders) in [(7, &[1][..]), (8, &[3, 4])] {
        let old = Part { removed: 3, removed_ms: 1, added: 2, ..part(id, id as u64, holders) };
        put(&mut catalog, row::Row::Part(old));
    }
    assert_eq!(ids(&catalog, 9), [9, 7]);
}

#[test]
fn a_node_has_a_few_orders_at_once_as_target_and_as_source() {
    let parts: Vec<(u128, &[u64])> = (0..50).map(|id| (id, &[1][..])).collect();
    assert_eq!(copies(&catalog(&parts)).len(), AT_ONCE);
    let both: Vec<(u128, &[u64])> = (0..50).map(|id| (id, if id % 2 == 0 { &[1][..] } else { &[2] })).collect();
    assert_eq!(copies(&catalog(&both)).len(), 2 * AT_ONCE);
}

#[test]
fn a_node_that_failed_to_copy_a_part_is_passed_over() {
    let catalog = catalog(&[(7, &[1])]);
    let failed = |nodes: &[u64]| Load { failed: [(PartId(7), set(nodes))].into(), ..Load::default() };
    let target = |load: &Load| match order(&catalog, &nodes(&catalog), load, PartId(7)) {
        Next::Order(copy) => Some(copy.to),
        Next::Wait | Next::Nothing => None,
    };
    assert_eq!(target(&failed(&[3])), Some(NodeId(2)));
    assert!([NodeId(3), NodeId(4)].contains(&target(&failed(&[2])).unwrap()));
    assert_eq!(target(&failed(&[2, 3, 4])), None);
}

#[test]
fn a_part_is_looked_at_again_before_it_is_copied() {
    let catalog = catalog(&[(7, &[1, 2])]);
    let next = |id| order(&catalog, &nodes(&catalog), &Load::default(), PartId(id));
    assert_eq!((next(7), next(8)), (Next::Nothing, Next::Nothing));
}

/// (part, node) of the copies that may go.
fn given_up(catalog: &Catalog) -> Vec<(u128, u64)> {
    let gone = surplus(catalog, &nodes(catalog), 99);
    assert!(gone.iter().all(|change| !change.held));
    gone.iter().map(|change| (PartId::from(change.part.as_ref().unwrap()).0, change.node)).collect()
}

#[test]
fn copies_go_where_all_homes_have_theirs_and_never_for_another_strangers_sake() {
    assert_eq!(given_up(&catalog(&[(7, &[1, 2, 3, 4]), (8, &[1, 3, 4]), (9, &[1, 2])])), [(7, 3), (7, 4)]);
}

#[test]
fn copies_stay_while_a_home_is_silent_or_drains_or_their_own_node_does() {
    let parts: &[(u128, &[u64])] = &[(7, &[1, 2, 3])];
    let mut waits = catalog(parts);
    silence(&mut waits, 2, 1);
    assert!(given_up(&waits).is_empty());
    for id in [2, 3] {
        let mut drains = catalog(parts);
        with(&mut drains, id, |node| node.draining = true);
        assert!(given_up(&drains).is_empty(), "{id} drains");
    }
    let mut away = catalog(parts);
    silence(&mut away, 3, GRACE);
    assert!(given_up(&away).is_empty(), "who is not there cannot delete");
}

#[test]
fn sources_of_a_merge_stay_until_it_ended() {
    let mut catalog = catalog(&[(7, &[1, 2, 3]), (8, &[1, 2, 3])]);
    let sources = vec![PartId(7).into()];
    let merge =
        |state: WriteState| Write { id: "m".into(), state: state as i32, sources: sources.clone(), ..Write::default() };
    put(&mut catalog, row::Row::Write(merge(WriteState::Open)));
    assert_eq!(given_up(&catalog), [(8, 3)]);
    put(&mut catalog, row::Row::Write(merge(WriteState::Committed)));
    assert_eq!(given_up(&catalog), [(7, 3), (8, 3)]);
}

#[test]
fn only_what_the_catalog_forgot_and_can_do_without_is_deleted() {
    let gone = [change(PartId(7), NodeId(3), false)];
    let deleted = |holders: &[u64]| -> BTreeSet<(u128, u64)> {
        let catalog = catalog(&[(7, holders)]);
        let deleted = deletions(&catalog, &nodes(&catalog), &gone);
        deleted.into_iter().flat_map(|(node, parts)| parts.into_iter().map(move |part| (part.0, node.0))).collect()
    };
    let nothing = BTreeSet::new();
    assert_eq!(deleted(&[1, 2]), BTreeSet::from([(7, 3)]));
    assert_eq!(deleted(&[1, 2, 3]), nothing, "it was recorded again");
    assert_eq!(deleted(&[1]), nothing, "a home lost its copy meanwhile");
}
