//! Whether a member answers, by probes: a member that hangs keeps its connections open and accepts new ones.
//!
//! A probe is a call of the gRPC health service over a connection of its own; any response is an answer. Probes are sent
//! only while a call waits for the member, and while its breaker is open.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::Request;
use http_body_util::Full;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tonic::body::Body;
use tonic::transport::Channel;
use tower::{Service, ServiceExt};

use crate::http2::settings::ClientSettings;
use crate::{Error, grpc};

/// A call waits this long before the member is probed.
const PROBE_AFTER: Duration = Duration::from_millis(250);
/// The period of the probes while a call waits and the member answers.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// A probe without an answer within this time has failed.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// A member that fails this many probes in succession hangs: one may be late on a busy machine.
const MAX_FAILED_PROBES: u32 = 3;
/// An answer this recent makes another probe unnecessary.
const RECENT: Duration = Duration::from_millis(250);
/// How long a member whose last call failed, or was overtaken by a hedge, is tried after the others.
const DOUBT: Duration = Duration::from_secs(5);
/// Pauses between the probes of an open breaker.
const MIN_BREAKER_PAUSE: Duration = Duration::from_millis(250);
const MAX_BREAKER_PAUSE: Duration = Duration::from_secs(2);
/// A member that does not answer for this long is no longer probed: the next call that waits for it opens the breaker again.
const MAX_BREAKER_TIME: Duration = Duration::from_secs(600);

/// What this process knows about the health of one member.
pub struct MemberHealth {
    addr: String,
    settings: &'static ClientSettings,
    state: Mutex<HealthState>,
    /// Held during a probe, so that concurrent calls share it; the connection of the probes.
    prober: tokio::sync::Mutex<Option<Channel>>,
}

#[derive(Default)]
struct HealthState {
    last_answer: Option<Instant>,
    doubted_until: Option<Instant>,
    is_open: bool,
}

/// The order in which members are tried: those with an open breaker last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HealthRank {
    /// Nothing is wrong as far as this process knows.
    Answers,
    /// Its last call failed, or another member was faster.
    Doubtful,
    /// It hangs: the breaker is open until it answers a probe.
    Silent,
}

/// Completes with UNAVAILABLE once a member does not answer probes. Nothing is sent before it is polled, and then only
/// after a while.
///
/// The mutex makes it shareable; it is never locked.
pub struct SilenceWatch(Mutex<BoxFuture<'static, Error>>);

impl Future for SilenceWatch {
    type Output = Error;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Error> {
        self.0.get_mut().poll_unpin(cx)
    }
}

impl fmt::Debug for SilenceWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SilenceWatch")
    }
}

impl MemberHealth {
    pub(super) fn new(addr: &str, settings: &'static ClientSettings) -> Arc<Self> {
        let (state, prober) = (Mutex::default(), tokio::sync::Mutex::default());
        Arc::new(MemberHealth { addr: addr.to_string(), settings, state, prober })
    }

    /// When to try this member.
    pub fn rank(&self) -> HealthRank {
        let state = self.state.lock();
        match state.doubted_until {
            _ if state.is_open => HealthRank::Silent,
            Some(until) if until > Instant::now() => HealthRank::Doubtful,
            _ => HealthRank::Answers,
        }
    }

    /// Records an answer: closes the breaker.
    pub fn record_answer(&self) {
        let was_open = {
            let mut state = self.state.lock();
            let was_open = state.is_open;
            *state = HealthState { last_answer: Some(Instant::now()), doubted_until: None, is_open: false };
            was_open
        };
        if was_open {
            tracing::info!(member = self.addr, "a member answers again");
        }
    }

    /// Tries the member after others for a while.
    pub fn record_doubt(&self) {
        self.state.lock().doubted_until = Some(Instant::now() + DOUBT);
    }

    /// Completes when the member fails a probe: it may hang.
    pub async fn doubted(&self) {
        sleep(PROBE_AFTER).await;
        while self.probe().await {
            sleep(PROBE_INTERVAL).await;
        }
        self.record_doubt();
    }

    /// Whether it answered a moment ago, or answers a probe now.
    pub async fn answers(&self) -> bool {
        let answers = self.probe().await;
        if !answers {
            self.record_doubt();
        }
        answers
    }

    /// Watches a call that waits for the member; `on_silent` is called when it hangs.
    pub(super) fn silence(self: Arc<Self>, on_silent: impl FnOnce() + Send + 'static) -> SilenceWatch {
        let watch = async move {
            self.doubted().await;
            let mut failed = 1;
            while failed < MAX_FAILED_PROBES {
                if self.probe().await {
                    self.doubted().await;
                    failed = 0;
                }
                failed += 1;
            }
            on_silent();
            let addr = self.addr.clone();
            self.open_breaker();
            Error::unavailable(format!("the member at {addr} does not answer probes"))
        };
        SilenceWatch(Mutex::new(watch.boxed()))
    }

    /// Opens the breaker, and probes the member until it answers.
    fn open_breaker(self: Arc<Self>) {
        if std::mem::replace(&mut self.state.lock().is_open, true) {
            return;
        }
        tracing::warn!(member = self.addr, "a member does not answer; other members are tried first until it does");
        tokio::spawn(async move {
            let opened = Instant::now();
            let mut pause = MIN_BREAKER_PAUSE;
            // Somebody but this task still uses it, and no call got an answer meanwhile.
            while Arc::strong_count(&self) > 1 && self.state.lock().is_open && opened.elapsed() < MAX_BREAKER_TIME {
                if self.probe().await {
                    return;
                }
                sleep(pause).await;
                pause = (2 * pause).min(MAX_BREAKER_PAUSE);
            }
            self.state.lock().is_open = false;
        });
    }

    /// Whether the member answers a probe, or answered recently. Concurrent calls share one probe.
    async fn probe(&self) -> bool {
        let asked = Instant::now();
        let mut channel = self.prober.lock().await;
        let last_answer = self.state.lock().last_answer;
        if last_answer.is_some_and(|at| at + RECENT > asked) {
            return true;
        }
        match timeout(PROBE_TIMEOUT, self.send_probe(&mut channel)).await {
            Ok(true) => {
                self.record_answer();
                true
            }
            // A connection that lost packets would be slow long after the network is well again.
            _ => {
                *channel = None;
                false
            }
        }
    }

    async fn send_probe(&self, channel: &mut Option<Channel>) -> bool {
        let connected = match channel.take() {
            Some(connected) => connected,
            None => match self.settings.endpoint(&self.addr) {
                Ok(endpoint) => endpoint.connect_lazy(),
                Err(_) => return false,
            },
        };
        let mut calling = channel.insert(connected).clone();
        let Ok(ready) = calling.ready().await else { return false };
        let request: Request<Bytes> = grpc::health_request();
        ready.call(request.map(|body| Body::new(Full::new(body)))).await.is_ok()
    }
}
