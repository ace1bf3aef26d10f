//! Proposing commands and reading the catalog: on this coordinator if it leads, through the leader otherwise.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use futures::FutureExt;
use openraft::error::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::{LinearizerOption, ReadPolicy};
use prost::Message;
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Status};
use volley_common::net::was_not_handled;
use volley_common::telemetry::trace::CallSpan;
use volley_common::wire::MAX_PEER_MESSAGE;
use volley_common::wire::catalog::{Command, Reply, command, reply};
use volley_common::wire::cluster::coordinator_client::CoordinatorClient;
use volley_common::wire::cluster::{Follower, ProposeRequest, ReadIndexRequest};
use volley_common::{Code, Error, Result};

use super::context::RaftContext;
use super::rpc::network::PeerChannel;
use super::storage::state_machine::CatalogView;
use super::types::{LogCommand, LogId};

/// Prefix of errors from before anything was proposed: it is safe to retry.
const NOT_PROPOSED: &str = "not proposed: ";
/// Bytes of a message that a command leaves for its envelope.
const ENVELOPE_BYTES: usize = 64 << 10;
/// Pause before a retry, unless the leader changes.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The outcome of one attempt with one leader.
enum LeaderAttempt<T> {
    /// The result for the caller.
    Done(Result<T>),
    /// The attempt certainly had no effect: retry.
    Retry(Error),
}

impl RaftContext {
    /// See [`Handle::propose`](super::handle::Handle::propose).
    pub async fn propose(&self, mut op: command::Op) -> Result<reply::Reply> {
        self.remove_unknown(&mut op).await;
        self.check_features(&op).await?;
        let command = Command { now_ms: 0, op: Some(op) };
        let (length, limit) = (command.encoded_len(), MAX_PEER_MESSAGE - ENVELOPE_BYTES);
        if length > limit {
            return Err(Error::exhausted(format!(
                "a change of the catalog of {length} bytes is larger than the limit of {limit}: use fewer or larger parts"
            )));
        }
        let deadline = Instant::now() + self.config.request_timeout;
        catalog_reply(self.with_leader(deadline, |leader| self.propose_to(leader, command.clone(), deadline)).await?)
    }

    /// See [`Handle::propose_if_leader`](super::handle::Handle::propose_if_leader).
    pub async fn propose_if_leader(&self, op: command::Op) -> Result<reply::Reply> {
        self.check_known_features(&op)?;
        let command = Command { now_ms: 0, op: Some(op) };
        match tokio::time::timeout(self.config.request_timeout, self.propose_local(command)).await {
            Ok(Ok(reply)) => catalog_reply(reply),
            Ok(Err(error)) => Err(Error { message: error.message.trim_start_matches(NOT_PROPOSED).into(), ..error }),
            Err(_) => Err(unknown_outcome("a majority did not answer in time")),
        }
    }

    /// See [`Handle::propose_local`](super::handle::Handle::propose_local).
    pub async fn propose_local(&self, mut command: Command) -> Result<Reply> {
        command.now_ms = self.now_ms();
        // Boxed for the same reason as the request of a read index.
        CallSpan::begin("raft.commit").run(self.commit(command).boxed()).await
    }

    async fn commit(&self, command: Command) -> Result<Reply> {
        let written = self.until_halt(self.raft.client_write(LogCommand(command.into()))).await;
        match written.ok_or_else(|| unknown_outcome("this coordinator stops"))? {
            Ok(written) => Ok(written.data.0),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
                let id = self.config.id;
                Err(Error::unavailable(format!("{NOT_PROPOSED}coordinator {id} does not lead: {to}")))
            }
            Err(RaftError::APIError(error)) => Err(unknown_outcome(&error.to_string())),
            Err(RaftError::Fatal(error)) => Err(unknown_outcome(&format!("the leader stopped ({error})"))),
        }
    }

    /// See [`Handle::read`](super::handle::Handle::read).
    pub async fn read(&self) -> Result<CatalogView> {
        let deadline = Instant::now() + self.config.request_timeout;
        let index = self.read_index(deadline).await?;
        self.wait_applied(index, deadline).await
    }

    /// See [`Handle::read_with`](super::handle::Handle::read_with).
    pub async fn read_with<T>(&self, work: impl Fn(CatalogView) -> T) -> Result<T> {
        let deadline = Instant::now() + self.config.request_timeout;
        let early = async {
            // The order matters: the view contains at least what was applied before.
            let applied = *self.applied.index.borrow();
            (applied, work(self.view()))
        };
        // Not in a task of its own, which would cost more than the work.
        let (index, (applied, result)) = tokio::join!(biased; self.read_index(deadline), early);
        let index = index?;
        if applied >= index { Ok(result) } else { Ok(work(self.wait_applied(index, deadline).await?)) }
    }

    /// The log index that a linearizable read must have applied. Calls during a request to the leader share the next request.
    async fn read_index(&self, deadline: Instant) -> Result<u64> {
        let request = || self.with_leader(deadline, |leader| self.read_index_from(leader, deadline));
        match timeout_at(deadline, self.read_index_batcher.get(request)).await {
            Ok(answer) => answer,
            // Another call's request was running.
            Err(_) => Err(self.no_leader(self.current_leader().map(no_answer_from))),
        }
    }

    async fn wait_applied(&self, index: u64, deadline: Instant) -> Result<CatalogView> {
        let mut applied = self.applied.index.subscribe();
        match timeout_at(deadline, applied.wait_for(|applied| *applied >= index)).await {
            Ok(Ok(_)) => Ok(self.view()),
            Ok(Err(_)) => Err(Error::unavailable("this coordinator is stopping")),
            Err(_) => Err(Error::unavailable("this coordinator lags behind the catalog: try another")),
        }
    }

    /// Makes attempts with the current leader until one is done or the deadline passes.
    async fn with_leader<T, F: Future<Output = LeaderAttempt<T>>>(
        &self,
        deadline: Instant,
        attempt: impl Fn(u64) -> F,
    ) -> Result<T> {
        let mut leader = self.leader.subscribe();
        let mut last = None;
        loop {
            let found = timeout_at(deadline, leader.wait_for(Option::is_some)).await;
            let Ok(Ok(id)) = found.map(|found| found.map(|id| *id)) else { return Err(self.no_leader(last)) };
            leader.mark_unchanged();
            match attempt(id.unwrap_or_default()).await {
                LeaderAttempt::Done(outcome) => return outcome,
                LeaderAttempt::Retry(error) => last = Some(error),
            }
            if Instant::now() >= deadline {
                return Err(self.no_leader(last));
            }
            let _ = tokio::time::timeout(RETRY_PAUSE, leader.changed()).await;
        }
    }

    fn no_leader(&self, last: Option<Error>) -> Error {
        let why = self.fault().or(last.map(|e| e.message.trim_start_matches(NOT_PROPOSED).to_string()));
        let why = why.unwrap_or_else(|| "a majority of the coordinators must be up and reach each other".into());
        Error::unavailable(format!("no leader of the catalog within {:?}: {why}", self.config.request_timeout))
    }

    fn coordinator_client(&self, id: u64) -> Option<CoordinatorClient<PeerChannel>> {
        let client = CoordinatorClient::new(self.channel_to(id)?);
        Some(client.max_decoding_message_size(MAX_PEER_MESSAGE).max_encoding_message_size(MAX_PEER_MESSAGE))
    }

    async fn propose_to(&self, leader: u64, mut command: Command, deadline: Instant) -> LeaderAttempt<Reply> {
        if leader == self.config.id {
            return match timeout_at(deadline, self.propose_local(command)).await {
                Ok(outcome) => retry_if_not_proposed(outcome),
                Err(_) => LeaderAttempt::Done(Err(unknown_outcome("the leader did not commit in time"))),
            };
        }
        let Some(mut client) = self.coordinator_client(leader) else { return unknown_address(leader) };
        // The leader sets its own, and measures the difference.
        command.now_ms = (self.env.clock)();
        let request = Request::new(ProposeRequest { command: Some(command), coordinator: self.config.id });
        let mut current = self.leader.subscribe();
        let answer = tokio::select! {
            biased;
            answer = timeout_at(deadline, client.propose(request)) => answer,
            // A leader that hangs never answers; its successor may or may not have the command.
            _ = current.wait_for(|current| current.is_some_and(|id| id != leader)) => {
                return LeaderAttempt::Done(Err(unknown_outcome("the leader changed before it answered")));
            }
        };
        match answer {
            Ok(Ok(reply)) => match reply.into_inner().reply {
                Some(reply) => LeaderAttempt::Done(Ok(reply)),
                None => LeaderAttempt::Done(Err(Error::internal("the leader sent an empty reply"))),
            },
            Ok(Err(status)) if std::error::Error::source(&status).is_some_and(was_not_handled) => {
                LeaderAttempt::Retry(Error::from(status))
            }
            Ok(Err(status)) => retry_if_not_proposed(Err(error_of(status))),
            Err(_) => LeaderAttempt::Done(Err(unknown_outcome("the leader did not answer in time"))),
        }
    }

    /// Asks a leader only while it counts as leader: a crashed leader may never answer, and every read waits for this
    /// request.
    async fn read_index_from(&self, leader: u64, deadline: Instant) -> LeaderAttempt<u64> {
        let mut current = self.leader.subscribe();
        // Boxed: the futures around it nest as deep as the compiler allows.
        let request = Box::pin(self.request_read_index(leader));
        tokio::select! {
            biased;
            answer = timeout_at(deadline, request) => {
                answer.unwrap_or_else(|_| LeaderAttempt::Retry(no_answer_from(leader)))
            }
            _ = current.wait_for(|current| *current != Some(leader)) => {
                LeaderAttempt::Retry(Error::unavailable(format!("coordinator {leader} is no longer the leader")))
            }
        }
    }

    async fn request_read_index(&self, leader: u64) -> LeaderAttempt<u64> {
        if leader == self.config.id {
            let answer = self.read_index_local(None).await;
            return answer.map_or_else(LeaderAttempt::Retry, |index| LeaderAttempt::Done(Ok(index)));
        }
        let Some(mut client) = self.coordinator_client(leader) else { return unknown_address(leader) };
        match client.read_index(ReadIndexRequest { follower: self.follower() }).await {
            Ok(reply) => LeaderAttempt::Done(Ok(reply.into_inner().index)),
            Err(status) => LeaderAttempt::Retry(status.into()),
        }
    }

    /// This coordinator, and the leader that it follows.
    fn follower(&self) -> Option<Follower> {
        let vote = self.log.vote()?;
        let (term, leader) = (vote.leader_id.term, vote.leader_id.node_id);
        let now_ms = (self.env.clock)();
        Some(Follower { id: self.config.id, store: self.store.id(), term, leader, now_ms })
    }

    /// See [`Handle::read_index_local`](super::handle::Handle::read_index_local).
    pub async fn read_index_local(&self, follower: Option<Follower>) -> Result<u64> {
        // The follower's statement is equivalent to its answer to a heartbeat: if leader and follower are a majority,
        // no later leader was elected before the statement, because neither of them had voted for one. So this read
        // does not rely on the lease: within the lease Raft answers immediately, after it Raft asks a majority, as it
        // does without a follower.
        if let Some(follower) = follower
            && let Ok(read) = self.read_log_id(LinearizerOption::new(None, true)).await
            && (read.leader_id.term, read.leader_id.node_id) == (follower.term, follower.leader)
            && self.is_majority_with(follower).await
        {
            return Ok(read.index);
        }
        self.read_log_id(ReadPolicy::ReadIndex.into()).await.map(|read| read.index)
    }

    /// Whether this coordinator is still the leader that `follower` follows, and the two are a majority of the group. A
    /// vote only grows: if it is for that leader now, it was for that leader all the time, and the members are those of
    /// its term.
    async fn is_majority_with(&self, follower: Follower) -> bool {
        let both = [self.config.id, follower.id];
        let checked = self.raft.with_raft_state(move |state| {
            let members = state.membership_state.effective().membership();
            let agreeing = |voters: &BTreeSet<u64>| voters.iter().filter(|voter| both.contains(voter)).count();
            let is_member = members.get_node(&follower.id).is_some_and(|peer| peer.store_id == follower.store);
            let vote = &state.vote_ref().leader_id;
            let leads = (vote.term, vote.node_id) == (follower.term, follower.leader);
            leads && is_member && members.get_joint_config().iter().all(|voters| agreeing(voters) > voters.len() / 2)
        });
        matches!(self.until_halt(checked).await, Some(Ok(true)))
    }

    /// The log id that a read must have applied, with leadership confirmed as `option` says.
    async fn read_log_id(&self, option: LinearizerOption) -> Result<LogId> {
        let linearizer = self.until_halt(self.raft.get_read_linearizer(option)).await;
        match linearizer.ok_or_else(|| Error::unavailable(format!("coordinator {} stops", self.config.id)))? {
            Ok(linearizer) => Ok(*linearizer.read_log_id().log_id()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => {
                Err(Error::unavailable(format!("coordinator {} does not lead: {to}", self.config.id)))
            }
            Err(error) => Err(Error::unavailable(format!("the leader reaches no majority: {error}"))),
        }
    }
}

/// The leader cannot be reached, or reaches no majority.
fn no_answer_from(leader: u64) -> Error {
    Error::unavailable(format!(
        "coordinator {leader} is the leader, as far as this coordinator knows, and did not answer"
    ))
}

fn unknown_address<T>(leader: u64) -> LeaderAttempt<T> {
    LeaderAttempt::Retry(Error::unavailable(format!(
        "the address of the leader, coordinator {leader}, is not known here"
    )))
}

fn retry_if_not_proposed<T>(outcome: Result<T>) -> LeaderAttempt<T> {
    match outcome {
        Err(error) if error.message.starts_with(NOT_PROPOSED) => LeaderAttempt::Retry(error),
        outcome => LeaderAttempt::Done(outcome),
    }
}

/// UNAVAILABLE with a message that says that the change may be committed.
fn unknown_outcome(why: &str) -> Error {
    Error::unavailable(format!(
        "{why}: the change may or may not have taken effect; repeat it with the same write id, or check"
    ))
}

/// The error that the leader sent; a broken connection leaves the outcome unknown.
fn error_of(status: Status) -> Error {
    match std::error::Error::source(&status).is_some() {
        true => unknown_outcome(&format!("the connection to the leader was lost ({})", status.message())),
        false => status.into(),
    }
}

/// The catalog's reply, or its refusal as an error.
fn catalog_reply(reply: Reply) -> Result<reply::Reply> {
    match reply.reply {
        Some(reply::Reply::Refusal(refusal)) => {
            let code = Code::from_i32(refusal.code);
            Err(Error { code, message: refusal.message, retry_after_ms: None, request_id: None })
        }
        Some(reply) => Ok(reply),
        None => Err(Error::internal("the catalog returned an empty reply")),
    }
}
