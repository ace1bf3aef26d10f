//! A cluster of real processes, for tests that drive it from outside.
//!
//! | module | what it holds |
//! |---|---|
//! | [`cluster`] | coordinators and nodes: start, find the leader, what lies on disks |
//! | [`process`] | one member: its life, signals and log |
//! | [`address`] | addresses that no other cluster uses |
//! | [`recorded`] | members on folders that earlier software wrote |
//! | [`rows`] | numbered rows, and checks that they came back |
//! | [`raw`] | Flight messages by hand, for what no client library would send |
//!
//! The servers' binaries are those beside the test's own executable: `cargo build --workspace --bins` first.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "what fails here is a failed test")]

pub mod address;
pub mod cluster;
pub mod process;
pub mod raw;
pub mod recorded;
pub mod rows;

use std::time::{Duration, Instant};

pub use cluster::{Cluster, Shape};

/// Polls until `condition` gives something; panics after `limit` with what was waited for.
pub async fn wait_for<T>(limit: Duration, what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
