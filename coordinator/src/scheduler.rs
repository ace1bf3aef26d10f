//! Pure: the catalog, and what nodes report → what to tell them and what to write down.
//!
//! | module | what it holds |
//! |---|---|
//! | [`nodes`] | the nodes, by what may be done with them |
//! | [`mod@reconcile`] | what a node reports to hold → deletions, and what the catalog should learn |
//! | [`placing`] | nodes that come and go → new homes for shards |
//! | [`repair`] | parts with too few copies, or not at home yet → copies, one by one |
//! | [`surplus`] | parts at home everywhere → copies elsewhere that may go |
//!
//! A part *wants* as many copies as its table has replicas, however few nodes there are: what cannot be had now is
//! made when a node comes. Copies on nodes that drain serve readers, and do not count.

pub mod nodes;
pub mod placing;
pub mod reconcile;
pub mod repair;
pub mod surplus;

use volley_common::wire::catalog::Table;

pub use nodes::Nodes;
pub use reconcile::{Horizon, Reconciled, horizon, reconcile, reconcile_held};

/// The nodes that should hold a shard.
fn placed(table: &Table, shard: u32) -> &[u64] {
    table.placement.get(shard as usize).map_or(&[], |holders| &holders.nodes)
}

/// Copies that every part of a table should have.
pub fn replicas(table: &Table) -> usize {
    table.spec.as_ref().map_or(1, |spec| spec.replicas.max(1)) as usize
}

#[cfg(test)]
mod tests;
