//! Waits for nodes right after a change of the leader, or after this coordinator was stopped for a while.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::raft::Handle;

/// How long a request waits for the first node to be alive: nodes need about two seconds to notice that their leader
/// hangs, and to begin a session with the next one.
const MAX_WAIT: Duration = Duration::from_secs(3);

/// If the cluster has nodes but none counts as alive, waits until one does, for at most three seconds.
pub async fn wait_for_live_nodes(raft: &Handle) {
    let mut applied = raft.watch_applied();
    let deadline = Instant::now() + MAX_WAIT;
    while has_only_dead_nodes(raft) {
        if !matches!(timeout_at(deadline, applied.changed()).await, Ok(Ok(()))) {
            return;
        }
    }
}

fn has_only_dead_nodes(raft: &Handle) -> bool {
    let catalog = raft.view();
    catalog.live_nodes().next().is_none() && catalog.nodes().next().is_some()
}
