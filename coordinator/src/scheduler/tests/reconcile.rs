use std::collections::BTreeSet;

use volley_common::wire::cluster::HeldPart;
use volley_common::{NodeId, PartId};

use super::helpers::*;
use crate::scheduler::reconcile::change;
use crate::scheduler::*;

fn held(id: u128, write: &str) -> HeldPart {
    HeldPart { id: Some(PartId(id).into()), write: write.into(), crc32c: 8, bytes: 9 }
}

fn on(node: u64, parts: &[(u128, &[u64])], report: &[HeldPart]) -> Reconciled {
    reconcile_held(&catalog(parts), NodeId(node), report, &set(&[1, 2, 3, 4]))
}

fn deletes(id: u128) -> Reconciled {
    Reconciled { delete: vec![PartId(id)], changes: vec![] }
}

fn learns(id: u128, node: u64, held: bool) -> Reconciled {
    Reconciled { delete: vec![], changes: vec![change(PartId(id), NodeId(node), held)] }
}

#[test]
fn unlisted_parts_go_once_their_write_is_dead() {
    for dead in ["over", "ended", "never heard of"] {
        assert_eq!(on(1, &[], &[held(7, dead)]), deletes(7), "{dead}");
    }
    assert_eq!(on(1, &[], &[held(7, "open")]), Reconciled::default());
}

#[test]
fn a_recorded_part_is_left_alone() {
    assert_eq!(on(1, &[(7, &[1])], &[held(7, "over")]), Reconciled::default());
    assert_eq!(on(3, &[(7, &[3, 4])], &[held(7, "over")]), Reconciled::default());
    assert_eq!(on(3, &[(7, &[1, 2, 3])], &[held(7, "over")]), Reconciled::default(), "the leader gives it up");
}

#[test]
fn a_copy_not_recorded_is_recorded_where_it_is_wanted_and_deleted_where_not() {
    assert_eq!(on(1, &[(7, &[3, 4])], &[held(7, "over")]), learns(7, 1, true), "placed here");
    assert_eq!(on(3, &[(7, &[1])], &[held(7, "over")]), learns(7, 3, true), "one short");
    assert_eq!(on(3, &[(7, &[1, 2])], &[held(7, "over")]), deletes(7));
    assert_eq!(on(3, &[(7, &[1, 4])], &[held(7, "over")]), deletes(7));
    let catalog = catalog(&[(7, &[1, 2])]);
    let one_dead = reconcile_held(&catalog, NodeId(3), &[held(7, "over")], &set(&[1, 3, 4]));
    assert_eq!(one_dead, learns(7, 3, true), "the other holder is dead");
    let mut catalog = catalog;
    with(&mut catalog, 2, |node| node.draining = true);
    let one_leaves = reconcile_held(&catalog, NodeId(3), &[held(7, "over")], &set(&[1, 2, 3, 4]));
    assert_eq!(one_leaves, learns(7, 3, true), "the other holder is to leave");
}

#[test]
fn other_bytes_than_the_catalogs_are_deleted_and_not_counted() {
    for bad in [HeldPart { crc32c: 1, ..held(7, "over") }, HeldPart { bytes: 1, ..held(7, "over") }] {
        let out = on(1, &[(7, &[1, 2])], std::slice::from_ref(&bad));
        assert_eq!(out, Reconciled { delete: vec![PartId(7)], ..learns(7, 1, false) });
        assert_eq!(on(3, &[(7, &[1, 2])], &[bad]), deletes(7));
    }
}

#[test]
fn a_recorded_part_that_the_inventory_lacks_is_no_longer_counted() {
    let catalog = catalog(&[(7, &[1]), (8, &[2]), (9, &[1])]);
    let alive = set(&[1, 2, 3, 4]);
    let run = |before: &Horizon, busy: &BTreeSet<PartId>| {
        reconcile(&catalog, NodeId(1), &[held(9, "over")], before, busy, &alive)
    };
    let now = horizon(&catalog);
    assert_eq!(run(&now, &BTreeSet::new()), learns(7, 1, false));
    assert_eq!(run(&now, &BTreeSet::from([PartId(7)])), Reconciled::default(), "just copied");
    assert_eq!(run(&Horizon::from([(1, 2)]), &BTreeSet::new()), Reconciled::default(), "committed since");
    assert_eq!(run(&Horizon::new(), &BTreeSet::new()), Reconciled::default(), "a new table");
}
