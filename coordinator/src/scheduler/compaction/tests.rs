#![allow(clippy::unwrap_used)]

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::reply::Reply as Answer;
use volley_common::wire::catalog::{
    BeginWrite, Command, CommitWrite, FormCluster, Node, Part, RegisterNode, ShardPlacement, TableSpec, WriteMode,
};

use super::*;

/// A catalog with one table whose shards are placed on nodes 1 to 3 in turn. Every part is on its placement.
pub struct CompactionFixture {
    pub catalog: Catalog,
    keyed: bool,
    shards: u32,
    next: u128,
    /// Bytes that compactions wrote.
    rewritten: u64,
    /// The numbers of the rows of each part; compactions must keep their order.
    row_numbers: BTreeMap<u128, Vec<u64>>,
    appended: u64,
}

fn nodes(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

impl CompactionFixture {
    pub fn new(shards: u32, keyed: bool) -> Self {
        let (catalog, row_numbers) = (Catalog::default(), BTreeMap::new());
        let mut fixture = CompactionFixture { catalog, keyed, shards, next: 1, rewritten: 0, row_numbers, appended: 0 };
        fixture.apply(Op::FormCluster(FormCluster { id: "c".into(), ..FormCluster::default() }));
        for id in 1..=3 {
            let node = Node { id, boot: id, ..Node::default() };
            fixture.apply(Op::RegisterNode(RegisterNode { node: Some(node) }));
        }
        fixture.write(WriteMode::Create, &[], &[]);
        fixture
    }

    pub fn apply(&mut self, op: Op) {
        let answer = self.catalog.apply(&Command { now_ms: 1, op: Some(op) }).reply.unwrap();
        assert!(!matches!(answer, Answer::Refusal(_)), "{answer:?}");
    }

    fn table(&self) -> &Table {
        self.catalog.tables().next().unwrap()
    }

    /// Writes parts of these (shard, rows, bytes); returns their ids.
    fn write(&mut self, mode: WriteMode, parts: &[(u32, u64, u64)], sources: &[PartId]) -> Vec<u128> {
        let id = format!("w{}", self.next);
        let shard_by = if self.keyed { vec!["k".to_string()] } else { vec![] };
        let spec = TableSpec { shards: self.shards, shard_by, replicas: 1, ..TableSpec::default() };
        let placement =
            (0..u64::from(self.shards)).map(|shard| ShardPlacement { nodes: vec![shard % 3 + 1] }).collect();
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
            self.row_numbers.insert(id, vec![self.appended]);
            self.appended += 1;
        }
    }

    fn plan(&self, limits: &CompactionLimits) -> Option<CompactionPlan> {
        plan_compaction(&self.catalog, self.table(), &nodes(&[1, 2, 3]), &nodes(&[1, 2, 3]), limits)
    }

    /// Executes the compaction that is planned now; false if there is none.
    fn compact(&mut self, limits: &CompactionLimits) -> bool {
        let Some(plan) = self.plan(limits) else { return false };
        let found: Vec<&PartRow> = plan.sources.iter().map(|id| self.catalog.part(*id).unwrap()).collect();
        let (rows, bytes) = (found.iter().map(|p| p.rows).sum(), found.iter().map(|p| p.bytes).sum::<u64>());
        let allowed = limits.min_sources..=limits.max_sources;
        assert!(allowed.contains(&found.len()) && bytes <= limits.max_bytes);
        assert!(
            found.iter().all(|part| part.bytes < limits.max_part_bytes && part.bytes * 2 <= bytes),
            "every byte ends up in a part twice as large"
        );
        let shard = found[0].shard;
        self.rewritten += bytes;
        let kept = plan.sources.iter().flat_map(|id| self.row_numbers[&id.0].clone()).collect();
        let compacted = self.write(WriteMode::Compact, &[(shard, rows, bytes)], &plan.sources);
        self.row_numbers.insert(compacted[0], kept);
        true
    }

    fn parts(&self) -> Vec<&PartRow> {
        self.catalog.part_rows_at(self.table().id, self.table().version).collect()
    }

    /// Checks that readers get all rows in order: of the table, or of each shard.
    fn check_rows(&self) {
        let mut orders: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for part in self.parts() {
            let rows = &self.row_numbers[&part.part_id().0];
            orders.entry(if self.keyed { part.shard } else { 0 }).or_default().extend(rows);
        }
        assert!(orders.values().all(|rows| rows.is_sorted()));
        assert_eq!(orders.values().map(Vec::len).sum::<usize>() as u64, self.appended);
    }
}

/// The size of a part of about a hundred rows.
const APPEND: u64 = 2_500;

#[test]
fn ten_thousand_appends_become_few_parts_at_low_cost() {
    // The leader plans once per this many appends.
    for every in [1, 7, 300, 10_000] {
        let mut fixture = CompactionFixture::new(4, false);
        let mut random = StdRng::seed_from_u64(every);
        for at in 0..10_000u64 {
            fixture.append(&[(random.random_range(0..4), APPEND)]);
            if at % every == 0 {
                fixture.compact(&CompactionLimits::default());
            }
        }
        while fixture.compact(&CompactionLimits::default()) {}
        fixture.check_rows();
        let write_amplification = fixture.rewritten as f64 / (10_000 * APPEND) as f64;
        assert!(fixture.parts().len() <= 50, "every {every}: {} parts", fixture.parts().len());
        assert!(write_amplification <= 14.0, "every {every}: {write_amplification} write_amplification");
    }
}

#[test]
fn shards_of_a_keyed_table_are_compacted_separately() {
    let mut fixture = CompactionFixture::new(8, true);
    for _ in 0..2_000 {
        fixture.append(&(0..8).map(|shard| (shard, APPEND)).collect::<Vec<_>>());
        fixture.compact(&CompactionLimits::default());
    }
    while fixture.compact(&CompactionLimits::default()) {}
    fixture.check_rows();
    let write_amplification = fixture.rewritten as f64 / (16_000 * APPEND) as f64;
    assert!(
        fixture.parts().len() <= 8 * 40 && write_amplification <= 14.0,
        "{} parts, {write_amplification} write_amplification",
        fixture.parts().len()
    );
}

#[test]
fn appends_of_random_sizes_become_few_parts_at_low_cost() {
    for seed in 0..20 {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut fixture, mut bytes) = (CompactionFixture::new(4, false), 0);
        for _ in 0..1_500 {
            let largest = random.random_range(11..27);
            let size = 1 << random.random_range(9..largest);
            bytes += size;
            fixture.append(&[(random.random_range(0..4), size)]);
            if random.random_bool(0.2) {
                fixture.compact(&CompactionLimits::default());
            }
        }
        while fixture.compact(&CompactionLimits::default()) {}
        fixture.check_rows();
        let large = fixture.parts().iter().filter(|part| part.bytes >= 16 << 20).count();
        let small = fixture.parts().len() - large;
        assert!(small <= 150, "seed {seed}: {small} small parts beside {large}");
        // From 512 bytes to 32 MiB a part doubles 16 write_amplification.
        assert!(fixture.rewritten <= 16 * bytes, "seed {seed}");
    }
}

#[test]
fn too_few_or_too_large_parts_are_not_compacted() {
    let mut fixture = CompactionFixture::new(1, false);
    let limits = CompactionLimits::default();
    (0..7).for_each(|_| fixture.append(&[(0, APPEND)]));
    assert_eq!(fixture.plan(&limits), None);
    fixture.append(&[(0, 32 << 20)]);
    assert_eq!(fixture.plan(&limits), None, "seven small parts and a large one");
    (0..7).for_each(|_| fixture.append(&[(0, APPEND)]));
    assert_eq!(fixture.plan(&limits), None, "the large part separates them");
    fixture.append(&[(0, APPEND)]);
    let found = fixture.plan(&limits).unwrap().sources;
    let last: Vec<PartId> = fixture.parts()[8..].iter().map(|part| part.part_id()).collect();
    assert_eq!(found, last);
}

#[test]
fn table_without_keys_keeps_a_part_for_each_shard() {
    const MIB: u64 = 1 << 20;
    let compacted = |shards: u32, keyed: bool, parts: u64, bytes: u64| {
        let mut fixture = CompactionFixture::new(shards, keyed);
        (0..parts).for_each(|at| fixture.append(&[(if keyed { 0 } else { at as u32 % shards }, bytes)]));
        while fixture.compact(&CompactionLimits::default()) {}
        fixture.check_rows();
        fixture.parts().len()
    };
    assert_eq!(compacted(6, false, 20, 5 * MIB / 2), 20, "three of them are the share of a shard");
    assert_eq!(compacted(6, false, 60, MIB), 6, "ten of them are");
    assert_eq!(compacted(6, false, 20, MIB / 20), 1, "1 MiB in all is one part");
    assert_eq!(compacted(6, true, 20, 5 * MIB / 2), 1, "keys have parts of their own");
    assert_eq!(compacted(1, false, 20, 5 * MIB / 2), 1);
}

#[test]
fn many_parts_that_cannot_be_joined_need_no_deep_stack() {
    let limits = CompactionLimits { max_part_bytes: 1 << 20, max_bytes: 1 << 20, ..CompactionLimits::default() };
    assert_eq!(select_range(&[700 << 10; 6_000], &limits), None);
}

#[test]
fn part_larger_than_its_run_is_left_out() {
    let limits = CompactionLimits::default();
    assert_eq!(select_range(&[100, 1, 1, 1, 1, 1, 1, 1, 1], &limits), Some(1..9));
    assert_eq!(select_range(&[1, 1, 1, 1, 1, 1, 1, 1, 100, 1], &limits), Some(0..8));
    assert_eq!(select_range(&[1, 1, 1, 1, 100, 1, 1, 1, 1, 1], &limits), None);
    assert_eq!(select_range(&[100, 100, 1, 1, 1, 1, 1, 1], &limits), Some(0..8));
}

#[test]
fn compaction_stays_within_the_limits() {
    let limits = CompactionLimits::default();
    assert_eq!(select_range(&[1; 3000], &limits), Some(0..1024));
    assert_eq!(select_range(&[10 << 20; 20], &limits), Some(0..12));
    assert_eq!(select_range(&[31 << 20; 20], &limits), None, "four would be too few");
}

#[test]
fn node_is_placed_and_holds_most_bytes() {
    let mut fixture = CompactionFixture::new(2, false);
    // Shard 0 is on node 1, shard 1 on node 2.
    fixture.append(&[(0, APPEND)]);
    (0..7).for_each(|_| fixture.append(&[(1, APPEND)]));
    let plan = |free: &[u64]| {
        let alive = nodes(&[1, 2, 3]);
        plan_compaction(&fixture.catalog, fixture.table(), &alive, &nodes(free), &CompactionLimits::default())
            .map(|plan| plan.node)
    };
    assert_eq!(plan(&[1, 2, 3]), Some(NodeId(1)));
    assert_eq!(plan(&[2, 3]), Some(NodeId(2)));
    assert_eq!(plan(&[3]), Some(NodeId(3)));
    assert_eq!(plan(&[]), None);
}

#[test]
fn parts_without_a_live_holder_are_not_compacted() {
    let mut fixture = CompactionFixture::new(2, false);
    (0..4).for_each(|_| fixture.append(&[(0, APPEND)]));
    fixture.append(&[(1, APPEND)]);
    (0..8).for_each(|_| fixture.append(&[(0, APPEND)]));
    let found =
        plan_compaction(&fixture.catalog, fixture.table(), &nodes(&[1, 3]), &nodes(&[1]), &CompactionLimits::default())
            .unwrap();
    assert_eq!(found.sources.len(), 8);
}
