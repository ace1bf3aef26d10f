//! Pure reports about the cluster for operators: from the catalog, and what the leader knows, to JSON.
//!
//! | module | what it reports |
//! |---|---|
//! | [`cluster_snapshot`] | what the reports are computed from |
//! | [`replication_health`] | how many parts are under-replicated or unreadable, in one pass over the catalog |
//! | [`under_replication_reason`] | why a part lacks copies |
//! | [`node_condition`] | the state of a node |
//! | [`drain`] | how far a node's drain is |
//! | [`table_layout`] | where each shard of a table is, and where it should be |
//! | [`open_writes`] | the open writes |
//! | [`table_stats`] | tables and cluster totals |
//! | [`versions`] | the readable versions of a table |

pub mod cluster_snapshot;
pub mod drain;
pub mod node_condition;
pub mod open_writes;
pub mod replication_health;
pub mod table_layout;
pub mod table_stats;
#[cfg(test)]
mod tests;
pub mod under_replication_reason;
pub mod versions;
