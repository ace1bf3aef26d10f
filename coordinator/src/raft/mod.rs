//! Replication of the catalog: openraft on redb over tonic.
//!
//! | module | what it holds |
//! |---|---|
//! | [`handle`] | the public API: start, propose, read, watch, stop |
//! | [`config`], [`environment`], [`runtime`] | timings and addresses; disk, network and clock; openraft's async runtime |
//! | `context` | the state that the handle, the RPC server and the background tasks share |
//! | `log_comparison` | the leader compares its log with those of the others |
//! | [`leader_clock`] | the time of commands |
//! | `client`, `read_index` | propose and read, through the leader; coalesced read-index requests |
//! | `features` | commands that not every coordinator's version knows |
//! | `eligibility`, [`progress`] | whether this coordinator may stand for election; how far each member is |
//! | `gauges` | what metrics tell of a coordinator's Raft |
//! | [`types`], [`tables`] | openraft's types; the redb tables and the encoding of their rows |
//! | [`storage`] | log, vote, state machine and snapshots on disk |
//! | [`rpc`] | Raft messages between coordinators |
//! | [`membership`] | bootstrap, changes of the group, removal, recovery without a majority |

mod client;
pub mod config;
mod context;
mod eligibility;
pub mod environment;
mod features;
mod gauges;
pub mod handle;
pub mod leader_clock;
mod log_comparison;
pub mod membership;
pub mod progress;
mod read_index;
pub mod rpc;
pub mod runtime;
pub mod storage;
pub mod tables;
#[cfg(test)]
pub(crate) mod testing;
pub mod types;

pub use config::RaftConfig;
pub use handle::Handle;
pub use storage::state_machine::CatalogView;
