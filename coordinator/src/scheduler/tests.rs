#![allow(clippy::unwrap_used)]

use volley_common::wire::catalog::{Holders, Node, Part, Row, TableSpec, Write, WriteState, row};

use super::*;

/// Table 1 of four nodes, two replicas; shard 0 is placed on nodes 1 and 2. Write "open" is open, "over" is committed.
fn catalog(parts: &[(u128, &[u64])]) -> Catalog {
    let mut catalog = Catalog::default();
    let mut put = |row| catalog.insert_row(Row { row: Some(row) });
    for id in 1..=4 {
        put(row::Row::Node(Node { id, peer_addr: format!("n{id}:2"), ..Node::default() }));
    }
    let spec = Some(TableSpec { shards: 1, replicas: 2, ..TableSpec::default() });
    let placement = vec![Holders { nodes: vec![1, 2] }];
    put(row::Row::Table(Table { id: 1, name: vec!["t".into()], version: 3, spec, placement, ..Table::default() }));
    for (id, state) in [("open", WriteState::Open), ("over", WriteState::Committed), ("ended", WriteState::Aborted)] {
        put(row::Row::Write(Write { id: id.into(), state: state as i32, ..Write::default() }));
    }
    for (seq, (id, holders)) in parts.iter().enumerate() {
        put(row::Row::Part(part(*id, seq as u64, holders)));
    }
    catalog
}

fn part(id: u128, seq: u64, holders: &[u64]) -> Part {
    Part {
        id: Some(PartId(id).into()),
        table: 1,
        added: 3,
        seq,
        bytes: 9,
        crc32c: 8,
        holders: holders.to_vec(),
        ..Part::default()
    }
}

fn held(id: u128, write: &str) -> HeldPart {
    HeldPart { id: Some(PartId(id).into()), write: write.into(), crc32c: 8, bytes: 9 }
}

fn set(nodes: &[u64]) -> BTreeSet<NodeId> {
    nodes.iter().map(|id| NodeId(*id)).collect()
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
}

#[test]
fn a_substitute_gives_its_copy_up_in_two_steps_and_never_to_another_substitute() {
    assert_eq!(on(3, &[(7, &[1, 2, 3])], &[held(7, "over")]), learns(7, 3, false));
    assert_eq!(on(3, &[(7, &[1, 3, 4])], &[held(7, "over")]), Reconciled::default());
    assert_eq!(on(1, &[(7, &[1, 2, 3])], &[held(7, "over")]), Reconciled::default());
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

/// (part, target, sources) of the copies.
fn ordered(parts: &[(u128, &[u64])], alive: &[u64], waited: &[u64], most: usize) -> Vec<(u128, u64, Vec<String>)> {
    let copies = copies(&catalog(parts), &set(alive), &set(waited), &BTreeSet::new(), most);
    copies.into_iter().map(|(node, copy)| (copy.part.unwrap().part_id().0, node.0, copy.sources)).collect()
}

#[test]
fn missing_copies_go_to_the_placement_first() {
    let sources = vec!["n1:2".to_string()];
    assert_eq!(ordered(&[(7, &[1]), (8, &[1, 2])], &[1, 2, 3, 4], &[], 9), [(7, 2, sources)]);
}

#[test]
fn a_dead_nodes_parts_go_to_the_next_on_the_ring() {
    let copies = ordered(&[(7, &[1, 2])], &[1, 3, 4], &[], 9);
    assert_eq!(copies.len(), 1);
    assert!([3, 4].contains(&copies[0].1), "{copies:?}");
    assert_eq!(copies[0].2, ["n1:2"]);
}

#[test]
fn a_silent_node_is_waited_for_until_its_grace_is_over() {
    assert!(ordered(&[(7, &[1, 2])], &[1, 3, 4], &[2], 9).is_empty());
}

#[test]
fn nothing_is_copied_that_cannot_be_or_need_not() {
    assert!(ordered(&[(7, &[1])], &[1], &[], 9).is_empty(), "no other node");
    assert!(ordered(&[(7, &[4])], &[1, 2], &[], 9).is_empty(), "no live holder");
    assert!(ordered(&[(7, &[3, 4])], &[1, 2, 3, 4], &[], 9).is_empty(), "copies enough");
    let catalog = catalog(&[(7, &[1])]);
    let busy = BTreeSet::from([PartId(7)]);
    assert!(copies(&catalog, &set(&[1, 2]), &set(&[]), &busy, 9).is_empty(), "on its way");
}

#[test]
fn the_most_endangered_parts_come_first_and_no_more_than_wanted() {
    let mut catalog = catalog(&[(5, &[1, 2]), (6, &[1]), (7, &[1, 2]), (8, &[1])]);
    let mut table = catalog.table(1).unwrap().clone();
    table.spec.as_mut().unwrap().replicas = 3;
    catalog.insert_row(Row { row: Some(row::Row::Table(table)) });
    let run = |most| -> Vec<u128> {
        let copies = copies(&catalog, &set(&[1, 2, 3]), &set(&[]), &BTreeSet::new(), most);
        copies.into_iter().map(|(_, copy)| copy.part.unwrap().part_id().0).collect()
    };
    assert_eq!(run(9), [6, 8, 5, 7]);
    assert_eq!(run(3), [6, 8, 5]);
}

#[test]
fn parts_of_replaced_versions_are_not_repaired() {
    let mut catalog = catalog(&[]);
    let old = Part { removed: 3, removed_ms: 1, added: 2, ..part(7, 0, &[1]) };
    catalog.insert_row(Row { row: Some(row::Row::Part(old)) });
    assert!(copies(&catalog, &set(&[1, 2]), &set(&[]), &BTreeSet::new(), 9).is_empty());
}
