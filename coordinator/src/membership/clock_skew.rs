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
        let [theirs, ours] = [theirs, ours].map(|ms| i64::try_from(ms).unwrap_or(i64::MAX));
        let ms = theirs.saturating_sub(ours);
        if self.store(owner, ms, Instant::now()) {
            tracing::warn!(
                member = %owner,
                skew_ms = ms,
                "the clock of a member differs from this coordinator's by more than {MAX_SKEW_MS} ms: let NTP set both"
            );
        }
        metrics::gauge!("volley_clock_skew_seconds", "member" => owner.to_string()).set(ms as f64 / 1000.0);
    }

    /// As [`ClockSkews::record`], if the coordinator `id` is one of `peers`: anyone can state any id, and a coordinator of an
    /// earlier version states none.
    pub fn record_coordinator(&self, id: u64, peers: &BTreeMap<u64, String>, theirs: u64, ours: u64) {
        if peers.contains_key(&id) {
            self.record(ClockOwner::Coordinator(id), theirs, ours);
        }
    }

    /// Stores a difference; returns whether to log it.
    fn store(&self, owner: ClockOwner, ms: i64, at: Instant) -> bool {
        let mut skews = self.0.lock();
        let logged = skews.get(&owner).and_then(|skew| skew.logged);
        let due =
            ms.saturating_abs() > MAX_SKEW_MS && logged.is_none_or(|logged| at.duration_since(logged) >= LOG_INTERVAL);
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
    fn clock_of_any_value_is_recorded() {
        let (skews, owner) = (ClockSkews::default(), ClockOwner::Coordinator(2));
        for (theirs, ms) in [(1 << 63, i64::MAX - 1_000), (u64::MAX, i64::MAX - 1_000), (400, -600)] {
            skews.record(owner, theirs, 1_000);
            assert_eq!(skews.get(owner), Some(ms), "{theirs}");
        }
    }

    #[test]
    fn only_coordinators_of_the_cluster_are_recorded() {
        let (skews, peers) = (ClockSkews::default(), BTreeMap::from([(1, "a:1".to_string()), (2, "b:1".to_string())]));
        for id in [0, 2, 777] {
            skews.record_coordinator(id, &peers, 5_000, 4_000);
        }
        let recorded: Vec<_> = skews.0.lock().keys().copied().collect();
        assert_eq!(recorded, [ClockOwner::Coordinator(2)]);
    }

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
