//! Which nodes should hold a shard: a ring of virtual nodes, zones first, with a bound on load.
//!
//! The result is a row of the catalog; readers never compute it. Still the function is frozen, as
//! [`ALGORITHM`] 1, so that a leader of any version, on any machine, plans alike:
//!
//! - a virtual node stands on the ring at `xxh3_64(node id as u64 LE ‖ number as u64 LE)`, a shard at
//!   `xxh3_64(table key as u64 LE ‖ shard as u32 LE)`;
//! - a node has [`VNODES`] virtual nodes × its capacity / the median capacity (see `quantity`);
//! - a shard's replicas are the first nodes clockwise that share no zone and have room for one more;
//! - a node has room below `ceil(`[`BOUND`]` × its fair share)`.
//!
//! Where not all can be had, zones come before the load bound: of two zones, one of them with a single
//! node, that node gets a replica of every shard. Two replicas never share a node.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

use consistent_hash::{Node as RingNode, RingHash, StaticHashRing};
use xxhash_rust::xxh3::xxh3_64;

use crate::NodeId;

/// Version of the ring's hash and of the rules above. Another one would be another number.
pub const ALGORITHM: u32 = 1;
/// Virtual nodes of a node with the median capacity: they make the arcs even to about 4 %.
pub const VNODES: usize = 512;
/// No node gets more than this many times its fair share, in hundredths.
///
/// Lower is evener, but pushes more replicas from full nodes to the next, so that a node that joins
/// moves more than its share. At 1.20 both limits of the design hold with room (see the tests).
const BOUND_PERCENT: u128 = 120;
/// `BOUND_PERCENT` as a factor.
pub const BOUND: f64 = BOUND_PERCENT as f64 / 100.0;
/// A node weighs at most this many times the median, and at least one such part of it.
const MAX_WEIGHT: u64 = 16;

/// A node that may be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who it is.
    pub id: NodeId,
    /// The failure domain that it stands in; the empty one counts as a zone like any other.
    pub zone: String,
    /// Bytes that it offers; 0 counts as the median of the others.
    pub capacity: u64,
}

/// Replicas that nodes have been given before; a node that is not named has none.
pub type Load = BTreeMap<NodeId, u64>;

/// The nodes for every shard of a table, best first: one list a shard, each of `replicas` distinct
/// nodes, or of all nodes where there are fewer. Without nodes the lists are empty.
///
/// `table_key` is what sets tables apart (its id, or the hash of its name). `nodes` may come in any
/// order; one that is named twice counts once.
pub fn place(nodes: &[Candidate], table_key: u64, shards: u32, replicas: u32, load: &Load) -> Vec<Vec<NodeId>> {
    Ring::new(nodes).place(table_key, shards, replicas, load)
}

/// All nodes in the order in which they should be tried for a shard, whatever their load and zone.
pub fn order(nodes: &[Candidate], table_key: u64, shard: u32) -> Vec<NodeId> {
    Ring::new(nodes).order(table_key, shard)
}

/// The ring of one set of nodes: for who places many tables on them.
pub struct Ring {
    ring: StaticHashRing<'static, u64, Member, PortableHash>,
    /// Virtual nodes of all nodes.
    total: usize,
}

/// What the ring knows about a node.
struct Member {
    /// Index into the vectors of [`Room`].
    index: usize,
    /// Equal for nodes of one zone.
    zone: usize,
    quantity: usize,
}

impl Ring {
    /// Builds the ring: some 50 ns a virtual node.
    pub fn new(nodes: &[Candidate]) -> Self {
        // The crate's own removal of duplicates loses its sorting: give it none.
        let unique: BTreeMap<NodeId, &Candidate> = nodes.iter().rev().map(|node| (node.id, node)).collect();
        let median = median(unique.values().map(|node| node.capacity));
        let zones: BTreeSet<&str> = unique.values().map(|node| node.zone.as_str()).collect();
        let zones: BTreeMap<&str, usize> = zones.into_iter().enumerate().map(|(at, zone)| (zone, at)).collect();
        let members: Vec<_> = unique
            .values()
            .enumerate()
            .map(|(index, node)| {
                let quantity = quantity(node.capacity, median);
                let zone = zones[node.zone.as_str()];
                RingNode::new(node.id.0).value(Member { index, zone, quantity }).quantity(quantity)
            })
            .collect();
        let total = members.iter().map(|member| member.quantity).sum();
        Ring { ring: StaticHashRing::new(PortableHash, members.into_iter()), total }
    }

    /// As [`place`].
    pub fn place(&self, table_key: u64, shards: u32, replicas: u32, load: &Load) -> Vec<Vec<NodeId>> {
        let replicas = (replicas as usize).min(self.ring.nodes().len());
        let mut room = self.room(u64::from(shards) * replicas as u64, load);
        (0..shards).map(|shard| self.choose(table_key, shard, replicas, &mut room)).collect()
    }

    /// As [`order`].
    pub fn order(&self, table_key: u64, shard: u32) -> Vec<NodeId> {
        self.ring.calc_candidates(&(table_key, shard)).map(|node| NodeId(node.key)).collect()
    }

    /// How many more replicas each node may get, `more` of them to be given in all.
    fn room(&self, more: u64, load: &Load) -> Vec<u64> {
        let load_of = |key: u64| load.get(&NodeId(key)).copied().unwrap_or(0);
        let all = u128::from(more) + self.ring.nodes().iter().map(|node| u128::from(load_of(node.key))).sum::<u128>();
        let mut room = vec![0; self.ring.nodes().len()];
        for node in self.ring.nodes() {
            let cap = (all * node.value.quantity as u128 * BOUND_PERCENT).div_ceil(self.total as u128 * 100);
            room[node.value.index] = u64::try_from(cap).unwrap_or(u64::MAX).saturating_sub(load_of(node.key));
        }
        room
    }

    /// Takes the first nodes clockwise that fit; what must give way does so in the order of `RULES`.
    fn choose(&self, table_key: u64, shard: u32, replicas: usize, room: &mut [u64]) -> Vec<NodeId> {
        /// (a zone of its own, room below the bound)
        const RULES: [(bool, bool); 4] = [(true, true), (true, false), (false, true), (false, false)];
        let mut chosen: Vec<&RingNode<u64, Member>> = Vec::with_capacity(replicas);
        for (own_zone, below_bound) in RULES {
            if chosen.len() == replicas {
                break;
            }
            for node in self.ring.calc_candidates(&(table_key, shard)) {
                let fits = (!own_zone || chosen.iter().all(|c| c.value.zone != node.value.zone))
                    && (!below_bound || room[node.value.index] > 0)
                    && chosen.iter().all(|c| c.key != node.key);
                if fits {
                    room[node.value.index] = room[node.value.index].saturating_sub(1);
                    chosen.push(node);
                }
                if chosen.len() == replicas {
                    break;
                }
            }
        }
        chosen.into_iter().map(|node| NodeId(node.key)).collect()
    }
}

/// What each node's share is in proportion to: 512 for one with the median capacity.
pub fn weights(nodes: &[Candidate]) -> BTreeMap<NodeId, u64> {
    let median = median(nodes.iter().map(|node| node.capacity));
    nodes.iter().map(|node| (node.id, quantity(node.capacity, median) as u64)).collect()
}

/// The lower median of the capacities that are given; 0 if none is.
fn median(capacities: impl Iterator<Item = u64>) -> u64 {
    let mut known: Vec<u64> = capacities.filter(|capacity| *capacity > 0).collect();
    known.sort_unstable();
    known.get(known.len().saturating_sub(1) / 2).copied().unwrap_or(0)
}

/// Virtual nodes of a node: [`VNODES`] × capacity / median, between a sixteenth and sixteen times that.
fn quantity(capacity: u64, median: u64) -> usize {
    if capacity == 0 || median == 0 {
        return VNODES;
    }
    let exact = VNODES as u128 * u128::from(capacity) / u128::from(median);
    let (least, most) = (VNODES as u128 / u128::from(MAX_WEIGHT), VNODES as u128 * u128::from(MAX_WEIGHT));
    exact.clamp(least, most) as usize
}

/// The ring's hash: `xxh3_64` of the fields' little-endian bytes, integers of pointer size as 8 bytes.
struct PortableHash;

impl RingHash for PortableHash {
    fn hash_item<T: Hash>(&self, item: &T) -> u64 {
        let mut bytes = LittleEndian { bytes: [0; 32], len: 0 };
        item.hash(&mut bytes);
        bytes.finish()
    }
}

/// Collects what `Hash` writes; std's defaults would write integers in the machine's byte order.
struct LittleEndian {
    /// A ring's keys have 12 or 16 bytes.
    bytes: [u8; 32],
    len: usize,
}

impl Hasher for LittleEndian {
    fn write(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn write_u32(&mut self, value: u32) {
        self.write(&value.to_le_bytes());
    }

    fn write_u64(&mut self, value: u64) {
        self.write(&value.to_le_bytes());
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn finish(&self) -> u64 {
        xxh3_64(&self.bytes[..self.len])
    }
}

#[cfg(test)]
mod tests;
