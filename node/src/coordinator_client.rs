//! Calls to the coordinators' peer service, with fail-over.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tonic::transport::Channel;
use volley_common::net::{Attempt, ConnectionPool, Failover, was_not_handled};
use volley_common::wire::cluster::coordinator_client::CoordinatorClient as CoordinatorStub;
use volley_common::wire::cluster::{
    AbortWriteRequest, BeginWriteRequest, CommitWriteRequest, DeletablePartsRequest, LoginReply, LoginRequest,
    PlanReadReply, PlanReadRequest, RenewWriteRequest, StagePartsRequest, WritePlan,
};
use volley_common::wire::{MAX_PEER_MESSAGE, catalog};
use volley_common::{Code, Error, Result};

use crate::assertion::AssertedCaller;

const BEGIN_WRITE: &str = "/volley.cluster.v1.Coordinator/BeginWrite";
const PLAN_READ: &str = "/volley.cluster.v1.Coordinator/PlanRead";
/// How long a commit is retried: longer than an election, as repeating a commit is safe.
const COMMIT_DEADLINE: Duration = Duration::from_secs(30);
/// A call that takes longer is sent to a second coordinator too: longer than most commits take on a busy machine.
const HEDGE_AFTER: Duration = Duration::from_secs(1);
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
    /// The call did not reach the coordinator; it hangs; or its own answer is an error.
    Other(Error),
}

impl From<Error> for AttemptFailure {
    fn from(error: Error) -> Self {
        AttemptFailure::Other(error)
    }
}

impl From<Status> for AttemptFailure {
    fn from(status: Status) -> Self {
        let in_flight = std::error::Error::source(&status).is_some_and(|cause| !was_not_handled(cause));
        let error = Error::from(status);
        // A reply that is invalid is INTERNAL, and final anyway.
        if in_flight && error.code == Code::Unavailable {
            AttemptFailure::Broke(error)
        } else {
            AttemptFailure::Other(error)
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
    pub fn stub(&self, addr: &str) -> Result<CoordinatorStub<Channel>> {
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

    /// Adds the parts of one stream to a write that another call will commit.
    pub async fn stage(&self, request: StagePartsRequest) -> Result<()> {
        self.call(BrokenCall::Repeat, COMMIT_DEADLINE, request, |mut stub, request| async move {
            stub.stage_parts(request).await
        })
        .await?;
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
    pub async fn plan_read(&self, request: PlanReadRequest, caller: &AssertedCaller) -> Result<PlanReadReply> {
        self.call(BrokenCall::Fail, self.deadline, request, |mut stub, request| {
            let request = caller.request(PLAN_READ, request);
            async move { stub.plan_read(request).await }
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

    /// Calls the coordinators in rounds until one answers with anything but UNAVAILABLE, or the deadline has passed. These
    /// calls may take effect twice, so they are hedged.
    async fn call<Req, Rep, Call, Fut>(
        &self,
        if_broken: BrokenCall,
        deadline: Duration,
        request: Req,
        call: Call,
    ) -> Result<Rep>
    where
        Req: Clone,
        Call: Fn(CoordinatorStub<Channel>, Req) -> Fut,
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
        Call: Fn(CoordinatorStub<Channel>, Req) -> Fut,
        Fut: Future<Output = Result<tonic::Response<Rep>, Status>>,
    {
        let until = Instant::now() + deadline;
        let mut pauses = pauses();
        let attempt = |addr: String| {
            let (stub, request, call) = (self.stub(&addr), request.clone(), &call);
            async move {
                let answer = async { Ok(call(stub?, request).await?.into_inner()) };
                let answer = timeout_at(until, self.pool.while_answering(&addr, answer)).await;
                let answer = answer.unwrap_or_else(|_| Err(Error::unavailable("no answer in time").into()));
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
            if left.is_zero() {
                return Err(error.at(format_args!("no coordinator answered within {deadline:?}")));
            }
            tokio::time::sleep(pauses.next().unwrap_or(MAX_PAUSE).min(left)).await;
        }
    }
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
        Err(AttemptFailure::Broke(error) | AttemptFailure::Other(error)) => Attempt::repeatable(Err(at(error))),
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
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    /// Whether these bytes of a client have an HTTP/2 DATA frame.
    fn has_data_frame(received: &[u8]) -> bool {
        const PREFACE: usize = 24;
        let mut frames = received.get(PREFACE..).unwrap_or_default();
        while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = frames {
            if *kind == 0 {
                return true;
            }
            frames = rest.get(u32::from_be_bytes([0, *a, *b, *c]) as usize..).unwrap_or_default();
        }
        false
    }

    /// A coordinator that every call ends, after it was counted.
    async fn ended_by_each_call(calls: Arc<AtomicUsize>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let calls = calls.clone();
                tokio::spawn(async move {
                    let mut received = Vec::new();
                    while !has_data_frame(&received) {
                        if connection.read_buf(&mut received).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    calls.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        addr
    }

    #[tokio::test]
    async fn call_with_client_content_ends_one_coordinator_at_most() {
        let calls = Arc::new(AtomicUsize::new(0));
        let addrs = vec![ended_by_each_call(calls.clone()).await, ended_by_each_call(calls.clone()).await];
        let client = CoordinatorClient::new(ConnectionPool::new(), addrs.clone(), Duration::from_millis(500));
        let caller = AssertedCaller::cluster(Arc::default());
        let began = client.begin_write(BeginWriteRequest::default(), &caller).await.unwrap_err();
        let planned = client.plan_read(PlanReadRequest::default(), &caller).await.unwrap_err();
        let logged_in = client.login(LoginRequest::default()).await.unwrap_err();
        for error in [began, planned, logged_in] {
            assert_eq!(error.code, Code::Unavailable, "{error}");
            let names_one = addrs.iter().any(|addr| error.message.contains(addr));
            assert!(names_one && error.message.contains("can be repeated"), "{error}");
        }
        assert_eq!(calls.load(Ordering::Relaxed), 3, "each call was sent once");
        client.renew("w").await.unwrap_err();
        assert!(calls.load(Ordering::Relaxed) >= 5, "a call with ids goes to the next one");
    }

    #[test]
    fn preferred_coordinator_stays_first_when_the_list_changes() {
        let named = |names: &[&str]| names.iter().map(|name| format!("{name}:1")).collect::<Vec<_>>();
        let client = CoordinatorClient::new(ConnectionPool::new(), named(&["a", "b", "c"]), Duration::from_secs(1));
        client.prefer("c:1");
        assert_eq!(client.addrs(), named(&["c", "a", "b"]));
        client.refresh(&named(&["b", "c", "d"]));
        assert_eq!(client.addrs(), named(&["c", "d", "a", "b"]));
        client.prefer("nobody:1");
        assert_eq!(client.addrs(), named(&["b", "c", "d", "a"]));
    }
    #[tokio::test]
    async fn call_without_coordinators_fails_at_once() {
        let client = CoordinatorClient::new(ConnectionPool::new(), Vec::new(), Duration::from_secs(3600));
        let error = client.renew("w").await.unwrap_err();
        assert_eq!(error.message, "no coordinator is configured");
    }
}
