//! The engine's optimizer rules, with [exact casts](crate::exact_casts) before each rule that moves casts.

use std::sync::Arc;

use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::{ApplyOrder, Optimizer, OptimizerConfig, OptimizerRule};

use crate::exact_casts::exact;

/// The rule that simplifies expressions.
const SIMPLIFICATION: &str = "simplify_expressions";

type SharedRule = Arc<dyn OptimizerRule + Send + Sync>;

/// The rules, in their order.
pub(super) fn rules() -> Vec<SharedRule> {
    let mut rules: Vec<SharedRule> = Vec::new();
    for rule in Optimizer::new().rules {
        if rule.name() == SIMPLIFICATION {
            rules.push(Arc::new(ExactCastRule));
        }
        rules.push(rule);
    }
    rules
}

#[derive(Debug)]
struct ExactCastRule;

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
        let names = NamePreserver::new(&plan);
        let rewrite = |expr: Expr| -> Result<Transformed<Expr>> {
            let name = names.save(&expr);
            let rewritten = exact(expr, &context)?;
            Ok(match rewritten.transformed {
                true => Transformed::yes(name.restore(rewritten.data)),
                false => Transformed::no(rewritten.data),
            })
        };
        plan.map_expressions(|expr| match expr {
            // Each of its members is a column of the result.
            Expr::GroupingSet(_) => expr.map_children(rewrite),
            other => rewrite(other),
        })
    }
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
        let rules = rules();
        let simplifications: Vec<usize> = (0..rules.len()).filter(|at| rules[*at].name() == SIMPLIFICATION).collect();
        assert!(!simplifications.is_empty());
        for at in simplifications {
            assert!(at > 0 && rules[at - 1].name() == "exact_casts");
        }
    }
}
