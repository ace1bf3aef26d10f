//! Which member a request is sent to next, and how the attempts ended.

use crate::{Code, Error, Result};

/// Whether the request may succeed at another member.
pub fn is_unavailable(error: &Error) -> bool {
    error.code == Code::Unavailable
}

/// The attempts of one request at several members, one after the other.
///
/// This type alone selects the next member and records how each attempt ended. The caller makes the attempts:
///
/// ```
/// # use volley_common::{Error, Result, net::Failover};
/// # fn call(addr: &str) -> Result<u64> { if addr == "b:1" { Ok(7) } else { Err(Error::unavailable("down")) } }
/// # fn main() -> Result<()> {
/// let mut failover = Failover::new(&["a:1", "b:1"]);
/// while let Some(addr) = failover.next_candidate() {
///     if let Some(reply) = failover.record(call(addr))? {
///         assert_eq!(reply, 7);
///         return Ok(());
///     }
/// }
/// Err(failover.into_error().unwrap_or_else(|| Error::unavailable("no member is known")))
/// # }
/// ```
#[derive(Debug)]
pub struct Failover<'a, C> {
    candidates: &'a [C],
    attempts: usize,
    attempts_left: usize,
    last_error: Option<Error>,
}

impl<'a, C> Failover<'a, C> {
    /// Tries each of `candidates` once, in their order.
    pub fn new(candidates: &'a [C]) -> Self {
        Failover { candidates, attempts: 0, attempts_left: candidates.len(), last_error: None }
    }

    /// Allows at most `attempts` further attempts; after the last candidate the first one follows.
    pub fn set_attempts_left(&mut self, attempts: usize) {
        self.attempts_left = attempts;
    }

    /// The member to try next; none when the attempts are used up.
    pub fn next_candidate(&mut self) -> Option<&'a C> {
        if self.candidates.is_empty() {
            return None;
        }
        self.attempts_left = self.attempts_left.checked_sub(1)?;
        let candidate = &self.candidates[self.attempts % self.candidates.len()];
        self.attempts += 1;
        Some(candidate)
    }

    /// Records how the attempt at the last candidate ended: its value if it succeeded; none if it was UNAVAILABLE, and
    /// the next candidate should be tried.
    ///
    /// # Errors
    /// Any other error: it is final.
    pub fn record<T>(&mut self, outcome: Result<T>) -> Result<Option<T>> {
        self.record_if(outcome, is_unavailable)
    }

    /// As [`Failover::record`], where `is_retriable` says which errors are not final.
    pub fn record_if<T>(&mut self, outcome: Result<T>, is_retriable: impl FnOnce(&Error) -> bool) -> Result<Option<T>> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(error) if is_retriable(&error) => {
                self.last_error = Some(error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// How many candidates were tried.
    pub fn attempts(&self) -> usize {
        self.attempts
    }

    /// The error of the last attempt that was not final; none if nothing was tried.
    pub fn into_error(self) -> Option<Error> {
        self.last_error
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_candidate_is_tried_once_in_order() {
        let mut failover = Failover::new(&["a", "b"]);
        for name in ["a", "b"] {
            assert_eq!(failover.next_candidate(), Some(&name));
            assert_eq!(failover.record::<()>(Err(Error::unavailable(name))).unwrap(), None);
        }
        assert_eq!((failover.next_candidate(), failover.attempts()), (None, 2));
        assert_eq!(failover.into_error(), Some(Error::unavailable("b")));
    }

    #[test]
    fn success_and_other_errors_end_the_attempts() {
        let mut failover = Failover::new(&["a", "b"]);
        assert_eq!(failover.record(Ok(1)), Ok(Some(1)));
        let missing = Error::not_found("x");
        assert_eq!(failover.record::<()>(Err(missing.clone())), Err(missing.clone()));
        assert_eq!(failover.record_if::<()>(Err(missing), |_| true), Ok(None));
    }

    #[test]
    fn further_attempts_go_round_the_candidates() {
        let mut failover = Failover::new(&["a", "b"]);
        failover.set_attempts_left(3);
        let mut tried = Vec::new();
        while let Some(name) = failover.next_candidate() {
            tried.push(*name);
        }
        assert_eq!(tried, ["a", "b", "a"]);
        failover.set_attempts_left(1);
        assert_eq!(failover.next_candidate(), Some(&"b"));
        assert_eq!(Failover::<&str>::new(&[]).next_candidate(), None);
    }
}
