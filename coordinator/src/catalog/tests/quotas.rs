//! Quotas of tables and bytes.

use volley_common::Code;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{CreateTable, Quota, RestoreVersion, SetQuota, WriteMode};

use super::helpers::*;

/// `bytes` and `tables` 0: no limit; both: no quota.
fn quota(prefix: &[&str], bytes: u64, tables: u32) -> Op {
    let prefix = prefix.iter().map(ToString::to_string).collect();
    Op::SetQuota(SetQuota { quota: Some(Quota { prefix, bytes, tables }) })
}

fn create(table: &str) -> Op {
    Op::CreateTable(CreateTable { table: name(table), spec: Some(spec()), schema: schema(), ..CreateTable::default() })
}

/// Bytes and tables that a quota counts.
fn used(fixture: &CatalogFixture, prefix: &[&str]) -> (u64, u64) {
    let prefix: Vec<String> = prefix.iter().map(ToString::to_string).collect();
    let usage = fixture.catalog.quotas().find(|usage| usage.quota.prefix == prefix).unwrap();
    (usage.bytes, usage.tables)
}

#[test]
fn quota_counts_tables_by_component_before_and_after_it_is_set() {
    let mut fixture = CatalogFixture::new();
    fixture.put("w1", "sales/a", WriteMode::Create, &[1, 2]);
    fixture.put("w2", "sales_old", WriteMode::Create, &[3]);
    for prefix in [&["sales"][..], &[], &["sales", "a"]] {
        fixture.must_apply(quota(prefix, 10_000, 10));
    }
    assert_eq!(
        (used(&fixture, &["sales"]), used(&fixture, &[]), used(&fixture, &["sales", "a"])),
        ((200, 1), (300, 2), (200, 1))
    );
    fixture.put("w3", "sales", WriteMode::Create, &[4]);
    fixture.put("w4", "sales/a", WriteMode::Append, &[5]);
    assert_eq!((used(&fixture, &["sales"]), used(&fixture, &[])), ((400, 2), (500, 3)));
    fixture.put("w5", "sales/a", WriteMode::Replace, &[6]);
    fixture.drop_table("sales");
    assert_eq!((used(&fixture, &["sales"]), used(&fixture, &[])), ((100, 1), (200, 2)));
    fixture.must_apply(quota(&["sales"], 0, 0));
    fixture.must_apply(quota(&["sales"], 0, 0));
    assert_eq!(fixture.catalog.quotas().count(), 2);
}

#[test]
fn write_over_the_quota_of_tables_is_refused_when_it_begins() {
    let mut fixture = CatalogFixture::new();
    fixture.must_apply(quota(&["sales"], 0, 1));
    fixture.put("w1", "sales/a", WriteMode::Create, &[1]);
    for mode in [WriteMode::Create, WriteMode::Replace] {
        let message = fixture.must_reject(Op::BeginWrite(begin("w2", "sales/b", mode)), Code::ResourceExhausted);
        assert!(message.contains("\"sales\" has 1 tables") && message.contains("sales/b"), "{message}");
    }
    fixture.must_reject(create("sales/b"), Code::ResourceExhausted);
    fixture.put("w3", "sales/a", WriteMode::Replace, &[2]);
    fixture.put("w4", "other", WriteMode::Create, &[3]);
    fixture.drop_table("sales/a");
    fixture.put("w5", "sales/b", WriteMode::Create, &[4]);
}

#[test]
fn concurrent_writes_do_not_exceed_the_quota_of_tables() {
    let mut fixture = CatalogFixture::new();
    fixture.must_apply(quota(&[], 0, 1));
    for (write, table) in [("w1", "a"), ("w2", "b")] {
        fixture.begin(begin(write, table, WriteMode::Replace));
    }
    fixture.commit(commit("w1", &[1]));
    let message = fixture.must_reject(Op::CommitWrite(commit("w2", &[2])), Code::ResourceExhausted);
    assert!(message.contains("/ has 1 tables"), "{message}");
}

#[test]
fn commit_over_the_quota_of_bytes_is_refused_with_the_figures() {
    let mut fixture = CatalogFixture::new();
    fixture.must_apply(quota(&["sales"], 350, 0));
    fixture.put("w1", "sales/a", WriteMode::Create, &[1, 2]);
    fixture.begin(begin("w2", "sales/a", WriteMode::Append));
    let message = fixture.must_reject(Op::CommitWrite(commit("w2", &[3, 4])), Code::ResourceExhausted);
    assert!(["200 bytes", "200", "350"].iter().all(|figure| message.contains(figure)), "{message}");
    assert!(fixture.catalog.is_write_open("w2"));
    fixture.must_apply(quota(&["sales"], 400, 0));
    fixture.commit(commit("w2", &[3, 4]));
    let message =
        fixture.must_reject(Op::BeginWrite(begin("w3", "sales/a", WriteMode::Append)), Code::ResourceExhausted);
    assert!(message.contains("400"), "a full prefix refuses before the rows are sent: {message}");
}

#[test]
fn table_over_its_quota_can_shrink() {
    let mut fixture = CatalogFixture::new();
    fixture.put("w1", "t", WriteMode::Create, &[1, 2, 3, 4]);
    fixture.must_apply(quota(&[], 100, 0));
    fixture.begin(begin("w2", "t", WriteMode::Replace));
    fixture.must_reject(Op::CommitWrite(commit("w2", &[5, 6, 7, 8, 9])), Code::ResourceExhausted);
    assert_eq!(fixture.commit(commit("w2", &[5, 6, 7])).rows, 30);
    assert_eq!(used(&fixture, &[]), (300, 1));
}

#[test]
fn restored_version_counts_against_the_quota() {
    let mut fixture = CatalogFixture::new();
    fixture.put("w1", "t", WriteMode::Create, &[1, 2, 3]);
    fixture.put("w2", "t", WriteMode::Replace, &[4]);
    fixture.must_apply(quota(&[], 200, 1));
    let restore = |fixture: &CatalogFixture, version| {
        let table = fixture.catalog.all_tables().next().unwrap();
        let (table_id, base_version) = (table.id, table.version);
        Op::RestoreVersion(RestoreVersion { table: name("t"), version, table_id, base_version, ..Default::default() })
    };
    let message = fixture.must_reject(restore(&fixture, 1), Code::ResourceExhausted);
    assert!(message.contains("100 bytes") && message.contains("200"), "{message}");
    fixture.drop_table("t");
    fixture.put("w3", "u", WriteMode::Create, &[5]);
    let message = fixture.must_reject(restore(&fixture, 0), Code::ResourceExhausted);
    assert!(message.contains("1 tables"), "{message}");
}

#[test]
fn quotas_have_valid_prefixes_and_are_bounded() {
    let mut fixture = CatalogFixture::new();
    fixture.must_reject(quota(&["a/b"], 1, 0), Code::InvalidArgument);
    fixture.must_reject(quota(&["a", ""], 1, 0), Code::InvalidArgument);
    fixture.must_reject(Op::SetQuota(SetQuota { quota: None }), Code::InvalidArgument);
    (0..10_000).for_each(|n| fixture.must_apply(quota(&[&format!("p{n}")], 1, 0)));
    fixture.must_reject_in_place(quota(&["one-more"], 1, 0), Code::ResourceExhausted);
    fixture.must_apply(quota(&["p0"], 7, 0));
    fixture.must_apply(quota(&["p1"], 0, 0));
    fixture.must_apply(quota(&["one-more"], 1, 0));
}
