//! Whose token a bearer is.

use crate::identity::directory::Directory;
use crate::identity::oidc::OidcVerifier;
use crate::identity::principal::{LoginMethod, Principal};
use crate::identity::service_token::{matches_service_token, split_service_token};
use crate::identity::session_token::{is_session_token, verify_session_token};
use crate::wire::catalog::{ServiceToken, User};
use crate::{Error, Result};

/// A token of an OIDC issuer is verified again after this time: the issuer may have withdrawn its key.
const OIDC_CACHE_MS: u64 = 60_000;

/// A verified token.
#[derive(Debug)]
pub(super) struct VerifiedBearer {
    /// Whose it is.
    pub principal: Principal,
    /// Until when the result may be used, by the same directory; milliseconds since 1970.
    pub valid_until_ms: u64,
}

/// Verifies a token of any kind.
///
/// # Errors
/// UNAUTHENTICATED: of no known kind, invalid, expired or revoked.
pub(super) fn verify_bearer(
    directory: &Directory,
    oidc: Option<&OidcVerifier>,
    token: &str,
    now_ms: u64,
) -> Result<VerifiedBearer> {
    if let Some((id, secret)) = split_service_token(token) {
        return verify_service_token(directory, id, secret, now_ms);
    }
    if is_session_token(token) {
        return verify_session(directory, token, now_ms);
    }
    match oidc.filter(|oidc| oidc.is_issuer_of(token)) {
        Some(oidc) => {
            let (principal, expires_ms) = oidc.verify(token, now_ms)?;
            if principal.name.is_empty() {
                return Err(Error::unauthenticated("the token of the OIDC issuer names nobody"));
            }
            Ok(VerifiedBearer { principal, valid_until_ms: expires_ms.min(now_ms + OIDC_CACHE_MS) })
        }
        None => Err(Error::unauthenticated(
            "the bearer token is of no kind that this cluster accepts: log in with a user and a password, or present a service token (volley token create) or a token of the configured OIDC issuer",
        )),
    }
}

fn verify_session(directory: &Directory, token: &str, now_ms: u64) -> Result<VerifiedBearer> {
    let claims = verify_session_token(token, |id| directory.signing_key(id), now_ms)?;
    let user = require_user(directory, &claims.user)?;
    if user.generation != claims.generation {
        return Err(Error::unauthenticated(format!(
            "the password of {:?} has changed since the session token was issued: log in again",
            claims.user
        )));
    }
    if claims.service_token.is_empty() {
        let principal = principal_of(user, LoginMethod::Password, claims.key_id);
        return Ok(VerifiedBearer { principal, valid_until_ms: claims.expires_ms });
    }
    let row = require_service_token(directory, &claims.service_token, &claims.user, now_ms)?;
    let valid_until_ms = claims.expires_ms.min(row.expires_ms);
    Ok(VerifiedBearer {
        principal: principal_of(user, LoginMethod::ServiceToken, claims.service_token),
        valid_until_ms,
    })
}

fn verify_service_token(directory: &Directory, id: &str, secret: &str, now_ms: u64) -> Result<VerifiedBearer> {
    let row = directory.service_token(id).filter(|row| matches_service_token(row, secret)).ok_or_else(|| {
        Error::unauthenticated("the service token is not valid: it was revoked, or another cluster issued it")
    })?;
    require_service_token(directory, id, &row.user, now_ms)?;
    let user = require_user(directory, &row.user)?;
    let principal = principal_of(user, LoginMethod::ServiceToken, id.to_string());
    Ok(VerifiedBearer { principal, valid_until_ms: row.expires_ms })
}

fn principal_of(user: &User, method: LoginMethod, credential: String) -> Principal {
    Principal { name: user.name.clone(), groups: user.groups.clone(), method, credential }
}

/// The user that a verified credential names.
///
/// # Errors
/// UNAUTHENTICATED: there is none.
pub(super) fn require_user<'a>(directory: &'a Directory, name: &str) -> Result<&'a User> {
    directory.user(name).ok_or_else(|| {
        Error::unauthenticated(format!(
            "there is no user {name:?}: it was removed after it logged in, log in as another one"
        ))
    })
}

/// The service token of a user that a verified credential comes of.
///
/// # Errors
/// UNAUTHENTICATED: it was revoked, is another user's, or has expired.
pub(super) fn require_service_token<'a>(
    directory: &'a Directory,
    id: &str,
    user: &str,
    now_ms: u64,
) -> Result<&'a ServiceToken> {
    let row = directory.service_token(id).filter(|row| row.user == user).ok_or_else(|| {
        Error::unauthenticated(format!("the service token {id:?} was revoked: use another one (volley token create)"))
    })?;
    if row.expires_ms <= now_ms {
        return Err(Error::unauthenticated(format!(
            "the service token {id:?} of {user:?} has expired: create another one (volley token create)"
        )));
    }
    Ok(row)
}
