//! Which messages of a part a scan reads: without those of which the part's statistics show that its filter selects no row.
//!
//! Messages that are left out have no selected row, so the rows of a scan, and their positions among the selected ones, are the same
//! as without statistics: a holder that has none continues a scan of one that has.

use std::sync::Arc;

use volley_common::Result;
use volley_common::ipc::statistics::StatisticsEntry;

use super::scan_plan::{ScanFilter, ScanPlan};
use crate::storage::{Part, PartMessage};

/// The messages of a part that a scan reads, in order.
pub struct ScannedMessages {
    part: Arc<Part>,
    /// Their indexes; `None`: all.
    kept: Option<Vec<u32>>,
}

impl ScannedMessages {
    /// All of them.
    pub fn all(part: Arc<Part>) -> Self {
        ScannedMessages { part, kept: None }
    }

    /// Those that the statistics do not exclude. Reads nothing of any message. Blocks.
    ///
    /// # Errors
    /// DATA_LOSS: the file cannot be read.
    pub fn selected(part: Arc<Part>, plan: &ScanPlan) -> Result<Self> {
        let Some(filter) = plan.filter() else { return Ok(ScannedMessages::all(part)) };
        let kept = kept_by(filter, plan, &part)?;
        let all = part.batches().len();
        plan.count_messages(all, kept.as_ref().map_or(0, |kept| all - kept.len()));
        Ok(ScannedMessages { part, kept })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.kept.as_ref().map_or(self.part.batches().len(), Vec::len)
    }

    /// The message at a position among them.
    pub fn get(&self, at: usize) -> Option<&PartMessage> {
        let index = match &self.kept {
            Some(kept) => *kept.get(at)? as usize,
            None => at,
        };
        self.part.batches().get(index)
    }
}

/// The indexes of the messages that statistics do not exclude; `None`: there are none, or they cannot tell.
fn kept_by(filter: &ScanFilter, plan: &ScanPlan, part: &Part) -> Result<Option<Vec<u32>>> {
    let Some(pruning) = filter.pruning() else { return Ok(None) };
    let Some(statistics) = part.statistics()? else { return Ok(None) };
    let columns = filter.columns.projector.columns().iter();
    let columns: Vec<_> =
        columns.map(|&column| statistics.column(column, plan.schema().field(column).data_type())).collect();
    let entries: Vec<StatisticsEntry> = statistics.entries().collect();
    let (mut kept, mut next) = (Vec::new(), 0);
    for (entry, may_select) in entries.iter().zip(pruning.may_select(&entries, &columns)) {
        let end = next + entry.messages;
        if may_select {
            kept.extend(next..end);
        }
        next = end;
    }
    Ok(Some(kept))
}
