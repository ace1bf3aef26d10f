//! Calls to the coordinators' peer service, with fail-over.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use backon::{BackoffBuilder, ExponentialBuilder};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use volley_common::net::{Attempt, ConnectionPool, Failover, MemberChannel, was_not_handled};
use volley_common::ticket::SQL_MAGIC;
use volley_common::wire::cluster::coordinator_client::CoordinatorClient as CoordinatorStub;
use volley_common::wire::cluster::{
    AbortWriteRequest, BeginWriteRequest, CommitWriteRequest, DeletablePartsRequest, ListTablesReply,
    ListTablesRequest, LoginReply, LoginRequest, PlanReadReply, PlanReadRequest, PlanTablesReply, PlanTablesRequest,
    RenewWriteRequest, StagePartsRequest, WritePlan,
};
use volley_common::wire::{MAX_PEER_MESSAGE, catalog};
use volley_common::{Code, Error, Result};

use crate::assertion::AssertedCaller;

const BEGIN_WRITE: &str = "/volley.cluster.v1.Coordinator/BeginWrite";
const PLAN_READ: &str = "/volley.cluster.v1.Coordinator/PlanRead";
const PLAN_TABLES: &str = "/volley.cluster.v1.Coordinator/PlanTables";
const LIST_TABLES: &str = "/volley.cluster.v1.Coordinator/ListTables";
/// How long a commit is retried: longer than an election, as repeating a commit is safe.
const COMMIT_DEADLINE: Duration = Duration::from_secs(30);
/// A call that takes longer is sent to a second coordinator too: longer than most commits take on a busy machine.
const HEDGE_AFTER: Duration = Duration::from_secs(1);
/// The longest additional wait for the first answer of a coordinator: a coordinator that waits for a leader for as long as this node
/// waits answers then with its reason, and one that was called as a hedge [`HEDGE_AFTER`] later.
const MAX_ANSWER_MARGIN: Duration = Duration::from_millis(1250);
/// The longest pause between two rounds of attempts.
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// What follows when the connection breaks while a call is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BrokenCall {
    /// It is repeated at the next coordinator: for calls with the ids of writes and parts, most of which must be repeated.
    Repeat,
    /// It fails with UNAVAILABLE. For calls with names and options of clients: such a call may be what ended the coordinator,
    /// and must not end the others too.
    Fail,
}

/// Why an attempt at one coordinator failed.
enum AttemptFailure {
    /// The connection broke while the call was in flight.
    Broke(Error),
    /// The coordinator's own answer is this error.
    Answered(Error),
    /// The call did not reach the coordinator, or it hangs.
    Other(Error),
}

impl From<Error> for AttemptFailure {
    fn from(error: Error) -> Self {
        AttemptFailure::Other(error)
    }
}

impl From<Status> for AttemptFailure {
    fn from(status: Status) -> Self {
        // Only errors of the transport have a cause.
        let is_handled = std::error::Error::source(&status).map(|cause| !was_not_handled(cause));
        let error = Error::from(status);
        match is_handled {
            None => AttemptFailure::Answered(error),
            // A reply that is invalid is INTERNAL, and final anyway.
            Some(true) if error.code == Code::Unavailable => AttemptFailure::Broke(error),
            Some(_) => AttemptFailure::Other(error),
        }
    }
}

/// A client of the coordinators' peer service. Every coordinator answers every call. If one is unreachable, is slow, hangs,
/// or knows no leader, the call goes to the next one until the deadline. A call with content of clients whose connection broke
/// goes to no other.
pub struct CoordinatorClient {
    pool: ConnectionPool,
    configured: Vec<String>,
    addrs: ArcSwap<Vec<String>>,
    /// Index of the coordinator that is called first while it answers: the leader.
    preferred: AtomicUsize,
    deadline: Duration,
}

impl CoordinatorClient {
    /// `addrs`: the configured peer addresses, HOST:PORT.
    pub fn new(pool: ConnectionPool, addrs: Vec<String>, deadline: Duration) -> Self {
        CoordinatorClient {
            pool,
            configured: addrs.clone(),
            addrs: ArcSwap::from_pointee(addrs),
            preferred: AtomicUsize::new(0),
            deadline,
        }
    }

    /// Replaces the peer addresses by those that the leader sent. The configured ones stay, at the end.
    pub fn refresh(&self, peers: &[String]) {
        let mut addrs: Vec<String> = peers.iter().filter(|a| !a.is_empty()).cloned().collect();
        for addr in &self.configured {
            if !addrs.contains(addr) {
                addrs.push(addr.clone());
            }
        }
        if **self.addrs.load() != addrs {
            let first = self.addrs().into_iter().next().unwrap_or_default();
            self.addrs.store(Arc::new(addrs));
            self.prefer(&first);
        }
    }

    /// Calls this coordinator first from now on, if its address is known. Calling the leader directly saves a hop.
    pub fn prefer(&self, addr: &str) {
        let at = self.addrs.load().iter().position(|known| known == addr);
        self.preferred.store(at.unwrap_or(0), Ordering::Relaxed);
    }

    /// Peer addresses, in the order in which the next call tries them.
    pub fn addrs(&self) -> Vec<String> {
        let mut addrs = self.addrs.load().to_vec();
        let first = self.preferred.load(Ordering::Relaxed) % addrs.len().max(1);
        addrs.rotate_left(first);
        self.pool.sort_by_health(&mut addrs);
        addrs
    }

    /// The gRPC stub of one coordinator, with the message limits between members.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: `addr` is not an address.
    pub fn stub(&self, addr: &str) -> Result<CoordinatorStub<MemberChannel>> {
        Ok(CoordinatorStub::new(self.pool.coordinator_channel(addr)?)
            .max_decoding_message_size(MAX_PEER_MESSAGE)
            .max_encoding_message_size(MAX_PEER_MESSAGE))
    }

    /// Begins a write for `caller`, who needs the right to; the reply says where its parts should go.
    pub async fn begin_write(&self, request: BeginWriteRequest, caller: &AssertedCaller) -> Result<WritePlan> {
        self.call(BrokenCall::Fail, self.deadline, request, |mut stub, request| {
            let request = caller.request(BEGIN_WRITE, request);
            async move { stub.begin_write(request).await }
        })
        .await
    }

    /// Adds the parts of one stream to a write that another call will commit. The call is idempotent, so it is retried for 30 s.
    ///
    /// # Errors
    /// UNAVAILABLE that says that the outcome is unknown, if no coordinator answered in that time: another put would be another
    /// stream.
    pub async fn stage(&self, request: StagePartsRequest) -> Result<()> {
        let write = request.write.clone();
        self.call(BrokenCall::Repeat, COMMIT_DEADLINE, request, |mut stub, request| async move {
            stub.stage_parts(request).await
        })
        .await
        .map_err(|error| match error.code {
            Code::Unavailable | Code::DeadlineExceeded => error.at(format_args!(
                "it is unknown whether the rows were added to write {write}, and a repeated put could add them twice: abort the write, or roll back its transaction, and put all of its rows again"
            )),
            _ => error,
        })?;
        Ok(())
    }

    /// Renews the lease of a write.
    pub async fn renew(&self, write: &str) -> Result<()> {
        let request = RenewWriteRequest { write: write.into() };
        self.call(BrokenCall::Repeat, self.deadline, request, |mut stub, request| async move {
            stub.renew_write(request).await
        })
        .await?;
        Ok(())
    }

    /// Makes a write visible. The call is idempotent, so it is retried for 30 s.
    ///
    /// # Errors
    /// UNAVAILABLE that says that the outcome is unknown, if no coordinator answered in that time.
    pub async fn commit(&self, request: CommitWriteRequest) -> Result<catalog::WriteOutcome> {
        let write = request.write.clone();
        self.call(BrokenCall::Repeat, COMMIT_DEADLINE, request, |mut stub, request| async move {
            stub.commit_write(request).await
        })
        .await
        .map_err(|error| match error.code {
            Code::Unavailable | Code::DeadlineExceeded => error.at(format_args!(
                "it is unknown whether write {write} took effect; put again with this write id to find out"
            )),
            _ => error,
        })
    }

    /// Aborts a write.
    pub async fn abort(&self, request: AbortWriteRequest) -> Result<()> {
        self.call(BrokenCall::Repeat, self.deadline, request, |mut stub, request| async move {
            stub.abort_write(request).await
        })
        .await?;
        Ok(())
    }

    /// Those of these parts that the catalog proves to be unneeded on the node that holds them.
    pub async fn deletable_parts(&self, request: DeletablePartsRequest) -> Result<Vec<catalog::PartId>> {
        let call = self.call(BrokenCall::Repeat, self.deadline, request, |mut stub, request| async move {
            stub.deletable_parts(request).await
        });
        Ok(call.await?.parts)
    }

    /// Resolves a table's name to a ticket for the whole table, for `caller`, who needs the right to read it.
    ///
    /// # Errors
    /// FAILED_PRECONDITION: the request has a filter, and the coordinator is of a version that ignores it.
    pub async fn plan_read(&self, request: PlanReadRequest, caller: &AssertedCaller) -> Result<PlanReadReply> {
        let is_filtered = !request.filter.is_empty();
        let call = self.call(BrokenCall::Fail, self.deadline, request, |mut stub, request| {
            let request = caller.request(PLAN_READ, request);
            async move { stub.plan_read(request).await }
        });
        let reply = call.await?;
        check_filtered(is_filtered, &reply)?;
        Ok(reply)
    }

    /// Plans reads of whole tables for a query of `caller`, who needs the right to read each, by one linearizable read. The tickets
    /// are not for clients.
    ///
    /// # Errors
    /// NOT_FOUND: no such table or version, or one that the caller may not know of. INVALID_ARGUMENT: too many tables.
    /// RESOURCE_EXHAUSTED: the plans are too large. UNIMPLEMENTED: the coordinator is of an earlier version. UNAVAILABLE.
    pub async fn plan_tables(&self, request: PlanTablesRequest, caller: &AssertedCaller) -> Result<PlanTablesReply> {
        self.call(BrokenCall::Fail, self.deadline, request, |mut stub, request| {
            let request = caller.request(PLAN_TABLES, request);
            async move { stub.plan_tables(request).await }
        })
        .await
    }

    /// The tables that `caller` may read, with the columns that it may see.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: there are too many. UNIMPLEMENTED: the coordinator is of an earlier version. UNAVAILABLE.
    pub async fn list_tables(&self, caller: &AssertedCaller) -> Result<ListTablesReply> {
        self.call(BrokenCall::Fail, self.deadline, ListTablesRequest {}, |mut stub, request| {
            let request = caller.request(LIST_TABLES, request);
            async move { stub.list_tables(request).await }
        })
        .await
    }

    /// Verifies a user's password; the reply has a session token.
    ///
    /// # Errors
    /// UNAUTHENTICATED: no such user, or another password. RESOURCE_EXHAUSTED: too many logins of the user or from the
    /// address failed.
    pub async fn login(&self, request: LoginRequest) -> Result<LoginReply> {
        // Not hedged: a wrong password counts at each coordinator that verifies it, and verifying takes much of a core, so slow
        // coordinators must not get twice as many.
        self.call_hedged(None, BrokenCall::Fail, self.deadline, request, |mut stub, request| async move {
            stub.login(request).await
        })
        .await
    }

    /// Calls the coordinators in rounds until one answers with anything but UNAVAILABLE, or the deadline has passed: then the
    /// last reason that a coordinator gave is the error. If none gave any, the calls in flight may take a little longer, because a
    /// coordinator that waits has the same deadline. These calls may take effect twice, so they are hedged.
    async fn call<Req, Rep, Call, Fut>(
        &self,
        if_broken: BrokenCall,
        deadline: Duration,
        request: Req,
        call: Call,
    ) -> Result<Rep>
    where
        Req: Clone,
        Call: Fn(CoordinatorStub<MemberChannel>, Req) -> Fut,
        Fut: Future<Output = Result<tonic::Response<Rep>, Status>>,
    {
        self.call_hedged(Some(HEDGE_AFTER), if_broken, deadline, request, call).await
    }

    /// The same; `hedge_after`: when a call that has no answer is sent to a second coordinator too, if ever.
    async fn call_hedged<Req, Rep, Call, Fut>(
        &self,
        hedge_after: Option<Duration>,
        if_broken: BrokenCall,
        deadline: Duration,
        request: Req,
        call: Call,
    ) -> Result<Rep>
    where
        Req: Clone,
        Call: Fn(CoordinatorStub<MemberChannel>, Req) -> Fut,
        Fut: Future<Output = Result<tonic::Response<Rep>, Status>>,
    {
        let until = Instant::now() + deadline;
        let margin = (deadline / 4).min(MAX_ANSWER_MARGIN);
        // The last UNAVAILABLE that a coordinator answered. What failed later for lack of time says less.
        let heard = Mutex::new(None::<Error>);
        let mut pauses = pauses();
        let attempt = |addr: String| {
            let (stub, request, call, heard) = (self.stub(&addr), request.clone(), &call, &heard);
            async move {
                let answer = async { Ok(call(stub?, request).await?.into_inner()) };
                let limit = if heard.lock().is_some() { until } else { until + margin };
                let answer = timeout_at(limit, self.pool.while_answering(&addr, answer)).await;
                let answer = answer.unwrap_or_else(|_| Err(Error::unavailable("no answer in time").into()));
                if let Err(AttemptFailure::Answered(error)) = &answer
                    && error.code == Code::Unavailable
                {
                    *heard.lock() = Some(error.clone().at(format_args!("coordinator {addr}")));
                }
                attempt_of(&addr, if_broken, answer)
            }
        };
        loop {
            let mut round = Failover::new(self.addrs());
            if let Some(answer) = self.pool.attempt_any(&mut round, hedge_after, attempt).await {
                return answer;
            }
            let Some(error) = round.into_error() else {
                return Err(Error::unavailable("no coordinator is configured"));
            };
            let left = until.saturating_duration_since(Instant::now());
            tokio::time::sleep(pauses.next().unwrap_or(MAX_PAUSE).min(left)).await;
            if Instant::now() >= until {
                let unanswered = || error.at(format_args!("no coordinator answered within {deadline:?}"));
                return Err(heard.lock().take().unwrap_or_else(unanswered));
            }
        }
    }
}

/// Checks that a filter that was requested is in the planned ticket: coordinators of earlier versions ignore it, and by their ticket
/// all rows would be sent.
///
/// # Errors
/// FAILED_PRECONDITION.
fn check_filtered(is_filtered: bool, reply: &PlanReadReply) -> Result<()> {
    if !is_filtered || reply.ticket.starts_with(SQL_MAGIC) {
        return Ok(());
    }
    Err(Error::precondition(
        "a coordinator of an earlier version planned this read and does not know filters: upgrade all coordinators, or read without \"where\"",
    ))
}

fn attempt_of<T>(addr: &str, if_broken: BrokenCall, answer: Result<T, AttemptFailure>) -> Attempt<T> {
    let at = |error: Error| match error.code {
        Code::Unavailable => error.at(format_args!("coordinator {addr}")),
        _ => error,
    };
    match answer {
        Err(AttemptFailure::Broke(error)) if if_broken == BrokenCall::Fail => {
            let error = at(error);
            Attempt::Done(Err(Error { message: format!("{}; the call can be repeated", error.message), ..error }))
        }
        Err(AttemptFailure::Broke(error) | AttemptFailure::Answered(error) | AttemptFailure::Other(error)) => {
            Attempt::repeatable(Err(at(error)))
        }
        Ok(reply) => Attempt::repeatable(Ok(reply)),
    }
}

/// Pauses between rounds: 20 ms growing to [`MAX_PAUSE`], with jitter.
fn pauses() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(20))
        .with_max_delay(MAX_PAUSE)
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests;
