//! Who leads, as far as this coordinator can tell.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::{Instant as _, RaftMetrics};
use tokio::time::Instant;

use super::handle::Inner;
use super::tending;
use super::types::TypeConfig;

/// Time passes without a change of the metrics: they are looked at so often while a majority is silent.
const LOOKS: u32 = 4;

/// Keeps [`Inner::leader`] as it is: until Raft stops.
pub async fn run(inner: Arc<Inner>) {
    let mut metrics = inner.raft.metrics();
    // The term, and when it was first seen: metrics that come together may hide an end and a new beginning.
    let mut led: Option<(u64, Instant)> = None;
    loop {
        inner.raft.runtime_config().elect(tending::may_stand(&inner));
        let id = inner.config.id;
        let leader = {
            let metrics = metrics.borrow_watched();
            let term = Some(metrics.current_term).filter(|_| metrics.current_leader == Some(id));
            led = led.filter(|(led, _)| term == Some(*led)).or_else(|| Some((term?, Instant::now())));
            let unheard = led.is_some_and(|(_, since)| unanswered(&metrics, since) >= inner.config.unanswered);
            metrics.current_leader.filter(|_| !unheard)
        };
        inner.leader.send_if_modified(|known| std::mem::replace(known, leader) != leader);
        let changed = tokio::time::timeout(inner.config.unanswered / LOOKS, metrics.changed()).await;
        if matches!(changed, Ok(Err(_))) {
            inner.leader.send_replace(None);
            return;
        }
    }
}

/// For how long no majority has answered what a leader since `led_since` sent.
fn unanswered(metrics: &RaftMetrics<TypeConfig>, led_since: Instant) -> Duration {
    let alone = metrics.membership_config.voter_ids().eq([metrics.id]);
    match metrics.last_quorum_acked {
        _ if alone => Duration::ZERO,
        Some(acked) => acked.into_inner().elapsed().min(led_since.elapsed()),
        None => led_since.elapsed(),
    }
}
