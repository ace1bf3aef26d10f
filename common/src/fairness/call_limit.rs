//! How many calls may be in progress: of each caller, and of all together.
//!
//! A call is in progress until the body of its reply has ended: a stream that its client does not read counts.
//!
//! Callers that have not identified themselves, and the services beside Flight, such as gRPC health, have places of their own:
//! they take none of those of the others, and the others none of theirs.

use std::sync::{Arc, OnceLock};

use http::Response;
use metrics::Gauge;
use parking_lot::Mutex;
use tonic::Status;

use super::caller_key::CallerKey;
use super::keyed_counts::KeyedCounts;
use crate::Error;
use crate::grpc::retry_later;
use crate::http2::hold_until_end;
use crate::identity::Access;

/// How long a client should wait before it repeats a call that was refused, milliseconds.
const RETRY_MS: u64 = 200;
/// Callers without identity have this part of the places, in all and for one network, but at least
/// [`MIN_UNIDENTIFIED`].
const UNIDENTIFIED_PART: (usize, usize) = (16, 128);
/// The least places of callers without identity, in all and for one network.
const MIN_UNIDENTIFIED: (usize, usize) = (16, 4);
/// The places of calls of services beside Flight, in all and for one caller.
const OTHER_SERVICES: (usize, usize) = (1024, 64);

/// Counts the calls in progress of one process. Memory is bounded: a caller without calls is forgotten.
pub struct CallLimit {
    identified: CallPool,
    unidentified: CallPool,
    other_services: CallPool,
    /// Made at the first call: before, the process may have no recorder of metrics.
    running: OnceLock<Gauge>,
}

/// Places for calls of one kind.
struct CallPool {
    most: usize,
    most_per_caller: usize,
    /// By caller; the cluster's own calls in all only.
    calls: Mutex<KeyedCounts<CallerKey>>,
}

/// Which places a call may have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CallKind {
    /// A Flight call of a principal, of the cluster, or of anybody in an open cluster.
    Identified,
    /// A Flight call of a caller without identity.
    Unidentified,
    /// A call of a service beside Flight.
    OtherService,
}

/// The place of one call among those in progress, until it is dropped.
pub struct CallPermit {
    limit: Arc<CallLimit>,
    kind: CallKind,
    caller: CallerKey,
}

impl CallLimit {
    /// At most `most` calls in all, and `most_per_caller` of each principal; of each network in an open cluster. A sixteenth as
    /// many of callers without identity, which are not among the others.
    pub fn new(most: usize, most_per_caller: usize) -> Arc<Self> {
        let unidentified = CallPool::new(
            (most / UNIDENTIFIED_PART.0).max(MIN_UNIDENTIFIED.0),
            (most / UNIDENTIFIED_PART.1).max(MIN_UNIDENTIFIED.1),
        );
        Arc::new(CallLimit {
            identified: CallPool::new(most, most_per_caller),
            unidentified,
            other_services: CallPool::new(OTHER_SERVICES.0, OTHER_SERVICES.1),
            running: OnceLock::new(),
        })
    }

    /// Admits one more Flight call. It never waits.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED, with the time after which the call may be repeated: the caller has too many calls in progress, or all
    /// callers together have.
    pub fn admit(self: &Arc<Self>, access: &Access) -> Result<CallPermit, Status> {
        let is_identified = access.require_identity().is_ok();
        let kind = if is_identified { CallKind::Identified } else { CallKind::Unidentified };
        self.admit_caller(kind, CallerKey::of(access))
    }

    /// Admits one more call of a service beside Flight, such as gRPC health or reflection: a member that is full of calls still
    /// says that it is healthy. It never waits.
    ///
    /// # Errors
    /// As [`CallLimit::admit`].
    pub fn admit_other_service(self: &Arc<Self>, access: &Access) -> Result<CallPermit, Status> {
        self.admit_caller(CallKind::OtherService, CallerKey::of(access))
    }

    fn admit_caller(self: &Arc<Self>, kind: CallKind, caller: CallerKey) -> Result<CallPermit, Status> {
        let pool = self.pool(kind);
        match pool.count(&caller) {
            Ok(()) => {
                if kind != CallKind::OtherService {
                    self.running().increment(1.0);
                }
                Ok(CallPermit { limit: self.clone(), kind, caller })
            }
            Err(scope) => {
                metrics::counter!("volley_calls_refused_total", "scope" => kind.scope_label(scope)).increment(1);
                Err(retry_later(pool.refusal(kind, scope, &caller), RETRY_MS))
            }
        }
    }

    fn pool(&self, kind: CallKind) -> &CallPool {
        match kind {
            CallKind::Identified => &self.identified,
            CallKind::Unidentified => &self.unidentified,
            CallKind::OtherService => &self.other_services,
        }
    }

    fn running(&self) -> &Gauge {
        self.running.get_or_init(|| metrics::gauge!("volley_calls"))
    }
}

impl CallPool {
    fn new(most: usize, most_per_caller: usize) -> Self {
        CallPool { most, most_per_caller, calls: Mutex::default() }
    }

    fn count(&self, caller: &CallerKey) -> Result<(), CallScope> {
        let mut calls = self.calls.lock();
        if calls.of(caller) >= self.most_per_caller {
            return Err(CallScope::Caller);
        }
        if calls.all() >= self.most {
            return Err(CallScope::All);
        }
        calls.add((*caller != CallerKey::Cluster).then(|| caller.clone()));
        Ok(())
    }

    fn refusal(&self, kind: CallKind, scope: CallScope, caller: &CallerKey) -> Error {
        let (most, own) = (self.most, self.most_per_caller);
        Error::exhausted(match (kind, scope) {
            (CallKind::Identified, CallScope::All) => format!(
                "this member has {most} calls in progress, the most that it serves at once (`max_calls`): try again, or call another member"
            ),
            (CallKind::Identified, CallScope::Caller) => format!(
                "{caller} has {own} calls in progress at this member, the most that one may have (`max_calls_per_principal`): let some of them end, or call another member"
            ),
            (CallKind::Unidentified, CallScope::All) => format!(
                "this member has {most} calls without identity in progress, the most that it serves at once (a sixteenth of `max_calls`): try again, or present a token"
            ),
            (CallKind::Unidentified, CallScope::Caller) => format!(
                "{caller} has {own} calls without identity in progress at this member, the most that one may have: let some of them end, or present a token"
            ),
            (CallKind::OtherService, CallScope::All) => format!(
                "this member has {most} calls of health and reflection in progress, the most that it serves at once: try again"
            ),
            (CallKind::OtherService, CallScope::Caller) => format!(
                "{caller} has {own} calls of health and reflection in progress at this member, the most that one may have: let some of them end"
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

impl CallKind {
    /// What the metric of refused calls says about a limit.
    fn scope_label(self, scope: CallScope) -> &'static str {
        match (self, scope) {
            (CallKind::Identified, CallScope::All) => "all",
            (CallKind::Identified, CallScope::Caller) => "principal",
            (CallKind::Unidentified, _) => "unidentified",
            (CallKind::OtherService, _) => "other_service",
        }
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
        if self.kind != CallKind::OtherService {
            self.limit.running().decrement(1.0);
        }
        self.limit.pool(self.kind).calls.lock().remove(&self.caller);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
