//! What the leader does every second: who is silent, who must be told what, what has expired.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;
use volley_common::wire::catalog::Expire;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::cluster::CancelledFlights;
use volley_common::wire::cluster::node_order::What;
use volley_common::{NodeId, Result, clock};

use super::Membership;
use super::arranging::Arranging;
use super::digest::Expected;
use crate::service::live_nodes;
use crate::service::read::live_ids;

/// How often the leader looks.
const EVERY: Duration = Duration::from_secs(1);
/// Changes of the catalog are told to nodes no more often than this.
const TOLD_EVERY: Duration = Duration::from_millis(50);

impl Membership {
    /// Leads whenever this coordinator is the leader, until the process stops.
    pub async fn run(self: Arc<Self>) {
        tokio::join!(self.keep_leading(), self.keep_copying());
    }

    async fn keep_leading(self: &Arc<Self>) {
        let stop = self.service.stop.clone();
        let mut leader = self.service.raft.watch_leader();
        let mut applied = self.service.raft.watch_applied();
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let full = tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => true,
                changed = leader.changed() => if changed.is_err() { return } else { true },
                changed = applied.changed() => if changed.is_err() { return } else { false },
            };
            if !self.service.raft.is_leader() {
                self.step_down();
            } else if full {
                self.lead().await;
            } else {
                self.tell_changes();
                tokio::time::sleep(TOLD_EVERY).await;
            }
        }
    }

    /// Ends the sessions: nodes look for the next leader.
    fn step_down(&self) {
        let mut state = self.state.lock();
        state.led_since = None;
        state.heard.clear();
        state.arranging = Arranging::default();
        self.service.reports.lock().clear();
        for session in state.sessions.values() {
            session.end.cancel();
        }
    }

    async fn lead(self: &Arc<Self>) {
        self.state.lock().led_since.get_or_insert_with(Instant::now);
        for (what, done) in
            [("expiring", self.expire().await), ("digesting the catalog", self.refresh_expected().await)]
        {
            if let Err(error) = done {
                tracing::warn!(%error, "{what} failed; trying again");
            }
        }
        for (node, boot) in self.silent_nodes() {
            self.set_silent(node, boot).await;
        }
        self.end_silent_sessions();
        self.tell_changes();
        self.arrange().await;
        self.order_merges().await;
        *self.service.figures.copying.lock() = self.state.lock().copying.under_way();
    }

    async fn expire(&self) -> Result<()> {
        let write_id_retention_ms = self.service.config.write_id_retention_ms;
        let needed = self.service.raft.view().needs_expiry(clock::now_ms(), write_id_retention_ms);
        if needed {
            self.service.raft.propose_if_leader(Op::Expire(Expire { write_id_retention_ms })).await?;
        }
        Ok(())
    }

    async fn refresh_expected(&self) -> Result<()> {
        let applied = *self.service.raft.watch_applied().borrow();
        if !self.state.lock().expected.is_stale(applied, Instant::now()) {
            return Ok(());
        }
        let raft = self.service.raft.clone();
        let expected = tokio::task::spawn_blocking(move || Expected::of(&raft.view(), applied))
            .await
            .map_err(|e| volley_common::Error::internal(format!("a task broke: {e}")))?;
        self.state.lock().expected = expected;
        Ok(())
    }

    /// Nodes that count as alive and have not spoken for longer than they may.
    fn silent_nodes(&self) -> Vec<(NodeId, u64)> {
        let alive = live_nodes(&self.service.raft.view());
        let (now, silence) = (Instant::now(), self.silence());
        let state = self.state.lock();
        let Some(led_since) = state.led_since else { return Vec::new() };
        let silent = alive.into_iter().filter(|node| {
            let heard = state.heard.get(&NodeId(node.id)).copied().unwrap_or(led_since);
            now.duration_since(heard) > silence
        });
        silent.map(|node| (NodeId(node.id), node.boot)).collect()
    }

    /// Ends the sessions of nodes that the catalog has as silent: whoever only slept, or was called silent by an earlier
    /// leader whose word came late, begins another, and by that is alive again.
    fn end_silent_sessions(&self) {
        let catalog = self.service.raft.view();
        let alive = live_ids(&catalog);
        for node in catalog.nodes().map(|node| NodeId(node.id)).filter(|node| !alive.contains(node)) {
            if let Some(session) = self.state.lock().sessions.get(&node) {
                session.end.cancel();
            }
        }
    }

    /// Tells all nodes who is there and what was cancelled, if that changed.
    fn tell_changes(&self) {
        let (members, cancelled) = {
            let catalog = self.service.raft.view();
            let cancelled: Vec<_> = catalog.cancelled().copied().collect();
            (self.members(&catalog), cancelled)
        };
        let flights: Vec<u64> = cancelled.iter().map(|c| c.flight).collect();
        let (new_members, new_cancelled) = {
            let mut state = self.state.lock();
            let changed = (state.members != members, state.cancelled != flights);
            (state.members, state.cancelled) = (members.clone(), flights);
            changed
        };
        if new_members {
            self.tell_all(&What::Members(members));
        }
        if new_cancelled {
            self.tell_all(&What::Cancelled(CancelledFlights { flights: cancelled }));
        }
    }
}
