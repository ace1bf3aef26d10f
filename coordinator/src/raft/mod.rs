//! The catalog's replication: openraft on redb over tonic.
//!
//! | module | what it holds |
//! |---|---|
//! | [`handle`], `access` | the one way in: start, watch; propose, read |
//! | [`types`], `convert` | openraft's types, and their protobuf forms |
//! | `record` | a log record's bytes on disk |
//! | [`store`], `queue`, [`files`] | the redb database of a coordinator, its one writer, the data folder |
//! | [`runtime`], [`surroundings`] | time, chance and threads; what is real, or a simulation's |
//! | [`log`] | the Raft log and the vote |
//! | [`machine`] | the state machine: the catalog |
//! | [`snapshot`] | snapshot files |
//! | [`network`], [`server`] | Raft's messages, out and in |
//! | [`progress`] | how far each coordinator is |
//! | `formation` | the cluster is formed once |
//! | `members`, `tending` | what the Raft group lacks of what the catalog wants (pure); doing it |
//! | `asking` | coordinators ask each other who they are |
//! | `changing` | coordinators added and removed |
//! | `retired` | data folders of coordinators that were removed |
//! | [`recover`] | going on without a majority, when it is lost for good |

mod access;
mod asking;
mod changing;
mod convert;
pub mod files;
mod following;
mod formation;
pub mod handle;
pub mod log;
pub mod machine;
mod members;
pub mod network;
pub mod progress;
mod queue;
mod record;
pub mod recover;
mod retired;
mod rounds;
pub mod runtime;
pub mod server;
pub mod snapshot;
pub mod store;
pub mod surroundings;
mod tending;
pub mod types;

pub use handle::{CatalogView, Handle, RaftConfig};
