//! The engine's rules, with [exact casts](crate::exact_casts) before each rule that moves casts.

use std::sync::Arc;

use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::{AnalyzerRule, ApplyOrder, Optimizer, OptimizerConfig, OptimizerRule};

use super::plan_size;
use crate::exact_casts::exact;
use crate::fault::into_datafusion;
use crate::predicate::planned_steps::check_planned;

/// The rule that simplifies expressions.
const SIMPLIFICATION: &str = "simplify_expressions";
/// The beginning of errors' sentences.
const WHAT: &str = "the statement";

type SharedRule = Arc<dyn OptimizerRule + Send + Sync>;

/// Makes casts exact once the types of a plan are settled, and finds what would then be too large to be optimized.
#[derive(Debug)]
pub(super) struct ExactCastAnalysis;

/// The same for what other rules have made, and with the time of the query. It must be the rule before each simplification.
#[derive(Debug)]
struct ExactCastRule;

/// The optimizer's rules, in their order.
pub(super) fn optimizer_rules() -> Vec<SharedRule> {
    let mut rules: Vec<SharedRule> = Vec::new();
    for rule in Optimizer::new().rules {
        if rule.name() == SIMPLIFICATION {
            rules.push(Arc::new(ExactCastRule));
        }
        rules.push(rule);
    }
    rules
}

impl AnalyzerRule for ExactCastAnalysis {
    fn name(&self) -> &str {
        "exact_casts"
    }

    fn analyze(&self, plan: LogicalPlan, config: &ConfigOptions) -> Result<LogicalPlan> {
        let config = Arc::new(config.clone());
        let exact = plan.transform_up_with_subqueries(|node| {
            let context = SimplifyContext::builder()
                .with_schema(Arc::new(schema_below(&node)?))
                .with_config_options(config.clone())
                .build();
            with_exact_casts(node, &context)
        })?;
        if exact.transformed {
            plan_size::check(&exact.data).map_err(into_datafusion)?;
        }
        Ok(exact.data)
    }
}

impl OptimizerRule for ExactCastRule {
    fn name(&self) -> &str {
        "exact_casts"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>, DataFusionError> {
        let context = SimplifyContext::builder()
            .with_schema(Arc::new(schema_below(&plan)?))
            .with_config_options(config.options())
            .with_query_execution_start_time(config.query_execution_start_time())
            .build();
        with_exact_casts(plan, &context)
    }
}

/// The plan with exact casts in its own expressions.
fn with_exact_casts(plan: LogicalPlan, context: &SimplifyContext) -> Result<Transformed<LogicalPlan>> {
    let names = NamePreserver::new(&plan);
    let rewrite = |expr: Expr| -> Result<Transformed<Expr>> {
        let name = names.save(&expr);
        let exact = exact(expr, context)?;
        if !exact.transformed {
            return Ok(Transformed::no(exact.data));
        }
        check_planned(&exact.data, WHAT).map_err(into_datafusion)?;
        Ok(Transformed::yes(name.restore(exact.data)))
    };
    plan.map_expressions(|expr| match expr {
        // Each of its members is a column of the result.
        Expr::GroupingSet(_) => expr.map_children(rewrite),
        other => rewrite(other),
    })
}

/// The columns that the expressions of a plan refer to.
fn schema_below(plan: &LogicalPlan) -> Result<DFSchema> {
    let inputs = plan.inputs();
    match plan {
        _ if !inputs.is_empty() => Ok(merge_schema(&inputs)),
        // Its filters also read columns that it does not give.
        LogicalPlan::TableScan(scan) => {
            DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())
        }
        _ => Ok(DFSchema::empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_simplification_follows_exact_casts() {
        let rules = optimizer_rules();
        let simplifications: Vec<usize> = (0..rules.len()).filter(|at| rules[*at].name() == SIMPLIFICATION).collect();
        assert!(!simplifications.is_empty());
        for at in simplifications {
            assert!(at > 0 && rules[at - 1].name() == "exact_casts");
        }
    }
}
