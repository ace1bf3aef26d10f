//! How many calls may be in progress: of each caller, and of all together.
//!
//! A call is in progress until the body of its reply has ended: a stream that its client does not read counts.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use http::Response;
use metrics::Gauge;
use parking_lot::Mutex;
use tonic::Status;

use super::caller_key::CallerKey;
use crate::Error;
use crate::grpc::retry_later;
use crate::http2::hold_until_end;
use crate::identity::Access;

/// How long a client should wait before it repeats a call that was refused, milliseconds.
const RETRY_MS: u64 = 200;

/// Counts the calls in progress of one process. Memory is bounded: a caller without calls is forgotten.
pub struct CallLimit {
    most: usize,
    most_per_caller: usize,
    calls: Mutex<CallCounts>,
    /// Made at the first call: before, the process may have no recorder of metrics.
    running: OnceLock<Gauge>,
}

#[derive(Default)]
struct CallCounts {
    all: usize,
    /// Only callers that have calls, and are somebody in particular.
    by_caller: HashMap<CallerKey, usize>,
}

/// The place of one call among those in progress, until it is dropped.
pub struct CallPermit {
    limit: Arc<CallLimit>,
    caller: CallerKey,
}

impl CallLimit {
    /// At most `most` calls in all, and `most_per_caller` of each principal; of each network, where callers have no identity.
    pub fn new(most: usize, most_per_caller: usize) -> Arc<Self> {
        Arc::new(CallLimit { most, most_per_caller, calls: Mutex::default(), running: OnceLock::new() })
    }

    /// Admits one more call. It never waits.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED, with the time after which the call may be repeated: the caller has too many calls in progress, or all
    /// callers together have.
    pub fn admit(self: &Arc<Self>, access: &Access) -> Result<CallPermit, Status> {
        self.admit_caller(CallerKey::of(access))
    }

    fn admit_caller(self: &Arc<Self>, caller: CallerKey) -> Result<CallPermit, Status> {
        let counted = self.calls.lock().count(&caller, self.most, self.most_per_caller);
        match counted {
            Ok(()) => {
                self.running().increment(1.0);
                Ok(CallPermit { limit: self.clone(), caller })
            }
            Err(scope) => {
                metrics::counter!("volley_calls_refused_total", "scope" => scope.as_str()).increment(1);
                Err(retry_later(self.refusal(scope, &caller), RETRY_MS))
            }
        }
    }

    fn running(&self) -> &Gauge {
        self.running.get_or_init(|| metrics::gauge!("volley_calls"))
    }

    fn refusal(&self, scope: CallScope, caller: &CallerKey) -> Error {
        Error::exhausted(match scope {
            CallScope::All => format!(
                "this member has {} calls in progress, the most that it serves at once (`max_calls`): try again, or call another member",
                self.most
            ),
            CallScope::Caller => format!(
                "{caller} has {} calls in progress at this member, the most that one may have (`max_calls_per_principal`): let some of them end, or call another member",
                self.most_per_caller
            ),
        })
    }
}

/// Which limit is reached.
#[derive(Clone, Copy)]
enum CallScope {
    All,
    Caller,
}

impl CallScope {
    fn as_str(self) -> &'static str {
        match self {
            CallScope::All => "all",
            CallScope::Caller => "principal",
        }
    }
}

impl CallCounts {
    fn count(&mut self, caller: &CallerKey, most: usize, most_per_caller: usize) -> Result<(), CallScope> {
        let own = self.by_caller.get(caller).copied().unwrap_or(0);
        if own >= most_per_caller {
            return Err(CallScope::Caller);
        }
        if self.all >= most {
            return Err(CallScope::All);
        }
        self.all += 1;
        if *caller != CallerKey::Cluster {
            self.by_caller.insert(caller.clone(), own + 1);
        }
        Ok(())
    }
}

impl CallPermit {
    /// Keeps the place until the body of the reply has ended, or its client is gone.
    pub fn hold<B>(self, reply: &mut Response<B>) {
        hold_until_end(reply, self);
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        self.limit.running().decrement(1.0);
        let mut calls = self.limit.calls.lock();
        calls.all -= 1;
        if let Some(own) = calls.by_caller.get_mut(&self.caller) {
            *own -= 1;
            if *own == 0 {
                calls.by_caller.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
