//! What the catalog promises, by behaviour.
#![allow(clippy::unwrap_used)]

mod coordinators;
mod helpers;
mod merges;
mod nodes;
mod replay;
mod tables;
mod versions;
mod writes;
