//! Logins: exchanges a user's password, or a token, for a session token.
//!
//! A wrong password, an unknown user and a user without a password have the same error, after about the same time. Repeated
//! failures are slowed down ([`LoginThrottle`]). Verifying a password is expensive on purpose, so few are verified at a time,
//! few callers wait for it, and clients that send their password with each call get the session token of their last login. A
//! login goes on when its caller goes away: it counts as one that failed or succeeded, and is recorded, all the same.

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, oneshot};
use volley_common::identity::{
    Access, Authenticator, Directory, LoginMethod, LoginThrottle, Principal, RecentLogins, SIGNING_KEY_MS, Secret,
    SessionTokenIssuer, new_signing_key, session_began_ms, verify_password,
};
use volley_common::server::audit::{AuditEvent, AuditKind, AuditLog, UnidentifiedCall};
use volley_common::telemetry::trace::carry;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{AddSigningKey, SigningKey, User};
use volley_common::{Code, Error, Result, clock};

use crate::catalog::Catalog;
use crate::raft::Handle;

/// How many passwords are verified at a time.
const TURNS: usize = 2;
/// How many logins may be verified or wait for it.
const MAX_PENDING: usize = 256;
/// When a login beyond these, or before there are users, should be tried again, milliseconds.
const RETRY_MS: u64 = 1_000;
/// How many successful logins are kept for a minute.
const MAX_RECENT: usize = 1_000;
/// How long a call waits until this coordinator knows the user that has just logged in by its catalog.
const DIRECTORY_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it looks.
const DIRECTORY_INTERVAL: Duration = Duration::from_millis(10);

/// The name in the audit log of a login that is no call of its own.
const OPERATION: &str = "Login";

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
    audit: AuditLog,
    state: Arc<LoginState>,
}

/// A login that succeeded.
struct VerifiedLogin {
    issued: IssuedToken,
    /// Whether the password was verified for it; else the token is that of another login a moment ago.
    is_new: bool,
}

struct LoginState {
    throttle: LoginThrottle,
    recent: RecentLogins<IssuedToken>,
    pending: Semaphore,
    turns: Semaphore,
}

impl LoginService {
    /// Verifies passwords by this catalog. `authenticator` verifies the tokens that are issued.
    pub fn new(raft: Handle, authenticator: Authenticator, audit: AuditLog) -> Self {
        let state = LoginState {
            throttle: LoginThrottle::new(),
            recent: RecentLogins::new(MAX_RECENT),
            pending: Semaphore::new(MAX_PENDING),
            turns: Semaphore::new(TURNS),
        };
        LoginService { raft, authenticator, audit, state: Arc::new(state) }
    }

    /// Verifies a user's password; returns a session token. `address`: where the client called from, without the port. The caller
    /// records in the audit log how it ended.
    ///
    /// # Errors
    /// UNAUTHENTICATED: the user does not exist, has no password, or has another one. RESOURCE_EXHAUSTED: too many failed
    /// logins of late, or too many at the moment. UNAVAILABLE: there is no user yet, with a retry hint; or the password is not the
    /// one that this coordinator knows, and there is no leader with the newest one.
    pub async fn login(&self, user: &str, password: &Secret, address: &str) -> Result<IssuedToken> {
        Ok(self.log_in(user, password, address).await?.issued)
    }

    async fn log_in(&self, user: &str, password: &Secret, address: &str) -> Result<VerifiedLogin> {
        let key = self.state.recent.key(user, password.expose());
        if let Some(issued) = self.recent_login(&key) {
            return Ok(VerifiedLogin { issued, is_new: false });
        }
        // On a task of its own: a guesser who cancels the call must not be spared the failure.
        let (send, answer) = oneshot::channel();
        let (service, password) = (self.clone(), password.clone());
        let (user, address) = (user.to_string(), address.to_string());
        tokio::spawn(carry(async move {
            let result = service.verify_and_issue(key, &user, &password, &address).await;
            if let Err(unheard) = send.send(result) {
                service.record_unheard(&user, &address, unheard);
            }
        }));
        answer.await.map_err(|_| Error::internal("the task of a login ended without a result"))?
    }

    async fn verify_and_issue(
        &self,
        key: [u8; 32],
        user: &str,
        password: &Secret,
        address: &str,
    ) -> Result<VerifiedLogin> {
        let _pending = self.pending()?;
        let _turn = self.turn().await?;
        // The same user may have logged in while this call waited, or failed.
        if let Some(issued) = self.recent_login(&key) {
            return Ok(VerifiedLogin { issued, is_new: false });
        }
        let row = self.verify(user, password, address).await?;
        let issued = self.issue(&row, "", clock::now_ms()).await?;
        self.state.recent.insert(key, issued.clone(), clock::now_ms());
        Ok(VerifiedLogin { issued, is_new: true })
    }

    /// Whether this is a user's password, before it changes the password: a stolen session must not become the account. Failures
    /// are slowed down as those of logins.
    ///
    /// # Errors
    /// PERMISSION_DENIED: it is not. Those of [`LoginService::login`].
    pub async fn confirm_password(&self, user: &str, password: &Secret, address: &str) -> Result<()> {
        let _pending = self.pending()?;
        let _turn = self.turn().await?;
        match self.verify(user, password, address).await {
            Ok(_) => Ok(()),
            // The caller has identified itself: its session must not seem to have ended.
            Err(error) if error.code == Code::Unauthenticated => {
                Err(Error::denied(format!("the \"old_password\" is not the password of {user:?}: nothing was changed")))
            }
            Err(error) => Err(error),
        }
    }

    fn pending(&self) -> Result<SemaphorePermit<'_>> {
        self.state.pending.try_acquire().map_err(|_| {
            Error::exhausted(format!("{MAX_PENDING} logins are in progress, which is the limit: try again in a second"))
                .retry_after(RETRY_MS)
        })
    }

    async fn turn(&self) -> Result<SemaphorePermit<'_>> {
        self.state.turns.acquire().await.map_err(|e| Error::internal(format!("the queue of logins: {e}")))
    }

    /// The user, if the password is right and too many others were not wrong. To be called in turn: of many guesses at once, the
    /// first ones have failed meanwhile.
    async fn verify(&self, user: &str, password: &Secret, address: &str) -> Result<User> {
        self.check_is_administered().await?;
        let throttle = &self.state.throttle;
        if let Err(throttled) = throttle.check(user, address, clock::now_ms()) {
            metrics::counter!("volley_logins_total", "result" => "throttled").increment(1);
            return Err(throttled);
        }
        let verified = self.verified_user(user, password).await;
        let result = match &verified {
            Ok(_) => "accepted",
            Err(error) if error.code == Code::Unauthenticated => "wrong",
            Err(_) => "failed",
        };
        metrics::counter!("volley_logins_total", "result" => result).increment(1);
        // Whatever went wrong: guesses must not be free while there is no leader.
        match &verified {
            Ok(_) => throttle.succeeded(user, address),
            Err(_) => throttle.failed(user, address, clock::now_ms()),
        }
        verified
    }

    /// Refuses while the cluster is closed and there is nobody who could log in: a client that is early must neither take its
    /// right password for a wrong one nor be slowed down.
    async fn check_is_administered(&self) -> Result<()> {
        let is_open = self.authenticator.directory().is_none_or(|directory| directory.is_open());
        if is_open || self.raft.view().has_identities() || self.raft.read().await?.has_identities() {
            return Ok(());
        }
        Err(Error::unavailable(
            "the cluster has no user yet: its first administrator is created within seconds of its start; try again in a moment, and if that does not help, look for bootstrap_admin_file in the coordinators' logs",
        )
        .retry_after(RETRY_MS))
    }

    /// Records a login whose caller went away.
    fn record_unheard(&self, user: &str, address: &str, result: Result<VerifiedLogin>) {
        let address = address.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, 0));
        match &result {
            Ok(login) => self.record_verified(user, address, login),
            Err(error) => self.audit.record_unidentified(UnidentifiedCall {
                address,
                claimed: Some(user),
                kind: AuditKind::Login,
                operation: OPERATION,
                request_id: None,
                error,
            }),
        }
    }

    /// Records a login, if its password was verified for it.
    fn record_verified(&self, user: &str, peer: Option<SocketAddr>, login: &VerifiedLogin) {
        if !login.is_new {
            return;
        }
        let access = self.authenticator.access_of_token(&login.issued.token, peer).unwrap_or_else(|_| {
            // The directory does not have the user yet.
            let (name, credential) = (user.to_string(), String::new());
            let principal = Principal { name, groups: Vec::new(), method: LoginMethod::Password, credential };
            Access::of_principal(principal, self.authenticator.directory().unwrap_or_else(|| Directory::open().into()))
        });
        self.audit.record(AuditEvent {
            access: &access,
            kind: AuditKind::Login,
            operation: OPERATION,
            table: None,
            request_id: None,
            result: Ok(()),
        });
    }

    /// The rights of a user whose password a client sends with the call itself. A login that it takes is recorded in the audit log;
    /// the caller records only errors.
    ///
    /// # Errors
    /// As [`LoginService::login`].
    pub async fn access(&self, user: &str, password: &Secret, peer: Option<SocketAddr>) -> Result<Access> {
        let address = peer.map(|peer| peer.ip().to_string()).unwrap_or_default();
        let login = self.log_in(user, password, &address).await?;
        self.record_verified(user, peer, &login);
        let token = &login.issued.token;
        // The directory follows the catalog a moment later.
        let known = async {
            loop {
                match self.authenticator.access_of_token(token, peer) {
                    Err(error) if error.code == Code::Unauthenticated => {}
                    result => return result,
                }
                tokio::time::sleep(DIRECTORY_INTERVAL).await;
            }
        };
        match tokio::time::timeout(DIRECTORY_TIMEOUT, known).await {
            Ok(result) => result,
            Err(_) => self.authenticator.access_of_token(token, peer),
        }
    }

    /// A session token for who presents `presented`: a new one for a session token or a service token; that of an OIDC issuer
    /// itself, because every member accepts it. A session that is renewed by itself ends 12 hours after its login.
    ///
    /// # Errors
    /// UNAUTHENTICATED: the token is not valid, the session is over, or its user was removed. UNAVAILABLE: the user was changed a
    /// moment ago.
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
        let auth_ms = session_began_ms(presented.expose()).unwrap_or_else(clock::now_ms);
        self.issue(&user, service_token, auth_ms).await
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

    /// `auth_ms`: when the session began.
    async fn issue(&self, user: &User, service_token: &str, auth_ms: u64) -> Result<IssuedToken> {
        let key = self.signing_key().await?;
        let (token, expires_ms) =
            SessionTokenIssuer::new(&key)?.issue_since(user, service_token, auth_ms, clock::now_ms())?;
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
