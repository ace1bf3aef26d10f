//! Pruning of whole parts, as coordinators do it. The tests are those of record batches.

use arrow::array::RecordBatch;
use volley_common::ipc::statistics::{BoundFilter, StatisticsBuilder, part_may_match};

use super::Predicate;

/// Whether a part of these batches can have a row that the filter selects, by the bounds in its catalog row and the condition that
/// a node sends to coordinators.
pub(super) fn part_kept(predicate: &Predicate, batches: &[RecordBatch]) -> bool {
    let Some(pruning) = predicate.pruning() else { return true };
    let mut builder = StatisticsBuilder::new(&predicate.schema);
    batches.iter().for_each(|batch| builder.add(batch));
    let bounds = pruning.bounds().map_columns(&|at: usize| predicate.columns().get(at).copied()).unwrap();
    let sent = bounds.to_wire().and_then(|message| BoundFilter::from_wire(&message));
    sent.is_none_or(|sent| part_may_match(&sent, &builder.part_bounds(predicate.columns())))
}
