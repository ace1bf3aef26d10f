//! Adds checks of row widths to a plan, below the steps that repeat rows.

use std::sync::Arc;

use datafusion::common::internal_err;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec};
use datafusion::physical_plan::scalar_subquery::ScalarSubqueryExec;
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::{ExecutionPlan, replace_children_if_necessary};
use datafusion_distributed::BroadcastExec;

use super::{RowWidthExec, checked_rows};

/// Checks the rows that a plan repeats. It runs after the rules that look for joins and their inputs.
#[derive(Debug)]
pub(in crate::engine) struct RowWidthChecks;

impl PhysicalOptimizerRule for RowWidthChecks {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        with_row_checks(plan)
    }

    fn name(&self) -> &str {
        "row_width_checks"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The plan with checks of all rows that it repeats. In stages each task has its own: the rows that it collects may come from others.
pub(in crate::engine) fn with_row_checks(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(with_checks).map(|rewritten| rewritten.data)
}

/// Whether the step is a join that collects its left input, whose rows it repeats.
pub(in crate::engine) fn collects_left(node: &Arc<dyn ExecutionPlan>) -> bool {
    node.is::<HashJoinExec>() || node.is::<NestedLoopJoinExec>() || node.is::<CrossJoinExec>()
}

fn with_checks(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let inputs: Vec<_> = node.children().into_iter().cloned().collect();
    let checked: Vec<Arc<dyn ExecutionPlan>> = if let Some(unnest) = node.downcast_ref::<UnnestExec>() {
        if unnest.input().is::<RowWidthExec>() || unnest.list_column_indices().is_empty() {
            return Ok(Transformed::no(node));
        }
        let lists = unnest.list_column_indices().iter().map(|list| list.index_in_input_schema).collect();
        vec![Arc::new(RowWidthExec::new(unnest.input().clone(), lists))]
    } else if node.is::<ScalarSubqueryExec>() {
        let [main, values @ ..] = inputs.as_slice() else { return internal_err!("a subquery has inputs") };
        // The value of a subquery is a constant of the rows above.
        std::iter::once(Ok(main.clone())).chain(values.iter().map(checked_rows)).collect::<Result<_>>()?
    } else if collects_left(&node) {
        let [build, probe] = inputs.as_slice() else { return internal_err!("a join has two inputs") };
        vec![checked_rows(build)?, probe.clone()]
    } else if node.is::<BroadcastExec>() {
        // It keeps rows as a join does, and joins on other nodes collect them.
        inputs.iter().map(checked_rows).collect::<Result<_>>()?
    } else {
        return Ok(Transformed::no(node));
    };
    // With inputs of the same properties, those of the step and of all above stay.
    replace_children_if_necessary(node, checked).map(Transformed::yes)
}
