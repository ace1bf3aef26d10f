//! Changing and reading the catalog: here if this coordinator leads, through the leader otherwise.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use openraft::error::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::{LinearizerOption, ReadPolicy};
use prost::Message;
use tokio::time::{Instant, timeout_at};
use tonic::{ConnectError, Request, Status};
use volley_common::wire::MAX_PEER_MESSAGE;
use volley_common::wire::catalog::{Command, Reply, command, reply};
use volley_common::wire::cluster::coordinator_client::CoordinatorClient;
use volley_common::wire::cluster::{Follower, ProposeRequest, ReadIndexRequest};
use volley_common::{Code, Error, Result};

use super::handle::{CatalogView, Handle, Inner};
use super::network::Link;
use super::types::{LogId, Op};

/// Errors that begin so were found before anything was proposed: trying again is safe.
const NOT_PROPOSED: &str = "not proposed: ";
/// Room that a command leaves in a message for what is around it.
const MESSAGE_ROOM: usize = 64 << 10;
/// Who is not there is asked again after this.
const PAUSE: Duration = Duration::from_millis(50);

/// How one attempt ended.
enum Attempt<T> {
    /// With an answer for the caller.
    Ended(Result<T>),
    /// Surely without effect: try again.
    Again(Error),
}

impl Handle {
    /// Changes the catalog, through the leader.
    ///
    /// # Errors
    /// What the catalog refused, with its code. UNAVAILABLE: there was no leader within the deadline, or it was lost
    /// while it committed; only the message of the latter says that the change may have taken effect.
    pub async fn propose(&self, op: command::Op) -> Result<reply::Reply> {
        let command = Command { now_ms: 0, op: Some(op) };
        if command.encoded_len() > MAX_PEER_MESSAGE - MESSAGE_ROOM {
            return Err(Error::exhausted(format!(
                "a change of the catalog of {} bytes is larger than the {} that fit: use fewer or larger parts",
                command.encoded_len(),
                MAX_PEER_MESSAGE - MESSAGE_ROOM
            )));
        }
        let deadline = Instant::now() + self.0.config.deadline;
        answer(self.through_leader(deadline, |leader| self.propose_to(leader, command.clone(), deadline)).await?)
    }

    /// As [`Handle::propose`], but only if this coordinator leads: it is never handed on. For what a leader decides by itself: from
    /// one that leads no more it would come late, when its successor knows better.
    ///
    /// # Errors
    /// UNAVAILABLE: it does not lead, or reaches no majority. What the catalog refuses.
    pub async fn decide(&self, op: command::Op) -> Result<reply::Reply> {
        let command = Command { now_ms: (self.0.around.clock)(), op: Some(op) };
        match tokio::time::timeout(self.0.config.deadline, self.propose_here(command)).await {
            Ok(Ok(reply)) => answer(reply),
            Ok(Err(error)) => Err(Error { message: error.message.trim_start_matches(NOT_PROPOSED).into(), ..error }),
            Err(_) => Err(unknown("a majority did not answer in time")),
        }
    }

    /// Changes the catalog if this coordinator leads; else UNAVAILABLE. What the catalog refuses is a reply.
    pub async fn propose_here(&self, command: Command) -> Result<Reply> {
        self.0.propose_here(command).await
    }

    /// The log index that a linearizable read must have applied, if this coordinator leads; else UNAVAILABLE. The read began
    /// before `follower`, if it is one that asks, said whom it follows.
    pub async fn read_index_here(&self, follower: Option<Follower>) -> Result<u64> {
        self.0.read_index_here(follower).await
    }

    /// The catalog with everything that was acknowledged anywhere before this call.
    ///
    /// # Errors
    /// UNAVAILABLE: no leader answered within the deadline. Never an older catalog.
    pub async fn read(&self) -> Result<CatalogView> {
        let deadline = Instant::now() + self.0.config.deadline;
        let index = self.read_index(deadline).await?;
        self.caught_up(index, deadline).await
    }

    /// What `work` makes of the catalog that [`Handle::read`] would give. It already works on what is here while the leader
    /// is asked whether that is too old, and again only if it was. Others may wait for the same asking, and so for the work: it
    /// must not be long.
    ///
    /// # Errors
    /// As [`Handle::read`].
    pub async fn read_with<T>(&self, work: impl Fn(CatalogView) -> T) -> Result<T> {
        let deadline = Instant::now() + self.0.config.deadline;
        let early = async {
            // In this order: the view has at least what was applied before.
            let applied = *self.0.shared.applied.borrow();
            (applied, work(self.view()))
        };
        // Not in a task of its own, which would cost more than all that is done here.
        let (index, (applied, made)) = tokio::join!(biased; self.read_index(deadline), early);
        let index = index?;
        if applied >= index { Ok(made) } else { Ok(work(self.caught_up(index, deadline).await?)) }
    }

    /// The log index that a linearizable read must have applied. Calls that come while the leader is being asked are
    /// answered by one further asking.
    async fn read_index(&self, deadline: Instant) -> Result<u64> {
        let ask = || self.through_leader(deadline, |leader| self.read_index_of(leader, deadline));
        match timeout_at(deadline, self.0.rounds.join(ask)).await {
            Ok(answer) => answer,
            // It was others who were asking.
            Err(_) => Err(self.no_leader(self.leader().map(silent))),
        }
    }

    async fn caught_up(&self, index: u64, deadline: Instant) -> Result<CatalogView> {
        let mut applied = self.watch_applied();
        match timeout_at(deadline, applied.wait_for(|applied| *applied >= index)).await {
            Ok(Ok(_)) => Ok(self.view()),
            Ok(Err(_)) => Err(Error::unavailable("this coordinator is stopping")),
            Err(_) => Err(Error::unavailable("this coordinator lags behind the catalog: try another")),
        }
    }

    /// Tries with whoever leads until an attempt ends or the time is up.
    async fn through_leader<T, F: Future<Output = Attempt<T>>>(
        &self,
        deadline: Instant,
        attempt: impl Fn(u64) -> F,
    ) -> Result<T> {
        let mut leader = self.watch_leader();
        let mut last = None;
        loop {
            let found = timeout_at(deadline, leader.wait_for(Option::is_some)).await;
            let Ok(Ok(id)) = found.map(|found| found.map(|id| *id)) else { return Err(self.no_leader(last)) };
            leader.mark_unchanged();
            match attempt(id.unwrap_or_default()).await {
                Attempt::Ended(outcome) => return outcome,
                Attempt::Again(error) => last = Some(error),
            }
            if Instant::now() >= deadline {
                return Err(self.no_leader(last));
            }
            let _ = tokio::time::timeout(PAUSE, leader.changed()).await;
        }
    }

    fn no_leader(&self, last: Option<Error>) -> Error {
        let why = self.trouble().or(last.map(|e| e.message.trim_start_matches(NOT_PROPOSED).to_string()));
        let why = why.unwrap_or_else(|| "a majority of the coordinators must be up and reach each other".into());
        Error::unavailable(format!("no leader of the catalog within {:?}: {why}", self.0.config.deadline))
    }

    fn client(&self, id: u64) -> Option<CoordinatorClient<Link>> {
        let client = CoordinatorClient::new(self.0.link_to(id)?);
        Some(client.max_decoding_message_size(MAX_PEER_MESSAGE).max_encoding_message_size(MAX_PEER_MESSAGE))
    }

    async fn propose_to(&self, leader: u64, mut command: Command, deadline: Instant) -> Attempt<Reply> {
        command.now_ms = (self.0.around.clock)();
        if leader == self.id() {
            return match timeout_at(deadline, self.propose_here(command)).await {
                Ok(outcome) => retry_if_not_proposed(outcome),
                Err(_) => Attempt::Ended(Err(unknown("the leader did not commit in time"))),
            };
        }
        let Some(mut client) = self.client(leader) else { return stranger(leader) };
        let request = Request::new(ProposeRequest { command: Some(command) });
        match timeout_at(deadline, client.propose(request)).await {
            Ok(Ok(reply)) => match reply.into_inner().reply {
                Some(reply) => Attempt::Ended(Ok(reply)),
                None => Attempt::Ended(Err(Error::internal("the leader gave an empty reply"))),
            },
            Ok(Err(status)) if never_sent(&status) => Attempt::Again(Error::from(status)),
            Ok(Err(status)) => retry_if_not_proposed(Err(lost(status))),
            Err(_) => Attempt::Ended(Err(unknown("the leader did not answer in time"))),
        }
    }

    /// Asks this leader for as long as it counts as one: one that is gone may never answer, and all reads wait for this.
    async fn read_index_of(&self, leader: u64, deadline: Instant) -> Attempt<u64> {
        let mut leads = self.watch_leader();
        // In a box: the futures around it nest as deep as the compiler allows.
        let asking = Box::pin(self.ask_index(leader));
        tokio::select! {
            biased;
            answer = timeout_at(deadline, asking) => answer.unwrap_or_else(|_| Attempt::Again(silent(leader))),
            _ = leads.wait_for(|now| *now != Some(leader)) => {
                Attempt::Again(Error::unavailable(format!("coordinator {leader} leads no more")))
            }
        }
    }

    async fn ask_index(&self, leader: u64) -> Attempt<u64> {
        if leader == self.id() {
            let asked = self.read_index_here(None).await;
            return asked.map_or_else(Attempt::Again, |index| Attempt::Ended(Ok(index)));
        }
        let Some(mut client) = self.client(leader) else { return stranger(leader) };
        let asked = client.read_index(ReadIndexRequest { follower: self.0.follower() }).await;
        asked.map_or_else(|e| Attempt::Again(e.into()), |reply| Attempt::Ended(Ok(reply.into_inner().index)))
    }
}

/// Why a read did not come about: either this leader is not reached, or it reaches no majority.
fn silent(leader: u64) -> Error {
    Error::unavailable(format!("coordinator {leader} leads, as far as is known here, and did not answer"))
}

fn stranger<T>(leader: u64) -> Attempt<T> {
    Attempt::Again(Error::unavailable(format!("coordinator {leader} leads but is not known here")))
}

fn retry_if_not_proposed<T>(outcome: Result<T>) -> Attempt<T> {
    match outcome {
        Err(error) if error.message.starts_with(NOT_PROPOSED) => Attempt::Again(error),
        outcome => Attempt::Ended(outcome),
    }
}

/// UNAVAILABLE, but perhaps done.
fn unknown(why: &str) -> Error {
    Error::unavailable(format!(
        "{why}: the change may or may not have taken effect; repeat it with the same write id, or look"
    ))
}

/// An error that another coordinator sent is passed on; a broken connection leaves the outcome open.
fn lost(status: Status) -> Error {
    match std::error::Error::source(&status).is_some() {
        true => unknown(&format!("the leader was lost ({})", status.message())),
        false => status.into(),
    }
}

/// What the catalog said.
fn answer(reply: Reply) -> Result<reply::Reply> {
    match reply.reply {
        Some(reply::Reply::Refusal(refusal)) => {
            Err(Error { code: Code::from_i32(refusal.code), message: refusal.message })
        }
        Some(reply) => Ok(reply),
        None => Err(Error::internal("the catalog gave an empty reply")),
    }
}

/// Whether a call failed because no connection was made.
fn never_sent(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

impl Inner {
    pub(super) async fn propose_here(&self, command: Command) -> Result<Reply> {
        let refuse = |why: String| Error::unavailable(format!("{NOT_PROPOSED}{why}"));
        match self.raft.client_write(Op(command.into())).await {
            Ok(done) => Ok(done.data.0),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
                Err(refuse(format!("coordinator {} does not lead: {to}", self.config.id)))
            }
            Err(RaftError::APIError(error)) => Err(unknown(&error.to_string())),
            Err(RaftError::Fatal(error)) => Err(unknown(&format!("the leader stopped ({error})"))),
        }
    }

    /// This coordinator, and whom it follows now.
    fn follower(&self) -> Option<Follower> {
        let vote = self.log.vote()?;
        let (term, leader) = (vote.leader_id.term, vote.leader_id.node_id);
        Some(Follower { id: self.config.id, store: self.store.id(), term, leader })
    }

    pub(super) async fn read_index_here(&self, follower: Option<Follower>) -> Result<u64> {
        // What a follower says is as good as its answer to a heartbeat: where the two are a majority, no later leader was
        // elected before it said so, for neither of them had voted for one. The lease is not what a read relies on here; within
        // it Raft answers at once, after it Raft asks a majority, as it does without the follower.
        if let Some(follower) = follower
            && let Ok(read) = self.read_log_id(LinearizerOption::new(None, true)).await
            && (read.leader_id.term, read.leader_id.node_id) == (follower.term, follower.leader)
            && self.leads_majority_with(follower).await
        {
            return Ok(read.index);
        }
        self.read_log_id(ReadPolicy::ReadIndex.into()).await.map(|read| read.index)
    }

    /// Whether this coordinator is still the leader that another one follows, and the two are a majority of the group. A vote
    /// only grows: if it is that leader's now it was that all the time, and the members are those of its term.
    async fn leads_majority_with(&self, other: Follower) -> bool {
        let both = [self.config.id, other.id];
        let checked = self.raft.with_raft_state(move |state| {
            let members = state.membership_state.effective().membership();
            let agree = |voters: &BTreeSet<u64>| voters.iter().filter(|voter| both.contains(voter)).count();
            let known = members.get_node(&other.id).is_some_and(|peer| peer.store == other.store);
            let vote = &state.vote_ref().leader_id;
            let leads = (vote.term, vote.node_id) == (other.term, other.leader);
            leads && known && members.get_joint_config().iter().all(|voters| agree(voters) > voters.len() / 2)
        });
        checked.await.unwrap_or(false)
    }

    /// What a read must see if this coordinator still leads, asked as the option says.
    async fn read_log_id(&self, option: LinearizerOption) -> Result<LogId> {
        match self.raft.get_read_linearizer(option).await {
            Ok(linearizer) => Ok(*linearizer.read_log_id().log_id()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => {
                Err(Error::unavailable(format!("coordinator {} does not lead: {to}", self.config.id)))
            }
            Err(error) => Err(Error::unavailable(format!("the leader reaches no majority: {error}"))),
        }
    }
}
