//! One budget of memory for all replies of members that this process passes on.
//!
//! A reply that its client does not read takes the window of its stream, and what was passed on but not sent yet. Both are
//! smaller the more of the budget is taken; when it is used up, further calls are refused. One caller's streams get narrower
//! sooner, and take half of the budget at most.

use std::sync::Arc;

use super::settings::{FRAME_SIZE, STREAM_WINDOW, StreamWindow};
use crate::fair_budget::{BudgetLimits, BudgetScope, BudgetShare, FairBudget};
use crate::{Error, Result};

/// The budget if none is configured, bytes.
pub const RELAY_MEMORY: u64 = 512 << 20;
/// The least budget.
pub const MIN_RELAY_MEMORY: u64 = 64 << 20;
/// Shares are in this many parts of the budget.
const SHARES: u64 = 16;
/// How long a client should wait before it repeats a call that was refused, milliseconds.
const RETRY_MS: u64 = 500;

/// How much of a reply may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RelayClass {
    /// Streams get this class until this share of the budget is taken.
    share: u64,
    /// Those of one caller, until it has taken this share of the budget.
    caller_share: u64,
    /// What one stream takes of the budget, bytes: all of the following, and its tasks and headers.
    charge: u64,
    pub window: StreamWindow,
    /// No more of the reply is passed on while this many bytes of it are not sent.
    max_unsent: usize,
    /// Whether a node holds whole messages, so that another holder can continue after any of them.
    has_whole_messages: bool,
}

/// Widest first. The last window carries some 40 MB/s at a round trip of 0.2 ms, and there are thousands of those. It is a
/// little less than 8 KiB, so that a frame and its head fit the buffer of 8 KiB into which h2 reads: of a frame of 12 KiB the
/// buffer had 16 KiB.
pub(crate) const RELAY_CLASSES: [RelayClass; 4] = [
    RelayClass {
        share: 4,
        caller_share: 3,
        charge: 7 << 20,
        window: StreamWindow { window: STREAM_WINDOW, max_frame_size: FRAME_SIZE },
        max_unsent: 2 << 20,
        has_whole_messages: true,
    },
    RelayClass {
        share: 5,
        caller_share: 4,
        charge: 2 << 20,
        window: StreamWindow { window: 64 << 10, max_frame_size: 16 << 10 },
        max_unsent: 64 << 10,
        has_whole_messages: true,
    },
    RelayClass {
        share: 6,
        caller_share: 5,
        charge: 128 << 10,
        window: StreamWindow { window: 64 << 10, max_frame_size: 16 << 10 },
        max_unsent: 32 << 10,
        has_whole_messages: false,
    },
    RelayClass {
        share: SHARES,
        caller_share: SHARES / 2,
        charge: 24 << 10,
        window: StreamWindow { window: 8000, max_frame_size: 16 << 10 },
        max_unsent: 1,
        has_whole_messages: false,
    },
];

/// The budget; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct RelayBudget {
    bytes: u64,
    budget: FairBudget,
}

/// What one stream takes of the budget, until it is dropped.
#[derive(Debug)]
pub(crate) struct RelayShare {
    class: usize,
    _taken: BudgetShare,
}

impl RelayBudget {
    /// A budget of `bytes`.
    pub fn new(bytes: u64) -> Self {
        RelayBudget { bytes, budget: FairBudget::default() }
    }

    /// Takes the share of a further stream, of the widest class that has space. `caller`: whose stream it is; `None`: nobody's in
    /// particular.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: the budget is used up, or the caller's part of it is.
    pub fn take(&self, caller: Option<&Arc<str>>) -> Result<RelayShare> {
        let limits = |class: &RelayClass| BudgetLimits {
            all: self.bytes / SHARES * class.share,
            of_owner: self.bytes / SHARES * class.caller_share,
        };
        let classes = RELAY_CLASSES.iter().map(|class| (class.charge, limits(class)));
        match self.budget.take_widest(caller, classes) {
            Ok((class, taken)) => Ok(RelayShare { class, _taken: taken }),
            Err(reached) => Err(self.refusal(reached, caller.map_or("the caller", |caller| &**caller))),
        }
    }

    /// Bytes that are taken, and the whole budget.
    pub fn usage(&self) -> (u64, u64) {
        (self.budget.taken(), self.bytes)
    }

    fn refusal(&self, reached: BudgetScope, caller: &str) -> Error {
        let mib = self.bytes >> 20;
        metrics::counter!("volley_relays_refused_total", "scope" => reached.label()).increment(1);
        let taken = match reached {
            BudgetScope::All => format!("the streams that this process passes on take all of its {mib} MiB"),
            BudgetScope::Owner => format!(
                "the streams that this process passes on to {caller} take half of its {mib} MiB, the most that one may have"
            ),
        };
        Error::exhausted(format!(
            "{taken} (`relay_memory_bytes`): read at the locations of the endpoints, or try again when other streams have ended"
        ))
        .retry_after(RETRY_MS)
    }
}

impl RelayShare {
    /// The index in [`RELAY_CLASSES`].
    pub fn class(&self) -> usize {
        self.class
    }

    pub fn max_unsent(&self) -> usize {
        RELAY_CLASSES[self.class].max_unsent
    }

    pub fn has_whole_messages(&self) -> bool {
        RELAY_CLASSES[self.class].has_whole_messages
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Code;

    /// Streams until the budget is used up.
    fn fill(budget: &RelayBudget) -> Vec<RelayShare> {
        std::iter::from_fn(|| budget.take(None).ok()).collect()
    }

    #[test]
    fn streams_get_narrower_until_the_budget_is_used_up() {
        let budget = RelayBudget::new(RELAY_MEMORY);
        let streams = fill(&budget);
        assert!(streams.len() > 10_000 && streams.is_sorted_by_key(RelayShare::class), "{}", streams.len());
        let of_class = |class| streams.iter().filter(|stream| stream.class() == class).count();
        assert!((0..RELAY_CLASSES.len()).all(|class| of_class(class) >= 16), "every class is used");
        let error = budget.take(None).unwrap_err();
        assert_eq!((error.code, error.retry_after_ms), (Code::ResourceExhausted, Some(RETRY_MS)));
        assert!(error.message.contains("relay_memory_bytes"), "{error}");
        drop(streams);
        assert_eq!(budget.take(None).unwrap().class(), 0, "what is dropped is free again");
    }

    #[test]
    fn one_caller_leaves_memory_for_the_others() {
        let budget = RelayBudget::new(RELAY_MEMORY);
        let (greedy, other): (Arc<str>, Arc<str>) = ("greedy".into(), "other".into());
        let streams: Vec<_> = std::iter::from_fn(|| budget.take(Some(&greedy)).ok()).collect();
        assert!(streams.len() > 4_000 && streams.is_sorted_by_key(RelayShare::class), "{}", streams.len());
        let wide = streams.iter().filter(|stream| stream.class() == 0).count();
        assert!(wide >= 12, "{wide} wide streams are enough for a client that reads in parallel");
        let error = budget.take(Some(&greedy)).unwrap_err();
        assert_eq!((error.code, error.retry_after_ms), (Code::ResourceExhausted, Some(RETRY_MS)));
        assert!(error.message.contains("greedy take half of its 512 MiB"), "{error}");
        let others: Vec<_> = std::iter::from_fn(|| budget.take(Some(&other)).ok()).take(1_000).collect();
        assert_eq!(others.len(), 1_000, "another caller gets streams");
    }

    #[test]
    fn charge_covers_window_and_unsent_bytes() {
        for class in RELAY_CLASSES {
            let unsent = class.max_unsent as u64 + u64::from(class.window.max_frame_size.min(class.window.window));
            let message = if class.has_whole_messages { 512 << 10 } else { 4 << 10 };
            assert!(u64::from(class.window.window) + unsent + message <= class.charge, "{class:?}");
        }
    }

    #[test]
    fn smallest_budget_has_a_wide_stream() {
        let caller: Arc<str> = "a".into();
        assert_eq!(RelayBudget::new(MIN_RELAY_MEMORY).take(Some(&caller)).unwrap().class(), 0);
    }
}
