//! Decisions carried out, one after the other, in a world of nodes that fall silent, come back, drain, fill up and go;
//! what must hold holds at every step, and when nothing happens any more everything is where it should be.

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
use crate::scheduler::repair::{Load, Next};
use crate::scheduler::{Nodes, placing, reconcile_held, repair, surplus};

const GRACE: u64 = 20;
/// Rounds in which a world without events comes to rest.
const QUIET: usize = 200;

struct World {
    random: StdRng,
    catalog: Catalog,
    now: u64,
    /// What lies on the nodes' disks.
    disks: BTreeMap<u64, BTreeSet<u128>>,
    /// Nodes whose process runs.
    up: BTreeSet<u64>,
    copied: usize,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = StdRng::seed_from_u64(seed);
        let nodes = random.random_range(3..8);
        let mut world = World {
            random,
            catalog: Catalog::default(),
            now: 1000,
            disks: BTreeMap::new(),
            up: BTreeSet::new(),
            copied: 0,
        };
        (1..=nodes).for_each(|id| world.join(id));
        for id in 1..4 {
            let placement: Vec<Vec<u64>> =
                (0..8).map(|shard| vec![1 + shard % nodes, 1 + (shard + 1) % nodes]).collect();
            let slices: Vec<&[u64]> = placement.iter().map(Vec::as_slice).collect();
            put(&mut world.catalog, row::Row::Table(table(id, 2, &slices)));
            for seq in 0..40 {
                let number = u128::from(id * 1000 + seq);
                let mut part = part(number, seq, &placement[(seq % 8) as usize]);
                (part.table, part.shard) = (id, (seq % 8) as u32);
                for holder in &part.holders {
                    world.disks.get_mut(holder).unwrap().insert(number);
                }
                put(&mut world.catalog, row::Row::Part(part));
            }
        }
        world
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

    fn nodes(&self) -> Nodes {
        Nodes::at(&self.catalog, self.now, GRACE)
    }

    /// Something happens to a node.
    fn event(&mut self) {
        let all: Vec<u64> = self.catalog.nodes().map(|node| node.id).collect();
        let id = all[self.random.random_range(0..all.len())];
        match self.random.random_range(0..9) {
            // As many may fall silent as leave every part one of its two copies; the others serve on.
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

    /// What the leader does in a second; says whether there was anything to do.
    fn round(&mut self) -> bool {
        self.now += 1;
        let nodes = self.nodes();
        let tables = placing::placements(&self.catalog, &nodes);
        let settled = tables.is_empty();
        self.apply(Op::PlaceTables(PlaceTables { tables }));
        let copied = self.copy(&nodes);
        let gone = if settled { surplus::surplus(&self.catalog, &nodes, 50) } else { Vec::new() };
        self.check_live(&nodes, &gone);
        self.apply(Op::UpdateHolders(UpdateHolders { changes: gone.clone() }));
        for (node, parts) in surplus::deletions(&self.catalog, &nodes, &gone) {
            // Some orders get lost.
            if self.random.random_bool(0.8) {
                let disk = self.disks.get_mut(&node.0).unwrap();
                disk.retain(|id| !parts.contains(&PartId(*id)));
            }
        }
        let corrected = self.inventory();
        !settled || copied > 0 || !gone.is_empty() || corrected
    }

    /// Orders are carried out at once, some of them fail.
    fn copy(&mut self, nodes: &Nodes) -> usize {
        let (waiting, _) = repair::lacking(&self.catalog, nodes, 1000);
        let (mut load, mut changes) = (Load::default(), Vec::new());
        for id in waiting {
            let Next::Order(copy) = repair::order(&self.catalog, nodes, &load, id) else { continue };
            load.add(&copy);
            let sources: Vec<u64> = copy.order.sources.iter().map(|source| source.parse().unwrap()).collect();
            assert!(self.up.contains(&copy.to.0), "an order to a node that is not there");
            assert!(sources.iter().any(|from| self.up.contains(from) && self.disks[from].contains(&id.0)));
            if self.random.random_bool(0.9) {
                self.disks.get_mut(&copy.to.0).unwrap().insert(id.0);
                changes.push(HolderChange { part: Some(id.into()), node: copy.to.0, held: true });
            }
        }
        self.copied += changes.len();
        let count = changes.len();
        self.apply(Op::UpdateHolders(UpdateHolders { changes }));
        count
    }

    /// What nodes report that they hold: the catalog has all of it, or it is deleted.
    fn inventory(&mut self) -> bool {
        let nodes = self.nodes();
        let mut changed = false;
        for node in self.up.clone() {
            let report =
                |id: &u128| HeldPart { id: Some(PartId(*id).into()), crc32c: 8, bytes: 9, ..HeldPart::default() };
            let held: Vec<HeldPart> = self.disks[&node].iter().map(report).collect();
            let found = reconcile_held(&self.catalog, NodeId(node), &held, &nodes.alive);
            changed |= !found.delete.is_empty() || !found.changes.is_empty();
            self.apply(Op::UpdateHolders(UpdateHolders { changes: found.changes }));
            self.disks.get_mut(&node).unwrap().retain(|id| !found.delete.contains(&PartId(*id)));
        }
        changed
    }

    fn live(&self, nodes: &Nodes, part: &PartRow) -> usize {
        part.holders.iter().filter(|id| nodes.stays_alive(NodeId(**id))).count()
    }

    /// No copy goes unless its part has all it wants without it, on nodes that stay.
    fn check_live(&self, nodes: &Nodes, gone: &[HolderChange]) {
        let mut going: BTreeMap<PartId, usize> = BTreeMap::new();
        for change in gone.iter().filter(|change| nodes.stays_alive(NodeId(change.node))) {
            *going.entry(change.part.as_ref().unwrap().into()).or_default() += 1;
        }
        for (id, going) in going {
            let part = self.catalog.part(id).unwrap();
            assert!(self.live(nodes, part) - going >= 2, "part {id} would have too few copies");
        }
    }

    /// The catalog's holders have their parts; no part is without a copy.
    fn check_held(&self) {
        for part in self.catalog.all_parts() {
            assert!(!part.holders.is_empty(), "part {} is lost", part.part_id());
            for holder in &part.holders {
                assert!(self.disks[holder].contains(&part.part_id().0), "{holder} has no {}", part.part_id());
            }
        }
    }

    /// Everybody comes back with room: then all goes home, and nothing is left elsewhere.
    fn recover(&mut self) {
        let all: Vec<u64> = self.catalog.nodes().map(|node| node.id).collect();
        for id in all {
            self.join(id);
            self.apply(Op::DrainNode(DrainNode { node: id, draining: false }));
        }
        let rounds = (0..QUIET).take_while(|_| self.round()).count();
        assert!(rounds < QUIET, "it never comes to rest");
    }

    fn check_home(&self) {
        for part in self.catalog.all_parts() {
            let home = &self.catalog.table(part.table).unwrap().placement[part.shard as usize].nodes;
            let (held, wanted): (BTreeSet<_>, BTreeSet<_>) = (part.holders.iter().collect(), home.iter().collect());
            assert_eq!(held, wanted, "part {}", part.part_id());
        }
        let removed = |id: &u64| self.catalog.was_removed(NodeId(*id));
        let on_disks: usize = self.disks.iter().filter(|(id, _)| !removed(id)).map(|(_, disk)| disk.len()).sum();
        assert_eq!(on_disks, 2 * self.catalog.part_count());
    }
}

#[test]
fn whatever_happens_no_part_is_given_up_too_early_and_all_come_home() {
    let mut copied = 0;
    for seed in 0..40 {
        let mut world = World::new(seed);
        for _ in 0..60 {
            world.event();
            for _ in 0..world.random.random_range(1..12) {
                world.round();
                world.check_held();
            }
        }
        world.recover();
        world.check_held();
        world.check_home();
        copied += world.copied;
    }
    assert!(copied > 1000, "nothing happened: {copied}");
}

#[test]
fn a_node_that_joins_has_its_share_copied_once() {
    for seed in 0..10 {
        let mut world = World::new(seed);
        world.recover();
        (world.copied, world.now) = (0, world.now + 1);
        world.join(9);
        world.recover();
        world.check_home();
        let fair = 2.0 * world.catalog.part_count() as f64 / world.up.len() as f64;
        // Its zone may get some that shared one before.
        assert!(world.copied as f64 >= 0.5 * fair && world.copied as f64 <= 1.3 * fair, "{} of {fair}", world.copied);
    }
}
