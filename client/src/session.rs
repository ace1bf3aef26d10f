//! The session of a client: the credential that all its calls carry, to whichever member.
//!
//! With a password, it is the token of a login, which is renewed before it ends and after a member refuses it. One task at a
//! time obtains a credential; those that wait for it share the outcome.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use arrow_flight::HandshakeRequest;
use arrow_flight::flight_service_client::FlightServiceClient;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use futures::stream;
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use serde_json::Value;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::{Request, Status};
use volley_common::grpc::NOW_HEADER;
use volley_common::identity::Secret;
use volley_common::net::MemberChannel;
use volley_common::{Code, Error, Result, clock};

use super::failure;
use super::login::{ClientLogin, LoginCredentials, bearer};
use super::pushback::Pushback;
use super::request_id::RequestId;
use super::token_file::read_token;

/// Before a call, a session that ends sooner is renewed.
pub(super) const MIN_LEFT: Duration = Duration::from_secs(30);
/// The same before a put, which cannot be repeated once much of it is sent.
pub(super) const MIN_LEFT_FOR_PUT: Duration = Duration::from_secs(300);
/// How long a login may take: the hash of a password takes long on purpose, and members compute few at a time.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a token file is read while there are calls.
const FILE_INTERVAL: Duration = Duration::from_secs(1);
const AUTHORIZATION: &str = "authorization";

/// What a call carries.
pub(super) struct SessionCredential {
    /// `Bearer TOKEN`.
    header: HeaderValue,
    /// When it ends, if that is known.
    ends: Option<Instant>,
    /// Counts the credentials of a session, from 1 on.
    number: u64,
}

impl SessionCredential {
    /// # Errors
    /// INVALID_ARGUMENT, without the token: it is not one.
    fn new(token: &Secret, left: Option<Duration>, number: u64) -> Result<Self> {
        let ends = left.and_then(|left| Instant::now().checked_add(left));
        Ok(SessionCredential { header: bearer(token)?, ends, number })
    }

    /// The value of `authorization`.
    pub(super) fn header(&self) -> &HeaderValue {
        &self.header
    }

    /// Its number in the session.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    fn lasts(&self, left: Duration) -> bool {
        self.ends.is_none_or(|ends| ends.saturating_duration_since(Instant::now()) > left)
    }
}

/// A member that logins go to.
pub(super) struct LoginMember {
    /// The connection to it.
    pub channel: MemberChannel,
    /// Its address with its scheme.
    pub uri: String,
}

/// The session of a client, shared by all its connections.
pub(super) struct LoginSession {
    login: ClientLogin,
    /// The members that logins go to: each after those before it have not answered.
    members: Vec<LoginMember>,
    current: ArcSwapOption<SessionCredential>,
    /// Counts the ended attempts to obtain a credential.
    attempts: AtomicU64,
    /// Held during an attempt. Why the last one failed.
    failure: tokio::sync::Mutex<Option<Error>>,
    /// When the token file was read last.
    file_read: Mutex<Option<Instant>>,
}

impl LoginSession {
    /// A session of `login`, which logs in at the first of `members` that answers; none without a login. Nothing is sent yet.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the token is not one.
    pub(super) fn new(login: ClientLogin, members: Vec<LoginMember>) -> Result<Option<Arc<Self>>> {
        let first = match login.credentials() {
            LoginCredentials::None => return Ok(None),
            LoginCredentials::Token(token) => {
                Some(SessionCredential::new(token, None, 1).map_err(|e| e.at("the token"))?)
            }
            LoginCredentials::Password { .. } | LoginCredentials::TokenFile(_) => None,
        };
        Ok(Some(Arc::new(LoginSession {
            login,
            members,
            current: ArcSwapOption::from_pointee(first),
            attempts: AtomicU64::new(0),
            failure: tokio::sync::Mutex::new(None),
            file_read: Mutex::new(None),
        })))
    }

    /// The credential of a call, which lasts for longer than `left` if that can be had: else one that has not ended yet.
    ///
    /// # Errors
    /// UNAUTHENTICATED: the login is refused. UNAVAILABLE: no answer. INVALID_ARGUMENT: the token file cannot be used.
    pub(super) async fn credential(&self, left: Duration) -> Result<Arc<SessionCredential>> {
        let obtained = self.current_or_new(|credential| self.is_usable(credential, left)).await;
        match (obtained, self.current.load_full()) {
            (Err(error), Some(current)) if current.lasts(Duration::ZERO) => {
                tracing::debug!(%error, "the credential is not renewed; the present one stays in use");
                Ok(current)
            }
            (obtained, _) => obtained,
        }
    }

    /// After a member refused the credential with this number: whether there is another one now, so that the call may be
    /// repeated.
    ///
    /// # Errors
    /// Those of [`LoginSession::credential`].
    pub(super) async fn renew(&self, refused: u64) -> Result<bool> {
        let obtained = self.current_or_new(|credential| credential.number != refused).await;
        let current = obtained.map_err(|e| e.at("the session has ended, and cannot be renewed"))?;
        Ok(current.number != refused)
    }

    fn is_usable(&self, credential: &SessionCredential, left: Duration) -> bool {
        match self.login.credentials() {
            LoginCredentials::TokenFile(_) => self.file_read.lock().is_some_and(|read| read.elapsed() < FILE_INTERVAL),
            _ => credential.lasts(left),
        }
    }

    /// The current credential if it `is_good`, else what one attempt to obtain another one gives.
    async fn current_or_new(&self, is_good: impl Fn(&SessionCredential) -> bool) -> Result<Arc<SessionCredential>> {
        let good = || self.current.load_full().filter(|credential| is_good(credential));
        if let Some(current) = good() {
            return Ok(current);
        }
        let attempts = self.attempts.load(Ordering::SeqCst);
        let mut failure = self.failure.lock().await;
        if let Some(current) = good() {
            return Ok(current);
        }
        // An attempt that ended while this one waited: with the same password, another one would end the same way, and
        // members count failures.
        if let Some(error) = failure.as_ref().filter(|_| self.attempts.load(Ordering::SeqCst) != attempts) {
            return Err(error.clone());
        }
        let obtained = self.obtain().await;
        *failure = obtained.as_ref().err().cloned();
        self.attempts.fetch_add(1, Ordering::SeqCst);
        obtained
    }

    /// Obtains a credential and makes it the current one.
    async fn obtain(&self) -> Result<Arc<SessionCredential>> {
        let current = self.current.load_full();
        let number = current.as_ref().map_or(0, |current| current.number) + 1;
        let new = match self.login.credentials() {
            LoginCredentials::Password { user, password } => self.log_in(user, password, number).await?,
            LoginCredentials::TokenFile(path) => {
                let token = read_token(path).await;
                *self.file_read.lock() = Some(Instant::now());
                let place = || format!("the token file {}", path.display());
                let new = SessionCredential::new(&token?, None, number).map_err(|e| e.at(place()))?;
                if let Some(current) = current.filter(|current| current.header == new.header) {
                    return Ok(current);
                }
                new
            }
            LoginCredentials::Token(_) | LoginCredentials::None => {
                return current.ok_or_else(|| Error::internal("a session without credentials"));
            }
        };
        let new = Arc::new(new);
        self.current.store(Some(new.clone()));
        Ok(new)
    }

    /// Exchanges a password for a session token. While members are busy, or have no user yet, this waits.
    async fn log_in(&self, user: &str, password: &Secret, number: u64) -> Result<SessionCredential> {
        let (mut pushback, id) = (Pushback::default(), RequestId::new());
        loop {
            let error = match self.log_in_once(user, password, number, &id).await {
                Err(error) => id.name(error),
                logged_in => return logged_in,
            };
            match pushback.pause(&error) {
                Some(pause) => tokio::time::sleep(pause).await,
                // The calls that need the login do not wait as long again.
                None => return Err(Error { retry_after_ms: None, ..error }),
            }
        }
    }

    /// The same, once at the first member that answers.
    async fn log_in_once(
        &self,
        user: &str,
        password: &Secret,
        number: u64,
        id: &RequestId,
    ) -> Result<SessionCredential> {
        let mut unanswered = None;
        for member in &self.members {
            let answer = log_in_at(member, user, password, number, id).await;
            match answer.map_err(|e| e.at(format!("login of {user:?} at {}", member.uri))) {
                Err(error) if error.code == Code::Unavailable => unanswered = Some(error),
                answer => return answer,
            }
        }
        Err(unanswered.unwrap_or_else(|| Error::internal("a session without a member")))
    }
}

/// Exchanges a password for a session token at one member.
async fn log_in_at(
    member: &LoginMember,
    user: &str,
    password: &Secret,
    number: u64,
    id: &RequestId,
) -> Result<SessionCredential> {
    let mut headers = HeaderMap::new();
    id.add_to(&mut headers);
    let mut request = Request::new(stream::empty::<HandshakeRequest>());
    *request.metadata_mut() = MetadataMap::from_headers(headers);
    request.metadata_mut().insert(AUTHORIZATION, basic(user, password)?);
    let exchange = async {
        let mut flight = FlightServiceClient::new(member.channel.clone());
        let response = flight.handshake(request).await?;
        let metadata = response.metadata().clone();
        // An error may follow the headers.
        let mut replies = response.into_inner();
        while replies.message().await?.is_some() {}
        Ok::<_, Status>(metadata)
    };
    let answer = tokio::time::timeout(LOGIN_TIMEOUT, exchange).await;
    let answer = answer.map_err(|_| Error::unavailable(format!("no answer within {LOGIN_TIMEOUT:?}")))?;
    let metadata = answer.map_err(|status| failure::of_status(&member.uri, status))?;
    let text = |name: &str| metadata.get(name).and_then(|value| value.to_str().ok());
    let token = text(AUTHORIZATION).and_then(bearer_token).ok_or_else(|| {
            Error::unauthenticated(
                "the answer has no token: the cluster may have no users yet, or a version without them; then connect without a login",
            )
        })?;
    let now_ms = text(NOW_HEADER).and_then(|now| now.parse().ok()).unwrap_or_else(clock::now_ms);
    SessionCredential::new(&Secret::new(token), time_left(token, now_ms), number)
        .map_err(|_| Error::internal("the token in the answer is not one"))
}

/// The header of a login.
fn basic(user: &str, password: &Secret) -> Result<MetadataValue<Ascii>> {
    let text = format!("Basic {}", STANDARD.encode(format!("{user}:{}", password.expose())));
    let mut value: MetadataValue<Ascii> =
        text.parse().map_err(|_| Error::internal("base64 does not fit into a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The token of `Bearer TOKEN`.
fn bearer_token(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// How long a JWT lasts, by its claim `exp`; none if it does not say so. `now_ms`: the time of the member that issued it.
fn time_left(token: &str, now_ms: u64) -> Option<Duration> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    let ends_ms = claims["exp"].as_u64()?.checked_mul(1000)?;
    Some(Duration::from_millis(ends_ms.saturating_sub(now_ms)))
}

#[cfg(test)]
mod tests;
