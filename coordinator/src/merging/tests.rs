#![allow(clippy::unwrap_used)]

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::reply::Reply as Answer;
use volley_common::wire::catalog::{
    BeginWrite, Command, CommitWrite, FormCluster, Holders, Node, Part, RegisterNode, TableSpec, WriteMode,
};

use super::*;

/// A catalog of one table whose shards are placed on the nodes 1 to 3 in turn; every part is where it is placed.
pub struct World {
    pub catalog: Catalog,
    keyed: bool,
    shards: u32,
    next: u128,
    /// Bytes that merges wrote.
    rewritten: u64,
    /// The rows' numbers, which merges must keep: first row → rows, by part.
    first_rows: BTreeMap<u128, Vec<u64>>,
    appended: u64,
}

fn nodes(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

impl World {
    pub fn new(shards: u32, keyed: bool) -> Self {
        let (catalog, first_rows) = (Catalog::default(), BTreeMap::new());
        let mut world = World { catalog, keyed, shards, next: 1, rewritten: 0, first_rows, appended: 0 };
        world.apply(Op::FormCluster(FormCluster { id: "c".into(), ..FormCluster::default() }));
        for id in 1..=3 {
            let node = Node { id, boot: id, ..Node::default() };
            world.apply(Op::RegisterNode(RegisterNode { node: Some(node) }));
        }
        world.write(WriteMode::Create, &[], &[]);
        world
    }

    pub fn apply(&mut self, op: Op) {
        let answer = self.catalog.apply(&Command { now_ms: 1, op: Some(op) }).reply.unwrap();
        assert!(!matches!(answer, Answer::Refusal(_)), "{answer:?}");
    }

    fn table(&self) -> &Table {
        self.catalog.tables().next().unwrap()
    }

    /// One write of parts of these shards, rows and bytes.
    fn write(&mut self, mode: WriteMode, parts: &[(u32, u64, u64)], sources: &[PartId]) -> Vec<u128> {
        let id = format!("w{}", self.next);
        let shard_by = if self.keyed { vec!["k".to_string()] } else { vec![] };
        let spec = TableSpec { shards: self.shards, shard_by, replicas: 1, ..TableSpec::default() };
        let placement = (0..u64::from(self.shards)).map(|shard| Holders { nodes: vec![shard % 3 + 1] }).collect();
        self.apply(Op::BeginWrite(BeginWrite {
            id: id.clone(),
            table: vec!["t".into()],
            mode: mode as i32,
            spec: Some(spec),
            schema: "schema".into(),
            placement,
            writer: 1,
            writer_boot: 1,
            lease_ms: 1000,
            sources: sources.iter().map(|id| (*id).into()).collect(),
            ..BeginWrite::default()
        }));
        let ids: Vec<u128> = (self.next + 1..).take(parts.len()).collect();
        let row = |(seq, (shard, rows, bytes)): (usize, &(u32, u64, u64))| Part {
            id: Some(PartId(ids[seq]).into()),
            shard: *shard,
            seq: seq as u64,
            rows: *rows,
            bytes: *bytes,
            holders: vec![u64::from(*shard) % 3 + 1],
            ..Part::default()
        };
        let parts = parts.iter().enumerate().map(row).collect();
        self.next += 1 + ids.len() as u128;
        self.apply(Op::CommitWrite(CommitWrite { write: id, parts, attempt: 0 }));
        ids
    }

    pub fn append(&mut self, parts: &[(u32, u64)]) {
        let parts: Vec<_> = parts.iter().map(|(shard, bytes)| (*shard, 1, *bytes)).collect();
        for id in self.write(WriteMode::Append, &parts, &[]) {
            self.first_rows.insert(id, vec![self.appended]);
            self.appended += 1;
        }
    }

    fn plan(&self, limits: &Limits) -> Option<MergePlan> {
        merge_of(&self.catalog, self.table(), &nodes(&[1, 2, 3]), &nodes(&[1, 2, 3]), limits)
    }

    /// Does the merge that is wanted now; false if none is.
    fn merge(&mut self, limits: &Limits) -> bool {
        let Some(plan) = self.plan(limits) else { return false };
        let found: Vec<&PartRow> = plan.sources.iter().map(|id| self.catalog.part(*id).unwrap()).collect();
        let (rows, bytes) = (found.iter().map(|p| p.rows).sum(), found.iter().map(|p| p.bytes).sum::<u64>());
        let (least, most) = limits.sources;
        assert!((least..=most).contains(&found.len()) && bytes <= limits.bytes);
        assert!(
            found.iter().all(|part| part.bytes < limits.small && part.bytes * 2 <= bytes),
            "every byte's part doubles"
        );
        let shard = found[0].shard;
        self.rewritten += bytes;
        let kept = plan.sources.iter().flat_map(|id| self.first_rows[&id.0].clone()).collect();
        let merged = self.write(WriteMode::Compact, &[(shard, rows, bytes)], &plan.sources);
        self.first_rows.insert(merged[0], kept);
        true
    }

    fn parts(&self) -> Vec<&PartRow> {
        self.catalog.part_rows_at(self.table().id, self.table().version).collect()
    }

    /// The rows as they are read: in order, or by shard.
    fn check_rows(&self) {
        let mut orders: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for part in self.parts() {
            let rows = &self.first_rows[&part.part_id().0];
            orders.entry(if self.keyed { part.shard } else { 0 }).or_default().extend(rows);
        }
        assert!(orders.values().all(|rows| rows.is_sorted()));
        assert_eq!(orders.values().map(Vec::len).sum::<usize>() as u64, self.appended);
    }
}

/// Parts of a hundred rows are some 2.5 kB.
const APPEND: u64 = 2_500;

#[test]
fn ten_thousand_appends_become_few_parts_at_little_cost() {
    // The leader looks once after so many appends.
    for every in [1, 7, 300, 10_000] {
        let mut world = World::new(4, false);
        let mut random = StdRng::seed_from_u64(every);
        for at in 0..10_000u64 {
            world.append(&[(random.random_range(0..4), APPEND)]);
            if at % every == 0 {
                world.merge(&Limits::default());
            }
        }
        while world.merge(&Limits::default()) {}
        world.check_rows();
        let times = world.rewritten as f64 / (10_000 * APPEND) as f64;
        assert!(world.parts().len() <= 50, "every {every}: {} parts", world.parts().len());
        assert!(times <= 14.0, "every {every}: {times} times");
    }
}

#[test]
fn shards_of_a_table_with_keys_are_merged_each_for_itself() {
    let mut world = World::new(8, true);
    for _ in 0..2_000 {
        world.append(&(0..8).map(|shard| (shard, APPEND)).collect::<Vec<_>>());
        world.merge(&Limits::default());
    }
    while world.merge(&Limits::default()) {}
    world.check_rows();
    let times = world.rewritten as f64 / (16_000 * APPEND) as f64;
    assert!(world.parts().len() <= 8 * 40 && times <= 14.0, "{} parts, {times} times", world.parts().len());
}

#[test]
fn appends_of_any_sizes_become_few_parts_and_every_byte_moves_seldom() {
    for seed in 0..20 {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut world, mut bytes) = (World::new(4, false), 0);
        for _ in 0..1_500 {
            let largest = random.random_range(11..27);
            let size = 1 << random.random_range(9..largest);
            bytes += size;
            world.append(&[(random.random_range(0..4), size)]);
            if random.random_bool(0.2) {
                world.merge(&Limits::default());
            }
        }
        while world.merge(&Limits::default()) {}
        world.check_rows();
        let large = world.parts().iter().filter(|part| part.bytes >= 16 << 20).count();
        let small = world.parts().len() - large;
        assert!(small <= 150, "seed {seed}: {small} small parts beside {large}");
        // From 512 bytes to 32 MiB a part doubles 16 times.
        assert!(world.rewritten <= 16 * bytes, "seed {seed}");
    }
}

#[test]
fn seven_are_too_few_and_large_ones_stay_as_they_are() {
    let mut world = World::new(1, false);
    let limits = Limits::default();
    (0..7).for_each(|_| world.append(&[(0, APPEND)]));
    assert_eq!(world.plan(&limits), None);
    world.append(&[(0, 32 << 20)]);
    assert_eq!(world.plan(&limits), None, "seven small ones and a large one");
    (0..7).for_each(|_| world.append(&[(0, APPEND)]));
    assert_eq!(world.plan(&limits), None, "the large one stands between");
    world.append(&[(0, APPEND)]);
    let found = world.plan(&limits).unwrap().sources;
    let last: Vec<PartId> = world.parts()[8..].iter().map(|part| part.part_id()).collect();
    assert_eq!(found, last);
}

#[test]
fn one_part_that_outweighs_its_neighbours_is_left_out() {
    let limits = Limits::default();
    assert_eq!(window(&[100, 1, 1, 1, 1, 1, 1, 1, 1], &limits), Some(1..9));
    assert_eq!(window(&[1, 1, 1, 1, 1, 1, 1, 1, 100, 1], &limits), Some(0..8));
    assert_eq!(window(&[1, 1, 1, 1, 100, 1, 1, 1, 1, 1], &limits), None);
    assert_eq!(window(&[100, 100, 1, 1, 1, 1, 1, 1], &limits), Some(0..8));
}

#[test]
fn no_merge_is_larger_than_the_limits() {
    let limits = Limits::default();
    assert_eq!(window(&[1; 3000], &limits), Some(0..1024));
    assert_eq!(window(&[10 << 20; 20], &limits), Some(0..12));
    assert_eq!(window(&[31 << 20; 20], &limits), None, "four would be too few");
}

#[test]
fn the_node_is_one_that_is_to_hold_the_part_and_holds_most_already() {
    let mut world = World::new(2, false);
    // Shard 0 is on node 1, shard 1 on node 2.
    world.append(&[(0, APPEND)]);
    (0..7).for_each(|_| world.append(&[(1, APPEND)]));
    let plan = |free: &[u64]| {
        let alive = nodes(&[1, 2, 3]);
        merge_of(&world.catalog, world.table(), &alive, &nodes(free), &Limits::default()).map(|plan| plan.node)
    };
    assert_eq!(plan(&[1, 2, 3]), Some(NodeId(1)));
    assert_eq!(plan(&[2, 3]), Some(NodeId(2)));
    assert_eq!(plan(&[3]), Some(NodeId(3)));
    assert_eq!(plan(&[]), None);
}

#[test]
fn parts_that_cannot_be_read_are_left_alone() {
    let mut world = World::new(2, false);
    (0..4).for_each(|_| world.append(&[(0, APPEND)]));
    world.append(&[(1, APPEND)]);
    (0..8).for_each(|_| world.append(&[(0, APPEND)]));
    let found = merge_of(&world.catalog, world.table(), &nodes(&[1, 3]), &nodes(&[1]), &Limits::default()).unwrap();
    assert_eq!(found.sources.len(), 8);
}
