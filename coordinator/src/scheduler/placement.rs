//! Where the parts of a table belong, and how many copies they should have.

use volley_common::wire::catalog::Table;
use xxhash_rust::xxh3::xxh3_64;

/// The nodes that a shard is placed on.
pub fn placement_of(table: &Table, shard: u32) -> &[u64] {
    table.placement.get(shard as usize).map_or(&[], |holders| &holders.nodes)
}

/// The number of copies that every part of a table should have.
pub fn replica_count(table: &Table) -> usize {
    table.spec.as_ref().map_or(1, |spec| spec.replicas.max(1)) as usize
}

/// A hash that orders nodes differently for each shard (rendezvous hashing), to break ties between equal nodes.
pub fn rendezvous_hash(table: u64, shard: u32, node: u64) -> u64 {
    let mut bytes = [0; 20];
    bytes[..8].copy_from_slice(&table.to_le_bytes());
    bytes[8..12].copy_from_slice(&shard.to_le_bytes());
    bytes[12..].copy_from_slice(&node.to_le_bytes());
    xxh3_64(&bytes)
}
