//! Removes orphaned parts when their time is over.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::NodeConfig;
use crate::storage::PartStore;

/// Pause between two looks at the orphans; shorter for a short retention, as in tests.
const INTERVAL: Duration = Duration::from_secs(600);
const DAY_MS: f64 = 86_400_000.0;

/// Removes orphans that are older than `orphan_retention_days`, until `shutdown`.
pub async fn run(store: PartStore, config: &NodeConfig, shutdown: CancellationToken) {
    let retention_ms = (config.orphan_retention_days * DAY_MS) as u64;
    let interval = INTERVAL.min(Duration::from_millis(retention_ms.max(1000)));
    while shutdown.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
        let store = store.clone();
        let removed = tokio::task::spawn_blocking(move || store.remove_expired_orphans(retention_ms)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(%error, "orphaned parts stay longer than configured");
        }
    }
}
