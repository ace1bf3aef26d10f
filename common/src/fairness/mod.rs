//! Shares between clients: nobody can take what others need, and who waits is served in turn.
//!
//! | module | what it holds |
//! |---|---|
//! | [`caller_key`] | whom a call is counted for: a principal, or a network |
//! | [`call_limit`] | how many calls each of them, and all together, may have in progress |
//! | [`fair_semaphore`] | permits for which callers wait in turn |
//! | [`keyed_counts`] | counts in all and of each key |

pub mod call_limit;
pub mod caller_key;
pub mod fair_semaphore;
pub mod keyed_counts;

pub use call_limit::{CallLimit, CallPermit};
pub use caller_key::CallerKey;
pub use fair_semaphore::{FairPermit, FairSemaphore};
pub use keyed_counts::KeyedCounts;
