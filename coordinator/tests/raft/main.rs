//! Raft groups of coordinators in one process, and their storage.
#![allow(clippy::unwrap_used)]

mod cluster;
mod failure;
mod hostile;
mod members;
#[path = "../raft_support/mod.rs"]
mod raft_support;
mod reads;
mod storage;
