//! Compactions: fewer parts, the same rows, under concurrent commands.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::reply::Reply as Answer;
use volley_common::wire::catalog::{AbortWrite, BeginWrite, CommitWrite, PinVersion, TableSpec, WriteMode, WriteState};
use volley_common::{Code, PartId};

use super::helpers::*;
use crate::catalog::Catalog;

fn expire() -> Op {
    Op::Expire(keep(u64::MAX))
}

/// A table of eight appends of one part each: parts 1 to 8, versions 1 to 8.
fn eight() -> CatalogFixture {
    let mut fixture = CatalogFixture::new();
    fixture.put("w1", "t", WriteMode::Create, &[1]);
    for id in 2..=8 {
        fixture.put(&format!("w{id}"), "t", WriteMode::Append, &[id]);
    }
    fixture
}

fn readable(fixture: &CatalogFixture, version: u64) -> bool {
    fixture.catalog.readable_version(fixture.table("t"), Some(version), fixture.now).is_ok()
}

#[test]
fn compaction_keeps_rows_and_order_in_a_new_version() {
    let mut fixture = eight();
    let (id, changed) = (fixture.table("t").id, fixture.table("t").changed_ms);
    fixture.now += 5;
    fixture.begin(compact("m", fixture.table("t"), &[2, 3, 4, 5]));
    let outcome = fixture.commit(compacted("m", &[(100, 4)], 2));
    assert_eq!((outcome.version, outcome.parts, outcome.rows), (9, 1, 40));
    assert_eq!(fixture.parts(id, 9), [1, 100, 6, 7, 8]);
    assert_eq!(fixture.parts(id, 8), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(fixture.parts(id, 3), [1, 2, 3]);
    let table = fixture.table("t");
    assert_eq!((table.version, table.rows, table.bytes), (9, 80, 800 - 400 + 240));
    assert_eq!(table.changed_ms, changed, "no row changed");
    // A repeated commit has the same outcome; the next compaction takes the position of this one.
    assert_eq!(fixture.commit(compacted("m", &[(100, 4)], 2)), outcome);
    fixture.put("w9", "t", WriteMode::Append, &[9]);
    fixture.begin(compact("n", fixture.table("t"), &[100, 6, 7]));
    fixture.commit(compacted("n", &[(200, 4), (201, 2)], 2));
    assert_eq!(fixture.parts(id, 11), [1, 200, 201, 8, 9]);
    assert_eq!(fixture.parts(id, 10), [1, 100, 6, 7, 8, 9]);
    let part = fixture.catalog.part(PartId(200)).unwrap();
    assert_eq!((part.sort_key().generation, &*part.statistics), (2, &b"bounds of 200"[..]));
    assert!(fixture.catalog.part(PartId(201)).unwrap().statistics.is_empty() && fixture.catalog.has_part_statistics());
}

#[test]
fn keyed_sources_must_be_adjacent_within_their_shard() {
    let mut fixture = CatalogFixture::new();
    let keyed = TableSpec { shard_by: vec!["k".into()], ..spec() };
    fixture.begin(BeginWrite { spec: Some(keyed), ..begin("w", "t", WriteMode::Create) });
    // The shard of a part is its id mod 4.
    fixture.commit(commit("w", &[1, 2, 5, 6, 9, 10]));
    fixture.must_reject(Op::BeginWrite(compact("m", fixture.table("t"), &[1, 2, 5])), Code::Aborted);
    fixture.must_reject(Op::BeginWrite(compact("m", fixture.table("t"), &[1, 9])), Code::Aborted);
    fixture.begin(compact("m", fixture.table("t"), &[2, 6, 10]));
    fixture.commit(compacted("m", &[(100, 3)], 2));
    assert_eq!(fixture.parts(fixture.table("t").id, 2), [1, 100, 5, 9]);
}

#[test]
fn commit_that_differs_from_its_sources_is_rejected() {
    let mut fixture = eight();
    fixture.begin(compact("m", fixture.table("t"), &[2, 3, 4]));
    for (parts, shard) in [(&[(100, 2)][..], 2), (&[(100, 4)], 2), (&[(100, 3)], 1), (&[], 2)] {
        let message = fixture.must_reject(Op::CommitWrite(compacted("m", parts, shard)), Code::InvalidArgument);
        assert!(message.contains("30 in 3"), "{message}");
    }
    let four = [(100, 1), (101, 1), (102, 1), (103, 0)];
    fixture.must_reject(Op::CommitWrite(compacted("m", &four, 2)), Code::InvalidArgument);
    fixture.commit(compacted("m", &[(100, 3)], 2));
}

#[test]
fn compaction_begin_checks_sources_node_and_exclusivity() {
    let mut fixture = eight();
    let table = fixture.table("t").clone();
    for sources in [&[2, 4][..], &[3, 2], &[2, 77], &[2, 2]] {
        fixture.must_reject(Op::BeginWrite(compact("m", &table, sources)), Code::Aborted);
    }
    fixture.must_reject(Op::BeginWrite(compact("m", &table, &[2])), Code::InvalidArgument);
    fixture.must_reject(Op::BeginWrite(BeginWrite { writer_boot: 99, ..compact("m", &table, &[2, 3]) }), Code::Aborted);
    fixture.begin(compact("m", &table, &[2, 3]));
    fixture.must_reject(Op::BeginWrite(compact("n", &table, &[5, 6])), Code::Aborted);
    fixture.must_apply(Op::AbortWrite(AbortWrite { write: "m".into(), ..AbortWrite::default() }));
    assert!(fixture.catalog.write("m").unwrap().sources.is_empty());
    fixture.begin(compact("n", &table, &[5, 6]));
    fixture.commit(compacted("n", &[(100, 2)], 1));
    // Compacted parts cannot be sources again.
    fixture.must_reject(Op::BeginWrite(compact("o", &table, &[4, 5])), Code::Aborted);
}

#[test]
fn append_during_compaction_succeeds() {
    let mut fixture = eight();
    fixture.begin(compact("m", fixture.table("t"), &[2, 3, 4]));
    assert_eq!(fixture.put("w9", "t", WriteMode::Append, &[9]).version, 9);
    fixture.begin(begin("w10", "t", WriteMode::Append));
    assert_eq!(fixture.commit(compacted("m", &[(100, 3)], 2)).version, 10);
    assert_eq!(fixture.commit(commit("w10", &[10])).version, 11);
    assert_eq!(fixture.parts(fixture.table("t").id, 11), [1, 100, 5, 6, 7, 8, 9, 10]);
}

#[test]
fn replace_or_drop_aborts_a_compaction() {
    let mut fixture = eight();
    fixture.begin(compact("m", fixture.table("t"), &[2, 3, 4]));
    fixture.put("r", "t", WriteMode::Replace, &[50]);
    fixture.must_reject(Op::CommitWrite(compacted("m", &[(100, 3)], 2)), Code::Aborted);
    assert_eq!(fixture.parts(fixture.table("t").id, 9), [50]);

    let mut fixture = eight();
    fixture.begin(compact("m", fixture.table("t"), &[2, 3, 4]));
    fixture.drop_table("t");
    assert!(fixture.must_reject(Op::CommitWrite(compacted("m", &[(100, 3)], 2)), Code::Aborted).contains("dropped"));
    fixture.put("r", "t", WriteMode::Create, &[50]);
    fixture.must_reject(Op::CommitWrite(compacted("m", &[(100, 3)], 2)), Code::Aborted);
}

#[test]
fn restart_or_expired_lease_ends_a_compaction() {
    let mut fixture = eight();
    fixture.begin(compact("m", fixture.table("t"), &[2, 3]));
    fixture.must_apply(node(1, 99));
    assert!(!fixture.catalog.is_write_open("m"));
    fixture.must_reject(Op::CommitWrite(compacted("m", &[(100, 2)], 2)), Code::Aborted);
    fixture.begin(BeginWrite { writer_boot: 99, ..compact("n", fixture.table("t"), &[2, 3]) });
    fixture.now += LEASE + 1;
    fixture.must_apply(expire());
    assert!(!fixture.catalog.is_write_open("n"));
    assert_eq!(fixture.catalog.open_writes().count(), 0);
}

#[test]
fn compacted_sources_are_purged_after_the_retention() {
    let mut fixture = eight();
    let id = fixture.table("t").id;
    fixture.begin(compact("m", fixture.table("t"), &[1, 2, 3, 4]));
    fixture.commit(compacted("m", &[(100, 4)], 1));
    fixture.now += RETENTION;
    assert!((1..=9).all(|version| readable(&fixture, version)));
    assert!(!fixture.catalog.needs_expiry(fixture.now, &keep(u64::MAX)));
    // The end is rounded up by a 64th of the retention at most.
    fixture.now += RETENTION / 64 + 1;
    assert!(readable(&fixture, 9) && !(1..=8).any(|version| readable(&fixture, version)));
    fixture.must_apply(expire());
    assert_eq!((fixture.catalog.part_count(), fixture.parts(id, 9)), (5, vec![100, 5, 6, 7, 8]));
    assert!(!fixture.catalog.needs_expiry(fixture.now, &keep(u64::MAX)));
}

#[test]
fn pin_keeps_only_its_compacted_version() {
    let mut fixture = eight();
    let id = fixture.table("t").id;
    let until_ms = fixture.now + 10 * RETENTION;
    fixture.must_apply(Op::PinVersion(PinVersion { table: id, version: 3, until_ms }));
    for (write, sources, new) in [("m", [2, 3], 100), ("n", [4, 5], 101), ("o", [6, 7], 102)] {
        fixture.begin(compact(write, fixture.table("t"), &sources));
        fixture.commit(compacted(write, &[(new, 2)], (sources[0] % 4) as u32));
        fixture.now += RETENTION / 2;
    }
    fixture.now += 2 * RETENTION;
    fixture.must_apply(expire());
    assert!(readable(&fixture, 3) && readable(&fixture, 11));
    assert!([1, 2, 4, 8, 9, 10].iter().all(|version| !readable(&fixture, *version)));
    assert_eq!(fixture.parts(id, 3), [1, 2, 3]);
    assert_eq!(fixture.catalog.part_count(), 1 + 2 + 3 + 1, "part 1, the pinned, the compacted, part 8");
    assert_eq!(fixture.table("t").replaced.len(), 1, "expired entries are combined");
    fixture.now = until_ms + 1;
    fixture.must_apply(expire());
    assert_eq!((fixture.catalog.part_count(), fixture.table("t").replaced.len()), (5, 0));
}

#[test]
fn replace_keeps_the_retention_a_compaction_promised() {
    let mut fixture = eight();
    fixture.now += 1;
    fixture.begin(compact("m", fixture.table("t"), &[2, 3]));
    fixture.commit(compacted("m", &[(100, 2)], 2));
    let promised = fixture.table("t").replaced[0].until_ms;
    fixture.put("r", "t", WriteMode::Replace, &[50]);
    fixture.now = promised;
    assert!(readable(&fixture, 8));
    fixture.must_apply(expire());
    assert_eq!(fixture.parts(fixture.table("t").id, 8), [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn replaced_list_stays_short_after_many_compactions() {
    let mut fixture = eight();
    let mut newest = 1;
    for round in 0..1000u64 {
        let id = 1000 + u128::from(round);
        fixture.put(&format!("a{round}"), "t", WriteMode::Append, &[id * 4]);
        let table = fixture.table("t").clone();
        let last = fixture.parts(table.id, table.version);
        let sources = &last[last.len() - 2..];
        newest = 1_000_000 + 4 * u128::from(round);
        let shard = fixture.catalog.part(PartId(sources[0])).unwrap().shard;
        let rows = sources.iter().map(|id| fixture.catalog.part(PartId(*id)).unwrap().rows).sum::<u64>() / 10;
        fixture.begin(compact(&format!("m{round}"), &table, sources));
        fixture.commit(compacted(&format!("m{round}"), &[(newest, rows)], shard));
        fixture.now += 1;
        fixture.must_apply(expire());
        assert!(fixture.table("t").replaced.len() <= 70, "{}", fixture.table("t").replaced.len());
    }
    let table = fixture.table("t");
    assert_eq!(fixture.parts(table.id, table.version), [1, 2, 3, 4, 5, 6, 7, newest]);
    assert_eq!(table.rows, 10_080);
}

/// The content of every version at its creation, as parts that users put; compactions only combine them.
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

    /// The commit of a compaction: its sources in runs of random length, one part each.
    fn compacted(&mut self, catalog: &Catalog, write: &str, sources: &[PartId], random: &mut StdRng) -> CommitWrite {
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
        compacted(write, &parts, shard)
    }
}

#[test]
fn readable_versions_keep_their_rows_under_random_commands() {
    let (mut compactions, mut aborted, mut old) = (0, 0, 0);
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut fixture, mut truth) = (CatalogFixture::new(), Truth::default());
        for step in 0..300u128 {
            fixture.now += random.random_range(0..RETENTION / 20);
            let write = format!("w{step}");
            let name = ["a", "b"][random.random_range(0..2)];
            let table = fixture.catalog.table_named(&name.parse().unwrap()).cloned();
            match (random.random_range(0..100), table) {
                (0..3, _) | (_, None) => {
                    drop(fixture.put(&write, name, WriteMode::Replace, &[step * 4 + 1, step * 4 + 2]))
                }
                (3..4, Some(_)) => fixture.drop_table(name),
                (4..10, Some(_)) => fixture.must_apply(expire()),
                (10..13, Some(table)) => {
                    let version = random.random_range(1..=table.version);
                    let until_ms = fixture.now + random.random_range(0..4 * RETENTION);
                    fixture.apply(Op::PinVersion(PinVersion { table: table.id, version, until_ms }));
                }
                (13..40, Some(table)) => {
                    let live: Vec<u128> = fixture.parts(table.id, table.version);
                    let from = random.random_range(0..live.len());
                    let to = random.random_range(from..live.len().min(from + 9));
                    fixture.apply(Op::BeginWrite(compact(&write, &table, &live[from..=to])));
                }
                (40..60, Some(_)) => {
                    let open = fixture.catalog.open_writes().next().cloned();
                    let Some(open) = open.filter(|write| write.state() == WriteState::Open) else { continue };
                    let sources: Vec<PartId> = open.sources.iter().map(PartId::from).collect();
                    let commit = truth.compacted(&fixture.catalog, &open.id, &sources, &mut random);
                    match fixture.apply(Op::CommitWrite(commit)) {
                        Answer::Outcome(_) => compactions += 1,
                        _ => {
                            aborted += 1;
                            fixture.must_apply(Op::AbortWrite(AbortWrite { write: open.id, ..AbortWrite::default() }));
                        }
                    }
                }
                (_, Some(_)) => drop(fixture.put(&write, name, WriteMode::Append, &[step * 4 + 3])),
            }
            truth.note(&fixture.catalog);
            old += truth.check(&fixture.catalog, fixture.now);
        }
        fixture.now += 10 * RETENTION;
        fixture.must_apply(expire());
        assert!(!fixture.catalog.needs_expiry(fixture.now, &keep(u64::MAX)), "seed {seed}");
        let live: usize = fixture.catalog.tables().map(|t| fixture.parts(t.id, t.version).len()).sum();
        assert_eq!(fixture.catalog.part_count(), live, "seed {seed}: expired parts are purged");
        assert_eq!(truth.check(&fixture.catalog, fixture.now), count_old(&fixture), "seed {seed}");
    }
    assert!(
        compactions > 500 && aborted > 20 && old > 50_000,
        "{compactions} compactions, {aborted} aborted, {old} old versions read"
    );
}

/// The number of old versions that stay readable because no part of them was removed.
fn count_old(fixture: &CatalogFixture) -> usize {
    fixture.catalog.tables().map(|table| (table.version - table.oldest) as usize).sum()
}

#[test]
fn compaction_that_joins_preserved_batches_is_rejected() {
    let mut fixture = CatalogFixture::new();
    let whole = TableSpec { preserve_batches: true, ..spec() };
    let with_batches = |mut commit: CommitWrite, batches: u32| {
        commit.parts.iter_mut().for_each(|part| part.batches = batches);
        commit
    };
    fixture.begin(BeginWrite { spec: Some(whole.clone()), ..begin("w", "t", WriteMode::Create) });
    fixture.commit(with_batches(commit("w", &[1, 2, 3]), 4));
    fixture.begin(compact("m", fixture.table("t"), &[1, 2, 3]));
    // 0: the node does not know the option.
    for batches in [0, 11, 13] {
        let joined = with_batches(compacted("m", &[(100, 3)], 1), batches);
        let message = fixture.must_reject(Op::CommitWrite(joined), Code::InvalidArgument);
        assert!(message.contains("sources have 12"), "{message}");
    }
    fixture.commit(with_batches(compacted("m", &[(100, 3)], 1), 12));
    assert_eq!(fixture.catalog.part(PartId(100)).unwrap().batches, 12);
    // A replace without the option: an append that was planned before it would write whole batches.
    fixture.begin(BeginWrite { spec: Some(whole), ..begin("a", "t", WriteMode::Append) });
    fixture.put("r", "t", WriteMode::Replace, &[50]);
    let message = fixture.must_reject(Op::CommitWrite(commit("a", &[60])), Code::Aborted);
    assert!(message.contains("preserve_batches"), "{message}");
}
