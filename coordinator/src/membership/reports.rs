//! Handling of reports: what each changes in the catalog, and which orders follow.

use std::time::{Duration, Instant};

use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{HolderChange, SetNodeHealth, UpdateHolders};
use volley_common::wire::cluster::node_order::What;
use volley_common::wire::cluster::node_report::Report;
use volley_common::wire::cluster::{
    DeleteParts, Heartbeat, HeldPart, InventoryReconciled, QuarantineParts, SendInventory,
};
use volley_common::{Error, NodeId, PartId, Result, clock};

use super::NodeMembership;
use super::clock_skew::ClockOwner;
use super::inventory_digest::InventoryDigest;
use super::session::{ReceivedReport, SessionState};
use crate::catalog_scan::scan_catalog;
use crate::scheduler::reconcile::{CatalogHistory, ReconcilePlan, reconcile, reconcile_held, version_snapshot};

/// The least time between two writes of a node's health that differ only in their texts.
const HEALTH_TEXT_INTERVAL: Duration = Duration::from_secs(30);
/// Maximum number of holder changes in one command, and of parts in one delete order.
const BATCH: usize = 10_000;
/// Maximum number of parts in one order to quarantine, which a node executes between two heartbeats.
const QUARANTINE_BATCH: usize = 500;
/// Maximum number of parts that a node may report: bounds the memory of one inventory.
const MAX_INVENTORY: usize = 4_000_000;

impl NodeMembership {
    pub(super) async fn handle_report(&self, session: &mut SessionState, received: ReceivedReport) -> Result<()> {
        let node = session.node;
        match received.report {
            Report::Hello(_) => Err(Error::invalid("a second hello in one session")),
            Report::Heartbeat(heartbeat) => self.handle_heartbeat(session, heartbeat, received.at).await,
            Report::Held(held) => self.record_held(session, &held.parts).await,
            Report::Lost(lost) => {
                tracing::warn!(%node, parts = lost.parts.len(), reason = lost.reason, "the node lost parts");
                let change = |part| HolderChange { part: Some(part), node: node.0, held: false };
                self.update_holders(lost.parts.into_iter().map(change).collect()).await
            }
            Report::Done(done) => {
                if !done.error.is_empty() {
                    tracing::warn!(%node, order = done.order, error = done.error, "an order failed");
                }
                self.finish_copy(node, done.order, done.error.is_empty());
                Ok(())
            }
            Report::Inventory(page) => {
                session.inventory.extend(page.parts);
                if session.inventory.len() > MAX_INVENTORY {
                    session.inventory = Vec::new();
                    return Err(Error::exhausted(format!("the node reports more than {MAX_INVENTORY} parts")));
                }
                if page.last { self.reconcile_inventory(session).await } else { Ok(()) }
            }
        }
    }

    /// Records the heartbeat, and requests the node's inventory if its digest has differed from the catalog's for long
    /// enough.
    async fn handle_heartbeat(&self, session: &mut SessionState, heartbeat: Heartbeat, at: Instant) -> Result<()> {
        let ours = clock::now_ms().saturating_sub(at.elapsed().as_millis() as u64);
        self.node_reports.skews.record(ClockOwner::Node(session.node), heartbeat.now_ms, ours);
        self.record_health(session, &heartbeat).await?;
        let held = InventoryDigest { xor: heartbeat.digest, count: heartbeat.parts };
        let min_interval = Duration::from_millis(self.config.heartbeat_ms) * 3 / 4;
        let request_inventory = {
            let mut state = self.state.lock();
            let expected = state.expected.digest(session.node);
            match (state.sessions.get_mut(&session.node), expected) {
                (Some(current), Some(expected)) if current.id == session.session => {
                    let now = Instant::now();
                    match session.history {
                        CatalogHistory::Complete => current.check.heartbeat(held, expected, at, now, min_interval),
                        CatalogHistory::Recovered => current.check.unconditional(now),
                    }
                }
                _ => false,
            }
        };
        if !request_inventory {
            return Ok(());
        }
        session.before = version_snapshot(&*self.raft.read().await?);
        session.inventory = Vec::new();
        session.busy = self.state.lock().copies.pending_at(session.node).collect();
        self.send_order(session.node, What::SendInventory(SendInventory {}));
        Ok(())
    }

    /// Keeps the heartbeat for status reports, and writes the node's health to the catalog if it changed. Numbers in the
    /// texts change with every heartbeat: those alone are written at most twice a minute.
    async fn record_health(&self, session: &mut SessionState, heartbeat: &Heartbeat) -> Result<()> {
        let known = {
            let state = self.state.lock();
            if state.sessions.get(&session.node).is_none_or(|current| current.id != session.session) {
                return Ok(());
            }
            self.node_reports.heartbeats.lock().insert(session.node, heartbeat.clone());
            let catalog = self.raft.view();
            catalog.node(session.node).map(|node| (node.read_only_reason.clone(), node.degraded_reason.clone()))
        };
        let Some((read_only_reason, degraded_reason)) = known else { return Ok(()) };
        let state_changed = (read_only_reason.is_empty(), degraded_reason.is_empty())
            != (heartbeat.read_only_reason.is_empty(), heartbeat.degraded_reason.is_empty());
        let same = read_only_reason == heartbeat.read_only_reason && degraded_reason == heartbeat.degraded_reason;
        if same || !state_changed && session.health_written.elapsed() < HEALTH_TEXT_INTERVAL {
            return Ok(());
        }
        session.health_written = Instant::now();
        if state_changed {
            let (read_only_reason, degraded_reason) = (&heartbeat.read_only_reason, &heartbeat.degraded_reason);
            tracing::warn!(node = %session.node, read_only_reason, degraded_reason, "the health of a node changed");
        }
        let health = SetNodeHealth {
            node: session.node.0,
            boot: session.boot,
            read_only_reason: heartbeat.read_only_reason.clone(),
            degraded_reason: heartbeat.degraded_reason.clone(),
        };
        self.raft.propose_if_leader(Op::SetNodeHealth(health)).await.map(|_| ())
    }

    /// Reconciles parts that the node newly holds with the catalog.
    async fn record_held(&self, session: &mut SessionState, parts: &[HeldPart]) -> Result<()> {
        session.busy.extend(parts.iter().filter_map(|part| part.id.as_ref()).map(PartId::from));
        let plan = {
            let catalog = self.raft.read().await?;
            reconcile_held(&catalog, session.node, parts, session.history, catalog.live_node_ids())
        };
        self.apply_reconcile_plan(session.node, plan).await
    }

    /// Reconciles the node's whole inventory with the catalog.
    async fn reconcile_inventory(&self, session: &mut SessionState) -> Result<()> {
        let inventory = std::mem::take(&mut session.inventory);
        let (before, mut busy) = (std::mem::take(&mut session.before), std::mem::take(&mut session.busy));
        busy.extend(self.state.lock().copies.pending_at(session.node));
        let (node, count, history) = (session.node, inventory.len(), session.history);
        // After this every committed command is applied here: a write that is not open now will never be open again.
        drop(self.raft.read().await?);
        let plan = scan_catalog(&self.raft, move |catalog| {
            reconcile(catalog, node, &inventory, &before, &busy, history, catalog.live_node_ids())
        });
        self.apply_reconcile_plan(node, plan.await?).await?;
        if history == CatalogHistory::Recovered {
            session.history = CatalogHistory::Complete;
            let cluster = self.raft.view().require_cluster()?.id.clone();
            self.send_order(node, What::Reconciled(InventoryReconciled { cluster }));
        }
        if let Some(session) = self.state.lock().sessions.get_mut(&node) {
            session.check.reconciled(count, Instant::now());
        }
        Ok(())
    }

    /// Updates the catalog first; then orders the node to delete parts.
    ///
    /// # Errors
    /// Those of the catalog. UNAVAILABLE: the session ended before all parts were ordered to be set aside.
    async fn apply_reconcile_plan(&self, node: NodeId, plan: ReconcilePlan) -> Result<()> {
        if plan != ReconcilePlan::default() {
            let (delete, quarantine, changes) = (plan.delete.len(), plan.quarantine.len(), plan.changes.len());
            tracing::info!(%node, delete, quarantine, changes, "parts of a node reconciled");
        }
        self.update_holders(plan.changes).await?;
        for parts in plan.delete.chunks(BATCH) {
            let parts = parts.iter().map(|id| (*id).into()).collect();
            self.send_order(node, What::Delete(DeleteParts { parts }));
        }
        for parts in plan.quarantine.chunks(QUARANTINE_BATCH) {
            let parts = parts.iter().map(|id| (*id).into()).collect();
            let sent = self.send_order(node, What::Quarantine(QuarantineParts { parts }));
            // The node is not reconciled without it: once it is, parts that the catalog does not list are deleted.
            sent.ok_or_else(|| Error::unavailable("not all parts could be ordered to be set aside: they are later"))?;
        }
        Ok(())
    }

    pub(super) async fn update_holders(&self, changes: Vec<HolderChange>) -> Result<()> {
        for changes in changes.chunks(BATCH) {
            self.raft.propose_if_leader(Op::UpdateHolders(UpdateHolders { changes: changes.to_vec() })).await?;
        }
        Ok(())
    }
}
