//! What comes too late for a staged write: puts, streams and commits with the id of one that has ended.

use volley_common::Code;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{
    AbortWrite, BeginWrite, CommitWrite, RecoverCluster, RenewWrite, StageParts, WriteMode, WriteState,
};

use super::helpers::*;
use crate::catalog::{Catalog, RowKey};

/// The command of `begin_write`.
fn begin_write(id: &str, table: &str, attempt: u64) -> BeginWrite {
    BeginWrite { fenced: true, attempt, ..staged(id, table) }
}

/// A put that was planned when the staged write of its id was open.
fn join(id: &str, table: &str) -> BeginWrite {
    BeginWrite { fenced: true, staged: true, attempt: 9, ..begin(id, table, WriteMode::Replace) }
}

/// The command of `commit_write`.
fn commit_write(id: &str) -> CommitWrite {
    CommitWrite { write: id.into(), ..CommitWrite::default() }
}

fn abort(id: &str) -> Op {
    Op::AbortWrite(AbortWrite { write: id.into(), reason: "a test".into(), attempt: 0 })
}

fn recover() -> Op {
    Op::RecoverCluster(RecoverCluster { id: "c.1.0".into(), coordinator: None })
}

/// Puts with the id of the write, planned before or after its end, are refused with this word, and so is all else.
fn refuses_all(fixture: &mut CatalogFixture, id: &str, table: &str, word: &str) {
    for op in [
        Op::BeginWrite(begin(id, table, WriteMode::Replace)),
        Op::BeginWrite(begin(id, "another/table", WriteMode::Create)),
        Op::BeginWrite(join(id, table)),
        Op::StageParts(stage(id, 90, &[900])),
        Op::RenewWrite(RenewWrite { write: id.into(), lease_ms: LEASE }),
        Op::CommitWrite(commit_write(id)),
        Op::CommitWrite(commit(id, &[901])),
    ] {
        let message = fixture.must_reject(op, Code::Aborted);
        assert!(message.contains(word) && message.contains("begin another write"), "{message}");
    }
}

#[test]
fn aborted_write_is_followed_by_no_put_of_its_id() {
    let mut fixture = CatalogFixture::new();
    assert!(fixture.begin(begin_write("w", "t", 7)).fenced);
    fixture.must_apply(Op::StageParts(stage("w", 1, &[1, 2])));
    fixture.must_apply(abort("w"));
    refuses_all(&mut fixture, "w", "t", "a test");
    let mut loaded = Catalog::default();
    fixture.catalog.rows().for_each(|row| loaded.insert_row(row));
    assert!(loaded.rows().eq(fixture.catalog.rows()));
    refuses_all(&mut CatalogFixture { catalog: loaded, now: fixture.now }, "w", "t", "a test");
    assert_eq!(fixture.catalog.tables().count(), 0);
    fixture.must_apply(abort("w"));
    // Begun again, it has only what is staged from then on.
    assert_eq!(fixture.begin(begin_write("w", "t", 8)).state(), WriteState::Open);
    fixture.must_apply(Op::StageParts(stage("w", 2, &[3])));
    assert_eq!(fixture.commit(commit_write("w")).rows, 10);
    assert_eq!(fixture.begin(begin("w", "t", WriteMode::Replace)).state(), WriteState::Committed);
}

#[test]
fn expired_write_refuses_puts_until_its_id_is_forgotten() {
    let mut fixture = CatalogFixture::new();
    fixture.begin(begin_write("w", "t", 7));
    fixture.must_apply(Op::StageParts(stage("w", 1, &[1])));
    fixture.now += LEASE + 1;
    // Its lease is over, but nothing has ended it.
    assert_eq!(fixture.begin(join("w", "t")).attempt, 7);
    fixture.now += LEASE + 1;
    fixture.must_apply(Op::Expire(keep(10_000)));
    refuses_all(&mut fixture, "w", "t", "lease ran out");
    fixture.now += 10_001;
    fixture.must_apply(Op::Expire(keep(10_000)));
    assert!(fixture.catalog.write("w").is_none());
    assert!(!fixture.begin(begin("w", "t", WriteMode::Replace)).staged, "an id like any other");
}

#[test]
fn put_joins_a_staged_write_and_begins_none() {
    let mut fixture = CatalogFixture::new();
    let message = fixture.must_reject(Op::BeginWrite(join("w", "t")), Code::Aborted);
    assert!(message.contains("\"w\" has ended"), "{message}");
    fixture.begin(begin_write("w", "t", 7));
    let joined = fixture.begin(join("w", "t"));
    assert_eq!((joined.state(), joined.staged, joined.attempt), (WriteState::Open, true, 7));
    assert!(fixture.begin(begin("w", "t", WriteMode::Replace)).staged, "planned before the write began");
    fixture.must_apply(Op::StageParts(stage("w", 1, &[1])));
    fixture.commit(commit_write("w"));
    assert_eq!(fixture.begin(join("w", "t")).state(), WriteState::Committed);
    // Of a write that was begun while a coordinator was of an earlier version nothing is remembered but that it ended.
    fixture.begin(staged("old", "t"));
    fixture.must_apply(abort("old"));
    fixture.must_reject(Op::BeginWrite(join("old", "t")), Code::Aborted);
    assert!(!fixture.begin(begin("old", "t", WriteMode::Replace)).staged);
}

#[test]
fn stream_of_an_earlier_write_of_the_id_is_refused() {
    let mut fixture = CatalogFixture::new();
    fixture.begin(begin_write("w", "t", 7));
    fixture.must_apply(abort("w"));
    fixture.begin(begin_write("w", "t", 8));
    // It may have begun as a put that joined the write: the write keeps its attempt.
    fixture.begin(join("w", "t"));
    let begun = |begun, stream, part| Op::StageParts(StageParts { begun, ..stage("w", stream, &[part]) });
    let message = fixture.must_reject(begun(7, 1, 1), Code::Aborted);
    assert!(message.contains("another one of this id"), "{message}");
    fixture.must_apply(begun(8, 2, 2));
    fixture.must_apply(begun(8, 2, 2));
    fixture.must_apply(begun(0, 3, 3));
    assert_eq!(fixture.commit(commit_write("w")).parts, 2);
    // Without the fence it was so in earlier versions, and it is so while a coordinator is of one.
    fixture.begin(staged("old", "u"));
    fixture.must_apply(Op::StageParts(StageParts { begun: 7, ..stage("old", 4, &[4]) }));
}

#[test]
fn late_commit_of_a_put_commits_no_staged_write() {
    let mut fixture = CatalogFixture::new();
    fixture.begin(begin("w", "t", WriteMode::Replace));
    fixture.must_apply(abort("w"));
    fixture.begin(begin_write("w", "t", 7));
    fixture.must_apply(Op::StageParts(stage("w", 1, &[1])));
    let message = fixture.must_reject(Op::CommitWrite(commit("w", &[9])), Code::Aborted);
    assert!(message.contains("superseded"), "{message}");
    assert_eq!(fixture.commit(commit_write("w")).rows, 10);
}

#[test]
fn put_that_was_aborted_is_put_again_with_its_id() {
    let mut fixture = CatalogFixture::new();
    fixture.begin(begin("w", "t", WriteMode::Create));
    fixture.must_apply(abort("w"));
    fixture.put("w", "t", WriteMode::Create, &[1]);
    assert!(!fixture.catalog.has_had_fenced_writes());
    fixture.catalog.take_changes();
    fixture.begin(begin_write("x", "t", 7));
    assert!(fixture.catalog.has_had_fenced_writes());
    let changes = fixture.catalog.take_changes();
    assert!(changes.iter().any(|change| change.key == RowKey::Cluster));
}

#[test]
fn write_that_a_recovery_ended_refuses_puts_of_its_id() {
    let mut fixture = CatalogFixture::new();
    fixture.begin(begin_write("w", "t", 7));
    fixture.must_apply(Op::StageParts(stage("w", 1, &[1, 2])));
    fixture.begin(begin("put", "t", WriteMode::Replace));
    fixture.must_apply(recover());
    refuses_all(&mut fixture, "w", "t", "was recovered");
    fixture.must_reject(abort("w"), Code::Aborted);
    assert!(fixture.catalog.write("w").unwrap().end_unknown, "it may have been committed");
    assert!(fixture.catalog.write("put").is_none());
    fixture.begin(begin_write("w", "t", 8));
    fixture.must_apply(Op::StageParts(stage("w", 2, &[3])));
    assert_eq!(fixture.commit(commit_write("w")).rows, 10, "only what was put again");
}
