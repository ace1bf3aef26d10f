//! The leaves of a plan: the parts of one version of a table, in groups that are read in parallel.
//!
//! Nothing is declared that the parts do not guarantee: no ordering, no partitioning by value, and exact numbers of rows only
//! for scans of all rows. `leaf` splits a scan between the tasks of a query on several nodes.

mod leaf;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Statistics, internal_err};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::coop::make_cooperative;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet, RecordOutput,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, EmptyRecordBatchStream, ExecutionPlan, Partitioning,
    PhysicalExpr, PlanProperties, ReplaceChildrenOptions, SendableRecordBatchStream, StatisticsArgs,
};
use futures::future::ready;
use futures::{Stream, StreamExt, stream};
use volley_common::{Error, NodeId};

use super::relabel::Relabel;
use super::row_width::{SmallBatches, small_batches};
use crate::fault::into_datafusion;
use crate::predicate::Predicate;
use crate::source::{PartScan, PlannedPart, PlannedTable, ScanCounts, TableSource};

/// Reads parts of a table: each of its partitions is a run of parts.
pub(super) struct PartScanExec {
    source: Arc<dyn TableSource>,
    table: Arc<PlannedTable>,
    /// Parts of the version, and how many of them statistics exclude: `table` has the others, or what a task reads of these.
    all_parts: usize,
    pruned_parts: usize,
    groups: Vec<Range<usize>>,
    columns: Vec<usize>,
    filter: Option<Predicate>,
    limit: Option<usize>,
    /// The node for which the parts were chosen, if it is a leaf of a task.
    node: Option<NodeId>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl PartScanExec {
    /// Reads all parts in at most `partitions` groups; see [`PartScan`] for the rest. At least `limit` rows are read if there are
    /// as many.
    pub(super) fn try_new(
        source: Arc<dyn TableSource>,
        table: Arc<PlannedTable>,
        partitions: usize,
        columns: Vec<usize>,
        filter: Option<Predicate>,
        limit: Option<usize>,
    ) -> Result<Self> {
        let groups = groups(&table.parts, partitions);
        Self::with_groups(source, table, groups, columns, filter, limit)
    }

    /// The same with these runs of parts as its partitions.
    fn with_groups(
        source: Arc<dyn TableSource>,
        table: Arc<PlannedTable>,
        groups: Vec<Range<usize>>,
        columns: Vec<usize>,
        filter: Option<Predicate>,
        limit: Option<usize>,
    ) -> Result<Self> {
        let schema = Arc::new(table.schema.project(&columns)?);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema.clone()),
            Partitioning::UnknownPartitioning(groups.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        let properties = Arc::new(properties.with_scheduling_type(SchedulingType::Cooperative));
        let metrics = ExecutionPlanMetricsSet::new();
        let all_parts = table.parts.len();
        Ok(PartScanExec {
            source,
            table,
            all_parts,
            pruned_parts: 0,
            groups,
            columns,
            filter,
            limit,
            node: None,
            schema,
            properties,
            metrics,
        })
    }

    /// The same, of a version that has this many parts, of which those that it does not read were left out by their statistics.
    pub(super) fn of_parts(self, all_parts: usize) -> Self {
        let pruned_parts = all_parts.saturating_sub(self.table.parts.len());
        PartScanExec { all_parts, pruned_parts, ..self }
    }

    /// Whether only some rows of its parts are read, which a filter selects.
    pub(super) fn is_filtered(&self) -> bool {
        self.filter.is_some()
    }

    /// About how many bytes a row of the table has.
    pub(super) fn row_bytes(&self) -> u64 {
        self.table.bytes / self.table.rows.max(1)
    }

    fn group(&self, partition: usize) -> Result<Range<usize>> {
        match self.groups.get(partition) {
            Some(group) => Ok(group.clone()),
            None => internal_err!("PartScanExec has no partition {partition} of {}", self.groups.len()),
        }
    }

    /// What is shown of it: names and values.
    fn details(&self) -> Vec<(&'static str, String)> {
        let fields = self.schema.fields();
        let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
        let mut details = vec![
            ("table", self.table.name.to_string()),
            ("version", self.table.version.to_string()),
            ("parts", self.table.parts.len().to_string()),
            ("rows", self.table.rows.to_string()),
            ("bytes", self.table.bytes.to_string()),
            ("partitions", self.groups.len().to_string()),
            ("columns", format!("[{}]", names.join(", "))),
        ];
        details.extend(self.filter.as_ref().map(|filter| ("filter", filter.text().to_string())));
        let pruned = || ("parts_pruned", format!("{} of {}", self.pruned_parts, self.all_parts));
        details.extend((self.pruned_parts > 0).then(pruned));
        details.extend(self.limit.map(|limit| ("limit", limit.to_string())));
        details.extend(self.node.map(|node| ("node", node.to_string())));
        details
    }
}

/// Runs of parts with about as many rows each; at most `most`, at least one. A table without parts has one run of none.
fn groups(parts: &[PlannedPart], most: usize) -> Vec<Range<usize>> {
    let most = most.clamp(1, parts.len().max(1));
    let rows: u128 = parts.iter().map(|part| u128::from(part.rows)).sum();
    let mut groups = Vec::with_capacity(most);
    let (mut start, mut so_far) = (0, 0);
    for (at, part) in parts.iter().enumerate() {
        so_far += u128::from(part.rows);
        let groups_after = most - groups.len() - 1;
        let parts_after = parts.len() - at - 1;
        let is_full = so_far * most as u128 >= rows * (groups.len() as u128 + 1);
        if groups_after > 0 && parts_after >= groups_after && (is_full || parts_after == groups_after) {
            groups.push(start..at + 1);
            start = at + 1;
        }
    }
    groups.push(start..parts.len());
    groups
}

impl fmt::Debug for PartScanExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartScanExec").field("details", &self.details()).finish_non_exhaustive()
    }
}

impl DisplayAs for PartScanExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let details = self.details();
        match format {
            DisplayFormatType::Default | DisplayFormatType::Verbose => {
                let details: Vec<String> = details.iter().map(|(name, value)| format!("{name}={value}")).collect();
                write!(f, "PartScanExec: {}", details.join(", "))
            }
            DisplayFormatType::TreeRender => {
                for (name, value) in details {
                    writeln!(f, "{name}={value}")?;
                }
                Ok(())
            }
        }
    }
}

impl ExecutionPlan for PartScanExec {
    fn name(&self) -> &'static str {
        "PartScanExec"
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
            false => internal_err!("PartScanExec has no children"),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let parts = self.group(partition)?;
        if parts.is_empty() {
            return Ok(Box::pin(EmptyRecordBatchStream::new(self.schema.clone())));
        }
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let table = self.table.clone();
        let schema = self.schema.clone();
        let row_count = Arc::new(AtomicU64::new(0));
        let check = self.row_count_check(parts.clone(), row_count.clone());
        let batches = self.source.scan(PartScan {
            table: self.table.clone(),
            parts,
            columns: self.columns.clone(),
            filter: self.filter.clone(),
            limit: self.limit,
            counts: self.counts(partition),
        });
        let batches = batches.map(move |batch| -> Result<RecordBatch> {
            let batch = batch.and_then(|batch| with_schema(&batch, &schema, &table)).map_err(into_datafusion)?;
            row_count.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
            Ok(batch.record_output(&metrics))
        });
        let batches = batches.chain(check);
        let settings = context.session_config();
        if settings.get_extension::<SmallBatches>().is_some() {
            let most = settings.batch_size();
            let batches = batches.flat_map(move |batch| {
                stream::iter(batch.map_or_else(|error| vec![Err(error)], |batch| small_batches(&batch, most)))
            });
            return Ok(make_cooperative(Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), batches))));
        }
        Ok(make_cooperative(Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), batches))))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(
        &self,
        _input_stats: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let parts = match args.partition() {
            None => 0..self.table.parts.len(),
            Some(partition) => self.group(partition)?,
        };
        Ok(Arc::new(self.statistics_of(parts)))
    }
}

impl PartScanExec {
    /// Metrics of the bytes that other nodes send, and of the record batches that a filter need not see; without one all are read.
    fn counts(&self, partition: usize) -> ScanCounts {
        let counter = |name: &'static str| MetricBuilder::new(&self.metrics).counter(name, partition);
        let received = counter("bytes_received");
        match &self.filter {
            None => ScanCounts::new(Count::new(), Count::new(), received),
            Some(_) => ScanCounts::new(counter("messages"), counter("messages_pruned"), received),
        }
    }

    /// An error after the rows of these parts if all their rows should have been sent and were not: rows are never lost silently.
    fn row_count_check(
        &self,
        parts: Range<usize>,
        row_count: Arc<AtomicU64>,
    ) -> impl Stream<Item = Result<RecordBatch>> + Send + use<> {
        let has_all_rows = self.filter.is_none() && self.limit.is_none();
        let expected: u64 = self.table.parts[parts.clone()].iter().map(|part| part.rows).sum();
        let table = self.table.clone();
        let check = async move {
            let read = row_count.load(Ordering::Relaxed);
            let missing: Option<Result<RecordBatch>> = (has_all_rows && read != expected).then(|| {
                Err(into_datafusion(Error::internal(format!(
                    "parts {parts:?} of table {} at version {} have {expected} rows, but {read} were read",
                    table.name, table.version
                ))))
            });
            missing
        };
        stream::once(check).filter_map(ready)
    }

    fn statistics_of(&self, parts: Range<usize>) -> Statistics {
        let mut statistics = Statistics::new_unknown(&self.schema);
        let rows_of = |parts: &[PlannedPart]| parts.iter().map(|part| part.rows).sum::<u64>();
        let (rows, all_rows) = (rows_of(&self.table.parts[parts]), rows_of(&self.table.parts));
        let sent = rows.min(self.limit.map_or(u64::MAX, |limit| limit as u64));
        let Ok(sent) = usize::try_from(sent) else { return statistics };
        let has_all_rows = self.filter.is_none() && self.limit.is_none() && all_rows == self.table.rows;
        statistics.num_rows = if has_all_rows { Precision::Exact(sent) } else { Precision::Inexact(sent) };
        // Of the stored bytes: the columns may have any share of them.
        let share =
            sent as f64 * self.columns.len() as f64 / (all_rows as f64 * self.table.schema.fields().len() as f64);
        if share.is_finite() && !self.columns.is_empty() {
            statistics.total_byte_size = Precision::Inexact((self.table.bytes as f64 * share) as usize);
        }
        statistics
    }
}

/// The batch with exactly the schema that the plan declares.
fn with_schema(batch: &RecordBatch, schema: &SchemaRef, table: &PlannedTable) -> volley_common::Result<RecordBatch> {
    if batch.schema_ref() == schema {
        return Ok(batch.clone());
    }
    let relabelled = Relabel::new(batch.schema_ref(), schema).and_then(|relabel| relabel.apply(batch));
    relabelled.map_err(|error| error.at(format!("table {} at version {}", table.name, table.version)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn groups_of(rows: &[u64], most: usize) -> Vec<Range<usize>> {
        groups(&rows.iter().map(|rows| PlannedPart { rows: *rows }).collect::<Vec<_>>(), most)
    }

    #[test]
    fn groups_have_about_as_many_rows_each() {
        assert_eq!(groups_of(&[1, 1, 1, 1], 2), [0..2, 2..4]);
        assert_eq!(groups_of(&[100, 1, 1, 1], 2), [0..1, 1..4]);
        assert_eq!(groups_of(&[1, 1, 1, 100], 2), [0..3, 3..4]);
        assert_eq!(groups_of(&[1, 1], 8), [0..1, 1..2]);
        assert_eq!(groups_of(&[], 8), [Range { start: 0, end: 0 }]);
    }

    proptest! {
        #[test]
        fn every_part_is_in_exactly_one_group(rows in prop::collection::vec(0u64..5, 0..40), most in 0usize..12) {
            let groups = groups_of(&rows, most);
            prop_assert!(groups.len() <= most.max(1));
            let mut next = 0;
            for group in &groups {
                prop_assert_eq!(group.start, next);
                prop_assert!(rows.is_empty() || !group.is_empty());
                next = group.end;
            }
            prop_assert_eq!(next, rows.len());
        }
    }
}
