//! Watches which coordinator leads, as far as this one knows.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::error::Fatal;
use openraft::{Instant as _, RaftMetrics};
use tokio::time::Instant;

use crate::raft::context::RaftContext;
use crate::raft::eligibility::may_stand_for_election;
use crate::raft::types::TypeConfig;

/// The metrics do not change while a majority does not answer, so they are checked this many times in a quorum timeout.
const CHECKS_PER_TIMEOUT: u32 = 4;

/// Keeps [`RaftContext::leader`] up to date until Raft stops.
///
/// A leader that no majority acknowledges is treated as no leader, though openraft still reports it as the leader.
pub async fn run(ctx: Arc<RaftContext>) {
    let (id, timeout) = (ctx.config.id, ctx.config.quorum_ack_timeout);
    let mut metrics = ctx.raft.metrics();
    // The term that this coordinator leads, and when that was first seen. One change of the metrics may hide the end of a
    // leadership and the start of the next, hence the term.
    let mut leading: Option<(u64, Instant)> = None;
    loop {
        ctx.raft.runtime_config().elect(may_stand_for_election(&ctx));
        let leader = {
            let metrics = metrics.borrow_watched();
            let term = Some(metrics.current_term).filter(|_| metrics.current_leader == Some(id));
            leading = leading.filter(|(led, _)| term == Some(*led)).or_else(|| Some((term?, Instant::now())));
            let lost_quorum = leading.is_some_and(|(_, since)| since_quorum_ack(&metrics, since) >= timeout);
            metrics.current_leader.filter(|_| !lost_quorum)
        };
        let previous = *ctx.leader.borrow();
        if previous != leader {
            log_change(id, leader);
            ctx.leader.send_replace(leader);
        }
        let changed = tokio::time::timeout(timeout / CHECKS_PER_TIMEOUT, metrics.changed()).await;
        if matches!(changed, Ok(Err(_))) {
            ctx.leader.send_replace(None);
            report_fault(&ctx).await;
            return;
        }
    }
}

/// Ends the coordinator, unless Raft was stopped: without it the process answers probes and nothing else.
async fn report_fault(ctx: &RaftContext) {
    match ctx.raft.is_initialized().await {
        Ok(_) | Err(Fatal::Stopped) => {}
        Err(fault) => {
            (ctx.env.on_fatal_error)(&format!(
                "Raft ended by a fault ({fault}): this coordinator must be started again"
            ));
        }
    }
}

fn log_change(own: u64, leader: Option<u64>) {
    metrics::counter!("volley_raft_leader_changes_total").increment(1);
    match leader {
        Some(leader) if leader == own => tracing::info!(leader, "this coordinator leads"),
        Some(leader) => tracing::info!(leader, "another coordinator leads"),
        None => tracing::warn!("no coordinator leads"),
    }
}

/// Time since a majority acknowledged a leader that leads since `led_since`.
fn since_quorum_ack(metrics: &RaftMetrics<TypeConfig>, led_since: Instant) -> Duration {
    let is_alone = metrics.membership_config.voter_ids().eq([metrics.id]);
    match metrics.last_quorum_acked {
        _ if is_alone => Duration::ZERO,
        Some(acked) => acked.into_inner().elapsed().min(led_since.elapsed()),
        None => led_since.elapsed(),
    }
}
