//! Notices a message that does not arrive: what has begun holds memory, so it must advance.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::Error;

/// A message must advance by this many bytes per second on average; the rest of a message that is shorter must arrive
/// within the timeout.
const MIN_BYTES_PER_SECOND: u64 = 16 << 10;

/// Measures, while a stream waits for the rest of a message, whether it advances. Costs an addition for each frame and a
/// timer for each message that is not complete at once.
#[derive(Debug)]
pub struct StallTimer {
    timeout: Duration,
    /// Created when it is first needed.
    sleep: Option<Pin<Box<Sleep>>>,
    running: bool,
    /// Bytes that arrived since the timer was set.
    bytes: u64,
}

impl StallTimer {
    /// A message stalls if less than 16 KiB for each second arrive within `timeout`.
    pub fn new(timeout: Duration) -> Self {
        StallTimer { timeout, sleep: None, running: false, bytes: 0 }
    }

    /// Bytes have arrived.
    pub fn advance(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// The sender owes nothing now.
    pub fn stop(&mut self) {
        self.running = false;
    }

    /// Ready with the error once the message stalls. Starts the timer if it does not run.
    pub fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        loop {
            if !std::mem::replace(&mut self.running, true) {
                self.restart();
            }
            let Some(sleep) = &mut self.sleep else { return Poll::Pending };
            ready!(sleep.as_mut().poll(cx));
            if self.bytes < self.timeout.as_millis() as u64 * MIN_BYTES_PER_SECOND / 1000 {
                return Poll::Ready(Error::deadline(format!(
                    "a message that had begun did not advance: {} bytes in {} ms; send messages without a pause within them",
                    self.bytes,
                    self.timeout.as_millis()
                )));
            }
            self.running = false;
        }
    }

    fn restart(&mut self) {
        self.bytes = 0;
        let end = Instant::now() + self.timeout;
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(end),
            None => self.sleep = Some(Box::pin(tokio::time::sleep_until(end))),
        }
    }
}
