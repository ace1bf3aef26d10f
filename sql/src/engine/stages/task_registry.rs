//! The tasks that run on this node: how many queries of other nodes they are of, and how they end.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use datafusion_distributed::TaskKey;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use volley_common::fairness::CallerKey;
use volley_common::{Error, Result};

use crate::engine::admission::{QueryAdmission, QueryPermit};

/// The id of a query.
type QueryId = [u8; 16];

/// How many tasks that could not begin are remembered, for those who read their rows.
const MAX_FAILED: usize = 256;

/// The tasks that run here, for other nodes and for queries of which this node is the head.
pub(super) struct TaskRegistry {
    admission: Arc<QueryAdmission>,
    running: Mutex<RunningTasks>,
    /// Tasks that could not begin, and why.
    failed: Mutex<VecDeque<(TaskKey, Error)>>,
    /// Notified when one is added.
    added: watch::Sender<()>,
}

#[derive(Default)]
struct RunningTasks {
    tasks: HashMap<TaskKey, CancellationToken>,
    /// How many tasks each query has here, and its place among the queries of other nodes, if it is one of these.
    queries: HashMap<QueryId, (usize, Option<QueryPermit>)>,
}

/// A task that runs. When it is dropped, all that computes rows of the task ends.
pub(super) struct TaskGuard {
    registry: Arc<TaskRegistry>,
    key: TaskKey,
    ended: CancellationToken,
}

impl TaskRegistry {
    /// Of at most `max_queries` queries at once.
    pub(super) fn new(max_queries: usize) -> Arc<Self> {
        let admission = QueryAdmission::new(max_queries, max_queries);
        let (failed, added) = (Mutex::default(), watch::Sender::new(()));
        Arc::new(TaskRegistry { admission, running: Mutex::default(), failed, added })
    }

    /// Whether tasks of one more query are accepted.
    pub(super) fn has_room(&self) -> bool {
        self.admission.has_room()
    }

    /// Begins a task for another node.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: it is of one query too many. INTERNAL: it runs already.
    pub(super) fn begin(self: &Arc<Self>, key: TaskKey) -> Result<TaskGuard> {
        self.insert(key, || self.admission.admit(CallerKey::Cluster).map(Some))
    }

    /// Begins a task of a query of which this node is the head: the query was admitted when it began.
    ///
    /// # Errors
    /// INTERNAL: it runs already.
    pub(super) fn begin_own(self: &Arc<Self>, key: TaskKey) -> Result<TaskGuard> {
        self.insert(key, || Ok(None))
    }

    /// Begins a task; `admit` gives its query a place if it has none yet.
    fn insert(
        self: &Arc<Self>,
        key: TaskKey,
        admit: impl FnOnce() -> Result<Option<QueryPermit>>,
    ) -> Result<TaskGuard> {
        let mut running = self.running.lock();
        let RunningTasks { tasks, queries } = &mut *running;
        if tasks.contains_key(&key) {
            return Err(Error::internal(format!("task {} of stage {} runs already", key.task_number, key.stage_id)));
        }
        match queries.entry(key.query_id.into_bytes()) {
            Entry::Occupied(mut query) => query.get_mut().0 += 1,
            Entry::Vacant(place) => {
                place.insert((1, admit()?));
            }
        }
        let ended = CancellationToken::new();
        tasks.insert(key, ended.clone());
        drop(running);
        Ok(TaskGuard { registry: self.clone(), key, ended })
    }

    /// Records that a task could not begin. Other nodes may wait for it.
    pub(super) fn fail(&self, key: TaskKey, error: Error) {
        let mut failed = self.failed.lock();
        if failed.len() >= MAX_FAILED {
            failed.pop_front();
        }
        failed.push_back((key, error));
        drop(failed);
        self.added.send_replace(());
    }

    /// Completes when the task could not begin, with the reason.
    pub(super) async fn failure(&self, key: &TaskKey) -> Error {
        let mut added = self.added.subscribe();
        loop {
            let failed = self.failed.lock().iter().find(|(failed, _)| failed == key).map(|(_, error)| error.clone());
            if let Some(error) = failed {
                return error;
            }
            if added.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Cancelled when the task has ended; `None`: it does not run here.
    pub(super) fn end_of(&self, key: &TaskKey) -> Option<CancellationToken> {
        self.running.lock().tasks.get(key).cloned()
    }

    /// How many tasks run.
    #[cfg(test)]
    pub(super) fn running(&self) -> usize {
        self.running.lock().tasks.len()
    }
}

impl TaskGuard {
    /// Cancelled when the task has ended.
    pub(super) fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.ended.cancel();
        let mut running = self.registry.running.lock();
        running.tasks.remove(&self.key);
        if let Entry::Occupied(mut query) = running.queries.entry(self.key.query_id.into_bytes()) {
            query.get_mut().0 -= 1;
            if query.get().0 == 0 {
                query.remove();
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::Code;

    use super::*;

    fn key(query: u8, task: usize) -> TaskKey {
        let query = format!("67e55044-10b1-426f-9247-bb680e5fe0{query:02x}");
        TaskKey { query_id: query.parse().unwrap(), stage_id: 1, task_number: task }
    }

    #[test]
    fn queries_are_counted_not_tasks() {
        let registry = TaskRegistry::new(2);
        let mut guards: Vec<_> = (0..3).map(|task| registry.begin(key(1, task)).unwrap()).collect();
        guards.push(registry.begin(key(2, 0)).unwrap());
        assert!(!registry.has_room());
        assert_eq!(registry.begin(key(3, 0)).err().unwrap().code, Code::ResourceExhausted);
        assert_eq!(registry.begin(key(2, 0)).err().unwrap().code, Code::Internal);
        guards.pop();
        assert!(registry.has_room());
        drop(registry.begin(key(3, 0)).unwrap());
        guards.clear();
        assert_eq!(registry.running(), 0);
        assert!(registry.running.lock().queries.is_empty());
    }

    #[test]
    fn own_tasks_take_no_place_and_are_found() {
        let registry = TaskRegistry::new(1);
        let own = [1, 2].map(|query| registry.begin_own(key(query, 0)).unwrap());
        assert!(registry.has_room());
        assert!(registry.end_of(&key(2, 0)).is_some());
        let other = registry.begin(key(3, 0)).unwrap();
        assert!(!registry.has_room());
        drop((own, other));
        assert_eq!(registry.running(), 0);
        assert!(registry.has_room() && registry.running.lock().queries.is_empty());
    }

    #[tokio::test]
    async fn failure_to_begin_is_known_to_those_who_wait() {
        let registry = TaskRegistry::new(2);
        let waiting = tokio::spawn({
            let registry = registry.clone();
            async move { registry.failure(&key(1, 0)).await }
        });
        registry.fail(key(1, 1), Error::internal("another"));
        registry.fail(key(1, 0), Error::exhausted("no room"));
        assert_eq!(waiting.await.unwrap(), Error::exhausted("no room"));
        for task in 0..=MAX_FAILED {
            registry.fail(key(2, task), Error::internal("a later one"));
        }
        assert_eq!(registry.failed.lock().len(), MAX_FAILED);
    }

    #[test]
    fn end_of_a_task_is_that_of_its_guard() {
        let registry = TaskRegistry::new(2);
        let guard = registry.begin(key(1, 0)).unwrap();
        let ended = registry.end_of(&key(1, 0)).unwrap();
        assert!(registry.end_of(&key(1, 1)).is_none() && !ended.is_cancelled());
        drop(guard);
        assert!(ended.is_cancelled() && registry.end_of(&key(1, 0)).is_none());
    }
}
