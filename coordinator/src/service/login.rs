//! Logins: exchanges a user's password, or a token, for a session token.
//!
//! A wrong password, an unknown user and a user without a password have the same error, after about the same time. Repeated
//! failures are slowed down ([`LoginThrottle`]). Verifying a password is expensive on purpose, so few are verified at a time,
//! few callers wait for it, and clients that send their password with each call get the session token of their last login.

mod recent_logins;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use volley_common::identity::{
    Access, Authenticator, LoginMethod, LoginThrottle, SIGNING_KEY_MS, Secret, SessionTokenIssuer, new_signing_key,
    verify_password,
};
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{AddSigningKey, SigningKey, User};
use volley_common::{Code, Error, Result, clock};

use self::recent_logins::RecentLogins;
use crate::catalog::Catalog;
use crate::raft::Handle;

/// How many passwords are verified at a time.
const TURNS: usize = 2;
/// How many logins may be verified or wait for it.
const MAX_PENDING: usize = 256;
/// How long a call waits until this coordinator knows the user that has just logged in by its catalog.
const DIRECTORY_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it looks.
const DIRECTORY_INTERVAL: Duration = Duration::from_millis(10);

/// A session token that was issued.
#[derive(Clone, Debug)]
pub struct IssuedToken {
    /// The token.
    pub token: Secret,
    /// When it expires, milliseconds since 1970; 0 if that is not known.
    pub expires_ms: u64,
}

/// Logins. Cheap to clone.
#[derive(Clone)]
pub struct LoginService {
    raft: Handle,
    authenticator: Authenticator,
    state: Arc<LoginState>,
}

struct LoginState {
    throttle: LoginThrottle,
    recent: RecentLogins,
    pending: Semaphore,
    turns: Semaphore,
}

impl LoginService {
    /// Verifies passwords by this catalog. `authenticator` verifies the tokens that are issued.
    pub fn new(raft: Handle, authenticator: Authenticator) -> Self {
        let state = LoginState {
            throttle: LoginThrottle::new(),
            recent: RecentLogins::new(),
            pending: Semaphore::new(MAX_PENDING),
            turns: Semaphore::new(TURNS),
        };
        LoginService { raft, authenticator, state: Arc::new(state) }
    }

    /// Verifies a user's password; returns a session token. `address`: where the client called from, without the port.
    ///
    /// # Errors
    /// UNAUTHENTICATED: the user does not exist, has no password, or has another one. RESOURCE_EXHAUSTED: too many failed
    /// logins of late, or too many at the moment. UNAVAILABLE: the password is not the one that this coordinator knows, and there
    /// is no leader with the newest one.
    pub async fn login(&self, user: &str, password: &Secret, address: &str) -> Result<IssuedToken> {
        let state = &*self.state;
        let key = state.recent.key(user, password.expose());
        if let Some(recent) = self.recent_login(&key) {
            return Ok(recent);
        }
        let _pending = state.pending.try_acquire().map_err(|_| {
            Error::exhausted(format!("{MAX_PENDING} logins are in progress, which is the limit: try again in a second"))
        })?;
        let _turn = state.turns.acquire().await.map_err(|e| Error::internal(format!("the queue of logins: {e}")))?;
        // The same user may have logged in while this call waited, or failed.
        if let Some(recent) = self.recent_login(&key) {
            return Ok(recent);
        }
        // Only now: of many guesses at once, the first ones have failed meanwhile.
        state.throttle.check(user, address, clock::now_ms())?;
        match self.verified_user(user, password).await {
            Ok(row) => {
                state.throttle.succeeded(user, address, clock::now_ms());
                let issued = self.issue(&row, "").await?;
                state.recent.insert(key, issued.clone(), clock::now_ms());
                Ok(issued)
            }
            Err(error) => {
                // Guesses must not be free while there is no leader.
                if matches!(error.code, Code::Unauthenticated | Code::Unavailable) {
                    state.throttle.failed(user, address, clock::now_ms());
                }
                Err(error)
            }
        }
    }

    /// The rights of a user whose password a client sends with the call itself.
    ///
    /// # Errors
    /// As [`LoginService::login`].
    pub async fn access(&self, user: &str, password: &Secret, peer: Option<SocketAddr>) -> Result<Access> {
        let address = peer.map(|peer| peer.ip().to_string()).unwrap_or_default();
        let issued = self.login(user, password, &address).await?;
        // The directory follows the catalog a moment later.
        let known = async {
            loop {
                match self.authenticator.access_of_token(&issued.token, peer) {
                    Err(error) if error.code == Code::Unauthenticated => {}
                    result => return result,
                }
                tokio::time::sleep(DIRECTORY_INTERVAL).await;
            }
        };
        match tokio::time::timeout(DIRECTORY_TIMEOUT, known).await {
            Ok(result) => result,
            Err(_) => self.authenticator.access_of_token(&issued.token, peer),
        }
    }

    /// A session token for who presents `presented`: a new one for a session token or a service token; that of an OIDC issuer
    /// itself, because every member accepts it.
    ///
    /// # Errors
    /// UNAUTHENTICATED: the token is not valid, or its user was removed. UNAVAILABLE: the user was changed a moment ago.
    pub async fn renew(&self, presented: &Secret, peer: Option<SocketAddr>) -> Result<IssuedToken> {
        let name = match self.authenticator.access_of_token(presented, peer)?.principal() {
            Some(principal) => principal.name.clone(),
            None => return Err(no_credentials()),
        };
        let local = self.raft.view().user(&name).cloned();
        let user = match local {
            Some(user) => Some(user),
            None => self.raft.read().await?.user(&name).cloned(),
        };
        // Verified again by a directory that has the user as the new token will: otherwise a session that the change of a
        // password ends at this moment would go on.
        let directory = self.authenticator.directory();
        let known = directory.as_ref().and_then(|directory| directory.user(&name));
        let access = self.authenticator.access_of_token(presented, peer)?;
        let principal = access.principal().ok_or_else(no_credentials)?;
        let service_token = match principal.method {
            LoginMethod::Password => "",
            LoginMethod::ServiceToken => principal.credential.as_str(),
            LoginMethod::Oidc | LoginMethod::Certificate => {
                return Ok(IssuedToken { token: presented.clone(), expires_ms: 0 });
            }
        };
        let user = user.ok_or_else(|| {
            Error::unauthenticated(format!("there is no user {name:?} any more: log in as another one"))
        })?;
        if known.is_none_or(|known| known.generation != user.generation) {
            return Err(Error::unavailable(format!("user {name:?} was changed a moment ago: try again")));
        }
        self.issue(&user, service_token).await
    }

    /// The token of a login with the same user and password, if it is still good.
    fn recent_login(&self, key: &[u8; 32]) -> Option<IssuedToken> {
        let recent = self.state.recent.get(key, clock::now_ms())?;
        if self.authenticator.access_of_token(&recent.token, None).is_ok() {
            return Some(recent);
        }
        // The password was changed, or the user removed.
        self.state.recent.remove(key);
        None
    }

    /// The user, if the password is right. Costs the same if there is no such user: then the empty hash is verified.
    async fn verified_user(&self, name: &str, password: &Secret) -> Result<User> {
        let hash_of = |user: Option<&User>| user.map(|user| user.password_hash.clone()).unwrap_or_default();
        let local = self.raft.view().user(name).cloned();
        let hash = hash_of(local.as_ref());
        if let (true, Some(user)) = (verify_password(password.clone(), hash.clone()).await?, local) {
            return Ok(user);
        }
        // The local catalog may lag.
        let newest = self.raft.read().await?.user(name).cloned();
        let newest_hash = hash_of(newest.as_ref());
        if newest_hash == hash || !verify_password(password.clone(), newest_hash).await? {
            return Err(refused());
        }
        newest.ok_or_else(refused)
    }

    async fn issue(&self, user: &User, service_token: &str) -> Result<IssuedToken> {
        let key = self.signing_key().await?;
        let (token, expires_ms) = SessionTokenIssuer::new(&key)?.issue(user, service_token, clock::now_ms())?;
        Ok(IssuedToken { token, expires_ms })
    }

    /// The newest signing key. The leader makes it; in a cluster so new that it has not yet, the first login does.
    async fn signing_key(&self) -> Result<SigningKey> {
        if let Some(key) = newest_key(&self.raft.view()) {
            return Ok(key);
        }
        let key = new_signing_key(self.raft.now_ms())?;
        let add = AddSigningKey { key: Some(key), older_than_ms: SIGNING_KEY_MS, revoke_others: false };
        self.raft.propose(Op::AddSigningKey(add)).await?;
        let newest = newest_key(&*self.raft.read().await?);
        newest.ok_or_else(|| Error::unavailable("the cluster has no key to sign sessions with yet: try again"))
    }
}

fn newest_key(catalog: &Catalog) -> Option<SigningKey> {
    catalog.newest_signing_key().cloned()
}

/// The error of every login that fails.
fn refused() -> Error {
    Error::unauthenticated(
        "the user does not exist, or the password is wrong: check both, or ask an administrator for a new password",
    )
}

/// The error for a client that logs in with nothing.
pub fn no_credentials() -> Error {
    Error::unauthenticated(
        "the login has no credentials: send user and password (`authorization: Basic`, or the payload of the Handshake), or a token (`authorization: Bearer`)",
    )
}

/// The error for a client that logs in with its certificate alone.
pub fn certificate_needs_no_token(name: &str) -> Error {
    Error::precondition(format!(
        "the client certificate of {name:?} identifies every call, so that it needs no Handshake and no token: leave the login out"
    ))
}
