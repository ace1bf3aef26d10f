//! Whether a plan is the same on another node: it is encoded, decoded, and compared.
//!
//! An operator whose encoding leaves something out would give other rows there than here. What operators show of themselves
//! has all that decides about their rows, so plans that show the same are taken for the same.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion_distributed::{DistributedCodec, MaybeEncoded};
use datafusion_proto::bytes::physical_plan_from_bytes_with_proto_converter;
use datafusion_proto::physical_plan::DeduplicatingProtoConverter;
use volley_common::ipc::schema::schema_message;

use crate::fault::from_datafusion;

/// The operator whose rows are at hand where the query was planned, and nowhere else.
const SCALAR_SUBQUERY: &str = "ScalarSubqueryExec";

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

fn obstacle(plan: &Arc<dyn ExecutionPlan>, context: &Arc<TaskContext>) -> Result<Option<String>> {
    if plan.exists(|node| Ok(node.name() == SCALAR_SUBQUERY))? {
        return Ok(Some("it has a scalar subquery".into()));
    }
    let mut unsendable = None;
    plan.apply(|node| {
        unsendable = schema_message(&node.schema()).err();
        Ok(if unsendable.is_none() { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    if let Some(error) = unsendable {
        return Ok(Some(format!("its rows cannot be sent to other nodes ({error})")));
    }
    let encoded = MaybeEncoded::Decoded(plan.clone()).encode(context)?;
    let codec = DistributedCodec::new_combined_with_user(context.session_config());
    let converter = DeduplicatingProtoConverter::default();
    let decoded = physical_plan_from_bytes_with_proto_converter(&encoded, context, &codec, &converter)?;
    let is_same = shown(plan) == shown(&decoded) && columns(plan)? == columns(&decoded)?;
    Ok((!is_same).then(|| "its plan would be another one on other nodes".into()))
}

fn shown(plan: &Arc<dyn ExecutionPlan>) -> String {
    displayable(plan.as_ref()).indent(true).to_string()
}

/// Names and types of the columns of each operator, and how many partitions it has.
fn columns(plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<(usize, Vec<(String, DataType)>)>> {
    let mut found = Vec::new();
    plan.apply(|node| {
        let schema = node.schema();
        let fields = schema.fields().iter().map(|field| (field.name().clone(), field.data_type().clone()));
        found.push((node.properties().partitioning.partition_count(), fields.collect()));
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}
