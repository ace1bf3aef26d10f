//! Keeps this coordinator's directory of users, grants and signing keys as its own catalog has them, whether it leads or not.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use volley_common::identity::{Directory, DirectoryHandle};
use volley_common::wire::cluster::IdentitySnapshot;

use crate::catalog::Catalog;
use crate::config::CoordinatorConfig;
use crate::raft::Handle;

/// The pause after a read of the catalog that found no leader.
const RETRY: Duration = Duration::from_millis(200);

/// What members need to identify clients and to check their rights, as this coordinator gives it to them.
pub fn identity_snapshot(catalog: &Catalog, config: &CoordinatorConfig) -> IdentitySnapshot {
    IdentitySnapshot { closed: is_closed(catalog, config), ..catalog.identity_snapshot() }
}

/// Whether clients must identify themselves although there is no user: the cluster waits for its first administrator, or the
/// last one was removed.
pub fn is_closed(catalog: &Catalog, config: &CoordinatorConfig) -> bool {
    catalog.lost_identities() || config.bootstrap_admin_file.is_some() && catalog.users().next().is_none()
}

/// Stores a directory for every change that this coordinator applies, until the process stops. `known` becomes true with the
/// first one.
pub async fn run(
    raft: Handle,
    config: Arc<CoordinatorConfig>,
    directory: DirectoryHandle,
    known: watch::Sender<bool>,
    stop: CancellationToken,
) {
    let updater = DirectoryUpdater { raft, config, directory, known, stored: None };
    let _ = stop.run_until_cancelled(updater.follow_catalog()).await;
}

struct DirectoryUpdater {
    raft: Handle,
    config: Arc<CoordinatorConfig>,
    directory: DirectoryHandle,
    known: watch::Sender<bool>,
    /// The epoch of the directory that was stored last.
    stored: Option<u64>,
}

impl DirectoryUpdater {
    async fn follow_catalog(mut self) {
        let mut applied = self.raft.watch_applied();
        // Whether the catalog has been as new as the leader's since the start of the process.
        let mut is_current = false;
        loop {
            applied.mark_unchanged();
            self.update(is_current).await;
            if is_current {
                if applied.changed().await.is_err() {
                    return;
                }
                continue;
            }
            is_current = self.raft.read().await.is_ok();
            if !is_current {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Stores the directory of the catalog, if it has changed.
    ///
    /// A catalog that lags at the start may not have the cluster's users yet. A directory of it that lets everybody in is
    /// not stored; any other is, so that known users can be identified while there is no leader.
    async fn update(&mut self, is_current: bool) {
        let changed = {
            let catalog = self.raft.view();
            catalog.cluster().is_some() && self.stored != Some(catalog.identity_epoch())
        };
        if !changed {
            return;
        }
        let (raft, config) = (self.raft.clone(), self.config.clone());
        // Many users take a while.
        let built = tokio::task::spawn_blocking(move || {
            let snapshot = identity_snapshot(&raft.view(), &config);
            (snapshot.epoch, Directory::new(&snapshot))
        });
        match built.await {
            Ok((epoch, directory)) if is_current || !directory.is_open() => {
                self.directory.store(directory);
                self.stored = Some(epoch);
                self.known.send_replace(true);
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "the directory of users and grants was not updated"),
        }
    }
}
