//! Long reads of the catalog, on a blocking thread so that the async tasks are not delayed.

use volley_common::{Error, Result};

use crate::catalog::Catalog;
use crate::raft::Handle;

/// Runs `work` on the local catalog. The local catalog may lag: for a linearizable read call [`Handle::read`] first, after
/// which it contains everything that was acknowledged before.
///
/// # Errors
/// INTERNAL: `work` panicked.
pub async fn scan_catalog<T: Send + 'static>(
    raft: &Handle,
    work: impl FnOnce(&Catalog) -> T + Send + 'static,
) -> Result<T> {
    let raft = raft.clone();
    let scan = tokio::task::spawn_blocking(move || work(&raft.view()));
    scan.await.map_err(|e| Error::internal(format!("a scan of the catalog failed: {e}")))
}
