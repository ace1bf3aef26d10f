//! Parts on disk: the only file I/O of a node.
//!
//! | module | what it holds |
//! |---|---|
//! | [`layout`] | where everything lies; names of files ↔ what they name |
//! | [`control`] | who the node is, which cluster it belongs to |
//! | `checked` | which parts were verified when, and whether the node stopped cleanly |
//! | `disk` | the few ways in which the folder is changed |
//! | `durable` | small files that must be whole |
//! | `dictionaries` | whether a batch can go into a part |
//! | [`writer`] | batches → a sealed part |
//! | [`part`] | a sealed part, mapped and parsed |
//! | `mapping` | a mapped file, and which of its bytes are in memory |
//! | [`receive`] | a part that comes from another node |
//! | [`store`], `scan` | the inventory, and how it is read at start |
//! | `opened` | parts that stay open for their next reader |
//! | [`space`], [`health`] | pure: whether the node takes parts, whether its disk is ill |
//! | `taking` | how a part becomes durable, what a failed write means |
//! | `damage` | verifying again; putting aside what is bad |
//! | [`fault`] | what a mapped page that cannot be had does |
//!
//! Everything here blocks (except slicing a mapped part, and asking whether it is in memory): call it in `spawn_blocking`.

mod checked;
pub mod control;
mod damage;
mod dictionaries;
mod disk;
mod durable;
pub mod fault;
pub mod health;
pub mod layout;
mod mapping;
mod opened;
pub mod part;
pub mod receive;
mod scan;
pub mod space;
pub mod store;
mod taking;
pub mod writer;

pub use checked::Stamp;
pub use mapping::own_last_page;
pub use part::{Message, Part};
pub use receive::Receiver;
pub use space::{Space, Watermarks};
pub use store::Store;
pub use taking::Condition;
pub use writer::{PartSpec, PartWriter, SealedPart, Wrote};

#[cfg(test)]
mod disk_tests;
#[cfg(test)]
mod power_tests;
#[cfg(test)]
mod tests;
