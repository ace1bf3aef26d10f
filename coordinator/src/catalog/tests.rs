//! What the catalog promises, by behaviour.
#![allow(clippy::unwrap_used)]

mod helpers;
mod merges;
mod replay;
mod tables;
mod versions;
mod writes;
