//! When refusals were logged: under a flood of them, one line a second says how many there were.

use std::sync::atomic::{AtomicU64, Ordering};

/// Refusals of one kind are logged at most once in this time.
const LOG_INTERVAL_MS: u64 = 1_000;

/// The refusals of one kind; for a static.
pub struct RefusalLog {
    last_ms: AtomicU64,
    unlogged: AtomicU64,
}

impl Default for RefusalLog {
    fn default() -> Self {
        RefusalLog::new()
    }
}

impl RefusalLog {
    /// None yet.
    pub const fn new() -> Self {
        RefusalLog { last_ms: AtomicU64::new(0), unlogged: AtomicU64::new(0) }
    }

    /// Counts a refusal. If it is to be logged, returns the number of those before it that were not.
    pub fn count(&self, now_ms: u64) -> Option<u64> {
        let last = self.last_ms.load(Ordering::Relaxed);
        let is_due = now_ms.abs_diff(last) >= LOG_INTERVAL_MS
            && self.last_ms.compare_exchange(last, now_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_due {
            return Some(self.unlogged.swap(0, Ordering::Relaxed));
        }
        self.unlogged.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flood_of_refusals_is_logged_once_a_second() {
        let log = RefusalLog::new();
        assert_eq!(log.count(5_000), Some(0));
        assert_eq!((log.count(5_001), log.count(5_999)), (None, None));
        assert_eq!(log.count(6_000), Some(2));
        assert_eq!((log.count(6_001), log.count(9_000)), (None, Some(1)));
    }
}
