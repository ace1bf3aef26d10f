//! Parts on disk: the only file I/O of a node.
//!
//! | module | what it holds |
//! |---|---|
//! | [`layout`] | where everything lies; names of files ↔ what they name |
//! | [`control`] | who the node is, which cluster it belongs to |
//! | `dictionaries` | whether a batch can go into a part |
//! | [`writer`] | batches → a sealed part |
//! | [`part`] | a sealed part, mapped and parsed |
//! | [`receive`] | a part that comes from another node |
//! | [`store`], `scan` | the inventory, and how it is read at start |
//!
//! Everything here blocks (except slicing a mapped part): call it in `spawn_blocking`.

pub mod control;
mod dictionaries;
pub mod layout;
pub mod part;
pub mod receive;
mod scan;
pub mod store;
pub mod writer;

pub use part::{Message, Part};
pub use receive::Receiver;
pub use store::Store;
pub use writer::{PartSpec, PartWriter, SealedPart, Wrote};

#[cfg(test)]
mod tests;
