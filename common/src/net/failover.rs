//! Which member a request is sent to next, and how the attempts ended.

use std::collections::VecDeque;
use std::io;

use crate::{Code, Error, Result};

/// Redirections that one request follows.
const MAX_REDIRECTS: usize = 8;

/// Whether the request may succeed at another member.
pub fn is_unavailable(error: &Error) -> bool {
    error.code == Code::Unavailable
}

/// Whether a transport error says that the member did not handle the request: no connection was made, the member refused
/// this process's certificate, or it refused the request, as one that stops does. Otherwise the request may be why the
/// connection broke.
pub fn was_not_handled(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() || error.downcast_ref().is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        // A body that could not be read: what caused that says nothing about the connection.
        if error.downcast_ref().is_some_and(hyper::Error::is_user) {
            return false;
        }
        // hyper takes the error of the connection out of HTTP/2's.
        if error.downcast_ref().is_some_and(refuses_certificate) {
            return true;
        }
        if let Some(http2) = error.downcast_ref::<h2::Error>() {
            if http2.get_io().is_some_and(refuses_certificate) {
                return true;
            }
            let refused = http2.reason() == Some(h2::Reason::REFUSED_STREAM);
            let stops = http2.is_go_away() && http2.reason() == Some(h2::Reason::NO_ERROR);
            return http2.is_remote() && (refused || stops);
        }
        cause = error.source();
    }
    false
}

/// Whether the other side refused this side's certificate: `tls::failure` gives such an error this kind, and a socket gives
/// no error of this kind once it is connected.
fn refuses_certificate(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// The attempts of one request at several members, one after the other.
///
/// This type alone selects the next member and records how each attempt ended. The caller makes the attempts:
///
/// ```
/// # use volley_common::{Error, Result, net::Failover};
/// # fn call(addr: &str) -> Result<u64> { if addr == "b:1" { Ok(7) } else { Err(Error::unavailable("down")) } }
/// # fn main() -> Result<()> {
/// let mut failover = Failover::new(["a:1", "b:1"]);
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
pub struct Failover<C> {
    candidates: Vec<C>,
    /// Index of the next candidate, which counts on beyond the last one.
    next: usize,
    attempts: usize,
    attempts_left: usize,
    redirected: Option<C>,
    redirects_left: usize,
    /// Of the last attempts that were not final, at most one for each candidate and redirection.
    errors: VecDeque<Error>,
}

impl<C: Clone> Failover<C> {
    /// Tries each of `candidates` once, in their order.
    pub fn new(candidates: impl Into<Vec<C>>) -> Self {
        let candidates = candidates.into();
        Failover {
            attempts_left: candidates.len(),
            candidates,
            next: 0,
            attempts: 0,
            redirected: None,
            redirects_left: MAX_REDIRECTS,
            errors: VecDeque::new(),
        }
    }

    /// Allows at most `attempts` further attempts; after the last candidate the first one follows.
    pub fn set_attempts_left(&mut self, attempts: usize) {
        self.attempts_left = attempts;
    }

    /// Tries `candidate` next, to which the last one redirected the request, and then the remaining ones. Further
    /// redirections than eight are ignored.
    pub fn redirect(&mut self, candidate: C) {
        if let Some(left) = self.redirects_left.checked_sub(1) {
            self.redirects_left = left;
            self.redirected = Some(candidate);
        }
    }

    /// The member to try next; none when the attempts are used up.
    pub fn next_candidate(&mut self) -> Option<C> {
        let candidate = match self.redirected.take() {
            Some(candidate) => candidate,
            None if self.candidates.is_empty() => return None,
            None => {
                self.attempts_left = self.attempts_left.checked_sub(1)?;
                let at = self.next % self.candidates.len();
                self.next += 1;
                self.candidates[at].clone()
            }
        };
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
                self.record_error(error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Records the error of an attempt that is not final.
    pub fn record_error(&mut self, error: Error) {
        if self.errors.len() >= self.candidates.len() + MAX_REDIRECTS {
            self.errors.pop_front();
        }
        self.errors.push_back(error);
    }

    /// How many attempts were made.
    pub fn attempts(&self) -> usize {
        self.attempts
    }

    /// The error of the last attempt that was not final; none if nothing was tried.
    pub fn into_error(mut self) -> Option<Error> {
        self.errors.pop_back()
    }

    /// The errors of all attempts that were not final, in their order.
    pub fn into_errors(self) -> Vec<Error> {
        self.errors.into()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn request_with_a_refused_certificate_was_not_handled() {
        assert!(was_not_handled(&io::Error::from(io::ErrorKind::PermissionDenied)));
        for kind in [io::ErrorKind::ConnectionReset, io::ErrorKind::InvalidData, io::ErrorKind::BrokenPipe] {
            assert!(!was_not_handled(&io::Error::from(kind)), "{kind}");
        }
    }

    #[test]
    fn each_candidate_is_tried_once_in_order() {
        let mut failover = Failover::new(["a", "b"]);
        for name in ["a", "b"] {
            assert_eq!(failover.next_candidate(), Some(name));
            assert_eq!(failover.record::<()>(Err(Error::unavailable(name))).unwrap(), None);
        }
        assert_eq!((failover.next_candidate(), failover.attempts()), (None, 2));
        assert_eq!(failover.into_errors(), ["a", "b"].map(Error::unavailable));
    }

    #[test]
    fn success_and_other_errors_end_the_attempts() {
        let mut failover = Failover::new(["a", "b"]);
        assert_eq!(failover.record(Ok(1)), Ok(Some(1)));
        let missing = Error::not_found("x");
        assert_eq!(failover.record::<()>(Err(missing.clone())), Err(missing.clone()));
        assert_eq!(failover.record_if::<()>(Err(missing.clone()), |_| true), Ok(None));
        assert_eq!(failover.into_error(), Some(missing));
    }

    #[test]
    fn further_attempts_go_round_the_candidates() {
        let mut failover = Failover::new(["a", "b"]);
        failover.set_attempts_left(3);
        let tried: Vec<&str> = std::iter::from_fn(|| failover.next_candidate()).collect();
        assert_eq!(tried, ["a", "b", "a"]);
        failover.set_attempts_left(1);
        assert_eq!(failover.next_candidate(), Some("b"));
        assert_eq!(Failover::<&str>::new([]).next_candidate(), None);
    }

    #[test]
    fn redirection_is_tried_next_and_their_number_is_bounded() {
        let mut failover = Failover::new(["a", "b"]);
        assert_eq!(failover.next_candidate(), Some("a"));
        failover.redirect("leader");
        assert_eq!(failover.next_candidate(), Some("leader"));
        assert_eq!(failover.next_candidate(), Some("b"));
        for _ in 0..2 * MAX_REDIRECTS {
            failover.redirect("c");
            failover.next_candidate();
        }
        assert_eq!(failover.attempts(), 3 + MAX_REDIRECTS - 1);
    }
}
