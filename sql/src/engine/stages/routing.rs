//! Which parts each task of a stage reads, and which node runs it. Pure.
//!
//! Routing decides about speed only: a task may read any part, from whichever node has it.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt::Debug;

use volley_common::NodeId;
use volley_common::wire::cluster::TicketPart;

/// Distributes the tasks of one query. The planner of stages knows nothing else about nodes.
pub(super) trait TaskRouting: Debug + Send + Sync + 'static {
    /// The most tasks of a stage.
    fn max_tasks(&self) -> usize;

    /// The node of each of these many tasks of a stage, by number.
    fn nodes(&self, tasks: usize) -> Vec<NodeId>;

    /// The parts (indexes, ascending) that each of these many tasks reads. Each part is read by exactly one.
    fn assign_parts(&self, parts: &[TicketPart], tasks: usize) -> Vec<Vec<usize>>;

    /// The shards (indexes, ascending) that each of these many tasks reads. A shard is its parts, of all tables; each is read by
    /// exactly one task.
    fn assign_shards(&self, shards: &[Vec<&TicketPart>], tasks: usize) -> Vec<Vec<usize>>;
}

/// Task i of every stage runs on the i-th worker, and reads parts that this worker holds.
#[derive(Debug)]
pub(super) struct HolderRouting {
    head: NodeId,
    workers: Vec<NodeId>,
}

impl HolderRouting {
    /// For these workers, at least one. A task that is alone in its stage runs on the `head`.
    pub(super) fn new(head: NodeId, workers: Vec<NodeId>) -> Self {
        HolderRouting { head, workers }
    }
}

impl TaskRouting for HolderRouting {
    fn max_tasks(&self) -> usize {
        self.workers.len()
    }

    fn nodes(&self, tasks: usize) -> Vec<NodeId> {
        match tasks {
            1 => vec![self.head],
            _ => self.workers.iter().copied().cycle().take(tasks).collect(),
        }
    }

    /// To the holder with the fewest rows so far; a part that no worker holds, to the worker with the fewest.
    fn assign_parts(&self, parts: &[TicketPart], tasks: usize) -> Vec<Vec<usize>> {
        let nodes = self.nodes(tasks);
        let mut rows = vec![0u64; tasks];
        let mut assigned = vec![Vec::new(); tasks];
        for (at, part) in parts.iter().enumerate() {
            let holders = (0..tasks).filter(|task| part.holders.contains(&nodes[*task].0));
            let holder = holders.min_by_key(|task| rows[*task]);
            let Some(task) = holder.or_else(|| (0..tasks).min_by_key(|task| rows[*task])) else { continue };
            rows[task] = rows[task].saturating_add(part.rows.max(1));
            assigned[task].push(at);
        }
        assigned
    }

    /// The largest first, each to the task that has read it earliest. A row that the task's node does not hold counts as two: it is
    /// read over the network.
    fn assign_shards(&self, shards: &[Vec<&TicketPart>], tasks: usize) -> Vec<Vec<usize>> {
        let nodes = self.nodes(tasks);
        let rows_of = |shard: &[&TicketPart], counts: &dyn Fn(&TicketPart) -> bool| {
            let rows = shard.iter().filter(|part| counts(part)).map(|part| part.rows);
            rows.fold(0, u64::saturating_add)
        };
        let mut order: Vec<usize> = (0..shards.len()).collect();
        order.sort_by_key(|at| Reverse(rows_of(&shards[*at], &|_| true)));
        let mut costs = vec![0u64; tasks];
        let mut assigned = vec![Vec::new(); tasks];
        for at in order {
            let rows = rows_of(&shards[at], &|_| true);
            let cost_with = |task: usize| {
                let remote = rows_of(&shards[at], &|part| !part.holders.contains(&nodes[task].0));
                costs[task].saturating_add(rows).saturating_add(remote)
            };
            let Some((cost, task)) = (0..tasks).map(|task| (cost_with(task), task)).min() else { continue };
            costs[task] = cost;
            assigned[task].push(at);
        }
        assigned.iter_mut().for_each(|own| own.sort_unstable());
        assigned
    }
}

/// At most `most` of the `alive` nodes, `head` among them: those that hold the most rows of the parts. Ascending.
pub(super) fn candidates<'a>(
    parts: impl Iterator<Item = &'a TicketPart>,
    alive: &[NodeId],
    head: NodeId,
    most: usize,
) -> Vec<NodeId> {
    let mut held: HashMap<u64, u64> = HashMap::new();
    for part in parts {
        for holder in &part.holders {
            let rows = held.entry(*holder).or_default();
            *rows = rows.saturating_add(part.rows);
        }
    }
    let mut others: Vec<NodeId> = alive.iter().copied().filter(|node| *node != head).collect();
    others.sort_by_key(|node| (Reverse(held.get(&node.0).copied().unwrap_or(0)), *node));
    others.dedup();
    others.truncate(most.saturating_sub(1));
    others.push(head);
    others.sort();
    others
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(rows: u64, holders: &[u64]) -> TicketPart {
        TicketPart { rows, holders: holders.to_vec(), ..TicketPart::default() }
    }

    fn routing(workers: u64) -> HolderRouting {
        HolderRouting::new(NodeId(1), (1..=workers).map(NodeId).collect())
    }

    #[test]
    fn part_is_read_by_a_holder_and_holders_share_the_rows() {
        let parts = [part(10, &[1, 2]), part(10, &[1, 2]), part(5, &[3]), part(1, &[9]), part(7, &[2])];
        assert_eq!(routing(3).assign_parts(&parts, 3), [vec![0], vec![1, 4], vec![2, 3]]);
        assert_eq!(routing(3).assign_parts(&parts, 1), [vec![0, 1, 2, 3, 4]]);
        assert_eq!(routing(3).assign_parts(&[], 2), [Vec::<usize>::new(), Vec::new()]);
    }

    #[test]
    fn shard_is_read_where_most_of_it_is_unless_that_takes_longer() {
        let assigned = |shards: &[Vec<TicketPart>], tasks: usize| {
            let shards: Vec<Vec<&TicketPart>> = shards.iter().map(|parts| parts.iter().collect()).collect();
            routing(3).assign_shards(&shards, tasks)
        };
        let shards = [
            vec![part(10, &[1, 2]), part(30, &[2, 3])],
            vec![part(20, &[3]), part(5, &[1])],
            vec![part(20, &[1])],
            vec![part(1, &[9])],
        ];
        assert_eq!(assigned(&shards, 3), [vec![2, 3], vec![0], vec![1]]);
        assert_eq!(assigned(&shards, 1), [vec![0, 1, 2, 3]]);
        let of_one = [vec![part(10, &[2])], vec![part(10, &[2])], vec![part(10, &[2])], vec![part(10, &[2])]];
        assert_eq!(assigned(&of_one, 3), [vec![1], vec![0, 2], vec![3]], "its holder alone would take longer");
        assert_eq!(assigned(&[], 2), [Vec::<usize>::new(), Vec::new()]);
    }

    #[test]
    fn task_runs_on_the_worker_of_its_number() {
        assert_eq!(routing(3).nodes(3), [1, 2, 3].map(NodeId));
        assert_eq!(routing(3).nodes(2), [1, 2].map(NodeId));
        let head = HolderRouting::new(NodeId(7), vec![NodeId(3), NodeId(7)]);
        assert_eq!(head.nodes(1), [NodeId(7)], "alone in its stage");
    }

    #[test]
    fn candidates_are_the_head_and_who_holds_most() {
        let parts = [part(10, &[4, 5]), part(10, &[5]), part(1, &[6, 8])];
        let alive = [2, 4, 5, 6].map(NodeId);
        assert_eq!(candidates(parts.iter(), &alive, NodeId(2), 3), [2, 4, 5].map(NodeId));
        assert_eq!(candidates(parts.iter(), &alive, NodeId(2), 9), [2, 4, 5, 6].map(NodeId));
        assert_eq!(candidates(parts.iter(), &[], NodeId(2), 3), [NodeId(2)]);
    }

    proptest! {
        #[test]
        fn every_part_and_shard_is_read_exactly_once(
            parts in prop::collection::vec((0u64..9, prop::collection::vec(1u64..6, 0..4)), 0..40),
            tasks in 1usize..6,
        ) {
            let parts: Vec<TicketPart> = parts.iter().map(|(rows, holders)| part(*rows, holders)).collect();
            let assigned = routing(5).assign_parts(&parts, tasks);
            prop_assert_eq!(assigned.len(), tasks);
            prop_assert!(assigned.iter().all(|own| own.is_sorted()));
            let mut all = assigned.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..parts.len()).collect::<Vec<_>>());
            let shards: Vec<Vec<&TicketPart>> = parts.chunks(3).map(|parts| parts.iter().collect()).collect();
            let assigned = routing(5).assign_shards(&shards, tasks);
            prop_assert!(assigned.len() == tasks && assigned.iter().all(|own| own.is_sorted()));
            let mut all = assigned.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..shards.len()).collect::<Vec<_>>());
        }
    }
}
