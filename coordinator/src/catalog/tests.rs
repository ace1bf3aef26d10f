//! Tests of the catalog, by behaviour.
#![allow(clippy::unwrap_used)]

mod administrator_resets;
mod compactions;
mod coordinators;
mod fencing;
mod helpers;
mod identity;
mod nodes;
mod query_results;
mod quotas;
mod replay;
mod restore;
mod tables;
mod ticket_keys;
mod time_to_live;
mod transactions;
mod users;
mod versions;
mod writes;
