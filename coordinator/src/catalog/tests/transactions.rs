use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{
    AbortWrite, BeginWrite, Clear, CommitWrite, Expire, Quota, RecoverCluster, RenewWrite, SetQuota, StageParts,
    TableSpec, WriteMode, WriteState,
};
use volley_common::{Code, TransactionId};

use super::helpers::*;
use crate::catalog::{Catalog, RowKey};

fn id(number: u32) -> String {
    transaction(number, 1_000_000)
}

fn write_id(transaction: &str, table: &str) -> String {
    transaction.parse::<TransactionId>().unwrap().write_id(&name(table))
}

fn expire() -> Op {
    Op::Expire(keep(10_000))
}

/// The code and the message with which a transaction was aborted.
fn abort_of(fixture: &CatalogFixture, id: &str) -> (Code, String) {
    let abort = fixture.catalog.transaction(id).unwrap().abort.clone().unwrap();
    (Code::from_i32(abort.code), abort.message)
}

#[test]
fn commit_makes_all_tables_visible_at_once() {
    let mut fixture = CatalogFixture::new();
    fixture.put("w", "old", WriteMode::Create, &[1]);
    let id = id(1);
    fixture.put_in(&id, "new/a", WriteMode::Create, &[2, 3]);
    fixture.put_in(&id, "new/b", WriteMode::Replace, &[4]);
    fixture.put_in(&id, "old", WriteMode::Append, &[5]);
    assert_eq!((fixture.catalog.tables().count(), fixture.table("old").rows), (1, 10));
    let ended = fixture.end(&id, true);
    assert_eq!((ended.state(), ended.abort, ended.writes.len()), (WriteState::Committed, None, 0));
    let rows = |table: &str| (fixture.table(table).version, fixture.table(table).rows);
    assert_eq!((rows("new/a"), rows("new/b"), rows("old")), ((1, 20), (1, 10), (2, 20)));
    let ids = [fixture.table("new/a").id, fixture.table("new/b").id, fixture.table("old").id];
    assert_eq!(ids, [2, 3, 1], "new tables have ids of their own");
    assert_eq!(fixture.parts(3, 1), [4]);
    let outcome = fixture.catalog.write(&write_id(&id, "new/a")).unwrap().outcome.clone().unwrap();
    assert_eq!((outcome.version, outcome.rows), (1, 20));
    fixture.put("x", "after", WriteMode::Create, &[9]);
    assert_eq!(fixture.table("after").id, 4);
}

#[test]
fn conflict_on_one_table_rolls_all_back() {
    let mut fixture = CatalogFixture::new();
    fixture.put("w", "gone", WriteMode::Create, &[1]);
    let rolled_back = |fixture: &mut CatalogFixture, number: u32, code: Code, why: &str| {
        let ended = fixture.end(&id(number), true);
        assert_eq!(ended.state(), WriteState::Aborted);
        let (found, message) = abort_of(fixture, &id(number));
        assert!(found == code && message.contains(why), "{message}");
        let first = fixture.catalog.write(&write_id(&id(number), "first")).unwrap();
        assert!(first.state() == WriteState::Aborted && first.abort_reason.contains(why), "{}", first.abort_reason);
        assert!(fixture.catalog.staged.is_empty() && fixture.catalog.transactions.is_empty());
    };
    for (number, table, mode) in
        [(1, "taken", WriteMode::Create), (2, "gone", WriteMode::Append), (3, "few", WriteMode::Create)]
    {
        fixture.put_in(&id(number), "first", WriteMode::Create, &[100 * u128::from(number)]);
        fixture.put_in(&id(number), table, mode, &[100 * u128::from(number) + 1]);
        match number {
            1 => drop(fixture.put("x", "taken", WriteMode::Create, &[2])),
            2 => fixture.drop_table("gone"),
            _ => {
                let spec = Some(TableSpec { min_copies: 3, ..spec() });
                let mut write = fixture.catalog.write(&write_id(&id(3), "few")).unwrap().into_owned();
                write.spec = spec;
                fixture.catalog.upsert_write(write);
            }
        }
        let (code, why) = [
            (Code::AlreadyExists, "\"taken\" exists already"),
            (Code::Aborted, "\"gone\" was dropped"),
            (Code::FailedPrecondition, "2 copies"),
        ][number as usize - 1];
        rolled_back(&mut fixture, number, code, why);
    }
    assert_eq!(fixture.catalog.tables().map(|table| table.name.join("/")).collect::<Vec<_>>(), ["taken"]);
}

#[test]
fn repeated_end_is_answered_as_the_first() {
    let mut fixture = CatalogFixture::new();
    fixture.put_in(&id(1), "t", WriteMode::Create, &[1]);
    let committed = fixture.end(&id(1), true);
    fixture.now += 10;
    assert_eq!(fixture.end(&id(1), true), committed);
    assert_eq!(fixture.table("t").version, 1);
    assert!(fixture.must_reject(end(&id(1), false), Code::FailedPrecondition).contains("committed already"));
    fixture.put_in(&id(2), "u", WriteMode::Create, &[2]);
    let rolled_back = fixture.end(&id(2), false);
    assert_eq!(fixture.end(&id(2), false), rolled_back);
    assert_eq!(fixture.end(&id(2), true), rolled_back, "a commit after a rollback does not commit");
    assert_eq!(abort_of(&fixture, &id(2)), (Code::Aborted, "its client asked for it".into()));
    assert_eq!(fixture.catalog.tables().count(), 1);
    for ended in [id(1), id(2)] {
        let refused = Op::BeginWrite(begin_in(&ended, "v", WriteMode::Create));
        let code = if ended == id(1) { Code::FailedPrecondition } else { Code::Aborted };
        fixture.must_reject(refused, code);
        let late = Op::StageParts(stage_in(&ended, if ended == id(1) { "t" } else { "u" }, 77, &[9]));
        fixture.must_reject(late, code);
    }
}

#[test]
fn transaction_is_its_principals_own() {
    let mut fixture = CatalogFixture::new();
    fixture.put_in(&id(1), "t", WriteMode::Create, &[1]);
    let of_eve = BeginWrite { principal: "eve".into(), ..begin_in(&id(1), "u", WriteMode::Create) };
    fixture.must_reject(Op::BeginWrite(of_eve), Code::NotFound);
    let Op::EndTransaction(command) = end(&id(1), true) else { panic!() };
    let command = |principal: &str| {
        Op::EndTransaction(volley_common::wire::catalog::EndTransaction {
            principal: principal.into(),
            ..command.clone()
        })
    };
    fixture.must_reject(command("eve"), Code::NotFound);
    fixture.must_reject(command(""), Code::NotFound);
    fixture.must_reject(end(&id(2), true), Code::NotFound);
    assert_eq!(fixture.end(&id(1), true).state(), WriteState::Committed);
}

#[test]
fn several_puts_join_one_write_and_keep_their_order() {
    let mut fixture = CatalogFixture::new();
    fixture.put_in(&id(1), "t", WriteMode::Create, &[8, 4]);
    let known = fixture.begin(begin_in(&id(1), "t", WriteMode::Create));
    assert_eq!(known.id, write_id(&id(1), "t"));
    fixture.must_apply(Op::StageParts(stage_in(&id(1), "t", 2, &[6])));
    fixture.must_apply(Op::StageParts(stage_in(&id(1), "t", 2, &[6])));
    assert_eq!(fixture.catalog.transaction(&id(1)).unwrap().writes.len(), 1);
    fixture.end(&id(1), true);
    assert_eq!(fixture.parts(fixture.table("t").id, 1), [8, 4, 6]);
}

#[test]
fn write_without_rows_is_planned_anew_by_a_put_of_another_kind() {
    let mut fixture = CatalogFixture::new();
    fixture.put("w", "t", WriteMode::Create, &[1]);
    let begin = |attempt, mode| BeginWrite { attempt, ..begin_in(&id(1), "t", mode) };
    let stage = |attempt, stream, part| StageParts { attempt, ..stage_in(&id(1), "t", stream, &[part]) };
    fixture.begin(begin(1, WriteMode::Replace));
    let unaware = Op::BeginWrite(begin(2, WriteMode::Append));
    assert!(fixture.must_reject(unaware, Code::Aborted).contains("while this one was planned"));
    let anew = |attempt, mode| BeginWrite { replaces_attempt: 1, ..begin(attempt, mode) };
    assert_eq!(fixture.begin(anew(2, WriteMode::Append)).mode(), WriteMode::Append);
    let late = StageParts { only_first: true, ..stage(1, 5, 2) };
    assert!(fixture.must_reject(Op::StageParts(late), Code::Aborted).contains("put the rows again"));
    fixture.must_apply(Op::StageParts(stage(2, 6, 3)));
    // What was staged keeps its plan.
    let later = BeginWrite { replaces_attempt: 2, ..begin(3, WriteMode::Replace) };
    fixture.must_reject(Op::BeginWrite(later), Code::Aborted);
    assert_eq!(fixture.begin(begin(2, WriteMode::Append)).attempt, 2);
    fixture.end(&id(1), true);
    assert_eq!(fixture.parts(1, 2), [1, 3]);
}

#[test]
fn put_that_creates_or_replaces_must_be_the_first() {
    let mut fixture = CatalogFixture::new();
    let only_first = |table: &str| {
        Op::StageParts(StageParts { only_first: true, ..stage_in(&id(1), table, 9, &[u128::from(table.len() as u32)]) })
    };
    fixture.begin(begin_in(&id(1), "new", WriteMode::Create));
    fixture.begin(begin_in(&id(1), "whole", WriteMode::Replace));
    fixture.must_apply(Op::StageParts(stage_in(&id(1), "new", 1, &[])));
    fixture.must_apply(Op::StageParts(stage_in(&id(1), "whole", 1, &[11])));
    assert!(fixture.must_reject(only_first("new"), Code::AlreadyExists).contains("\"new\""));
    assert!(fixture.must_reject(only_first("whole"), Code::FailedPrecondition).contains("\"whole\""));
    fixture.begin(begin_in(&id(1), "first", WriteMode::Replace));
    fixture.must_apply(only_first("first"));
    fixture.end(&id(1), true);
    assert_eq!((fixture.table("new").rows, fixture.table("whole").rows, fixture.table("first").rows), (0, 10, 10));
}

#[test]
fn table_whose_puts_failed_stays_as_it_was() {
    let mut fixture = CatalogFixture::new();
    fixture.put("w", "kept", WriteMode::Create, &[1]);
    fixture.put_in(&id(1), "t", WriteMode::Create, &[2]);
    fixture.begin(begin_in(&id(1), "kept", WriteMode::Replace));
    fixture.begin(begin_in(&id(1), "never", WriteMode::Create));
    assert_eq!(fixture.end(&id(1), true).state(), WriteState::Committed);
    assert_eq!((fixture.table("kept").version, fixture.table("kept").rows, fixture.table("t").rows), (1, 10, 10));
    let failed = fixture.catalog.write(&write_id(&id(1), "never")).unwrap();
    assert!(failed.abort_reason.contains("no put of it succeeded"), "{}", failed.abort_reason);
    assert_eq!(fixture.catalog.open_write_count(), 0);
}

#[test]
fn write_of_a_transaction_ends_with_it_only() {
    let mut fixture = CatalogFixture::new();
    fixture.put_in(&id(1), "t", WriteMode::Create, &[1]);
    let write = write_id(&id(1), "t");
    let commit = Op::CommitWrite(CommitWrite { write: write.clone(), ..CommitWrite::default() });
    assert!(fixture.must_reject(commit, Code::FailedPrecondition).contains(&id(1)));
    let abort = Op::AbortWrite(AbortWrite { write: write.clone(), ..AbortWrite::default() });
    fixture.must_reject(abort, Code::FailedPrecondition);
    fixture.must_reject(Op::BeginWrite(staged(&write, "t")), Code::InvalidArgument);
    let not_staged = BeginWrite { staged: false, ..begin_in(&id(1), "u", WriteMode::Create) };
    fixture.must_reject(Op::BeginWrite(not_staged), Code::InvalidArgument);
    let other_table = BeginWrite { id: write, ..begin_in(&id(1), "u", WriteMode::Create) };
    fixture.must_reject(Op::BeginWrite(other_table), Code::InvalidArgument);
    let foreign = BeginWrite { transaction: "w".into(), ..begin_in(&id(1), "u", WriteMode::Create) };
    fixture.must_reject(Op::BeginWrite(foreign), Code::InvalidArgument);
    let ahead = transaction(5, 1_000_000 + 3_600_000);
    let message = fixture.must_reject(Op::BeginWrite(begin_in(&ahead, "u", WriteMode::Create)), Code::InvalidArgument);
    assert!(message.contains("clock"), "{message}");
}

#[test]
fn lease_of_one_write_keeps_the_transaction_open() {
    let mut fixture = CatalogFixture::new();
    fixture.put_in(&id(1), "a", WriteMode::Create, &[1]);
    fixture.put_in(&id(1), "b", WriteMode::Create, &[2]);
    fixture.now += LEASE;
    fixture.must_apply(Op::RenewWrite(RenewWrite { write: write_id(&id(1), "b"), lease_ms: LEASE }));
    fixture.now += LEASE;
    assert!(!fixture.catalog.needs_expiry(fixture.now, &keep(10_000)));
    fixture.must_apply(expire());
    assert!(fixture.catalog.is_write_open(&write_id(&id(1), "a")), "its parts are kept");
    fixture.now += 1;
    assert!(fixture.catalog.needs_expiry(fixture.now, &keep(10_000)));
    fixture.must_apply(expire());
    assert!(!fixture.catalog.needs_expiry(fixture.now, &keep(10_000)));
    let (code, message) = abort_of(&fixture, &id(1));
    assert!(code == Code::Aborted && message.contains("lease ran out"), "{message}");
    assert!(!fixture.catalog.is_write_open(&write_id(&id(1), "a")));
    assert_eq!(fixture.end(&id(1), true).state(), WriteState::Aborted);
}

#[test]
fn what_is_forgotten_is_neither_committed_nor_continued() {
    let mut fixture = CatalogFixture::new();
    let (aborted, committed, idle) = (transaction(1, 1_000_005), transaction(2, 1_000_009), transaction(3, 1_000_005));
    let check = |fixture: &CatalogFixture, id: &str| fixture.catalog.check_not_forgotten(id.parse().unwrap());
    check(&fixture, &idle).unwrap();
    assert!(!fixture.catalog.has_had_transactions());
    fixture.put_in(&aborted, "t", WriteMode::Create, &[1]);
    fixture.put_in(&committed, "u", WriteMode::Create, &[2]);
    assert!(fixture.catalog.has_had_transactions());
    fixture.end(&aborted, false);
    fixture.end(&committed, true);
    check(&fixture, &idle).unwrap();
    fixture.now += 10_001;
    fixture.must_apply(expire());
    assert!(fixture.catalog.transaction(&aborted).is_none() && fixture.catalog.transaction(&committed).is_none());
    for id in [&aborted, &idle] {
        assert_eq!(check(&fixture, id).unwrap_err().code, Code::FailedPrecondition);
        fixture.must_reject(Op::BeginWrite(begin_in(id, "v", WriteMode::Create)), Code::FailedPrecondition);
    }
    check(&fixture, &committed).expect("a commit that is repeated very late is answered truly");
    fixture.put_in(&transaction(4, 1_000_006), "v", WriteMode::Create, &[3]);
}

#[test]
fn ended_transactions_are_bounded_by_number() {
    let mut fixture = CatalogFixture::new();
    for number in 1..9 {
        fixture.put_in(&id(number), "t", WriteMode::Replace, &[u128::from(number)]);
        fixture.end(&id(number), true);
    }
    let limits = Expire { max_finished_writes: 3, ..keep(u64::MAX) };
    assert!(fixture.catalog.needs_expiry(fixture.now, &limits));
    fixture.must_apply(Op::Expire(limits));
    assert!(!fixture.catalog.needs_expiry(fixture.now, &limits));
    assert_eq!((1..9).filter(|number| fixture.catalog.transaction(&id(*number)).is_some()).count(), 3);
}

#[test]
fn quota_counts_all_tables_of_a_commit() {
    let mut fixture = CatalogFixture::new();
    let quota = |bytes, tables| Op::SetQuota(SetQuota { quota: Some(Quota { prefix: name("sales"), bytes, tables }) });
    for (number, bytes, tables, committed) in [(1, 250, 0, false), (2, 0, 1, false), (3, 300, 2, true)] {
        fixture.must_apply(quota(bytes, tables));
        fixture.put_in(
            &id(number),
            "sales/a",
            WriteMode::Create,
            &[10 * u128::from(number), 10 * u128::from(number) + 1],
        );
        fixture.put_in(&id(number), "sales/b", WriteMode::Create, &[10 * u128::from(number) + 2]);
        let ended = fixture.end(&id(number), true);
        assert_eq!(ended.state() == WriteState::Committed, committed, "{ended:?}");
        assert_eq!(fixture.catalog.tables().count(), if committed { 2 } else { 0 });
    }
    assert_eq!(abort_of(&fixture, &id(1)).0, Code::ResourceExhausted);
    // One table shrinks by as much as the other grows.
    fixture.must_apply(quota(301, 2));
    fixture.put_in(&id(4), "sales/a", WriteMode::Replace, &[50]);
    fixture.put_in(&id(4), "sales/b", WriteMode::Append, &[51]);
    assert_eq!(fixture.end(&id(4), true).state(), WriteState::Committed);
}

#[test]
fn tables_of_a_transaction_are_limited() {
    let mut fixture = CatalogFixture::new();
    for table in 0..256 {
        fixture.begin(begin_in(&id(1), &format!("t{table}"), WriteMode::Create));
    }
    let one_more = Op::BeginWrite(begin_in(&id(1), "more", WriteMode::Create));
    let message = fixture.must_reject_in_place(one_more, Code::ResourceExhausted);
    assert!(message.contains("256 tables"), "{message}");
    fixture.begin(begin_in(&id(1), "t0", WriteMode::Create));
}

#[test]
fn recovered_or_cleared_catalog_forgets_open_transactions() {
    for op in [Op::RecoverCluster(RecoverCluster { id: "d".into(), coordinator: None }), Op::Clear(Clear {})] {
        let mut fixture = CatalogFixture::new();
        fixture.put_in(&id(1), "t", WriteMode::Create, &[1]);
        fixture.must_apply(op);
        assert!(fixture.catalog.transaction(&id(1)).is_none() && fixture.catalog.open_write_count() == 0);
        fixture.must_reject(end(&id(1), true), Code::NotFound);
        let lost: TransactionId = id(1).parse().unwrap();
        fixture.catalog.check_not_forgotten(lost).expect_err("its rows are lost");
        fixture.must_reject(Op::BeginWrite(begin_in(&id(1), "u", WriteMode::Create)), Code::FailedPrecondition);
        fixture.now += 60_001;
        fixture.put_in(&transaction(2, fixture.now), "v", WriteMode::Create, &[2]);
    }
}

#[test]
fn cleared_catalog_refuses_no_later_transaction() {
    let mut fixture = CatalogFixture::new();
    fixture.put_in(&id(1), "t", WriteMode::Create, &[1]);
    fixture.must_apply(Op::Clear(Clear {}));
    fixture.put_in(&transaction(2, 1_000_001), "t", WriteMode::Create, &[2]);
    assert_eq!(fixture.end(&transaction(2, 1_000_001), true).state(), WriteState::Committed);
}

#[test]
fn write_that_outlives_its_committed_transaction_is_not_begun_again() {
    let mut fixture = CatalogFixture::new();
    fixture.put_in(&id(1), "t", WriteMode::Create, &[1]);
    fixture.end(&id(1), true);
    fixture.catalog.remove_row(&RowKey::Transaction(id(1)));
    let again = Op::BeginWrite(begin_in(&id(1), "t", WriteMode::Append));
    assert!(fixture.must_reject(again, Code::FailedPrecondition).contains("committed already"));
}

#[test]
fn rows_of_transactions_are_loaded_from_a_snapshot() {
    let mut fixture = CatalogFixture::new();
    fixture.put_in(&id(1), "t", WriteMode::Create, &[1]);
    fixture.put_in(&id(2), "u", WriteMode::Create, &[2]);
    fixture.put_in(&id(3), "v", WriteMode::Create, &[3]);
    fixture.end(&id(2), true);
    fixture.end(&id(3), false);
    let mut loaded = Catalog::default();
    fixture.catalog.rows().for_each(|row| loaded.insert_row(row));
    assert!(loaded.rows().eq(fixture.catalog.rows()));
    let mut restored = CatalogFixture { catalog: loaded, now: fixture.now };
    for number in 1..4 {
        assert_eq!(restored.end(&id(number), true), fixture.end(&id(number), true));
    }
    assert_eq!(restored.table("t").rows, 10);
}
