//! Tests of the catalog, by behaviour.
#![allow(clippy::unwrap_used)]

mod compactions;
mod coordinators;
mod helpers;
mod nodes;
mod replay;
mod restore;
mod tables;
mod versions;
mod writes;
