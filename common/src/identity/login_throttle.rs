//! Slows down the guessing of passwords: by user and address, and by address.
//!
//! After three failures of a user from an address the next attempt is refused for one second, then two, four, and so on to a
//! minute; after fifty failures from an address so are those of all its users. An attempt counts as failed from its begin until
//! it succeeds, and unknown users count as wrong passwords do, so that a refusal does not tell which users exist.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use parking_lot::Mutex;

use crate::{Error, Result, ip_network};

const FIRST_DELAY_MS: u64 = 1_000;
const MAX_DELAY_MS: u64 = 60_000;
/// Failures are forgotten when this time has passed since the last one: 15 minutes.
const FORGOTTEN_MS: u64 = 900_000;
/// An attempt is over after this time, even if its result was never reported because its caller went away.
const ATTEMPT_MS: u64 = 10_000;
/// Users and addresses that are remembered.
const MAX_ENTRIES: usize = 10_000;
/// Of a user and address, and of an address, which may be that of many users.
const LIMITS: [AttemptLimits; 2] =
    [AttemptLimits { free_failures: 3, at_once: 1 }, AttemptLimits { free_failures: 50, at_once: 8 }];

/// How many attempts may fail before the next ones are slowed down.
#[derive(Clone, Copy)]
struct AttemptLimits {
    /// Failures that cost no time: typing errors.
    free_failures: u32,
    /// Attempts at once after those: else a guesser who sends many attempts at once would have them all verified before the
    /// first one has failed.
    at_once: u32,
}

/// The failed logins of one process.
pub struct LoginThrottle {
    /// Keys are hashes with a secret seed: they have one size, whatever a client sends as its name, and no client can choose a
    /// name that has another one's hash.
    hasher: RandomState,
    entries: Mutex<HashMap<u64, FailedLogins>>,
}

/// Those of one user and address, or of one address.
#[derive(Clone, Copy, Default)]
struct FailedLogins {
    /// With those whose result is not known.
    failures: u32,
    failed_ms: u64,
    /// No attempt before this time.
    refused_until_ms: u64,
    /// Attempts whose result is not known.
    attempts: u32,
    attempted_ms: u64,
}

impl FailedLogins {
    fn is_forgotten(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.failed_ms) >= FORGOTTEN_MS
    }

    /// How long an attempt is refused, in ms; 0: not at all.
    fn delay_ms(&self, now_ms: u64, limits: AttemptLimits) -> u64 {
        if self.failures < limits.free_failures || self.is_forgotten(now_ms) {
            return 0;
        }
        let delay = self.refused_until_ms.saturating_sub(now_ms);
        // After the clock was set back there would be no end.
        if (1..=MAX_DELAY_MS).contains(&delay) {
            return delay;
        }
        let is_busy = self.attempts >= limits.at_once && now_ms.saturating_sub(self.attempted_ms) < ATTEMPT_MS;
        if is_busy { FIRST_DELAY_MS } else { 0 }
    }

    fn begin(&mut self, now_ms: u64) {
        if self.is_forgotten(now_ms) {
            *self = FailedLogins::default();
        }
        self.failures = self.failures.saturating_add(1);
        self.failed_ms = now_ms;
        if now_ms.saturating_sub(self.attempted_ms) >= ATTEMPT_MS {
            self.attempts = 0;
        }
        self.attempts = self.attempts.saturating_add(1);
        self.attempted_ms = now_ms;
    }

    /// An attempt that has begun has failed.
    fn fail(&mut self, now_ms: u64, limits: AttemptLimits) {
        self.failed_ms = now_ms;
        self.attempts = self.attempts.saturating_sub(1);
        if let Some(beyond) = self.failures.checked_sub(limits.free_failures) {
            let delay = FIRST_DELAY_MS.checked_shl(beyond).filter(|_| beyond < 16).unwrap_or(MAX_DELAY_MS);
            self.refused_until_ms = now_ms.saturating_add(delay.min(MAX_DELAY_MS));
        }
    }
}

impl Default for LoginThrottle {
    fn default() -> Self {
        Self::new()
    }
}

impl LoginThrottle {
    /// Nothing has failed yet.
    pub fn new() -> Self {
        LoginThrottle { hasher: RandomState::new(), entries: Mutex::new(HashMap::new()) }
    }

    /// Whether a login may be tried now; to be called before its password is verified, and [`LoginThrottle::failed`] or
    /// [`LoginThrottle::succeeded`] afterwards. `address`: the client's, without port.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: too many failed; the text says when to retry.
    pub fn check(&self, user: &str, address: &str, now_ms: u64) -> Result<()> {
        let keys = self.keys(user, address);
        let mut entries = self.entries.lock();
        let delays = keys.iter().zip(LIMITS);
        let delays = delays.filter_map(|(key, limits)| entries.get(key).map(|entry| entry.delay_ms(now_ms, limits)));
        let delay_ms = delays.max().unwrap_or(0);
        if delay_ms > 0 {
            return Err(Error::exhausted(format!(
                "too many logins from {address} failed: retry in {} s",
                delay_ms.div_ceil(1000)
            )));
        }
        for key in keys {
            if entries.len() >= MAX_ENTRIES && !entries.contains_key(&key) {
                remove_oldest(&mut entries);
            }
            entries.entry(key).or_default().begin(now_ms);
        }
        Ok(())
    }

    /// The password was wrong, or there is no such user.
    pub fn failed(&self, user: &str, address: &str, now_ms: u64) {
        let mut entries = self.entries.lock();
        for (key, limits) in self.keys(user, address).into_iter().zip(LIMITS) {
            // It is missing if another attempt has succeeded meanwhile.
            if let Some(entry) = entries.get_mut(&key) {
                entry.fail(now_ms, limits);
            }
        }
    }

    /// The password was right, which forgives the address too: many people may share it. A guesser who has an account can clear
    /// its address by it, but not what failed of other users.
    pub fn succeeded(&self, user: &str, address: &str) {
        let mut entries = self.entries.lock();
        for key in self.keys(user, address) {
            entries.remove(&key);
        }
    }

    /// The keys of a user and address, and of the address.
    fn keys(&self, user: &str, address: &str) -> [u64; 2] {
        let network = network_of(address);
        [self.hasher.hash_one((Some(user), &network)), self.hasher.hash_one((None::<&str>, &network))]
    }
}

/// The oldest tenth is removed at once, so that a flood does not search all entries for each new one.
fn remove_oldest(entries: &mut HashMap<u64, FailedLogins>) {
    let mut times: Vec<u64> = entries.values().map(|entry| entry.failed_ms).collect();
    let (_, newest_removed, _) = times.select_nth_unstable(entries.len() / 10);
    let newest_removed = *newest_removed;
    entries.retain(|_, entry| entry.failed_ms > newest_removed);
}

/// What counts as one address; a text that is no IP address does as it is.
fn network_of(address: &str) -> String {
    address.parse().map_or_else(|_| address.to_string(), |ip| ip_network::network_of(ip).to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Code;

    const HERE: &str = "10.0.0.1";

    /// How long the next attempt is refused, in s, as its error says.
    fn refusal(throttle: &LoginThrottle, user: &str, address: &str, now_ms: u64) -> Option<u64> {
        let error = throttle.check(user, address, now_ms).err()?;
        assert_eq!(error.code, Code::ResourceExhausted);
        let seconds = error.message.strip_suffix(" s").unwrap().rsplit(' ').next().unwrap();
        Some(seconds.parse().unwrap())
    }

    fn fail(throttle: &LoginThrottle, user: &str, address: &str, now_ms: u64) {
        assert_eq!(refusal(throttle, user, address, now_ms), None, "at {now_ms}");
        throttle.failed(user, address, now_ms);
    }

    #[test]
    fn delay_doubles_to_a_minute() {
        let throttle = LoginThrottle::new();
        let mut now = 1_000_000;
        fail(&throttle, "ann", HERE, now);
        fail(&throttle, "ann", HERE, now);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            fail(&throttle, "ann", HERE, now);
            assert_eq!(refusal(&throttle, "ann", HERE, now), Some(seconds));
            assert_eq!(refusal(&throttle, "ann", HERE, now + seconds * 1000 - 1), Some(1));
            now += seconds * 1000;
        }
        for _ in 0..100 {
            fail(&throttle, "ann", HERE, now);
            assert_eq!(refusal(&throttle, "ann", HERE, now), Some(60));
            now += 60_000;
        }
    }

    #[test]
    fn refused_attempts_do_not_prolong_the_delay() {
        let throttle = LoginThrottle::new();
        (0..3).for_each(|_| fail(&throttle, "ann", HERE, 5000));
        (0..50).for_each(|_| assert_eq!(refusal(&throttle, "ann", HERE, 5500), Some(1)));
        assert_eq!(refusal(&throttle, "ann", HERE, 6000), None);
    }

    #[test]
    fn other_users_of_an_address_are_refused_after_fifty_failures() {
        let throttle = LoginThrottle::new();
        (0..3).for_each(|_| fail(&throttle, "ann", HERE, 5000));
        (0..47).for_each(|number| fail(&throttle, &format!("user {number}"), HERE, 5000));
        assert_eq!(refusal(&throttle, "dan", HERE, 5000), Some(1));
        assert_eq!(refusal(&throttle, "ann", "10.0.0.2", 5000), None, "a user cannot be locked out from elsewhere");
        // Others of an address log in beside each other.
        for user in ["b", "c", "d", "e", "f", "g", "h", "i"] {
            assert_eq!(refusal(&throttle, user, HERE, 6000), None, "{user}");
        }
        assert_eq!(refusal(&throttle, "j", HERE, 6000), Some(1));
        throttle.succeeded("b", HERE);
        assert_eq!(refusal(&throttle, "j", HERE, 6000), None, "a success forgives its address");
        fail(&throttle, "ann", HERE, 6000);
        assert_eq!(refusal(&throttle, "ann", HERE, 6000), Some(2), "but not what failed of another user");
    }

    #[test]
    fn success_clears_the_failures_of_its_user() {
        let throttle = LoginThrottle::new();
        (0..2).for_each(|_| fail(&throttle, "ann", HERE, 5000));
        assert_eq!(refusal(&throttle, "ann", HERE, 5000), None);
        throttle.succeeded("ann", HERE);
        assert!(throttle.entries.lock().is_empty());
    }

    #[test]
    fn attempt_counts_as_failed_until_it_succeeds() {
        let throttle = LoginThrottle::new();
        (0..3).for_each(|_| assert_eq!(refusal(&throttle, "ann", HERE, 5000), None));
        assert_eq!(refusal(&throttle, "ann", HERE, 5000), Some(1), "three are being verified");
        throttle.succeeded("ann", HERE);
        (0..3).for_each(|_| assert_eq!(refusal(&throttle, "ann", HERE, 5000), None));
        // Their results are never reported.
        assert_eq!(refusal(&throttle, "ann", HERE, 5000 + ATTEMPT_MS - 1), Some(1));
        assert_eq!(refusal(&throttle, "ann", HERE, 5000 + ATTEMPT_MS), None);
        assert_eq!(refusal(&throttle, "ann", HERE, 5000 + ATTEMPT_MS), Some(1), "one is being verified");
        throttle.failed("ann", HERE, 5000 + ATTEMPT_MS);
        assert_eq!(refusal(&throttle, "ann", HERE, 5000 + ATTEMPT_MS), Some(2), "it is the fourth");
    }

    #[test]
    fn failures_are_forgotten_after_a_quarter_of_an_hour() {
        let throttle = LoginThrottle::new();
        (0..3).for_each(|_| fail(&throttle, "ann", HERE, 5000));
        let later = 5000 + FORGOTTEN_MS;
        (0..3).for_each(|_| fail(&throttle, "ann", HERE, later));
        assert_eq!(refusal(&throttle, "ann", HERE, later), Some(1));
    }

    #[test]
    fn clock_that_is_set_back_locks_nobody_out() {
        let throttle = LoginThrottle::new();
        (0..3).for_each(|_| fail(&throttle, "ann", HERE, 500_000_000));
        assert_eq!(refusal(&throttle, "ann", HERE, 5000), None);
    }

    #[test]
    fn entries_are_bounded_and_the_newest_stay() {
        let throttle = LoginThrottle::new();
        for number in 0..30_000_u64 {
            fail(&throttle, "ann", &format!("10.{}.{}.1", number / 256, number % 256), number);
        }
        assert!(throttle.entries.lock().len() <= MAX_ENTRIES);
        (0..3).for_each(|_| fail(&throttle, "bob", HERE, 30_000));
        assert_eq!(refusal(&throttle, "bob", HERE, 30_000), Some(1));
        // All of the same moment: none is older.
        (0..30_000).for_each(|number| fail(&throttle, "eve", &number.to_string(), 40_000));
        assert!(throttle.entries.lock().len() <= MAX_ENTRIES);
    }

    #[test]
    fn ipv6_network_counts_as_one_address() {
        assert_eq!(network_of("2001:db8:1:2:3::4"), network_of("2001:db8:1:2:ffff::"));
        assert_ne!(network_of("2001:db8:1:2::"), network_of("2001:db8:1:3::"));
        assert_eq!(network_of("::ffff:10.0.0.1"), network_of(HERE));
        assert_ne!(network_of("10.0.0.1"), network_of("10.0.0.2"));
        assert_eq!(network_of("unix"), "unix");
    }
}
