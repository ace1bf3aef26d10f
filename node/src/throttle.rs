//! Bytes per second, for work that must not get in the way.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// What may be taken at once after a rest, in seconds of the rate.
const BURST: f64 = 0.25;

/// Lets so many bytes a second pass, over all who share it.
pub struct Throttle(Option<Mutex<Bucket>>);

/// Pure: a bucket of bytes that fills at a rate, and may be in debt.
#[derive(Debug)]
struct Bucket {
    rate: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    /// Takes bytes out; how long to wait until they are there.
    fn take(&mut self, now: Instant, bytes: u64) -> Duration {
        let filled = self.rate * now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + filled).min(self.rate * BURST) - bytes as f64;
        self.at = now;
        Duration::from_secs_f64((-self.level / self.rate).max(0.0))
    }
}

impl Throttle {
    /// Bytes a second; 0: as many as there are.
    pub fn new(bytes_per_second: u64) -> Self {
        let rate = bytes_per_second as f64;
        Throttle((bytes_per_second > 0).then(|| Mutex::new(Bucket { rate, level: 0.0, at: Instant::now() })))
    }

    /// Takes bytes; how long whoever took them is to wait now.
    pub fn take(&self, bytes: usize) -> Duration {
        self.0.as_ref().map_or(Duration::ZERO, |bucket| bucket.lock().take(Instant::now(), bytes as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_time_no_more_than_the_rate_passes() {
        let mut now = Instant::now();
        let began = now;
        let mut bucket = Bucket { rate: 1_000_000.0, level: 0.0, at: now };
        for _ in 0..100 {
            now += bucket.take(now, 100_000);
        }
        let took = now.duration_since(began).as_secs_f64();
        assert!((9.8..10.1).contains(&took), "10 MB at 1 MB/s took {took} s");
    }

    #[test]
    fn a_long_rest_is_no_licence() {
        let now = Instant::now();
        let mut bucket = Bucket { rate: 1000.0, level: 0.0, at: now };
        let later = now + Duration::from_secs(3600);
        assert_eq!(bucket.take(later, 250), Duration::ZERO);
        assert_eq!(bucket.take(later, 1000), Duration::from_secs(1));
        assert_eq!(bucket.take(later, 500), Duration::from_millis(1500), "those who come at once share it");
    }

    #[test]
    fn without_a_rate_nobody_waits() {
        assert_eq!(Throttle::new(0).take(usize::MAX), Duration::ZERO);
    }
}
