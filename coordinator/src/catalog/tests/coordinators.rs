//! The desired coordinators and the stores of removed ones.

use std::collections::BTreeMap;

use volley_common::Code;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{
    AddCoordinator, Clear, CoordinatorPeer, NameCoordinators, RecoverCluster, RemoveCoordinator, RetireStore, WriteMode,
};

use super::helpers::*;
use crate::catalog::{Catalog, RowKey};

fn peer(id: u64) -> CoordinatorPeer {
    CoordinatorPeer { id, peer: format!("h{id}:8825") }
}

fn add(id: u64) -> Op {
    Op::AddCoordinator(AddCoordinator { id, peer: peer(id).peer })
}

fn remove(id: u64) -> Op {
    Op::RemoveCoordinator(RemoveCoordinator { id })
}

/// A catalog with coordinators 1 to 3.
fn named() -> CatalogFixture {
    let mut fixture = CatalogFixture::new();
    fixture.must_apply(Op::NameCoordinators(NameCoordinators { coordinators: (1..4).map(peer).collect() }));
    fixture
}

fn ids(catalog: &Catalog) -> Vec<u64> {
    catalog.coordinators().into_keys().collect()
}

#[test]
fn coordinators_are_named_only_once() {
    let mut fixture = named();
    fixture.must_apply(Op::NameCoordinators(NameCoordinators { coordinators: vec![peer(9)] }));
    assert_eq!(ids(&fixture.catalog), [1, 2, 3]);
}

#[test]
fn unnamed_coordinators_cannot_be_added_or_removed() {
    let mut fixture = CatalogFixture::new();
    assert!(fixture.must_reject(add(1), Code::Unavailable).contains("being formed"));
    assert!(fixture.must_reject(remove(1), Code::Unavailable).contains("being formed"));
}

#[test]
fn coordinator_id_and_address_are_unique() {
    let mut fixture = named();
    fixture.must_apply(add(5));
    fixture.must_apply(add(5));
    assert_eq!(ids(&fixture.catalog), [1, 2, 3, 5]);
    let moved = Op::AddCoordinator(AddCoordinator { id: 5, peer: "elsewhere:1".into() });
    assert!(fixture.must_reject(moved, Code::AlreadyExists).contains("coordinator 5 is at h5:8825"));
    let taken = Op::AddCoordinator(AddCoordinator { id: 6, peer: "h5:8825".into() });
    assert!(fixture.must_reject(taken, Code::AlreadyExists).contains("the address of coordinator 5"));
}

#[test]
fn last_coordinator_cannot_be_removed() {
    let mut fixture = named();
    for id in [9, 2, 3] {
        fixture.must_apply(remove(id));
    }
    assert_eq!(ids(&fixture.catalog), [1]);
    assert!(fixture.must_reject(remove(1), Code::FailedPrecondition).contains("coordinator 1 is the last one"));
    fixture.must_apply(remove(9));
}

#[test]
fn removal_of_an_unknown_coordinator_is_not_found() {
    let mut fixture = named();
    fixture.must_apply(remove(3));
    let check = |fixture: &CatalogFixture, id| fixture.catalog.check_known_coordinator(id);
    check(&fixture, 2).unwrap();
    check(&fixture, 3).expect("its removal may be repeated");
    let error = check(&fixture, 77).unwrap_err();
    assert_eq!(error.code, Code::NotFound);
    assert!(error.message.contains("no coordinator 77: the coordinators are 1, 2"), "{error}");
    for id in 10..1200 {
        fixture.must_apply(add(id));
        fixture.must_apply(remove(id));
    }
    assert!(check(&fixture, 1199).is_ok() && check(&fixture, 3).is_err(), "bounded");
}

#[test]
fn retired_stores_are_bounded() {
    let mut fixture = named();
    for store in (1..1200).chain([1199]) {
        fixture.must_apply(Op::RetireStore(RetireStore { store }));
    }
    assert!(fixture.catalog.is_retired(1199) && fixture.catalog.is_retired(200));
    assert!(!fixture.catalog.is_retired(199) && !fixture.catalog.is_retired(5000));
}

#[test]
fn clear_keeps_coordinators() {
    let mut fixture = named();
    fixture.must_apply(Op::RetireStore(RetireStore { store: 7 }));
    fixture.must_apply(Op::Clear(Clear {}));
    assert_eq!(ids(&fixture.catalog), [1, 2, 3]);
    assert!(fixture.catalog.is_retired(7));
}

#[test]
fn recovery_leaves_one_coordinator_and_a_new_cluster_id() {
    let mut fixture = named();
    let key = fixture.catalog.cluster().unwrap().ticket_key.clone();
    fixture.must_apply(Op::RetireStore(RetireStore { store: 7 }));
    fixture.must_apply(Op::RecoverCluster(RecoverCluster { id: "c.1.0".into(), coordinator: Some(peer(2)) }));
    let cluster = fixture.catalog.cluster().unwrap();
    assert_eq!((cluster.id.as_str(), &cluster.ticket_key), ("c.1.0", &key));
    assert_eq!(fixture.catalog.coordinators(), BTreeMap::from([(2, "h2:8825".to_string())]));
    assert!(fixture.catalog.is_retired(7));
}

#[test]
fn recovery_forgets_open_writes() {
    let mut fixture = named();
    fixture.must_apply(node(1, 1));
    fixture.put("over", "t", WriteMode::Create, &[1]);
    fixture.begin(begin("open", "u", WriteMode::Create));
    fixture.begin(staged("many", "v"));
    fixture.must_apply(Op::StageParts(stage("many", 1, &[7, 8])));
    fixture.must_apply(Op::RecoverCluster(RecoverCluster { id: "c.1.0".into(), coordinator: Some(peer(2)) }));
    assert!(fixture.catalog.staged.is_empty());
    // Nothing may conclude that it ended without a commit.
    assert!(fixture.catalog.write("open").is_none() && fixture.catalog.write("over").is_some());
    assert!(fixture.must_reject(Op::CommitWrite(commit("open", &[2])), Code::NotFound).contains("no write"));
    fixture.begin(staged("many", "v"));
    fixture.must_apply(Op::StageParts(stage("many", 2, &[9])));
    assert_eq!(fixture.commit(commit("many", &[])).rows, 10, "only what was put again");
}

#[test]
fn streams_of_a_forgotten_write_are_not_committed() {
    let mut fixture = named();
    fixture.begin(staged("many", "v"));
    fixture.must_apply(Op::StageParts(stage("many", 1, &[7, 8])));
    // The recovery of an earlier build left the streams.
    fixture.catalog.remove_row(&RowKey::Write("many".into()));
    fixture.begin(staged("many", "v"));
    fixture.must_apply(Op::StageParts(stage("many", 2, &[9])));
    assert_eq!(fixture.commit(commit("many", &[])).rows, 10);
}
