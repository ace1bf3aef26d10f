//! The memory of all queries, shared so that a sort always has room to merge what it collected.
//!
//! The engine's own pools give operators that spill all memory that others leave. A sort that has to spill needs some more to
//! do so, for the keys of what it merges: in those pools another partition takes it first, and the sort fails. Here what
//! operators collect leaves a third free for this. Merging needs at most as much as collecting did, because half of what a
//! sort reserves for its rows is free again once they are sorted.

use std::collections::HashMap;
use std::fmt;

use datafusion::common::resources_datafusion_err;
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use parking_lot::Mutex;

/// A pool where each operator that can spill has an equal share of two thirds of the memory, and the others take what is free.
#[derive(Debug)]
pub(super) struct QueryMemoryPool {
    total: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    /// Bytes of each operator that can spill, by the consumer's id.
    spilling: HashMap<usize, usize>,
}

impl Held {
    fn add(&mut self, consumer: &MemoryConsumer, bytes: usize) {
        self.all += bytes;
        if let Some(held) = self.spilling.get_mut(&consumer.id()) {
            *held += bytes;
        }
    }
}

impl QueryMemoryPool {
    /// A pool of this many bytes.
    pub(super) fn new(total: usize) -> Self {
        QueryMemoryPool { total, held: Mutex::default() }
    }

    /// How many more bytes the consumer may take.
    fn free(&self, held: &Held, consumer: &MemoryConsumer) -> usize {
        let free = self.total.saturating_sub(held.all);
        match held.spilling.get(&consumer.id()) {
            Some(own) => {
                let share = (self.total - self.total / 3) / held.spilling.len();
                free.min(share.saturating_sub(*own))
            }
            None => free,
        }
    }
}

impl MemoryPool for QueryMemoryPool {
    fn name(&self) -> &str {
        "shares"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        if consumer.can_spill() {
            self.held.lock().spilling.insert(consumer.id(), 0);
        }
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.held.lock().spilling.remove(&consumer.id());
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.held.lock().add(reservation.consumer(), additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, bytes: usize) {
        let mut held = self.held.lock();
        held.all = held.all.saturating_sub(bytes);
        if let Some(own) = held.spilling.get_mut(&reservation.consumer().id()) {
            *own = own.saturating_sub(bytes);
        }
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let consumer = reservation.consumer();
        let mut held = self.held.lock();
        let free = self.free(&held, consumer);
        if additional > free {
            let name = consumer.name();
            return Err(resources_datafusion_err!(
                "{name} needs {additional} bytes more than its {}, and of {self} {free} are free for it",
                reservation.size()
            ));
        }
        held.add(consumer, additional);
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.held.lock().all
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.total)
    }
}

impl fmt::Display for QueryMemoryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.total)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn operators_that_spill_share_two_thirds_and_others_the_rest() {
        let pool: Arc<dyn MemoryPool> = Arc::new(QueryMemoryPool::new(900));
        let spills = |name: &str| MemoryConsumer::new(name).with_can_spill(true).register(&pool);
        let first = spills("first");
        first.try_grow(600).unwrap();
        first.try_grow(1).unwrap_err();
        // A part that is split off counts to the same share.
        let part = first.split(500);
        first.try_grow(1).unwrap_err();

        let second = spills("second");
        second.try_grow(300).unwrap();
        assert_eq!(pool.reserved(), 900);
        let join = MemoryConsumer::new("join").register(&pool);
        let error = join.try_grow(1).unwrap_err();
        assert!(error.to_string().contains("join needs 1 bytes more than its 0"), "{error}");

        drop(part);
        join.try_grow(500).unwrap();
        drop((first, second, join));
        assert_eq!(pool.reserved(), 0);
        spills("third").try_grow(600).unwrap();
    }
}
