//! How far each member of the group is, as the leader sees it.

use std::collections::BTreeMap;
use std::time::Duration;

use openraft::Instant;

use super::context::RaftContext;

/// The replication state of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicationProgress {
    /// Whether it is a voter; otherwise it is a learner.
    pub voter: bool,
    /// Log entries that it does not have yet. Only the leader knows.
    pub lag: Option<u64>,
    /// Time since its last acknowledgement. Only the leader knows.
    pub since_last_ack: Option<Duration>,
}

/// The replication state of every member.
pub(super) fn replication_progress(ctx: &RaftContext) -> BTreeMap<u64, ReplicationProgress> {
    let metrics = ctx.metrics();
    let members = metrics.membership_config.membership();
    let voters: Vec<u64> = members.voter_ids().collect();
    let last = metrics.last_log_index.unwrap_or(0);
    let since_last_ack = |id: u64| {
        // openraft may count this coordinator itself, which answers: its time ends when it loses its majority.
        let last = metrics.heartbeat.as_ref()?.get(&id)?.as_ref()?;
        (id != ctx.config.id).then(|| last.elapsed())
    };
    let lag = |id: u64| {
        let matched = metrics.replication.as_ref()?.get(&id)?;
        // What a member has that never answered this leader is not known.
        let is_known = matched.is_some() || since_last_ack(id).is_some();
        is_known.then(|| last.saturating_sub(matched.as_ref().map_or(0, |matched| matched.index)))
    };
    let progress_of = |id: u64| {
        let voter = voters.contains(&id);
        // What this coordinator takes for the leader may be gone.
        match id == ctx.config.id && ctx.current_leader() == Some(id) {
            true => ReplicationProgress { voter, lag: Some(0), since_last_ack: Some(Duration::ZERO) },
            false => ReplicationProgress { voter, lag: lag(id), since_last_ack: since_last_ack(id) },
        }
    };
    members.nodes().map(|(id, _)| (*id, progress_of(*id))).collect()
}
