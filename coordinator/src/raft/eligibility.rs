//! Whether this coordinator may stand for election.

use openraft::async_runtime::WatchReceiver;

use super::context::RaftContext;
use super::types::RaftPeer;

/// Returns whether the group contains this coordinator with its present data folder, and it is not decommissioned.
///
/// openraft knows coordinator ids only. A new folder that receives the log from its beginning passes through every
/// earlier membership, including one in which its id was a voter with another folder.
pub fn may_stand_for_election(ctx: &RaftContext) -> bool {
    let is_this_folder = |peer: &RaftPeer| peer.store_id == ctx.store.id();
    let metrics = ctx.raft.metrics();
    let metrics = metrics.borrow_watched();
    let groups = [&metrics.membership_config, &metrics.committed_membership_config];
    let is_member = groups.iter().any(|group| group.membership().get_node(&ctx.config.id).is_some_and(is_this_folder));
    is_member && !ctx.is_decommissioning()
}
