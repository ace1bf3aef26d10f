//! Limits background work to a rate in bytes per second.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Maximum that may be taken at once after a pause, in seconds of the rate.
const BURST: f64 = 0.25;

/// A rate limit for everything that shares it.
pub struct Throttle(Option<Mutex<TokenBucket>>);

/// Pure: a token bucket of bytes whose level may become negative.
#[derive(Debug)]
struct TokenBucket {
    rate: f64,
    level: f64,
    at: Instant,
}

impl TokenBucket {
    /// Takes bytes; returns the time until the level is back at zero.
    fn take(&mut self, now: Instant, bytes: u64) -> Duration {
        let filled = self.rate * now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + filled).min(self.rate * BURST) - bytes as f64;
        self.at = now;
        Duration::from_secs_f64((-self.level / self.rate).max(0.0))
    }
}

impl Throttle {
    /// A limit of this many bytes per second; 0: none.
    pub fn new(bytes_per_second: u64) -> Self {
        let rate = bytes_per_second as f64;
        Throttle((bytes_per_second > 0).then(|| Mutex::new(TokenBucket { rate, level: 0.0, at: Instant::now() })))
    }

    /// Takes bytes; returns how long the caller must wait before it takes more.
    pub fn take(&self, bytes: usize) -> Duration {
        self.0.as_ref().map_or(Duration::ZERO, |bucket| bucket.lock().take(Instant::now(), bytes as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn average_rate_stays_below_the_limit() {
        let mut now = Instant::now();
        let began = now;
        let mut bucket = TokenBucket { rate: 1_000_000.0, level: 0.0, at: now };
        for _ in 0..100 {
            now += bucket.take(now, 100_000);
        }
        let took = now.duration_since(began).as_secs_f64();
        assert!((9.8..10.1).contains(&took), "10 MB at 1 MB/s took {took} s");
    }

    #[test]
    fn burst_after_a_pause_is_bounded() {
        let now = Instant::now();
        let mut bucket = TokenBucket { rate: 1000.0, level: 0.0, at: now };
        let later = now + Duration::from_secs(3600);
        assert_eq!(bucket.take(later, 250), Duration::ZERO);
        assert_eq!(bucket.take(later, 1000), Duration::from_secs(1));
        assert_eq!(bucket.take(later, 500), Duration::from_millis(1500), "concurrent callers share the rate");
    }

    #[test]
    fn zero_rate_is_unlimited() {
        assert_eq!(Throttle::new(0).take(usize::MAX), Duration::ZERO);
    }
}
