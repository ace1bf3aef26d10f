//! Results of queries.

use volley_common::Code;
use volley_common::wire::QUERY_RESULT_FEATURES;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{BeginWrite, DropTable, Quota, RestoreVersion, SetQuota, Table, WriteMode};

use super::helpers::*;
use crate::catalog::{Catalog, RowKey};

const RESULT: &str = "query_results/1";

/// Stores these parts as the result of a query.
fn store(fixture: &mut CatalogFixture, parts: &[u128]) {
    fixture.begin(BeginWrite { query_result: true, ..begin("w", RESULT, WriteMode::Create) });
    assert_eq!(fixture.commit(commit("w", parts)).version, 1);
}

fn result(catalog: &Catalog) -> Option<&Table> {
    catalog.query_result(&name(RESULT))
}

#[test]
fn result_is_read_by_its_tickets_alone() {
    let mut fixture = CatalogFixture::new();
    store(&mut fixture, &[1, 2]);
    let (catalog, table) = (&fixture.catalog, result(&fixture.catalog).unwrap());
    assert_eq!((table.version, table.rows, table.bytes), (1, 20, 200));
    assert_eq!(fixture.parts(table.id, 1), [1, 2]);
    assert_eq!(catalog.readable_version(table, Some(1), fixture.now).unwrap(), 1);
    assert_eq!((catalog.tables().count(), catalog.placed_replicas().len()), (0, 0));
    let parsed = RESULT.parse().unwrap();
    assert!(catalog.table_named(&parsed).is_none() && catalog.dropped_table(&name(RESULT), fixture.now).is_none());
    let error = catalog.require_table(&parsed).unwrap_err();
    assert!(!error.message.contains("restore"), "{error}");
    let restore = RestoreVersion { table: name(RESULT), table_id: table.id, base_version: 1, ..Default::default() };
    fixture.must_reject(Op::RestoreVersion(restore), Code::NotFound);
}

#[test]
fn result_expires_with_its_retention() {
    let mut fixture = CatalogFixture::new();
    store(&mut fixture, &[1, 2]);
    fixture.now += RETENTION;
    fixture.must_apply(Op::Expire(keep(u64::MAX)));
    assert_eq!(fixture.catalog.part_count(), 2);
    fixture.now += 1;
    assert!(fixture.catalog.needs_expiry(fixture.now, &keep(u64::MAX)));
    fixture.must_apply(Op::Expire(keep(u64::MAX)));
    assert_eq!((fixture.catalog.part_count(), fixture.catalog.all_tables().count()), (0, 0));
}

/// The log may still have their entries: a coordinator that does not know them would make tables of them.
#[test]
fn results_are_remembered_after_the_last_has_expired() {
    let mut fixture = CatalogFixture::new();
    fixture.begin(begin("another", "t", WriteMode::Create));
    assert_eq!(fixture.catalog.required_features(), 0);
    fixture.catalog.take_changes();
    store(&mut fixture, &[1]);
    assert!(fixture.catalog.take_changes().iter().any(|change| change.key == RowKey::Cluster));
    fixture.now += RETENTION + 1;
    fixture.must_apply(Op::Expire(keep(u64::MAX)));
    assert!(result(&fixture.catalog).is_none());
    assert_eq!(fixture.catalog.required_features(), QUERY_RESULT_FEATURES);
}

#[test]
fn dropped_result_expires_at_once() {
    let mut fixture = CatalogFixture::new();
    store(&mut fixture, &[1]);
    let drop = || Op::DropTable(DropTable { table: name(RESULT) });
    fixture.must_apply(drop());
    fixture.now += 1;
    fixture.must_apply(Op::Expire(keep(u64::MAX)));
    assert_eq!(fixture.catalog.part_count(), 0);
    fixture.must_reject(drop(), Code::NotFound);
}

#[test]
fn write_of_a_result_without_commit_leaves_nothing() {
    let mut fixture = CatalogFixture::new();
    fixture.begin(BeginWrite { query_result: true, ..begin("w", RESULT, WriteMode::Create) });
    fixture.now += LEASE + 1;
    fixture.must_apply(Op::Expire(keep(u64::MAX)));
    assert!(fixture.catalog.all_tables().next().is_none());
}

#[test]
fn result_is_a_table_of_its_own() {
    let mut fixture = CatalogFixture::new();
    fixture.put("w1", "t", WriteMode::Create, &[9]);
    let begin = |table, mode| BeginWrite { query_result: true, ..begin("w2", table, mode) };
    for mode in [WriteMode::Append, WriteMode::Replace] {
        fixture.must_reject(Op::BeginWrite(begin("t", mode)), Code::InvalidArgument);
    }
    fixture.must_reject(Op::BeginWrite(BeginWrite { query_result: true, ..staged("w2", "u") }), Code::InvalidArgument);
    fixture.must_reject(Op::BeginWrite(begin("t", WriteMode::Create)), Code::AlreadyExists);
}

#[test]
fn result_counts_in_no_quota() {
    let mut fixture = CatalogFixture::new();
    let quota = Quota { prefix: Vec::new(), bytes: 100, tables: 1 };
    fixture.must_apply(Op::SetQuota(SetQuota { quota: Some(quota) }));
    fixture.put("w1", "t", WriteMode::Create, &[9]);
    store(&mut fixture, &[1, 2]);
    let usage = fixture.catalog.quotas().next().unwrap();
    assert_eq!((usage.bytes, usage.tables), (100, 1));
}
