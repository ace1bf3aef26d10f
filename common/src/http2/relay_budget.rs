//! One budget of memory for all replies of members that this process passes on.
//!
//! A reply that its client does not read takes the window of its stream, and what was passed on but not sent yet. Both are
//! smaller the more of the budget is taken; when it is used up, further calls are refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::settings::{FRAME_SIZE, STREAM_WINDOW, StreamWindow};
use crate::{Error, Result};

/// The budget if none is configured, bytes.
pub const RELAY_MEMORY: u64 = 512 << 20;
/// The least budget.
pub const MIN_RELAY_MEMORY: u64 = 64 << 20;
/// [`RelayClass::share`] is in this many parts of the budget.
const SHARES: u64 = 8;

/// How much of a reply may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RelayClass {
    /// Streams get this class until this share of the budget is taken.
    share: u64,
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
        share: 2,
        charge: 7 << 20,
        window: StreamWindow { window: STREAM_WINDOW, max_frame_size: FRAME_SIZE },
        max_unsent: 2 << 20,
        has_whole_messages: true,
    },
    RelayClass {
        share: 3,
        charge: 2 << 20,
        window: StreamWindow { window: 64 << 10, max_frame_size: 16 << 10 },
        max_unsent: 64 << 10,
        has_whole_messages: true,
    },
    RelayClass {
        share: 4,
        charge: 128 << 10,
        window: StreamWindow { window: 64 << 10, max_frame_size: 16 << 10 },
        max_unsent: 32 << 10,
        has_whole_messages: false,
    },
    RelayClass {
        share: SHARES,
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
    taken: Arc<AtomicU64>,
}

/// What one stream takes of the budget, until it is dropped.
#[derive(Debug)]
pub(crate) struct RelayShare {
    budget: RelayBudget,
    class: usize,
}

impl RelayBudget {
    /// A budget of `bytes`.
    pub fn new(bytes: u64) -> Self {
        RelayBudget { bytes, taken: Arc::default() }
    }

    /// Takes the share of a further stream, of the widest class that has space.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: the budget is used up.
    pub fn take(&self) -> Result<RelayShare> {
        let fits = |class: &RelayClass| {
            let limit = self.bytes / SHARES * class.share;
            let take = |taken| Some(taken + class.charge).filter(|taken| *taken <= limit);
            self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
        };
        match RELAY_CLASSES.iter().position(fits) {
            Some(class) => Ok(RelayShare { budget: self.clone(), class }),
            None => Err(Error::exhausted(format!(
                "the streams that this process passes on take all of its {} MiB (`relay_memory_bytes`): read at the locations of the endpoints, or try again when other streams have ended",
                self.bytes >> 20
            ))),
        }
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

impl Drop for RelayShare {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(RELAY_CLASSES[self.class].charge, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Code;

    /// Streams until the budget is used up.
    fn fill(budget: &RelayBudget) -> Vec<RelayShare> {
        std::iter::from_fn(|| budget.take().ok()).collect()
    }

    #[test]
    fn streams_get_narrower_until_the_budget_is_used_up() {
        let budget = RelayBudget::new(RELAY_MEMORY);
        let streams = fill(&budget);
        assert!(streams.len() > 10_000 && streams.is_sorted_by_key(RelayShare::class), "{}", streams.len());
        let of_class = |class| streams.iter().filter(|stream| stream.class() == class).count();
        assert!((0..RELAY_CLASSES.len()).all(|class| of_class(class) >= 16), "every class is used");
        let error = budget.take().unwrap_err();
        assert_eq!(error.code, Code::ResourceExhausted);
        assert!(error.message.contains("relay_memory_bytes"), "{error}");
        drop(streams);
        assert_eq!(budget.take().unwrap().class(), 0, "what is dropped is free again");
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
        assert_eq!(RelayBudget::new(MIN_RELAY_MEMORY).take().unwrap().class(), 0);
    }
}
