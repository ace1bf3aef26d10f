use volley_common::Code;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{
    AbortWrite, BeginWrite, CommitWrite, Expire, Part, RenewWrite, StageParts, WriteMode, WriteState,
};

use super::helpers::*;

fn abort(id: &str, attempt: u64) -> Op {
    Op::AbortWrite(AbortWrite { write: id.into(), reason: "a test".into(), attempt })
}

fn expire() -> Op {
    Op::Expire(Expire { write_id_retention_ms: 10_000 })
}

#[test]
fn a_commit_makes_all_parts_visible_as_the_next_version() {
    let mut world = World::new();
    let outcome = world.put("w1", "a/b", WriteMode::Create, &[5, 3, 9]);
    assert_eq!((outcome.version, outcome.rows, outcome.bytes, outcome.parts), (1, 30, 300, 3));
    assert_eq!((outcome.table.clone(), outcome.write.as_str()), (name("a/b"), "w1"));
    let table = world.table("a/b").clone();
    assert_eq!((table.version, table.rows, table.bytes), (1, 30, 300));
    assert_eq!(world.parts(table.id, 1), [5, 3, 9]);

    assert_eq!(world.put("w2", "a/b", WriteMode::Append, &[1]).version, 2);
    assert_eq!(world.parts(table.id, 2), [5, 3, 9, 1]);
    assert_eq!(world.table("a/b").rows, 40);

    assert_eq!(world.put("w3", "a/b", WriteMode::Replace, &[2]).version, 3);
    assert_eq!((world.table("a/b").id, world.table("a/b").rows), (table.id, 10));
    assert_eq!(world.parts(table.id, 3), [2]);
    assert_eq!(world.parts(table.id, 2), [5, 3, 9, 1]);
}

#[test]
fn an_open_or_aborted_write_shows_nothing() {
    let mut world = World::new();
    world.begin(begin("w", "t", WriteMode::Replace));
    assert_eq!(world.catalog.tables().count(), 0);
    assert!(!world.catalog.is_dead("w"));
    world.done(abort("w", 1));
    assert!(world.catalog.is_dead("w"));
    let message = world.refused(Op::CommitWrite(commit("w", &[1])), Code::Aborted);
    assert!(message.contains("a test"), "{message}");
    assert_eq!(world.catalog.part_count(), 0);
}

#[test]
fn a_repeated_commit_or_write_id_answers_the_same_and_changes_nothing() {
    let mut world = World::new();
    let outcome = world.put("w", "t", WriteMode::Create, &[1]);
    assert_eq!(world.commit(commit("w", &[1])), outcome);
    let again = world.begin(begin("w", "t", WriteMode::Create));
    assert_eq!((again.state(), again.outcome), (WriteState::Committed, Some(outcome)));
    assert_eq!(world.table("t").version, 1);
    let message = world.refused(Op::BeginWrite(begin("w", "other", WriteMode::Create)), Code::InvalidArgument);
    assert!(message.contains("\"t\"") && message.contains("\"other\""), "{message}");
}

#[test]
fn a_later_attempt_supersedes_the_earlier() {
    let mut world = World::new();
    world.begin(begin("w", "t", WriteMode::Replace));
    let second =
        world.begin(BeginWrite { attempt: 2, writer: 2, writer_boot: 12, ..begin("w", "t", WriteMode::Replace) });
    assert_eq!((second.attempt, second.writer), (2, 2));
    let message = world.refused(Op::CommitWrite(commit("w", &[1])), Code::Aborted);
    assert!(message.contains("later attempt"), "{message}");
    world.done(abort("w", 1));
    assert_eq!(world.catalog.write("w").unwrap().state(), WriteState::Open);
    assert_eq!(world.commit(CommitWrite { attempt: 2, ..commit("w", &[2]) }).version, 1);
}

#[test]
fn an_aborted_write_id_may_be_begun_anew() {
    let mut world = World::new();
    world.begin(begin("w", "t", WriteMode::Replace));
    world.done(abort("w", 0));
    world.done(abort("w", 0));
    assert_eq!(world.put("w", "t", WriteMode::Replace, &[1]).version, 1);
    world.refused(abort("w", 0), Code::FailedPrecondition);
    let message = world.refused(abort("x", 0), Code::NotFound);
    assert!(message.contains("\"x\""), "{message}");
}

#[test]
fn create_and_append_name_the_table_in_the_way_or_missing() {
    let mut world = World::new();
    let message = world.refused(Op::BeginWrite(begin("w", "no/such", WriteMode::Append)), Code::NotFound);
    assert!(message.contains("no/such"), "{message}");
    world.put("w1", "t", WriteMode::Create, &[1]);
    let message = world.refused(Op::BeginWrite(begin("w2", "t", WriteMode::Create)), Code::AlreadyExists);
    assert!(message.contains("\"t\""), "{message}");
    // Two creations at once: the second commit fails.
    world.begin(begin("w3", "u", WriteMode::Create));
    world.begin(begin("w4", "u", WriteMode::Create));
    world.commit(commit("w4", &[2]));
    world.refused(Op::CommitWrite(commit("w3", &[3])), Code::AlreadyExists);
}

#[test]
fn an_append_takes_spec_and_placement_of_the_table() {
    let mut world = World::new();
    world.put("w1", "t", WriteMode::Create, &[1]);
    let append = BeginWrite { spec: None, placement: vec![], ..begin("w2", "t", WriteMode::Append) };
    let write = world.begin(append);
    assert_eq!((write.spec, write.placement.len(), write.table_id), (Some(spec()), 4, world.table("t").id));
    let other = BeginWrite { schema: "schema b".into(), ..begin("w3", "t", WriteMode::Append) };
    world.refused(Op::BeginWrite(other), Code::Aborted);
    let other = BeginWrite { table_id: 77, ..begin("w3", "t", WriteMode::Append) };
    world.refused(Op::BeginWrite(other), Code::Aborted);
}

#[test]
fn an_append_to_a_table_that_changed_meanwhile_is_aborted() {
    let mut world = World::new();
    world.put("w1", "t", WriteMode::Create, &[1]);
    world.begin(begin("w2", "t", WriteMode::Append));
    // Another append or a like replace does no harm.
    world.put("w3", "t", WriteMode::Append, &[2]);
    world.put("w4", "t", WriteMode::Replace, &[3]);
    assert_eq!(world.commit(commit("w2", &[4])).version, 4);

    world.begin(begin("w5", "t", WriteMode::Append));
    world.begin(BeginWrite { schema: "schema b".into(), ..begin("w6", "t", WriteMode::Replace) });
    world.commit(commit("w6", &[5]));
    let message = world.refused(Op::CommitWrite(commit("w5", &[6])), Code::Aborted);
    assert!(message.contains("another schema"), "{message}");
    world.drop_table("t");
    assert!(world.refused(Op::CommitWrite(commit("w5", &[6])), Code::Aborted).contains("dropped"));
    world.put("w7", "t", WriteMode::Create, &[7]);
    assert!(world.refused(Op::CommitWrite(commit("w5", &[6])), Code::Aborted).contains("made anew"));
}

#[test]
fn bad_parts_are_refused() {
    let mut world = World::new();
    world.put("w1", "t", WriteMode::Create, &[1]);
    world.begin(begin("w2", "t", WriteMode::Append));
    let bad = |part: Part| Op::CommitWrite(CommitWrite { parts: vec![part], ..commit("w2", &[]) });
    for (op, why) in [
        (bad(Part { holders: vec![], ..part(2) }), "no holder"),
        (bad(Part { id: None, ..part(2) }), "no id"),
        (bad(Part { shard: 4, ..part(2) }), "shard 4"),
        (bad(part(1)), "twice"),
        (Op::CommitWrite(commit("w2", &[2, 2])), "twice"),
    ] {
        let message = world.refused(op, Code::InvalidArgument);
        assert!(message.contains(why), "{message}");
    }
}

#[test]
fn many_streams_stage_and_one_commit_shows_them_in_staging_order() {
    let mut world = World::new();
    world.begin(staged("w", "t"));
    world.done(Op::StageParts(stage("w", 1, &[8, 4])));
    world.done(Op::StageParts(stage("w", 2, &[6])));
    // A repeated stream, and the write begun again, change nothing.
    world.done(Op::StageParts(stage("w", 1, &[8, 4])));
    assert_eq!(world.begin(staged("w", "t")).parts.len(), 3);
    assert_eq!(world.begin(begin("w", "t", WriteMode::Replace)).parts.len(), 3);
    let outcome = world.commit(CommitWrite { attempt: 0, ..commit("w", &[]) });
    assert_eq!((outcome.parts, outcome.rows), (3, 30));
    assert_eq!(world.parts(world.table("t").id, 1), [8, 4, 6]);
    assert_eq!(world.catalog.write("w").unwrap().parts.len(), 0);
}

#[test]
fn staging_is_refused_where_it_makes_no_sense() {
    let mut world = World::new();
    assert!(world.refused(Op::StageParts(stage("w", 1, &[1])), Code::NotFound).contains("\"w\""));
    world.begin(begin("put", "t", WriteMode::Replace));
    world.refused(Op::StageParts(stage("put", 1, &[1])), Code::FailedPrecondition);
    world.refused(Op::BeginWrite(staged("put", "t")), Code::FailedPrecondition);
    world.begin(staged("w", "t"));
    world.done(Op::StageParts(stage("w", 1, &[1])));
    let other = StageParts { schema: "schema b".into(), ..stage("w", 2, &[2]) };
    assert!(world.refused(Op::StageParts(other), Code::InvalidArgument).contains("schema"));
    world.commit(commit("w", &[]));
    assert!(world.refused(Op::StageParts(stage("w", 3, &[3])), Code::FailedPrecondition).contains("committed"));
    world.begin(staged("v", "t"));
    world.done(abort("v", 0));
    assert!(world.refused(Op::StageParts(stage("v", 3, &[3])), Code::Aborted).contains("a test"));
}

#[test]
fn a_staged_write_without_rows_needs_at_least_a_schema() {
    let mut world = World::new();
    world.begin(staged("w", "t"));
    assert!(world.refused(Op::CommitWrite(commit("w", &[])), Code::FailedPrecondition).contains("no schema"));
    world.done(Op::StageParts(stage("w", 1, &[])));
    assert_eq!(world.commit(commit("w", &[])).rows, 0);
    assert_eq!((world.table("t").version, world.table("t").schema.clone()), (1, schema()));
}

#[test]
fn a_write_without_activity_is_aborted_when_its_lease_ends() {
    let mut world = World::new();
    for id in ["idle", "renewed", "staging"] {
        world.begin(staged(id, id));
    }
    world.now += LEASE;
    assert!(!world.catalog.needs_expiry(world.now, 10_000));
    world.done(Op::RenewWrite(RenewWrite { write: "renewed".into(), lease_ms: LEASE }));
    world.done(Op::StageParts(stage("staging", 1, &[1])));
    world.now += 1;
    assert!(world.catalog.needs_expiry(world.now, 10_000));
    world.done(expire());
    assert!(!world.catalog.needs_expiry(world.now, 10_000));
    let state = |id: &str| world.catalog.write(id).unwrap().state();
    assert_eq!(
        (state("idle"), state("renewed"), state("staging")),
        (WriteState::Aborted, WriteState::Open, WriteState::Open)
    );
    world.refused(Op::RenewWrite(RenewWrite { write: "idle".into(), lease_ms: 1 }), Code::Aborted);
    world.refused(Op::RenewWrite(RenewWrite { write: "none".into(), lease_ms: 1 }), Code::NotFound);
}

#[test]
fn a_lapsed_lease_does_no_harm_to_a_commit_that_comes_first() {
    let mut world = World::new();
    world.begin(begin("w", "t", WriteMode::Replace));
    world.now += 10 * LEASE;
    assert_eq!(world.commit(commit("w", &[1])).version, 1);
}

#[test]
fn a_new_boot_of_the_writer_aborts_its_puts_and_nothing_else() {
    let mut world = World::new();
    world.begin(begin("put", "t", WriteMode::Replace));
    world.begin(begin("elsewhere", "u", WriteMode::Replace).tap(|b| (b.writer, b.writer_boot) = (2, 12)));
    world.begin(staged("staged", "v"));
    world.done(node(1, 11));
    assert!(!world.catalog.is_dead("put"));
    world.done(node(1, 99));
    assert!(world.catalog.is_dead("put"));
    assert!(!world.catalog.is_dead("elsewhere") && !world.catalog.is_dead("staged"));
}

#[test]
fn finished_writes_are_forgotten_in_time() {
    let mut world = World::new();
    world.put("w", "t", WriteMode::Replace, &[1]);
    world.now += 10_000;
    assert!(!world.catalog.needs_expiry(world.now, 10_000));
    world.now += 1;
    assert!(world.catalog.needs_expiry(world.now, 10_000));
    world.done(expire());
    assert!(world.catalog.write("w").is_none());
    assert_eq!(world.parts(world.table("t").id, 1), [1]);
}

trait Tap: Sized {
    fn tap<R>(mut self, change: impl FnOnce(&mut Self) -> R) -> Self {
        change(&mut self);
        self
    }
}
impl Tap for BeginWrite {}
