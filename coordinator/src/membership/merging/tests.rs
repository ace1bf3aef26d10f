#![allow(clippy::unwrap_used)]

use volley_common::wire::catalog::{AbortWrite, CommitWrite, DropTable, NodeState, SetNodeState};

use super::*;
use crate::merging::tests::World;

/// Eight small parts on node 1.
fn world() -> World {
    let mut world = World::new(1, false);
    (0..8).for_each(|_| world.append(&[(0, 100)]));
    world
}

fn round(merging: &mut Merging, world: &World, now: Instant) -> Decided {
    let round = merging.begin_round(&world.catalog, now);
    let decided = decide(&world.catalog, round, &Limits::default());
    merging.looked.extend(decided.idle.iter().copied());
    decided
}

/// Begins a merge as [`Membership::order_merge`] does; gives its write's id.
fn order(merging: &mut Merging, world: &mut World, plan: &MergePlan) -> (String, u64) {
    let (begin, sources) = command(&world.catalog, plan).unwrap();
    assert_eq!(sources.len(), plan.sources.len());
    let (id, attempt) = (begin.id.clone(), begin.attempt);
    world.apply(Op::BeginWrite(begin));
    merging.ordered.insert(id.clone(), plan.table);
    (id, attempt)
}

fn abort(write: &str) -> Op {
    Op::AbortWrite(AbortWrite { write: write.into(), ..AbortWrite::default() })
}

#[test]
fn a_table_has_one_merge_at_a_time_and_rests_longer_after_every_failure() {
    let (mut merging, mut world, mut now) = (Merging::default(), world(), Instant::now());
    for seconds in [5, 10, 20, 40] {
        let plan = round(&mut merging, &world, now).merges.remove(0);
        let (write, _) = order(&mut merging, &mut world, &plan);
        world.append(&[(0, 100)]);
        assert!(round(&mut merging, &world, now).merges.is_empty(), "it is under way");
        world.apply(abort(&write));
        assert!(round(&mut merging, &world, now).merges.is_empty(), "it rests");
        now += Duration::from_secs(seconds) - Duration::from_millis(1);
        assert!(round(&mut merging, &world, now).merges.is_empty(), "it rests for {seconds} s");
        now += Duration::from_millis(1);
    }
    let plan = round(&mut merging, &world, now).merges.remove(0);
    let (write, attempt) = order(&mut merging, &mut world, &plan);
    let rows = plan.sources.len() as u64;
    let part =
        Part { id: Some(volley_common::PartId(1 << 90).into()), rows, bytes: 9, holders: vec![1], ..Part::default() };
    world.apply(Op::CommitWrite(CommitWrite { write, parts: vec![part], attempt }));
    merging.begin_round(&world.catalog, now);
    assert!(merging.rests.is_empty() && merging.ordered.is_empty(), "a success is the end of all rest");
}

#[test]
fn the_longest_rest_is_an_hour() {
    let (mut merging, now) = (Merging::default(), Instant::now());
    (0..100).for_each(|_| merging.failed(1, now));
    assert_eq!(merging.rests[&1].until - now, LONGEST_REST);
}

#[test]
fn a_table_is_looked_at_again_only_when_it_or_the_nodes_changed() {
    let (mut merging, mut world, now) = (Merging::default(), World::new(1, false), Instant::now());
    world.append(&[(0, 100)]);
    assert_eq!(merging.begin_round(&world.catalog, now).tables.len(), 1);
    assert_eq!(round(&mut merging, &world, now).idle.len(), 1);
    assert!(merging.begin_round(&world.catalog, now).tables.is_empty());
    world.append(&[(0, 100)]);
    assert_eq!(round(&mut merging, &world, now).idle.len(), 1);
    let silent = SetNodeState { node: 3, state: NodeState::Unreachable as i32, boot: 0 };
    world.apply(Op::SetNodeState(silent));
    assert_eq!(round(&mut merging, &world, now).idle.len(), 1);
    assert!(merging.begin_round(&world.catalog, now).tables.is_empty());
    world.apply(Op::DropTable(DropTable { table: vec!["t".into()] }));
    merging.begin_round(&world.catalog, now);
    assert!(merging.looked.is_empty());
}

#[test]
fn a_node_has_two_merges_at_most() {
    let world = world();
    let round =
        |merges| Round { tables: vec![1], alive: [NodeId(1)].into(), load: BTreeMap::from([(NodeId(1), merges)]) };
    assert_eq!(decide(&world.catalog, round(1), &Limits::default()).merges.len(), 1);
    let full = decide(&world.catalog, round(2), &Limits::default());
    assert!(full.merges.is_empty() && full.idle.is_empty(), "it is looked at again");
}
