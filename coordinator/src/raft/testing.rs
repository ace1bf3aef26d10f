//! What the tests of several modules need: a coordinator alone, and requests that are marked with their caller.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use tempfile::TempDir;
use tonic::Request;
use tonic::service::Interceptor;
use volley_common::tls::Caller;

use super::{Handle, RaftConfig};

/// A coordinator alone, which leads, and its data folder.
pub async fn single_leader() -> (TempDir, Handle) {
    let dir = TempDir::new().unwrap();
    let mut config = RaftConfig::new(1, BTreeMap::from([(1, "127.0.0.1:1".into())]), dir.path().to_path_buf());
    config.set_election_timeout(Duration::from_millis(200));
    let raft = Handle::start(config).await.unwrap();
    let mut applied = raft.watch_applied();
    while raft.view().cluster().is_none() || !raft.is_leader() {
        applied.changed().await.unwrap();
    }
    (dir, raft)
}

/// Marks requests as those of this caller, as a listener does.
pub fn calls_of(caller: Caller) -> impl Interceptor {
    move |mut request: Request<()>| {
        request.extensions_mut().insert(caller.clone());
        Ok(request)
    }
}
