//! Plans with joins of scans, some of which read the same shards on both sides.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use async_trait::async_trait;
use datafusion::common::{JoinType, NullEquality};
use datafusion::physical_expr::expressions::lit;
use datafusion::physical_plan::joins::JoinOn;
use datafusion::physical_plan::projection::ProjectionExpr;
use datafusion::physical_plan::union::InterleaveExec;
use datafusion::physical_plan::{Partitioning, displayable};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use volley_common::wire::cluster::{Ticket, TicketPart};
use volley_common::{Error, NodeId};

use super::*;
use crate::engine::stages::routing::{HolderRouting, TaskRouting};
use crate::source::{ListedTable, PartScan, PlannedPart, PlannedTable, TableSource};
use crate::statement::TableAt;

/// Parts of each scan, and its partitions.
const PARTS: usize = 6;
const PARTITIONS: usize = 2;
const TASKS: usize = 3;

/// Tables without rows.
#[derive(Debug)]
struct NoRows;

#[async_trait]
impl TableSource for NoRows {
    async fn plan(&self, _tables: &[TableAt]) -> volley_common::Result<Vec<PlannedTable>> {
        Err(Error::internal("a test plans no tables"))
    }

    async fn list(&self) -> volley_common::Result<Vec<ListedTable>> {
        Err(Error::internal("a test lists no tables"))
    }

    fn scan(&self, _scan: PartScan) -> BoxStream<'static, volley_common::Result<RecordBatch>> {
        stream::empty().boxed()
    }
}

/// Scans the columns v and k of a table that is sharded by `keys`, with one part of each shard in turn.
fn scan_with(key: DataType, keys: &[&str], shards: u32, limit: Option<usize>) -> Arc<dyn ExecutionPlan> {
    let fields = vec![Field::new("k", key, true), Field::new("v", DataType::Int64, true)];
    let part = |at: usize| TicketPart { rows: 10, holders: vec![at as u64 % 3 + 1], ..TicketPart::default() };
    let sharding = TableSharding {
        keys: keys.iter().map(|key| key.to_string()).collect(),
        shards,
        part_shards: (0..PARTS as u32).map(|at| at % shards).collect(),
    };
    let table = PlannedTable {
        name: "t".parse().unwrap(),
        version: 1,
        schema: Arc::new(Schema::new(fields)),
        parts: vec![PlannedPart { rows: 10 }; PARTS],
        rows: 10 * PARTS as u64,
        bytes: 1000,
        ticket: Arc::new(Ticket {
            table: vec!["t".into()],
            parts: (0..PARTS).map(part).collect(),
            ..Ticket::default()
        }),
        sharding: (!keys.is_empty()).then_some(sharding),
    };
    Arc::new(PartScanExec::try_new(Arc::new(NoRows), Arc::new(table), PARTITIONS, vec![1, 0], None, limit).unwrap())
}

fn scan(keys: &[&str], shards: u32) -> Arc<dyn ExecutionPlan> {
    scan_with(DataType::Int64, keys, shards, None)
}

fn column(plan: &Arc<dyn ExecutionPlan>, name: &str) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new_with_schema(name, &plan.schema()).unwrap())
}

fn repartitioned(plan: Arc<dyn ExecutionPlan>, name: &str) -> Arc<dyn ExecutionPlan> {
    let partitioning = Partitioning::Hash(vec![column(&plan, name)], PARTITIONS);
    Arc::new(RepartitionExec::try_new(plan, partitioning).unwrap())
}

fn collected(plan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    Arc::new(CoalescePartitionsExec::new(plan))
}

fn join(
    left: Arc<dyn ExecutionPlan>,
    right: Arc<dyn ExecutionPlan>,
    on: &[(&str, &str)],
    join_type: JoinType,
    mode: PartitionMode,
) -> Arc<dyn ExecutionPlan> {
    let on: JoinOn = on.iter().map(|(of_left, of_right)| (column(&left, of_left), column(&right, of_right))).collect();
    let nulls = NullEquality::NullEqualsNothing;
    Arc::new(HashJoinExec::try_new(left, right, on, None, &join_type, None, mode, nulls, false).unwrap())
}

/// Joins two sides on `k`, whose partitions have equal keys.
fn partitioned(left: Arc<dyn ExecutionPlan>, right: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    let sides = (repartitioned(left, "k"), repartitioned(right, "k"));
    join(sides.0, sides.1, &[("k", "k")], JoinType::Inner, PartitionMode::Partitioned)
}

/// How many joins of a plan need no exchange between these many tasks.
fn count(plan: &Arc<dyn ExecutionPlan>, tasks: usize) -> usize {
    let colocated = colocate(plan, tasks).unwrap();
    assert_eq!(colocated.schema(), plan.schema());
    let partitions = |plan: &Arc<dyn ExecutionPlan>| plan.properties().partitioning.partition_count();
    assert_eq!(partitions(&colocated), partitions(plan));
    displayable(colocated.as_ref()).indent(false).to_string().matches("ColocatedJoinExec").count()
}

fn is_colocated(left: Arc<dyn ExecutionPlan>, right: Arc<dyn ExecutionPlan>) -> bool {
    count(&partitioned(left, right), TASKS) == 1
}

#[test]
fn join_by_the_keys_of_equal_shards_is_colocated() {
    for join_type in [JoinType::Inner, JoinType::Left, JoinType::Right, JoinType::Full, JoinType::LeftSemi] {
        let in_partitions = |name| repartitioned(scan(&["k"], 4), name);
        let plan = join(in_partitions("k"), in_partitions("k"), &[("k", "k")], join_type, PartitionMode::Partitioned);
        assert_eq!(count(&plan, TASKS), 1, "{join_type}");
        let left = collected(scan(&["k"], 4));
        let plan = join(left, scan(&["k"], 4), &[("v", "v"), ("k", "k")], join_type, PartitionMode::CollectLeft);
        assert_eq!(count(&plan, TASKS), 1, "{join_type}");
        let colocated = colocate(&plan, TASKS).unwrap();
        assert!(matches!(colocated.properties().partitioning, Partitioning::UnknownPartitioning(PARTITIONS)));
        assert!(colocated.children().is_empty());
    }
}

#[test]
fn join_by_other_columns_or_of_other_shards_is_not_colocated() {
    assert!(is_colocated(scan(&["k"], 4), scan(&["k"], 4)));
    assert!(!is_colocated(scan(&["k"], 4), scan(&["k"], 5)), "another number");
    assert!(!is_colocated(scan(&["k"], 4), scan(&[], 4)), "not known");
    assert!(!is_colocated(scan(&["k"], 4), scan(&["v"], 4)), "another key on the right");
    assert!(!is_colocated(scan(&["v"], 4), scan(&["v"], 4)), "another key");
    assert!(!is_colocated(scan(&["k", "v"], 4), scan(&["k", "v"], 4)), "a part of the keys");
    assert!(!is_colocated(scan(&["k"], 4), scan(&["k", "v"], 4)), "more keys");
    assert!(!is_colocated(scan(&["k"], 1), scan(&["k"], 1)), "one shard");
    assert!(!is_colocated(scan_with(DataType::Int64, &["k"], 4, Some(3)), scan(&["k"], 4)), "some rows");
    let decimal = |scale| scan_with(DataType::Decimal128(20, scale), &["k"], 4, None);
    assert!(is_colocated(decimal(2), decimal(2)));
}

#[test]
fn all_keys_are_joined_in_their_order() {
    let on_both = |left, right, on: &[(&str, &str)]| {
        count(&join(collected(left), right, on, JoinType::Left, PartitionMode::CollectLeft), TASKS) == 1
    };
    let table = || scan(&["k", "v"], 4);
    assert!(on_both(table(), table(), &[("v", "v"), ("k", "k")]));
    assert!(!on_both(table(), table(), &[("v", "k"), ("k", "v")]));
    assert!(!on_both(table(), scan(&["v", "k"], 4), &[("v", "v"), ("k", "k")]));
    assert!(on_both(table(), scan(&["v", "k"], 4), &[("v", "k"), ("k", "v")]));
}

#[test]
fn keys_are_followed_through_operators_that_keep_rows() {
    let filtered = |keys: &[&str]| Arc::new(FilterExec::try_new(lit(true), scan(keys, 4)).unwrap());
    assert!(is_colocated(filtered(&["k"]), scan(&["k"], 4)));
    let projected = |input: Arc<dyn ExecutionPlan>, of: &str| -> Arc<dyn ExecutionPlan> {
        let expr = ProjectionExpr { expr: column(&input, of), alias: "k".into() };
        Arc::new(ProjectionExec::try_new(vec![expr], input).unwrap())
    };
    assert!(is_colocated(projected(filtered(&["v"]), "v"), scan(&["k"], 4)));
    assert!(!is_colocated(projected(filtered(&["k"]), "v"), scan(&["k"], 4)));
    let constant = ProjectionExpr { expr: lit(7i64), alias: "k".into() };
    let constant = Arc::new(ProjectionExec::try_new(vec![constant], scan(&["k"], 4)).unwrap());
    assert!(!is_colocated(constant, scan(&["k"], 4)));
    let first_rows = Arc::new(CoalescePartitionsExec::new(scan(&["k"], 4)).with_fetch(Some(5)));
    let plan = join(first_rows, scan(&["k"], 4), &[("k", "k")], JoinType::Inner, PartitionMode::CollectLeft);
    assert_eq!(count(&plan, TASKS), 0, "some rows");
}

#[test]
fn join_that_needs_rows_of_all_shards_is_not_colocated() {
    let (left, right) = (collected(scan(&["k"], 4)), scan(&["k"], 4));
    let on: JoinOn = vec![(column(&left, "k"), column(&right, "k"))];
    let (mode, nulls) = (PartitionMode::CollectLeft, NullEquality::NullEqualsNothing);
    let not_in = HashJoinExec::try_new(left, right, on, None, &JoinType::LeftAnti, None, mode, nulls, true).unwrap();
    let not_in: Arc<dyn ExecutionPlan> = Arc::new(not_in);
    assert_eq!(count(&not_in, TASKS), 0);
    let one_partition = join(
        collected(scan(&["k"], 4)),
        collected(scan(&["k"], 4)),
        &[("k", "k")],
        JoinType::Inner,
        PartitionMode::CollectLeft,
    );
    assert_eq!(count(&one_partition, TASKS), 0);
}

#[test]
fn join_of_rows_that_are_distributed_otherwise_is_not_colocated() {
    let by = |name: &str| repartitioned(scan(&["v"], 4), name);
    let on = [("k", "k"), ("v", "v")];
    // A `GROUP BY k` above would find rows with the same k in one partition, and of several shards.
    let by_one_column = join(by("k"), by("k"), &on, JoinType::Inner, PartitionMode::Partitioned);
    assert_eq!(count(&by_one_column, TASKS), 0);
    let streamed = join(collected(scan(&["v"], 4)), by("k"), &on, JoinType::Inner, PartitionMode::CollectLeft);
    assert_eq!(count(&streamed, TASKS), 0);
    let in_turn = RepartitionExec::try_new(scan(&["v"], 4), Partitioning::RoundRobinBatch(PARTITIONS)).unwrap();
    let streamed =
        join(collected(scan(&["v"], 4)), Arc::new(in_turn), &on, JoinType::Inner, PartitionMode::CollectLeft);
    assert_eq!(count(&streamed, TASKS), 1);
}

#[test]
fn join_with_too_few_shards_for_its_tasks_is_not_colocated() {
    let plan = partitioned(scan(&["k"], 2), scan(&["k"], 2));
    assert_eq!([2, 4, 5].map(|tasks| count(&plan, tasks)), [1, 1, 0]);
}

#[test]
fn partitions_are_not_matched_with_those_of_an_exchange() {
    let inner = || partitioned(scan(&["k"], 4), scan(&["k"], 4));
    let other = || repartitioned(scan(&[], 4), "k");
    let matched = join(inner(), other(), &[("k", "k")], JoinType::Inner, PartitionMode::Partitioned);
    assert_eq!(count(&matched, TASKS), 0);
    let exchanged = partitioned(inner(), scan(&[], 4));
    assert_eq!(count(&exchanged, TASKS), 1);
    let collected_side =
        join(collected(inner()), scan(&[], 4), &[("k", "k")], JoinType::Inner, PartitionMode::CollectLeft);
    assert_eq!(count(&collected_side, TASKS), 1);
    let streamed_side =
        join(collected(scan(&[], 4)), inner(), &[("k", "k")], JoinType::Inner, PartitionMode::CollectLeft);
    assert_eq!(count(&streamed_side, TASKS), 1);
    let below = join(streamed_side, other(), &[("k", "k")], JoinType::Inner, PartitionMode::Partitioned);
    assert_eq!(count(&below, TASKS), 0);
    let united: Arc<dyn ExecutionPlan> = UnionExec::try_new(vec![inner(), inner()]).unwrap();
    assert_eq!(count(&united, TASKS), 2);
    let interleaved: Arc<dyn ExecutionPlan> = Arc::new(InterleaveExec::try_new(vec![inner(), inner()]).unwrap());
    assert_eq!(count(&interleaved, TASKS), 0);
}

#[test]
fn each_task_reads_other_shards_of_both_tables() {
    let plan = colocate(&partitioned(scan(&["k"], 4), scan(&["k"], 4)), TASKS).unwrap();
    let routing = HolderRouting::new(NodeId(1), (1..=TASKS as u64).map(NodeId).collect());
    let joins = plan.downcast_ref::<ColocatedJoinExec>().unwrap().split(&routing, TASKS).unwrap();
    assert_eq!(joins.len(), routing.nodes(TASKS).len());
    let (mut shards, mut rows) = (0, 0);
    for task in &joins {
        let task = task.downcast_ref::<ColocatedJoinExec>().unwrap();
        shards += task.shards();
        let shown = displayable(task).one_line().to_string();
        assert!(shown.starts_with("ColocatedJoinExec: shards=") && shown.trim_end().lines().count() == 1, "{shown}");
        let (left, right) = joined_scans(task.join().downcast_ref::<HashJoinExec>().unwrap()).unwrap();
        let sides = [left, right].map(|scan| {
            assert_eq!(scan.partition_count(), PARTITIONS);
            scan.ticket_parts().iter().map(|part| part.rows).sum::<u64>()
        });
        assert_eq!(sides[0], sides[1], "both tables have the same parts");
        rows += sides[0];
    }
    assert_eq!((shards, rows), (4, 10 * PARTS as u64));
    assert!(joins[0].downcast_ref::<ColocatedJoinExec>().unwrap().split(&routing, 2).is_err(), "it is split once");
}
