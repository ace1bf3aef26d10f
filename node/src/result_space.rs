//! The disk space of queries' results that this node has stored, until their retention ends.
//!
//! Readers need no right to write for a result, and it counts in no quota: this is what bounds them. What an earlier process of the
//! node has stored is not counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use volley_common::fair_budget::{BudgetLimits, BudgetShare, FairBudget};
use volley_common::fairness::CallerKey;
use volley_common::{Error, Result, clock};

/// How long a result is kept, seconds: the end of all its tickets, so that a client that reads its endpoints one after the other comes
/// to the last one.
pub const RESULT_RETENTION_S: u64 = 3600;
/// Which part of the file system results may take, unless the configuration says how much.
const DISK_SHARE: u64 = 10;

/// The space of all results. Clones share it.
#[derive(Clone, Default)]
pub struct ResultSpace(Arc<ResultSpaceState>);

#[derive(Default)]
struct ResultSpaceState {
    /// Bytes of all; 0: a share of the file system.
    limit: u64,
    budget: FairBudget,
    kept: Mutex<Vec<KeptResult>>,
}

struct KeptResult {
    /// When its retention has ended, milliseconds since 1970.
    until_ms: u64,
    _share: BudgetShare,
}

/// The space of one result. Once all its rows were sent to be stored it is taken until their retention has ended, also if this is
/// dropped: nobody knows then whether they were committed.
pub struct ResultShare {
    space: ResultSpace,
    /// `None` once it is dropped.
    share: Option<BudgetShare>,
    limits: BudgetLimits,
    is_complete: AtomicBool,
}

impl ResultSpace {
    /// At most `limit` bytes; 0: a tenth of the file system.
    pub fn new(limit: u64) -> Self {
        ResultSpace(Arc::new(ResultSpaceState { limit, ..ResultSpaceState::default() }))
    }

    /// The space of a result that is expected to have this many bytes. It takes what the result turns out to have. `disk_bytes`: the
    /// size of the file system.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: there is too little for what is expected.
    pub fn take(&self, caller: &CallerKey, expected: u64, disk_bytes: u64) -> Result<ResultShare> {
        self.forget(clock::now_ms());
        let limit = if self.0.limit == 0 { disk_bytes / DISK_SHARE } else { self.0.limit };
        let (limits, owner) = (BudgetLimits::halved(limit), caller.budget_owner());
        let take = |bytes| self.0.budget.take(owner.as_ref(), bytes, limits).map_err(|_| full(limits));
        drop(take(expected)?);
        let share = Some(take(0)?);
        Ok(ResultShare { space: self.clone(), share, limits, is_complete: AtomicBool::new(false) })
    }

    /// Gives back the space of results that are not kept any more.
    fn forget(&self, now_ms: u64) {
        self.0.kept.lock().retain(|kept| kept.until_ms > now_ms);
    }
}

impl ResultShare {
    /// Takes what is missing to this many bytes.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: there is too little.
    pub fn raise_to(&self, bytes: u64) -> Result<()> {
        let raised = self.share.as_ref().map_or(Ok(()), |share| share.raise_to(bytes, self.limits));
        raised.map_err(|_| full(self.limits))
    }

    /// All rows were sent to be stored.
    pub fn complete(&self) {
        self.is_complete.store(true, Ordering::Relaxed);
    }
}

impl Drop for ResultShare {
    fn drop(&mut self) {
        let is_complete = *self.is_complete.get_mut();
        let Some(share) = self.share.take().filter(|_| is_complete) else { return };
        let until_ms = clock::now_ms().saturating_add(RESULT_RETENTION_S * 1000);
        self.space.0.kept.lock().push(KeptResult { until_ms, _share: share });
    }
}

fn full(limits: BudgetLimits) -> Error {
    Error::exhausted(format!(
        "the stored results of queries may take {} bytes of this node, and those of one principal half of that (`sql_result_space_bytes`)",
        limits.all
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::Code;

    use super::*;

    fn caller(name: &str) -> CallerKey {
        CallerKey::Principal(name.into())
    }

    #[test]
    fn principal_has_half_of_the_space() {
        let space = ResultSpace::new(100);
        let first = space.take(&caller("ann"), 30, 0).unwrap();
        first.raise_to(50).unwrap();
        assert_eq!(first.raise_to(51).unwrap_err().code, Code::ResourceExhausted);
        assert!(space.take(&caller("ann"), 1, 0).is_err() && space.take(&caller("bob"), 50, 0).is_ok());
        assert!(ResultSpace::new(0).take(&caller("ann"), 51, 1000).is_err(), "a tenth of the file system");
    }

    #[test]
    fn space_of_a_stored_result_is_free_after_its_retention() {
        let space = ResultSpace::new(100);
        let stored = space.take(&caller("ann"), 7, 0).unwrap();
        stored.raise_to(50).unwrap();
        stored.complete();
        drop(stored);
        let refused = space.take(&caller("ann"), 1, 0).err().unwrap();
        assert!(refused.message.contains("sql_result_space_bytes"), "{refused}");
        space.forget(clock::now_ms() + RESULT_RETENTION_S * 1000 + 1000);
        assert!(space.take(&caller("ann"), 50, 0).is_ok());
    }

    #[test]
    fn space_of_a_result_that_is_not_stored_is_free_at_once() {
        let space = ResultSpace::new(100);
        let failed = space.take(&caller("ann"), 50, 0).unwrap();
        failed.raise_to(50).unwrap();
        drop(failed);
        assert!(space.take(&caller("ann"), 50, 0).is_ok());
    }
}
