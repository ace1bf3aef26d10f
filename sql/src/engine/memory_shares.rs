//! The memory of all queries, shared so that a sort always has room to merge what it collected.
//!
//! A sort that has to spill needs some memory to do so, for the keys and batches of what it merges. In the engine's own pools
//! another partition, which still collects, takes that memory first, and the sort fails. Here, while there are sorts, merges have
//! three fifths of the memory to themselves: with batches of the engine's size a merge needs at most as much as was collected, and
//! its share becomes smaller when more sorts begin. Operators that collect, and merges, have an equal share each of what is
//! theirs, and one share stays free for the next one.

use std::collections::HashMap;
use std::fmt;

use datafusion::common::resources_datafusion_err;
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use parking_lot::Mutex;

/// How the engine names what a sort merges with. It is no consumer that can spill, and nothing but the name tells it from others
/// that cannot.
const MERGE_NAME: &str = "ExternalSorterMerge";

/// A pool with three fifths of the memory for merges of sorts, if there are any. Operators that spill share the rest, and others take what
/// is free.
#[derive(Debug)]
pub(super) struct QueryMemoryPool {
    total: usize,
    /// Partitions of each step: operators begin one after another, but not alone.
    partitions: usize,
    held: Mutex<HeldMemory>,
}

#[derive(Debug, Default)]
struct HeldMemory {
    collecting: ConsumerMemory,
    merging: ConsumerMemory,
}

/// Memory of several consumers.
#[derive(Debug, Default)]
struct ConsumerMemory {
    all: usize,
    /// Bytes of each consumer that has a share, by its id.
    shares: HashMap<usize, usize>,
}

impl HeldMemory {
    fn of(&mut self, consumer: &MemoryConsumer) -> &mut ConsumerMemory {
        if is_merge(consumer) { &mut self.merging } else { &mut self.collecting }
    }
}

impl ConsumerMemory {
    fn change(&mut self, consumer: &MemoryConsumer, change: impl Fn(usize) -> usize) {
        self.all = change(self.all);
        if let Some(own) = self.shares.get_mut(&consumer.id()) {
            *own = change(*own);
        }
    }

    /// How many more of these bytes the consumer may take.
    fn free(&self, bytes: usize, share: usize, consumer: &MemoryConsumer) -> usize {
        let free = bytes.saturating_sub(self.all);
        self.shares.get(&consumer.id()).map_or(free, |own| free.min(share.saturating_sub(*own)))
    }
}

fn is_merge(consumer: &MemoryConsumer) -> bool {
    consumer.name().starts_with(MERGE_NAME)
}

impl QueryMemoryPool {
    /// A pool of this many bytes for queries whose steps have this many partitions.
    pub(super) fn new(total: usize, partitions: usize) -> Self {
        QueryMemoryPool { total, partitions, held: Mutex::default() }
    }
}

impl MemoryPool for QueryMemoryPool {
    fn name(&self) -> &str {
        "shares"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        if is_merge(consumer) || consumer.can_spill() {
            self.held.lock().of(consumer).shares.insert(consumer.id(), 0);
        }
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.held.lock().of(consumer).shares.remove(&consumer.id());
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        let consumer = reservation.consumer();
        self.held.lock().of(consumer).change(consumer, |bytes| bytes + additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, less: usize) {
        let consumer = reservation.consumer();
        self.held.lock().of(consumer).change(consumer, |bytes| bytes.saturating_sub(less));
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let consumer = reservation.consumer();
        let mut held = self.held.lock();
        let for_merges = if held.merging.shares.is_empty() { 0 } else { self.total / 5 * 3 };
        let bytes = match is_merge(consumer) {
            // What collects may hold more since before the first merge.
            true => for_merges.min(self.total.saturating_sub(held.collecting.all)),
            false => self.total - for_merges,
        };
        // A sort that has ended still merges: no other one may collect more than it can merge. One share is left for the next
        // consumer, which begins when the others hold theirs already.
        let sharing = held.collecting.shares.len().max(held.merging.shares.len()).max(self.partitions);
        let share = bytes / (sharing + 1);
        let held = held.of(consumer);
        let free = held.free(bytes, share, consumer);
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
        let held = self.held.lock();
        held.collecting.all + held.merging.all
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

    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use datafusion::catalog::memory::MemorySourceConfig;
    use datafusion::execution::TaskContext;
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;
    use datafusion::physical_expr::PhysicalSortExpr;
    use datafusion::physical_expr::expressions::Column;
    use datafusion::physical_plan::ExecutionPlan;
    use datafusion::physical_plan::sorts::sort::SortExec;
    use datafusion::prelude::SessionConfig;
    use futures::StreamExt;

    use super::*;

    fn merge(pool: &Arc<dyn MemoryPool>, partition: usize) -> MemoryReservation {
        MemoryConsumer::new(format!("{MERGE_NAME}[{partition}]")).register(pool)
    }

    #[test]
    fn operators_that_spill_have_a_share_and_others_what_is_free() {
        let pool: Arc<dyn MemoryPool> = Arc::new(QueryMemoryPool::new(600, 1));
        let spills = |name: &str| MemoryConsumer::new(name).with_can_spill(true).register(&pool);
        let first = spills("first");
        first.try_grow(300).unwrap();
        first.try_grow(1).unwrap_err();
        // A part that is split off counts to the same share.
        let part = first.split(100);
        first.try_grow(1).unwrap_err();
        let second = spills("second");
        second.try_grow(200).unwrap();
        second.try_grow(1).unwrap_err();
        let join = MemoryConsumer::new("join").register(&pool);
        join.try_grow(100).unwrap();
        let error = join.try_grow(1).unwrap_err();
        assert!(error.to_string().contains("join needs 1 bytes more than its 100"), "{error}");

        drop(part);
        join.try_grow(100).unwrap();
        assert_eq!(pool.reserved(), 600);
        merge(&pool, 0).try_grow(1).unwrap_err();
        drop((first, second, join));
        assert_eq!(pool.reserved(), 0);
        spills("third").try_grow(300).unwrap();
    }

    #[test]
    fn merges_have_three_fifths_of_the_memory_while_there_are_any() {
        let pool: Arc<dyn MemoryPool> = Arc::new(QueryMemoryPool::new(1000, 1));
        let (first, second) = (merge(&pool, 0), merge(&pool, 1));
        let join = MemoryConsumer::new("join").register(&pool);
        join.try_grow(400).unwrap();
        join.try_grow(1).unwrap_err();
        first.try_grow(200).unwrap();
        first.try_grow(1).unwrap_err();
        drop(second);
        first.try_grow(100).unwrap();
        first.try_grow(1).unwrap_err();
        first.shrink(50);
        assert_eq!(pool.reserved(), 650);
        drop(first);
        join.try_grow(600).unwrap();
    }

    #[tokio::test]
    async fn merge_of_a_sort_that_spilled_is_known_by_its_name() {
        let pool = Arc::new(QueryMemoryPool::new(8 << 20, 1));
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool.clone()).build_arc().unwrap();
        let config = SessionConfig::new().with_sort_spill_reservation_bytes(256 << 10);
        let context = Arc::new(TaskContext::default().with_session_config(config).with_runtime(runtime));
        // More than a sort may collect at a time, which is a fifth of the memory for rows and what is made of them.
        let batch = |part: i64| {
            let values: Int64Array = (0..8192i64).map(|row| (row * 64 + part) * 7919 % (8192 * 64)).collect();
            RecordBatch::try_from_iter([("value", Arc::new(values) as ArrayRef)]).unwrap()
        };
        let batches: Vec<RecordBatch> = (0..64).map(batch).collect();
        let schema = batches[0].schema();
        let source = MemorySourceConfig::try_new_exec(&[batches], schema, None).unwrap();
        let order = [PhysicalSortExpr::new_default(Arc::new(Column::new("value", 0)))];
        let sort = SortExec::new(order.into(), source);
        let mut rows = sort.execute(0, context).unwrap();
        rows.next().await.unwrap().unwrap();
        assert!(sort.metrics().unwrap().spill_count().unwrap() > 1, "it has not spilled");
        {
            let held = pool.held.lock();
            assert!(held.merging.all > 0 && held.merging.shares.len() == 1, "merges have another name: {held:?}");
        }
    }
}
