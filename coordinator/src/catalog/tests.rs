//! Tests of the catalog, by behaviour.
#![allow(clippy::unwrap_used)]

mod compactions;
mod coordinators;
mod helpers;
mod identity;
mod nodes;
mod quotas;
mod replay;
mod restore;
mod tables;
mod users;
mod versions;
mod writes;
