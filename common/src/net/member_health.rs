//! Whether a member answers, by probes: a member that hangs keeps its connections open and accepts new ones.
//!
//! A probe is a call of the gRPC health service over a connection of its own; any response is an answer, and so is whatever
//! else arrives from the member over any connection. Probes are sent only while a call waits for the member, and until a member
//! that failed one answers again.
//!
//! A member without processor time is not taken for one that hangs, however late it answers: an answer counts whenever it comes,
//! and a member is silent only compared with others that answer in time. If none does, this process or the machine is busy.
//!
//! A refused or closed connection is not a hang. A member that drains accepts no connection and still finishes its streams;
//! one that is at its connection limit does the same; and the streams of one that died are reset.

use std::cmp::Reverse;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::address_map::AddressMap;
use super::connector::Connector;
use super::health_state::{HealthState, Verdict};
use super::probe::{self, PROBE_INTERVAL, ProbeConnection, ProbeFailure, ProbeSequence};
use super::received::LastReceived;
use crate::Error;
use crate::http2::SilenceWatch;
use crate::http2::settings::ClientSettings;
use crate::telemetry::GaugeGuard;

/// A call waits this long before the member is probed.
const PROBE_AFTER: Duration = Duration::from_millis(250);
/// An answer this recent makes another probe unnecessary.
const RECENT: Duration = Duration::from_millis(250);
/// How long a call waits for a silent member while no other member answers in time either, and the longest time that a slow
/// member may be silent. Calls of a client with one address end after that, before HTTP/2's keepalive breaks the connection.
const MAX_SILENCE: Duration = Duration::from_secs(5);
/// Other members that are probed at once, for comparison with one that does not answer.
const COMPARED: u32 = 2;
/// How long a member whose last call failed, or was overtaken by a hedge, is tried after the others.
const DEPRIORITIZED_FOR: Duration = Duration::from_secs(5);
/// A member that does not answer for this long is no longer probed, until another call waits for it.
const MAX_PROBING_TIME: Duration = Duration::from_secs(600);
/// Why a breaker is closed.
const ANSWERS_AGAIN: &str = "a member answers again";

/// What this process knows about the health of one member.
pub struct MemberHealth {
    addr: String,
    settings: &'static ClientSettings,
    connector: Connector,
    /// All members whose health this process knows.
    known: Weak<AddressMap<Arc<MemberHealth>>>,
    /// Called when the breaker opens.
    on_silent: Box<dyn Fn() + Send + Sync>,
    received: Arc<LastReceived>,
    state: Mutex<HealthState>,
    verdict: watch::Sender<Verdict>,
    /// Held during a probe, so that concurrent calls share it; the connection of the probes.
    prober: tokio::sync::Mutex<Option<ProbeConnection>>,
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
        known: Weak<AddressMap<Arc<MemberHealth>>>,
        on_silent: impl Fn() + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(MemberHealth {
            addr: addr.to_string(),
            settings,
            connector,
            known,
            on_silent: Box::new(on_silent),
            received: Arc::default(),
            state: Mutex::default(),
            verdict: watch::Sender::new(Verdict::Answers),
            prober: tokio::sync::Mutex::default(),
        })
    }

    /// What the connections to the member record.
    pub(super) fn received(&self) -> Arc<LastReceived> {
        self.received.clone()
    }

    /// When to try this member.
    pub fn rank(&self) -> HealthRank {
        let deprioritized_until = self.state.lock().deprioritized_until;
        match *self.verdict.borrow() {
            Verdict::Silent | Verdict::SilentLikeOthers => HealthRank::Silent,
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
        self.record_sign(Instant::now());
    }

    /// Records that something came from the member at that time.
    fn record_sign(&self, at: Instant) {
        {
            let mut state = self.state.lock();
            state.last_answer = state.last_answer.max(Some(at));
            state.last_failure = None;
        }
        self.close_breaker(ANSWERS_AGAIN);
    }

    /// Whether anything came from the member after `since`.
    fn has_given_sign(&self, since: Instant) -> bool {
        if self.state.lock().last_answer.is_some_and(|at| at > since) {
            return true;
        }
        match self.received.at().filter(|at| *at > since) {
            Some(at) => {
                self.record_sign(at);
                true
            }
            None => false,
        }
    }

    /// Records an answer to a probe that was sent at `sent`.
    fn record_probe(&self, sent: Instant) {
        let is_timely = self.state.lock().record_probe(sent);
        if is_timely { self.record_answer() } else { self.record_reply() }
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

    /// Whether it answers after all, within [`MAX_SILENCE`], after it left a probe unanswered. At once false if it refuses
    /// connections, or hangs while others answer.
    pub(super) async fn answers_late(&self) -> bool {
        if matches!(self.state.lock().last_failure, Some((_, ProbeFailure::Refused))) {
            return false;
        }
        let mut verdict = self.verdict.subscribe();
        let decided = verdict.wait_for(|verdict| matches!(verdict, Verdict::Answers | Verdict::Silent));
        let decided = timeout(MAX_SILENCE, decided).await;
        decided.is_ok_and(|decided| decided.is_ok_and(|verdict| *verdict == Verdict::Answers))
    }

    /// Watches a call that waits for the member.
    pub(super) fn silence(self: Arc<Self>) -> SilenceWatch {
        let watch = async move {
            let until = Instant::now() + MAX_SILENCE;
            loop {
                self.suspected().await;
                let mut verdict = self.verdict.subscribe();
                let decided = verdict.wait_for(|verdict| *verdict != Verdict::Suspected).await.map(|verdict| *verdict);
                let is_silent = match decided {
                    Ok(Verdict::Silent) => true,
                    // To end the call at once would help nobody: no other member is known to be better.
                    Ok(Verdict::SilentLikeOthers) => {
                        let decided = verdict.wait_for(|verdict| *verdict != Verdict::SilentLikeOthers);
                        let decided = timeout_at(until, decided)
                            .await
                            .map(|decided| decided.is_ok_and(|new| *new == Verdict::Silent));
                        decided.unwrap_or(true)
                    }
                    _ => false,
                };
                if is_silent {
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
        old
    }

    /// Closes the breaker, if it is open; the log says `why`.
    fn close_breaker(&self, why: &'static str) {
        if self.set_verdict(Verdict::Answers).is_silent() {
            self.state.lock().open_breaker = None;
            tracing::info!(member = self.addr, "{why}");
        }
    }

    fn open_breaker(&self, verdict: Verdict) {
        let was_open = self.verdict.borrow().is_silent();
        if !was_open {
            metrics::counter!("volley_breaker_openings_total").increment(1);
            self.state.lock().open_breaker = Some(GaugeGuard::count(metrics::gauge!("volley_breakers_open")));
        }
        self.set_verdict(verdict);
        if !was_open {
            tracing::warn!(member = self.addr, "a member does not answer; other members are tried first until it does");
            (self.on_silent)();
        }
    }

    /// Opens the breaker if the probes, and those of other members, say that the member hangs.
    fn check_silence(&self, probes: &ProbeSequence) {
        let Some(since) = probes.silent_since() else { return };
        let (silent_for, verdict) = (since.elapsed(), *self.verdict.borrow());
        let max_silence = self.state.lock().answer_times.max_silence().min(MAX_SILENCE);
        if silent_for >= max_silence && self.others_answer(since) {
            if verdict != Verdict::Silent && verdict != Verdict::Answers {
                self.open_breaker(Verdict::Silent);
            }
        } else if silent_for >= MAX_SILENCE && verdict == Verdict::Suspected {
            self.open_breaker(Verdict::SilentLikeOthers);
        }
    }

    fn others(&self) -> Vec<Arc<MemberHealth>> {
        let mut known = self.known.upgrade().map_or_else(Vec::new, |known| known.values());
        known.retain(|other| other.addr != self.addr);
        known
    }

    /// Whether another member has answered a probe in time after `since`.
    fn others_answer(&self, since: Instant) -> bool {
        self.others().iter().any(|other| other.state.lock().last_timely_answer.is_some_and(|at| at > since))
    }

    /// Probes others than the member that does not answer, first those that answered last, unless it is known that others answer.
    fn probe_others(&self, probes: &ProbeSequence) {
        let Some((since, unanswered)) = probes.unanswered() else { return };
        if *self.verdict.borrow() == Verdict::Silent || self.others_answer(since) {
            return;
        }
        let mut others = self.others();
        others.sort_by_cached_key(|other| Reverse(other.state.lock().last_timely_answer));
        if !others.is_empty() {
            // Each time other ones: those before did not answer in time.
            let at = (COMPARED * (unanswered - 1)) as usize % others.len();
            others.rotate_left(at);
        }
        for other in others.into_iter().take(COMPARED as usize) {
            tokio::spawn(async move {
                // Else a probe is on its way.
                if let Ok(mut prober) = other.prober.try_lock() {
                    // An answer is recorded.
                    let _ = other.send_probe(&mut prober).await;
                }
            });
        }
    }

    /// Probes the member, unless something came from it recently. Concurrent calls share one probe.
    async fn probe(self: &Arc<Self>) -> Result<(), ProbeFailure> {
        let asked = Instant::now();
        let mut prober = self.prober.lock().await;
        if self.has_given_sign(asked.checked_sub(RECENT).unwrap_or(asked)) {
            return Ok(());
        }
        let last_failure = self.state.lock().last_failure;
        if let Some((_, failure)) = last_failure.filter(|(at, _)| *at > asked) {
            return Err(failure);
        }
        self.send_probe(&mut prober).await
    }

    /// Sends a probe and waits for its answer in time. A later answer is recorded, too, as is a failure.
    async fn send_probe(self: &Arc<Self>, prober: &mut Option<ProbeConnection>) -> Result<(), ProbeFailure> {
        let sent = Instant::now();
        if prober.is_none() {
            let channel = self.connector.observed_channel(self.settings, &self.addr, self.received());
            *prober = Some(ProbeConnection::new(channel.map_err(|_| ProbeFailure::Unanswered)?));
        }
        let Some(connection) = prober else { return Err(ProbeFailure::Unanswered) };
        let (member, channel) = (self.clone(), connection.channel());
        let mut answer = tokio::spawn(async move {
            let outcome = probe::send(channel).await;
            outcome.map(|sent| member.record_probe(sent))
        });
        let outcome = tokio::select! {
            biased;
            ended = &mut answer => ended.unwrap_or(Err(ProbeFailure::Unanswered)),
            () = probe::time_limit() => Err(ProbeFailure::Unanswered),
        };
        if !connection.record(outcome) {
            *prober = None;
        }
        match outcome {
            // Something else came from it meanwhile.
            Err(_) if self.has_given_sign(sent) => return Ok(()),
            Err(failure) => self.state.lock().last_failure = Some((Instant::now(), failure)),
            Ok(()) => {}
        }
        outcome
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
        probes.record(asked, failure);
        if let Some(member) = member.upgrade() {
            member.check_silence(&probes);
            member.probe_others(&probes);
        }
        let is_open = verdict.borrow().is_silent();
        let next = asked + probes.next_after(is_open);
        tokio::select! {
            biased;
            // Or an error: the member is forgotten.
            _ = verdict.wait_for(|verdict| *verdict == Verdict::Answers) => return,
            () = sleep_until(next) => {}
        }
        let Some(member) = member.upgrade() else { return };
        asked = Instant::now();
        if asked > until {
            member.close_breaker("a member that does not answer is no longer probed");
            return;
        }
        match member.probe().await {
            Ok(()) => return member.close_breaker(ANSWERS_AGAIN),
            Err(again) => failure = again,
        }
    }
}
