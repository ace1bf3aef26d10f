//! Service tokens: `volley_`, 16 hexadecimal digits of its id, `_`, 43 characters of base64url of its secret.
//!
//! The secret is random and has 256 bits, so that its SHA-256 is enough to verify it: there is nothing to guess that a slow hash
//! would protect. Every member verifies it, as often as a client calls.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::secret::Secret;
use crate::wire::catalog::ServiceToken;

/// The first characters of each token: secret scanners find a token by them.
const PREFIX: &str = "volley_";
/// Hexadecimal digits of an id.
const ID_CHARS: usize = 16;
/// Characters of a secret: base64url of 32 bytes.
const SECRET_CHARS: usize = 43;

/// A new token of a user: its row, and its text to hand out once. `name` is chosen by who creates it.
pub fn new_service_token(user: &str, name: &str, now_ms: u64, ttl_ms: u64) -> (ServiceToken, Secret) {
    let id = format!("{:016x}", rand::random::<u64>());
    let secret = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
    let token = ServiceToken {
        user: user.to_string(),
        name: name.to_string(),
        secret_sha256: hash(&secret),
        created_ms: now_ms,
        expires_ms: now_ms.saturating_add(ttl_ms),
        id,
    };
    let text = format!("{PREFIX}{}_{secret}", token.id);
    (token, Secret::new(text))
}

/// The id and the secret of a text that is written as a service token; `None` for other texts.
pub fn split_service_token(token: &str) -> Option<(&str, &str)> {
    let (id, rest) = token.strip_prefix(PREFIX)?.split_at_checked(ID_CHARS)?;
    let secret = rest.strip_prefix('_')?;
    let is_id = id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_secret = secret.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    (is_id && is_secret && secret.len() == SECRET_CHARS).then_some((id, secret))
}

/// Whether a secret is that of a token's row, in a time that does not depend on the secret.
pub fn matches_service_token(row: &ServiceToken, secret: &str) -> bool {
    verify_slices_are_equal(&hash(secret), &row.secret_sha256).is_ok()
}

fn hash(secret: &str) -> Bytes {
    Bytes::copy_from_slice(&Sha256::digest(secret))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn new_token_matches_its_row_only() {
        let (row, text) = new_service_token("etl", "nightly", 1000, 500);
        let (id, secret) = split_service_token(text.expose()).unwrap();
        assert_eq!((id, row.user.as_str(), row.name.as_str()), (row.id.as_str(), "etl", "nightly"));
        assert_eq!((row.created_ms, row.expires_ms), (1000, 1500));
        assert!(matches_service_token(&row, secret));
        assert!(!row.secret_sha256.windows(8).any(|bytes| secret.as_bytes().windows(8).any(|part| part == bytes)));

        let (other, other_text) = new_service_token("etl", "nightly", 1000, 500);
        assert_ne!((&row.id, text.expose()), (&other.id, other_text.expose()));
        assert!(!matches_service_token(&other, secret));
        assert!(!matches_service_token(&row, &secret[1..]));
        let without_hash = ServiceToken { secret_sha256: Bytes::new(), ..row };
        assert!(!matches_service_token(&without_hash, secret) && !matches_service_token(&without_hash, ""));
    }

    #[test]
    fn token_without_end_never_expires() {
        assert_eq!(new_service_token("etl", "", 1000, u64::MAX).0.expires_ms, u64::MAX);
    }

    #[test]
    fn only_a_whole_token_is_split() {
        let secret = "-_aZ0".repeat(9)[..43].to_string();
        let token = format!("volley_0123456789abcdef_{secret}");
        assert_eq!(split_service_token(&token), Some(("0123456789abcdef", secret.as_str())));
        let upper = token.replace("abcdef", "ABCDEF");
        let multibyte = format!("volley_0123456789abcd\u{e9}_{secret}");
        let at_the_cut = format!("volley_0123456789abcde\u{e9}{secret}");
        let longer = format!("{token}x");
        let wrong_character = token.replace("_aZ", "=aZ");
        let made = [&longer, &upper, &multibyte, &at_the_cut, &wrong_character].map(String::as_str);
        let cut = [&token[1..], &token[..token.len() - 1], &token[..23], &token[..24], "", "volley_", "a.b.c"];
        for other in made.into_iter().chain(cut) {
            assert_eq!(split_service_token(other), None, "{other}");
        }
    }
}
