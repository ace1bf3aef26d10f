//! Whether a member answers, by probes: a member that hangs keeps its connections open and accepts new ones.
//!
//! A probe is a call of the gRPC health service over a connection of its own; any response is an answer. Probes are sent
//! only while a call waits for the member, and while its breaker is open.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http::Request;
use http_body_util::Full;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tonic::body::Body;
use tonic::transport::Channel;
use tower::{Service, ServiceExt};

use crate::http2::SilenceWatch;
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
    /// Called when the breaker opens.
    on_silent: Box<dyn Fn() + Send + Sync>,
    state: Mutex<HealthState>,
    verdict: watch::Sender<Verdict>,
    /// Held during a probe, so that concurrent calls share it; the connection of the probes.
    prober: tokio::sync::Mutex<Option<Channel>>,
}

#[derive(Default)]
struct HealthState {
    last_answer: Option<Instant>,
    last_failure: Option<Instant>,
    doubted_until: Option<Instant>,
}

/// What the probes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It answers, or nothing is known.
    Answers,
    /// It failed a probe; a task goes on probing it.
    Suspected,
    /// It failed several: the breaker is open, and the task goes on until it answers.
    Silent,
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

impl MemberHealth {
    pub(super) fn new(
        addr: &str,
        settings: &'static ClientSettings,
        on_silent: impl Fn() + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(MemberHealth {
            addr: addr.to_string(),
            settings,
            on_silent: Box::new(on_silent),
            state: Mutex::default(),
            verdict: watch::Sender::new(Verdict::Answers),
            prober: tokio::sync::Mutex::default(),
        })
    }

    /// When to try this member.
    pub fn rank(&self) -> HealthRank {
        let doubted_until = self.state.lock().doubted_until;
        match *self.verdict.borrow() {
            Verdict::Silent => HealthRank::Silent,
            _ if doubted_until.is_some_and(|until| until > Instant::now()) => HealthRank::Doubtful,
            _ => HealthRank::Answers,
        }
    }

    /// Records an answer: closes the breaker.
    pub fn record_answer(&self) {
        *self.state.lock() = HealthState { last_answer: Some(Instant::now()), ..HealthState::default() };
        if self.set_verdict(Verdict::Answers) == Verdict::Silent {
            tracing::info!(member = self.addr, "a member answers again");
        }
    }

    /// Tries the member after others for a while.
    pub fn record_doubt(&self) {
        self.state.lock().doubted_until = Some(Instant::now() + DOUBT);
    }

    /// Completes when the member fails a probe: it may hang.
    pub async fn doubted(self: &Arc<Self>) {
        sleep(PROBE_AFTER).await;
        while self.answers().await {
            sleep(PROBE_INTERVAL).await;
        }
    }

    /// Whether it answered a moment ago, or answers a probe now.
    pub async fn answers(self: &Arc<Self>) -> bool {
        let answers = self.probe().await;
        if !answers {
            self.record_doubt();
            self.suspect();
        }
        answers
    }

    /// Watches a call that waits for the member.
    pub(super) fn silence(self: Arc<Self>) -> SilenceWatch {
        let watch = async move {
            loop {
                self.doubted().await;
                let mut verdict = self.verdict.subscribe();
                let decided = verdict.wait_for(|verdict| *verdict != Verdict::Suspected).await.map(|verdict| *verdict);
                if matches!(decided, Ok(Verdict::Silent)) {
                    return Error::unavailable(format!("the member at {} does not answer probes", self.addr));
                }
            }
        };
        SilenceWatch::new(watch.boxed())
    }

    /// Probes the member until it answers, after it failed one probe; opens the breaker if it fails more.
    fn suspect(self: &Arc<Self>) {
        let is_new = self.verdict.send_if_modified(|verdict| {
            let is_new = *verdict == Verdict::Answers;
            if is_new {
                *verdict = Verdict::Suspected;
            }
            is_new
        });
        if is_new {
            let member = Arc::downgrade(self);
            tokio::spawn(async move { probe_until_answer(member).await });
        }
    }

    fn set_verdict(&self, new: Verdict) -> Verdict {
        let mut old = new;
        self.verdict.send_if_modified(|verdict| {
            old = std::mem::replace(verdict, new);
            old != new
        });
        old
    }

    fn open_breaker(&self) {
        self.set_verdict(Verdict::Silent);
        tracing::warn!(member = self.addr, "a member does not answer; other members are tried first until it does");
        (self.on_silent)();
    }

    /// Whether the member answers a probe, or answered recently. Concurrent calls share one probe.
    async fn probe(&self) -> bool {
        let asked = Instant::now();
        let mut channel = self.prober.lock().await;
        let (last_answer, last_failure) = {
            let state = self.state.lock();
            (state.last_answer, state.last_failure)
        };
        if last_answer.is_some_and(|at| at + RECENT > asked) {
            return true;
        }
        if last_failure.is_some_and(|at| at > asked) {
            return false;
        }
        match timeout(PROBE_TIMEOUT, self.send_probe(&mut channel)).await {
            Ok(true) => {
                self.record_answer();
                true
            }
            // A connection that lost packets would be slow long after the network is well again.
            _ => {
                *channel = None;
                self.state.lock().last_failure = Some(Instant::now());
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

/// Goes on probing a member that failed a probe, until it answers, is forgotten, or stays silent for too long.
async fn probe_until_answer(member: Weak<MemberHealth>) {
    let began = Instant::now();
    let (mut failed, mut pause) = (1, Duration::ZERO);
    loop {
        sleep(pause).await;
        let Some(member) = member.upgrade() else { return };
        if *member.verdict.borrow() == Verdict::Answers {
            return;
        }
        if began.elapsed() > MAX_BREAKER_TIME {
            member.set_verdict(Verdict::Answers);
            return;
        }
        if member.probe().await {
            return;
        }
        failed += 1;
        if failed == MAX_FAILED_PROBES {
            member.open_breaker();
        }
        if failed >= MAX_FAILED_PROBES {
            pause = (2 * pause).clamp(MIN_BREAKER_PAUSE, MAX_BREAKER_PAUSE);
        }
    }
}
