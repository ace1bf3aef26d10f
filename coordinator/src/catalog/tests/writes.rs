use prost::Message;
use volley_common::Code;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{
    AbortWrite, BeginWrite, CommitWrite, Expire, Part, RenewWrite, Row, StageParts, TableSpec, Write, WriteMode,
    WriteState, row,
};

use super::helpers::*;

fn abort(id: &str, attempt: u64) -> Op {
    Op::AbortWrite(AbortWrite { write: id.into(), reason: "a test".into(), attempt })
}

fn expire() -> Op {
    Op::Expire(keep(10_000))
}

#[test]
fn commit_publishes_all_parts_as_the_next_version() {
    let mut fixture = CatalogFixture::new();
    let outcome = fixture.put("w1", "a/b", WriteMode::Create, &[5, 3, 9]);
    assert_eq!((outcome.version, outcome.rows, outcome.bytes, outcome.parts), (1, 30, 300, 3));
    assert_eq!((outcome.table.clone(), outcome.write.as_str()), (name("a/b"), "w1"));
    let table = fixture.table("a/b").clone();
    assert_eq!((table.version, table.rows, table.bytes), (1, 30, 300));
    assert_eq!(fixture.parts(table.id, 1), [5, 3, 9]);

    assert_eq!(fixture.put("w2", "a/b", WriteMode::Append, &[1]).version, 2);
    assert_eq!(fixture.parts(table.id, 2), [5, 3, 9, 1]);
    assert_eq!(fixture.table("a/b").rows, 40);

    assert_eq!(fixture.put("w3", "a/b", WriteMode::Replace, &[2]).version, 3);
    assert_eq!((fixture.table("a/b").id, fixture.table("a/b").rows), (table.id, 10));
    assert_eq!(fixture.parts(table.id, 3), [2]);
    assert_eq!(fixture.parts(table.id, 2), [5, 3, 9, 1]);
}

#[test]
fn open_or_aborted_write_is_invisible() {
    let mut fixture = CatalogFixture::new();
    fixture.begin(begin("w", "t", WriteMode::Replace));
    assert_eq!(fixture.catalog.tables().count(), 0);
    assert!(fixture.catalog.is_write_open("w"));
    fixture.must_apply(abort("w", 1));
    assert!(!fixture.catalog.is_write_open("w"));
    let message = fixture.must_reject(Op::CommitWrite(commit("w", &[1])), Code::Aborted);
    assert!(message.contains("a test"), "{message}");
    assert_eq!(fixture.catalog.part_count(), 0);
}

#[test]
fn repeated_commit_or_begin_is_idempotent() {
    let mut fixture = CatalogFixture::new();
    let outcome = fixture.put("w", "t", WriteMode::Create, &[1]);
    assert_eq!(fixture.commit(commit("w", &[1])), outcome);
    let again = fixture.begin(begin("w", "t", WriteMode::Create));
    assert_eq!((again.state(), again.outcome), (WriteState::Committed, Some(outcome)));
    assert_eq!(fixture.table("t").version, 1);
    let message = fixture.must_reject(Op::BeginWrite(begin("w", "other", WriteMode::Create)), Code::InvalidArgument);
    assert!(message.contains("\"t\"") && message.contains("\"other\""), "{message}");
}

#[test]
fn later_attempt_supersedes_the_earlier() {
    let mut fixture = CatalogFixture::new();
    fixture.begin(begin("w", "t", WriteMode::Replace));
    let second =
        fixture.begin(BeginWrite { attempt: 2, writer: 2, writer_boot: 12, ..begin("w", "t", WriteMode::Replace) });
    assert_eq!((second.attempt, second.writer), (2, 2));
    let message = fixture.must_reject(Op::CommitWrite(commit("w", &[1])), Code::Aborted);
    assert!(message.contains("later attempt"), "{message}");
    fixture.must_apply(abort("w", 1));
    assert_eq!(fixture.catalog.write("w").unwrap().state(), WriteState::Open);
    assert_eq!(fixture.commit(CommitWrite { attempt: 2, ..commit("w", &[2]) }).version, 1);
}

#[test]
fn repeated_attempt_keeps_the_recorded_plan() {
    let mut fixture = CatalogFixture::new();
    let first = fixture.begin(begin("w", "t", WriteMode::Replace));
    // Another coordinator planned the same attempt when fewer nodes were alive.
    let other = TableSpec { shards: 3, min_copies: 2, ..spec() };
    fixture.now += 10;
    let again = fixture.begin(BeginWrite {
        spec: Some(other.clone()),
        placement: vec![Default::default(); 3],
        ..begin("w", "t", WriteMode::Replace)
    });
    assert_eq!(again, Write { lease_until_ms: first.lease_until_ms + 10, ..first });
    assert_eq!(fixture.catalog.write("w").as_deref(), Some(&again));
    // A later attempt, and one without a number, are planned anew.
    for attempt in [2, 0, 0] {
        let planned =
            fixture.begin(BeginWrite { spec: Some(other.clone()), attempt, ..begin("w", "t", WriteMode::Replace) });
        assert_eq!((planned.spec, planned.attempt), (Some(other.clone()), attempt));
    }
}

#[test]
fn aborted_write_id_can_be_reused() {
    let mut fixture = CatalogFixture::new();
    fixture.begin(begin("w", "t", WriteMode::Replace));
    fixture.must_apply(abort("w", 0));
    fixture.must_apply(abort("w", 0));
    assert_eq!(fixture.put("w", "t", WriteMode::Replace, &[1]).version, 1);
    fixture.must_reject(abort("w", 0), Code::FailedPrecondition);
    let message = fixture.must_reject(abort("x", 0), Code::NotFound);
    assert!(message.contains("\"x\""), "{message}");
}

#[test]
fn create_and_append_errors_name_the_table() {
    let mut fixture = CatalogFixture::new();
    let message = fixture.must_reject(Op::BeginWrite(begin("w", "no/such", WriteMode::Append)), Code::NotFound);
    assert!(message.contains("no/such"), "{message}");
    fixture.put("w1", "t", WriteMode::Create, &[1]);
    let message = fixture.must_reject(Op::BeginWrite(begin("w2", "t", WriteMode::Create)), Code::AlreadyExists);
    assert!(message.contains("\"t\""), "{message}");
    // Of two concurrent creations the second commit fails.
    fixture.begin(begin("w3", "u", WriteMode::Create));
    fixture.begin(begin("w4", "u", WriteMode::Create));
    fixture.commit(commit("w4", &[2]));
    let message = fixture.must_reject(Op::CommitWrite(commit("w3", &[3])), Code::AlreadyExists);
    assert!(message.contains("after this write began; put again"), "{message}");
}

#[test]
fn append_uses_the_spec_and_placement_of_the_table() {
    let mut fixture = CatalogFixture::new();
    fixture.put("w1", "t", WriteMode::Create, &[1]);
    let append = BeginWrite { spec: None, placement: vec![], ..begin("w2", "t", WriteMode::Append) };
    let write = fixture.begin(append);
    assert_eq!((write.spec, write.placement.len(), write.table_id), (Some(spec()), 4, fixture.table("t").id));
    let other = BeginWrite { schema: "schema b".into(), ..begin("w3", "t", WriteMode::Append) };
    fixture.must_reject(Op::BeginWrite(other), Code::Aborted);
    let other = BeginWrite { table_id: 77, ..begin("w3", "t", WriteMode::Append) };
    fixture.must_reject(Op::BeginWrite(other), Code::Aborted);
}

#[test]
fn append_to_a_changed_table_is_aborted() {
    let mut fixture = CatalogFixture::new();
    fixture.put("w1", "t", WriteMode::Create, &[1]);
    fixture.begin(begin("w2", "t", WriteMode::Append));
    // Another append, or a replace with the same layout, does not disturb it.
    fixture.put("w3", "t", WriteMode::Append, &[2]);
    fixture.put("w4", "t", WriteMode::Replace, &[3]);
    assert_eq!(fixture.commit(commit("w2", &[4])).version, 4);

    fixture.begin(begin("w5", "t", WriteMode::Append));
    fixture.begin(BeginWrite { schema: "schema b".into(), ..begin("w6", "t", WriteMode::Replace) });
    fixture.commit(commit("w6", &[5]));
    let message = fixture.must_reject(Op::CommitWrite(commit("w5", &[6])), Code::Aborted);
    assert!(message.contains("another schema"), "{message}");
    fixture.drop_table("t");
    assert!(fixture.must_reject(Op::CommitWrite(commit("w5", &[6])), Code::Aborted).contains("dropped"));
    fixture.put("w7", "t", WriteMode::Create, &[7]);
    assert!(fixture.must_reject(Op::CommitWrite(commit("w5", &[6])), Code::Aborted).contains("created again"));
}

#[test]
fn invalid_parts_are_rejected() {
    let mut fixture = CatalogFixture::new();
    fixture.put("w1", "t", WriteMode::Create, &[1]);
    fixture.begin(begin("w2", "t", WriteMode::Append));
    let bad = |part: Part| Op::CommitWrite(CommitWrite { parts: vec![part], ..commit("w2", &[]) });
    for (op, why) in [
        (bad(Part { holders: vec![], ..part(2) }), "no holder"),
        (bad(Part { id: None, ..part(2) }), "no id"),
        (bad(Part { shard: 4, ..part(2) }), "shard 4"),
        (bad(part(1)), "twice"),
        (Op::CommitWrite(commit("w2", &[2, 2])), "twice"),
    ] {
        let message = fixture.must_reject(op, Code::InvalidArgument);
        assert!(message.contains(why), "{message}");
    }
}

#[test]
fn staged_streams_commit_in_staging_order() {
    let mut fixture = CatalogFixture::new();
    fixture.begin(staged("w", "t"));
    fixture.must_apply(Op::StageParts(stage("w", 1, &[8, 4])));
    fixture.must_apply(Op::StageParts(stage("w", 2, &[6])));
    // A repeated stream and a repeated begin change nothing.
    fixture.must_apply(Op::StageParts(stage("w", 1, &[8, 4])));
    let staged_parts = |write: &Write, fixture: &CatalogFixture| fixture.catalog.staged_parts(write).count();
    let write = fixture.begin(staged("w", "t"));
    assert_eq!((write.parts.len(), staged_parts(&write, &fixture)), (0, 3));
    let write = fixture.begin(begin("w", "t", WriteMode::Replace));
    assert_eq!((write.parts.len(), staged_parts(&write, &fixture)), (0, 3));
    let outcome = fixture.commit(CommitWrite { attempt: 0, ..commit("w", &[]) });
    assert_eq!((outcome.parts, outcome.rows), (3, 30));
    assert_eq!(fixture.parts(fixture.table("t").id, 1), [8, 4, 6]);
    assert!(fixture.catalog.staged.is_empty());
}

#[test]
fn staging_a_stream_writes_only_its_own_parts() {
    let mut fixture = CatalogFixture::new();
    fixture.begin(staged("w", "t"));
    let mut stage_bytes = |stream: u64| {
        fixture.catalog.take_changes();
        fixture.must_apply(Op::StageParts(stage("w", stream, &[u128::from(stream) + 1])));
        let changes = fixture.catalog.take_changes();
        changes.iter().flat_map(|change| &change.row).map(|row| row.encoded_len()).sum::<usize>()
    };
    let first = stage_bytes(1);
    let last = (2..500).map(&mut stage_bytes).last().unwrap();
    assert!(last <= first + 16, "{last} bytes for the last stream, {first} for the first");
    // Streams that an older version kept in the row of the write come first.
    let mut old = Write { parts: vec![part(1000)], streams: vec![77], ..fixture.begin(staged("v", "u")) };
    old.schema = schema();
    fixture.catalog.insert_row(Row { row: Some(row::Row::Write(old)) });
    fixture.must_apply(Op::StageParts(stage("v", 77, &[1000])));
    fixture.must_apply(Op::StageParts(stage("v", 78, &[2000])));
    fixture.commit(commit("v", &[]));
    assert_eq!(fixture.parts(fixture.table("u").id, 1), [1000, 2000]);
}

#[test]
fn part_with_too_few_copies_is_not_committed() {
    let mut fixture = CatalogFixture::new();
    let spec = TableSpec { min_copies: 2, ..spec() };
    fixture.begin(BeginWrite { spec: Some(spec), ..begin("w", "t", WriteMode::Replace) });
    for holders in [vec![1], vec![1, 1]] {
        let parts = vec![Part { holders, ..part(1) }];
        let few = Op::CommitWrite(CommitWrite { parts, ..commit("w", &[]) });
        let message = fixture.must_reject(few, Code::FailedPrecondition);
        assert!(message.contains("1 copies") && message.contains("\"t\""), "{message}");
    }
    fixture.commit(commit("w", &[1]));
}

#[test]
fn finished_writes_are_bounded_by_number() {
    let mut fixture = CatalogFixture::new();
    for id in 0..20 {
        fixture.put(&format!("w{id}"), "t", WriteMode::Replace, &[id + 1]);
    }
    let limits = Expire { max_finished_writes: 5, ..keep(u64::MAX) };
    assert!(fixture.catalog.needs_expiry(fixture.now, &limits));
    fixture.must_apply(Op::Expire(limits));
    assert!(!fixture.catalog.needs_expiry(fixture.now, &limits));
    assert_eq!(fixture.catalog.finished_writes(), 5);
}

#[test]
fn time_never_goes_back() {
    let mut fixture = CatalogFixture::new();
    fixture.begin(begin("w", "t", WriteMode::Replace));
    let now = fixture.now;
    fixture.now -= 30_000;
    fixture.begin(begin("late", "u", WriteMode::Replace));
    assert_eq!(fixture.catalog.write("late").unwrap().lease_until_ms, now + LEASE, "not over before it begins");
    assert_eq!(fixture.catalog.clock_ms(), now);
}

#[test]
fn staging_into_an_unsuitable_write_is_rejected() {
    let mut fixture = CatalogFixture::new();
    assert!(fixture.must_reject(Op::StageParts(stage("w", 1, &[1])), Code::NotFound).contains("\"w\""));
    fixture.begin(begin("put", "t", WriteMode::Replace));
    fixture.must_reject(Op::StageParts(stage("put", 1, &[1])), Code::FailedPrecondition);
    fixture.must_reject(Op::BeginWrite(staged("put", "t")), Code::FailedPrecondition);
    fixture.begin(staged("w", "t"));
    fixture.must_apply(Op::StageParts(stage("w", 1, &[1])));
    let other = StageParts { schema: "schema b".into(), ..stage("w", 2, &[2]) };
    assert!(fixture.must_reject(Op::StageParts(other), Code::InvalidArgument).contains("schema"));
    fixture.commit(commit("w", &[]));
    assert!(fixture.must_reject(Op::StageParts(stage("w", 3, &[3])), Code::FailedPrecondition).contains("committed"));
    fixture.begin(staged("v", "t"));
    fixture.must_apply(abort("v", 0));
    assert!(fixture.must_reject(Op::StageParts(stage("v", 3, &[3])), Code::Aborted).contains("a test"));
}

#[test]
fn staged_write_without_rows_needs_a_schema() {
    let mut fixture = CatalogFixture::new();
    fixture.begin(staged("w", "t"));
    assert!(fixture.must_reject(Op::CommitWrite(commit("w", &[])), Code::FailedPrecondition).contains("no schema"));
    fixture.must_apply(Op::StageParts(stage("w", 1, &[])));
    assert_eq!(fixture.commit(commit("w", &[])).rows, 0);
    assert_eq!((fixture.table("t").version, fixture.table("t").schema.clone()), (1, schema()));
}

#[test]
fn idle_write_is_aborted_when_its_lease_ends() {
    let mut fixture = CatalogFixture::new();
    for id in ["idle", "renewed", "staging"] {
        fixture.begin(staged(id, id));
    }
    fixture.now += LEASE;
    assert!(!fixture.catalog.needs_expiry(fixture.now, &keep(10_000)));
    fixture.must_apply(Op::RenewWrite(RenewWrite { write: "renewed".into(), lease_ms: LEASE }));
    fixture.must_apply(Op::StageParts(stage("staging", 1, &[1])));
    fixture.now += 1;
    assert!(fixture.catalog.needs_expiry(fixture.now, &keep(10_000)));
    fixture.must_apply(expire());
    assert!(!fixture.catalog.needs_expiry(fixture.now, &keep(10_000)));
    let state = |id: &str| fixture.catalog.write(id).unwrap().state();
    assert_eq!(
        (state("idle"), state("renewed"), state("staging")),
        (WriteState::Aborted, WriteState::Open, WriteState::Open)
    );
    fixture.must_reject(Op::RenewWrite(RenewWrite { write: "idle".into(), lease_ms: 1 }), Code::Aborted);
    fixture.must_reject(Op::RenewWrite(RenewWrite { write: "none".into(), lease_ms: 1 }), Code::NotFound);
}

#[test]
fn commit_after_the_lease_but_before_expiry_succeeds() {
    let mut fixture = CatalogFixture::new();
    fixture.begin(begin("w", "t", WriteMode::Replace));
    fixture.now += 10 * LEASE;
    assert_eq!(fixture.commit(commit("w", &[1])).version, 1);
}

#[test]
fn new_boot_aborts_only_its_own_puts() {
    let mut fixture = CatalogFixture::new();
    fixture.begin(begin("put", "t", WriteMode::Replace));
    fixture.begin(begin("elsewhere", "u", WriteMode::Replace).tap(|b| (b.writer, b.writer_boot) = (2, 12)));
    fixture.begin(staged("staged", "v"));
    fixture.must_apply(node(1, 11));
    assert!(fixture.catalog.is_write_open("put"));
    fixture.must_apply(node(1, 99));
    assert!(!fixture.catalog.is_write_open("put"));
    assert!(fixture.catalog.is_write_open("elsewhere") && fixture.catalog.is_write_open("staged"));
}

#[test]
fn finished_writes_expire() {
    let mut fixture = CatalogFixture::new();
    fixture.put("w", "t", WriteMode::Replace, &[1]);
    fixture.now += 10_000;
    assert!(!fixture.catalog.needs_expiry(fixture.now, &keep(10_000)));
    fixture.now += 1;
    assert!(fixture.catalog.needs_expiry(fixture.now, &keep(10_000)));
    fixture.must_apply(expire());
    assert!(fixture.catalog.write("w").is_none());
    assert_eq!(fixture.parts(fixture.table("t").id, 1), [1]);
}

trait Tap: Sized {
    fn tap<R>(mut self, change: impl FnOnce(&mut Self) -> R) -> Self {
        change(&mut self);
        self
    }
}
impl Tap for BeginWrite {}
