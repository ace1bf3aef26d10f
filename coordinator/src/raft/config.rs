//! The configuration of a coordinator's Raft.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};
use volley_common::{Error, Result};

/// Addresses, folder and timings of one coordinator.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    /// This coordinator's id: one of `peers`.
    pub id: u64,
    /// The coordinators that form the cluster, with their peer addresses (HOST:PORT); the same list on each of them. Once
    /// the cluster exists, its catalog lists its coordinators.
    pub peers: BTreeMap<u64, String>,
    /// Whether this coordinator waits to be added to a cluster instead of forming one.
    pub join: bool,
    /// The folder that holds the catalog.
    pub data_dir: PathBuf,
    /// How long a proposal or a read waits for a leader and its answer.
    pub request_timeout: Duration,
    /// Interval between a leader's heartbeats.
    pub heartbeat_interval: Duration,
    /// Minimum of the random election timeout.
    pub election_timeout_min: Duration,
    /// Maximum of the random election timeout; also the leader's lease.
    pub election_timeout_max: Duration,
    /// A leader that no majority has acknowledged for this long no longer counts as leader: another leader may exist by
    /// then.
    pub quorum_ack_timeout: Duration,
    /// Log entries between two snapshots.
    pub snapshot_interval_entries: u64,
    /// Interval of the leader's comparisons of its log with those of the others.
    pub log_comparison_interval: Duration,
}

impl RaftConfig {
    /// The defaults, with the values that have none.
    pub fn new(id: u64, peers: BTreeMap<u64, String>, data_dir: PathBuf) -> Self {
        RaftConfig {
            id,
            peers,
            join: false,
            data_dir,
            request_timeout: Duration::from_secs(5),
            heartbeat_interval: Duration::from_millis(200),
            election_timeout_min: Duration::from_millis(1000),
            election_timeout_max: Duration::from_millis(2000),
            quorum_ack_timeout: Duration::from_secs(5),
            snapshot_interval_entries: 10_000,
            log_comparison_interval: Duration::from_secs(10),
        }
    }

    /// Derives the timings: an election to replace a leader without heartbeats starts after `longest`, or up to a
    /// quarter of it earlier.
    ///
    /// openraft waits for the leader's lease, which is `election_timeout_max`, and then for a random time between
    /// `election_timeout_min` and `election_timeout_max`.
    pub fn set_election_timeout(&mut self, longest: Duration) {
        self.heartbeat_interval = longest / 10;
        self.election_timeout_min = longest / 4;
        self.election_timeout_max = longest / 2;
    }

    /// openraft's configuration.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the timings contradict each other.
    pub(super) fn openraft(&self) -> Result<Arc<Config>> {
        let millis = |d: Duration| d.as_millis() as u64;
        let config = Config {
            cluster_name: "volley".into(),
            heartbeat_interval: millis(self.heartbeat_interval),
            election_timeout_min: millis(self.election_timeout_min),
            election_timeout_max: millis(self.election_timeout_max),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_interval_entries),
            replication_lag_threshold: self.snapshot_interval_entries.saturating_mul(2),
            max_in_snapshot_log_to_keep: self.snapshot_interval_entries / 10,
            // Sending and installing a large catalog takes minutes.
            install_snapshot_timeout: 600_000,
            enable_pre_vote: Some(true),
            // Enabled only while this data folder is a member of the group: see `eligibility`.
            enable_elect: false,
            // A leader that restarts stands for election like any other: its rows may lag behind its log.
            enable_leader_restore: Some(false),
            ..Config::default()
        };
        let config = config.validate().map_err(|e| Error::invalid(format!("bad Raft timings: {e}")))?;
        Ok(Arc::new(config))
    }
}
