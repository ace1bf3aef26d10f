//! Tables that expire.

use volley_common::Code;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::reply::Reply as Answer;
use volley_common::wire::catalog::{BeginWrite, CreateTable, RestoreVersion, TableSpec, WriteMode};
use volley_common::wire::{STATS_COLUMNS_FEATURES, TABLE_TTL_FEATURES};

use super::helpers::*;
use crate::catalog::{Catalog, RowKey, expires_ms};

const TTL: u64 = 300;

fn expiring(ttl_ms: u64) -> Option<TableSpec> {
    Some(TableSpec { ttl_ms, ..spec() })
}

fn create(table: &str, ttl_ms: u64) -> Op {
    let (table, spec) = (name(table), expiring(ttl_ms));
    Op::CreateTable(CreateTable { table, spec, schema: schema(), ..CreateTable::default() })
}

/// A put whose table expires, or does not.
fn put(fixture: &mut CatalogFixture, write: &str, mode: WriteMode, part: u128, ttl_ms: u64) {
    fixture.begin(BeginWrite { spec: expiring(ttl_ms), ..begin(write, "t", mode) });
    fixture.commit(commit(write, &[part]));
}

/// The tables that an `Expire` drops, by name.
fn expire(fixture: &mut CatalogFixture) -> Vec<String> {
    let limits = keep(u64::MAX);
    let needed = fixture.catalog.needs_expiry(fixture.now, &limits);
    let dropped: Vec<String> = match fixture.apply(Op::Expire(limits)) {
        Answer::Done(_) => Vec::new(),
        Answer::Expired(expired) => expired.tables.iter().map(|table| table.table.join("/")).collect(),
        other => panic!("{other:?}"),
    };
    assert!(needed || dropped.is_empty(), "the leader would not have proposed it");
    dropped
}

fn restore(fixture: &mut CatalogFixture, version: u64) {
    let found = fixture.catalog.all_tables().next().unwrap();
    let (table_id, base_version) = (found.id, found.version);
    let restore = RestoreVersion { table: name("t"), version, table_id, base_version, placement: Vec::new() };
    let answer = fixture.apply(Op::RestoreVersion(restore));
    assert!(matches!(answer, Answer::Restored(_)), "{answer:?}");
}

#[test]
fn table_is_dropped_so_long_after_its_last_write() {
    let mut fixture = CatalogFixture::new();
    fixture.apply(create("t", TTL));
    fixture.apply(create("lasting", 0));
    fixture.now += TTL;
    put(&mut fixture, "w", WriteMode::Append, 1, 0);
    assert_eq!(expires_ms(fixture.table("t")), Some(fixture.now + TTL), "an append counts, and changes no option");
    fixture.now += TTL;
    assert!(!fixture.catalog.needs_expiry(fixture.now, &keep(u64::MAX)));
    assert!(expire(&mut fixture).is_empty());
    fixture.now += 1;
    assert!(fixture.catalog.needs_expiry(fixture.now, &keep(u64::MAX)));
    let Answer::Expired(expired) = fixture.apply(Op::Expire(keep(u64::MAX))) else { panic!("nothing expired") };
    let [dropped] = expired.tables.as_slice() else { panic!("{expired:?}") };
    assert_eq!((dropped.table.as_slice(), dropped.ttl_ms, dropped.version, dropped.rows), (&name("t")[..], TTL, 2, 10));
    assert_eq!(dropped.changed_ms, fixture.now - TTL - 1);
    assert!(expire(&mut fixture).is_empty());
    assert_eq!(fixture.catalog.tables().count(), 1);
    assert!(expires_ms(fixture.table("lasting")).is_none());
}

#[test]
fn open_write_keeps_its_table() {
    for mode in [WriteMode::Append, WriteMode::Replace] {
        let mut fixture = CatalogFixture::new();
        fixture.apply(create("t", TTL));
        fixture.begin(begin("w", "t", mode));
        fixture.now += TTL + 1;
        assert!(!fixture.catalog.needs_expiry(fixture.now, &keep(u64::MAX)));
        assert!(expire(&mut fixture).is_empty(), "{mode:?}");
        assert_eq!(fixture.commit(commit("w", &[1])).version, 2);
    }
    let mut fixture = CatalogFixture::new();
    fixture.apply(create("t", TTL));
    fixture.begin(begin("w", "t", WriteMode::Append));
    fixture.now += LEASE + 1;
    assert_eq!(expire(&mut fixture), ["t"], "its lease has run out");
    fixture.must_reject(Op::CommitWrite(commit("w", &[1])), Code::Aborted);
}

#[test]
fn write_that_would_create_the_table_does_not_keep_it() {
    let mut fixture = CatalogFixture::new();
    fixture.begin(begin("w", "t", WriteMode::Create));
    fixture.apply(create("t", TTL));
    fixture.now += TTL + 1;
    assert_eq!(expire(&mut fixture), ["t"]);
    assert_eq!(fixture.commit(commit("w", &[1])).version, 1);
}

#[test]
fn drop_of_an_expired_table_can_be_undone() {
    let mut fixture = CatalogFixture::new();
    put(&mut fixture, "w", WriteMode::Create, 1, TTL);
    fixture.now += TTL + 1;
    assert_eq!(expire(&mut fixture), ["t"]);
    fixture.now += RETENTION;
    restore(&mut fixture, 0);
    assert_eq!((fixture.table("t").rows, expires_ms(fixture.table("t"))), (10, Some(fixture.now + TTL)));
    fixture.now += TTL + 1;
    assert_eq!(expire(&mut fixture), ["t"]);
    fixture.now += RETENTION + 1;
    assert!(expire(&mut fixture).is_empty());
    assert_eq!((fixture.catalog.part_count(), fixture.catalog.all_tables().count()), (0, 0));
}

#[test]
fn replace_changes_whether_a_table_expires() {
    let mut fixture = CatalogFixture::new();
    put(&mut fixture, "w1", WriteMode::Create, 1, TTL);
    put(&mut fixture, "w2", WriteMode::Replace, 2, 0);
    fixture.now += TTL + 1;
    assert!(expire(&mut fixture).is_empty());
    put(&mut fixture, "w3", WriteMode::Replace, 3, TTL);
    fixture.now += TTL + 1;
    assert_eq!(expire(&mut fixture), ["t"]);
}

#[test]
fn restored_version_never_expires_earlier() {
    let mut fixture = CatalogFixture::new();
    put(&mut fixture, "w1", WriteMode::Create, 1, TTL);
    put(&mut fixture, "w2", WriteMode::Replace, 2, 2 * TTL);
    restore(&mut fixture, 1);
    assert_eq!(expires_ms(fixture.table("t")), Some(fixture.now + 2 * TTL));
    put(&mut fixture, "w3", WriteMode::Replace, 3, 0);
    restore(&mut fixture, 1);
    assert_eq!(expires_ms(fixture.table("t")), None);
    put(&mut fixture, "w4", WriteMode::Replace, 4, TTL);
    restore(&mut fixture, 4);
    assert_eq!(expires_ms(fixture.table("t")), None, "version 4 did not expire");
}

#[test]
fn one_command_drops_a_bounded_number_of_tables() {
    let mut fixture = CatalogFixture::new();
    for number in 0..250 {
        fixture.apply(create(&format!("t{number:03}"), TTL));
    }
    fixture.now += TTL + 1;
    let dropped = [(); 4].map(|()| expire(&mut fixture).len());
    assert_eq!((dropped, fixture.catalog.tables().count()), ([100, 100, 50, 0], 0));
}

#[test]
fn options_that_the_catalog_has_had_are_required_from_then_on() {
    let mut fixture = CatalogFixture::new();
    fixture.put("w1", "u", WriteMode::Create, &[1]);
    assert_eq!(fixture.catalog.required_features(), 0);
    fixture.catalog.take_changes();
    put(&mut fixture, "w2", WriteMode::Create, 2, TTL);
    assert_eq!(fixture.catalog.required_features(), TABLE_TTL_FEATURES);
    assert!(fixture.catalog.take_changes().iter().any(|change| change.key == RowKey::Cluster));
    fixture.now += TTL + 1;
    expire(&mut fixture);
    fixture.now += RETENTION + 1;
    expire(&mut fixture);
    let mut loaded = Catalog::default();
    fixture.catalog.rows().for_each(|row| loaded.insert_row(row));
    assert_eq!(loaded.required_features(), TABLE_TTL_FEATURES, "the log may still have such a table");
    let spec = Some(TableSpec { stats_columns: vec!["a".into()], ..spec() });
    fixture.begin(BeginWrite { spec, ..begin("w3", "v", WriteMode::Create) });
    assert_eq!(fixture.catalog.required_features(), STATS_COLUMNS_FEATURES);
    put(&mut fixture, "w4", WriteMode::Create, 3, TTL);
    assert_eq!(fixture.catalog.required_features(), STATS_COLUMNS_FEATURES);
}
