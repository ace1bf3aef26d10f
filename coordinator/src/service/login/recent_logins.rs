//! The logins of the last minute, for clients that send user and password with every call.
//!
//! A login is found by a hash of user and password with a random salt: memory has no password.

use std::collections::HashMap;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::IssuedToken;

/// How long a login is kept, milliseconds.
const KEEP_MS: u64 = 60_000;
/// Maximum number of logins; the oldest is dropped for a further one.
const MAX_LOGINS: usize = 1_000;

/// Recent logins.
pub(super) struct RecentLogins {
    salt: [u8; 32],
    logins: Mutex<HashMap<[u8; 32], RecentLogin>>,
}

struct RecentLogin {
    token: IssuedToken,
    at_ms: u64,
}

impl RecentLogins {
    pub(super) fn new() -> Self {
        RecentLogins { salt: rand::random(), logins: Mutex::default() }
    }

    /// The key of a login.
    pub(super) fn key(&self, user: &str, password: &str) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.salt);
        // No two pairs have the same bytes.
        hash.update((user.len() as u64).to_be_bytes());
        hash.update(user);
        hash.update(password);
        hash.finalize().into()
    }

    pub(super) fn get(&self, key: &[u8; 32], now_ms: u64) -> Option<IssuedToken> {
        let logins = self.logins.lock();
        logins.get(key).filter(|login| is_recent(login, now_ms)).map(|login| login.token.clone())
    }

    pub(super) fn insert(&self, key: [u8; 32], token: IssuedToken, now_ms: u64) {
        let mut logins = self.logins.lock();
        if logins.len() >= MAX_LOGINS {
            logins.retain(|_, login| is_recent(login, now_ms));
        }
        if logins.len() >= MAX_LOGINS {
            let oldest = logins.iter().min_by_key(|(_, login)| login.at_ms).map(|(key, _)| *key);
            if let Some(oldest) = oldest {
                logins.remove(&oldest);
            }
        }
        logins.insert(key, RecentLogin { token, at_ms: now_ms });
    }

    pub(super) fn remove(&self, key: &[u8; 32]) {
        self.logins.lock().remove(key);
    }
}

/// Also false for a login of the future: the clock was set back.
fn is_recent(login: &RecentLogin, now_ms: u64) -> bool {
    (login.at_ms..login.at_ms.saturating_add(KEEP_MS)).contains(&now_ms)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::identity::Secret;

    use super::*;

    fn token(text: &str) -> IssuedToken {
        IssuedToken { token: Secret::new(text), expires_ms: 0 }
    }

    fn found(logins: &RecentLogins, key: &[u8; 32], now_ms: u64) -> Option<String> {
        logins.get(key, now_ms).map(|login| login.token.expose().to_string())
    }

    #[test]
    fn login_is_found_by_user_and_password_for_a_minute() {
        let logins = RecentLogins::new();
        let key = logins.key("ann", "right");
        logins.insert(key, token("t"), 1_000);
        assert_eq!(found(&logins, &logins.key("ann", "right"), 60_999).as_deref(), Some("t"));
        for (other, now_ms) in [
            (key, 61_000),
            (key, 999),
            (logins.key("ann", "wrong"), 1_000),
            (logins.key("annr", "ight"), 1_000),
            (RecentLogins::new().key("ann", "right"), 1_000),
        ] {
            assert_eq!(found(&logins, &other, now_ms), None, "at {now_ms}");
        }
        logins.remove(&key);
        assert_eq!(found(&logins, &key, 1_000), None);
    }

    #[test]
    fn number_of_logins_is_limited() {
        let logins = RecentLogins::new();
        let key = |at: usize| logins.key(&format!("user {at}"), "");
        for at in 0..=MAX_LOGINS {
            logins.insert(key(at), token("t"), 1_000 + at as u64);
        }
        assert_eq!(logins.logins.lock().len(), MAX_LOGINS);
        assert_eq!(found(&logins, &key(0), 2_001), None, "the oldest");
        assert!(found(&logins, &key(1), 2_001).is_some() && found(&logins, &key(MAX_LOGINS), 2_001).is_some());
        logins.insert(key(7_000), token("t"), 90_000);
        assert_eq!(logins.logins.lock().len(), 1, "those of another minute go first");
    }
}
