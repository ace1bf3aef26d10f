//! How far each coordinator is, as the leader sees it.

use std::collections::BTreeMap;
use std::time::Duration;

use openraft::Instant;

use super::handle::Handle;

/// One coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Whether it has a vote; else it still learns.
    pub voter: bool,
    /// Log entries that it does not have yet; only the leader knows.
    pub lag: Option<u64>,
    /// Since when it has not answered the leader; only the leader knows.
    pub quiet: Option<Duration>,
}

impl Handle {
    /// Every member of the group.
    pub fn progress(&self) -> BTreeMap<u64, Progress> {
        let metrics = self.metrics();
        let members = metrics.membership_config.membership();
        let voters: Vec<u64> = members.voter_ids().collect();
        let last = metrics.last_log_index.unwrap_or(0);
        let lag = |id: u64| {
            let matched = metrics.replication.as_ref()?.get(&id)?;
            Some(last.saturating_sub(matched.as_ref().map_or(0, |matched| matched.index)))
        };
        let quiet = |id: u64| Some(metrics.heartbeat.as_ref()?.get(&id)?.as_ref()?.elapsed());
        let of = |id: u64| match self.leader() == Some(id) {
            true => Progress { voter: voters.contains(&id), lag: Some(0), quiet: Some(Duration::ZERO) },
            false => Progress { voter: voters.contains(&id), lag: lag(id), quiet: quiet(id) },
        };
        members.nodes().map(|(id, _)| (*id, of(*id))).collect()
    }
}
