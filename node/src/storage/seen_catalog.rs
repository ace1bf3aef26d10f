//! How far the catalog was that this node has last seen, so that a catalog that is not as far is recognized as an older copy.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// The least time between two writes of the control file for a higher index.
const SAVE_INTERVAL: Duration = Duration::from_secs(30);

/// An index of the catalog's log, and the epoch of the leader that stated it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogPosition {
    /// The index that the leader's catalog had applied.
    pub index: u64,
    /// The random number of the leader's term of office; 0: none was stated.
    pub epoch: u64,
}

/// The highest position that was seen, and when it was last recorded.
pub struct SeenCatalog(Mutex<SeenState>);

struct SeenState {
    position: CatalogPosition,
    /// The present catalog may have lost commits: its positions do not count before the node is reconciled with it.
    frozen: bool,
    saved: Option<Instant>,
}

impl SeenCatalog {
    /// Begins with the recorded position.
    pub fn new(position: CatalogPosition) -> Self {
        SeenCatalog(Mutex::new(SeenState { position, frozen: false, saved: None }))
    }

    /// The highest position that was seen.
    pub fn position(&self) -> CatalogPosition {
        self.0.lock().position
    }

    /// Notes a position that was seen.
    pub fn note(&self, position: CatalogPosition) {
        let mut state = self.0.lock();
        if !state.frozen && position.epoch != 0 && position.index >= state.position.index {
            state.position = position;
        }
    }

    /// Ignores positions (`true`) until [`SeenCatalog::reset`], or notes them again.
    pub fn freeze(&self, frozen: bool) {
        self.0.lock().frozen = frozen;
    }

    /// Begins again at a position, which may be lower.
    pub fn reset(&self, position: CatalogPosition) {
        let mut state = self.0.lock();
        (state.position, state.frozen) = (position, false);
    }

    /// The position, if it may be recorded now; `force`: regardless of when that was last done.
    pub fn due(&self, force: bool) -> Option<CatalogPosition> {
        let (mut state, now) = (self.0.lock(), Instant::now());
        let is_due = force || state.saved.is_none_or(|at| now.duration_since(at) >= SAVE_INTERVAL);
        is_due.then(|| {
            state.saved = Some(now);
            state.position
        })
    }
}
