//! A simulated cluster that executes the scheduler's decisions while nodes crash, return, drain, fill up and leave.
//! Invariants are checked at every step; without further events every part ends up on its placement.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{
    Command, DrainNode, HolderChange, Node, NodeState, PlaceTables, RegisterNode, RemoveNode, SetNodeHealth,
    SetNodeState, UpdateHolders, reply, row,
};
use volley_common::wire::cluster::HeldPart;
use volley_common::{NodeId, PartId};

use super::helpers::{part, put, table};
use crate::catalog::{Catalog, PartRow};
use crate::scheduler::reconcile::{CatalogHistory, reconcile_held};
use crate::scheduler::repair::{CopyDecision, CopyLoad};
use crate::scheduler::{NodeSets, over_replicated, rebalance, repair};

const REPAIR_DELAY: u64 = 20;
/// Rounds within which a cluster without events becomes stable.
const MAX_ROUNDS: usize = 200;

struct SimulatedCluster {
    random: StdRng,
    catalog: Catalog,
    now: u64,
    /// The parts on each node's disk.
    disks: BTreeMap<u64, BTreeSet<u128>>,
    /// Nodes whose process runs.
    up: BTreeSet<u64>,
    copied: usize,
}

impl SimulatedCluster {
    fn new(seed: u64) -> SimulatedCluster {
        let mut random = StdRng::seed_from_u64(seed);
        let nodes = random.random_range(3..8);
        let mut cluster = SimulatedCluster {
            random,
            catalog: Catalog::default(),
            now: 1000,
            disks: BTreeMap::new(),
            up: BTreeSet::new(),
            copied: 0,
        };
        (1..=nodes).for_each(|id| cluster.join(id));
        for id in 1..4 {
            let placement: Vec<Vec<u64>> =
                (0..8).map(|shard| vec![1 + shard % nodes, 1 + (shard + 1) % nodes]).collect();
            let slices: Vec<&[u64]> = placement.iter().map(Vec::as_slice).collect();
            put(&mut cluster.catalog, row::Row::Table(table(id, 2, &slices)));
            for seq in 0..40 {
                let number = u128::from(id * 1000 + seq);
                let mut part = part(number, seq, &placement[(seq % 8) as usize]);
                (part.table, part.shard) = (id, (seq % 8) as u32);
                for holder in &part.holders {
                    cluster.disks.get_mut(holder).unwrap().insert(number);
                }
                put(&mut cluster.catalog, row::Row::Part(part));
            }
        }
        cluster
    }

    fn apply(&mut self, op: Op) -> bool {
        let reply = self.catalog.apply(&Command { now_ms: self.now, op: Some(op) }).reply;
        !matches!(reply, Some(reply::Reply::Refusal(_)))
    }

    fn join(&mut self, id: u64) {
        let zone = format!("z{}", id % 3);
        let node = Node { id, boot: self.now + id, zone, peer_addr: id.to_string(), ..Node::default() };
        if self.apply(Op::RegisterNode(RegisterNode { node: Some(node) })) {
            self.disks.entry(id).or_default();
            self.up.insert(id);
        }
    }

    fn nodes(&self) -> NodeSets {
        NodeSets::at(&self.catalog, self.now, REPAIR_DELAY)
    }

    /// Applies a random event to a random node.
    fn random_event(&mut self) {
        let all: Vec<u64> = self.catalog.nodes().map(|node| node.id).collect();
        let id = all[self.random.random_range(0..all.len())];
        match self.random.random_range(0..9) {
            // Only one node may be down at a time, so that every part keeps one of its two copies.
            0 | 1 if self.up.len() == all.len() => {
                self.up.remove(&id);
                self.apply(Op::SetNodeState(SetNodeState { node: id, state: NodeState::Unreachable as i32, boot: 0 }));
            }
            2 | 3 => {
                let down: Vec<u64> = all.into_iter().filter(|id| !self.up.contains(id)).collect();
                down.into_iter().for_each(|id| self.join(id));
            }
            4 => drop(self.apply(Op::DrainNode(DrainNode { node: id, draining: true }))),
            5 => drop(self.apply(Op::DrainNode(DrainNode { node: id, draining: false }))),
            6 => {
                let full = self.random.random_bool(0.3);
                let read_only_reason = if full { "disk full" } else { "" }.to_string();
                let health = SetNodeHealth { node: id, boot: 0, read_only_reason, degraded_reason: String::new() };
                self.apply(Op::SetNodeHealth(health));
            }
            7 if self.disks.len() < 10 => self.join(self.disks.len() as u64 + 1),
            8 if all.len() > 3 && self.apply(Op::RemoveNode(RemoveNode { node: id })) => {
                self.up.remove(&id);
            }
            _ => {}
        }
    }

    /// Runs the leader's work of one second; returns whether there was any.
    fn round(&mut self) -> bool {
        self.now += 1;
        let nodes = self.nodes();
        let tables = rebalance::rebalance(&self.catalog, &nodes);
        let settled = tables.is_empty();
        self.apply(Op::PlaceTables(PlaceTables { tables }));
        let ordered = self.copy(&nodes);
        let excess = if settled { over_replicated::excess_copies(&self.catalog, &nodes, 50) } else { Vec::new() };
        self.check_live(&nodes, &excess);
        self.apply(Op::UpdateHolders(UpdateHolders { changes: excess.clone() }));
        for (node, parts) in over_replicated::deletions(&self.catalog, &nodes, &excess) {
            // Some orders are lost.
            if self.random.random_bool(0.8) {
                let disk = self.disks.get_mut(&node.0).unwrap();
                disk.retain(|id| !parts.contains(&PartId(*id)));
            }
        }
        let corrected = self.reconcile_inventories();
        !settled || ordered > 0 || !excess.is_empty() || corrected
    }

    /// Executes copy orders immediately; some of them fail. Returns how many there were.
    fn copy(&mut self, nodes: &NodeSets) -> usize {
        let (waiting, _) = repair::parts_to_copy(&self.catalog, nodes, 1000);
        let (mut load, mut changes, mut ordered) = (CopyLoad::default(), Vec::new(), 0);
        for id in waiting {
            let CopyDecision::Order(copy) = repair::next_copy(&self.catalog, nodes, &load, id) else { continue };
            load.add(&copy);
            ordered += 1;
            let sources: Vec<u64> = copy.order.sources.iter().map(|source| source.parse().unwrap()).collect();
            assert!(self.up.contains(&copy.to.0), "an order to a node that is down");
            assert!(sources.iter().any(|from| self.up.contains(from) && self.disks[from].contains(&id.0)));
            if self.random.random_bool(0.9) {
                self.disks.get_mut(&copy.to.0).unwrap().insert(id.0);
                changes.push(HolderChange { part: Some(id.into()), node: copy.to.0, held: true });
            }
        }
        self.copied += changes.len();
        self.apply(Op::UpdateHolders(UpdateHolders { changes }));
        ordered
    }

    /// Reconciles the inventory of every node.
    fn reconcile_inventories(&mut self) -> bool {
        let nodes = self.nodes();
        let mut changed = false;
        for node in self.up.clone() {
            let report =
                |id: &u128| HeldPart { id: Some(PartId(*id).into()), crc32c: 8, bytes: 9, ..HeldPart::default() };
            let held: Vec<HeldPart> = self.disks[&node].iter().map(report).collect();
            let found = reconcile_held(&self.catalog, NodeId(node), &held, CatalogHistory::Complete, &nodes.alive);
            changed |= !found.delete.is_empty() || !found.changes.is_empty();
            self.apply(Op::UpdateHolders(UpdateHolders { changes: found.changes }));
            self.disks.get_mut(&node).unwrap().retain(|id| !found.delete.contains(&PartId(*id)));
        }
        changed
    }

    fn live(&self, nodes: &NodeSets, part: &PartRow) -> usize {
        part.holders.iter().filter(|id| nodes.counts_as_live_replica(NodeId(**id))).count()
    }

    /// Checks that no copy is deleted unless enough live copies remain.
    fn check_live(&self, nodes: &NodeSets, excess: &[HolderChange]) {
        let mut deleted: BTreeMap<PartId, usize> = BTreeMap::new();
        for change in excess.iter().filter(|change| nodes.counts_as_live_replica(NodeId(change.node))) {
            *deleted.entry(change.part.as_ref().unwrap().into()).or_default() += 1;
        }
        for (id, deleted) in deleted {
            let part = self.catalog.part(id).unwrap();
            assert!(self.live(nodes, part) - deleted >= 2, "part {id} would have too few copies");
        }
    }

    /// Checks that the catalog's holders have their parts, and that every part has a holder.
    fn check_held(&self) {
        for part in self.catalog.all_parts() {
            assert!(!part.holders.is_empty(), "part {} is lost", part.part_id());
            for holder in &part.holders {
                assert!(self.disks[holder].contains(&part.part_id().0), "{holder} has no {}", part.part_id());
            }
        }
    }

    /// Brings all nodes back without drains, and runs until nothing is left to do.
    fn recover(&mut self) {
        let all: Vec<u64> = self.catalog.nodes().map(|node| node.id).collect();
        for id in all {
            self.join(id);
            self.apply(Op::DrainNode(DrainNode { node: id, draining: false }));
        }
        let rounds = (0..MAX_ROUNDS).take_while(|_| self.round()).count();
        assert!(rounds < MAX_ROUNDS, "it never becomes stable");
    }

    fn check_placement(&self) {
        for part in self.catalog.all_parts() {
            let placed = &self.catalog.table(part.table).unwrap().placement[part.shard as usize].nodes;
            let (held, wanted): (BTreeSet<_>, BTreeSet<_>) = (part.holders.iter().collect(), placed.iter().collect());
            assert_eq!(held, wanted, "part {}", part.part_id());
        }
        let removed = |id: &u64| self.catalog.was_removed(NodeId(*id));
        let on_disks: usize = self.disks.iter().filter(|(id, _)| !removed(id)).map(|(_, disk)| disk.len()).sum();
        assert_eq!(on_disks, 2 * self.catalog.part_count());
    }
}

#[test]
fn no_part_is_lost_and_all_reach_their_placement() {
    let mut copied = 0;
    for seed in 0..40 {
        let mut cluster = SimulatedCluster::new(seed);
        for _ in 0..60 {
            cluster.random_event();
            for _ in 0..cluster.random.random_range(1..12) {
                cluster.round();
                cluster.check_held();
            }
        }
        cluster.recover();
        cluster.check_held();
        cluster.check_placement();
        copied += cluster.copied;
    }
    assert!(copied > 1000, "too few copies: {copied}");
}

#[test]
fn joining_node_gets_its_share_copied_once() {
    for seed in 0..10 {
        let mut cluster = SimulatedCluster::new(seed);
        cluster.recover();
        (cluster.copied, cluster.now) = (0, cluster.now + 1);
        cluster.join(9);
        cluster.recover();
        cluster.check_placement();
        let fair = 2.0 * cluster.catalog.part_count() as f64 / cluster.up.len() as f64;
        // Its zone may get replicas that shared a zone before.
        assert!(
            cluster.copied as f64 >= 0.5 * fair && cluster.copied as f64 <= 1.3 * fair,
            "{} of {fair}",
            cluster.copied
        );
    }
}
