//! The leader's work on where parts are: new homes for shards, copies that are missing, copies that are too many.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{HolderChange, PlaceTables};
use volley_common::wire::cluster::DeleteParts;
use volley_common::wire::cluster::node_order::What;
use volley_common::{NodeId, PartId, Result, clock};

use super::Membership;
use crate::scheduler::repair::{Copy, Next};
use crate::scheduler::{Nodes, placing, repair, surplus};
use crate::service::status::blocking;

/// Parts that wait for a copy in memory; what is behind them is found by the next look.
const MOST_WAITING: usize = 10_000;
/// Parts looked at for each time that orders are given.
const MOST_TRIED: usize = 512;
/// Copies given up by one look.
const MOST_SURPLUS: usize = 100_000;
/// Tables in one command that gives shards new homes.
const TABLES: usize = 200;
/// All parts are looked at for at most this fraction of the time.
const SHARE: u32 = 20;

/// New homes are sought for at least this often, and at once when nodes came or went: tables come, too.
const HOMES_EVERY: Duration = Duration::from_secs(5);

/// What the leader remembers from look to look.
#[derive(Default)]
pub(super) struct Arranging {
    /// Parts that want a copy, the most urgent first.
    waiting: VecDeque<PartId>,
    last: Option<Look>,
    /// For which nodes homes were last sought, when, and how long that took.
    homes: Option<(Nodes, Instant, Duration)>,
    /// Whether copies may be ordered: this leader knows who is there.
    open: bool,
}

/// A look at all parts.
struct Look {
    applied: u64,
    nodes: Nodes,
    began: Instant,
    took: Duration,
    /// There was nothing to do.
    quiet: bool,
}

/// What a look found.
struct Found {
    lacking: Vec<PartId>,
    surplus: Vec<HolderChange>,
}

impl Membership {
    /// Once a second: looks at all parts if that may be worth it, acts on what it finds, has copies ordered.
    pub(super) async fn arrange(&self) {
        self.end_removed();
        let nodes = self.nodes();
        let open = self.knows_all_nodes(&nodes);
        self.state.lock().arranging.open = open;
        if !open {
            return;
        }
        if let Err(error) = self.look(nodes).await {
            tracing::warn!(%error, "arranging parts failed; trying again");
        }
        self.wake.notify_one();
    }

    fn nodes(&self) -> Nodes {
        Nodes::at(&self.service.raft.view(), clock::now_ms(), self.service.config.repair_delay_ms)
    }

    /// A new leader does nothing until every node has had the time to come, or is there: whoever is on the way to it is
    /// not missing.
    fn knows_all_nodes(&self, nodes: &Nodes) -> bool {
        let known = self.service.raft.view().nodes().count();
        let state = self.state.lock();
        let all_here = nodes.alive.len() == known && nodes.alive.iter().all(|id| state.sessions.contains_key(id));
        all_here || state.led_since.is_some_and(|since| since.elapsed() >= self.silence())
    }

    /// Ends the sessions of nodes that were removed.
    fn end_removed(&self) {
        let catalog = self.service.raft.view();
        let state = self.state.lock();
        for (_, session) in state.sessions.iter().filter(|(id, _)| catalog.was_removed(**id)) {
            session.end.cancel();
        }
    }

    async fn look(&self, nodes: Nodes) -> Result<()> {
        let (applied, began) = (*self.service.raft.watch_applied().borrow(), Instant::now());
        if !self.worth_a_look(applied, &nodes, began) {
            return Ok(());
        }
        let sought = self.homes_due(&nodes);
        let settled = !sought || self.give_homes(&nodes).await?;
        let scanned = Instant::now();
        let (raft, seen) = (self.service.raft.clone(), nodes.clone());
        let found = blocking(move || {
            let catalog = raft.view();
            let (lacking, _) = repair::lacking(&catalog, &seen, MOST_WAITING);
            // Where shards just got new homes the copies at the old ones are of use yet.
            let surplus = if settled { surplus::surplus(&catalog, &seen, MOST_SURPLUS) } else { Vec::new() };
            Found { lacking, surplus }
        })
        .await?;
        let quiet = sought && settled && found.lacking.is_empty() && found.surplus.is_empty();
        {
            let mut state = self.state.lock();
            state.arranging.waiting = found.lacking.into();
            state.arranging.last = Some(Look { applied, nodes: nodes.clone(), began, took: scanned.elapsed(), quiet });
        }
        self.give_up(found.surplus).await
    }

    fn worth_a_look(&self, applied: u64, nodes: &Nodes, now: Instant) -> bool {
        let mut state = self.state.lock();
        state.copying.tidy(now);
        state.arranging.last.as_ref().is_none_or(|last| {
            let same = last.quiet && last.applied == applied && last.nodes == *nodes;
            !same && now.duration_since(last.began) >= last.took * SHARE
        })
    }

    fn homes_due(&self, nodes: &Nodes) -> bool {
        self.state
            .lock()
            .arranging
            .homes
            .as_ref()
            .is_none_or(|(seen, at, took)| seen != nodes || at.elapsed() >= HOMES_EVERY.max(*took * SHARE))
    }

    /// Gives shards new homes; says whether all may stay where they are.
    async fn give_homes(&self, nodes: &Nodes) -> Result<bool> {
        let (raft, seen, began) = (self.service.raft.clone(), nodes.clone(), Instant::now());
        let homes = blocking(move || placing::placements(&raft.view(), &seen)).await?;
        let took = began.elapsed();
        if !homes.is_empty() {
            tracing::info!(tables = homes.len(), "nodes came or went: shards get new homes");
        }
        for tables in homes.chunks(TABLES) {
            self.service.raft.propose_if_leader(Op::PlaceTables(PlaceTables { tables: tables.to_vec() })).await?;
        }
        self.state.lock().arranging.homes = Some((nodes.clone(), began, took));
        Ok(homes.is_empty())
    }

    /// The catalog forgets copies first, then they are deleted if it still can do without them. If that order is lost the
    /// node's next inventory has it given again.
    async fn give_up(&self, gone: Vec<HolderChange>) -> Result<()> {
        if gone.is_empty() {
            return Ok(());
        }
        let (removed, elsewhere) = {
            let catalog = self.service.raft.view();
            let removed = gone.iter().filter(|change| catalog.was_removed(NodeId(change.node))).count();
            (removed, gone.len() - removed)
        };
        if removed > 0 {
            tracing::info!(copies = removed, "copies of nodes that were removed count no more");
        }
        if elsewhere > 0 {
            tracing::info!(copies = elsewhere, "parts are at home: copies elsewhere go");
        }
        self.update_holders(gone.clone()).await?;
        let delete = surplus::deletions(&self.service.raft.view(), &self.nodes(), &gone);
        for (node, parts) in delete {
            self.tell(node, What::Delete(DeleteParts { parts: parts.into_iter().map(Into::into).collect() }));
        }
        Ok(())
    }

    /// Orders copies whenever nodes have room, until the process stops.
    pub(super) async fn keep_copying(&self) {
        loop {
            tokio::select! {
                () = self.service.stop.cancelled() => return,
                () = self.wake.notified() => {}
            }
            if self.service.raft.is_leader() && self.state.lock().arranging.open {
                self.order_copies();
            }
        }
    }

    /// Gives the nodes as many orders as they have room for, the most urgent ones.
    fn order_copies(&self) {
        let (nodes, now) = (self.nodes(), Instant::now());
        let chosen = self.choose(&nodes, now);
        for (id, copy) in chosen {
            if let Some(number) = self.tell(copy.to, What::Copy(copy.order)) {
                self.state.lock().copying.began(id, copy.to, copy.from, number, now);
            }
        }
    }

    fn choose(&self, nodes: &Nodes, now: Instant) -> Vec<(PartId, Copy)> {
        let catalog = self.service.raft.view();
        let mut state = self.state.lock();
        let mut load = state.copying.load();
        let (mut chosen, mut later) = (Vec::new(), Vec::new());
        for _ in 0..MOST_TRIED {
            if load.is_full(nodes) {
                break;
            }
            let Some(id) = state.arranging.waiting.pop_front() else { break };
            if state.copying.is_busy(id, now) {
                continue;
            }
            match repair::order(&catalog, nodes, &load, id) {
                Next::Order(copy) if state.sessions.contains_key(&copy.to) => {
                    load.add(&copy);
                    chosen.push((id, *copy));
                }
                Next::Wait => later.push(id),
                Next::Order(_) | Next::Nothing => {}
            }
        }
        later.into_iter().rev().for_each(|id| state.arranging.waiting.push_front(id));
        chosen
    }

    /// An order ended: the node has room for another.
    pub(super) fn order_ended(&self, node: NodeId, number: u64, copied: bool) {
        self.state.lock().copying.ended(node, number, copied, Instant::now());
        self.wake.notify_one();
    }
}
