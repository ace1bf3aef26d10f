//! A cluster of real processes, driven by the Rust client and by raw Flight calls.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod admin;
mod crashes;
mod disk;
mod doctor;
mod formats;
mod growth;
mod leader;
mod listeners;
mod members;
mod merging;
mod messages;
mod starting;
mod stopping;
mod tables;
mod tickets;
