//! Places shards on nodes: consistent hashing with bounded loads, distinct zones first.
//!
//! The result is stored in the catalog; readers never compute it. The function is nevertheless frozen, as [`ALGORITHM`]
//! 1, so that leaders of all versions and architectures compute the same placement:
//!
//! - the hash of a virtual node is `xxh3_64(node id as u64 LE ‖ number as u64 LE)`, that of a shard
//!   `xxh3_64(table key as u64 LE ‖ shard as u32 LE)`;
//! - a node has [`VNODES`] × its capacity / the median capacity virtual nodes (see `vnode_count`);
//! - a shard's replicas are the first nodes clockwise that share no zone and are below their load bound;
//! - a node's load bound is `ceil(`[`LOAD_BOUND`]` × its fair share)`.
//!
//! If not all rules can be satisfied, distinct zones take precedence over the load bound: if there are two zones and
//! one of them has a single node, that node gets a replica of every shard. Two replicas never share a node.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use consistent_hash::{Node as RingNode, RingHash, StaticHashRing};
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use crate::NodeId;

/// Version of the ring's hash and of the rules above. A different function gets another number.
pub const ALGORITHM: u32 = 1;
/// Virtual nodes of a node with the median capacity: arcs then differ by about 4 %.
pub const VNODES: usize = 512;
/// Maximum number of replicas on a node, in hundredths of its fair share.
///
/// A lower bound is more even, but moves more replicas from full nodes to the next, so that a joining node moves more than
/// its share. At 1.20 both limits of the design hold with a margin (see the tests).
const LOAD_BOUND_PERCENT: u128 = 120;
/// `LOAD_BOUND_PERCENT` as a factor.
pub const LOAD_BOUND: f64 = LOAD_BOUND_PERCENT as f64 / 100.0;
/// A node's weight is at most this many times the median's, and at least the median's divided by this.
const MAX_WEIGHT: u64 = 16;

/// A node that may be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The node's id.
    pub id: NodeId,
    /// Its failure domain; the empty string is a zone like any other.
    pub zone: String,
    /// Its capacity in bytes; 0 counts as the median of the others.
    pub capacity: u64,
}

/// Replicas that nodes hold already; a node that is not in the map holds none.
pub type ReplicaCounts = BTreeMap<NodeId, u64>;

/// The nodes for every shard of a table, best first: one list a shard, each of `replicas` distinct nodes, or of all nodes
/// if there are fewer. Without nodes the lists are empty.
///
/// `table_key` differs between tables (an id, or the hash of a name). `nodes` may be in any order; duplicates count once.
pub fn place(
    nodes: &[Candidate],
    table_key: u64,
    shards: u32,
    replicas: u32,
    load: &ReplicaCounts,
) -> Vec<Vec<NodeId>> {
    Ring::kept(nodes).place(table_key, shards, replicas, load)
}

/// All nodes in a shard's order of preference, independent of their load and zone.
pub fn order(nodes: &[Candidate], table_key: u64, shard: u32) -> Vec<NodeId> {
    Ring::new(nodes).order(table_key, shard)
}

/// The hash ring of one set of nodes, to place many tables on them.
pub struct Ring {
    ring: StaticHashRing<'static, u64, RingMember, PortableHash>,
    /// Virtual nodes of all nodes.
    total: usize,
}

/// A node of the ring.
struct RingMember {
    /// Index into the vector that [`Ring::remaining`] returns.
    index: usize,
    /// Equal for nodes of one zone.
    zone: usize,
    /// Virtual nodes.
    vnodes: usize,
}

impl Ring {
    /// Builds the ring; takes about 50 ns a virtual node.
    pub fn new(nodes: &[Candidate]) -> Self {
        // Duplicates are removed first, because the ring's own removal of duplicates breaks its sorting.
        let unique: BTreeMap<NodeId, &Candidate> = nodes.iter().rev().map(|node| (node.id, node)).collect();
        let median = median(unique.values().map(|node| node.capacity));
        let zones: BTreeSet<&str> = unique.values().map(|node| node.zone.as_str()).collect();
        let zones: BTreeMap<&str, usize> = zones.into_iter().enumerate().map(|(at, zone)| (zone, at)).collect();
        let members: Vec<_> = unique
            .values()
            .enumerate()
            .map(|(index, node)| {
                let vnodes = vnode_count(node.capacity, median);
                let zone = zones[node.zone.as_str()];
                RingNode::new(node.id.0).value(RingMember { index, zone, vnodes }).quantity(vnodes)
            })
            .collect();
        let total = members.iter().map(|member| member.quantity).sum();
        Ring { ring: StaticHashRing::new(PortableHash, members.into_iter()), total }
    }

    /// The ring of these nodes. That of the last call is kept: with thousands of nodes it has millions of virtual nodes, and each new
    /// table needs it.
    fn kept(nodes: &[Candidate]) -> Arc<Self> {
        static LAST: Mutex<Option<(Vec<Candidate>, Arc<Ring>)>> = Mutex::new(None);
        if let Some((of, ring)) = &*LAST.lock()
            && of == nodes
        {
            return ring.clone();
        }
        let ring = Arc::new(Ring::new(nodes));
        *LAST.lock() = Some((nodes.to_vec(), ring.clone()));
        ring
    }

    /// As [`place`].
    pub fn place(&self, table_key: u64, shards: u32, replicas: u32, load: &ReplicaCounts) -> Vec<Vec<NodeId>> {
        let replicas = (replicas as usize).min(self.ring.nodes().len());
        let mut remaining = self.remaining(u64::from(shards) * replicas as u64, load);
        (0..shards).map(|shard| self.choose(table_key, shard, replicas, &mut remaining)).collect()
    }

    /// As [`order`].
    pub fn order(&self, table_key: u64, shard: u32) -> Vec<NodeId> {
        self.ring.calc_candidates(&(table_key, shard)).map(|node| NodeId(node.key)).collect()
    }

    /// How many more replicas each node may get if `more` replicas are placed.
    fn remaining(&self, more: u64, load: &ReplicaCounts) -> Vec<u64> {
        let load_of = |key: u64| load.get(&NodeId(key)).copied().unwrap_or(0);
        let total = u128::from(more) + self.ring.nodes().iter().map(|node| u128::from(load_of(node.key))).sum::<u128>();
        let mut remaining = vec![0; self.ring.nodes().len()];
        for node in self.ring.nodes() {
            let bound = (total * node.value.vnodes as u128 * LOAD_BOUND_PERCENT).div_ceil(self.total as u128 * 100);
            remaining[node.value.index] = u64::try_from(bound).unwrap_or(u64::MAX).saturating_sub(load_of(node.key));
        }
        remaining
    }

    /// Chooses the first nodes clockwise that satisfy the rules. If there are too few, the rules are relaxed in the order of
    /// `RULES`.
    fn choose(&self, table_key: u64, shard: u32, replicas: usize, remaining: &mut [u64]) -> Vec<NodeId> {
        /// (a zone of its own, below the load bound)
        const RULES: [(bool, bool); 4] = [(true, true), (true, false), (false, true), (false, false)];
        let mut chosen: Vec<&RingNode<u64, RingMember>> = Vec::with_capacity(replicas);
        for (own_zone, below_bound) in RULES {
            if chosen.len() == replicas {
                break;
            }
            for node in self.ring.calc_candidates(&(table_key, shard)) {
                let fits = (!own_zone || chosen.iter().all(|c| c.value.zone != node.value.zone))
                    && (!below_bound || remaining[node.value.index] > 0)
                    && chosen.iter().all(|c| c.key != node.key);
                if fits {
                    remaining[node.value.index] = remaining[node.value.index].saturating_sub(1);
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

/// The weight of each node, to which its share is proportional: 512 for a node with the median capacity.
pub fn weights(nodes: &[Candidate]) -> BTreeMap<NodeId, u64> {
    let median = median(nodes.iter().map(|node| node.capacity));
    nodes.iter().map(|node| (node.id, vnode_count(node.capacity, median) as u64)).collect()
}

/// The lower median of the capacities that are not 0; 0 if there are none.
fn median(capacities: impl Iterator<Item = u64>) -> u64 {
    let mut known: Vec<u64> = capacities.filter(|capacity| *capacity > 0).collect();
    known.sort_unstable();
    known.get(known.len().saturating_sub(1) / 2).copied().unwrap_or(0)
}

/// Virtual nodes of a node: [`VNODES`] × capacity / median, between [`VNODES`] / 16 and [`VNODES`] × 16.
fn vnode_count(capacity: u64, median: u64) -> usize {
    if capacity == 0 || median == 0 {
        return VNODES;
    }
    let exact = VNODES as u128 * u128::from(capacity) / u128::from(median);
    let (min, max) = (VNODES as u128 / u128::from(MAX_WEIGHT), VNODES as u128 * u128::from(MAX_WEIGHT));
    exact.clamp(min, max) as usize
}

/// The ring's hash: `xxh3_64` of the fields' little-endian bytes, integers of pointer size as 8 bytes.
struct PortableHash;

impl RingHash for PortableHash {
    fn hash_item<T: Hash>(&self, item: &T) -> u64 {
        let mut hasher = LittleEndianHasher { bytes: [0; 32], len: 0 };
        item.hash(&mut hasher);
        hasher.finish()
    }
}

/// Collects the bytes that `Hash` writes: std's defaults write integers in the machine's byte order.
struct LittleEndianHasher {
    /// The ring's keys have 12 or 16 bytes.
    bytes: [u8; 32],
    len: usize,
}

impl Hasher for LittleEndianHasher {
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
