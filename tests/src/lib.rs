//! The test harness: clusters of real processes, and the rows that tests put into them.
//!
//! | module | what it holds |
//! |---|---|
//! | [`certificates`] | certificates for clusters with TLS |
//! | [`cluster`] | a cluster: start it, find the leader, list the files on its disks |
//! | [`launch`] | the command line of one server |
//! | [`process`] | one server process: start, signals, log, exit |
//! | [`loopback`] | loopback addresses that one cluster has to itself |
//! | [`recorded`] | members on data folders that earlier versions wrote |
//! | [`rows`] | numbered rows, and checks that they came back |
//! | [`text_rows`] | rows as text, to compare results of queries |
//! | [`raw`] | hand-made Flight messages that no client library would send |
//!
//! The servers' binaries are those beside the test's own executable, or in the folder that `VOLLEY_BIN_DIR` names: run
//! `cargo build --workspace --bins` first.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a failure here is a failed test")]

pub mod certificates;
pub mod cluster;
pub mod launch;
pub mod loopback;
pub mod process;
pub mod raw;
pub mod recorded;
pub mod rows;
pub mod text_rows;

use std::time::{Duration, Instant};

pub use cluster::{ClusterOptions, TestCluster};

/// Polls until `condition` returns a value; panics after `limit`, naming `what`.
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
