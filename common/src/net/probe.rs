//! A probe of a member: a call of the gRPC health service, its time limit, and what a sequence of failed ones says.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::time::{Instant, sleep, timeout};
use tonic::body::Body;
use tower::{Service, ServiceExt};

use super::member_channel::MemberChannel;
use crate::grpc;

/// The period of the probes while a call waits.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// A probe without an answer within this time has failed. It includes the connection and its TLS handshake, if there is
/// none yet: a process that hangs accepts connections and leaves handshakes unanswered (docs/adr/0009).
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// The timers of which a probe's time limit consists.
const TIMERS: u32 = 10;
/// An answer is waited for beside the following probes, for this long.
const MAX_ANSWER_TIME: Duration = Duration::from_secs(10);
/// A connection that has given no answer in time for so long is replaced: one that lost packets would be slow long after the
/// network is well again. Not sooner: a member without processor time would have to accept one for each probe.
const RECONNECT_AFTER: Duration = Duration::from_secs(2);
/// A member that leaves this many probes in succession without an answer may hang: one may be late on a busy machine.
const MAX_UNANSWERED_PROBES: u32 = 3;
/// A member that was slow to answer may be silent for this many times as long.
const SILENCE_PER_ANSWER_TIME: u32 = 3;
/// Pauses between the probes of a member that hangs or refuses them.
const MIN_PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// Why a probe failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProbeFailure {
    /// Nothing came back in time, or the member cannot be reached.
    Unanswered,
    /// The member, or the kernel of its machine, refused or closed the connection.
    Refused,
}

/// The connection of a member's probes.
pub(super) struct ProbeConnection {
    channel: MemberChannel,
    /// When it was made, or last gave an answer in time.
    since: Instant,
}

impl ProbeConnection {
    pub(super) fn new(channel: MemberChannel) -> Self {
        ProbeConnection { channel, since: Instant::now() }
    }

    pub(super) fn channel(&self) -> MemberChannel {
        self.channel.clone()
    }

    /// Records how a probe ended. Returns whether the next one should use this connection.
    pub(super) fn record(&mut self, outcome: Result<(), ProbeFailure>) -> bool {
        match outcome {
            Ok(()) => {
                self.since = Instant::now();
                true
            }
            Err(ProbeFailure::Unanswered) => self.since.elapsed() < RECONNECT_AFTER,
            Err(ProbeFailure::Refused) => false,
        }
    }
}

/// Sends a probe and waits for its answer, also when that comes late. Returns when it was sent.
pub(super) async fn send(channel: MemberChannel) -> Result<Instant, ProbeFailure> {
    let sent = Instant::now();
    timeout(MAX_ANSWER_TIME, call(channel)).await.unwrap_or(Err(ProbeFailure::Unanswered))?;
    Ok(sent)
}

async fn call(mut channel: MemberChannel) -> Result<(), ProbeFailure> {
    let ready = channel.ready().await.map_err(|e| failure_of(&e))?;
    let request: Request<Bytes> = grpc::health_request();
    let answer = ready.call(request.map(|body| Body::new(Full::new(body)))).await;
    answer.map(|_| ()).map_err(|e| failure_of(&e))
}

/// Completes after [`PROBE_TIMEOUT`], in which this process had a processor: a timer that fires late counts as long as it was
/// set. Without a processor this process cannot receive the answer either.
pub(super) async fn time_limit() {
    for _ in 0..TIMERS {
        sleep(PROBE_TIMEOUT / TIMERS).await;
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

/// How long a member took to answer its last two probes, late answers included.
#[derive(Debug, Default)]
pub(super) struct AnswerTimes {
    times: [Duration; 2],
    last_answer: Option<Instant>,
}

impl AnswerTimes {
    /// Records that a probe, sent at `sent`, is answered now. Returns the time that it took.
    pub(super) fn record(&mut self, sent: Instant) -> Duration {
        let took = sent.elapsed();
        // Of the probes that waited for the same answer, the first counts.
        if self.last_answer.is_none_or(|answered| sent >= answered) {
            self.times = [self.times[1], took];
            self.last_answer = Some(Instant::now());
        }
        took
    }

    /// How long the member may be silent. One late answer does not count: a process that was stopped is late once, one without
    /// processor time again and again.
    pub(super) fn max_silence(&self) -> Duration {
        SILENCE_PER_ANSWER_TIME * self.times[0].min(self.times[1])
    }
}

/// The probes of a member that failed one.
#[derive(Debug, Default)]
pub(super) struct ProbeSequence {
    /// Probes in succession without an answer.
    unanswered: u32,
    /// When the first of these was sent.
    unanswered_since: Option<Instant>,
    /// The last pause that was longer than the period.
    pause: Duration,
}

impl ProbeSequence {
    /// Records a failed probe, sent at `sent`.
    pub(super) fn record(&mut self, sent: Instant, failure: ProbeFailure) {
        match failure {
            ProbeFailure::Unanswered => {
                self.unanswered += 1;
                self.unanswered_since.get_or_insert(sent);
            }
            ProbeFailure::Refused => (self.unanswered, self.unanswered_since) = (0, None),
        }
    }

    /// The time from the beginning of the last probe to that of the next one. It grows while `is_open`, the breaker, and while
    /// connections are refused.
    pub(super) fn next_after(&mut self, is_open: bool) -> Duration {
        if self.unanswered > 0 && !is_open {
            return PROBE_INTERVAL;
        }
        self.pause = (2 * self.pause).clamp(MIN_PAUSE, MAX_PAUSE);
        PROBE_INTERVAL + self.pause
    }

    /// Since when the last probes, one at least, are without an answer, and their number.
    pub(super) fn unanswered(&self) -> Option<(Instant, u32)> {
        self.unanswered_since.map(|since| (since, self.unanswered))
    }

    /// Since when the member is silent, if enough probes say so.
    pub(super) fn silent_since(&self) -> Option<Instant> {
        self.unanswered_since.filter(|_| self.unanswered >= MAX_UNANSWERED_PROBES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_probes_without_answer_in_succession_count_as_silence() {
        use ProbeFailure::{Refused, Unanswered};
        let mut probes = ProbeSequence::default();
        for failure in [Refused, Unanswered, Unanswered, Refused, Refused, Refused, Refused, Unanswered, Unanswered] {
            probes.record(Instant::now(), failure);
            assert!(probes.next_after(false) >= PROBE_INTERVAL);
            assert_eq!(probes.silent_since(), None, "{probes:?}");
        }
        let first = Instant::now();
        tokio::time::advance(PROBE_INTERVAL).await;
        probes.record(Instant::now(), Unanswered);
        assert_eq!(probes.silent_since(), Some(first));
        assert_eq!(probes.next_after(false), PROBE_INTERVAL, "the breaker is not open yet");
        assert_eq!(probes.next_after(true), PROBE_INTERVAL + MAX_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn member_that_answers_late_each_time_may_be_silent_for_longer() {
        let (mut times, seconds) = (AnswerTimes::default(), Duration::from_secs);
        assert_eq!(times.max_silence(), Duration::ZERO);
        let (first, second) = (Instant::now(), Instant::now() + seconds(1));
        tokio::time::advance(seconds(2)).await;
        assert_eq!(times.record(first), seconds(2));
        assert_eq!(times.record(second), seconds(1));
        assert_eq!(times.max_silence(), Duration::ZERO, "both waited for one that was stopped");
        for (took, silence) in [(1, 3), (4, 3), (4, 12), (0, 0)] {
            let sent = Instant::now();
            tokio::time::advance(seconds(took)).await;
            times.record(sent);
            assert_eq!(times.max_silence(), seconds(silence), "after {took} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn late_timer_counts_as_long_as_it_was_set() {
        let mut limit = std::pin::pin!(time_limit());
        assert!(futures::poll!(limit.as_mut()).is_pending());
        // This process had no processor meanwhile.
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(futures::poll!(limit.as_mut()).is_pending());
        let began = Instant::now();
        limit.await;
        assert!(began.elapsed() >= PROBE_TIMEOUT - 2 * PROBE_TIMEOUT / TIMERS);
    }

    #[tokio::test(start_paused = true)]
    async fn connection_without_an_answer_is_replaced_after_a_while() {
        let channel = tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        let mut connection = ProbeConnection::new(MemberChannel::new(channel));
        assert!(connection.record(Err(ProbeFailure::Unanswered)), "the member may be busy");
        tokio::time::advance(RECONNECT_AFTER).await;
        assert!(!connection.record(Err(ProbeFailure::Unanswered)));
        assert!(connection.record(Ok(())) && connection.record(Err(ProbeFailure::Unanswered)));
        assert!(!connection.record(Err(ProbeFailure::Refused)));
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
