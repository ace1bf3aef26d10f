//! The logins of the last minute, for clients that send user and password with every call.
//!
//! A login is found by a hash of user and password with a random salt: memory has no password.

use std::collections::HashMap;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

/// How long a login is kept, milliseconds.
const KEEP_MS: u64 = 60_000;

/// SHA-256 of the salt of one [`RecentLogins`], a user and a password.
pub type LoginDigest = [u8; 32];

/// Recent logins, each with its result.
pub struct RecentLogins<T> {
    salt: [u8; 32],
    most: usize,
    logins: Mutex<HashMap<LoginDigest, RecentLogin<T>>>,
}

struct RecentLogin<T> {
    result: T,
    at_ms: u64,
}

impl<T: Clone> RecentLogins<T> {
    /// None yet; at most this many, of which the oldest makes room for a further one.
    pub fn new(most: usize) -> Self {
        RecentLogins { salt: rand::random(), most, logins: Mutex::default() }
    }

    /// The key of a login.
    pub fn key(&self, user: &str, password: &str) -> LoginDigest {
        let mut hash = Sha256::new();
        hash.update(self.salt);
        // No two pairs have the same bytes.
        hash.update((user.len() as u64).to_be_bytes());
        hash.update(user);
        hash.update(password);
        hash.finalize().into()
    }

    /// The result of a login of the last minute.
    pub fn get(&self, key: &LoginDigest, now_ms: u64) -> Option<T> {
        let logins = self.logins.lock();
        logins.get(key).filter(|login| login.is_recent(now_ms)).map(|login| login.result.clone())
    }

    /// Keeps the result of a login of this moment.
    pub fn insert(&self, key: LoginDigest, result: T, now_ms: u64) {
        let mut logins = self.logins.lock();
        if logins.len() >= self.most {
            logins.retain(|_, login| login.is_recent(now_ms));
        }
        if logins.len() >= self.most {
            let oldest = logins.iter().min_by_key(|(_, login)| login.at_ms).map(|(key, _)| *key);
            if let Some(oldest) = oldest {
                logins.remove(&oldest);
            }
        }
        logins.insert(key, RecentLogin { result, at_ms: now_ms });
    }

    /// Forgets a login.
    pub fn remove(&self, key: &LoginDigest) {
        self.logins.lock().remove(key);
    }
}

impl<T> RecentLogin<T> {
    /// Also false for a login of the future: the clock was set back.
    fn is_recent(&self, now_ms: u64) -> bool {
        (self.at_ms..self.at_ms.saturating_add(KEEP_MS)).contains(&now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 1_000;

    #[test]
    fn login_is_found_by_user_and_password_for_a_minute() {
        let logins = RecentLogins::new(MOST);
        let key = logins.key("ann", "right");
        logins.insert(key, "t", 1_000);
        assert_eq!(logins.get(&logins.key("ann", "right"), 60_999), Some("t"));
        for (other, now_ms) in [
            (key, 61_000),
            (key, 999),
            (logins.key("ann", "wrong"), 1_000),
            (logins.key("annr", "ight"), 1_000),
            (RecentLogins::<()>::new(MOST).key("ann", "right"), 1_000),
        ] {
            assert_eq!(logins.get(&other, now_ms), None, "at {now_ms}");
        }
        logins.remove(&key);
        assert_eq!(logins.get(&key, 1_000), None);
    }

    #[test]
    fn user_and_password_are_digested_apart() {
        let logins = RecentLogins::<()>::new(MOST);
        assert_ne!(logins.key("ab", "c"), logins.key("a", "bc"));
        assert_eq!(logins.key("ab", "c"), logins.key("ab", "c"));
    }

    #[test]
    fn number_of_logins_is_limited() {
        let logins = RecentLogins::new(MOST);
        let key = |at: usize| logins.key(&format!("user {at}"), "");
        for at in 0..=MOST {
            logins.insert(key(at), "t", 1_000 + at as u64);
        }
        assert_eq!(logins.logins.lock().len(), MOST);
        assert_eq!(logins.get(&key(0), 2_001), None, "the oldest");
        assert!(logins.get(&key(1), 2_001).is_some() && logins.get(&key(MOST), 2_001).is_some());
        logins.insert(key(7_000), "t", 90_000);
        assert_eq!(logins.logins.lock().len(), 1, "those of another minute go first");
    }
}
