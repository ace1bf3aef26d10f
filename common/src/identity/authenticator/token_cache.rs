//! Tokens that were verified by the newest directory, so that a signature is verified once and not at each call. The key is the
//! SHA-256 of the token: the token itself is not kept.
//!
//! Only valid tokens enter, and at most [`MAX_TOKENS`]. When the directory changes, all are verified again.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::identity::access::rights::PrincipalRights;
use crate::identity::directory::Directory;

/// Maximum number of tokens that are kept.
const MAX_TOKENS: usize = 10_000;

/// The verified tokens of a process.
#[derive(Default)]
pub(super) struct TokenCache(RwLock<CachedTokens>);

#[derive(Default)]
struct CachedTokens {
    /// By which all were verified. Compared by address, because a catalog that was recovered may count an epoch again.
    directory: Option<Arc<Directory>>,
    /// Those that were used last. When they are half of all, they become the older ones, which are dropped.
    recent: HashMap<[u8; 32], CachedToken>,
    older: HashMap<[u8; 32], CachedToken>,
}

#[derive(Clone)]
struct CachedToken {
    rights: Arc<PrincipalRights>,
    valid_until_ms: u64,
}

impl TokenCache {
    /// The rights of a token that this directory has verified, and that has not expired.
    pub fn get(&self, digest: &[u8; 32], directory: &Arc<Directory>, now_ms: u64) -> Option<Arc<PrincipalRights>> {
        let (token, is_recent) = {
            let tokens = self.0.read();
            if !tokens.are_of(directory) {
                return None;
            }
            match (tokens.recent.get(digest), tokens.older.get(digest)) {
                (Some(token), _) => (token.clone(), true),
                (None, token) => (token?.clone(), false),
            }
        };
        if token.valid_until_ms <= now_ms {
            return None;
        }
        if !is_recent {
            self.insert(*digest, directory, &token.rights, token.valid_until_ms);
        }
        Some(token.rights)
    }

    /// Keeps a token that was verified by this directory.
    pub fn insert(
        &self,
        digest: [u8; 32],
        directory: &Arc<Directory>,
        rights: &Arc<PrincipalRights>,
        valid_until_ms: u64,
    ) {
        let mut tokens = self.0.write();
        if !tokens.are_of(directory) {
            *tokens = CachedTokens { directory: Some(directory.clone()), ..CachedTokens::default() };
        }
        if tokens.recent.len() >= MAX_TOKENS / 2 {
            tokens.older = std::mem::take(&mut tokens.recent);
        }
        tokens.recent.insert(digest, CachedToken { rights: rights.clone(), valid_until_ms });
    }
}

impl CachedTokens {
    fn are_of(&self, directory: &Arc<Directory>) -> bool {
        self.directory.as_ref().is_some_and(|known| Arc::ptr_eq(known, directory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::access::testing::{directory, principal};

    fn digest(at: usize) -> [u8; 32] {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&at.to_le_bytes());
        digest
    }

    fn rights(directory: &Arc<Directory>) -> Arc<PrincipalRights> {
        Arc::new(PrincipalRights::new(principal("ann", &[]), directory.clone()))
    }

    #[test]
    fn token_is_kept_until_it_expires() {
        let (cache, directory) = (TokenCache::default(), directory(1, &[]));
        assert!(cache.get(&digest(1), &directory, 0).is_none());
        let rights = rights(&directory);
        cache.insert(digest(1), &directory, &rights, 100);
        assert!(Arc::ptr_eq(&cache.get(&digest(1), &directory, 99).unwrap(), &rights));
        assert!(cache.get(&digest(1), &directory, 100).is_none());
        assert!(cache.get(&digest(2), &directory, 0).is_none());
    }

    #[test]
    fn tokens_of_another_directory_are_not_used() {
        let (cache, old) = (TokenCache::default(), directory(1, &[]));
        cache.insert(digest(1), &old, &rights(&old), 100);
        // Even one of the same epoch.
        let new = directory(1, &[]);
        assert!(cache.get(&digest(1), &new, 0).is_none());
        cache.insert(digest(2), &new, &rights(&new), 100);
        assert!(cache.get(&digest(2), &new, 0).is_some());
        assert!(cache.get(&digest(1), &old, 0).is_none());
        // The old one is not kept alive.
        assert_eq!(Arc::strong_count(&old), 1);
    }

    #[test]
    fn cache_is_bounded_and_keeps_what_is_used() {
        let (cache, directory) = (TokenCache::default(), directory(1, &[]));
        let rights = rights(&directory);
        for at in 0..3 * MAX_TOKENS {
            cache.insert(digest(at), &directory, &rights, 100);
            assert!(cache.get(&digest(0), &directory, 0).is_some(), "after {at}");
        }
        let tokens = cache.0.read();
        assert!(tokens.recent.len() + tokens.older.len() <= MAX_TOKENS);
        assert!(!tokens.recent.contains_key(&digest(1)) && !tokens.older.contains_key(&digest(1)));
    }
}
