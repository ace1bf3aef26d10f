//! The memory of all queries, shared so that a sort always has room to merge what it collected.
//!
//! A sort that has to spill needs some memory to do so, for the keys of what it merges. In the engine's own pools another
//! partition, which still collects, takes that memory first, and the sort fails. Here collecting and merging have a part of
//! the memory each, with an equal share for each operator. Merging needs at most half of what was collected: half of what a
//! sort reserves for its rows is for their keys, and free again once the rows are sorted.

use std::collections::HashMap;
use std::fmt;

use datafusion::common::resources_datafusion_err;
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use parking_lot::Mutex;

/// How the engine names what a sort merges with. It is no consumer that can spill.
const MERGE_NAME: &str = "ExternalSorterMerge";

/// A pool where operators that spill share two thirds of the memory, merges of sorts one third, and others take what is free.
#[derive(Debug)]
pub(super) struct QueryMemoryPool {
    total: usize,
    held: Mutex<HeldMemory>,
}

#[derive(Debug, Default)]
struct HeldMemory {
    all: usize,
    /// Bytes of each consumer that has a share, by its id.
    collecting: HashMap<usize, usize>,
    merging: HashMap<usize, usize>,
}

impl HeldMemory {
    /// The consumers that share with this one.
    fn sharing(&mut self, consumer: &MemoryConsumer) -> Option<&mut HashMap<usize, usize>> {
        if consumer.can_spill() {
            Some(&mut self.collecting)
        } else if consumer.name().starts_with(MERGE_NAME) {
            Some(&mut self.merging)
        } else {
            None
        }
    }

    fn change(&mut self, consumer: &MemoryConsumer, change: impl Fn(usize) -> usize) {
        self.all = change(self.all);
        if let Some(held) = self.sharing(consumer).and_then(|sharing| sharing.get_mut(&consumer.id())) {
            *held = change(*held);
        }
    }
}

impl QueryMemoryPool {
    /// A pool of this many bytes.
    pub(super) fn new(total: usize) -> Self {
        QueryMemoryPool { total, held: Mutex::default() }
    }

    /// How many more bytes the consumer may take.
    fn free(&self, held: &mut HeldMemory, consumer: &MemoryConsumer) -> usize {
        let free = self.total.saturating_sub(held.all);
        let part = if consumer.can_spill() { self.total - self.total / 3 } else { self.total / 3 };
        match held.sharing(consumer) {
            Some(sharing) => {
                let own = sharing.get(&consumer.id()).copied().unwrap_or(0);
                free.min((part / sharing.len().max(1)).saturating_sub(own))
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
        if let Some(sharing) = self.held.lock().sharing(consumer) {
            sharing.insert(consumer.id(), 0);
        }
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        if let Some(sharing) = self.held.lock().sharing(consumer) {
            sharing.remove(&consumer.id());
        }
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.held.lock().change(reservation.consumer(), |bytes| bytes + additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, less: usize) {
        self.held.lock().change(reservation.consumer(), |bytes| bytes.saturating_sub(less));
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let consumer = reservation.consumer();
        let mut held = self.held.lock();
        let free = self.free(&mut held, consumer);
        if additional > free {
            let name = consumer.name();
            return Err(resources_datafusion_err!(
                "{name} needs {additional} bytes more than its {}, and of {self} {free} are free for it",
                reservation.size()
            ));
        }
        held.change(consumer, |bytes| bytes + additional);
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

    #[test]
    fn merges_share_a_third() {
        let pool: Arc<dyn MemoryPool> = Arc::new(QueryMemoryPool::new(900));
        let merge = |partition: usize| MemoryConsumer::new(format!("{MERGE_NAME}[{partition}]")).register(&pool);
        let (first, second) = (merge(0), merge(1));
        first.try_grow(150).unwrap();
        first.try_grow(1).unwrap_err();
        drop(second);
        first.try_grow(150).unwrap();
        first.try_grow(1).unwrap_err();
        first.shrink(100);
        assert_eq!(pool.reserved(), 200);
        first.try_grow(100).unwrap();
    }
}
