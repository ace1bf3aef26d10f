//! Merges: fewer parts, the same rows, whatever else happens meanwhile.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::reply::Reply as Answer;
use volley_common::wire::catalog::{
    AbortWrite, BeginWrite, CommitWrite, Expire, PinVersion, TableSpec, WriteMode, WriteState,
};
use volley_common::{Code, PartId};

use super::helpers::*;
use crate::catalog::Catalog;

fn expire() -> Op {
    Op::Expire(Expire { write_id_retention_ms: u64::MAX })
}

/// A table of eight appends of one part each: parts 1 to 8, versions 1 to 8.
fn eight() -> World {
    let mut world = World::new();
    world.put("w1", "t", WriteMode::Create, &[1]);
    for id in 2..=8 {
        world.put(&format!("w{id}"), "t", WriteMode::Append, &[id]);
    }
    world
}

fn readable(world: &World, version: u64) -> bool {
    world.catalog.readable_version(world.table("t"), Some(version), world.now).is_ok()
}

#[test]
fn a_merge_is_a_new_version_of_the_same_rows_in_the_same_order() {
    let mut world = eight();
    let (id, changed) = (world.table("t").id, world.table("t").changed_ms);
    world.now += 5;
    world.begin(merge("m", world.table("t"), &[2, 3, 4, 5]));
    let outcome = world.commit(merged("m", &[(100, 4)], 2));
    assert_eq!((outcome.version, outcome.parts, outcome.rows), (9, 1, 40));
    assert_eq!(world.parts(id, 9), [1, 100, 6, 7, 8]);
    assert_eq!(world.parts(id, 8), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(world.parts(id, 3), [1, 2, 3]);
    let table = world.table("t");
    assert_eq!((table.version, table.rows, table.bytes), (9, 80, 800 - 400 + 240));
    assert_eq!(table.changed_ms, changed, "no row changed");
    // The same answer again; and the next merge stands where this one did.
    assert_eq!(world.commit(merged("m", &[(100, 4)], 2)), outcome);
    world.put("w9", "t", WriteMode::Append, &[9]);
    world.begin(merge("n", world.table("t"), &[100, 6, 7]));
    world.commit(merged("n", &[(200, 4), (201, 2)], 2));
    assert_eq!(world.parts(id, 11), [1, 200, 201, 8, 9]);
    assert_eq!(world.parts(id, 10), [1, 100, 6, 7, 8, 9]);
    assert_eq!(world.catalog.part(PartId(201)).unwrap().place().generation, 2);
}

#[test]
fn parts_of_a_table_with_keys_are_neighbours_within_their_shard() {
    let mut world = World::new();
    let keyed = TableSpec { shard_by: vec!["k".into()], ..spec() };
    world.begin(BeginWrite { spec: Some(keyed), ..begin("w", "t", WriteMode::Create) });
    // The shard of a part is its id mod 4.
    world.commit(commit("w", &[1, 2, 5, 6, 9, 10]));
    world.refused(Op::BeginWrite(merge("m", world.table("t"), &[1, 2, 5])), Code::Aborted);
    world.refused(Op::BeginWrite(merge("m", world.table("t"), &[1, 9])), Code::Aborted);
    world.begin(merge("m", world.table("t"), &[2, 6, 10]));
    world.commit(merged("m", &[(100, 3)], 2));
    assert_eq!(world.parts(world.table("t").id, 2), [1, 100, 5, 9]);
}

#[test]
fn what_is_no_merge_of_the_sources_is_refused() {
    let mut world = eight();
    world.begin(merge("m", world.table("t"), &[2, 3, 4]));
    for (parts, shard) in [(&[(100, 2)][..], 2), (&[(100, 4)], 2), (&[(100, 3)], 1), (&[], 2)] {
        let message = world.refused(Op::CommitWrite(merged("m", parts, shard)), Code::InvalidArgument);
        assert!(message.contains("30 in 3"), "{message}");
    }
    let four = [(100, 1), (101, 1), (102, 1), (103, 0)];
    world.refused(Op::CommitWrite(merged("m", &four, 2)), Code::InvalidArgument);
    world.commit(merged("m", &[(100, 3)], 2));
}

#[test]
fn a_merge_begins_only_with_live_neighbours_a_node_that_is_there_and_alone() {
    let mut world = eight();
    let table = world.table("t").clone();
    for sources in [&[2, 4][..], &[3, 2], &[2, 77], &[2, 2]] {
        world.refused(Op::BeginWrite(merge("m", &table, sources)), Code::Aborted);
    }
    world.refused(Op::BeginWrite(merge("m", &table, &[2])), Code::InvalidArgument);
    world.refused(Op::BeginWrite(BeginWrite { writer_boot: 99, ..merge("m", &table, &[2, 3]) }), Code::Aborted);
    world.begin(merge("m", &table, &[2, 3]));
    world.refused(Op::BeginWrite(merge("n", &table, &[5, 6])), Code::Aborted);
    world.done(Op::AbortWrite(AbortWrite { write: "m".into(), ..AbortWrite::default() }));
    assert!(world.catalog.write("m").unwrap().sources.is_empty());
    world.begin(merge("n", &table, &[5, 6]));
    world.commit(merged("n", &[(100, 2)], 1));
    // What was merged is gone for further merges.
    world.refused(Op::BeginWrite(merge("o", &table, &[4, 5])), Code::Aborted);
}

#[test]
fn appends_go_on_during_a_merge() {
    let mut world = eight();
    world.begin(merge("m", world.table("t"), &[2, 3, 4]));
    assert_eq!(world.put("w9", "t", WriteMode::Append, &[9]).version, 9);
    world.begin(begin("w10", "t", WriteMode::Append));
    assert_eq!(world.commit(merged("m", &[(100, 3)], 2)).version, 10);
    assert_eq!(world.commit(commit("w10", &[10])).version, 11);
    assert_eq!(world.parts(world.table("t").id, 11), [1, 100, 5, 6, 7, 8, 9, 10]);
}

#[test]
fn a_replace_or_a_drop_wins_over_a_merge() {
    let mut world = eight();
    world.begin(merge("m", world.table("t"), &[2, 3, 4]));
    world.put("r", "t", WriteMode::Replace, &[50]);
    world.refused(Op::CommitWrite(merged("m", &[(100, 3)], 2)), Code::Aborted);
    assert_eq!(world.parts(world.table("t").id, 9), [50]);

    let mut world = eight();
    world.begin(merge("m", world.table("t"), &[2, 3, 4]));
    world.drop_table("t");
    assert!(world.refused(Op::CommitWrite(merged("m", &[(100, 3)], 2)), Code::Aborted).contains("dropped"));
    world.put("r", "t", WriteMode::Create, &[50]);
    world.refused(Op::CommitWrite(merged("m", &[(100, 3)], 2)), Code::Aborted);
}

#[test]
fn a_node_that_is_restarted_or_forgets_its_lease_leaves_no_merge() {
    let mut world = eight();
    world.begin(merge("m", world.table("t"), &[2, 3]));
    world.done(node(1, 99));
    assert!(world.catalog.is_dead("m"));
    world.refused(Op::CommitWrite(merged("m", &[(100, 2)], 2)), Code::Aborted);
    world.begin(BeginWrite { writer_boot: 99, ..merge("n", world.table("t"), &[2, 3]) });
    world.now += LEASE + 1;
    world.done(expire());
    assert!(world.catalog.is_dead("n"));
    assert_eq!(world.catalog.open_writes().count(), 0);
}

#[test]
fn merged_parts_stay_for_the_retention_and_then_go() {
    let mut world = eight();
    let id = world.table("t").id;
    world.begin(merge("m", world.table("t"), &[1, 2, 3, 4]));
    world.commit(merged("m", &[(100, 4)], 1));
    world.now += RETENTION;
    assert!((1..=9).all(|version| readable(&world, version)));
    assert!(!world.catalog.needs_expiry(world.now, u64::MAX));
    // The end is rounded up by a 64th of the retention at most.
    world.now += RETENTION / 64 + 1;
    assert!(readable(&world, 9) && !(1..=8).any(|version| readable(&world, version)));
    world.done(expire());
    assert_eq!((world.catalog.part_count(), world.parts(id, 9)), (5, vec![100, 5, 6, 7, 8]));
    assert!(!world.catalog.needs_expiry(world.now, u64::MAX));
}

#[test]
fn a_pin_keeps_a_merged_version_and_no_other() {
    let mut world = eight();
    let id = world.table("t").id;
    let until_ms = world.now + 10 * RETENTION;
    world.done(Op::PinVersion(PinVersion { table: id, version: 3, until_ms }));
    for (write, sources, new) in [("m", [2, 3], 100), ("n", [4, 5], 101), ("o", [6, 7], 102)] {
        world.begin(merge(write, world.table("t"), &sources));
        world.commit(merged(write, &[(new, 2)], (sources[0] % 4) as u32));
        world.now += RETENTION / 2;
    }
    world.now += 2 * RETENTION;
    world.done(expire());
    assert!(readable(&world, 3) && readable(&world, 11));
    assert!([1, 2, 4, 8, 9, 10].iter().all(|version| !readable(&world, *version)));
    assert_eq!(world.parts(id, 3), [1, 2, 3]);
    assert_eq!(world.catalog.part_count(), 1 + 2 + 3 + 1, "part 1, the pinned, the merged, part 8");
    assert_eq!(world.table("t").replaced.len(), 1, "what is over is said once");
    world.now = until_ms + 1;
    world.done(expire());
    assert_eq!((world.catalog.part_count(), world.table("t").replaced.len()), (5, 0));
}

#[test]
fn a_replace_keeps_what_a_merge_promised() {
    let mut world = eight();
    world.now += 1;
    world.begin(merge("m", world.table("t"), &[2, 3]));
    world.commit(merged("m", &[(100, 2)], 2));
    let promised = world.table("t").replaced[0].until_ms;
    world.put("r", "t", WriteMode::Replace, &[50]);
    world.now = promised;
    assert!(readable(&world, 8));
    world.done(expire());
    assert_eq!(world.parts(world.table("t").id, 8), [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn a_thousand_merges_do_not_make_a_long_list() {
    let mut world = eight();
    let mut newest = 1;
    for round in 0..1000u64 {
        let id = 1000 + u128::from(round);
        world.put(&format!("a{round}"), "t", WriteMode::Append, &[id * 4]);
        let table = world.table("t").clone();
        let last = world.parts(table.id, table.version);
        let sources = &last[last.len() - 2..];
        newest = 1_000_000 + 4 * u128::from(round);
        let shard = world.catalog.part(PartId(sources[0])).unwrap().shard;
        let rows = sources.iter().map(|id| world.catalog.part(PartId(*id)).unwrap().rows).sum::<u64>() / 10;
        world.begin(merge(&format!("m{round}"), &table, sources));
        world.commit(merged(&format!("m{round}"), &[(newest, rows)], shard));
        world.now += 1;
        world.done(expire());
        assert!(world.table("t").replaced.len() <= 70, "{}", world.table("t").replaced.len());
    }
    let table = world.table("t");
    assert_eq!(world.parts(table.id, table.version), [1, 2, 3, 4, 5, 6, 7, newest]);
    assert_eq!(table.rows, 10_080);
}

/// What every version was when it was made: the parts that users put, which merges only wrap.
#[derive(Default)]
struct Truth {
    leaves: BTreeMap<u128, Vec<u128>>,
    versions: BTreeMap<(u64, u64), Vec<u128>>,
}

impl Truth {
    fn content(&self, catalog: &Catalog, table: u64, version: u64) -> Vec<u128> {
        let ids = catalog.part_rows_at(table, version).map(|part| part.part_id().0);
        ids.flat_map(|id| self.leaves.get(&id).cloned().unwrap_or(vec![id])).collect()
    }

    fn note(&mut self, catalog: &Catalog) {
        for table in catalog.tables() {
            let content = self.content(catalog, table.id, table.version);
            let known = self.versions.entry((table.id, table.version)).or_insert_with(|| content.clone());
            assert_eq!(*known, content);
        }
    }

    fn check(&self, catalog: &Catalog, now: u64) -> usize {
        let mut old = 0;
        for table in catalog.all_tables() {
            for version in (1..=table.version).filter(|v| catalog.readable_version(table, Some(*v), now).is_ok()) {
                let known = &self.versions[&(table.id, version)];
                assert_eq!(self.content(catalog, table.id, version), *known, "version {version} of {}", table.id);
                old += usize::from(version < table.version);
            }
        }
        old
    }

    /// The next merge's parts: runs of its sources, one of them or several.
    fn merged(&mut self, catalog: &Catalog, write: &str, sources: &[PartId], random: &mut StdRng) -> CommitWrite {
        let shard = catalog.part(sources[0]).map_or(0, |part| part.shard);
        let most = random.random_range(1..=sources.len());
        let mut parts = Vec::new();
        for run in sources.chunks(most) {
            let leaves: Vec<u128> =
                run.iter().flat_map(|id| self.leaves.get(&id.0).cloned().unwrap_or(vec![id.0])).collect();
            let id = random.random_range(1 << 50..1 << 60);
            parts.push((id, leaves.len() as u64));
            self.leaves.insert(id, leaves);
        }
        merged(write, &parts, shard)
    }
}

#[test]
fn every_readable_version_has_its_rows_whatever_is_merged_replaced_dropped_and_expired() {
    let (mut merges, mut lost, mut old) = (0, 0, 0);
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut world, mut truth) = (World::new(), Truth::default());
        for step in 0..300u128 {
            world.now += random.random_range(0..RETENTION / 20);
            let write = format!("w{step}");
            let name = ["a", "b"][random.random_range(0..2)];
            let table = world.catalog.table_named(&name.parse().unwrap()).cloned();
            match (random.random_range(0..100), table) {
                (0..3, _) | (_, None) => {
                    drop(world.put(&write, name, WriteMode::Replace, &[step * 4 + 1, step * 4 + 2]))
                }
                (3..4, Some(_)) => world.drop_table(name),
                (4..10, Some(_)) => world.done(expire()),
                (10..13, Some(table)) => {
                    let version = random.random_range(1..=table.version);
                    let until_ms = world.now + random.random_range(0..4 * RETENTION);
                    world.apply(Op::PinVersion(PinVersion { table: table.id, version, until_ms }));
                }
                (13..40, Some(table)) => {
                    let live: Vec<u128> = world.parts(table.id, table.version);
                    let from = random.random_range(0..live.len());
                    let to = random.random_range(from..live.len().min(from + 9));
                    world.apply(Op::BeginWrite(merge(&write, &table, &live[from..=to])));
                }
                (40..60, Some(_)) => {
                    let open = world.catalog.open_writes().next().cloned();
                    let Some(open) = open.filter(|write| write.state() == WriteState::Open) else { continue };
                    let sources: Vec<PartId> = open.sources.iter().map(PartId::from).collect();
                    let commit = truth.merged(&world.catalog, &open.id, &sources, &mut random);
                    match world.apply(Op::CommitWrite(commit)) {
                        Answer::Outcome(_) => merges += 1,
                        _ => {
                            lost += 1;
                            world.done(Op::AbortWrite(AbortWrite { write: open.id, ..AbortWrite::default() }));
                        }
                    }
                }
                (_, Some(_)) => drop(world.put(&write, name, WriteMode::Append, &[step * 4 + 3])),
            }
            truth.note(&world.catalog);
            old += truth.check(&world.catalog, world.now);
        }
        world.now += 10 * RETENTION;
        world.done(expire());
        assert!(!world.catalog.needs_expiry(world.now, u64::MAX), "seed {seed}");
        let live: usize = world.catalog.tables().map(|t| world.parts(t.id, t.version).len()).sum();
        assert_eq!(world.catalog.part_count(), live, "seed {seed}: what is over is gone");
        assert_eq!(truth.check(&world.catalog, world.now), count_old(&world), "seed {seed}");
    }
    assert!(
        merges > 500 && lost > 20 && old > 50_000,
        "{merges} merges, {lost} lost to others, {old} old versions read"
    );
}

/// Versions that nothing ever took anything from stay readable.
fn count_old(world: &World) -> usize {
    world.catalog.tables().map(|table| (table.version - table.oldest) as usize).sum()
}
