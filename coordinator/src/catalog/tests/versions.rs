use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{BeginWrite, Expire, PinVersion, TableSpec, WriteMode};
use volley_common::{Code, PartId};

use super::helpers::*;

fn expire() -> Op {
    Op::Expire(Expire { write_id_retention_ms: u64::MAX })
}

fn pin(table: u64, version: u64, until_ms: u64) -> Op {
    Op::PinVersion(PinVersion { table, version, until_ms })
}

fn readable(world: &World, version: u64) -> bool {
    let table = world.table("t");
    world.catalog.readable_version(table, Some(version), world.now).is_ok()
}

/// Version 1: {1}, 2: {1, 2}, 3 (replaces): {3}, 4: {3, 4}.
fn four_versions() -> World {
    let mut world = World::new();
    world.put("w1", "t", WriteMode::Create, &[1]);
    world.put("w2", "t", WriteMode::Append, &[2]);
    world.put("w3", "t", WriteMode::Replace, &[3]);
    world.put("w4", "t", WriteMode::Append, &[4]);
    world
}

#[test]
fn every_version_has_just_its_parts() {
    let world = four_versions();
    let id = world.table("t").id;
    let all: Vec<Vec<u128>> = (0..=5).map(|version| world.parts(id, version)).collect();
    assert_eq!(all, [vec![], vec![1], vec![1, 2], vec![3], vec![3, 4], vec![3, 4]]);
}

#[test]
fn replaced_versions_are_readable_for_the_retention_and_appended_ones_for_ever() {
    let mut world = four_versions();
    assert_eq!(world.catalog.readable_version(world.table("t"), None, world.now), Ok(4));
    world.now += RETENTION;
    assert!((1..=4).all(|version| readable(&world, version)));
    assert!(!readable(&world, 0) && !readable(&world, 5));
    assert!(!world.catalog.needs_expiry(world.now, u64::MAX));
    world.now += 1;
    assert!(world.catalog.needs_expiry(world.now, u64::MAX));
    for _ in 0..2 {
        assert!(!readable(&world, 1) && !readable(&world, 2));
        assert!(readable(&world, 3) && readable(&world, 4));
        world.done(expire());
    }
    assert_eq!(world.catalog.part_count(), 2);
    assert!(!world.catalog.needs_expiry(world.now, u64::MAX));
    let error = world.catalog.readable_version(world.table("t"), Some(1), world.now).unwrap_err();
    assert_eq!(error.code, Code::NotFound);
    assert!(error.message.contains("\"t\"") && error.message.ends_with("these are: 4, 3"), "{error}");
}

#[test]
fn a_pin_keeps_its_version_and_no_more() {
    let mut world = four_versions();
    let id = world.table("t").id;
    let until = world.now + 5 * RETENTION;
    world.done(pin(id, 1, until));
    world.now += RETENTION + 1;
    world.done(expire());
    assert!(readable(&world, 1) && !readable(&world, 2));
    assert_eq!(world.parts(id, 1), [1]);
    assert!(world.catalog.part(PartId(2)).is_none());
    assert!(!world.catalog.needs_expiry(world.now, u64::MAX));
    // Renewed while it is readable, also with an earlier end, which changes nothing.
    world.done(pin(id, 1, until - 1));
    world.now = until;
    assert!(readable(&world, 1) && !world.catalog.needs_expiry(world.now, u64::MAX));
    world.now += 1;
    assert!(!readable(&world, 1) && world.catalog.needs_expiry(world.now, u64::MAX));
    world.done(expire());
    assert!(world.catalog.part(PartId(1)).is_none());
    assert!(!world.catalog.needs_expiry(world.now, u64::MAX));
}

#[test]
fn only_readable_versions_can_be_pinned() {
    let mut world = four_versions();
    let id = world.table("t").id;
    world.now += RETENTION + 1;
    for (table, version) in [(id, 1), (id, 9), (77, 1)] {
        world.refused(pin(table, version, u64::MAX), Code::NotFound);
    }
    world.done(pin(id, 3, u64::MAX));
}

#[test]
fn a_pinned_version_outlives_the_drop() {
    let mut world = four_versions();
    let id = world.table("t").id;
    world.done(pin(id, 4, world.now + 5 * RETENTION));
    world.drop_table("t");
    world.now += RETENTION + 1;
    world.done(expire());
    assert_eq!(world.parts(id, 4), [3, 4]);
    world.now += 5 * RETENTION;
    world.done(expire());
    assert!(world.catalog.table(id).is_none());
    assert_eq!(world.catalog.part_count(), 0);
}

#[test]
fn a_version_is_kept_by_the_retention_it_was_made_with() {
    let mut world = World::new();
    world.put("w1", "t", WriteMode::Create, &[1]);
    world.begin(BeginWrite {
        spec: Some(TableSpec { retention_ms: 0, ..spec() }),
        ..begin("w2", "t", WriteMode::Replace)
    });
    world.commit(commit("w2", &[2]));
    world.put("w3", "t", WriteMode::Replace, &[3]);
    world.now += 1;
    world.done(expire());
    assert!(readable(&world, 1) && !readable(&world, 2));
    assert!(world.catalog.part(PartId(2)).is_none());
}

#[test]
fn an_empty_version_can_be_read_while_it_is_kept() {
    let mut world = World::new();
    world.put("w1", "t", WriteMode::Create, &[]);
    world.put("w2", "t", WriteMode::Replace, &[2]);
    assert!(readable(&world, 1));
    world.now += RETENTION + 1;
    assert!(!readable(&world, 1));
    world.done(expire());
    assert!(!world.catalog.needs_expiry(world.now, u64::MAX));
}
