//! A cluster of real processes, driven by the Rust client and by raw Flight calls.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod admin;
mod attacks;
mod busy;
mod catalog_limits;
mod client;
mod client_examples;
mod compaction;
mod coordinator_membership;
mod crashes;
mod disk;
mod doctor;
mod edge;
mod formats;
mod hung;
mod leader;
mod limits;
mod listeners;
mod local_reads;
mod messages;
mod node_lifecycle;
mod part_safety;
mod part_statistics;
mod preserved_batches;
mod put_memory;
mod query_stages;
mod shutdown;
mod sql_plans;
mod staged_writes;
mod startup;
mod stored_results;
mod tables;
mod thin_wire;
mod tickets;
mod tls;
mod transactions;
