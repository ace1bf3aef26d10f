//! Permits for which callers wait in turn: one of each caller after the other, however many each has waiting.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::caller_key::CallerKey;

/// A number of permits, and who waits for some of them.
///
/// One request of each caller is served after the other, those of one caller in the order of their arrival. Nobody passes a request
/// whose turn it is, also if fewer permits would do: large requests are served too.
pub struct FairSemaphore {
    permits: usize,
    state: Mutex<PermitQueue>,
}

/// What is free, and who waits.
struct PermitQueue {
    free: usize,
    /// The callers of `waiting`, the next one to be served first.
    turns: VecDeque<CallerKey>,
    /// By caller: its requests, never an empty list. What is here has not been granted.
    waiting: HashMap<CallerKey, VecDeque<PermitRequest>>,
    count: usize,
    next_id: u64,
}

struct PermitRequest {
    id: u64,
    permits: usize,
    granted: oneshot::Sender<FairPermit>,
}

/// Permits of a [`FairSemaphore`], which are given back when this is dropped.
pub struct FairPermit {
    semaphore: Arc<FairSemaphore>,
    permits: usize,
}

impl FairSemaphore {
    /// This many permits, all free.
    pub fn new(permits: usize) -> Arc<Self> {
        let state =
            PermitQueue { free: permits, turns: VecDeque::new(), waiting: HashMap::new(), count: 0, next_id: 0 };
        Arc::new(FairSemaphore { permits, state: Mutex::new(state) })
    }

    /// How many requests wait.
    pub fn waiting(&self) -> usize {
        self.state.lock().count
    }

    /// Takes permits if they are free and nobody waits.
    pub fn try_acquire(self: &Arc<Self>, permits: usize) -> Option<FairPermit> {
        let is_taken = self.state.lock().take(permits);
        is_taken.then(|| self.permit(permits))
    }

    /// Takes permits, at most all of them; waits in turn until they are free. A request whose future is dropped does not wait any
    /// more.
    pub async fn acquire(self: &Arc<Self>, key: CallerKey, permits: usize) -> FairPermit {
        let permits = permits.min(self.permits);
        let (mut request, granted) = {
            let mut state = self.state.lock();
            if state.take(permits) {
                drop(state);
                return self.permit(permits);
            }
            let (granted, receiver) = oneshot::channel();
            let id = state.push(&key, permits, granted);
            (WaitingRequest { semaphore: self, key, id: Some(id) }, receiver)
        };
        let permit = granted.await.expect("a request leaves the queue when it is granted or dropped");
        request.id = None;
        permit
    }

    fn permit(self: &Arc<Self>, permits: usize) -> FairPermit {
        FairPermit { semaphore: self.clone(), permits }
    }

    /// Gives permits back, and grants the requests whose turn has come.
    fn release(self: &Arc<Self>, permits: usize) {
        let served = {
            let mut state = self.state.lock();
            state.free += permits;
            state.serve()
        };
        self.grant(served);
    }

    /// Without the lock: a request that was dropped in this moment gives its permits back at once.
    fn grant(self: &Arc<Self>, served: Vec<PermitRequest>) {
        for request in served {
            drop(request.granted.send(self.permit(request.permits)));
        }
    }
}

impl PermitQueue {
    /// Takes permits if nobody waits for them.
    fn take(&mut self, permits: usize) -> bool {
        let is_free = self.count == 0 && self.free >= permits;
        if is_free {
            self.free -= permits;
        }
        is_free
    }

    fn push(&mut self, key: &CallerKey, permits: usize, granted: oneshot::Sender<FairPermit>) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.count += 1;
        if !self.waiting.contains_key(key) {
            self.turns.push_back(key.clone());
        }
        self.waiting.entry(key.clone()).or_default().push_back(PermitRequest { id, permits, granted });
        id
    }

    /// Takes out the requests for which there are permits, in turn.
    fn serve(&mut self) -> Vec<PermitRequest> {
        let mut served = Vec::new();
        while let Some(key) = self.turns.front()
            && let Some(requests) = self.waiting.get_mut(key)
            && requests.front().is_some_and(|request| request.permits <= self.free)
            && let Some(request) = requests.pop_front()
        {
            self.free -= request.permits;
            self.count -= 1;
            served.push(request);
            let is_last = requests.is_empty();
            if let Some(key) = self.turns.pop_front() {
                match is_last {
                    true => drop(self.waiting.remove(&key)),
                    false => self.turns.push_back(key),
                }
            }
        }
        served
    }

    /// Takes out a request that waits no more.
    fn remove(&mut self, key: &CallerKey, id: u64) {
        let Some(requests) = self.waiting.get_mut(key) else { return };
        let before = requests.len();
        requests.retain(|request| request.id != id);
        self.count -= before - requests.len();
        if requests.is_empty() {
            self.waiting.remove(key);
            self.turns.retain(|other| other != key);
        }
    }
}

/// A request that waits; also one whose future is dropped leaves the queue.
struct WaitingRequest<'a> {
    semaphore: &'a Arc<FairSemaphore>,
    key: CallerKey,
    /// `None` once it is granted.
    id: Option<u64>,
}

impl Drop for WaitingRequest<'_> {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        let served = {
            let mut state = self.semaphore.state.lock();
            state.remove(&self.key, id);
            // Others may have waited behind it for fewer permits.
            state.serve()
        };
        self.semaphore.grant(served);
    }
}

impl FairPermit {
    /// How many permits it has.
    pub fn permits(&self) -> usize {
        self.permits
    }

    /// Takes permits out of it; `None`: it has fewer.
    pub fn split(&mut self, permits: usize) -> Option<FairPermit> {
        self.permits = self.permits.checked_sub(permits)?;
        Some(self.semaphore.permit(permits))
    }
}

impl Drop for FairPermit {
    fn drop(&mut self) {
        if self.permits > 0 {
            self.semaphore.release(self.permits);
        }
    }
}

impl fmt::Debug for FairPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FairPermit").field("permits", &self.permits).finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
