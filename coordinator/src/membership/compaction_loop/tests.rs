#![allow(clippy::unwrap_used)]

use volley_common::wire::catalog::{AbortWrite, CommitWrite, DropTable, NodeState, SetNodeState};

use super::*;
use crate::scheduler::compaction::tests::CompactionFixture;

/// Eight small parts on node 1.
fn eight_parts() -> CompactionFixture {
    let mut fixture = CompactionFixture::new(1, false);
    (0..8).for_each(|_| fixture.append(&[(0, 100)]));
    fixture
}

fn run_round(state: &mut CompactionState, fixture: &CompactionFixture, now: Instant) -> CompactionDecision {
    let round = state.begin_round(&fixture.catalog, now);
    let decision = decide(&fixture.catalog, round, &CompactionLimits::default());
    state.idle.extend(decision.idle.iter().copied());
    decision
}

/// Begins a compaction as [`NodeMembership::order_compaction`] does; returns the id and attempt of its write.
fn begin(state: &mut CompactionState, fixture: &mut CompactionFixture, plan: &CompactionPlan) -> (String, u64) {
    let (begin, sources) = begin_command(&fixture.catalog, plan).unwrap();
    assert_eq!(sources.len(), plan.sources.len());
    let (id, attempt) = (begin.id.clone(), begin.attempt);
    fixture.apply(Op::BeginWrite(begin));
    state.ordered.insert(id.clone(), plan.table);
    (id, attempt)
}

fn abort(write: &str) -> Op {
    Op::AbortWrite(AbortWrite { write: write.into(), ..AbortWrite::default() })
}

#[test]
fn table_has_one_compaction_and_backs_off_after_failures() {
    let (mut state, mut fixture, mut now) = (CompactionState::default(), eight_parts(), Instant::now());
    for seconds in [5, 10, 20, 40] {
        let plan = run_round(&mut state, &fixture, now).plans.remove(0);
        let (write, _) = begin(&mut state, &mut fixture, &plan);
        fixture.append(&[(0, 100)]);
        assert!(run_round(&mut state, &fixture, now).plans.is_empty(), "it is in progress");
        fixture.apply(abort(&write));
        assert!(run_round(&mut state, &fixture, now).plans.is_empty(), "it backs off");
        now += Duration::from_secs(seconds) - Duration::from_millis(1);
        assert!(run_round(&mut state, &fixture, now).plans.is_empty(), "it backs off for {seconds} s");
        now += Duration::from_millis(1);
    }
    let plan = run_round(&mut state, &fixture, now).plans.remove(0);
    let (write, attempt) = begin(&mut state, &mut fixture, &plan);
    let rows = plan.sources.len() as u64;
    let part =
        Part { id: Some(volley_common::PartId(1 << 90).into()), rows, bytes: 9, holders: vec![1], ..Part::default() };
    fixture.apply(Op::CommitWrite(CommitWrite { write, parts: vec![part], attempt }));
    state.begin_round(&fixture.catalog, now);
    assert!(state.backoffs.is_empty() && state.ordered.is_empty(), "a success ends the backoff");
}

#[test]
fn backoff_is_limited_to_an_hour() {
    let (mut state, now) = (CompactionState::default(), Instant::now());
    (0..100).for_each(|_| state.record_failure(1, now));
    assert_eq!(state.backoffs[&1].until - now, MAX_BACKOFF);
}

#[test]
fn idle_table_is_examined_again_after_it_or_the_nodes_changed() {
    let (mut state, mut fixture, now) = (CompactionState::default(), CompactionFixture::new(1, false), Instant::now());
    fixture.append(&[(0, 100)]);
    assert_eq!(state.begin_round(&fixture.catalog, now).tables.len(), 1);
    assert_eq!(run_round(&mut state, &fixture, now).idle.len(), 1);
    assert!(state.begin_round(&fixture.catalog, now).tables.is_empty());
    fixture.append(&[(0, 100)]);
    assert_eq!(run_round(&mut state, &fixture, now).idle.len(), 1);
    let unreachable = SetNodeState { node: 3, state: NodeState::Unreachable as i32, boot: 0 };
    fixture.apply(Op::SetNodeState(unreachable));
    assert_eq!(run_round(&mut state, &fixture, now).idle.len(), 1);
    assert!(state.begin_round(&fixture.catalog, now).tables.is_empty());
    fixture.apply(Op::DropTable(DropTable { table: vec!["t".into()] }));
    state.begin_round(&fixture.catalog, now);
    assert!(state.idle.is_empty());
}

#[test]
fn node_has_at_most_two_compactions() {
    let fixture = eight_parts();
    let round = |compactions| CompactionRound {
        tables: vec![1],
        alive: [NodeId(1)].into(),
        load: BTreeMap::from([(NodeId(1), compactions)]),
    };
    assert_eq!(decide(&fixture.catalog, round(1), &CompactionLimits::default()).plans.len(), 1);
    let full = decide(&fixture.catalog, round(2), &CompactionLimits::default());
    assert!(full.plans.is_empty() && full.idle.is_empty(), "the table is examined again");
}
