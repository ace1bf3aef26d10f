//! Pure decisions of the leader: from the catalog and the reports of nodes to orders for nodes and catalog changes.
//!
//! | module | what it decides |
//! |---|---|
//! | [`node_sets`] | which nodes are alive, writable, in grace, draining, degraded |
//! | [`mod@reconcile`] | what to delete on a node, and which holders to record, after it reported its parts |
//! | [`mod@rebalance`] | which nodes should hold which shard, after nodes joined or left |
//! | [`repair`] | which parts need a copy, and which node copies them from which |
//! | [`over_replicated`] | which copies outside of the placement can be deleted |
//! | [`compaction`] | which small parts to compact, and on which node |
//!
//! [`placement`] holds what these share. A part *wants* as many copies as its table has replicas, even if there are
//! fewer nodes: the missing copies are made when a node joins. Copies on draining nodes serve readers and do not count.

pub mod compaction;
pub mod node_sets;
pub mod over_replicated;
pub mod placement;
pub mod rebalance;
pub mod reconcile;
pub mod repair;
#[cfg(test)]
mod tests;

pub use node_sets::NodeSets;
