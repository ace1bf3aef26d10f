//! Restored versions, dropped tables that come back, and the layouts of old versions.

use volley_common::Code;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::reply::Reply as Answer;
use volley_common::wire::catalog::{BeginWrite, PinVersion, RestoreVersion, Restored, Row, WriteMode, row};

use super::helpers::*;

fn restore(fixture: &CatalogFixture, table: &str, version: u64) -> RestoreVersion {
    let name = name(table);
    let parsed = table.parse().unwrap();
    let found = fixture.catalog.table_named(&parsed).or_else(|| fixture.catalog.dropped_table(&name, fixture.now));
    let (table_id, base_version) = found.map_or((0, 0), |table| (table.id, table.version));
    RestoreVersion { table: name, version, table_id, base_version, placement: Vec::new() }
}

fn must_restore(fixture: &mut CatalogFixture, table: &str, version: u64) -> Restored {
    let op = restore(fixture, table, version);
    match fixture.apply(Op::RestoreVersion(op)) {
        Answer::Restored(restored) => restored,
        other => panic!("{other:?}"),
    }
}

/// A table with two replaced versions: parts 1 and 2, then 3, then 4.
fn replaced() -> (CatalogFixture, u64) {
    let mut fixture = CatalogFixture::new();
    fixture.put("w1", "t", WriteMode::Replace, &[1, 2]);
    fixture.put("w2", "t", WriteMode::Replace, &[3]);
    fixture.put("w3", "t", WriteMode::Replace, &[4]);
    let id = fixture.table("t").id;
    (fixture, id)
}

#[test]
fn restored_version_is_a_new_one_with_the_old_parts() {
    let (mut fixture, id) = replaced();
    let restored = must_restore(&mut fixture, "t", 1);
    let outcome = restored.outcome.unwrap();
    assert_eq!((outcome.version, outcome.rows, outcome.parts), (4, 20, 2));
    assert_eq!((restored.restored, restored.replaced, restored.undropped), (1, 3, false));
    for (version, parts) in [(1, vec![1, 2]), (2, vec![3]), (3, vec![4]), (4, vec![1, 2])] {
        assert_eq!(fixture.parts(id, version), parts, "version {version}");
    }
    fixture.put("w4", "t", WriteMode::Append, &[5]);
    assert_eq!((fixture.parts(id, 5), fixture.table("t").rows), (vec![1, 2, 5], 30));
    let end = &fixture.table("t").replaced[2];
    assert_eq!((end.version, end.restored, end.at_ms), (4, 1, fixture.now));
}

#[test]
fn restored_parts_outlive_the_versions_between() {
    let (mut fixture, id) = replaced();
    must_restore(&mut fixture, "t", 1);
    fixture.now += RETENTION + 1;
    fixture.must_apply(Op::Expire(keep(1)));
    assert_eq!((fixture.parts(id, 4), fixture.catalog.part_count()), (vec![1, 2], 2));
    fixture.put("w9", "t", WriteMode::Replace, &[9]);
    assert_eq!(fixture.parts(id, 4), [1, 2]);
    fixture.now += RETENTION + 1;
    fixture.must_apply(Op::Expire(keep(1)));
    assert_eq!((fixture.parts(id, 5), fixture.catalog.part_count()), (vec![9], 1));
}

#[test]
fn version_that_shares_restored_parts_keeps_its_promise() {
    let (mut fixture, id) = replaced();
    fixture.now += 10;
    must_restore(&mut fixture, "t", 1);
    // A replace by a table without retention may not take the parts that version 1 was promised.
    let spec = volley_common::wire::catalog::TableSpec { retention_ms: 0, ..spec() };
    for write in ["w4", "w5"] {
        fixture.begin(BeginWrite { spec: Some(spec.clone()), ..begin(write, "t", WriteMode::Replace) });
        fixture.commit(commit(write, &[if write == "w4" { 5 } else { 6 }]));
    }
    fixture.now += RETENTION - 20;
    fixture.must_apply(Op::Expire(keep(1)));
    assert_eq!(fixture.catalog.readable_version(fixture.table("t"), Some(1), fixture.now).unwrap(), 1);
    assert_eq!(fixture.parts(id, 1), [1, 2]);
}

#[test]
fn dropped_table_comes_back_as_it_was() {
    let (mut fixture, id) = replaced();
    fixture.put("w4", "t", WriteMode::Append, &[5]);
    let before = fixture.table("t").clone();
    fixture.drop_table("t");
    fixture.now += RETENTION;
    fixture.must_apply(Op::Expire(keep(1)));
    let restored = must_restore(&mut fixture, "t", 0);
    assert!(restored.undropped && restored.outcome.unwrap().version == before.version);
    let after = fixture.table("t");
    assert_eq!((after.id, after.version, after.rows, after.dropped_ms), (id, before.version, before.rows, 0));
    assert_eq!(fixture.parts(id, before.version), [4, 5]);
    fixture.now += 10 * RETENTION;
    fixture.must_apply(Op::Expire(keep(1)));
    assert_eq!(fixture.parts(id, before.version), [4, 5]);
}

#[test]
fn drop_is_undone_only_while_kept_and_the_name_is_free() {
    let (mut fixture, _) = replaced();
    let message = fixture.must_reject(Op::RestoreVersion(restore(&fixture, "t", 0)), Code::FailedPrecondition);
    assert!(message.contains("name the version"), "{message}");
    fixture.drop_table("t");
    let undo = restore(&fixture, "t", 0);
    fixture.put("w9", "t", WriteMode::Create, &[9]);
    fixture.must_reject(Op::RestoreVersion(undo.clone()), Code::AlreadyExists);
    fixture.now += RETENTION + 1;
    fixture.must_apply(Op::Expire(keep(1)));
    fixture.drop_table("t");
    fixture.must_reject(Op::RestoreVersion(undo), Code::Aborted);
    fixture.now += RETENTION + 1;
    fixture.must_reject(Op::RestoreVersion(restore(&fixture, "t", 0)), Code::NotFound);
}

#[test]
fn old_version_of_a_dropped_table_is_restored_in_one_step() {
    let (mut fixture, id) = replaced();
    fixture.drop_table("t");
    let restored = must_restore(&mut fixture, "t", 2);
    assert!(restored.undropped);
    assert_eq!((restored.outcome.unwrap().version, fixture.parts(id, 4), fixture.parts(id, 3)), (4, vec![3], vec![4]));
}

#[test]
fn restoration_of_a_changed_table_is_refused() {
    let (mut fixture, _) = replaced();
    let planned = restore(&fixture, "t", 1);
    fixture.put("w4", "t", WriteMode::Append, &[5]);
    let message = fixture.must_reject(Op::RestoreVersion(planned), Code::Aborted);
    assert!(message.contains("\"t\""), "{message}");
    for (version, code) in [(4, Code::FailedPrecondition), (77, Code::NotFound)] {
        fixture.must_reject(Op::RestoreVersion(restore(&fixture, "t", version)), code);
    }
    fixture.now += RETENTION + 1;
    fixture.must_reject(Op::RestoreVersion(restore(&fixture, "t", 1)), Code::NotFound);
    fixture.must_reject(Op::RestoreVersion(restore(&fixture, "none", 1)), Code::NotFound);
}

#[test]
fn restored_sources_of_a_compaction_are_compacted_again() {
    let mut fixture = CatalogFixture::new();
    let puts = [("w1", 4), ("w2", 8), ("w3", 12)];
    fixture.put(puts[0].0, "t", WriteMode::Replace, &[puts[0].1]);
    for (write, part) in &puts[1..] {
        fixture.put(write, "t", WriteMode::Append, &[*part]);
    }
    let id = fixture.table("t").id;
    for (write, part) in [("m1", 100), ("m2", 200)] {
        let begin = compact(write, &fixture.table("t").clone(), &[4, 8, 12]);
        fixture.begin(begin);
        fixture.commit(compacted(write, &[(part, 3)], 0));
        let version = fixture.table("t").version;
        assert_eq!(fixture.parts(id, version), [part]);
        must_restore(&mut fixture, "t", 3);
    }
    for (version, parts) in [(3, vec![4, 8, 12]), (4, vec![100]), (5, vec![4, 8, 12]), (6, vec![200])] {
        assert_eq!(fixture.parts(id, version), parts, "version {version}");
    }
}

#[test]
fn number_of_restorations_within_the_retention_is_bounded() {
    let (mut fixture, id) = replaced();
    for turn in 0..64 {
        must_restore(&mut fixture, "t", 1);
        fixture.put(&format!("r{turn}"), "t", WriteMode::Replace, &[100 + turn]);
    }
    fixture.must_reject(Op::RestoreVersion(restore(&fixture, "t", 1)), Code::ResourceExhausted);
    assert_eq!(fixture.parts(id, 1), [1, 2]);
}

#[test]
fn version_of_an_unknown_layout_is_not_restored() {
    let (mut fixture, id) = replaced();
    // An earlier build recorded the end of version 1.
    let mut table = fixture.table("t").clone();
    table.replaced[0].at_ms = 0;
    fixture.catalog.insert_row(Row { row: Some(row::Row::Table(table)) });
    let restorable = |fixture: &CatalogFixture, version| {
        fixture.catalog.layout_to_restore(fixture.catalog.table(id).unwrap(), version)
    };
    let error = restorable(&fixture, 1).unwrap_err();
    assert!(error.code == Code::FailedPrecondition && error.message.contains("version 2 replaced it"), "{error}");
    assert_eq!(restorable(&fixture, 2).unwrap().schema, schema());
    // A drop keeps the columns, and compactions do.
    fixture.drop_table("t");
    let mut table = fixture.catalog.table(id).unwrap().clone();
    table.replaced.last_mut().unwrap().at_ms = 0;
    table.replaced[1].at_ms = 0;
    table.replaced[1].compaction = true;
    fixture.catalog.insert_row(Row { row: Some(row::Row::Table(table)) });
    assert!(restorable(&fixture, 3).is_ok() && restorable(&fixture, 2).is_ok() && restorable(&fixture, 1).is_err());
}

#[test]
fn versions_keep_the_layout_that_they_had() {
    let mut fixture = CatalogFixture::new();
    for (write, schema, part) in [("w1", "schema a", 1), ("w2", "schema a", 2), ("w3", "schema b", 3)] {
        fixture.begin(BeginWrite { schema: schema.into(), ..begin(write, "t", WriteMode::Replace) });
        fixture.commit(commit(write, &[part]));
    }
    let layouts = |fixture: &CatalogFixture| {
        let table = fixture.table("t");
        (1..=table.version).map(|version| fixture.catalog.layout_at(table, version).schema).collect::<Vec<_>>()
    };
    assert_eq!(layouts(&fixture), ["schema a", "schema a", "schema b"]);
    must_restore(&mut fixture, "t", 2);
    assert_eq!(layouts(&fixture), ["schema a", "schema a", "schema b", "schema a"]);
    let table = fixture.table("t").id;
    fixture.must_apply(Op::PinVersion(PinVersion { table, version: 3, until_ms: fixture.now + 9 * RETENTION }));
    for version in 5..9 {
        fixture.now += RETENTION + 1;
        fixture.put(&format!("p{version}"), "t", WriteMode::Replace, &[version]);
        fixture.must_apply(Op::Expire(keep(1)));
    }
    assert_eq!(fixture.catalog.layout_at(fixture.table("t"), 3).schema, "schema b");
    fixture.now += 10 * RETENTION;
    fixture.must_apply(Op::Expire(keep(1)));
    assert_eq!(fixture.catalog.layouts.len(), 0);
}
