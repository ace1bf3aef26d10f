//! Which joins need no exchange between nodes: those of tables with equal shards, by all keys of these.
//!
//! Rows that such a join joins have equal keys, so they are in the same shard of both tables (docs/partitioning.md): values that are
//! equal in SQL have the same bytes there, -0.0 and 0.0 and all NaN included, and a null is as a null. A task that reads
//! all of some shards of both tables has all that joins with these rows, whatever the type of the join.
//!
//! Each task joins what it reads as one node would. Where that distributes rows by all columns that are joined, rows with the same ones are
//! in one partition of one task, as after an exchange, so operators above may group them. Which task that is depends on the shard, not on
//! the engine's hash: a join that gets rows of another exchange beside must not get these.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::Field;
use datafusion::error::Result;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, ExecutionPlan, Partitioning, PhysicalExpr, ReplaceChildrenOptions,
};

use super::colocated_join::ColocatedJoinExec;
use crate::engine::cooperative_joins::CooperativeProbeExec;
use crate::engine::part_scan::PartScanExec;
use crate::engine::row_width::RowWidthExec;
use crate::source::TableSharding;

/// With more tasks for each shard, too many would have nothing to join.
const MAX_TASKS_PER_SHARD: usize = 2;

/// The plan with joins that stages of so many tasks execute without exchanges, where there are any.
pub(super) fn colocate(plan: &Arc<dyn ExecutionPlan>, tasks: usize) -> Result<Arc<dyn ExecutionPlan>> {
    rewrite(plan, tasks, false)
}

/// `is_matched`: whether an operator above takes equal partitions of this plan and of another one as having equal keys.
fn rewrite(plan: &Arc<dyn ExecutionPlan>, tasks: usize, is_matched: bool) -> Result<Arc<dyn ExecutionPlan>> {
    if !is_matched && let Some(join) = colocated_join(plan, tasks) {
        return Ok(Arc::new(join));
    }
    let is_matched = matches_inputs(plan) || (is_matched && !redistributes(plan));
    let mut is_changed = false;
    let mut children = Vec::new();
    for child in plan.children() {
        let rewritten = rewrite(child, tasks, is_matched)?;
        is_changed |= !Arc::ptr_eq(child, &rewritten);
        children.push(rewritten);
    }
    match is_changed {
        true => plan.clone().replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute)),
        false => Ok(plan.clone()),
    }
}

/// Whether an operator takes equal partitions of its inputs as having equal keys. One that is not known may.
fn matches_inputs(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let collects_one_input = match plan.downcast_ref::<HashJoinExec>() {
        Some(join) => *join.partition_mode() == PartitionMode::CollectLeft,
        None => plan.is::<CrossJoinExec>() || plan.is::<NestedLoopJoinExec>() || plan.is::<UnionExec>(),
    };
    plan.children().len() > 1 && !collects_one_input
}

/// Whether the partitions of an operator do not depend on those of its input.
fn redistributes(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.is::<RepartitionExec>() || plan.is::<CoalescePartitionsExec>() || plan.is::<SortPreservingMergeExec>()
}

/// The plan as a join without exchanges, if it can be one.
fn colocated_join(plan: &Arc<dyn ExecutionPlan>, tasks: usize) -> Option<ColocatedJoinExec> {
    let join = plan.downcast_ref::<HashJoinExec>()?;
    // One null on the right side decides on rows of all shards.
    let is_of_all_shards = join.null_aware;
    // Operators above one partition may rely on that there is no other one.
    let is_divided = plan.properties().partitioning.partition_count() > 1;
    if is_of_all_shards || !is_divided || plan.fetch().is_some() {
        return None;
    }
    let (left, right) = joined_scans(join)?;
    let (left, right) = (left.sharding()?, right.sharding()?);
    if left.shards != right.shards || left.keys.len() != right.keys.len() || left.keys.is_empty() {
        return None;
    }
    let joins_by = |(left, right): (&String, &String)| joins_by_columns(join, left, right);
    if !left.keys.iter().zip(&right.keys).all(joins_by) {
        return None;
    }
    let shards = shards_with_parts(left, right);
    let has_work = shards > 1 && tasks <= shards * MAX_TASKS_PER_SHARD;
    has_work.then(|| ColocatedJoinExec::new(plan.clone(), shards, left.shards as usize))
}

/// The scans of both sides. Nothing but the join distributes their rows, and that by all columns that it joins: operators above it may
/// rely on what has been distributed.
fn joined_scans(join: &HashJoinExec) -> Option<(&PartScanExec, &PartScanExec)> {
    match join.partition_mode() {
        PartitionMode::CollectLeft => Some((scan_below(join.left())?, scan_below(join.right())?)),
        PartitionMode::Partitioned => {
            let (of_left, of_right): (Vec<_>, Vec<_>) = join.on().iter().cloned().unzip();
            let left = scan_below(input_distributed_by(join.left(), &of_left)?)?;
            let right = scan_below(input_distributed_by(probe_input(join), &of_right)?)?;
            Some((left, right))
        }
        PartitionMode::Auto => None,
    }
}

/// The side of a join whose rows are looked up.
fn probe_input(join: &HashJoinExec) -> &Arc<dyn ExecutionPlan> {
    join.right().downcast_ref::<CooperativeProbeExec>().map_or(join.right(), CooperativeProbeExec::input)
}

/// The input of a plan that distributes its rows by all of these columns.
fn input_distributed_by<'a>(
    plan: &'a Arc<dyn ExecutionPlan>,
    columns: &[Arc<dyn PhysicalExpr>],
) -> Option<&'a Arc<dyn ExecutionPlan>> {
    let distribution = plan.downcast_ref::<RepartitionExec>()?;
    let Partitioning::Hash(keys, _) = distribution.partitioning() else { return None };
    columns.iter().all(|column| keys.contains(column)).then(|| distribution.input())
}

/// Whether the join is by these columns of the tables below it, and both have the same type.
fn joins_by_columns(join: &HashJoinExec, left: &str, right: &str) -> bool {
    join.on().iter().any(|(of_left, of_right)| {
        let (Some(of_left), Some(of_right)) =
            (table_column(join.left(), of_left), table_column(join.right(), of_right))
        else {
            return false;
        };
        of_left.name() == left && of_right.name() == right && of_left.data_type() == of_right.data_type()
    })
}

fn shards_with_parts(left: &TableSharding, right: &TableSharding) -> usize {
    left.part_shards.iter().chain(&right.part_shards).collect::<BTreeSet<_>>().len()
}

/// The only leaf below, if all operators above it take each row for itself, distribute none by its values, and leave out none because
/// others are enough.
fn scan_below(plan: &Arc<dyn ExecutionPlan>) -> Option<&PartScanExec> {
    if let Some(scan) = plan.downcast_ref::<PartScanExec>() {
        return (!scan.has_limit()).then_some(scan);
    }
    let takes_rows = match plan.downcast_ref::<RepartitionExec>() {
        Some(distribution) => matches!(distribution.partitioning(), Partitioning::RoundRobinBatch(_)),
        None => {
            plan.is::<FilterExec>()
                || plan.is::<ProjectionExec>()
                || plan.is::<CoalescePartitionsExec>()
                || plan.is::<CooperativeExec>()
                || plan.is::<CooperativeProbeExec>()
                || plan.is::<RowWidthExec>()
        }
    };
    if !takes_rows || plan.fetch().is_some() {
        return None;
    }
    scan_below(plan.children().first().copied()?)
}

/// The table's column whose values the expression has, over the rows of a plan with a scan below.
fn table_column<'a>(plan: &'a Arc<dyn ExecutionPlan>, expression: &Arc<dyn PhysicalExpr>) -> Option<&'a Field> {
    let (mut plan, mut at) = (plan, expression.downcast_ref::<Column>()?.index());
    loop {
        if let Some(scan) = plan.downcast_ref::<PartScanExec>() {
            return scan.table_column(at);
        }
        if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
            at = projection.expr().get(at)?.expr.downcast_ref::<Column>()?.index();
        }
        if let Some(kept) = plan.downcast_ref::<FilterExec>().and_then(|filter| filter.projection().as_ref()) {
            at = *kept.get(at)?;
        }
        plan = plan.children().first().copied()?;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
