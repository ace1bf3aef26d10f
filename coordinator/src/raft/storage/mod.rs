//! A coordinator's durable state.
//!
//! | module | what it holds |
//! |---|---|
//! | [`files`] | the data folder, on this machine or in a simulation |
//! | [`store`], [`queue`] | the redb database, its one writer, and the queue in front of it |
//! | [`log`], `record` | the Raft log and the vote; the bytes of a log record |
//! | [`state_machine`] | the catalog, applied from the log |
//! | [`snapshot`] | snapshot files |

pub mod files;
pub mod log;
pub mod queue;
mod record;
pub mod snapshot;
pub mod state_machine;
pub mod store;

pub use record::{decode as decode_record, encode as encode_record};
