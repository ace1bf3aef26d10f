//! Whether a member answers, by probes: a member that hangs keeps its connections open and accepts new ones.
//!
//! A probe is a call of the gRPC health service over a connection of its own; any response is an answer, and so is a reply to any
//! other call. Probes are sent only while a call waits for the member, and until a member that failed one answers again.
//!
//! A refused or closed connection is not a hang. A member that drains accepts no connection and still finishes its streams;
//! one that is at its connection limit does the same; and the streams of one that died are reset.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http::Request;
use http_body_util::Full;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::body::Body;
use tower::{Service, ServiceExt};

use super::connector::Connector;
use super::member_channel::MemberChannel;
use crate::http2::SilenceWatch;
use crate::http2::settings::ClientSettings;
use crate::telemetry::GaugeGuard;
use crate::{Error, grpc};

/// A call waits this long before the member is probed.
const PROBE_AFTER: Duration = Duration::from_millis(250);
/// The period of the probes while a call waits.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// A probe without an answer within this time has failed. It includes the connection and its TLS handshake, if there is
/// none yet: a process that hangs accepts connections and leaves handshakes unanswered (docs/adr/0009).
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// A member that leaves this many probes in succession without an answer hangs: one may be late on a busy machine.
const MAX_UNANSWERED_PROBES: u32 = 3;
/// An answer this recent makes another probe unnecessary.
const RECENT: Duration = Duration::from_millis(250);
/// How long a member whose last call failed, or was overtaken by a hedge, is tried after the others.
const DEPRIORITIZED_FOR: Duration = Duration::from_secs(5);
/// Pauses between the probes of a member that hangs or refuses them.
const MIN_PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// A member that does not answer for this long is no longer probed, until another call waits for it.
const MAX_PROBING_TIME: Duration = Duration::from_secs(600);

/// What this process knows about the health of one member.
pub struct MemberHealth {
    addr: String,
    settings: &'static ClientSettings,
    connector: Connector,
    /// Called when the breaker opens.
    on_silent: Box<dyn Fn() + Send + Sync>,
    state: Mutex<HealthState>,
    verdict: watch::Sender<Verdict>,
    /// Held during a probe, so that concurrent calls share it; the connection of the probes.
    prober: tokio::sync::Mutex<Option<MemberChannel>>,
}

#[derive(Default)]
struct HealthState {
    last_answer: Option<Instant>,
    last_failure: Option<(Instant, ProbeFailure)>,
    deprioritized_until: Option<Instant>,
    /// Counts the breaker while it is open.
    open_breaker: Option<GaugeGuard>,
}

/// Why a probe failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProbeFailure {
    /// Nothing came back in time, or the member cannot be reached.
    Unanswered,
    /// The member, or the kernel of its machine, refused or closed the connection.
    Refused,
}

/// What the probes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It answers, or nothing is known.
    Answers,
    /// It failed a probe; a task goes on probing it until it answers.
    Suspected,
    /// It left several unanswered: the breaker is open until it answers.
    Silent,
}

/// The order in which members are tried: those with an open breaker last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HealthRank {
    /// Nothing is wrong as far as this process knows.
    Answers,
    /// Its last call or probe failed, or another member was faster.
    Deprioritized,
    /// It hangs: the breaker is open until it answers a probe.
    Silent,
}

impl MemberHealth {
    pub(super) fn new(
        addr: &str,
        settings: &'static ClientSettings,
        connector: Connector,
        on_silent: impl Fn() + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(MemberHealth {
            addr: addr.to_string(),
            settings,
            connector,
            on_silent: Box::new(on_silent),
            state: Mutex::default(),
            verdict: watch::Sender::new(Verdict::Answers),
            prober: tokio::sync::Mutex::default(),
        })
    }

    /// When to try this member.
    pub fn rank(&self) -> HealthRank {
        let deprioritized_until = self.state.lock().deprioritized_until;
        match *self.verdict.borrow() {
            Verdict::Silent => HealthRank::Silent,
            Verdict::Suspected => HealthRank::Deprioritized,
            Verdict::Answers if deprioritized_until.is_some_and(|until| until > Instant::now()) => {
                HealthRank::Deprioritized
            }
            Verdict::Answers => HealthRank::Answers,
        }
    }

    /// Records an answer to a probe, or one that came first: closes the breaker, and the member is tried with the others again.
    pub fn record_answer(&self) {
        self.state.lock().deprioritized_until = None;
        self.record_reply();
    }

    /// Records a reply to a call: closes the breaker, also of a member that is too busy to answer a probe in time. Whether others
    /// are faster is not known from it.
    pub(super) fn record_reply(&self) {
        {
            let mut state = self.state.lock();
            (state.last_answer, state.last_failure) = (Some(Instant::now()), None);
        }
        if self.set_verdict(Verdict::Answers) == Verdict::Silent {
            tracing::info!(member = self.addr, "a member answers again");
        }
    }

    /// Tries the member after others for a while.
    pub fn deprioritize(&self) {
        self.state.lock().deprioritized_until = Some(Instant::now() + DEPRIORITIZED_FOR);
    }

    /// Completes when the member fails a probe: it may hang, drain, or be dead.
    pub async fn suspected(self: &Arc<Self>) {
        sleep(PROBE_AFTER).await;
        while self.answers().await {
            sleep(PROBE_INTERVAL).await;
        }
    }

    /// Whether it answered a moment ago, or answers a probe now.
    pub async fn answers(self: &Arc<Self>) -> bool {
        let asked = Instant::now();
        match self.probe().await {
            Ok(()) => true,
            Err(failure) => {
                self.deprioritize();
                self.suspect(asked, failure);
                false
            }
        }
    }

    /// Watches a call that waits for the member.
    pub(super) fn silence(self: Arc<Self>) -> SilenceWatch {
        let watch = async move {
            loop {
                self.suspected().await;
                let mut verdict = self.verdict.subscribe();
                let decided = verdict.wait_for(|verdict| *verdict != Verdict::Suspected).await.map(|verdict| *verdict);
                if matches!(decided, Ok(Verdict::Silent)) {
                    return Error::unavailable(format!("the member at {} does not answer probes", self.addr));
                }
            }
        };
        SilenceWatch::new(watch.boxed())
    }

    /// Probes the member until it answers, after it failed one probe; opens the breaker if it leaves more unanswered.
    fn suspect(self: &Arc<Self>, asked: Instant, failure: ProbeFailure) {
        let is_new = self.verdict.send_if_modified(|verdict| {
            let is_new = *verdict == Verdict::Answers;
            if is_new {
                *verdict = Verdict::Suspected;
            }
            is_new
        });
        if is_new {
            let (member, verdict) = (Arc::downgrade(self), self.verdict.subscribe());
            tokio::spawn(async move { probe_until_answer(member, verdict, asked, failure).await });
        }
    }

    fn set_verdict(&self, new: Verdict) -> Verdict {
        let mut old = new;
        self.verdict.send_if_modified(|verdict| {
            old = std::mem::replace(verdict, new);
            old != new
        });
        if old == Verdict::Silent && new != Verdict::Silent {
            self.state.lock().open_breaker = None;
        }
        old
    }

    fn open_breaker(&self) {
        metrics::counter!("volley_breaker_openings_total").increment(1);
        self.state.lock().open_breaker = Some(GaugeGuard::count(metrics::gauge!("volley_breakers_open")));
        self.set_verdict(Verdict::Silent);
        tracing::warn!(member = self.addr, "a member does not answer; other members are tried first until it does");
        (self.on_silent)();
    }

    /// Probes the member, unless it answered recently. Concurrent calls share one probe.
    async fn probe(&self) -> Result<(), ProbeFailure> {
        let asked = Instant::now();
        let mut channel = self.prober.lock().await;
        let (last_answer, last_failure) = {
            let state = self.state.lock();
            (state.last_answer, state.last_failure)
        };
        if last_answer.is_some_and(|at| at + RECENT > asked) {
            return Ok(());
        }
        if let Some((_, failure)) = last_failure.filter(|(at, _)| *at > asked) {
            return Err(failure);
        }
        let sent = timeout(PROBE_TIMEOUT, self.send_probe(&mut channel)).await;
        match sent.unwrap_or(Err(ProbeFailure::Unanswered)) {
            Ok(()) => {
                self.record_answer();
                Ok(())
            }
            // A connection that lost packets would be slow long after the network is well again.
            Err(failure) => {
                *channel = None;
                let mut state = self.state.lock();
                if state.last_answer.is_some_and(|at| at > asked) {
                    // A call was replied to meanwhile.
                    return Ok(());
                }
                state.last_failure = Some((Instant::now(), failure));
                Err(failure)
            }
        }
    }

    async fn send_probe(&self, channel: &mut Option<MemberChannel>) -> Result<(), ProbeFailure> {
        let connected = match channel.take() {
            Some(connected) => connected,
            None => match self.connector.channel(self.settings, &self.addr) {
                Ok(channel) => channel,
                Err(_) => return Err(ProbeFailure::Unanswered),
            },
        };
        let mut calling = channel.insert(connected).clone();
        let ready = calling.ready().await.map_err(|e| failure_of(&e))?;
        let request: Request<Bytes> = grpc::health_request();
        let answer = ready.call(request.map(|body| Body::new(Full::new(body)))).await;
        answer.map(|_| ()).map_err(|e| failure_of(&e))
    }
}

/// What the error of a probe says. Unless it says that nothing came back, it is a refusal: to end the streams of a member
/// that drains is worse than to wait for HTTP/2's keepalive.
fn failure_of(error: &(dyn std::error::Error + 'static)) -> ProbeFailure {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let unanswered = match (error.downcast_ref::<io::Error>(), error.downcast_ref::<hyper::Error>()) {
            (Some(io), _) => matches!(
                io.kind(),
                io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable
            ),
            (_, Some(http)) => http.is_timeout(),
            _ => error.is::<tonic::TimeoutExpired>(),
        };
        if unanswered {
            return ProbeFailure::Unanswered;
        }
        cause = error.source();
    }
    ProbeFailure::Refused
}

/// The probes of a member that failed one.
#[derive(Debug, Default)]
struct ProbeSequence {
    /// Probes in succession without an answer.
    unanswered: u32,
    /// The last pause that was longer than the period.
    pause: Duration,
}

impl ProbeSequence {
    /// Records a failed probe. Returns the time from its beginning to that of the next one.
    fn record(&mut self, failure: ProbeFailure) -> Duration {
        self.unanswered = match failure {
            ProbeFailure::Unanswered => self.unanswered + 1,
            ProbeFailure::Refused => 0,
        };
        if failure == ProbeFailure::Unanswered && self.unanswered < MAX_UNANSWERED_PROBES {
            return PROBE_INTERVAL;
        }
        self.pause = (2 * self.pause).clamp(MIN_PAUSE, MAX_PAUSE);
        PROBE_INTERVAL + self.pause
    }

    fn is_silent(&self) -> bool {
        self.unanswered >= MAX_UNANSWERED_PROBES
    }
}

/// Goes on probing a member whose probe, sent at `asked`, failed: until it answers, is forgotten, or has not answered for
/// too long.
async fn probe_until_answer(
    member: Weak<MemberHealth>,
    mut verdict: watch::Receiver<Verdict>,
    mut asked: Instant,
    mut failure: ProbeFailure,
) {
    let until = asked + MAX_PROBING_TIME;
    let mut probes = ProbeSequence::default();
    loop {
        let next = asked + probes.record(failure);
        if probes.is_silent()
            && *verdict.borrow() == Verdict::Suspected
            && let Some(member) = member.upgrade()
        {
            member.open_breaker();
        }
        tokio::select! {
            biased;
            // Or an error: the member is forgotten.
            _ = verdict.wait_for(|verdict| *verdict == Verdict::Answers) => return,
            () = sleep_until(next) => {}
        }
        let Some(member) = member.upgrade() else { return };
        asked = Instant::now();
        if asked > until {
            member.set_verdict(Verdict::Answers);
            return;
        }
        match member.probe().await {
            Ok(()) => return,
            Err(again) => failure = again,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_probes_without_answer_in_succession_count_as_silence() {
        use ProbeFailure::{Refused, Unanswered};
        let mut probes = ProbeSequence::default();
        for failure in [Refused, Unanswered, Unanswered, Refused, Refused, Refused, Refused, Unanswered, Unanswered] {
            assert!(probes.record(failure) >= PROBE_INTERVAL);
            assert!(!probes.is_silent(), "{probes:?}");
        }
        probes.record(Unanswered);
        assert!(probes.is_silent());
        assert_eq!(probes.record(Unanswered), PROBE_INTERVAL + MAX_PAUSE);
    }

    #[test]
    fn unreachable_machine_is_not_a_refusal() {
        let of = |kind| failure_of(&io::Error::from(kind));
        assert_eq!(of(io::ErrorKind::HostUnreachable), ProbeFailure::Unanswered);
        for kind in [io::ErrorKind::ConnectionRefused, io::ErrorKind::ConnectionReset, io::ErrorKind::UnexpectedEof] {
            assert_eq!(of(kind), ProbeFailure::Refused, "{kind}");
        }
    }
}
