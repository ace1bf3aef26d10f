//! What is recorded about the health of one member.

use tokio::time::Instant;

use super::probe::{AnswerTimes, PROBE_TIMEOUT, ProbeFailure};
use crate::telemetry::GaugeGuard;

/// What the probes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It answers, or nothing is known.
    Answers,
    /// It failed a probe; a task goes on probing it until it answers.
    Suspected,
    /// It left several probes unanswered, and no other member answered in time either: the breaker is open until it answers,
    /// and a call that has not waited long goes on waiting.
    SilentLikeOthers,
    /// It left several unanswered while others answered: the breaker is open until it answers.
    Silent,
}

impl Verdict {
    /// Whether the breaker is open.
    pub(super) fn is_silent(self) -> bool {
        matches!(self, Verdict::SilentLikeOthers | Verdict::Silent)
    }
}

/// What came from the member, and when.
#[derive(Default)]
pub(super) struct HealthState {
    pub last_answer: Option<Instant>,
    /// When it last answered a probe in time.
    pub last_timely_answer: Option<Instant>,
    pub answer_times: AnswerTimes,
    pub last_failure: Option<(Instant, ProbeFailure)>,
    pub deprioritized_until: Option<Instant>,
    /// Counts the breaker while it is open.
    pub open_breaker: Option<GaugeGuard>,
}

impl HealthState {
    /// Records that a probe, sent at `sent`, is answered now. Returns whether that is in time.
    pub(super) fn record_probe(&mut self, sent: Instant) -> bool {
        let is_timely = self.answer_times.record(sent) <= PROBE_TIMEOUT;
        if is_timely {
            self.last_timely_answer = Some(Instant::now());
        }
        is_timely
    }
}
