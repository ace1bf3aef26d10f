//! Calls that a member refuses for the moment. Such an error says after what time the call may be repeated: it had no effect.

use std::time::Duration;

use volley_common::Error;

/// How often a call is repeated. With the pauses that members ask for, that takes half a minute or less.
const MAX_REPETITIONS: u32 = 9;
/// A longer pause is not waited for here.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// The refusals of one call so far.
#[derive(Debug, Default)]
pub(crate) struct Pushback {
    refusals: u32,
}

impl Pushback {
    /// How long to wait before the call is repeated: what the member asks for, and more after each further refusal. None if the
    /// error does not ask for a repetition, or there were enough: then it is the caller's.
    pub(crate) fn pause(&mut self, error: &Error) -> Option<Duration> {
        let asked = Duration::from_millis(error.retry_after_ms?);
        if asked > MAX_PAUSE || self.refusals >= MAX_REPETITIONS {
            return None;
        }
        self.refusals += 1;
        let pause = (asked * self.refusals).min(MAX_PAUSE);
        tracing::debug!(%error, ?pause, "a member is busy: the call is repeated");
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let (mut pushback, busy) = (Pushback::default(), Error::exhausted("busy").retry_after(500));
        let pauses: Vec<Duration> = std::iter::from_fn(|| pushback.pause(&busy)).collect();
        assert_eq!(pauses.len(), MAX_REPETITIONS as usize);
        assert_eq!(pauses[..2], [Duration::from_millis(500), Duration::from_secs(1)]);
        assert!(pauses.iter().sum::<Duration>() < Duration::from_secs(30));
    }

    #[test]
    fn only_a_short_pause_that_is_asked_for_is_waited_for() {
        for error in [Error::exhausted("full"), Error::exhausted("later").retry_after(u64::MAX)] {
            assert_eq!(Pushback::default().pause(&error), None, "{error}");
        }
    }
}
