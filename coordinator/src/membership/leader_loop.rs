//! The leader's periodic work, once per second: expiry, signing keys, failure detection, broadcasts, rebalancing, compaction.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use prost::Message;
use tokio::time::MissedTickBehavior;
use volley_common::clock::span;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::reply::Reply;
use volley_common::wire::catalog::{Expire, ExpiredTable};
use volley_common::wire::cluster::node_order::What;
use volley_common::wire::cluster::{CancelledFlights, Members};
use volley_common::{NodeId, Result};

use super::NodeMembership;
use super::bootstrap_admin::BootstrapAttempts;
use super::inventory_digest::ExpectedDigests;
use super::rebalance_loop::RebalanceState;
use crate::catalog_scan::scan_catalog;

/// The period of the leader's work.
const PERIOD: Duration = Duration::from_secs(1);
/// Without a round for this long, the process was stopped.
const STALL: Duration = Duration::from_secs(3);
/// How many nodes are marked as unreachable at once; their commands share commits.
const CONCURRENT_MARKS: usize = 256;
/// The least time between two broadcasts of catalog changes.
const BROADCAST_INTERVAL: Duration = Duration::from_millis(50);
/// Bytes of lists of members that are queued at once: with thousands of nodes the list is long, and all of them get it.
const MEMBERS_BYTES: usize = 64 << 20;
/// The least time between two batches of such lists, if one is not enough for all nodes.
pub(super) const MEMBERS_BATCH_INTERVAL: Duration = Duration::from_millis(500);
/// The members are broadcast at least this often: nodes record how far the catalog was with every order.
const MEMBERS_INTERVAL: Duration = Duration::from_secs(60);

impl NodeMembership {
    /// Does the leader's work whenever this coordinator leads, until the process stops.
    pub async fn run(self: Arc<Self>) {
        tokio::join!(self.run_leader_loop(), self.run_copy_loop());
    }

    async fn run_leader_loop(&self) {
        let mut leader = self.raft.watch_leader();
        let mut applied = self.raft.watch_applied();
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_round = Instant::now();
        loop {
            let full_round = tokio::select! {
                () = self.stop.cancelled() => return,
                _ = ticks.tick() => true,
                changed = leader.changed() => if changed.is_err() { return } else { true },
                changed = applied.changed() => if changed.is_err() { return } else { false },
            };
            if last_round.elapsed() > STALL {
                self.restart_node_timeouts();
            }
            last_round = Instant::now();
            if !self.raft.is_leader() {
                self.step_down();
            } else if full_round {
                self.lead().await;
            } else {
                self.broadcast_changes();
                self.renew_signing_key().await;
                tokio::time::sleep(BROADCAST_INTERVAL).await;
            }
        }
    }

    /// Closes all sessions, so that nodes connect to the next leader.
    fn step_down(&self) {
        let mut state = self.state.lock();
        state.leader_since = None;
        state.last_heard.clear();
        state.rebalance = RebalanceState::default();
        state.bootstrap = BootstrapAttempts::default();
        self.node_reports.heartbeats.lock().clear();
        for session in state.sessions.values() {
            session.close.cancel();
        }
    }

    /// This process was stopped, or starved, and could not hear nodes: each has a full timeout again.
    fn restart_node_timeouts(&self) {
        let mut state = self.state.lock();
        state.leader_since = state.leader_since.map(|_| Instant::now());
        state.last_heard.clear();
    }

    async fn lead(&self) {
        self.state.lock().leader_since.get_or_insert_with(Instant::now);
        if let Err(error) = self.begin_leadership().await {
            tracing::warn!(%error, "the leader cannot read the catalog; trying again");
        }
        if let Err(error) = self.expire().await {
            tracing::warn!(%error, "expiry failed; trying again");
        }
        self.renew_signing_key().await;
        self.bootstrap_administrator().await;
        if let Err(error) = self.refresh_expected_digests().await {
            tracing::warn!(%error, "digesting the catalog failed; trying again");
        }
        self.mark_timed_out().await;
        self.close_unreachable_sessions();
        self.broadcast_changes();
        self.rebalance().await;
        self.order_compactions().await;
        *self.node_reports.copying.lock() = self.state.lock().copies.in_progress();
    }

    async fn expire(&self) -> Result<()> {
        let limits = Expire {
            write_id_retention_ms: self.config.write_id_retention_ms,
            max_finished_writes: self.config.max_finished_writes,
            max_finished_bytes: self.config.max_finished_writes_bytes,
        };
        // By the time that the command will have: the leader before may have had a later clock.
        let now_ms = self.raft.now_ms();
        let step = {
            let catalog = self.raft.view();
            catalog.needs_expiry(now_ms, &limits).then(|| catalog.expiry_step(&limits, now_ms))
        };
        if let Some(step) = step
            && let Reply::Expired(expired) = self.raft.propose_if_leader(Op::Expire(step)).await?
        {
            expired.tables.iter().for_each(report_expired);
        }
        Ok(())
    }

    async fn refresh_expected_digests(&self) -> Result<()> {
        let applied = *self.raft.watch_applied().borrow();
        if !self.state.lock().expected.is_stale(applied, Instant::now()) {
            return Ok(());
        }
        let expected = scan_catalog(&self.raft, move |catalog| ExpectedDigests::of(catalog, applied)).await?;
        self.state.lock().expected = expected;
        Ok(())
    }

    /// Marks the nodes that have timed out as unreachable: many at once, because thousands may have shared a zone.
    pub(super) async fn mark_timed_out(&self) {
        for nodes in self.timed_out_nodes().chunks(CONCURRENT_MARKS) {
            join_all(nodes.iter().map(|(node, boot)| self.set_unreachable(*node, *boot))).await;
        }
    }

    /// Nodes that are alive in the catalog, but have sent no report within the node timeout.
    fn timed_out_nodes(&self) -> Vec<(NodeId, u64)> {
        let alive: Vec<(NodeId, u64)> =
            self.raft.view().live_nodes().map(|node| (NodeId(node.id), node.boot)).collect();
        let (now, timeout) = (Instant::now(), self.node_timeout());
        let state = self.state.lock();
        let Some(leader_since) = state.leader_since else { return Vec::new() };
        let timed_out = alive.into_iter().filter(|(node, _)| {
            let last_heard = state.last_heard.get(node).copied().unwrap_or(leader_since);
            now.duration_since(last_heard) > timeout
        });
        timed_out.collect()
    }

    /// Closes the sessions of nodes that the catalog has as unreachable. A node that was only suspended, or that an earlier
    /// leader's delayed command marked, begins a new session and so becomes alive again.
    fn close_unreachable_sessions(&self) {
        let catalog = self.raft.view();
        let alive = catalog.live_node_ids();
        for node in catalog.nodes().map(|node| NodeId(node.id)).filter(|node| !alive.contains(node)) {
            if let Some(session) = self.state.lock().sessions.get(&node) {
                session.close.cancel();
            }
        }
    }

    /// Broadcasts members, cancelled flights, and users and grants to all nodes, if they changed; the members also once a
    /// minute.
    fn broadcast_changes(&self) {
        self.broadcast_identity();
        let (members, cancelled) = {
            let catalog = self.raft.view();
            let cancelled: Vec<_> = catalog.cancelled().copied().collect();
            (self.members(&catalog), cancelled)
        };
        let flights: Vec<u64> = cancelled.iter().map(|c| c.flight).collect();
        let cancelled_changed = {
            let mut state = self.state.lock();
            let now = Instant::now();
            let due = state.members_sent.is_none_or(|at| now.duration_since(at) >= MEMBERS_INTERVAL);
            let changed = (due || state.members != members, state.cancelled != flights);
            if changed.0 {
                state.members_sent = Some(now);
                state.members_generation += 1;
            }
            (state.members, state.cancelled) = (members.clone(), flights);
            changed.1
        };
        self.send_members(&members, MEMBERS_BYTES, Instant::now());
        if cancelled_changed {
            self.broadcast(&What::Cancelled(CancelledFlights { flights: cancelled }));
        }
    }

    /// Sends the members to the sessions that do not have the newest list: to all of them, or, if that were more than `most_bytes`,
    /// to some, those with the oldest list first. The next rounds send it to the others.
    pub(super) fn send_members(&self, members: &Members, most_bytes: usize, now: Instant) {
        let nodes: Vec<NodeId> = {
            let mut state = self.state.lock();
            let newest = state.members_generation;
            let outdated = state.sessions.iter().filter(|(_, session)| session.members_generation != newest);
            let mut outdated: Vec<(u64, NodeId)> =
                outdated.map(|(node, session)| (session.members_generation, *node)).collect();
            if outdated.is_empty() {
                return;
            }
            let most = (most_bytes / members.encoded_len().max(1)).max(1);
            if outdated.len() > most {
                if state.members_batch.is_some_and(|at| now.duration_since(at) < MEMBERS_BATCH_INTERVAL) {
                    return;
                }
                outdated.select_nth_unstable(most);
                outdated.truncate(most);
            }
            state.members_batch = Some(now);
            for (_, node) in &outdated {
                if let Some(session) = state.sessions.get_mut(node) {
                    session.members_generation = newest;
                }
            }
            outdated.into_iter().map(|(_, node)| node).collect()
        };
        for node in nodes {
            self.send_order(node, What::Members(members.clone()));
        }
    }
}

fn report_expired(expired: &ExpiredTable) {
    let (table, ttl) = (expired.table.join("/"), span(expired.ttl_ms));
    let (version, rows) = (expired.version, expired.rows);
    tracing::info!(%table, version, rows, ttl, "a table expired and was dropped; `volley restore` brings it back while its retention lasts");
}
