//! How far the clock of a member is off.

use std::fmt;

/// With a larger clock difference tickets expire early or late.
const MAX_CLOCK_SKEW_MS: u64 = 5_000;

/// How far a member's clock is ahead of this machine's, milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClockOffset {
    pub ahead_ms: i64,
    /// The greatest possible error: half of the round trip, and half of the clock's resolution.
    pub error_ms: u64,
}

impl ClockOffset {
    /// A clock that showed `now`, in steps of `resolution_ms`, between two times of this machine's clock.
    pub fn measured(now: u64, resolution_ms: u64, before: u64, after: u64) -> Self {
        let ahead_ms = (now + resolution_ms / 2) as i64 - ((before + after) / 2) as i64;
        ClockOffset { ahead_ms, error_ms: (after.saturating_sub(before) + resolution_ms).div_ceil(2) }
    }

    /// The problem if the clock is certainly off by more than [`MAX_CLOCK_SKEW_MS`].
    pub fn problem(self) -> Option<String> {
        let certain = self.ahead_ms.unsigned_abs().saturating_sub(self.error_ms);
        (certain > MAX_CLOCK_SKEW_MS).then(|| problem_text(self.ahead_ms, "this machine's"))
    }
}

/// The problem if a coordinator's clock is ahead of the leading one's by so much, or behind it: that one stamps what is written.
pub(super) fn skew_problem(ahead_ms: i64, leader: &str) -> Option<String> {
    let leader = format!("that of coordinator {leader}, which leads");
    (ahead_ms.unsigned_abs() > MAX_CLOCK_SKEW_MS).then(|| problem_text(ahead_ms, &leader))
}

fn problem_text(ahead_ms: i64, other: &str) -> String {
    let seconds = ahead_ms.unsigned_abs() as f64 / 1000.0;
    let side = if ahead_ms > 0 { "ahead of" } else { "behind" };
    format!("its clock is {seconds:.1} s {side} {other}: synchronize both with the same time server")
}

impl fmt::Display for ClockOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |ms: f64| ms / 1000.0;
        write!(f, "clock {:+.3} s \u{b1} {:.3} s", seconds(self.ahead_ms as f64), seconds(self.error_ms as f64))
    }
}
