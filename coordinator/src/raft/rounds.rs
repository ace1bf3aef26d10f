//! Calls that wait for the same answer share it.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;
use volley_common::Result;

/// Rounds of asking for an index that only grows, one at a time. An answer is good for whoever came before its round began.
#[derive(Default)]
pub struct Rounds {
    begun: AtomicU64,
    last: Mutex<Answer>,
}

/// The last round that was answered.
#[derive(Default)]
struct Answer {
    round: u64,
    index: u64,
}

impl Rounds {
    /// The answer of a round that begins after this call: that which the first who waits holds by `ask`.
    ///
    /// # Errors
    /// Of `ask`: whoever waits after that asks anew.
    pub async fn join<F: Future<Output = Result<u64>>>(&self, ask: impl FnOnce() -> F) -> Result<u64> {
        let before = self.begun.load(Ordering::SeqCst);
        let mut last = self.last.lock().await;
        if last.round > before {
            return Ok(last.index);
        }
        let round = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let index = ask().await?;
        *last = Answer { round, index };
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
    async fn whoever_comes_during_a_round_shares_the_next() {
        let (rounds, asked, go) = (Rounds::default(), Cell::new(0), Notify::new());
        let ask = || async {
            asked.set(asked.get() + 1);
            let index = asked.get();
            go.notified().await;
            Ok(index)
        };
        let calls = async {
            let early = rounds.join(ask);
            let late = join_all((0..10).map(|_| rounds.join(ask)));
            tokio::join!(biased; early, late)
        };
        let release = async {
            while asked.get() < 2 {
                go.notify_one();
                tokio::task::yield_now().await;
            }
            go.notify_one();
        };
        let ((early, late), ()) = tokio::join!(biased; calls, release);
        assert_eq!(early.unwrap(), 1);
        assert!(late.into_iter().all(|index| index.unwrap() == 2));
        assert_eq!(asked.get(), 2);
    }

    #[tokio::test]
    async fn a_round_that_failed_or_was_left_answers_nobody() {
        let rounds = Rounds::default();
        let failing = rounds.join(|| async { Err(Error::unavailable("no leader")) });
        let leaving = async {
            let stuck = rounds.join(std::future::pending);
            tokio::select! {
                biased;
                _ = stuck => unreachable!("nobody answers"),
                () = tokio::task::yield_now() => {}
            }
        };
        let waiting = rounds.join(|| async { Ok(7) });
        let (failed, (), answered) = tokio::join!(biased; failing, leaving, waiting);
        assert!(failed.is_err());
        assert_eq!(answered.unwrap(), 7);
    }
}
