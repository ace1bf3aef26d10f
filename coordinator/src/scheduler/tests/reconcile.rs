use std::collections::BTreeSet;

use volley_common::wire::catalog::{Write, WriteState, row};
use volley_common::wire::cluster::HeldPart;
use volley_common::{NodeId, PartId};

use super::helpers::*;
use crate::catalog::Catalog;
use crate::scheduler::reconcile::{
    CatalogHistory, ReconcilePlan, VersionSnapshot, deletable, holder_change, reconcile, reconcile_held,
    version_snapshot,
};

fn held(id: u128, write: &str) -> HeldPart {
    HeldPart { id: Some(PartId(id).into()), write: write.into(), crc32c: 8, bytes: 9 }
}

fn on(node: u64, parts: &[(u128, &[u64])], report: &[HeldPart]) -> ReconcilePlan {
    reconcile_held(&catalog(parts), NodeId(node), report, CatalogHistory::Complete, &set(&[1, 2, 3, 4]))
}

fn deletion(id: u128) -> ReconcilePlan {
    ReconcilePlan { delete: vec![PartId(id)], ..ReconcilePlan::default() }
}

fn quarantine(id: u128) -> ReconcilePlan {
    ReconcilePlan { quarantine: vec![PartId(id)], ..ReconcilePlan::default() }
}

fn change(id: u128, node: u64, held: bool) -> ReconcilePlan {
    ReconcilePlan { changes: vec![holder_change(PartId(id), NodeId(node), held)], ..ReconcilePlan::default() }
}

#[test]
fn unlisted_part_is_deleted_once_its_write_has_ended() {
    for write in ["over", "ended", "unknown"] {
        assert_eq!(on(1, &[], &[held(7, write)]), deletion(7), "{write}");
    }
    assert_eq!(on(1, &[], &[held(7, "open")]), ReconcilePlan::default());
}

#[test]
fn unlisted_part_is_quarantined_after_a_recovery() {
    let on = |parts: &[(u128, &[u64])], report: HeldPart| {
        reconcile_held(&catalog(parts), NodeId(3), &[report], CatalogHistory::Recovered, &set(&[1, 2, 3, 4]))
    };
    for write in ["over", "ended", "unknown"] {
        assert_eq!(on(&[], held(7, write)), quarantine(7), "{write}");
    }
    assert_eq!(on(&[], held(7, "open")), ReconcilePlan::default());
    assert_eq!(on(&[(7, &[1, 2])], held(7, "over")), deletion(7), "a listed part is certain");
}

#[test]
fn only_parts_that_the_catalog_proves_unneeded_are_deletable() {
    let on = |node: u64, parts: &[(u128, &[u64])], report: HeldPart, alive: &[u64]| {
        !deletable(&catalog(parts), NodeId(node), &[report], &set(alive)).is_empty()
    };
    let all = [1, 2, 3, 4];
    assert!(on(1, &[], held(7, "over"), &all) && on(1, &[], held(7, "ended"), &all));
    assert!(!on(1, &[], held(7, "open"), &all), "it may be committed yet");
    assert!(!on(1, &[], held(7, "unknown"), &all), "it may have been committed before a recovery");
    let state = WriteState::Aborted as i32;
    let recovered = Write { id: "recovered".into(), state, fenced: true, end_unknown: true, ..Write::default() };
    let mut lost = catalog(&[]);
    put(&mut lost, row::Row::Write(recovered));
    assert!(deletable(&lost, NodeId(1), &[held(7, "recovered")], &set(&all)).is_empty(), "and so may this one");
    assert!(!on(1, &[(7, &[1, 2])], held(7, "over"), &all), "the node is a holder");
    assert!(!on(1, &[(7, &[3, 4])], held(7, "over"), &all), "the shard is placed on the node");
    assert!(!on(3, &[(7, &[1])], held(7, "over"), &all), "one copy too few");
    assert!(!on(3, &[(7, &[1, 2])], held(7, "over"), &[1, 3, 4]), "another holder is unreachable");
    assert!(on(3, &[(7, &[1, 2])], held(7, "over"), &all));
    assert!(!on(3, &[(7, &[1, 2])], HeldPart { crc32c: 1, ..held(7, "over") }, &all), "other bytes");
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
    let on_3 = |catalog: &Catalog, alive: &[u64]| {
        reconcile_held(catalog, NodeId(3), &[held(7, "over")], CatalogHistory::Complete, &set(alive))
    };
    let one_dead = on_3(&catalog, &[1, 3, 4]);
    assert_eq!(one_dead, change(7, 3, true), "the other holder is unreachable");
    let mut catalog = catalog;
    with(&mut catalog, 2, |node| node.draining = true);
    let one_leaves = on_3(&catalog, &[1, 2, 3, 4]);
    assert_eq!(one_leaves, change(7, 3, true), "the other holder is draining");
}

#[test]
fn part_with_other_bytes_is_quarantined_and_not_counted() {
    for bad in [HeldPart { crc32c: 1, ..held(7, "over") }, HeldPart { bytes: 1, ..held(7, "over") }] {
        let out = on(1, &[(7, &[1, 2])], std::slice::from_ref(&bad));
        assert_eq!(out, ReconcilePlan { quarantine: vec![PartId(7)], ..change(7, 1, false) });
        assert_eq!(on(3, &[(7, &[1, 2])], &[bad]), quarantine(7));
    }
}

#[test]
fn recorded_part_missing_in_the_inventory_is_not_counted() {
    let catalog = catalog(&[(7, &[1]), (8, &[2]), (9, &[1])]);
    let alive = set(&[1, 2, 3, 4]);
    let run = |before: &VersionSnapshot, busy: &BTreeSet<PartId>| {
        reconcile(&catalog, NodeId(1), &[held(9, "over")], before, busy, CatalogHistory::Complete, &alive)
    };
    let now = version_snapshot(&catalog);
    assert_eq!(run(&now, &BTreeSet::new()), change(7, 1, false));
    assert_eq!(run(&now, &BTreeSet::from([PartId(7)])), ReconcilePlan::default(), "just copied");
    assert_eq!(run(&VersionSnapshot::from([(1, 2)]), &BTreeSet::new()), ReconcilePlan::default(), "committed since");
    assert_eq!(run(&VersionSnapshot::new(), &BTreeSet::new()), ReconcilePlan::default(), "a new table");
}
