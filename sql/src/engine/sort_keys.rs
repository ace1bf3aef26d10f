//! How many keys the sorts of a statement have.
//!
//! To find out whether rows are sorted already, DataFusion 55 adds the keys of an order one after the other to what is known of a plan,
//! and looks through all keys again each time (`EquivalenceProperties::common_sort_prefix_length` of the physical expressions), at many
//! steps of planning. A thousand keys take seconds, and ten thousand minutes, in which nothing can interrupt it.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan};
use volley_common::{Error, Result};

use crate::fault::checked;

/// Most keys of one order.
const MAX_KEYS: usize = 256;
/// Most keys of all orders of a statement, each counted as often as its order has keys.
const MAX_COMPARED_KEYS: usize = MAX_KEYS * MAX_KEYS;

/// Checks that the orders of a plan take a short time to plan.
///
/// # Errors
/// INVALID_ARGUMENT: they have too many keys.
pub(super) fn check(plan: &LogicalPlan) -> Result<()> {
    let (mut longest, mut compared) = (0, 0usize);
    let mut count = |orders: usize, keys: usize| {
        longest = longest.max(keys);
        compared = compared.saturating_add(keys.saturating_mul(keys).saturating_mul(orders));
    };
    let visited = plan.apply_with_subqueries(|node| {
        match node {
            LogicalPlan::Sort(sort) => count(1, sort.expr.len()),
            // It becomes an aggregate for each column.
            LogicalPlan::Distinct(Distinct::On(distinct)) => {
                let sorted = distinct.sort_expr.as_ref().map_or(0, Vec::len);
                count(distinct.select_expr.len(), distinct.on_expr.len().max(sorted));
            }
            _ => {}
        }
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                match part {
                    Expr::WindowFunction(window) => {
                        count(1, window.params.partition_by.len() + window.params.order_by.len());
                    }
                    Expr::AggregateFunction(aggregate) => count(1, aggregate.params.order_by.len()),
                    _ => {}
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    checked(visited)?;
    match longest > MAX_KEYS || compared > MAX_COMPARED_KEYS {
        true => Err(Error::invalid(format!(
            "the statement has orders of up to {longest} keys: one ORDER BY, or PARTITION BY and ORDER BY of a window, has at most {MAX_KEYS}, and several together have fewer, because planning compares each key with all others; sort by fewer columns, or in several statements"
        ))),
        false => Ok(()),
    }
}
