//! About how many bytes the rows of a query have, before it runs.
//!
//! Numbers of rows are those of DataFusion's statistics, with two exceptions. Nothing tells how many groups there are: DataFusion
//! expects one for each row, and nearly all queries have far fewer. A filter that is applied where parts are read is taken for one
//! that selects as many rows as DataFusion expects of any filter.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use datafusion::common::Statistics;
use datafusion::common::stats::Precision;
use datafusion::error::Result;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::{ChildStats, ExecutionPlan, StatisticsArgs};

use super::part_scan::PartScanExec;

/// One of how many rows a filter selects, as DataFusion expects (`default_filter_selectivity`).
const FILTERED: usize = 5;
/// Bytes of a value whose type has no width, such as a text.
const VARIABLE_WIDTH: u64 = 16;

/// About how many bytes the rows of a plan have; `None`: nothing tells how many rows there are.
///
/// # Errors
/// Those of the statistics of an operator.
pub(super) fn estimate(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<u64>> {
    let statistics = statistics_of(plan)?;
    let Some(rows) = statistics.num_rows.get_value() else { return Ok(None) };
    let by_width = (*rows as u64).saturating_mul(row_width(&plan.schema()));
    let by_parts = statistics.total_byte_size.get_value().map_or(0, |bytes| *bytes as u64);
    Ok(Some(by_width.max(by_parts)))
}

fn statistics_of(plan: &Arc<dyn ExecutionPlan>) -> Result<Arc<Statistics>> {
    if plan.downcast_ref::<AggregateExec>().is_some_and(|groups| !groups.group_expr().is_true_no_grouping()) {
        return Ok(Arc::new(Statistics::new_unknown(&plan.schema())));
    }
    let children = plan.children();
    let inputs = children.iter().zip(plan.child_stats_requests(None)).map(|(child, request)| match request {
        ChildStats::At(_) => statistics_of(child),
        ChildStats::Skip => Ok(Arc::new(Statistics::new_unknown(&child.schema()))),
    });
    let found = plan.statistics_from_inputs(&inputs.collect::<Result<Vec<_>>>()?, &StatisticsArgs::new())?;
    Ok(match plan.downcast_ref::<PartScanExec>() {
        Some(scan) if scan.is_filtered() => Arc::new(filtered(&found)),
        _ => found,
    })
}

/// What remains of these rows after a filter.
fn filtered(all: &Statistics) -> Statistics {
    let share = |value: &Precision<usize>| match value.get_value() {
        Some(value) => Precision::Inexact(value / FILTERED),
        None => Precision::Absent,
    };
    let (num_rows, total_byte_size) = (share(&all.num_rows), share(&all.total_byte_size));
    Statistics { num_rows, total_byte_size, ..all.clone() }
}

/// About how many bytes a row has.
pub(super) fn row_width(schema: &Schema) -> u64 {
    schema.fields().iter().map(|field| width(field.data_type())).sum()
}

fn width(data_type: &DataType) -> u64 {
    match data_type {
        DataType::Null => 0,
        DataType::Boolean => 1,
        DataType::FixedSizeBinary(bytes) => u64::try_from(*bytes).unwrap_or(0),
        DataType::Struct(fields) => fields.iter().map(|field| width(field.data_type())).sum(),
        DataType::FixedSizeList(field, length) => {
            u64::try_from(*length).unwrap_or(0).saturating_mul(width(field.data_type()))
        }
        other => other.primitive_width().map_or(VARIABLE_WIDTH, |bytes| bytes as u64),
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Field;

    use super::*;

    #[test]
    fn width_of_a_row_is_that_of_its_values() {
        let field = |data_type| Field::new("x", data_type, true);
        let pair = DataType::Struct(vec![field(DataType::Int32), field(DataType::Utf8)].into());
        let four = DataType::FixedSizeList(Arc::new(field(DataType::Float32)), 4);
        let types = [DataType::Int64, DataType::Boolean, DataType::Utf8, pair, four, DataType::FixedSizeBinary(9)];
        assert_eq!(row_width(&Schema::new(types.map(field).to_vec())), 8 + 1 + 16 + 20 + 16 + 9);
        assert_eq!(row_width(&Schema::empty()), 0);
    }
}
