use std::collections::BTreeSet;

use volley_common::wire::cluster::HeldPart;
use volley_common::{NodeId, PartId};

use super::helpers::*;
use crate::scheduler::reconcile::{
    ReconcilePlan, VersionSnapshot, holder_change, reconcile, reconcile_held, version_snapshot,
};

fn held(id: u128, write: &str) -> HeldPart {
    HeldPart { id: Some(PartId(id).into()), write: write.into(), crc32c: 8, bytes: 9 }
}

fn on(node: u64, parts: &[(u128, &[u64])], report: &[HeldPart]) -> ReconcilePlan {
    reconcile_held(&catalog(parts), NodeId(node), report, &set(&[1, 2, 3, 4]))
}

fn deletion(id: u128) -> ReconcilePlan {
    ReconcilePlan { delete: vec![PartId(id)], changes: vec![] }
}

fn change(id: u128, node: u64, held: bool) -> ReconcilePlan {
    ReconcilePlan { delete: vec![], changes: vec![holder_change(PartId(id), NodeId(node), held)] }
}

#[test]
fn unlisted_part_is_deleted_once_its_write_has_ended() {
    for write in ["over", "ended", "unknown"] {
        assert_eq!(on(1, &[], &[held(7, write)]), deletion(7), "{write}");
    }
    assert_eq!(on(1, &[], &[held(7, "open")]), ReconcilePlan::default());
}

#[test]
fn recorded_part_is_left_alone() {
    assert_eq!(on(1, &[(7, &[1])], &[held(7, "over")]), ReconcilePlan::default());
    assert_eq!(on(3, &[(7, &[3, 4])], &[held(7, "over")]), ReconcilePlan::default());
    assert_eq!(
        on(3, &[(7, &[1, 2, 3])], &[held(7, "over")]),
        ReconcilePlan::default(),
        "only the leader's scan deletes it"
    );
}

#[test]
fn unrecorded_copy_is_recorded_if_needed_else_deleted() {
    assert_eq!(on(1, &[(7, &[3, 4])], &[held(7, "over")]), change(7, 1, true), "placed here");
    assert_eq!(on(3, &[(7, &[1])], &[held(7, "over")]), change(7, 3, true), "one short");
    assert_eq!(on(3, &[(7, &[1, 2])], &[held(7, "over")]), deletion(7));
    assert_eq!(on(3, &[(7, &[1, 4])], &[held(7, "over")]), deletion(7));
    let catalog = catalog(&[(7, &[1, 2])]);
    let one_dead = reconcile_held(&catalog, NodeId(3), &[held(7, "over")], &set(&[1, 3, 4]));
    assert_eq!(one_dead, change(7, 3, true), "the other holder is unreachable");
    let mut catalog = catalog;
    with(&mut catalog, 2, |node| node.draining = true);
    let one_leaves = reconcile_held(&catalog, NodeId(3), &[held(7, "over")], &set(&[1, 2, 3, 4]));
    assert_eq!(one_leaves, change(7, 3, true), "the other holder is draining");
}

#[test]
fn part_with_other_bytes_is_deleted_and_not_counted() {
    for bad in [HeldPart { crc32c: 1, ..held(7, "over") }, HeldPart { bytes: 1, ..held(7, "over") }] {
        let out = on(1, &[(7, &[1, 2])], std::slice::from_ref(&bad));
        assert_eq!(out, ReconcilePlan { delete: vec![PartId(7)], ..change(7, 1, false) });
        assert_eq!(on(3, &[(7, &[1, 2])], &[bad]), deletion(7));
    }
}

#[test]
fn recorded_part_missing_in_the_inventory_is_not_counted() {
    let catalog = catalog(&[(7, &[1]), (8, &[2]), (9, &[1])]);
    let alive = set(&[1, 2, 3, 4]);
    let run = |before: &VersionSnapshot, busy: &BTreeSet<PartId>| {
        reconcile(&catalog, NodeId(1), &[held(9, "over")], before, busy, &alive)
    };
    let now = version_snapshot(&catalog);
    assert_eq!(run(&now, &BTreeSet::new()), change(7, 1, false));
    assert_eq!(run(&now, &BTreeSet::from([PartId(7)])), ReconcilePlan::default(), "just copied");
    assert_eq!(run(&VersionSnapshot::from([(1, 2)]), &BTreeSet::new()), ReconcilePlan::default(), "committed since");
    assert_eq!(run(&VersionSnapshot::new(), &BTreeSet::new()), ReconcilePlan::default(), "a new table");
}
