//! How many reads and actions are planned at once. Further ones wait, and one of each caller is served after the other: who
//! asks for much delays nobody else.
//!
//! A place is taken once the request has arrived, so that nobody holds one by sending slowly.

use std::sync::Arc;

use tonic::Status;
use volley_common::Error;
use volley_common::fairness::{CallerKey, FairPermit, FairSemaphore};
use volley_common::grpc::retry_later;
use volley_common::identity::Access;

/// How long a client should wait before it repeats a call that was refused, milliseconds.
const RETRY_MS: u64 = 500;

/// Whether an action needs a place. Those that only read what is in memory do not wait: a health check must answer at once.
pub fn needs_place(action: &str) -> bool {
    let is_immediate = matches!(
        action,
        "healthcheck"
            | "addresses"
            | "whoami"
            | "shutdown"
            | "SetSessionOptions"
            | "GetSessionOptions"
            | "CloseSession"
    );
    !is_immediate
}

/// The places of requests that are being planned.
pub struct PlanningQueue {
    places: Arc<FairSemaphore>,
    max_places: usize,
    max_waiting: usize,
}

/// The place of one request, until it is dropped.
#[derive(Debug)]
pub struct PlanningPlace {
    _permit: FairPermit,
}

impl PlanningQueue {
    /// This many places, and at most `max_waiting` requests that wait for one.
    pub fn new(max_places: usize, max_waiting: usize) -> Arc<Self> {
        Arc::new(PlanningQueue { places: FairSemaphore::new(max_places), max_places, max_waiting })
    }

    /// Waits for a place.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED, with the time after which the request may be repeated: too many wait already.
    pub async fn enter(&self, access: &Access) -> Result<PlanningPlace, Status> {
        self.enter_as(CallerKey::of(access)).await
    }

    /// How many requests wait.
    pub fn waiting(&self) -> usize {
        self.places.waiting()
    }

    async fn enter_as(&self, caller: CallerKey) -> Result<PlanningPlace, Status> {
        if let Some(permit) = self.places.try_acquire(1) {
            return Ok(PlanningPlace { _permit: permit });
        }
        if self.places.waiting() >= self.max_waiting {
            metrics::counter!("volley_plans_refused_total").increment(1);
            let error = Error::exhausted(format!(
                "this coordinator plans {} requests at once (`max_concurrent_plans`), and {} wait already (`max_calls`): try again, or call another coordinator",
                self.max_places, self.max_waiting
            ));
            return Err(retry_later(error, RETRY_MS));
        }
        Ok(PlanningPlace { _permit: self.places.acquire(caller, 1).await })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use parking_lot::Mutex;
    use volley_common::Code;
    use volley_common::grpc::retry_after;

    use super::*;

    fn caller(name: &str) -> CallerKey {
        CallerKey::Principal(name.into())
    }

    #[tokio::test]
    async fn request_of_another_principal_passes_those_of_a_busy_one() {
        let queue = PlanningQueue::new(1, 100);
        let first = queue.enter_as(caller("busy")).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for name in ["busy", "busy", "busy", "busy", "other"] {
            let (queue, order, waiting) = (queue.clone(), order.clone(), tasks.len());
            let places = queue.places.clone();
            tasks.push(tokio::spawn(async move {
                let place = queue.enter_as(caller(name)).await.unwrap();
                order.lock().push(name);
                drop(place);
            }));
            while places.waiting() <= waiting {
                tokio::task::yield_now().await;
            }
        }
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(order.lock()[..2], ["busy", "other"]);
    }

    #[test]
    fn health_check_needs_no_place() {
        assert!(!needs_place("healthcheck") && needs_place("list_tables"));
    }

    #[tokio::test]
    async fn queue_is_bounded() {
        let queue = PlanningQueue::new(1, 1);
        let first = queue.enter(&Access::open()).await.unwrap();
        let second = tokio::spawn({
            let queue = queue.clone();
            async move { queue.enter_as(caller("a")).await.unwrap() }
        });
        while queue.places.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        let status = queue.enter_as(caller("b")).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(retry_after(&status), Some(Duration::from_millis(RETRY_MS)));
        assert!(status.message().contains("max_concurrent_plans"), "{status}");
        drop(first);
        drop(second.await.unwrap());
        queue.enter_as(caller("b")).await.unwrap();
    }
}
