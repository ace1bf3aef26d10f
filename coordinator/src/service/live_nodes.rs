//! Waits for nodes right after a change of the leader, or after this coordinator was stopped for a while.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::planner::table_options::NodeCounts;
use crate::raft::Handle;

/// How long a request waits for nodes to be alive: they need about two seconds to notice that their leader hangs, and to
/// begin a session with the next one.
const MAX_WAIT: Duration = Duration::from_secs(3);
/// Nodes return within about a second of each other: without another one for this long, the rest is away.
const SETTLED: Duration = Duration::from_secs(1);

/// If the cluster has nodes but none counts as alive, waits until all do, or until some do and their number has not changed
/// for a second; for at most three seconds. With the first node alone, reads would miss holders and puts copies.
pub async fn wait_for_live_nodes(raft: &Handle) {
    // As at almost every request: then the nodes need not be counted.
    if !raft.view().live_node_ids().is_empty() {
        return;
    }
    let counts = || {
        let catalog = raft.view();
        NodeCounts { known: catalog.nodes().count(), live: catalog.live_node_ids().len() }
    };
    wait_until_settled(raft.watch_applied(), counts).await;
}

/// `applied` changes whenever the counts may have changed.
async fn wait_until_settled(mut applied: watch::Receiver<u64>, counts: impl Fn() -> NodeCounts) {
    let mut last = counts();
    if last.live > 0 {
        return;
    }
    let deadline = Instant::now() + MAX_WAIT;
    let mut until = deadline;
    while last.live < last.known && Instant::now() < until {
        if !matches!(timeout_at(until, applied.changed()).await, Ok(Ok(()))) {
            return;
        }
        let now = counts();
        if now.live != last.live {
            until = if now.live > 0 { deadline.min(Instant::now() + SETTLED) } else { deadline };
        }
        last = now;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// How long a request waits if, of four nodes, one more returns at each of these times; in milliseconds.
    async fn waits(alive: usize, returns: &[u64]) -> u128 {
        let live = AtomicUsize::new(alive);
        let (sender, applied) = watch::channel(0);
        let started = Instant::now();
        let counts = || NodeCounts { known: 4, live: live.load(Ordering::Relaxed) };
        let other_commands = async {
            // Commits that have nothing to do with nodes end no wait, and lengthen none.
            loop {
                tokio::time::sleep(Duration::from_millis(10)).await;
                if returns.contains(&(started.elapsed().as_millis() as u64)) {
                    live.fetch_add(1, Ordering::Relaxed);
                }
                sender.send_modify(|index| *index += 1);
            }
        };
        tokio::select! {
            () = wait_until_settled(applied, counts) => started.elapsed().as_millis(),
            () = other_commands => unreachable!(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn request_waits_for_all_nodes_and_not_for_the_first() {
        assert_eq!(waits(0, &[100, 300, 900, 1200]).await, 1200);
    }

    #[tokio::test(start_paused = true)]
    async fn request_waits_no_longer_than_nodes_return() {
        assert_eq!(waits(0, &[100, 500]).await, 1500);
        assert_eq!(waits(0, &[100, 1000, 1900, 2800]).await, 2800);
        assert_eq!(waits(0, &[2500]).await, 3000);
        assert_eq!(waits(0, &[]).await, 3000);
        assert_eq!(waits(1, &[100]).await, 0, "some nodes are alive: it does not wait");
    }
}
