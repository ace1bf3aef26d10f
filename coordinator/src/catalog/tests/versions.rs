use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{BeginWrite, PinVersion, Row, TableSpec, WriteMode, row};
use volley_common::{Code, PartId};

use super::helpers::*;

fn expire() -> Op {
    Op::Expire(keep(u64::MAX))
}

fn pin(table: u64, version: u64, until_ms: u64) -> Op {
    Op::PinVersion(PinVersion { table, version, until_ms })
}

fn readable(fixture: &CatalogFixture, version: u64) -> bool {
    let table = fixture.table("t");
    fixture.catalog.readable_version(table, Some(version), fixture.now).is_ok()
}

/// Version 1: {1}, 2: {1, 2}, 3 (replaces): {3}, 4: {3, 4}.
fn four_versions() -> CatalogFixture {
    let mut fixture = CatalogFixture::new();
    fixture.put("w1", "t", WriteMode::Create, &[1]);
    fixture.put("w2", "t", WriteMode::Append, &[2]);
    fixture.put("w3", "t", WriteMode::Replace, &[3]);
    fixture.put("w4", "t", WriteMode::Append, &[4]);
    fixture
}

#[test]
fn version_contains_exactly_its_parts() {
    let fixture = four_versions();
    let id = fixture.table("t").id;
    let all: Vec<Vec<u128>> = (0..=5).map(|version| fixture.parts(id, version)).collect();
    assert_eq!(all, [vec![], vec![1], vec![1, 2], vec![3], vec![3, 4], vec![3, 4]]);
}

#[test]
fn replaced_versions_expire_and_appended_ones_do_not() {
    let mut fixture = four_versions();
    assert_eq!(fixture.catalog.readable_version(fixture.table("t"), None, fixture.now), Ok(4));
    fixture.now += RETENTION;
    assert!((1..=4).all(|version| readable(&fixture, version)));
    assert!(!readable(&fixture, 0) && !readable(&fixture, 5));
    assert!(!fixture.catalog.needs_expiry(fixture.now, &keep(u64::MAX)));
    fixture.now += 1;
    assert!(fixture.catalog.needs_expiry(fixture.now, &keep(u64::MAX)));
    for _ in 0..2 {
        assert!(!readable(&fixture, 1) && !readable(&fixture, 2));
        assert!(readable(&fixture, 3) && readable(&fixture, 4));
        fixture.must_apply(expire());
    }
    assert_eq!(fixture.catalog.part_count(), 2);
    assert!(!fixture.catalog.needs_expiry(fixture.now, &keep(u64::MAX)));
    let error = fixture.catalog.readable_version(fixture.table("t"), Some(1), fixture.now).unwrap_err();
    assert_eq!(error.code, Code::NotFound);
    assert!(error.message.contains("\"t\"") && error.message.ends_with("the readable versions are 4, 3"), "{error}");
}

#[test]
fn pin_keeps_only_its_version() {
    let mut fixture = four_versions();
    let id = fixture.table("t").id;
    let until = fixture.now + 5 * RETENTION;
    fixture.must_apply(pin(id, 1, until));
    fixture.now += RETENTION + 1;
    fixture.must_apply(expire());
    assert!(readable(&fixture, 1) && !readable(&fixture, 2));
    assert_eq!(fixture.parts(id, 1), [1]);
    assert!(fixture.catalog.part(PartId(2)).is_none());
    assert!(!fixture.catalog.needs_expiry(fixture.now, &keep(u64::MAX)));
    // A pin can be renewed while its version is readable; an earlier end changes nothing.
    fixture.must_apply(pin(id, 1, until - 1));
    fixture.now = until;
    assert!(readable(&fixture, 1) && !fixture.catalog.needs_expiry(fixture.now, &keep(u64::MAX)));
    fixture.now += 1;
    assert!(!readable(&fixture, 1) && fixture.catalog.needs_expiry(fixture.now, &keep(u64::MAX)));
    fixture.must_apply(expire());
    assert!(fixture.catalog.part(PartId(1)).is_none());
    assert!(!fixture.catalog.needs_expiry(fixture.now, &keep(u64::MAX)));
}

#[test]
fn unreadable_version_cannot_be_pinned() {
    let mut fixture = four_versions();
    let id = fixture.table("t").id;
    fixture.now += RETENTION + 1;
    for (table, version) in [(id, 1), (id, 9), (77, 1)] {
        fixture.must_reject(pin(table, version, u64::MAX), Code::NotFound);
    }
    fixture.must_apply(pin(id, 3, u64::MAX));
}

#[test]
fn pinned_version_survives_a_drop() {
    let mut fixture = four_versions();
    let id = fixture.table("t").id;
    fixture.must_apply(pin(id, 4, fixture.now + 5 * RETENTION));
    fixture.drop_table("t");
    fixture.now += RETENTION + 1;
    fixture.must_apply(expire());
    assert_eq!(fixture.parts(id, 4), [3, 4]);
    fixture.now += 5 * RETENTION;
    fixture.must_apply(expire());
    assert!(fixture.catalog.table(id).is_none());
    assert_eq!(fixture.catalog.part_count(), 0);
}

#[test]
fn version_is_kept_for_its_own_retention() {
    let mut fixture = CatalogFixture::new();
    fixture.put("w1", "t", WriteMode::Create, &[1]);
    fixture.begin(BeginWrite {
        spec: Some(TableSpec { retention_ms: 0, ..spec() }),
        ..begin("w2", "t", WriteMode::Replace)
    });
    fixture.commit(commit("w2", &[2]));
    fixture.put("w3", "t", WriteMode::Replace, &[3]);
    fixture.now += 1;
    fixture.must_apply(expire());
    assert!(readable(&fixture, 1) && !readable(&fixture, 2));
    assert!(fixture.catalog.part(PartId(2)).is_none());
}

#[test]
fn layout_is_kept_while_an_earlier_version_is_readable() {
    let mut fixture = CatalogFixture::new();
    for (write, schema, part) in [("w1", "a", 1), ("w2", "a", 2), ("w3", "b", 3), ("w4", "b", 4), ("w5", "b", 5)] {
        fixture.begin(BeginWrite { schema: schema.into(), ..begin(write, "t", WriteMode::Replace) });
        fixture.commit(commit(write, &[part]));
    }
    // The end of version 1 was rounded up, so that it is the last to pass.
    let mut table = fixture.table("t").clone();
    table.replaced[0].until_ms += 100;
    fixture.catalog.insert_row(Row { row: Some(row::Row::Table(table)) });
    fixture.now += RETENTION + 1;
    fixture.must_apply(expire());
    assert!(readable(&fixture, 1) && !readable(&fixture, 2) && !readable(&fixture, 3));
    assert_eq!(fixture.catalog.layout_at(fixture.table("t"), 1).schema, "a");
    fixture.now += 100;
    fixture.must_apply(expire());
    assert_eq!((fixture.table("t").replaced.len(), fixture.catalog.layouts.len()), (0, 0));
}

#[test]
fn oldest_versions_end_early_if_layouts_change_very_often() {
    let mut fixture = CatalogFixture::new();
    let spec = TableSpec { retention_ms: u64::MAX, ..spec() };
    for version in 1..=1_200 {
        let schema = format!("schema {version}").into();
        let begin = BeginWrite { spec: Some(spec.clone()), schema, ..begin("w", "t", WriteMode::Replace) };
        let id = format!("w{version}");
        fixture.begin(BeginWrite { id: id.clone(), ..begin });
        fixture.commit(commit(&id, &[version]));
        fixture.now += 1;
        fixture.must_apply(expire());
    }
    assert_eq!((fixture.table("t").replaced.len(), fixture.catalog.layouts.len()), (1024, 1024));
    assert!(!readable(&fixture, 175) && readable(&fixture, 176));
    assert_eq!(fixture.catalog.layout_at(fixture.table("t"), 176).schema, "schema 176");
    assert_eq!(fixture.parts(fixture.table("t").id, 176), [176]);
    assert_eq!(fixture.catalog.part_count(), 1025);
}

#[test]
fn empty_version_is_readable_until_it_expires() {
    let mut fixture = CatalogFixture::new();
    fixture.put("w1", "t", WriteMode::Create, &[]);
    fixture.put("w2", "t", WriteMode::Replace, &[2]);
    assert!(readable(&fixture, 1));
    fixture.now += RETENTION + 1;
    assert!(!readable(&fixture, 1));
    fixture.must_apply(expire());
    assert!(!fixture.catalog.needs_expiry(fixture.now, &keep(u64::MAX)));
}

#[test]
fn table_that_is_replaced_often_keeps_a_short_row() {
    let mut fixture = CatalogFixture::new();
    let mut readable = Vec::new();
    for version in 1..=3_000 {
        fixture.now += u64::from(version % 2 == 0);
        fixture.put(&format!("w{version}"), "t", WriteMode::Replace, &[version]);
        readable.push((version as u64, fixture.now));
        if version % 100 == 0 {
            fixture.must_apply(Op::Expire(keep(u64::MAX)));
        }
    }
    let table = fixture.table("t");
    assert!(table.replaced.len() < 64 + 64 + 10, "{} entries", table.replaced.len());
    // Every version is readable for its retention, and hardly longer.
    for window in readable.windows(2) {
        let ((version, _), (_, replaced_ms)) = (window[0], window[1]);
        let is_readable = |now| fixture.catalog.is_readable(table, version, now);
        if version >= table.oldest {
            assert!(is_readable(replaced_ms + RETENTION), "version {version}");
        }
        assert!(!is_readable(replaced_ms + RETENTION + RETENTION / 30), "version {version}");
    }
    assert!(fixture.catalog.part_count() < 2_400, "{} parts", fixture.catalog.part_count());
}
