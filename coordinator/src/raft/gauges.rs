//! What metrics tell of a coordinator's Raft, read at each scrape.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use openraft::ServerState;
use volley_common::telemetry::gauge_lines;

use super::context::RaftContext;
use super::progress::replication_progress;
use super::storage::files::{DATABASE, SNAPSHOTS};

/// The roles, and what openraft calls them.
const ROLES: [(&str, ServerState); 5] = [
    ("leader", ServerState::Leader),
    ("follower", ServerState::Follower),
    ("candidate", ServerState::Candidate),
    ("learner", ServerState::Learner),
    ("stopped", ServerState::Shutdown),
];

/// Sets the gauges. Returns the lines of those whose series come and go. Blocks: it asks the file system.
pub(super) fn update(ctx: &RaftContext) -> String {
    let state = ctx.metrics();
    let set = |name: &'static str, value: u64| metrics::gauge!(name).set(value as f64);
    for (role, of_role) in ROLES {
        metrics::gauge!("volley_raft_role", "role" => role).set(f64::from(u8::from(state.state == of_role)));
    }
    let last = state.last_log_index.unwrap_or(0);
    let committed = state.local_committed.as_ref().map_or(0, |id| id.index);
    let applied = ctx.applied_index();
    set("volley_raft_term", state.current_term);
    set("volley_raft_last_log_index", last);
    set("volley_raft_committed_index", committed);
    set("volley_applied_index", applied);
    set("volley_raft_commit_lag", last.saturating_sub(committed));
    set("volley_raft_apply_lag", committed.saturating_sub(applied));
    set("volley_raft_log_entries", last.saturating_sub(state.purged.as_ref().map_or(0, |id| id.index)));
    set("volley_raft_snapshot_index", state.snapshot.as_ref().map_or(0, |id| id.index));
    let dir = ctx.store.dir();
    let snapshot = newest_snapshot(&dir.join(SNAPSHOTS)).unwrap_or_default();
    set("volley_raft_snapshot_bytes", snapshot.bytes);
    set("volley_raft_snapshot_timestamp_seconds", snapshot.made_s);
    set("volley_catalog_file_bytes", fs::metadata(dir.join(DATABASE)).map_or(0, |file| file.len()));
    if !ctx.is_leader() {
        return String::new();
    }
    let lags = replication_progress(ctx).into_iter();
    gauge_lines(
        "volley_raft_replication_lag",
        "coordinator",
        lags.filter_map(|(id, progress)| Some((id.to_string(), progress.lag?))),
    )
}

/// The file of a snapshot.
#[derive(Clone, Copy, Default)]
struct SnapshotFigures {
    bytes: u64,
    /// Seconds since 1970.
    made_s: u64,
}

/// The newest file in the folder of snapshots; `None`: there is none, or the folder cannot be read.
fn newest_snapshot(folder: &Path) -> Option<SnapshotFigures> {
    let files = fs::read_dir(folder).ok()?.flatten();
    let figures = files.filter_map(|file| {
        let metadata = file.metadata().ok()?;
        let made = metadata.modified().ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(SnapshotFigures { bytes: metadata.len(), made_s: made.as_secs() })
    });
    figures.max_by_key(|figures| figures.made_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_snapshot_has_its_size_and_time() {
        let dir = tempfile::TempDir::new().unwrap();
        assert!(newest_snapshot(&dir.path().join("missing")).is_none());
        assert!(newest_snapshot(dir.path()).is_none());
        fs::write(dir.path().join("a.snap"), [0; 7]).unwrap();
        let found = newest_snapshot(dir.path()).unwrap();
        assert!(found.bytes == 7 && found.made_s > 1_600_000_000);
    }
}
