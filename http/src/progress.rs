//! How long something takes that is counted down: by how fast it was in the last minutes, as pages of this member saw it.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// What is older is forgotten.
const WINDOW: Duration = Duration::from_secs(180);
/// The rate of a shorter time says little.
const LEAST: Duration = Duration::from_secs(2);
/// The most observations of one thing.
const MAX_OBSERVATIONS: usize = 120;
/// The most things that are watched.
const MAX_WATCHED: usize = 1000;

/// What is left of several things, at several times.
#[derive(Debug, Default)]
pub(crate) struct ProgressWatch(Mutex<BTreeMap<String, VecDeque<(Instant, u64)>>>);

impl ProgressWatch {
    /// Notes what is left of a thing now. Returns how long the rest takes; none if it does not shrink, or nobody knows yet.
    pub fn observe(&self, thing: &str, left: u64, now: Instant) -> Option<Duration> {
        let mut watched = self.0.lock();
        watched.retain(|_, seen| seen.back().is_some_and(|(at, _)| now.saturating_duration_since(*at) < WINDOW));
        if watched.len() >= MAX_WATCHED && !watched.contains_key(thing) {
            return None;
        }
        let seen = watched.entry(thing.to_string()).or_default();
        while seen.len() >= MAX_OBSERVATIONS
            || seen.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= WINDOW)
        {
            seen.pop_front();
        }
        // What grew began anew.
        if seen.back().is_some_and(|(_, before)| *before < left) {
            seen.clear();
        }
        seen.push_back((now, left));
        let (began, at_first) = seen.front()?;
        let (took, done) = (now.saturating_duration_since(*began), at_first.saturating_sub(left));
        if took < LEAST || done == 0 {
            return None;
        }
        let seconds = took.as_secs_f64() * left as f64 / done as f64;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_takes_as_long_as_its_rate_says() {
        let (watch, start) = (ProgressWatch::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(watch.observe("repair", 1000, at(0)), None);
        assert_eq!(watch.observe("repair", 900, at(1)), None, "too short");
        assert_eq!(watch.observe("repair", 500, at(10)), Some(Duration::from_secs(10)));
        assert_eq!(watch.observe("another", 5, at(10)), None);
        assert_eq!(watch.observe("repair", 600, at(20)), None, "it grew");
        assert_eq!(watch.observe("repair", 600, at(40)), None, "it stands");
        assert_eq!(watch.observe("repair", 300, at(400)), None, "what is old is forgotten");
    }
}
