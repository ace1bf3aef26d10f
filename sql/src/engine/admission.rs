//! How many queries run at once: of each caller, and of all together.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use volley_common::fairness::{CallerKey, KeyedCounts};
use volley_common::telemetry::GaugeGuard;
use volley_common::{Error, Result};

/// When a refused query should be tried again, milliseconds.
const RETRY_MS: u64 = 500;

/// Counts the queries that run. Memory is bounded: a caller without queries is forgotten.
pub(super) struct QueryAdmission {
    most: usize,
    most_per_caller: usize,
    /// By caller; the cluster's own queries in all only.
    running: Mutex<KeyedCounts<CallerKey>>,
}

/// The place of one query among those that run, until it is dropped.
pub(super) struct QueryPermit {
    admission: Arc<QueryAdmission>,
    caller: CallerKey,
    began: Instant,
    _counted: GaugeGuard,
}

impl QueryAdmission {
    pub(super) fn new(most: usize, most_per_caller: usize) -> Arc<Self> {
        Arc::new(QueryAdmission { most, most_per_caller, running: Mutex::default() })
    }

    /// Admits one more query. It never waits.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED with a hint when to retry: the caller, or all callers together, run as many queries as they may.
    pub(super) fn admit(self: &Arc<Self>, caller: CallerKey) -> Result<QueryPermit> {
        let mut running = self.running.lock();
        if running.of(&caller) >= self.most_per_caller {
            let most = self.most_per_caller;
            metrics::counter!("volley_queries_refused_total", "scope" => "principal").increment(1);
            return Err(Error::exhausted(format!(
                "{caller} runs {most} queries at this node, the most that one may run at once (`max_queries_per_principal`): let some of them end, or ask another node"
            ))
            .retry_after(RETRY_MS));
        }
        if running.all() >= self.most {
            let most = self.most;
            metrics::counter!("volley_queries_refused_total", "scope" => "all").increment(1);
            return Err(Error::exhausted(format!(
                "this node runs {most} queries, the most that it runs at once (`max_concurrent_queries`): try again, or ask another node"
            ))
            .retry_after(RETRY_MS));
        }
        running.add((caller != CallerKey::Cluster).then(|| caller.clone()));
        drop(running);
        let counted = GaugeGuard::count(metrics::gauge!("volley_queries"));
        Ok(QueryPermit { admission: self.clone(), caller, began: Instant::now(), _counted: counted })
    }

    /// Whether one more query would be admitted, of a caller that has none.
    pub(super) fn has_room(&self) -> bool {
        self.running.lock().all() < self.most
    }

    /// How many queries run.
    #[cfg(test)]
    pub(super) fn running(&self) -> usize {
        self.running.lock().all()
    }
}

impl Drop for QueryPermit {
    fn drop(&mut self) {
        metrics::histogram!("volley_query_duration_seconds").record(self.began.elapsed());
        self.admission.running.lock().remove(&self.caller);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::Code;

    use super::*;

    fn caller(name: &str) -> CallerKey {
        CallerKey::Principal(name.into())
    }

    #[test]
    fn limits_of_one_and_of_all_are_kept() {
        let admission = QueryAdmission::new(3, 2);
        let mut permits = vec![admission.admit(caller("a")).unwrap(), admission.admit(caller("a")).unwrap()];
        let refused = admission.admit(caller("a")).err().unwrap();
        assert_eq!((refused.code, refused.retry_after_ms), (Code::ResourceExhausted, Some(RETRY_MS)));
        assert!(refused.message.contains("max_queries_per_principal"), "{refused}");
        permits.push(admission.admit(caller("b")).unwrap());
        let refused = admission.admit(caller("c")).err().unwrap();
        assert!(refused.message.contains("max_concurrent_queries"), "{refused}");
        assert_eq!(refused.retry_after_ms, Some(RETRY_MS));
        permits.clear();
        assert!(admission.running.lock().is_empty());
        assert!(admission.admit(caller("c")).is_ok());
    }

    #[test]
    fn cluster_has_only_the_limit_of_all() {
        let admission = QueryAdmission::new(3, 1);
        let _permits: Vec<_> = (0..3).map(|_| admission.admit(CallerKey::Cluster).unwrap()).collect();
        assert!(admission.admit(CallerKey::Cluster).is_err());
    }
}
