//! A join of two tables with equal shards, as a leaf of stages: each task joins the rows of some shards, and no row is exchanged.
//!
//! Inside is the join as it was planned for one node, with its own exchanges between partitions. Each task has it with scans of other
//! parts. To all others it is a leaf that declares no partitioning, so that no rule compares the shards with another distribution.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use datafusion::common::internal_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::metrics::{MetricValue, MetricsSet};
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PhysicalExpr, PlanProperties,
    ReplaceChildrenOptions, SendableRecordBatchStream, displayable,
};
use volley_common::wire::cluster::TicketPart;

use super::routing::TaskRouting;
use crate::engine::part_scan::PartScanExec;

/// Joins the rows of shards that it reads from both tables.
#[derive(Debug)]
pub(super) struct ColocatedJoinExec {
    join: Arc<dyn ExecutionPlan>,
    /// How many shards with rows it reads, of how many that each table has.
    shards: usize,
    all_shards: usize,
    properties: Arc<PlanProperties>,
}

/// The parts of one shard, by their indexes: of each scan of a join.
type ShardParts = Vec<Vec<usize>>;

impl ColocatedJoinExec {
    /// Of this join, whose leaves are scans, and in which rows of different shards have nothing to do with each other.
    pub(super) fn new(join: Arc<dyn ExecutionPlan>, shards: usize, all_shards: usize) -> Self {
        let of_join = join.properties();
        let partitioning = Partitioning::UnknownPartitioning(of_join.partitioning.partition_count());
        let properties = PlanProperties::clone(of_join).with_partitioning(partitioning);
        ColocatedJoinExec { join, shards, all_shards, properties: Arc::new(properties) }
    }

    /// The join inside.
    pub(super) fn join(&self) -> &Arc<dyn ExecutionPlan> {
        &self.join
    }

    /// How many shards with rows it reads.
    pub(super) fn shards(&self) -> usize {
        self.shards
    }

    /// How many shards each table has.
    pub(super) fn all_shards(&self) -> usize {
        self.all_shards
    }

    /// A join for each of so many tasks, of different shards: together they have all.
    ///
    /// # Errors
    /// It is not known which parts have which shard.
    pub(super) fn split(&self, routing: &dyn TaskRouting, tasks: usize) -> Result<Vec<Arc<dyn ExecutionPlan>>> {
        let scans = scans(&self.join);
        let shards: Vec<ShardParts> = parts_by_shard(&scans)?.into_values().collect();
        let nodes = routing.nodes(tasks);
        let own_shards = routing.assign_shards(&ticket_parts(&scans, &shards), tasks);
        let mut of_tasks: Vec<Vec<Arc<dyn ExecutionPlan>>> = vec![Vec::new(); tasks];
        for (at, scan) in scans.iter().enumerate() {
            let parts_of = |own: &Vec<usize>| {
                let mut parts: Vec<usize> = own.iter().flat_map(|shard| shards[*shard][at].iter().copied()).collect();
                parts.sort_unstable();
                parts
            };
            let assigned: Vec<Vec<usize>> = own_shards.iter().map(parts_of).collect();
            for (task, scan) in scan.split(&assigned, &nodes)?.into_iter().enumerate() {
                of_tasks[task].push(scan);
            }
        }
        let join_of = |(own, scans): (&Vec<usize>, Vec<Arc<dyn ExecutionPlan>>)| -> Result<Arc<dyn ExecutionPlan>> {
            let join = with_scans(&self.join, &mut scans.into_iter())?;
            Ok(Arc::new(ColocatedJoinExec::new(join, own.len(), self.all_shards)))
        };
        own_shards.iter().zip(of_tasks).map(join_of).collect()
    }
}

/// The scans of a join, left before right.
fn scans(plan: &Arc<dyn ExecutionPlan>) -> Vec<&PartScanExec> {
    match plan.downcast_ref::<PartScanExec>() {
        Some(scan) => vec![scan],
        None => plan.children().into_iter().flat_map(scans).collect(),
    }
}

/// The parts of all shards that have some.
fn parts_by_shard(scans: &[&PartScanExec]) -> Result<BTreeMap<u32, ShardParts>> {
    let mut shards: BTreeMap<u32, ShardParts> = BTreeMap::new();
    for (at, scan) in scans.iter().enumerate() {
        let part_shards = match scan.sharding() {
            Some(sharding) if sharding.part_shards.len() == scan.ticket_parts().len() => &sharding.part_shards,
            _ => return internal_err!("the shards of a joined table are not known"),
        };
        for (part, shard) in part_shards.iter().enumerate() {
            shards.entry(*shard).or_insert_with(|| vec![Vec::new(); scans.len()])[at].push(part);
        }
    }
    Ok(shards)
}

/// All parts of each shard, with their holders.
fn ticket_parts<'a>(scans: &[&'a PartScanExec], shards: &[ShardParts]) -> Vec<Vec<&'a TicketPart>> {
    let parts_of = |shard: &ShardParts| {
        let mut found = Vec::new();
        for (scan, parts) in scans.iter().copied().zip(shard) {
            let of_scan = scan.ticket_parts();
            found.extend(parts.iter().filter_map(|part| of_scan.get(*part)));
        }
        found
    };
    shards.iter().map(parts_of).collect()
}

/// The plan with these scans in place of its own, in their order. It shares nothing with the plan: a join that collects a side keeps
/// what it has collected in its copies, too.
fn with_scans(
    plan: &Arc<dyn ExecutionPlan>,
    scans: &mut dyn Iterator<Item = Arc<dyn ExecutionPlan>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    if plan.is::<PartScanExec>() {
        return match scans.next() {
            Some(scan) => Ok(scan),
            None => internal_err!("a join has more scans than were split"),
        };
    }
    let mut children = Vec::new();
    for child in plan.children() {
        children.push(with_scans(child, scans)?);
    }
    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    plan.clone().replace_children(children, options)?.reset_state()
}

/// The operators in one line, each before its inputs.
fn in_one_line(plan: &Arc<dyn ExecutionPlan>) -> String {
    let operator = displayable(plan.as_ref()).one_line().to_string();
    let inputs: Vec<String> = plan.children().into_iter().map(in_one_line).collect();
    let inputs = if inputs.is_empty() { String::new() } else { format!(" <- ({})", inputs.join(" | ")) };
    operator.trim_end().to_string() + &inputs
}

impl DisplayAs for ColocatedJoinExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let shards = format!("shards={} of {}", self.shards, self.all_shards);
        match format {
            DisplayFormatType::Default | DisplayFormatType::Verbose => {
                write!(f, "ColocatedJoinExec: {shards}, {}", in_one_line(&self.join))
            }
            DisplayFormatType::TreeRender => writeln!(f, "{shards}"),
        }
    }
}

impl ExecutionPlan for ColocatedJoinExec {
    fn name(&self) -> &'static str {
        "ColocatedJoinExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match children.is_empty() {
            true => Ok(self),
            false => internal_err!("ColocatedJoinExec has no children"),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.join.execute(partition, context)
    }

    /// Those of the join, and how many record batches its scans left out.
    fn metrics(&self) -> Option<MetricsSet> {
        let mut metrics = self.join.metrics().unwrap_or_default();
        for scan in scans(&self.join) {
            let of_scan = scan.metrics().unwrap_or_default();
            let counts = of_scan.iter().filter(|metric| matches!(metric.value(), MetricValue::Count { .. }));
            counts.for_each(|count| metrics.push(count.clone()));
        }
        Some(metrics)
    }
}
