//! The scrub: every part's bytes are read again now and then, so that damage is found while there are other copies.

use std::sync::Arc;
use std::time::{Duration, Instant};

use volley_common::{Code, Error, PartId, Result};

use crate::context::NodeContext;
use crate::throttle::Throttle;

/// How often it is looked whether a part is due.
const LOOK: Duration = Duration::from_secs(10);
/// How often what was verified is written down while parts are verified ...
const REMEMBER: Duration = Duration::from_secs(60);
/// ... and while none is: parts came and went.
const REMEMBER_IDLE: Duration = Duration::from_secs(600);
const DAY_MS: f64 = 86_400_000.0;

/// Verifies the parts in the order of how long they were not, each once a period, until the node stops.
pub async fn run(state: Arc<NodeContext>) {
    let period_ms = (state.config.scrub_days * DAY_MS) as u64;
    if period_ms == 0 {
        return;
    }
    let mut progress = Progress { working: false, remembered: Instant::now() };
    // A short period is for trying it out: then nobody wants to wait for the next look.
    let look = LOOK.min(Duration::from_millis(period_ms.max(10)));
    while !state.shutdown.is_cancelled() {
        let store = state.store.clone();
        let due = tokio::task::spawn_blocking(move || store.next_to_verify(period_ms)).await.unwrap_or_default();
        let worked = match due {
            Some(id) => verify(&state, id).await,
            None => false,
        };
        progress.note(&state, due.is_some()).await;
        if !worked {
            let _ = tokio::time::timeout(look, state.shutdown.cancelled()).await;
        }
    }
}

/// Verifies one part; whether the next may follow at once.
async fn verify(state: &Arc<NodeContext>, id: PartId) -> bool {
    let shared = state.clone();
    let result = tokio::task::spawn_blocking(move || read(&shared, id)).await;
    match result.unwrap_or_else(|e| Err(Error::internal(format!("verifying part {id}: {e}")))) {
        Ok(()) => true,
        // The store has told what it found, and put the part aside.
        Err(error) if matches!(error.code, Code::DataLoss | Code::NotFound) => true,
        Err(error) => {
            tracing::debug!(part = %id, %error, "a part was not verified");
            false
        }
    }
}

/// Blocks: reads the part at the scrub's rate.
fn read(state: &NodeContext, id: PartId) -> Result<()> {
    let throttle = Throttle::new(state.config.scrub_bytes_per_second);
    let runtime = tokio::runtime::Handle::current();
    state.store.verify_slowly(id, |bytes| {
        let wait = throttle.take(bytes);
        let stopped = async { tokio::time::timeout(wait, state.shutdown.cancelled()).await.is_ok() };
        !state.shutdown.is_cancelled() && (wait.is_zero() || !runtime.block_on(stopped))
    })
}

/// Whether the scrub is under way, and when that was last written down.
struct Progress {
    working: bool,
    remembered: Instant,
}

impl Progress {
    /// `due`: there was a part to verify.
    async fn note(&mut self, state: &Arc<NodeContext>, due: bool) {
        let ended = self.working && !due;
        self.working = due;
        if ended {
            state.store.scrubbed();
        }
        let pause = if due { REMEMBER } else { REMEMBER_IDLE };
        if ended || self.remembered.elapsed() > pause {
            self.remembered = Instant::now();
            let store = state.store.clone();
            let _ = tokio::task::spawn_blocking(move || store.remember(false)).await;
        }
    }
}
