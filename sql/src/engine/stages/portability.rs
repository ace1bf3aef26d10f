//! Whether a plan is the same on another node: its operators are of those whose encoding was read, and the plan is encoded,
//! decoded, and compared.
//!
//! An operator whose encoding leaves something out would give other rows there than here. Of window functions
//! datafusion-proto 55.2 leaves out IGNORE NULLS, FILTER, and whether one runs backwards, and nothing that is shown of the plan
//! differs. So an operator is added to the list only after its encoding was compared with its fields; the comparison of what
//! is shown finds what is lost for some values only, and what another version loses.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec};
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion_distributed::{DistributedCodec, MaybeEncoded};
use datafusion_proto::bytes::physical_plan_from_bytes_with_proto_converter;
use datafusion_proto::physical_plan::DeduplicatingProtoConverter;
use volley_common::Error;
use volley_common::ipc::schema::schema_message;

use crate::engine::cooperative_joins::CooperativeProbeExec;
use crate::fault::{from_datafusion, into_datafusion};

/// The operators that leave this node.
const OPERATORS: [&str; 23] = [
    "AggregateExec",
    "CoalesceBatchesExec",
    "CoalescePartitionsExec",
    "CooperativeExec",
    "CooperativeProbeExec",
    "CrossJoinExec",
    "EmptyExec",
    "FilterExec",
    "GlobalLimitExec",
    "HashJoinExec",
    "InterleaveExec",
    "LocalLimitExec",
    "NestedLoopJoinExec",
    "PartScanExec",
    "PlaceholderRowExec",
    "ProjectionExec",
    "RepartitionExec",
    "RowWidthExec",
    "SortExec",
    "SortExec(TopK)",
    "SortPreservingMergeExec",
    "UnionExec",
    "UnnestExec",
];
/// The operators of which users know what they are for.
const NAMED: [(&str, &str); 5] = [
    ("ScalarSubqueryExec", "a scalar subquery"),
    ("WindowAggExec", "a window function"),
    ("WindowOutputExec", "a window function"),
    ("BoundedWindowAggExec", "a window function"),
    ("RecursiveQueryExec", "a recursive query"),
];

/// What the library adds between stages, and `colocation` to a plan that was compared: what is within it was, too.
const ADDED: [&str; 5] =
    ["BroadcastExec", "ColocatedJoinExec", "NetworkBroadcastExec", "NetworkCoalesceExec", "NetworkShuffleExec"];

/// Why the plan must stay on this node; `None`: it is the same on every node of this version.
///
/// `context` decodes as the workers do.
pub(super) fn reason_to_stay(plan: &Arc<dyn ExecutionPlan>, context: &Arc<TaskContext>) -> Option<String> {
    match obstacle(plan, context) {
        Ok(found) => found,
        Err(error) => {
            let error = from_datafusion(error);
            Some(format!("its plan cannot be sent to other nodes ({error})"))
        }
    }
}

/// Checks the plan of a task, which may come from anybody where members have no TLS: the library decodes operators that read
/// files, too. What is within a leaf is checked when that is decoded.
///
/// # Errors
/// PERMISSION_DENIED: it has an operator that no head sends.
pub(super) fn check_received(plan: &Arc<dyn ExecutionPlan>) -> Result<()> {
    plan.apply(|node| {
        let name = node.name();
        match OPERATORS.contains(&name) || ADDED.contains(&name) {
            true => Ok(TreeNodeRecursion::Continue),
            false => Err(into_datafusion(Error::denied(format!("a task may not have the operator {name}")))),
        }
    })?;
    Ok(())
}

/// A plan that another node has encoded.
///
/// # Errors
/// The bytes are none, or none of an operator that is known here.
pub(super) fn decode(encoded: &[u8], context: &Arc<TaskContext>) -> Result<Arc<dyn ExecutionPlan>> {
    let codec = DistributedCodec::new_combined_with_user(context.session_config());
    let converter = DeduplicatingProtoConverter::default();
    physical_plan_from_bytes_with_proto_converter(encoded, context, &codec, &converter)
}

fn obstacle(plan: &Arc<dyn ExecutionPlan>, context: &Arc<TaskContext>) -> Result<Option<String>> {
    let mut found = None;
    plan.apply(|node| {
        found = obstacle_of(node);
        Ok(if found.is_none() { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    if found.is_some() {
        return Ok(found);
    }
    let encoded = MaybeEncoded::Decoded(plan.clone()).encode(context)?;
    let decoded = decode(&encoded, context)?;
    let is_same = shown(plan) == shown(&decoded) && columns(plan)? == columns(&decoded)?;
    Ok((!is_same).then(|| "its plan would be another one on other nodes".into()))
}

fn obstacle_of(node: &Arc<dyn ExecutionPlan>) -> Option<String> {
    let name = node.name();
    if !OPERATORS.contains(&name) {
        let known = NAMED.iter().find(|(operator, _)| *operator == name).map(|(_, known)| *known);
        return Some(format!("it has {}", known.unwrap_or(name)));
    }
    if joins_limited_rows(node) {
        return Some("it joins the first rows of a query with LIMIT".into());
    }
    let error = schema_message(&node.schema()).err()?;
    Some(format!("its rows cannot be sent to other nodes ({error})"))
}

/// Whether a side of a join is whatever rows come first. The library would have each task collect its own first rows, so that
/// tasks would join different ones.
fn joins_limited_rows(node: &Arc<dyn ExecutionPlan>) -> bool {
    let is_join = node.is::<HashJoinExec>() || node.is::<NestedLoopJoinExec>() || node.is::<CrossJoinExec>();
    let is_limited = |side: &&Arc<dyn ExecutionPlan>| {
        let side = side.downcast_ref::<CooperativeProbeExec>().map_or(*side, CooperativeProbeExec::input);
        side.downcast_ref::<CoalescePartitionsExec>().is_some_and(|collected| collected.fetch().is_some())
    };
    is_join && node.children().iter().any(is_limited)
}

fn shown(plan: &Arc<dyn ExecutionPlan>) -> String {
    displayable(plan.as_ref()).indent(true).to_string()
}

/// How many partitions an operator has, and names and types of its columns.
type OperatorShape = (usize, Vec<(String, DataType)>);

/// The shape of each operator.
fn columns(plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<OperatorShape>> {
    let mut found = Vec::new();
    plan.apply(|node| {
        let schema = node.schema();
        let fields = schema.fields().iter().map(|field| (field.name().clone(), field.data_type().clone()));
        found.push((node.properties().partitioning.partition_count(), fields.collect()));
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrow::datatypes::Schema;
    use datafusion::physical_plan::empty::EmptyExec;
    use datafusion::physical_plan::explain::ExplainExec;
    use datafusion::prelude::SessionContext;
    use volley_common::Code;

    use super::*;

    #[test]
    fn plan_with_an_unknown_operator_is_neither_sent_nor_accepted() {
        let context = SessionContext::new().task_ctx();
        let empty = || Arc::new(EmptyExec::new(Arc::new(Schema::empty()))) as Arc<dyn ExecutionPlan>;
        let known: Arc<dyn ExecutionPlan> = Arc::new(CoalescePartitionsExec::new(empty()));
        check_received(&known).unwrap();
        assert_eq!(reason_to_stay(&known, &context), None);
        let other = Arc::new(ExplainExec::new(Arc::new(Schema::empty()), Vec::new(), false));
        let unknown: Arc<dyn ExecutionPlan> = Arc::new(CoalescePartitionsExec::new(other));
        assert_eq!(from_datafusion(check_received(&unknown).unwrap_err()).code, Code::PermissionDenied);
        assert_eq!(reason_to_stay(&unknown, &context).unwrap(), "it has ExplainExec");
    }
}
