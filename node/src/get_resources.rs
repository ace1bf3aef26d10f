//! What all gets of a node share, and its limits: memory for what they copy, how many of them decompress or filter at once, and
//! how many threads scan.
//!
//! A get sends slices of mapped files, which take no memory of the process: they are page cache, and HTTP/2 holds the slices,
//! not copies, until they are sent. What a get does hold while its client does not read are its ticket, the headers of its
//! messages, the last page of each (docs/adr/0006-sigbus.md) and the batch in which a limit ends. Most gets hold some ten KiB of
//! those; one of a table with many tiny batches holds as much as it may.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use volley_common::fair_budget::{BudgetLimits, BudgetScope, BudgetShare, FairBudget};
use volley_common::fairness::CallerKey;
use volley_common::{Error, Result};

/// The memory of all gets if none is configured, bytes.
pub const GET_MEMORY: u64 = 512 << 20;
/// The least memory.
pub const MIN_GET_MEMORY: u64 = 64 << 20;
/// The most bytes of a window of messages that are copied.
pub const COPIED_BYTES: u64 = 512 << 10;
/// The last message of a window may have this many bytes more, of which the header and a last page are copied.
const LAST_MESSAGE: u64 = 16 << 10;
/// Windows of which a get holds the copies: one that is being sent, one whose messages follow, and the next.
const WINDOWS: u64 = 3;
/// What a ticket takes, decoded, for each of its bytes.
const TICKET_EXPANSION: u64 = 3;
/// What a projection takes for each byte of its table's schema.
const SCHEMA_EXPANSION: u64 = 4;
/// The limits of [`GET_CLASSES`] are in this many parts of the memory.
const SHARES: u64 = 16;
/// How long a client should wait before it repeats a get that was refused, milliseconds.
const RETRY_MS: u64 = 500;

/// How much a get may copy at once.
struct GetClass {
    /// Gets have this class until this share of the memory is taken,
    share: u64,
    /// and those of one caller until it has taken this share.
    caller_share: u64,
    /// What a get takes for its copies, bytes.
    charge: u64,
    /// A window of messages ends when this many bytes of it are copied; 1: with its first message.
    copied_bytes: u64,
}

const fn charge_for(copied_bytes: u64) -> u64 {
    WINDOWS * (copied_bytes + LAST_MESSAGE)
}

/// Widest first. The last one takes what three messages of a usual table copy. With the default memory it has space for about as
/// many gets as `max_calls` and `max_calls_per_principal` permit.
const GET_CLASSES: [GetClass; 3] = [
    GetClass { share: 4, caller_share: 3, charge: charge_for(COPIED_BYTES), copied_bytes: COPIED_BYTES },
    GetClass { share: 8, caller_share: 4, charge: charge_for(64 << 10), copied_bytes: 64 << 10 },
    GetClass { share: SHARES, caller_share: SHARES / 2, charge: 16 << 10, copied_bytes: 1 },
];

/// The memory of all gets of a node; clones share it.
#[derive(Clone)]
pub struct GetMemory {
    bytes: u64,
    budget: FairBudget,
}

/// What one get takes of the memory, until it is dropped.
pub struct GetShare {
    memory: GetMemory,
    caller: Option<Arc<str>>,
    taken: BudgetShare,
    /// For what is held from the beginning to the end.
    fixed: u64,
    copied_bytes: u64,
}

impl GetMemory {
    /// This many bytes.
    pub fn new(bytes: u64) -> Self {
        GetMemory { bytes, budget: FairBudget::default() }
    }

    /// Takes the share of a further get, of the widest class that has space. `ticket`, `projected_schema`: bytes of the ticket, and of
    /// the schema if columns are selected.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED, with the time after which the get may be repeated: the memory is used up, or the caller's half is.
    pub fn admit(&self, caller: &CallerKey, ticket: usize, projected_schema: usize) -> Result<Arc<GetShare>> {
        let caller = caller.budget_owner();
        let fixed = ticket as u64 * TICKET_EXPANSION + projected_schema as u64 * SCHEMA_EXPANSION;
        let limits = |class: &GetClass| BudgetLimits {
            all: self.bytes / SHARES * class.share,
            of_owner: self.bytes / SHARES * class.caller_share,
        };
        let classes = GET_CLASSES.iter().map(|class| (fixed + class.charge, limits(class)));
        match self.budget.take_widest(caller.as_ref(), classes) {
            Ok((class, taken)) => {
                let (memory, copied_bytes) = (self.clone(), GET_CLASSES[class].copied_bytes);
                Ok(Arc::new(GetShare { memory, caller, taken, fixed, copied_bytes }))
            }
            Err(reached) => Err(self.refusal(reached, caller.as_deref())),
        }
    }

    /// Bytes that are taken, and all.
    pub fn usage(&self) -> (u64, u64) {
        (self.budget.taken(), self.bytes)
    }

    fn refusal(&self, reached: BudgetScope, caller: Option<&str>) -> Error {
        let (mib, caller) = (self.bytes >> 20, caller.unwrap_or("the caller"));
        let taken = match reached {
            BudgetScope::All => format!("the gets of this node hold all of their {mib} MiB of memory"),
            BudgetScope::Owner => format!(
                "the gets of {caller} hold half of the {mib} MiB that a node has for gets, the most that one may have"
            ),
        };
        metrics::counter!("volley_gets_refused_total", "scope" => reached.label()).increment(1);
        Error::exhausted(format!(
            "{taken} (`get_memory_bytes`): open fewer streams at a time, read those that are open to their end, or read at another node"
        ))
        .retry_after(RETRY_MS)
    }
}

impl GetShare {
    /// A window of messages ends when this many bytes of it are copied; 1: with its first message.
    pub fn copied_bytes(&self) -> u64 {
        self.copied_bytes
    }

    /// Makes sure that a window with so many copied bytes is covered: one with a long header, or a batch that is cut.
    ///
    /// # Errors
    /// As [`GetMemory::admit`].
    pub fn cover(&self, copied: u64) -> Result<()> {
        if copied <= self.copied_bytes + LAST_MESSAGE {
            return Ok(());
        }
        let needed = self.fixed.saturating_add(copied.saturating_mul(WINDOWS));
        let raised = self.taken.raise_to(needed, BudgetLimits::halved(self.memory.bytes));
        raised.map_err(|scope| self.memory.refusal(scope, self.caller.as_deref()))
    }
}

/// Places of gets that decompress, or of those that filter. Such a get holds up to three windows or batches of about 1 MiB while
/// its client does not read: one that waits to be sent, and two that follow.
#[derive(Clone)]
pub struct GetSlots {
    slots: FairBudget,
    max_gets: usize,
    purpose: SlotPurpose,
}

/// The place of one get.
pub struct GetSlot {
    _slot: BudgetShare,
}

/// What the gets have places for.
#[derive(Clone, Copy)]
enum SlotPurpose {
    Decompress,
    Filter,
}

impl GetSlots {
    /// Places for this many gets that decompress.
    pub fn for_decompressing(max_gets: usize) -> Self {
        GetSlots { slots: FairBudget::default(), max_gets, purpose: SlotPurpose::Decompress }
    }

    /// Places for this many gets with a filter.
    pub fn for_filtering(max_gets: usize) -> Self {
        GetSlots { slots: FairBudget::default(), max_gets, purpose: SlotPurpose::Filter }
    }

    /// Admits one more get. None ever waits for another, because a client may read its streams one after the other.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED, with the time after which the get may be repeated: all places are taken, or the caller has half of
    /// them.
    pub fn admit(&self, caller: &CallerKey) -> Result<GetSlot> {
        let (owner, limits) = (caller.budget_owner(), BudgetLimits::halved(self.max_gets as u64));
        let taken = match self.slots.take(owner.as_ref(), 1, limits) {
            Ok(slot) => return Ok(GetSlot { _slot: slot }),
            Err(BudgetScope::All) => format!("for {} gets already", self.max_gets),
            Err(BudgetScope::Owner) => format!("for {} gets of {caller} already, half of what it can", limits.of_owner),
        };
        let message = match self.purpose {
            SlotPurpose::Decompress => {
                metrics::counter!("volley_decompressing_gets_refused_total").increment(1);
                format!(
                    "this node decompresses {taken} (`max_decompressing_gets`): open fewer streams at a time, read at another \
                     node, or leave out the option \"decompress\""
                )
            }
            SlotPurpose::Filter => {
                metrics::counter!("volley_filtered_gets_refused_total").increment(1);
                format!(
                    "this node filters {taken} (`max_filtered_gets`): open fewer streams at a time, or read at another node"
                )
            }
        };
        Err(Error::exhausted(message).retry_after(RETRY_MS))
    }
}

/// The threads that scan parts; clones share them.
#[derive(Clone)]
pub struct ScanThreads {
    threads: Arc<Semaphore>,
}

impl ScanThreads {
    /// This many at the same time.
    pub fn new(max_threads: usize) -> Self {
        ScanThreads { threads: Arc::new(Semaphore::new(max_threads.max(1))) }
    }

    /// Waits for a thread, in turn. It is held while a step of a scan runs, never while a client is waited for.
    pub async fn acquire(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        self.threads.clone().acquire_owned().await.ok()
    }

    /// Waits until no step of a scan runs; none begins before the result is dropped.
    #[cfg(test)]
    pub async fn pause(&self) -> OwnedSemaphorePermit {
        self.threads.clone().acquire_many_owned(max_scan_threads() as u32).await.expect("the semaphore is never closed")
    }
}

/// How many threads scan at once: twice the cores, because some of them wait for the disk.
pub fn max_scan_threads() -> usize {
    2 * std::thread::available_parallelism().map_or(2, usize::from)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::Code;

    use super::*;

    fn caller(name: &str) -> CallerKey {
        CallerKey::Principal(name.into())
    }

    fn fill(memory: &GetMemory, caller: &CallerKey, ticket: usize) -> Vec<Arc<GetShare>> {
        std::iter::from_fn(|| memory.admit(caller, ticket, 0).ok()).collect()
    }

    #[test]
    fn default_memory_has_space_for_all_calls() {
        let memory = GetMemory::new(GET_MEMORY);
        // The defaults of max_calls_per_principal and max_calls, without the gets with wider shares.
        let own = fill(&memory, &caller("a"), 200);
        assert!(own.len() > 7_500 && own.is_sorted_by_key(|get| COPIED_BYTES - get.copied_bytes()), "{}", own.len());
        assert!(own.iter().filter(|get| get.copied_bytes() == COPIED_BYTES).count() >= 32);
        let others = fill(&memory, &CallerKey::Cluster, 200);
        assert!(own.len() + others.len() > 15_000, "{}", others.len());
    }

    #[test]
    fn one_caller_has_half_and_learns_when_to_repeat() {
        let memory = GetMemory::new(MIN_GET_MEMORY);
        let own = fill(&memory, &caller("a"), 0);
        let error = memory.admit(&caller("a"), 0, 0).err().unwrap();
        assert_eq!((error.code, error.retry_after_ms), (Code::ResourceExhausted, Some(RETRY_MS)));
        assert!(error.message.contains("\"a\" hold half of the 64 MiB"), "{error}");
        let others = fill(&memory, &caller("b"), 0);
        assert!(others.len() > own.len() / 2);
        let error = memory.admit(&caller("c"), 0, 0).err().unwrap();
        assert!(error.message.contains("hold all of their 64 MiB"), "{error}");
        drop((own, others));
        assert_eq!(memory.admit(&caller("c"), 0, 0).unwrap().copied_bytes(), COPIED_BYTES);
    }

    #[test]
    fn large_tickets_and_cut_batches_take_their_size() {
        let memory = GetMemory::new(MIN_GET_MEMORY);
        assert_eq!(fill(&memory, &caller("a"), 2 << 20).len(), 5, "three times the ticket, of 32 MiB");
        let get = memory.admit(&caller("a"), 0, 0).unwrap();
        get.cover(COPIED_BYTES).unwrap();
        get.cover(10 << 20).unwrap();
        assert!(memory.admit(&caller("a"), 1 << 20, 0).is_err(), "30 of 32 MiB are taken");
        let error = get.cover(11 << 20).unwrap_err();
        assert!(error.code == Code::ResourceExhausted && error.message.contains("get_memory_bytes"), "{error}");
    }

    #[test]
    fn one_caller_has_half_of_the_places() {
        for (slots, setting) in [
            (GetSlots::for_decompressing(3), "`max_decompressing_gets`"),
            (GetSlots::for_filtering(3), "`max_filtered_gets`"),
        ] {
            let own: Vec<_> = std::iter::from_fn(|| slots.admit(&caller("a")).ok()).collect();
            let others: Vec<_> = std::iter::from_fn(|| slots.admit(&caller("b")).ok()).collect();
            assert_eq!((own.len(), others.len()), (2, 1));
            let error = slots.admit(&caller("a")).err().unwrap();
            assert!(error.message.contains("2 gets of \"a\"") && error.retry_after_ms.is_some(), "{error}");
            assert!(error.message.contains(setting), "{error}");
            let error = slots.admit(&caller("b")).err().unwrap();
            assert!(error.message.contains("3 gets already"), "{error}");
        }
    }
}
