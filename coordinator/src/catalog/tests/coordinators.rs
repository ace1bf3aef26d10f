//! Which coordinators are wanted, and which folders count no more.

use std::collections::BTreeMap;

use volley_common::Code;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{
    AddCoordinator, Clear, CoordinatorPeer, NameCoordinators, RecoverCluster, RemoveCoordinator, RetireStore,
};

use super::helpers::World;
use crate::catalog::Catalog;

fn peer(id: u64) -> CoordinatorPeer {
    CoordinatorPeer { id, peer: format!("h{id}:8825") }
}

fn add(id: u64) -> Op {
    Op::AddCoordinator(AddCoordinator { id, peer: peer(id).peer })
}

fn remove(id: u64) -> Op {
    Op::RemoveCoordinator(RemoveCoordinator { id })
}

/// A catalog that names coordinators 1 to 3.
fn named() -> World {
    let mut world = World::new();
    world.done(Op::NameCoordinators(NameCoordinators { coordinators: (1..4).map(peer).collect() }));
    world
}

fn ids(catalog: &Catalog) -> Vec<u64> {
    catalog.coordinators().into_keys().collect()
}

#[test]
fn they_are_named_once() {
    let mut world = named();
    world.done(Op::NameCoordinators(NameCoordinators { coordinators: vec![peer(9)] }));
    assert_eq!(ids(&world.catalog), [1, 2, 3]);
}

#[test]
fn before_they_are_named_none_is_added_or_removed() {
    let mut world = World::new();
    assert!(world.refused(add(1), Code::Unavailable).contains("being formed"));
    assert!(world.refused(remove(1), Code::Unavailable).contains("being formed"));
}

#[test]
fn one_is_added_once_with_one_address() {
    let mut world = named();
    world.done(add(5));
    world.done(add(5));
    assert_eq!(ids(&world.catalog), [1, 2, 3, 5]);
    let moved = Op::AddCoordinator(AddCoordinator { id: 5, peer: "elsewhere:1".into() });
    assert!(world.refused(moved, Code::AlreadyExists).contains("coordinator 5 is at h5:8825"));
    let taken = Op::AddCoordinator(AddCoordinator { id: 6, peer: "h5:8825".into() });
    assert!(world.refused(taken, Code::AlreadyExists).contains("the address of coordinator 5"));
}

#[test]
fn all_but_the_last_one_can_be_removed() {
    let mut world = named();
    for id in [9, 2, 3] {
        world.done(remove(id));
    }
    assert_eq!(ids(&world.catalog), [1]);
    assert!(world.refused(remove(1), Code::FailedPrecondition).contains("coordinator 1 is the last one"));
    world.done(remove(9));
}

#[test]
fn retired_folders_are_remembered_and_their_number_is_bounded() {
    let mut world = named();
    for store in (1..1200).chain([1199]) {
        world.done(Op::RetireStore(RetireStore { store }));
    }
    assert!(world.catalog.is_retired(1199) && world.catalog.is_retired(200));
    assert!(!world.catalog.is_retired(199) && !world.catalog.is_retired(5000));
}

#[test]
fn clearing_a_cluster_keeps_its_coordinators() {
    let mut world = named();
    world.done(Op::RetireStore(RetireStore { store: 7 }));
    world.done(Op::Clear(Clear {}));
    assert_eq!(ids(&world.catalog), [1, 2, 3]);
    assert!(world.catalog.is_retired(7));
}

#[test]
fn after_a_recovery_one_is_wanted_under_another_id_of_the_cluster() {
    let mut world = named();
    let key = world.catalog.cluster().unwrap().ticket_key.clone();
    world.done(Op::RetireStore(RetireStore { store: 7 }));
    world.done(Op::RecoverCluster(RecoverCluster { id: "c.1.0".into(), coordinator: Some(peer(2)) }));
    let cluster = world.catalog.cluster().unwrap();
    assert_eq!((cluster.id.as_str(), &cluster.ticket_key), ("c.1.0", &key));
    assert_eq!(world.catalog.coordinators(), BTreeMap::from([(2, "h2:8825".to_string())]));
    assert!(world.catalog.is_retired(7));
}
