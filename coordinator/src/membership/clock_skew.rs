//! How far the clocks of other members are from this coordinator's, as seen from the time that their messages carry.
//!
//! A message takes a moment, so a measured difference is late by its delay, which is far below the alarm.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use volley_common::NodeId;

/// A difference above this is logged, and `cluster_status` has it.
pub const MAX_SKEW_MS: i64 = 5_000;
/// The least time between two log lines about one member.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// A difference that was measured longer ago is not reported.
const MAX_AGE: Duration = Duration::from_secs(60);

/// A member whose clock is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClockOwner {
    /// Another coordinator.
    Coordinator(u64),
    /// A node.
    Node(NodeId),
}

impl fmt::Display for ClockOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClockOwner::Coordinator(id) => write!(f, "coordinator {id}"),
            ClockOwner::Node(id) => write!(f, "node {id}"),
        }
    }
}

#[derive(Clone, Copy)]
struct MeasuredSkew {
    ms: i64,
    at: Instant,
    logged: Option<Instant>,
}

/// The last measured difference of every member.
#[derive(Default)]
pub struct ClockSkews(Mutex<BTreeMap<ClockOwner, MeasuredSkew>>);

impl ClockSkews {
    /// Records a member's clock and this coordinator's, milliseconds since 1970. A `theirs` of 0 is not stated.
    pub fn record(&self, owner: ClockOwner, theirs: u64, ours: u64) {
        if theirs == 0 {
            return;
        }
        let ms = theirs as i64 - ours as i64;
        if self.store(owner, ms, Instant::now()) {
            tracing::warn!(
                member = %owner,
                skew_ms = ms,
                "the clock of a member differs from this coordinator's by more than {MAX_SKEW_MS} ms: let NTP set both"
            );
        }
        metrics::gauge!("volley_clock_skew_seconds", "member" => owner.to_string()).set(ms as f64 / 1000.0);
    }

    /// Stores a difference; returns whether to log it.
    fn store(&self, owner: ClockOwner, ms: i64, at: Instant) -> bool {
        let mut skews = self.0.lock();
        let logged = skews.get(&owner).and_then(|skew| skew.logged);
        let due = ms.abs() > MAX_SKEW_MS && logged.is_none_or(|logged| at.duration_since(logged) >= LOG_INTERVAL);
        skews.insert(owner, MeasuredSkew { ms, at, logged: if due { Some(at) } else { logged } });
        due
    }

    /// How many milliseconds a member's clock is ahead, if that was measured lately.
    pub fn get(&self, owner: ClockOwner) -> Option<i64> {
        self.0.lock().get(&owner).filter(|skew| skew.at.elapsed() < MAX_AGE).map(|skew| skew.ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_skew_is_logged_once_a_minute_per_member() {
        let (skews, start) = (ClockSkews::default(), Instant::now());
        let (one, other) = (ClockOwner::Coordinator(2), ClockOwner::Node(NodeId(7)));
        assert!(!skews.store(one, MAX_SKEW_MS, start));
        assert!(skews.store(one, -30_000, start));
        assert!(!skews.store(one, -30_000, start + LOG_INTERVAL / 2));
        assert!(skews.store(other, 6_000, start + LOG_INTERVAL / 2));
        assert!(skews.store(one, -30_000, start + LOG_INTERVAL));
        assert_eq!((skews.get(one), skews.get(ClockOwner::Coordinator(9))), (Some(-30_000), None));
    }
}
