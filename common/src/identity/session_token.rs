//! Session tokens: JWTs that coordinators sign and every member verifies, so that a login at one member counts at all of them.
//!
//! A token carries the generation of its user, which changes with the password, and the id of the service token that it was
//! issued for. The verifier compares both with the newest directory: a changed password or a revoked token ends the session.

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::jwt::{self, Jwt};
use super::secret::Secret;
use super::signing_key::VerifyingKey;
use crate::wire::catalog::{SigningKey, User};
use crate::{Error, Result};

/// How long a session token is valid: an hour.
pub const SESSION_TOKEN_MS: u64 = 3_600_000;
/// How long a signing key is kept after its successor was created: until the last token that it signed has expired, and ten
/// minutes for a coordinator that does not know the successor yet.
pub const RETIRED_KEY_MS: u64 = SESSION_TOKEN_MS + 600_000;

/// How long a session can be renewed by itself after its password, or its service token, was verified: 12 hours.
pub const MAX_SESSION_MS: u64 = 12 * 3_600_000;

/// The issuer of session tokens. No OIDC issuer is accepted that has it.
const ISSUER: &str = "volley";
/// The only algorithm: a token cannot choose another one.
const ALGORITHM: &str = "EdDSA";

/// The payload of a session token.
#[derive(Serialize, Deserialize)]
struct SessionPayload {
    iss: String,
    /// The user.
    sub: String,
    /// When it was issued, in seconds since 1970.
    iat: u64,
    /// When it expires, in seconds since 1970.
    exp: u64,
    /// When the password or the service token was verified, in seconds since 1970; missing: when the token was issued.
    #[serde(default)]
    auth_time: Option<u64>,
    /// Makes each token another one, also those of a user in the same second; missing in tokens of earlier versions.
    #[serde(default)]
    jti: String,
    /// The user's generation, in 16 hexadecimal digits: numbers of JSON lose digits in some languages.
    generation: String,
    /// The id of a service token.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    service_token: String,
}

/// What a valid session token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionClaims {
    /// The user's name.
    pub user: String,
    /// The user's generation when the token was issued.
    pub generation: u64,
    /// The id of the service token that it was issued for; empty if it was issued for a password.
    pub service_token: String,
    /// When it expires, milliseconds since 1970.
    pub expires_ms: u64,
    /// When the password or the service token was verified, milliseconds since 1970.
    pub auth_ms: u64,
    /// The id of the key that signed it.
    pub key_id: String,
}

/// Issues session tokens. Only coordinators can: they have the private keys.
pub struct SessionTokenIssuer {
    pair: Ed25519KeyPair,
    /// The header of all tokens, encoded.
    header: String,
}

impl SessionTokenIssuer {
    /// Signs by a key.
    ///
    /// # Errors
    /// INTERNAL: the key has no private half, or one that cannot be used.
    pub fn new(key: &SigningKey) -> Result<Self> {
        let pair = Ed25519KeyPair::from_pkcs8(&key.private_key)
            .map_err(|e| Error::internal(format!("the signing key {} cannot sign: {e}", key.id)))?;
        let header = serde_json::json!({ "alg": ALGORITHM, "kid": key.id, "typ": "JWT" });
        Ok(SessionTokenIssuer { pair, header: URL_SAFE_NO_PAD.encode(header.to_string()) })
    }

    /// A token of a user, and when it expires, milliseconds since 1970. `service_token_id`: the service token that it is issued
    /// for; empty if it is issued for a password.
    ///
    /// # Errors
    /// INTERNAL: the library cannot sign.
    pub fn issue(&self, user: &User, service_token_id: &str, now_ms: u64) -> Result<(Secret, u64)> {
        self.issue_since(user, service_token_id, now_ms, now_ms)
    }

    /// The same, of a session that began at `auth_ms`: it ends [`MAX_SESSION_MS`] later, however often it is renewed.
    ///
    /// # Errors
    /// UNAUTHENTICATED: it has ended. INTERNAL: the library cannot sign.
    pub fn issue_since(&self, user: &User, service_token_id: &str, auth_ms: u64, now_ms: u64) -> Result<(Secret, u64)> {
        let end_ms = auth_ms.saturating_add(MAX_SESSION_MS);
        if end_ms <= now_ms {
            return Err(session_is_over());
        }
        let exp = now_ms.saturating_add(SESSION_TOKEN_MS).min(end_ms) / 1000;
        let payload = SessionPayload {
            iss: ISSUER.to_string(),
            sub: user.name.clone(),
            iat: now_ms / 1000,
            exp,
            auth_time: Some(auth_ms / 1000),
            jti: format!("{:032x}", rand::random::<u128>()),
            generation: format!("{:016x}", user.generation),
            service_token: service_token_id.to_string(),
        };
        let unusable = |e: String| Error::internal(format!("a session token cannot be signed: {e}"));
        let payload = serde_json::to_vec(&payload).map_err(|e| unusable(e.to_string()))?;
        let message = format!("{}.{}", self.header, URL_SAFE_NO_PAD.encode(payload));
        let signature = self.pair.try_sign(message.as_bytes()).map_err(|e| unusable(e.to_string()))?;
        let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()));
        Ok((Secret::new(token), exp * 1000))
    }
}

fn session_is_over() -> Error {
    Error::unauthenticated(format!(
        "the session began {} hours ago, and cannot be renewed any more: log in again",
        MAX_SESSION_MS / 3_600_000
    ))
}

/// When the session of a token that was verified already began, milliseconds since 1970; `None`: it is no session token.
pub fn session_began_ms(verified: &str) -> Option<u64> {
    let payload: SessionPayload = serde_json::from_slice(&Jwt::parse(verified)?.payload).ok()?;
    (payload.iss == ISSUER).then(|| began_ms(&payload))
}

fn began_ms(payload: &SessionPayload) -> u64 {
    payload.auth_time.unwrap_or(payload.iat).saturating_mul(1000)
}

/// Whether a text is written as a session token: a JWT whose issuer is `volley`. It is not verified.
pub fn is_session_token(token: &str) -> bool {
    jwt::issuer_of(token).is_some_and(|issuer| is_own_issuer(&issuer))
}

/// Whether an issuer is that of session tokens.
pub(super) fn is_own_issuer(issuer: &str) -> bool {
    issuer == ISSUER
}

/// Verifies a token's signature, issuer and expiry. `key`: the key with an id. Whether the user still exists with the same
/// generation is for the caller to check.
///
/// # Errors
/// UNAUTHENTICATED: malformed, no such key, a bad signature, expired.
pub fn verify_session_token<'a>(
    token: &str,
    key: impl Fn(&str) -> Option<&'a VerifyingKey>,
    now_ms: u64,
) -> Result<SessionClaims> {
    let refused = |why: &str| Error::unauthenticated(format!("the session token {why}: log in again"));
    let malformed = || refused("is malformed");
    let Jwt { header, message, payload, signature } = Jwt::parse(token).ok_or_else(malformed)?;
    if header.alg != ALGORITHM || header.crit.is_some() {
        return Err(refused("is signed in another way than those of this cluster"));
    }
    let key_id = header.kid.ok_or_else(malformed)?;
    let key = key(&key_id).ok_or_else(|| refused("is signed by a key that this cluster does not have any more"))?;
    if !key.verifies(message.as_bytes(), &signature) {
        return Err(refused(
            "has a signature that is not this cluster's: it was altered, or another cluster issued it",
        ));
    }
    let payload: SessionPayload = serde_json::from_slice(&payload).map_err(|_| malformed())?;
    let generation = u64::from_str_radix(&payload.generation, 16).map_err(|_| malformed())?;
    if payload.iss != ISSUER {
        return Err(malformed());
    }
    let expires_ms = payload.exp.saturating_mul(1000);
    if expires_ms <= now_ms {
        return Err(refused("has expired"));
    }
    let auth_ms = began_ms(&payload);
    if auth_ms.saturating_add(MAX_SESSION_MS) <= now_ms {
        return Err(session_is_over());
    }
    let SessionPayload { sub: user, service_token, .. } = payload;
    Ok(SessionClaims { user, generation, service_token, expires_ms, auth_ms, key_id })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::signing_key::new_signing_key;
    use super::*;
    use crate::Code;

    const NOW: u64 = 1_700_000_000_123;

    fn user() -> User {
        User { name: "ann".into(), generation: u64::MAX - 1, ..User::default() }
    }

    fn refusal(token: &str, key: &VerifyingKey, now_ms: u64) -> String {
        let error = verify_session_token(token, |id| (id == key.id()).then_some(key), now_ms).unwrap_err();
        assert_eq!(error.code, Code::Unauthenticated);
        assert!(error.message.ends_with("log in again"), "{}", error.message);
        error.message
    }

    #[test]
    fn issued_token_is_verified_until_it_expires() {
        let row = new_signing_key(NOW).unwrap();
        let key = VerifyingKey::new(&SigningKey { private_key: Default::default(), ..row.clone() }).unwrap();
        let issuer = SessionTokenIssuer::new(&row).unwrap();
        for service_token in ["", "0123456789abcdef"] {
            let (token, expires_ms) = issuer.issue(&user(), service_token, NOW).unwrap();
            assert!(expires_ms > NOW + SESSION_TOKEN_MS - 1000 && expires_ms <= NOW + SESSION_TOKEN_MS);
            assert!(is_session_token(token.expose()));
            assert_ne!(issuer.issue(&user(), service_token, NOW).unwrap().0.expose(), token.expose());
            let claims = |now_ms| verify_session_token(token.expose(), |id| (id == row.id).then_some(&key), now_ms);
            let expected = SessionClaims {
                user: "ann".into(),
                generation: u64::MAX - 1,
                service_token: service_token.into(),
                expires_ms,
                auth_ms: NOW / 1000 * 1000,
                key_id: row.id.clone(),
            };
            assert_eq!(claims(NOW), Ok(expected.clone()));
            // A member whose clock is behind that of the coordinator.
            assert_eq!(claims(NOW - 60_000), Ok(expected.clone()));
            assert_eq!(claims(expires_ms - 1), Ok(expected));
            assert!(refusal(token.expose(), &key, expires_ms).contains("expired"));
        }
    }

    #[test]
    fn altered_or_foreign_token_is_refused() {
        let (row, foreign) = (new_signing_key(NOW).unwrap(), new_signing_key(NOW).unwrap());
        let key = VerifyingKey::new(&row).unwrap();
        let (token, _) = SessionTokenIssuer::new(&row).unwrap().issue(&user(), "", NOW).unwrap();
        let token = token.expose();
        for at in 0..token.len() {
            let mut changed = token.as_bytes().to_vec();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            refusal(std::str::from_utf8(&changed).unwrap(), &key, NOW);
        }
        let (other, _) = SessionTokenIssuer::new(&foreign).unwrap().issue(&user(), "", NOW).unwrap();
        assert!(refusal(other.expose(), &key, NOW).contains("does not have"));
        // Another cluster's key under the id of this one's.
        let disguised = SigningKey { id: row.id.clone(), ..foreign };
        let (other, _) = SessionTokenIssuer::new(&disguised).unwrap().issue(&user(), "", NOW).unwrap();
        assert!(refusal(other.expose(), &key, NOW).contains("signature"));
    }

    #[test]
    fn token_cannot_choose_another_algorithm() {
        let row = new_signing_key(NOW).unwrap();
        let key = VerifyingKey::new(&row).unwrap();
        let mut issuer = SessionTokenIssuer::new(&row).unwrap();
        for algorithm in ["none", "HS256", "eddsa", "ES256"] {
            let header = serde_json::json!({ "alg": algorithm, "kid": row.id }).to_string();
            issuer.header = URL_SAFE_NO_PAD.encode(&header);
            let (token, _) = issuer.issue(&user(), "", NOW).unwrap();
            assert!(refusal(token.expose(), &key, NOW).contains("another way"));
            let unsigned = token.expose().rsplit_once('.').unwrap().0.to_string() + ".";
            assert!(refusal(&unsigned, &key, NOW).contains("another way"));
        }
        let critical = serde_json::json!({ "alg": "EdDSA", "kid": row.id, "crit": ["b64"], "b64": false }).to_string();
        issuer.header = URL_SAFE_NO_PAD.encode(&critical);
        refusal(issuer.issue(&user(), "", NOW).unwrap().0.expose(), &key, NOW);
    }

    #[test]
    fn renewed_session_ends_half_a_day_after_its_login() {
        let row = new_signing_key(NOW).unwrap();
        let (key, issuer) = (VerifyingKey::new(&row).unwrap(), SessionTokenIssuer::new(&row).unwrap());
        let end = NOW + MAX_SESSION_MS;
        let (token, expires_ms) = issuer.issue_since(&user(), "", NOW, end - 60_000).unwrap();
        assert!(expires_ms <= end && expires_ms > end - 1000, "{expires_ms}");
        assert_eq!(session_began_ms(token.expose()), Some(NOW / 1000 * 1000));
        assert_eq!(issuer.issue_since(&user(), "", NOW, end).unwrap_err().code, Code::Unauthenticated);
        refusal(token.expose(), &key, end);
        // That of an older member has no such claim.
        let older = SessionPayload { auth_time: None, ..payload_of(token.expose()) };
        assert_eq!(began_ms(&older), (end - 60_000) / 1000 * 1000);
        assert_eq!(session_began_ms("volley_0123456789abcdef_x"), None);
    }

    fn payload_of(token: &str) -> SessionPayload {
        serde_json::from_slice(&Jwt::parse(token).unwrap().payload).unwrap()
    }

    #[test]
    fn other_texts_are_no_session_tokens() {
        let foreign = format!("e30.{}.", URL_SAFE_NO_PAD.encode(r#"{"iss":"https://id.example"}"#));
        for text in ["", "a.b.c", "volley", foreign.as_str()] {
            assert!(!is_session_token(text), "{text}");
        }
    }

    #[test]
    fn key_without_private_half_cannot_sign() {
        let row = SigningKey { private_key: Default::default(), ..new_signing_key(NOW).unwrap() };
        assert_eq!(SessionTokenIssuer::new(&row).err().unwrap().code, Code::Internal);
    }
}
