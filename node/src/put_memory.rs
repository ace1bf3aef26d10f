//! The memory of all puts of a node together: one budget of bytes, from which the bodies of messages and the buffered
//! rows of all puts are reserved.
//!
//! `put_memory_bytes` is divided once:
//!
//! | share | for |
//! |---|---|
//! | 7/16 | [`PutMemory::reserve_for`]: bodies that are received, queued or still in use, and rows that wait to fill a message |
//! | 1/16 | [`PutMemory::try_reserve_lasting`]: what a put keeps while its client pauses, see below |
//! | 1/8 | idle blocks for the next bodies |
//! | 1/4 | sorting: each writer thread sorts a window of rows at a time and needs twice its size |
//! | 1/8 | decompressing: each writer thread decompresses a message at a time, larger ones into a spool file |
//!
//! **Every put goes on.** Only a message of at most [`MAX_WAITING_BODY`] ever waits for the budget; a larger one takes
//! what is free at once or is spooled to a file, and rows that find no room are written to their parts at once. Messages that
//! wait are served in turn: one of each principal after the other, and those of one principal as they came. So a message waits
//! for some before it and for the bytes in use. All of these are given back in bounded time, whatever the put that holds them
//! is waiting for:
//!
//! - a message that is being received arrives, or its put fails by the limit on stalled messages (`message_timeout_ms`).
//!   It never waits in its midst: memory for its body and for a header or metadata that are large is reserved at once;
//! - a queued message is written by a writer thread, which needs nothing of this budget to go on;
//! - buffered rows are written to their parts as soon as anyone waits ([`PutMemory::shortage`]), also those of a put
//!   whose client pauses, and those of the put that waits. So a put holds nothing while it waits for memory, except
//!   what a writer thread is about to give back.
//!
//! **What lasts** as long as a put, whatever its client does, has a share of its own, for which nobody waits: small
//! dictionaries (without room they are spooled), the keys of the dictionaries of open parts ([`DictionaryKeys`]; without
//! room parts end), and metadata that the client does not read (without room its put fails).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use metrics::Gauge;
use tokio::sync::Notify;
use volley_common::fairness::{CallerKey, FairPermit, FairSemaphore};

/// Bytes of one permit: reservations are rounded up to them.
pub const UNIT: usize = 1 << 10;
/// A message whose bodies take more does not wait for memory: they are spooled if there is none.
pub const MAX_WAITING_BODY: usize = 4 << 20;

/// Bytes by which the reservation of [`DictionaryKeys`] grows.
const KEYS_STEP: usize = 64 << 10;

/// How `put_memory_bytes` is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryShares {
    /// Bytes of bodies and buffered rows of all puts.
    pub reserved: usize,
    /// Bytes of what lasts as long as a put.
    pub lasting: usize,
    /// Bytes of idle blocks.
    pub idle: usize,
    /// Bytes of a window of rows that a writer thread sorts.
    pub window: usize,
    /// The largest message that a writer thread decompresses in memory, bytes.
    pub decompressed: usize,
}

impl MemoryShares {
    /// The shares of a budget, for this many writer threads.
    pub fn new(budget: u64, writers: usize) -> Self {
        let budget = usize::try_from(budget).unwrap_or(usize::MAX);
        let window = budget / 8 / writers.max(1);
        let lasting = budget / 16;
        MemoryShares { reserved: budget / 2 - lasting, lasting, idle: budget / 8, window, decompressed: window }
    }
}

/// The part of the budget that puts reserve while they run.
pub struct PutMemory {
    permits: Arc<FairSemaphore>,
    bytes: usize,
    lasting: Arc<FairSemaphore>,
    /// How many bodies wait.
    waiting: AtomicUsize,
    shortage: Notify,
    used: Gauge,
}

/// Bytes that are reserved until this is dropped.
#[derive(Debug)]
pub struct MemoryReservation {
    permit: FairPermit,
    used: Gauge,
}

impl PutMemory {
    /// A budget of `bytes` for messages and rows, and of `lasting` bytes for what lasts as long as a put.
    pub fn new(bytes: usize, lasting: usize) -> Arc<Self> {
        let bytes = bytes.max(2 * MAX_WAITING_BODY);
        metrics::gauge!("volley_put_memory_limit_bytes").set((bytes + lasting) as f64);
        Arc::new(PutMemory {
            permits: FairSemaphore::new(bytes / UNIT),
            bytes,
            lasting: FairSemaphore::new(lasting / UNIT),
            waiting: AtomicUsize::new(0),
            shortage: Notify::new(),
            used: metrics::gauge!("volley_put_memory_bytes"),
        })
    }

    /// All bytes for messages and rows.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Reserves bytes if they are free and nobody waits.
    pub fn try_reserve(&self, bytes: usize) -> Option<MemoryReservation> {
        self.permits.try_acquire(units(bytes)).map(|permit| self.reservation(permit))
    }

    /// Reserves bytes for what lasts as long as a put, if they are free.
    pub fn try_reserve_lasting(&self, bytes: usize) -> Option<MemoryReservation> {
        self.lasting.try_acquire(units(bytes)).map(|permit| self.reservation(permit))
    }

    /// Reserves at most [`MAX_WAITING_BODY`] bytes for a put of `caller`; waits for them in turn.
    pub async fn reserve_for(self: Arc<Self>, caller: CallerKey, bytes: usize) -> MemoryReservation {
        let waiting = Waiting(&self);
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.shortage.notify_waiters();
        let permit = self.permits.acquire(caller, units(bytes.min(MAX_WAITING_BODY))).await;
        drop(waiting);
        self.reservation(permit)
    }

    /// The same for nobody in particular.
    #[cfg(test)]
    pub async fn reserve(self: Arc<Self>, bytes: usize) -> MemoryReservation {
        self.reserve_for(CallerKey::Cluster, bytes).await
    }

    fn reservation(&self, permit: FairPermit) -> MemoryReservation {
        self.used.increment((permit.permits() * UNIT) as f64);
        MemoryReservation { permit, used: self.used.clone() }
    }

    /// Whether a body waits: whoever buffers rows writes them now.
    pub fn is_short(&self) -> bool {
        self.waiting() > 0
    }

    /// How many bodies wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Waits until [`PutMemory::is_short`].
    pub async fn shortage(&self) {
        let mut notified = std::pin::pin!(self.shortage.notified());
        notified.as_mut().enable();
        if !self.is_short() {
            notified.await;
        }
    }
}

/// A body that waits; also one whose put ends meanwhile stops waiting.
struct Waiting<'a>(&'a PutMemory);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl MemoryReservation {
    /// Takes bytes out of the reservation; `None`: it has fewer.
    pub fn split(&mut self, bytes: usize) -> Option<MemoryReservation> {
        let permit = self.permit.split(units(bytes))?;
        Some(MemoryReservation { permit, used: self.used.clone() })
    }
}

impl Drop for MemoryReservation {
    fn drop(&mut self) {
        self.used.decrement((self.permit.permits() * UNIT) as f64);
    }
}

fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT)
}

/// The reservation of the rows that one put buffers.
pub struct BufferedRows {
    memory: Arc<PutMemory>,
    held: Vec<MemoryReservation>,
    bytes: usize,
}

impl BufferedRows {
    /// No rows yet.
    pub fn new(memory: Arc<PutMemory>) -> Self {
        BufferedRows { memory, held: Vec::new(), bytes: 0 }
    }

    /// Whether the rows may stay in memory: a reservation for them is held, and no other put waits. If not, they must be
    /// written and [`BufferedRows::release`] be called.
    pub fn hold(&mut self, bytes: usize) -> bool {
        if bytes == 0 {
            self.release();
        }
        if bytes == 0 || self.memory.is_short() {
            return bytes == 0;
        }
        if bytes > self.bytes {
            let Some(more) = self.memory.try_reserve(bytes - self.bytes) else { return false };
            self.held.push(more);
            self.bytes = bytes;
        } else if bytes < self.bytes / 2 {
            // What was reserved for far more rows is given back at once.
            self.release();
            return self.hold(bytes);
        }
        true
    }

    /// No rows are buffered any more.
    pub fn release(&mut self) {
        self.held.clear();
        self.bytes = 0;
    }
}

/// The reservation of the keys that one put's open parts give to the values of their dictionaries. They last as long as
/// the parts. What finds no room among all that lasts takes free memory of messages and rows, until anyone waits for it.
pub struct DictionaryKeys {
    lasting: Vec<MemoryReservation>,
    bytes: usize,
    more: BufferedRows,
}

impl DictionaryKeys {
    /// No keys yet.
    pub fn new(memory: Arc<PutMemory>) -> Self {
        DictionaryKeys { lasting: Vec::new(), bytes: 0, more: BufferedRows::new(memory) }
    }

    /// Whether the keys may stay in memory. If not, parts must end.
    pub fn hold(&mut self, bytes: usize) -> bool {
        if bytes < self.bytes / 2 {
            self.lasting.clear();
            self.bytes = 0;
        }
        while self.bytes < bytes
            && let Some(step) = self.more.memory.try_reserve_lasting(KEYS_STEP)
        {
            self.lasting.push(step);
            self.bytes += KEYS_STEP;
        }
        self.more.hold(bytes.saturating_sub(self.bytes))
    }

    /// Gives back the memory of messages and rows. Returns the bytes of keys that may stay.
    pub fn release(&mut self) -> usize {
        self.more.release();
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn shares_add_up_to_the_budget() {
        for writers in [1, 4, 16] {
            let shares = MemoryShares::new(256 << 20, writers);
            let per_writer = 2 * shares.window + shares.decompressed;
            let all = shares.reserved + shares.lasting + shares.idle + writers * per_writer;
            assert!(all <= 256 << 20 && all > 255 << 20, "{writers} writers: {all}");
        }
    }

    #[tokio::test]
    async fn waiting_body_is_served_before_later_ones_that_fit() {
        let memory = PutMemory::new(8 * MIB, MIB);
        let held = memory.try_reserve(6 * MIB).unwrap();
        assert!(!memory.is_short());
        let waiting = tokio::spawn(memory.clone().reserve(4 * MIB));
        memory.shortage().await;
        assert!(memory.try_reserve(MIB).is_none(), "the free bytes belong to the body that waits");
        drop(held);
        let got = waiting.await.unwrap();
        assert!(!memory.is_short() && memory.try_reserve(5 * MIB).is_none());
        drop(got);
        assert!(memory.try_reserve(8 * MIB).is_some());
    }

    #[tokio::test]
    async fn body_of_another_principal_does_not_wait_for_a_busy_one() {
        let memory = PutMemory::new(8 * MIB, MIB);
        // One body at a time has room.
        let rest = memory.try_reserve(4 * MIB).unwrap();
        let held = memory.try_reserve(4 * MIB).unwrap();
        let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for name in ["busy", "busy", "busy", "other"] {
            let (memory, order, before) = (memory.clone(), order.clone(), waiting.len());
            let queue = memory.permits.clone();
            waiting.push(tokio::spawn(async move {
                let reservation = memory.reserve_for(CallerKey::Principal(name.into()), 4 * MIB).await;
                order.lock().push(name);
                drop(reservation);
            }));
            while queue.waiting() <= before {
                tokio::task::yield_now().await;
            }
        }
        drop(held);
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(order.lock()[..2], ["busy", "other"]);
        drop(rest);
        assert!(!memory.is_short() && memory.try_reserve(8 * MIB).is_some());
    }

    #[tokio::test]
    async fn body_that_stops_waiting_ends_the_shortage() {
        let memory = PutMemory::new(8 * MIB, MIB);
        let _held = memory.try_reserve(8 * MIB).unwrap();
        let waited = tokio::time::timeout(Duration::from_millis(10), memory.clone().reserve(MIB)).await;
        assert!(waited.is_err() && !memory.is_short());
    }

    #[tokio::test]
    async fn rows_are_held_only_while_nobody_waits() {
        let memory = PutMemory::new(8 * MIB, MIB);
        let mut rows = BufferedRows::new(memory.clone());
        assert!(rows.hold(3 * MIB) && rows.hold(6 * MIB) && !rows.hold(9 * MIB));
        assert!(rows.hold(MIB), "most is given back");
        assert!(memory.try_reserve(7 * MIB).is_some());
        let full = memory.try_reserve(7 * MIB).unwrap();
        let waiting = tokio::spawn(memory.clone().reserve(MIB));
        memory.shortage().await;
        assert!(!rows.hold(MIB));
        rows.release();
        waiting.await.unwrap();
        drop(full);
    }

    #[tokio::test]
    async fn keys_over_the_lasting_share_are_held_while_nobody_waits() {
        let memory = PutMemory::new(8 * MIB, MIB);
        let mut keys = DictionaryKeys::new(memory.clone());
        assert!(keys.hold(MIB / 2) && keys.hold(3 * MIB));
        assert!(memory.try_reserve_lasting(1).is_none() && memory.try_reserve(7 * MIB).is_none());
        let full = memory.try_reserve(6 * MIB).unwrap();
        assert!(!keys.hold(4 * MIB), "no room");
        let waiting = tokio::spawn(memory.clone().reserve(MIB));
        memory.shortage().await;
        assert!(!keys.hold(3 * MIB), "a message waits");
        assert_eq!(keys.release(), MIB);
        waiting.await.unwrap();
        assert!(keys.hold(MIB) && keys.hold(0));
        assert!(memory.try_reserve_lasting(MIB).is_some());
        drop(full);
    }
}
