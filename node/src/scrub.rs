//! The scrub: verifies every part once per period, so that damage is found while there are other copies.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use volley_common::{Code, Error, PartId, Result};

use crate::config::NodeConfig;
use crate::storage::PartStore;
use crate::throttle::Throttle;

/// Pause between two checks whether a part is due.
const POLL_INTERVAL: Duration = Duration::from_secs(10);
/// How often the verification log is saved while parts are verified ...
const SAVE_INTERVAL: Duration = Duration::from_secs(60);
/// ... and while none is: parts are also added and removed.
const IDLE_SAVE_INTERVAL: Duration = Duration::from_secs(600);
const DAY_MS: f64 = 86_400_000.0;

/// Verifies the parts of a store at a limited rate.
pub struct Scrubber {
    store: PartStore,
    period_ms: u64,
    bytes_per_second: u64,
    shutdown: CancellationToken,
    /// A scrub is under way: the last poll found a part that was due.
    active: bool,
    last_save: Instant,
}

impl Scrubber {
    /// With the configuration's period and rate; runs until `shutdown`.
    pub fn new(store: PartStore, config: &NodeConfig, shutdown: CancellationToken) -> Self {
        Scrubber {
            store,
            period_ms: (config.scrub_days * DAY_MS) as u64,
            bytes_per_second: config.scrub_bytes_per_second,
            shutdown,
            active: false,
            last_save: Instant::now(),
        }
    }

    /// Verifies the parts in the order of their last verification, each once per period; with a period of 0 none.
    pub async fn run(mut self) {
        if self.period_ms == 0 {
            return;
        }
        // With a short period, as in tests, the next part must not wait for the next poll.
        let poll_interval = POLL_INTERVAL.min(Duration::from_millis(self.period_ms.max(10)));
        while !self.shutdown.is_cancelled() {
            let (store, period_ms) = (self.store.clone(), self.period_ms);
            let due = tokio::task::spawn_blocking(move || store.next_to_verify(period_ms)).await.unwrap_or_default();
            let go_on = match due {
                Some(id) => self.verify(id).await,
                None => false,
            };
            self.record_progress(due.is_some()).await;
            if !go_on {
                let _ = tokio::time::timeout(poll_interval, self.shutdown.cancelled()).await;
            }
        }
    }

    /// Verifies one part; false if the scrub should pause before the next one.
    async fn verify(&self, id: PartId) -> bool {
        let (store, shutdown) = (self.store.clone(), self.shutdown.clone());
        let throttle = Throttle::new(self.bytes_per_second);
        let verified = tokio::task::spawn_blocking(move || verify_throttled(&store, id, &throttle, &shutdown)).await;
        let verified = verified.unwrap_or_else(|e| Err(Error::internal(format!("verifying part {id}: {e}"))));
        count_verified(&verified);
        match verified {
            Ok(()) => true,
            // The store has logged the damage and quarantined the part.
            Err(error) if matches!(error.code, Code::DataLoss | Code::NotFound) => true,
            Err(error) => {
                tracing::debug!(part = %id, %error, "a part was not verified");
                false
            }
        }
    }

    async fn record_progress(&mut self, found_due: bool) {
        let completed = self.active && !found_due;
        self.active = found_due;
        if completed {
            self.store.record_scrub();
        }
        let interval = if found_due { SAVE_INTERVAL } else { IDLE_SAVE_INTERVAL };
        if completed || self.last_save.elapsed() > interval {
            self.last_save = Instant::now();
            let store = self.store.clone();
            let _ = tokio::task::spawn_blocking(move || store.save_verification_log(false)).await;
        }
    }
}

/// Counts a part that the scrub read, by the result. One that is no longer here, or for which there was no time, does not count.
fn count_verified(verified: &Result<()>) {
    let result = match verified {
        Ok(()) => "ok",
        Err(error) if error.code == Code::DataLoss => "damaged",
        Err(error) if matches!(error.code, Code::NotFound | Code::Cancelled) => return,
        Err(_) => "failed",
    };
    metrics::counter!("volley_scrub_parts_total", "result" => result).increment(1);
}

/// Blocks: reads the part no faster than `throttle` allows, until `shutdown`.
fn verify_throttled(store: &PartStore, id: PartId, throttle: &Throttle, shutdown: &CancellationToken) -> Result<()> {
    let runtime = tokio::runtime::Handle::current();
    let read = metrics::counter!("volley_scrub_bytes_total");
    store.verify_throttled(id, |bytes| {
        read.increment(bytes as u64);
        let wait = throttle.take(bytes);
        let stopped = async { tokio::time::timeout(wait, shutdown.cancelled()).await.is_ok() };
        !shutdown.is_cancelled() && (wait.is_zero() || !runtime.block_on(stopped))
    })
}
