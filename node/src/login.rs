//! Logins with a password: a coordinator verifies it and signs a session token. Successful logins are cached, because some
//! clients send their password with every call, and verifying one takes a coordinator tens of milliseconds of a core.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::timeout;
use volley_common::identity::{LoginDigest, RecentLogins, Secret};
use volley_common::wire::cluster::LoginRequest;
use volley_common::{Code, Error, Result, clock};

use crate::coordinator_client::CoordinatorClient;

/// Maximum number of cached logins.
const MAX_CACHED: usize = 10_000;
/// Logins that are sent to coordinators at once. A further one waits.
const MAX_CONCURRENT: usize = 64;
/// How long a login waits for others.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// Calls that may wait for a login. Further ones are refused at once.
const MAX_WAITING: usize = 1024;
/// When a refused login should be tried again, milliseconds.
const RETRY_MS: u64 = 1_000;

/// Who logs in: the digest, and the client's address, by which coordinators slow down guessing: what is refused to one address
/// is not refused to others.
type LoginKey = (LoginDigest, String);

/// The result of a login, once there is one.
type LoginResult = OnceCell<Result<Secret>>;

/// Logs users in at the coordinators.
pub struct LoginClient {
    coordinators: Arc<CoordinatorClient>,
    cached: RecentLogins<Secret>,
    /// Logins that are in progress: the calls that a client makes at once with one password are one login, whether it fails or
    /// not.
    in_progress: Mutex<HashMap<LoginKey, Weak<LoginResult>>>,
    /// Places of logins that are sent to coordinators.
    sending: Semaphore,
    /// Places of calls that wait for a login.
    waiting: Semaphore,
    /// Whether no coordinator answered the last login.
    is_unanswered: AtomicBool,
}

impl LoginClient {
    /// Without any cached login.
    pub fn new(coordinators: Arc<CoordinatorClient>) -> Self {
        LoginClient {
            coordinators,
            cached: RecentLogins::new(MAX_CACHED),
            in_progress: Mutex::default(),
            sending: Semaphore::new(MAX_CONCURRENT),
            waiting: Semaphore::new(MAX_WAITING),
            is_unanswered: AtomicBool::new(false),
        }
    }

    /// A session token of the user. `address`: the client's, without port, by which coordinators slow down guessing.
    /// `is_valid`: whether a cached token is still accepted; after a change of the password it is not.
    ///
    /// # Errors
    /// UNAUTHENTICATED: no such user, or another password. RESOURCE_EXHAUSTED: too many logins failed, or wait. UNAVAILABLE:
    /// no coordinator answers.
    pub async fn session_token(
        &self,
        user: &str,
        password: &Secret,
        address: &str,
        is_valid: impl Fn(&Secret) -> bool,
    ) -> Result<Secret> {
        let digest = self.cached.key(user, password.expose());
        let cached = || self.cached.get(&digest, clock::now_ms()).filter(&is_valid);
        if let Some(token) = cached() {
            return Ok(token);
        }
        let _waiting = self.waiting.try_acquire().map_err(|_| too_many())?;
        let joined = self.join((digest, address.into()));
        let login = async {
            // Perhaps of a login that ended in this moment.
            if let Some(token) = cached() {
                return Ok(token);
            }
            let (user, password) = (user.into(), password.expose().into());
            let token = self.send(LoginRequest { user, password, address: address.into() }).await?;
            self.cached.insert(digest, token.clone(), clock::now_ms());
            Ok::<_, Error>(token)
        };
        joined.result_of(login).await
    }

    /// The login of these credentials that is in progress, or a new one.
    fn join(&self, key: LoginKey) -> JoinedLogin<'_> {
        let mut in_progress = self.in_progress.lock();
        let known = in_progress.get(&key).and_then(Weak::upgrade);
        let result = known.unwrap_or_else(|| {
            let new = Arc::new(LoginResult::new());
            in_progress.insert(key.clone(), Arc::downgrade(&new));
            new
        });
        JoinedLogin { logins: self, key, result: Some(result) }
    }

    /// Sends a login to the coordinators, in turn.
    async fn send(&self, request: LoginRequest) -> Result<Secret> {
        let place = timeout(MAX_WAIT, self.sending.acquire()).await;
        // If those that have the places get no answer, it is not for their number.
        let place = place.map_err(|_| match self.is_unanswered.load(Ordering::Relaxed) {
            true => Error::unavailable("no coordinator answers the logins of this node: try again"),
            false => too_many(),
        })?;
        let _place = place.map_err(|_| Error::internal("the places of logins are never closed"))?;
        let reply = self.coordinators.login(request).await;
        let is_unanswered = reply.as_ref().is_err_and(|error| error.code == Code::Unavailable);
        self.is_unanswered.store(is_unanswered, Ordering::Relaxed);
        Ok(Secret::new(reply?.token))
    }
}

fn too_many() -> Error {
    Error::exhausted("too many clients are logging in at this node: try again later").retry_after(RETRY_MS)
}

/// A call's part in a login. The last one that is dropped removes the login, so that the next call begins another.
struct JoinedLogin<'a> {
    logins: &'a LoginClient,
    key: LoginKey,
    /// `None` only while it is dropped.
    result: Option<Arc<LoginResult>>,
}

impl JoinedLogin<'_> {
    /// The result of the login. One of its calls runs it, another one if that is cancelled.
    async fn result_of(&self, login: impl Future<Output = Result<Secret>>) -> Result<Secret> {
        match &self.result {
            Some(result) => result.get_or_init(|| login).await.clone(),
            None => Err(Error::internal("a login was dropped")),
        }
    }
}

impl Drop for JoinedLogin<'_> {
    fn drop(&mut self) {
        let mut in_progress = self.logins.in_progress.lock();
        // Under the lock: of two that are dropped at once, the second one is the last.
        drop(self.result.take());
        if in_progress.get(&self.key).is_some_and(|login| login.strong_count() == 0) {
            in_progress.remove(&self.key);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::put::tests::cluster::InProcessCluster;

    /// A node's logins, at a fake coordinator that knows `ann` with the password `secret`.
    async fn logins() -> (InProcessCluster, Arc<LoginClient>) {
        let cluster = InProcessCluster::start(1, &[], 1).await;
        cluster.coordinator.state.lock().passwords.insert("ann".into(), ("secret".into(), "token of ann".into()));
        let coordinators = cluster.nodes[0].context.coordinators.clone();
        (cluster, Arc::new(LoginClient::new(coordinators)))
    }

    async fn login(logins: &LoginClient, password: &str) -> Result<Secret> {
        logins.session_token("ann", &Secret::new(password), "192.0.2.1", |_| true).await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn concurrent_calls_with_one_password_are_one_login() {
        let (cluster, logins) = logins().await;
        let calls = (0..50).map(|_| login(&logins, "secret"));
        for token in futures::future::join_all(calls).await {
            assert_eq!(token.unwrap().expose(), "token of ann");
        }
        let requests = cluster.coordinator.state.lock().logins.clone();
        assert_eq!(requests.len(), 1);
        assert_eq!((requests[0].user.as_str(), requests[0].address.as_str()), ("ann", "192.0.2.1"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn calls_at_once_share_a_failed_login() {
        let (cluster, logins) = logins().await;
        let places = logins.sending.acquire_many(MAX_CONCURRENT as u32).await.unwrap();
        let calls = futures::future::join_all((0..50).map(|_| login(&logins, "guess")));
        let all_wait = async {
            while logins.in_progress.lock().values().map(Weak::strong_count).sum::<usize>() < 50 {
                tokio::task::yield_now().await;
            }
            drop(places);
        };
        let (results, ()) = futures::join!(calls, all_wait);
        for result in results {
            assert_eq!(result.unwrap_err().code, Code::Unauthenticated);
        }
        assert_eq!(cluster.coordinator.state.lock().logins.len(), 1);
        assert!(logins.in_progress.lock().is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn waiting_logins_are_bounded() {
        let (cluster, logins) = logins().await;
        login(&logins, "secret").await.unwrap();
        let others = logins.waiting.try_acquire_many(MAX_WAITING as u32).unwrap();
        let refused = login(&logins, "guess").await.unwrap_err();
        assert_eq!((refused.code, refused.retry_after_ms), (Code::ResourceExhausted, Some(RETRY_MS)));
        login(&logins, "secret").await.unwrap();
        assert_eq!(cluster.coordinator.state.lock().logins.len(), 1, "a cached login waits for nobody");
        drop(others);
        assert_eq!(login(&logins, "guess").await.unwrap_err().code, Code::Unauthenticated);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn failed_login_is_not_cached() {
        let (cluster, logins) = logins().await;
        for _ in 0..2 {
            assert_eq!(login(&logins, "guess").await.unwrap_err().code, Code::Unauthenticated);
        }
        login(&logins, "secret").await.unwrap();
        assert_eq!(login(&logins, "guess").await.unwrap_err().code, Code::Unauthenticated);
        assert_eq!(cluster.coordinator.state.lock().logins.len(), 4);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn cached_token_that_is_no_longer_valid_is_replaced() {
        let (cluster, logins) = logins().await;
        login(&logins, "secret").await.unwrap();
        cluster.coordinator.state.lock().passwords.insert("ann".into(), ("changed".into(), "newer".into()));
        let is_newer = |token: &Secret| token.expose() == "newer";
        let old = logins.session_token("ann", &Secret::new("secret"), "", is_newer).await;
        assert_eq!(old.unwrap_err().code, Code::Unauthenticated);
        let new = logins.session_token("ann", &Secret::new("changed"), "", is_newer).await;
        assert_eq!(new.unwrap().expose(), "newer");
    }
}
