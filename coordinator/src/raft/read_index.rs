//! Concurrent read-index requests share one request to the leader.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;
use volley_common::Result;

/// Coalesces requests for an index that only grows. One request runs at a time; its answer is valid for every call that
/// began before the request started.
#[derive(Default)]
pub struct ReadIndexBatcher {
    started: AtomicU64,
    last: Mutex<LastRequest>,
}

/// The last request that was answered.
#[derive(Default)]
struct LastRequest {
    number: u64,
    index: u64,
}

impl ReadIndexBatcher {
    /// Returns the answer of a request that started after this call. The first caller that waits runs `request`.
    ///
    /// # Errors
    /// Those of `request`. The next caller that waits then sends a new one.
    pub async fn get<F: Future<Output = Result<u64>>>(&self, request: impl FnOnce() -> F) -> Result<u64> {
        let started_before = self.started.load(Ordering::SeqCst);
        let mut last = self.last.lock().await;
        if last.number > started_before {
            return Ok(last.index);
        }
        let number = self.started.fetch_add(1, Ordering::SeqCst) + 1;
        let index = request().await?;
        *last = LastRequest { number, index };
        Ok(index)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::Cell;

    use futures::future::join_all;
    use tokio::sync::Notify;
    use volley_common::Error;

    use super::*;

    #[tokio::test]
    async fn calls_during_a_request_share_the_next_one() {
        let (batcher, sent, answer) = (ReadIndexBatcher::default(), Cell::new(0), Notify::new());
        let request = || async {
            sent.set(sent.get() + 1);
            let index = sent.get();
            answer.notified().await;
            Ok(index)
        };
        let calls = async {
            let early = batcher.get(request);
            let late = join_all((0..10).map(|_| batcher.get(request)));
            tokio::join!(biased; early, late)
        };
        let answers = async {
            while sent.get() < 2 {
                answer.notify_one();
                tokio::task::yield_now().await;
            }
            answer.notify_one();
        };
        let ((early, late), ()) = tokio::join!(biased; calls, answers);
        assert_eq!(early.unwrap(), 1);
        assert!(late.into_iter().all(|index| index.unwrap() == 2));
        assert_eq!(sent.get(), 2);
    }

    #[tokio::test]
    async fn failed_or_cancelled_request_answers_no_other_call() {
        let batcher = ReadIndexBatcher::default();
        let failing = batcher.get(|| async { Err(Error::unavailable("no leader")) });
        let cancelled = async {
            let stuck = batcher.get(std::future::pending);
            tokio::select! {
                biased;
                _ = stuck => unreachable!("the request has no answer"),
                () = tokio::task::yield_now() => {}
            }
        };
        let waiting = batcher.get(|| async { Ok(7) });
        let (failed, (), answered) = tokio::join!(biased; failing, cancelled, waiting);
        assert!(failed.is_err());
        assert_eq!(answered.unwrap(), 7);
    }
}
